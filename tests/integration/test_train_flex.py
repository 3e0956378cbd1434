"""Attention by blocks gives what a mask gives; and where it does not run, or gives something else, the mask is used.

Uncompiled, on a CPU, where torch has no way back for it and has to be told that we know.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaiad.errors import Refuse, TrainingError
from gaiad.learner import memory
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.lying import rows_of
from gaiad.learner.memory import Machine
from gaiad.learner.packing import SIDE, Row, TokenExample, in_blocks, plan_rows
from tests.fakes.tiny_base import adapted, make_tiny_base
from tests.integration.test_train_masks import EXAMPLES, LORA, gradients, largest_difference, several_groups
from tests.integration.test_train_memory import kept_bytes, step
from tests.integration.test_train_within import carried_out, made

torch = pytest.importorskip("torch")

from torch.nn.attention import flex_attention as torchs  # noqa: E402

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import device, flex, flex_check, losses, train, usage  # noqa: E402
from gaiad.learner.fused import unfuse  # noqa: E402

SHAPE = BaseShape(2, 128, 4, 2, 32, 256, 512)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Compiled as on a GPU, but for the kernel itself."""
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    way: Callable[..., Any] = torch.compile(flex.by_blocks, fullgraph=True, backend="aot_eager")
    return way


@settings(deadline=None, max_examples=40)
@given(st.lists(EXAMPLES, min_size=1, max_size=8), st.sampled_from([90, 160, 1000]))
def test_the_blocks_of_a_row_hold_the_pairs_of_its_mask(examples: list[TokenExample], room: int) -> None:
    for row in plan_rows(examples, max_row_tokens=room):
        filled = in_blocks(row)
        columns = len(filled.tokens)
        assert columns >= 2 * SIDE
        assert columns % SIDE == 0
        mask = losses.batch_of([filled], "cpu", shared=True).attention_mask[0, 0]
        assert torch.equal(
            mask[: len(row.tokens)].nonzero(), losses.batch_of([row], "cpu", shared=True).attention_mask[0, 0].nonzero()
        ), "a column that fills up is seen"
        runs = range(columns // SIDE)
        pairs = {
            (asking, seen): int(mask.unflatten(0, (-1, SIDE))[asking].unflatten(1, (-1, SIDE))[:, seen].sum())
            for asking, seen in itertools.product(runs, runs)
        }
        assert filled.blocks == {block: count for block, count in pairs.items() if count}
        held = flex.Blocks(row, "cpu")
        assert (held.pairs, held.spare) == (int(mask[: len(row.tokens)].sum()), columns - len(row.tokens))


def test_blocks_are_listed_as_torch_lists_them() -> None:
    for row in flex_check.rows():
        groups, branches, *lists = flex.Blocks(row, "cpu").tensors

        def sees(_b: Any, _h: Any, asking: Any, seen: Any, groups: Any = groups, branches: Any = branches) -> Any:
            alike = (branches[seen] == 0) | (branches[seen] == branches[asking])
            return (seen <= asking) & (groups[seen] == groups[asking]) & alike

        columns = len(groups)
        theirs = torchs.create_block_mask(lambda b, h, q, k: sees(b, h, q, k), 1, 1, columns, columns, device="cpu")
        names = "kv_num_blocks kv_indices full_kv_num_blocks full_kv_indices q_num_blocks q_indices"
        for mine, name in zip(lists, [*names.split(), "full_q_num_blocks", "full_q_indices"], strict=True):
            assert torch.equal(mine, getattr(theirs, name)), name


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(EXAMPLES, min_size=1, max_size=4),
    st.sampled_from([(1, 1), (3, 1), (4, 2)]),
    st.sampled_from([None, 0.3]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_attention_by_blocks_is_attention_under_the_mask(
    uncompiled: None, examples: list[TokenExample], heads: tuple[int, int], scaling: float | None, dtype: Any
) -> None:
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for row in plan_rows(examples, max_row_tokens=1000):
        columns = len(in_blocks(row).tokens)
        mask = losses.batch_of([in_blocks(row)], "cpu", shared=True).attention_mask
        generator = torch.Generator().manual_seed(columns)
        inputs = [
            torch.randn(1, count, columns, 8, generator=generator, dtype=dtype, requires_grad=True)
            for count in (heads[0], heads[1], heads[1])
        ]
        expected = torch.nn.functional.scaled_dot_product_attention(
            *inputs, attn_mask=mask, scale=scaling, enable_gqa=True
        ).transpose(1, 2)
        query, key, value = inputs
        held = flex.Blocks(row, "cpu")
        found, _ = flex.attend(torch.nn.Module(), query, key, value, None, scaling=scaling, parts=held)
        torch.testing.assert_close(found, expected, **near)
        toward = torch.randn(found.shape, generator=generator, dtype=dtype)
        for mine, theirs in zip(
            torch.autograd.grad(found, inputs, toward), torch.autograd.grad(expected, inputs, toward), strict=True
        ):
            torch.testing.assert_close(mine, theirs, **near)


def test_rows_in_blocks_give_loss_and_gradients_of_separate_sequences_to_1e_5(uncompiled: None, tmp_path: Path) -> None:
    model = adapted(make_tiny_base(tmp_path, seed=3), LORA)
    examples = several_groups()
    alone = [losses.batches([example], "padded", "cpu", 200)[0] for example in examples]
    blocks = losses.batches(examples, "prefix_shared", "cpu", 200, by_blocks=True)
    assert all(isinstance(batch.parts, flex.Blocks) for batch in blocks)
    expected, loss = gradients(model, alone), losses.validate(model, alone)
    with pytest.raises(AssertionError):
        losses.loss_sum(model, blocks[0])
    model.set_attn_implementation(flex.NAME)
    masks = list[Any]()
    for layer in model.get_base_model().model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _module, _given, named: masks.append(named["attention_mask"]), with_kwargs=True
        )
    assert largest_difference(gradients(model, blocks), expected) <= 1e-5
    assert losses.validate(model, blocks) == pytest.approx(loss, rel=1e-5)
    assert set(masks) == {None}, "a mask over the whole row is laid out"


def test_columns_that_fill_a_row_up_are_no_work() -> None:
    (parts,) = losses.batches(step(), "prefix_shared", "cpu", 4096)
    (blocks,) = losses.batches(step(), "prefix_shared", "cpu", 4096, by_blocks=True)
    assert blocks.work == parts.work
    assert blocks.input_ids.numel() == 640


# --- The check --------------------------------------------------------------------------------------------------------


def test_the_kernel_is_compiled_for_one_length_and_for_any_and_not_again(
    compiling: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_check, "LENGTHS", (300, 200, 500))
    assert flex_check.difference("cpu", 2, 1, 16, compiling, torch.float32) < 1e-4
    assert flex_check._graphs() <= 6 < flex.MOST_KERNELS


@pytest.mark.parametrize(("block", "to"), [((1, 0), False), ((1, 1), False), ((4, 3), False), ((0, 1), True)])
def test_a_block_that_is_left_out_or_too_much_is_seen(
    block: tuple[int, int], to: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_check, "LENGTHS", (600,))
    (row,) = flex_check.rows()
    mask = losses.batch_of([in_blocks(row)], "cpu", shared=True).attention_mask

    def way(query: Any, key: Any, value: Any, *_: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)

    monkeypatch.setattr(flex_check, "_graphs", lambda: 0)
    assert flex_check.difference("cpu", 2, 1, 16, way, torch.bfloat16) < flex_check.TOLERANCE / 2
    mask[0, 0].unflatten(0, (-1, SIDE))[block[0]].unflatten(1, (-1, SIDE))[:, block[1]] = to
    mask[0, 0].fill_diagonal_(True)
    assert flex_check.difference("cpu", 2, 1, 16, way, torch.bfloat16) > 6 * flex_check.TOLERANCE


def test_a_kernel_that_is_compiled_for_each_length_is_refused(
    uncompiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = itertools.count()
    monkeypatch.setattr(flex_check, "_graphs", lambda: next(compiled))
    with pytest.raises(RuntimeError, match="anew for each length"):
        flex_check.difference("cpu", 2, 1, 16, flex.by_blocks, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_cuda_the_check_says_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex_check, "die_with_daemon", lambda: None)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        assert flex_check.main(["cuda", "4", "2", "32"]) == 1
    finally:
        torch.use_deterministic_algorithms(before)
    refused = flex_check.judged(1, capsys.readouterr().out)
    assert refused is not None
    assert "does not run here" in refused.reason
    assert "CUDA" in refused.reason


@pytest.mark.parametrize(
    ("code", "output", "reason"),
    [
        (0, "difference 0.004\n", None),
        (0, "what a library says\ndifference 0.004\n", None),
        (0, "difference 0.2\n", "differs from a mask by 0.2"),
        (0, "difference nan\n", "differs from a mask by nan"),
        (0, "difference inf\n", "differs"),
        (-11, "", "its check ended with -11"),
        (1, "InductorError: no C compiler\n", "does not run here: InductorError: no C compiler"),
    ],
)
def test_what_the_check_says_is_judged(code: int, output: str, reason: str | None) -> None:
    refused = flex_check.judged(code, output)
    assert (refused is None) == (reason is None)
    assert refused is None or (reason or "") in refused.reason


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("echo difference 0.01", None),
        ("kill -SEGV $$", "its check ended with -11"),
        ("sleep 30", "was not ready after 0.5 s"),
        (None, "could not be tried"),
    ],
)
def test_a_check_that_dies_hangs_or_cannot_begin_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, reason: str | None
) -> None:
    python = tmp_path / "python"
    if program is not None:
        python.write_text(f"#!/bin/sh\nexec 2>/dev/null\n{program.replace('sleep', 'exec sleep')}\n")
        python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    refused = flex_check.usable("cuda", SHAPE, limit_s=0.5)
    assert (refused is None) == (reason is None)
    assert refused is None or (reason or "") in refused.reason


def test_a_check_is_broken_off_where_the_machine_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 30\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    stop, began = threading.Event(), time.monotonic()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(TrainingError, match="preempted"):
        flex_check.usable("cuda", SHAPE, between=lambda: train.give_way(stop))
    assert time.monotonic() - began < 10


# --- What is made of it -----------------------------------------------------------------------------------------------


def found(monkeypatch: pytest.MonkeyPatch, refused: Refuse | None) -> None:
    monkeypatch.setattr(usage, "usable", lambda *_, **__: refused)


def test_where_the_check_fails_a_mask_is_used_and_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(make_tiny_base(tmp_path / "base"))
    found(monkeypatch, Refuse("no Triton"))
    blocks, told = usage.attending(base, "cuda", "prefix_shared")
    assert not blocks
    assert told == "attention goes by a mask over whole rows, which takes more time and memory: no Triton"
    found(monkeypatch, None)
    blocks, told = usage.attending(base, "cuda", "prefix_shared")
    assert blocks
    assert "FlexAttention" in told
    assert usage.attending(base, "cuda", "padded") == (False, "")
    assert usage.attending(base, "cpu", "prefix_shared") == (False, "")


def test_a_base_that_nobody_can_count_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, None)
    file = make_tiny_base(tmp_path / "base") / "config.json"
    file.write_text('{"model_type": "other"}')
    assert not usage.attending(str(file.parent), "cuda", "prefix_shared")[0]


def test_a_checkpoint_keeps_its_way_of_attending_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(make_tiny_base(tmp_path / "base"))
    masked = usage.Configuration("bf16", "prefix_shared", 512)
    blocks = usage.Configuration("bf16", "prefix_shared", 512, by_blocks=True)
    found(monkeypatch, None)
    assert usage.attending(base, "cuda", "prefix_shared", masked) == (False, "")
    assert usage.attending(base, "cuda", "prefix_shared", blocks)[0]
    found(monkeypatch, Refuse("no Triton"))
    with pytest.raises(TrainingError, match=r"cannot be gone on with.*no Triton") as failure:
        usage.attending(base, "cuda", "prefix_shared", blocks)
    assert not failure.value.of_data


def test_a_run_by_blocks_freezes_that_and_learns_what_a_run_by_parts_learns(
    uncompiled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_parts = carried_out(made(tmp_path / "parts", "bf16"))
    frozen = list[Any]()
    real = train.Run.frozen

    def freezing(run: train.Run) -> Any:
        frozen.append(real(run))
        return frozen[-1]

    monkeypatch.setattr(train.Run, "frozen", freezing)
    monkeypatch.setattr(train, "attending", lambda *_: (True, "attention goes by blocks"))
    by_blocks = carried_out(made(tmp_path / "blocks", "bf16"))
    assert {one["by_blocks"] for one in frozen} == {True}
    assert "attention goes by blocks" in by_blocks.notes
    assert by_blocks.train_loss == pytest.approx(by_parts.train_loss, rel=0.02)
    assert by_blocks.computed_tokens > by_parts.computed_tokens


def test_a_run_whose_check_fails_ends_as_any_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "attention goes by a mask over whole rows, which takes more time and memory: no Triton"
    monkeypatch.setattr(train, "attending", lambda *_: (False, why))
    result = train.train(made(tmp_path, "bf16"), threading.Event(), lambda _: None)
    assert why in result.notes
    assert result.validation_loss is not None


# --- What it takes ----------------------------------------------------------------------------------------------------


def test_rows_are_counted_as_they_are_laid_out_in_blocks() -> None:
    for room in (400, 700, 2048):
        laid_out = losses.batches(step(), "prefix_shared", "cpu", 360, room, by_blocks=True)
        counted = rows_of([step()], room, shared=True, by_blocks=True)
        assert counted.passes == len(laid_out)
        assert counted.total_tokens == sum(batch.input_ids.numel() for batch in laid_out)
        assert counted.longest == max(batch.input_ids.numel() for batch in laid_out)
    (row,) = plan_rows(step(), max_row_tokens=2048)
    dense = rows_of([step()], 2048, shared=True)
    assert counted.blocks == len(in_blocks(row).blocks) <= 5 * 6 // 2
    assert counted.cells == counted.blocks * SIDE * SIDE < dense.cells
    assert rows_of([step()], 400, shared=False, by_blocks=True).blocks == 0


def test_a_plan_by_blocks_takes_less_than_one_by_a_mask(tmp_path: Path) -> None:
    base = str(make_tiny_base(tmp_path))
    plans = [
        device.planned(base, LORA, "bf16", [step()], Machine("cuda", 1 << 34), shared=True, by_blocks=way)
        for way in (False, True)
    ]
    mask, blocks = [plan.estimate for plan in plans if isinstance(plan, memory.Plan)]
    assert 0 < blocks.masks < mask.masks / 100
    assert 0 < blocks.activations / 640 < mask.activations / 600, "by token"


def test_activations_are_counted_as_torch_keeps_them(uncompiled: None, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path, layers=4, seed=3)
    shape = device.shape_of(str(folder))
    assert isinstance(shape, BaseShape)
    model = bases.add_lora(bases.load_base(str(folder), "cpu", quantisation="bf16", by_blocks=True), LORA)
    assert model.config._attn_implementation == flex.NAME
    (batch,) = losses.batches(step(), "prefix_shared", "cpu", 1024, 1024, by_blocks=True)
    rows = rows_of([step()], 1024, shared=True, by_blocks=True)
    expected = memory.estimate(shape, LORA, memory.Way("bf16", False, rows), "cuda")
    # As on a GPU, where layers compute as PEFT and transformers made them.
    unfuse(model)
    slopes = 2 * shape.hidden * rows.targets
    kept = kept_bytes(model.train(), batch)
    assert kept == pytest.approx(expected.activations + expected.masks + slopes, rel=0.06)


def test_a_row_of_one_block_is_filled_up_to_two() -> None:
    row = Row((1, 2), (0, 1), (0, 0), (1, 1), ())
    assert len(in_blocks(row).tokens) == 2 * SIDE
    assert in_blocks(in_blocks(row)) == in_blocks(row)
