"""Dropping by gaps is dropping each element with one probability, independently, and nothing else."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from gaiad.learner import dropout  # noqa: E402

COUNT = 1_000_000


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.99])
def test_each_element_is_dropped_with_the_probability_that_was_asked_for(p: float) -> None:
    torch.manual_seed(1)
    places = dropout.dropped(COUNT, p)
    assert bool((places[1:] > places[:-1]).all())
    assert 0 <= int(places[0]) < int(places[-1]) < COUNT
    # Five standard deviations: one run in two million would fall outside, and the seed is fixed.
    assert abs(len(places) - COUNT * p) < 5 * math.sqrt(COUNT * p * (1 - p))


def test_what_is_dropped_depends_neither_on_the_place_nor_on_the_neighbours() -> None:
    torch.manual_seed(2)
    p, hits, runs = 0.1, torch.zeros(50), 20_000
    both = torch.zeros(49)
    for _ in range(runs):
        row = torch.zeros(50).index_fill(0, dropout.dropped(50, p), 1.0)
        hits += row
        both += row[1:] * row[:-1]
    assert float((hits / runs - p).abs().max()) < 5 * math.sqrt(p * (1 - p) / runs)
    assert float((both / runs - p * p).abs().max()) < 5 * math.sqrt(p * p * (1 - p * p) / runs)


def test_too_few_gaps_are_followed_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    real = dropout._drawn
    torch.manual_seed(3)
    monkeypatch.setattr(dropout, "_drawn", lambda count: real(max(1, count // 100)))
    places = dropout.dropped(COUNT, 0.05)
    assert abs(len(places) - COUNT * 0.05) < 5 * math.sqrt(COUNT * 0.05 * 0.95)
    assert bool((places[1:] > places[:-1]).all())
