"""What the network sees of a row, column by column, and that laying examples out changes no gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaiad.curriculum import LoraSpec
from gaiad.learner.packing import TokenExample, plan_rows
from tests.fakes.tiny_base import adapted, make_tiny_base

torch = pytest.importorskip("torch")

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import losses  # noqa: E402

LORA = LoraSpec(8, 16, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
BEGINNINGS = st.sampled_from([(), *(tuple(range(start, start + 70)) for start in (0, 100, 200))])
EXAMPLES = st.builds(
    lambda beginning, request, answer, weight: TokenExample(beginning + request, answer, weight),
    BEGINNINGS,
    st.lists(st.integers(300, 303), min_size=1, max_size=5).map(tuple),
    st.lists(st.integers(300, 303), min_size=1, max_size=4).map(tuple),
    st.sampled_from([0.5, 1.0, 2.0]),
)


@settings(deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=8), st.sampled_from([90, 160, 1000]))
def test_the_mask_lets_each_target_see_its_own_example_up_to_there_and_nothing_else(
    examples: list[TokenExample], room: int
) -> None:
    expected = Counter(
        (tuple(enumerate(example.tokens[: len(example.prompt) + offset])), token, example.weight)
        for example in examples
        for offset, token in enumerate(example.answer)
    )
    batch = losses.batch_of(plan_rows(examples, max_row_tokens=room), "cpu", shared=True)
    seen = Counter[Any]()
    for row, column, token, weight in zip(batch.rows, batch.columns, batch.targets, batch.weights, strict=True):
        (visible,) = batch.attention_mask[row, 0, column].nonzero(as_tuple=True)
        pairs = zip(batch.position_ids[row, visible].tolist(), batch.input_ids[row, visible].tolist(), strict=True)
        seen[tuple(pairs), int(token), float(weight)] += 1
    assert seen == expected


@settings(deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=8), st.sampled_from([90, 160, 1000]))
def test_the_mask_is_that_of_the_rule_in_every_cell(examples: list[TokenExample], room: int) -> None:
    rows = plan_rows(examples, max_row_tokens=room)
    batch = losses.batch_of(rows, "cpu", shared=True)
    width = max(len(row.tokens) for row in rows)
    for place, row in enumerate(rows):
        length = len(row.tokens)
        brute = [
            [
                key <= query and row.groups[key] == row.groups[query] and row.branches[key] in (0, row.branches[query])
                for key in range(length)
            ]
            for query in range(length)
        ]
        assert batch.attention_mask.shape == (len(rows), 1, width, width)
        assert batch.attention_mask[place, 0, :length, :length].tolist() == brute
        assert not batch.attention_mask[place, 0, :length, length:].any()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return adapted(make_tiny_base(tmp_path_factory.mktemp("tiny"), seed=3), LORA)


def several_groups() -> list[TokenExample]:
    """Three beginnings in one row, answers of one token among them, and no two weights alike."""
    return [
        TokenExample((*range(start, start + 80), 285, 286 + index), tuple(range(281, 282 + 3 * (index % 2))), weight)
        for index, (start, weight) in enumerate(
            [(3, 1.0), (3, 2.5), (3, 0.5), (100, 0.25), (100, 3.0), (200, 1.5), (150, 0.75)]
        )
    ]


def gradients(model: Any, laid_out: Sequence[losses.Batch]) -> dict[str, Any]:
    model.zero_grad(set_to_none=True)
    divisor = losses.weight_of(laid_out)
    for batch in laid_out:
        torch.autograd.backward(losses.loss_sum(model, batch) / divisor)
    return {name: weight.grad.clone() for name, weight in bases.trained_weights(model).items()}


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Of all weights, relative to the norm of the weight's gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - each).norm() / each.norm()) for name, each in expected.items())


@pytest.mark.parametrize("room", [100, 200, 1000])
def test_packed_and_shared_rows_give_the_gradients_of_separate_sequences_to_1e_5(model: Any, room: int) -> None:
    examples = several_groups()
    alone = [losses.batches([example], "padded", "cpu", 200)[0] for example in examples]
    rows = plan_rows(examples, max_row_tokens=room)
    one_by_one = [losses.batch_of([row], "cpu", shared=True) for row in rows]
    expected = gradients(model, alone)
    assert largest_difference(gradients(model, one_by_one), expected) <= 1e-5
    assert largest_difference(gradients(model, [losses.batch_of(rows, "cpu", shared=True)]), expected) <= 1e-5
    assert largest_difference(gradients(model, losses.batches(examples, "padded", "cpu", 200)), expected) <= 1e-5


def test_the_row_of_the_gradients_holds_several_groups_and_shares_them() -> None:
    (row,) = plan_rows(several_groups(), max_row_tokens=1000)
    assert len(set(row.groups)) > 2
    assert max(row.branches) > 1
    assert len(row.tokens) < sum(map(len, several_groups()))
