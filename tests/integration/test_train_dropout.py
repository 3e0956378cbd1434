"""Dropping by gaps is dropping each element with one probability, independently, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gaiad.curriculum import LoraSpec
from tests.fakes.tiny_base import adapted, make_tiny_base

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
    real = dropout._gaps
    torch.manual_seed(3)
    monkeypatch.setattr(dropout, "_gaps", lambda count, p: real(max(1, count // 100), p))
    places = dropout.dropped(COUNT, 0.05)
    assert abs(len(places) - COUNT * 0.05) < 5 * math.sqrt(COUNT * 0.05 * 0.95)
    assert bool((places[1:] > places[:-1]).all())


def test_the_way_back_passes_what_the_way_there_passed() -> None:
    torch.manual_seed(4)
    drop = dropout.GapDropout(0.3).train()
    inputs = torch.randn(2, 30, 40, requires_grad=True)
    found = drop(inputs)
    kept = found != 0
    torch.testing.assert_close(found[kept], inputs[kept] / 0.7)
    (gradient,) = torch.autograd.grad(found, inputs, torch.ones_like(found))
    torch.testing.assert_close(gradient, kept / 0.7)
    assert 0.2 < 1 - float(kept.float().mean()) < 0.4


def test_nothing_is_dropped_but_in_training_and_the_seed_decides() -> None:
    drop, inputs = dropout.GapDropout(0.5), torch.ones(100)
    assert torch.equal(drop.eval()(inputs), inputs)
    torch.manual_seed(5)
    first = drop.train()(inputs)
    second = drop(inputs)
    torch.manual_seed(5)
    assert torch.equal(drop(inputs), first)
    assert not torch.equal(first, second)


def test_an_adapter_drops_by_gaps_where_its_spec_has_dropout(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny"), seed=3)

    def drops(p: float) -> list[Any]:
        model = adapted(folder, LoraSpec(8, 16, p, ("q_proj", "v_proj")))
        return [module for module in model.modules() if isinstance(module, dropout.GapDropout)]

    with_dropout = drops(0.05)
    assert {module.p for module in with_dropout} == {0.05}
    assert len(with_dropout) >= 2
    assert not drops(0.0)
