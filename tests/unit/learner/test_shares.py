"""Claims about shares: targets are kept to the example, the rest is shared, and what cannot be reached is an error."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.curriculum import Curriculum, SourceSpec
from gaiad.errors import DatasetError
from gaiad.learner.shares import dealt, shares
from tests.unit.learner.test_dataset import curriculum

MUCH = 10_000


def with_sources(*sources: SourceSpec, train: int = 100, replay_share: float = 0.0) -> Curriculum:
    return replace(curriculum(train=train, validation=10, heldout=20), sources=sources, replay_share=replay_share)


def source(name: str, target: int | None = None, *, kind: str = "made", optional: bool = False) -> SourceSpec:
    return SourceSpec(kind, name=name, target=target, optional=optional)


def train_of(spec: Curriculum, **available: int) -> dict[str, int]:
    names = [one.name for one in spec.sources]
    found = shares(spec, {name: available.get(name, MUCH) for name in names}, names)
    return {name: share.train for name, share in found.items()}


@pytest.mark.parametrize(
    ("sources", "available", "told"),
    [
        ((source("a", 70), source("b", 30)), {}, {"a": 70, "b": 30}),
        ((source("a", 70), source("b"), source("c")), {}, {"a": 70, "b": 15, "c": 15}),
        ((source("a"), source("b"), source("c")), {}, {"a": 34, "b": 33, "c": 33}),
        # An open source gives what it has, and the others make up for it.
        ((source("a"), source("b")), {"a": 13}, {"a": 10, "b": 90}),
        # So does an optional one with a target, down to nothing; it is asked for a little less than it has.
        ((source("a", 70), source("b", 30, optional=True)), {"b": 13}, {"a": 91, "b": 9}),
        ((source("a", 50), source("c", 20), source("b", 30, optional=True)), {"b": 0}, {"a": 71, "c": 29, "b": 0}),
        ((source("a", 70), source("b", 30, optional=True)), {}, {"a": 70, "b": 30}),
        ((source("a", 50), source("c"), source("b", 30, optional=True)), {"b": 0}, {"a": 50, "c": 50, "b": 0}),
    ],
)
def test_targets_are_kept_and_the_rest_is_shared(sources: Any, available: Any, told: Any) -> None:
    assert train_of(with_sources(*sources), **available) == told


def test_the_replay_share_goes_to_the_sources_of_replay() -> None:
    sources = (source("a"), source("r", kind="replay"), source("s", 3, kind="self_replay"))
    assert train_of(with_sources(*sources, replay_share=0.08)) == {"a": 92, "r": 5, "s": 3}


def test_validation_and_heldout_follow_train_and_heldout_wants_what_can_be_marked() -> None:
    spec = with_sources(source("a", 60), source("b", 40))
    both = shares(spec, {"a": MUCH, "b": MUCH}, ["a", "b"])
    assert [(one.validation, one.heldout) for one in both.values()] == [(6, 12), (4, 8)]
    one = shares(spec, {"a": MUCH, "b": MUCH}, ["a"])
    assert [(one.validation, one.heldout) for one in one.values()] == [(6, 20), (4, 0)]


def test_sources_that_cannot_fill_train_are_named_with_what_they_have() -> None:
    with pytest.raises(DatasetError, match=r"48 of 100 for train \(a 33, b 30 in all splits together\)"):
        train_of(with_sources(source("a"), source("b")), a=33, b=30)


@given(st.integers(0, 500), st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=1, max_size=6))
def test_what_is_dealt_fits_its_room_and_is_as_much_as_there_is(total: int, each: list[tuple[int, int]]) -> None:
    weights = {str(at): weight for at, (weight, _) in enumerate(each)}
    room = {str(at): space for at, (_, space) in enumerate(each)}
    given = dealt(total, weights, room)
    assert all(0 <= given[name] <= room[name] for name in weights)
    assert sum(given.values()) == min(total, sum(room.values()))


@given(st.integers(0, 500), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_what_is_dealt_is_within_one_of_its_exact_portion(total: int, weights: list[int]) -> None:
    given = dealt(total, {str(at): weight for at, weight in enumerate(weights)})
    for at, weight in enumerate(weights):
        assert abs(given[str(at)] - total * weight / sum(weights)) < 1
