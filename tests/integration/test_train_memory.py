"""What the plan of memory counts is what torch really keeps."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import ALL_LINEAR, LoraSpec
from gaiad.errors import Refuse, TrainingError
from gaiad.learner import memory
from gaiad.learner.base_shape import BaseShape, base_shape
from gaiad.learner.lying import rows_of
from gaiad.learner.packing import TokenExample
from tests.fakes.tiny_base import make_tiny_base

torch = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import device, losses  # noqa: E402

LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"), layers=LAYERS, seed=3)


@pytest.fixture(scope="module")
def shape(folder: Path) -> BaseShape:
    found = base_shape(json.loads((folder / "config.json").read_text()))
    assert isinstance(found, BaseShape)
    return found


def step() -> list[TokenExample]:
    chooser = random.Random(3)

    def some(count: int) -> tuple[int, ...]:
        return tuple(chooser.randrange(3, 300) for _ in range(count))

    prefix = some(300)
    return [TokenExample(prefix + some(40), some(20)) for _ in range(5)]


def kept_bytes(model: Any, batch: losses.Batch) -> int:
    """What autograd keeps of a forward pass, each piece of memory once, the weights apart."""
    weights = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses.loss_sum(model, batch)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("modules", [ALL_LINEAR[:4], ALL_LINEAR])
def test_activations_are_counted_as_torch_keeps_them(
    folder: Path, shape: BaseShape, modules: tuple[str, ...], dropout: float, checkpointing: bool
) -> None:
    lora = LoraSpec(8, 16, dropout, modules)
    base = bases.load_base(str(folder), "cpu", quantisation="bf16")
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = bases.add_lora(base, lora).train()
    (batch,) = losses.batches(step(), "prefix_shared", "cpu", 1024, 1024)
    rows = rows_of([step()], 1024, shared=True, by_parts=True)
    expected = memory.estimate(shape, lora, memory.Way("bf16", checkpointing, rows), "cpu")
    # Under checkpointing nothing of attention outlives its layer.
    masks = 0 if checkpointing else expected.masks
    slopes = 2 * shape.hidden * rows.targets
    # The first layer has no gradient to pass on, and keeps a little less.
    assert kept_bytes(model, batch) == pytest.approx(expected.activations + masks + slopes, rel=0.06)


def test_a_base_that_norms_its_heads_keeps_these_too(tmp_path: Path) -> None:
    tiny = transformers.Qwen3Config(
        vocab_size=400,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    )
    transformers.AutoModelForCausalLM.from_config(tiny).save_pretrained(tmp_path)
    shape = device.shape_of(str(tmp_path))
    assert isinstance(shape, BaseShape)
    lora = LoraSpec(8, 16, 0.05, ALL_LINEAR[:4])
    model = bases.add_lora(bases.load_base(str(tmp_path), "cpu", quantisation="bf16"), lora).train()
    (batch,) = losses.batches(step(), "prefix_shared", "cpu", 1024, 1024)
    rows = rows_of([step()], 1024, shared=True, by_parts=True)
    expected = memory.estimate(shape, lora, memory.Way("bf16", False, rows), "cpu")
    slopes = 2 * shape.hidden * rows.targets
    assert kept_bytes(model, batch) == pytest.approx(expected.activations + expected.masks + slopes, rel=0.06)


def test_rows_are_counted_as_the_trainer_lays_them_out() -> None:
    for shared, layout in ((True, "prefix_shared"), (False, "padded")):
        for room in (400, 700, 2048):
            laid_out = losses.batches(step(), layout, "cpu", 360, room)  # type: ignore[arg-type]
            found = rows_of([step()], room, shared=shared, by_parts=True)
            assert found.passes == len(laid_out)
            assert found.total_tokens == sum(batch.input_ids.numel() for batch in laid_out)
            assert found.longest == max(batch.input_ids.numel() for batch in laid_out)
            assert found.targets == max(batch.targets.numel() for batch in laid_out)


def test_part_by_part_a_row_costs_what_its_parts_see() -> None:
    # A part of more than 256 columns is attended from in equal runs, none of which computes what lies behind it.
    alone = rows_of([step()], 400, shared=True, by_parts=True)
    assert (alone.passes, alone.cells, alone.by_parts) == (5, 180 * 180 + 180 * 360, True)
    assert alone.total_cells == 5 * alone.cells
    together = rows_of([step()], 700, shared=True, by_parts=True)
    assert (together.passes, together.cells) == (1, 150 * 150 + 150 * 300 + 5 * 60 * 360)
    masked = rows_of([step()], 700, shared=True)
    assert (masked.passes, masked.cells, masked.by_parts) == (1, 600**2, False)
    assert not rows_of([step()], 400, shared=False, by_parts=True).by_parts


def test_only_columns_that_see_each_other_count_as_work() -> None:
    lengths = [len(example) for example in step()]
    (padded,) = losses.batches(step(), "padded", "cpu", 4096, 4096)
    assert padded.work.pairs == sum(length * (length + 1) // 2 for length in lengths)
    assert padded.work.tokens == 5 * max(lengths)
    (shared,) = losses.batches(step(), "prefix_shared", "cpu", 4096, 4096)
    # The prefix sees itself once; each rest sees the prefix and itself.
    rests = [length - 300 for length in lengths]
    assert shared.work.pairs == 300 * 301 // 2 + sum(300 * rest + rest * (rest + 1) // 2 for rest in rests)
    assert shared.work.targets == padded.work.targets == 100


def test_weights_and_adapter_are_counted_exactly(folder: Path, shape: BaseShape) -> None:
    lora = LoraSpec(8, 16, 0.0, ALL_LINEAR)
    model = bases.add_lora(bases.load_base(str(folder), "cpu", quantisation="bf16"), lora)
    trained = bases.trained_weights(model).values()
    assert sum(weight.numel() for weight in trained) == shape.lora_weights(lora)
    assert {weight.dtype for weight in trained} == {torch.float32}
    frozen = {weight.data_ptr(): weight.numel() for weight in model.parameters() if not weight.requires_grad}
    assert sum(frozen.values()) == shape.weights


def test_this_machine_has_a_plan_for_a_small_base_and_says_what_it_cannot_hold(folder: Path, tmp_path: Path) -> None:
    lora = LoraSpec(8, 16, 0.0, ALL_LINEAR)
    here = device.machine("cpu")
    assert 1 << 20 < here.free_bytes < 1 << 46
    plan = device.planned(str(folder), lora, "auto", [step()], here, shared=True)
    assert isinstance(plan, memory.Plan)
    assert plan.estimate.needed_bytes < here.free_bytes
    device.hold_to(plan, "cpu")
    with pytest.raises(TrainingError, match="does not fit") as failure:
        device.planned(str(folder), lora, "auto", [step()], device.machine("cpu", cap_bytes=1), shared=True)
    assert not failure.value.of_data
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    assert isinstance(device.planned(str(tmp_path), lora, "auto", [step()], here, shared=True), Refuse)


def test_the_peak_of_a_cpu_is_measured() -> None:
    peak = device.peak_flops("cpu")
    assert peak is not None
    assert 1e8 < peak < 1e15


def planned(rows_wide: int) -> memory.Plan:
    rows = rows_of([step()], rows_wide, shared=True)
    nothing = memory.Estimate(0, 0, 0, 0, 0, 0)
    return memory.Plan(memory.Way("bf16", False, rows), nothing, 1, rows.least, rows.room)


def test_a_step_that_runs_out_of_memory_is_taken_anew_with_the_same_examples_in_shorter_rows() -> None:
    taken: list[tuple[int, int]] = []

    def attempt(plan: memory.Plan) -> int:
        laid_out = losses.batches(step(), "prefix_shared", "cpu", plan.least_tokens, plan.row_tokens)
        taken.append((plan.row_tokens, len(laid_out)))
        if plan.row_tokens > 500:
            raise torch.OutOfMemoryError
        return sum(batch.targets.numel() for batch in laid_out)

    targets, after = device.within(planned(800), "cpu", attempt)
    assert taken == [(800, 1), (400, 5)]
    assert targets == 5 * 20
    assert (after.row_tokens, after.halved) == (400, True)
    assert device.within(after, "cpu", attempt)[1] is after


def test_what_malloc_keeps_is_given_back_where_too_much_of_it_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(planned(800), estimate=memory.Estimate(60 << 20, 0, 0, 0, 0, 0))
    before = device.resident()
    given, real = list[bool](), device.let_go

    def let_go() -> None:
        given.append(True)
        real()

    monkeypatch.setattr(device, "let_go", let_go)
    device.hold_down(plan, before, "cpu")
    assert not given
    # Pieces of 64 KB are not mapped one by one, and every second of them that stays keeps its neighbours' room.
    pieces = [torch.ones(16_384) for _ in range(4_000)]
    holding = device.resident()
    assert holding - before > 200 << 20
    device.hold_down(plan, before, "cuda")
    assert not given
    del pieces[::2]
    device.hold_down(plan, before, "cpu")
    assert len(given) == 1
    assert device.resident() < holding - (100 << 20)
    del pieces


def test_memory_that_runs_out_twice_ends_the_run_with_what_to_try() -> None:
    def attempt(_: memory.Plan) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(TrainingError, match="ran out again") as failure:
        device.within(planned(800), "cpu", attempt)
    assert "nf4" in failure.value.hint
