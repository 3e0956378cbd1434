"""Negative controls: training examples spoilt on purpose, from which no adapter may pass.

They show that the gate and the live guard can fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gaiad.learner.example import Example, Message, sha_of


def shuffled_labels(examples: Sequence[Example], seed: int) -> list[Example]:
    """The answers permuted among the examples, so that tool labels are chance.

    Every answer stays well-formed; an adapter trained on these must not pass the gate.
    """
    order = sorted(range(len(examples)), key=lambda at: sha_of([seed, "labels", at]))
    donors = [examples[at] for at in order]
    return [
        replace(example, messages=(*example.messages[:-1], donor.messages[-1]), expected=donor.expected)
        for example, donor in zip(examples, donors, strict=True)
    ]


def scrambled_answers(examples: Sequence[Example], seed: int) -> list[Example]:
    """The characters of each answer in a hashed order, so that none is JSON any more.

    An adapter trained on these must be stopped by the live guard when it is forced live.
    """
    result = []
    for at, example in enumerate(examples):
        order = sorted(range(len(example.answer)), key=lambda place: sha_of([seed, at, place]))
        text = "".join(example.answer[place] for place in order)
        wrong = Message("assistant", text if not text.startswith("{") else f"}}{text}")
        result.append(replace(example, messages=(*example.messages[:-1], wrong), expected=None))
    return result
