"""The data card: what a dataset holds, in figures, histograms and samples.

Pure; `card_page` draws it. Samples are the curriculum's own: what users said stays out of the card, so
that it may be shown to others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import cast

from gaiad.curriculum import Json
from gaiad.learner.dataset import EXCHANGE_ORIGIN, Dataset, Example, request_of
from gaiad.learner.diversity import by_source
from gaiad.learner.evenness import doubts

_SAMPLES, _LONGEST = 3, 2000
_BINS = 12


def described(dataset: Dataset, tokens: Sequence[int] = ()) -> dict[str, Json]:
    """What the card says beyond counts: what is uneven, diversity by source, lengths in characters, and samples.

    `tokens` are the examples' lengths in tokens, none where nobody measured them.
    """
    everything = (*dataset.train, *dataset.validation, *dataset.heldout)
    return {
        "token_lengths": "measured with the base model's template" if tokens else "lengths not measured in tokens",
        "uneven": list(doubts(dataset.train, cast("dict[str, Json]", dataset.card.get("shares", {})))),
        "diversity": {name: figures.to_json() for name, figures in by_source(dataset.train).items()},
        "lengths": {
            "request": histogram(len(request_of(one)) for one in everything),
            "whole_request": histogram(sum(len(m.content) for m in one.messages[:-1]) for one in everything),
            "answer": histogram(len(one.answer) for one in everything),
            **({"tokens": histogram(tokens)} if tokens else {}),
        },
        "samples": _samples(dataset.train),
    }


def histogram(values: Iterable[int]) -> dict[str, Json]:
    """Counts in equal bins from 0 to the largest value; `edges` has one more entry than `counts`."""
    found = sorted(values)
    if not found:
        return {"edges": [0, 0], "counts": [0], "median": 0, "largest": 0}
    width = max(1, -(-(found[-1] + 1) // _BINS))
    counts = [0] * _BINS
    for value in found:
        counts[value // width] += 1
    edges: list[Json] = [width * number for number in range(_BINS + 1)]
    return {"edges": edges, "counts": [*counts], "median": found[len(found) // 2], "largest": found[-1]}


def _samples(examples: Sequence[Example]) -> list[Json]:
    """A few examples of each source, always the same ones for the same dataset, of different strata where there are."""
    own = [one for one in examples if not one.origin.startswith(EXCHANGE_ORIGIN)]
    order = sorted(own, key=lambda one: hashlib.sha256(one.key().encode()).digest())
    shown: dict[str, dict[str, Example]] = {}
    for one in order:
        chosen = shown.setdefault(one.source, {})
        if len(chosen) < _SAMPLES:
            chosen.setdefault(one.stratum, one)
    return [_sample(one) for name in sorted(shown) for one in shown[name].values()]


def _sample(one: Example) -> dict[str, Json]:
    return {
        "source": one.source,
        "group": one.group,
        "origin": one.origin,
        "request": _shortened(one.messages[-2].content),
        "answer": _shortened(one.answer),
        "rejected": _shortened(one.rejected) if one.rejected else None,
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [{len(text) - _LONGEST} characters more]"
