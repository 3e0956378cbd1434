"""Does every example fit the sequence that is trained on? Nothing is ever cut, so what does not fit is an error.

Measured in tokens where somebody can count them (`template` does), else bounded by characters. A user's exchange that
is too long is no error: the trainer leaves it out and names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gaiad.errors import DatasetError
from gaiad.learner.example import EXCHANGE_ORIGIN, Example

CHARACTERS_A_TOKEN = 2.9
"""How many characters are taken for a token where nobody counts: prose has more, dense JSON as many.

A long text in a script that the tokenizer hardly knows may have fewer; then it is the trainer that refuses it by name.
"""
_NAMED = 5

Count: TypeAlias = Callable[[Example], int]
"""How many tokens an example has once rendered, its answer and the end of it included.

Raises:
    DatasetError: where it cannot be rendered.
"""


def characters(example: Example) -> int:
    """All characters of an example, the answer among them."""
    return sum(len(message.content) for message in example.messages)


def may_be_too_long(example: Example, max_tokens: int) -> bool:
    """Whether an example might not fit, as far as its characters tell."""
    return characters(example) > CHARACTERS_A_TOKEN * max_tokens


def measured(examples: Iterable[Example], max_tokens: int, count: Count | None) -> list[int]:
    """Check every example, and give their lengths in tokens; without `count` none, and characters are checked.

    Raises:
        DatasetError: naming the examples that are too long.
    """
    lengths: list[int] = []
    over: list[tuple[Example, int]] = []
    for example in examples:
        size = characters(example) if count is None else count(example)
        lengths.append(size)
        is_over = may_be_too_long(example, max_tokens) if count is None else size > max_tokens
        if is_over and not example.origin.startswith(EXCHANGE_ORIGIN):
            over.append((example, size))
    if over:
        raise _too_long(over, max_tokens, "characters" if count is None else "tokens")
    return [] if count is None else lengths


def _too_long(over: Sequence[tuple[Example, int]], max_tokens: int, unit: str) -> DatasetError:
    longest = sorted(over, key=lambda pair: -pair[1])[:_NAMED]
    named = "; ".join(f"{one.group} ({one.origin}): {size} {unit}" for one, size in longest)
    room = f" (about {int(CHARACTERS_A_TOKEN * max_tokens)} characters)" if unit == "characters" else ""
    return DatasetError(
        f"{len(over)} examples do not fit training.max_sequence_tokens = {max_tokens}{room}: {named}",
        hint="shorten them, or raise training.max_sequence_tokens; nothing is cut",
    )
