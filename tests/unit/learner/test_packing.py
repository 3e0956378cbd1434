from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.packing import Row, TokenExample, plan_rows, plan_steps, single_rows

CATALOGUES = st.sampled_from([tuple(range(start, start + 80)) for start in (0, 100, 200)])
EXAMPLES = st.builds(
    lambda catalogue, request, answer, weight: TokenExample(catalogue + request, answer, weight),
    CATALOGUES,
    st.lists(st.integers(300, 304), min_size=0, max_size=6).map(tuple),
    st.lists(st.integers(300, 304), min_size=1, max_size=4).map(tuple),
    st.sampled_from([1.0, 2.0]),
)


def seen_by(row: Row, column: int) -> list[tuple[int, int]]:
    """Tokens and positions that the column sees, itself included, as the mask rule says."""
    return [
        (row.tokens[other], row.positions[other])
        for other in range(column + 1)
        if row.groups[other] == row.groups[column] and row.branches[other] in (0, row.branches[column])
    ]


@given(st.lists(EXAMPLES, min_size=1, max_size=9), st.sampled_from([100, 200, 1000]))
def test_every_target_sees_exactly_its_own_example_up_to_there(examples: list[TokenExample], room: int) -> None:
    expected = Counter(
        (tuple(enumerate(example.tokens[: len(example.prompt) + offset])), token, example.weight)
        for example in examples
        for offset, token in enumerate(example.answer)
    )
    rows = plan_rows(examples, max_row_tokens=room)
    planned = Counter(
        (tuple((place, token) for token, place in seen_by(row, target.column)), target.token, target.weight)
        for row in rows
        for target in row.targets
    )
    assert planned == expected
    assert all(len(row.tokens) <= max(room, *map(len, examples)) for row in rows)
    assert sum(len(row.tokens) for row in rows) <= sum(map(len, examples))


def test_a_shared_catalogue_is_computed_once() -> None:
    examples = [TokenExample((*range(700), 1000 + index), (1,) * 120) for index in range(16)]
    rows = plan_rows(examples, max_row_tokens=4096)
    assert [len(row.tokens) for row in rows] == [700 + 16 * 121]


def test_a_short_common_beginning_is_not_shared() -> None:
    examples = [TokenExample((*range(63), 1000 + index), (1,)) for index in range(2)]
    (row,) = plan_rows(examples, max_row_tokens=4096)
    assert len(row.tokens) == 2 * 65
    assert set(row.branches) == {1}


def test_a_short_common_beginning_does_not_break_up_a_long_one() -> None:
    system = tuple(range(70))
    first = [TokenExample((*system, *range(1000, 1300), index), (1,)) for index in range(3)]
    second = [TokenExample((*system, *range(2000, 2300), index), (1,)) for index in range(3)]
    (row,) = plan_rows(first + second, max_row_tokens=4096)
    assert len(row.tokens) == 2 * (370 + 3 * 2)


def test_the_same_request_with_two_answers_keeps_two_predictions() -> None:
    examples = [TokenExample(tuple(range(100)), (answer,)) for answer in (7, 8)]
    (row,) = plan_rows(examples, max_row_tokens=4096)
    assert [row.tokens[target.column] for target in row.targets] == [99, 99]
    assert len({target.column for target in row.targets}) == 2


def test_single_rows_share_nothing() -> None:
    examples = [TokenExample(tuple(range(100)), (answer,)) for answer in (7, 8)]
    assert [row.tokens for row in single_rows(examples)] == [example.tokens for example in examples]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 30))
def test_an_epoch_leaves_nobody_out(kinds: list[str], batch: int, steps: int) -> None:
    plan = plan_steps(kinds, batch=batch, steps=steps, seed=1)
    assert [len(step) for step in plan] == [batch] * steps
    counts = Counter(index for step in plan for index in step)
    assert max(counts.values()) - min(counts[index] for index in range(len(kinds))) <= 1


@pytest.mark.parametrize(("examples", "kinds"), [(100, 100), (100, 3), (102, 102), (300, 75), (301, 301), (600, 600)])
def test_copies_of_an_example_hardly_ever_meet_in_a_step(examples: int, kinds: int) -> None:
    plan = plan_steps([place % kinds for place in range(examples)], batch=4, steps=400, seed=3)
    # Only where an epoch ends within a step may another one's first examples be the same.
    assert sum(len(set(step)) < 4 for step in plan) <= 400 * 4 // examples


def test_steps_repeat_under_a_seed_and_differ_under_another() -> None:
    kinds = ["a", "b"] * 50
    assert plan_steps(kinds, batch=4, steps=40, seed=3) == plan_steps(kinds, batch=4, steps=40, seed=3)
    assert plan_steps(kinds, batch=4, steps=40, seed=3) != plan_steps(kinds, batch=4, steps=40, seed=4)


def test_examples_of_one_catalogue_mostly_meet_in_a_step() -> None:
    kinds = [index % 3 for index in range(96)]
    plan = plan_steps(kinds, batch=4, steps=24, seed=5)
    assert sum(len({kinds[index] for index in step}) == 1 for step in plan) >= 16
