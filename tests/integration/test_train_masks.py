"""What the network sees of a row, column by column, and that laying examples out changes no gradient."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.learner.packing import Part, TokenExample, plan_rows
from tests.fakes.tiny_base import adapted, make_tiny_base

torch = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from gaiad.learner import attention, losses, train  # noqa: E402
from gaiad.learner import base as bases  # noqa: E402

LORA = LoraSpec(8, 16, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
TRAINING = TrainingSpec(400, 4, 4, 5e-4, 1, 0.0, 1.0, "bf16", 2, 3, 7)
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


@settings(deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=8), st.sampled_from([90, 160, 1000]))
def test_the_parts_of_a_row_see_what_its_mask_lets_them_see(examples: list[TokenExample], room: int) -> None:
    for row in plan_rows(examples, max_row_tokens=room):
        (mask,) = losses.batch_of([row], "cpu", shared=True).attention_mask[:, 0]
        by_parts = torch.zeros_like(mask)
        starts = [0, *itertools.accumulate(part.length for part in row.parts)]
        for start, part in zip(starts, row.parts, strict=False):
            own = slice(start, start + part.length)
            by_parts[own, own] = torch.ones(part.length, part.length, dtype=torch.bool).tril()
            if part.prefix is not None:
                by_parts[own, starts[part.prefix] : starts[part.prefix] + row.parts[part.prefix].length] = True
        assert starts[-1] == len(row.tokens)
        assert torch.equal(by_parts, mask)
        assert losses.row_of(row, "cpu").work.pairs == int(mask.sum())


@settings(deadline=None, max_examples=30)
@given(
    st.lists(EXAMPLES, min_size=1, max_size=6),
    st.sampled_from([160, 1000]),
    st.sampled_from([(1, 1), (3, 1), (4, 2)]),
    st.sampled_from([None, 0.3]),
)
def test_attention_by_parts_is_attention_under_the_mask(
    examples: list[TokenExample], room: int, heads: tuple[int, int], scaling: float | None
) -> None:
    for row in plan_rows(examples, max_row_tokens=room):
        batch = losses.batch_of([row], "cpu", shared=True)
        generator = torch.Generator().manual_seed(len(row.tokens))
        inputs = [
            torch.randn(1, count, len(row.tokens), 8, generator=generator, dtype=torch.float64, requires_grad=True)
            for count in (heads[0], heads[1], heads[1])
        ]
        expected = torch.nn.functional.scaled_dot_product_attention(
            *inputs, attn_mask=batch.attention_mask, scale=scaling, enable_gqa=True
        ).transpose(1, 2)
        module = torch.nn.Module()
        query, key, value = inputs
        parts = attention.Parts(row.parts)
        found, _ = attention.attend(module, query, key, value, None, scaling=scaling, parts=parts)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        toward = torch.randn(found.shape, generator=generator, dtype=torch.float64)
        for mine, theirs in zip(
            torch.autograd.grad(found, inputs, toward), torch.autograd.grad(expected, inputs, toward), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_base_on_the_cpu_attends_by_parts_or_not_at_all(model: Any) -> None:
    assert model.config._attn_implementation == attention.NAME
    (batch, *_) = losses.batches(several_groups(), "prefix_shared", "cpu", 200)
    assert float(losses.loss_sum(model, batch).detach()) > 0
    model.set_attn_implementation("sdpa")
    try:
        with pytest.raises(AssertionError):
            losses.loss_sum(model, batch)
    finally:
        model.set_attn_implementation(attention.NAME)


def test_the_masks_of_a_row_are_forgotten_after_its_pass(model: Any) -> None:
    laid_out = losses.batches(several_groups(), "prefix_shared", "cpu", 200)
    losses.validate(model, laid_out)
    train.gradients_of(model, laid_out, TRAINING)
    for batch in laid_out:
        assert isinstance(batch.parts, attention.Parts)
        assert not batch.parts._masks


@pytest.mark.parametrize("family", ["bloom", "falcon"])
def test_a_base_that_attends_in_its_own_way_is_left_to_it(tmp_path: Path, family: str) -> None:
    tiny = transformers.CONFIG_MAPPING[family](
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.AutoModelForCausalLM.from_config(tiny).save_pretrained(tmp_path)
    assert bases.layout_for(str(tmp_path)) == "padded"
    if family == "bloom":
        with pytest.raises(ValueError, match="does not support"):
            bases.load_base(str(tmp_path), "cpu", quantisation="bf16")
    else:
        assert bases.load_base(str(tmp_path), "cpu", quantisation="bf16").config._attn_implementation == "sdpa"


def test_a_base_that_drops_in_attention_does_not_share_prefixes(tmp_path: Path) -> None:
    tiny = transformers.LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, attention_dropout=0.1)
    tiny.save_pretrained(tmp_path)
    assert bases.layout_for(str(tmp_path)) == "padded"
    ones = torch.ones(1, 2, 6, 4)
    with pytest.raises(AssertionError, match="drops in attention"):
        attention.attend(torch.nn.Module(), ones, ones, ones, None, dropout=0.5, parts=attention.Parts([Part(6)]))


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
    by_parts = [losses.row_of(row, "cpu") for row in rows]
    expected = gradients(model, alone)
    assert largest_difference(gradients(model, by_parts), expected) <= 1e-5
    assert largest_difference(gradients(model, one_by_one), expected) <= 1e-5
    assert largest_difference(gradients(model, [losses.batch_of(rows, "cpu", shared=True)]), expected) <= 1e-5
    assert largest_difference(gradients(model, losses.batches(examples, "padded", "cpu", 200)), expected) <= 1e-5


def test_the_row_of_the_gradients_holds_several_groups_and_shares_them() -> None:
    (row,) = plan_rows(several_groups(), max_row_tokens=1000)
    assert len(set(row.groups)) > 2
    assert max(row.branches) > 1
    assert len(row.tokens) < sum(map(len, several_groups()))
