"""A run keeps to the memory that was promised: chosen before loading, halved once where it runs out, else refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import Refuse, TrainingError
from gaiad.learner.base_shape import base_shape
from gaiad.learner.memory import ROOMS, Machine, Plan, choose, estimate
from gaiad.learner.protocol import Job, Progress, Result
from gaiad.learner.usage import plan_for
from tests.fakes.tiny_base import make_tiny_base
from tests.integration.test_train_run import example, write

torch = pytest.importorskip("torch")

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import device, losses, train  # noqa: E402

STEPS = 4


def made(folder: Path, quantisation: str = "auto") -> Job:
    return Job(
        base_model=str(make_tiny_base(folder / "base", seed=1)),
        train_path=write(folder / "train.jsonl", [example(number) for number in range(12)]),
        validation_path=write(folder / "validation.jsonl", [example(number) for number in range(20, 23)]),
        output_dir=str(folder / "staging"),
        lora=LoraSpec(4, 8, 0.0, ("q_proj", "v_proj")),
        training=TrainingSpec(400, STEPS, 4, 5e-3, 1, 0.0, 1.0, quantisation, 2, 3, 7),
        threads=1,
        device="cpu",
        checkpoint_dir=str(folder / "kept"),
        checkpoint_every_s=0.001,
    )


def carried_out(job: Job) -> Result:
    return train.train(job, threading.Event(), lambda _: None)


def has(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(device, "machine", lambda *_: Machine("cpu", free_bytes))


def planned(job: Job) -> Plan:
    splits = train.load_splits(job)
    plan = plan_for(job, "cpu", "prefix_shared", splits.train, splits.kinds)
    assert isinstance(plan, Plan)
    return plan


def running_out(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> list[int]:
    """Let memory run out in the calls of a forward pass that `when` names; returns how many tokens each pass had."""
    real, passes = losses.decoded, list[int]()

    def hungry(model: Any, batch: Any) -> Any:
        passes.append(batch.input_ids.numel())
        if when(len(passes)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch)

    monkeypatch.setattr(train, "decoded", hungry)
    return passes


def test_a_run_with_memory_keeps_its_base_in_bf16_and_says_what_it_expects(tmp_path: Path) -> None:
    result = carried_out(made(tmp_path))
    assert (result.quantisation, result.steps) == ("bf16", STEPS)
    assert "bf16 without gradient checkpointing" in result.notes[0]
    assert "expected at the peak" in result.notes[0]


def test_progress_says_what_a_run_costs(tmp_path: Path) -> None:
    heard: list[Progress] = []
    job = made(tmp_path)
    train.train(
        job, threading.Event(), lambda message: heard.append(message) if isinstance(message, Progress) else None
    )
    assert (heard[0].step, heard[0].flops_per_s, heard[0].learning_rate) == (0, None, None)
    for said in heard[1:]:
        assert said.memory_bytes is not None
        assert said.memory_bytes > 1 << 20
        assert said.peak_share is not None
        assert said.flops_per_s is not None
        assert 0 < said.peak_share < 1
        assert said.flops_per_s > 0
        assert said.resumed_from is None
    assert [said.learning_rate for said in heard[1:]] == pytest.approx(
        [job.training.learning_rate * train.rate_factor(step, job.training) for step in range(STEPS)]
    )


def test_a_run_with_little_memory_takes_the_way_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(tmp_path, "bf16")
    plan = planned(job)
    has(monkeypatch, plan.estimate.needed_bytes - 1)
    assert planned(job).way != plan.way
    assert planned(job).estimate.peak_bytes < plan.estimate.peak_bytes
    result = carried_out(job)
    assert result.steps == STEPS
    assert "would be faster and needs" in result.notes[0]


def test_checkpointing_changes_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(tmp_path, "bf16")
    plain = carried_out(job)
    real = bases.load_base
    seen: list[bool] = []

    def only(*arguments: Any, **_: Any) -> Plan:
        plan = choose(*arguments, checkpointing=True)
        assert isinstance(plan, Plan)
        return plan

    def watched(*arguments: Any, **keywords: Any) -> Any:
        base = real(*arguments, **keywords)
        enable = base.gradient_checkpointing_enable

        def enabled(how: object) -> None:
            seen.append(True)
            enable(how)

        base.gradient_checkpointing_enable = enabled
        return base

    monkeypatch.setattr(device, "choose", only)
    monkeypatch.setattr(bases, "load_base", watched)
    again = carried_out(made(tmp_path / "again", "bf16"))
    assert seen == [True]
    assert again.train_loss == pytest.approx(plain.train_loss, rel=1e-3)
    assert again.validation_loss == pytest.approx(plain.validation_loss, rel=1e-3)


def test_what_does_not_fit_is_refused_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 1000)
    monkeypatch.setattr(bases, "load_base", lambda *_, **__: pytest.fail("the base was loaded"))
    with pytest.raises(TrainingError, match="does not fit") as failure:
        carried_out(made(tmp_path))
    assert not failure.value.of_data
    assert "smaller base" in failure.value.hint


def test_a_base_that_nobody_can_count_is_trained_without_a_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "base_shape", lambda _: base_shape({"model_type": "other"}))
    result = carried_out(made(tmp_path))
    assert (result.steps, result.quantisation) == (STEPS, "nf4")
    assert "nothing is promised" in result.notes[0]


def test_memory_that_runs_out_halves_the_rows_and_the_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = carried_out(made(tmp_path / "whole"))
    room = planned(made(tmp_path / "other")).row_tokens
    passes = running_out(monkeypatch, lambda call: call == 2)
    result = carried_out(made(tmp_path / "halved"))
    assert (result.steps, result.tokens) == (STEPS, whole.tokens)
    assert any("memory ran out where" in note for note in result.notes)
    assert max(passes[2:]) <= room // 2 < max(passes[:2])
    # The same examples make each step, so but for rounding the same is learnt.
    assert result.train_loss == pytest.approx(whole.train_loss, rel=0.02)


def test_memory_that_runs_out_in_a_validation_halves_the_rows_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = carried_out(made(tmp_path / "whole"))
    real, calls = losses.validate, list[int]()

    def hungry(model: Any, laid_out: Any, between: Callable[[], None]) -> float | None:
        calls.append(max(batch.input_ids.numel() for batch in laid_out))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, laid_out, between)

    monkeypatch.setattr(train, "validate", hungry)
    result = carried_out(made(tmp_path / "halved"))
    assert (result.steps, result.tokens) == (STEPS, whole.tokens)
    assert sum("memory ran out where" in note for note in result.notes) == 1
    assert max(calls[2:]) < calls[1]
    assert result.validation_loss == pytest.approx(whole.validation_loss, rel=0.02)


def test_a_run_whose_rows_were_halved_goes_on_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(tmp_path)
    room = planned(job).row_tokens
    stop = threading.Event()
    running_out(monkeypatch, lambda call: call == 2)
    with pytest.raises(TrainingError, match="preempted"):
        train.train(job, stop, lambda message: stop.set() if getattr(message, "step", 0) == 2 else None)
    passes = running_out(monkeypatch, lambda _: False)
    result = carried_out(job)
    assert result.resumed_from == 2
    assert max(passes) <= room // 2
    assert sum("memory ran out where" in note for note in result.notes) == 1


def test_memory_that_runs_out_twice_ends_the_run_and_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made(tmp_path)
    running_out(monkeypatch, lambda call: call > 3)
    with pytest.raises(TrainingError, match="memory ran out again") as failure:
        carried_out(job)
    assert not failure.value.of_data
    monkeypatch.undo()
    assert carried_out(job).resumed_from is not None


def test_the_estimate_of_a_run_is_of_its_own_rows(tmp_path: Path) -> None:
    job = made(tmp_path)
    shape = base_shape(json.loads((Path(job.base_model) / "config.json").read_text()))
    assert not isinstance(shape, Refuse)
    plan = planned(job)
    assert plan.row_tokens in (*ROOMS, plan.least_tokens)
    assert plan.estimate == estimate(shape, job.lora, plan.way, "cpu")
