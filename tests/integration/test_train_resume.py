"""A run that is broken off, at whatever moment and in whatever way, ends with the bytes of one that was not."""

from __future__ import annotations

import ast
import dataclasses
import math
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import TrainingError
from gaiad.learner.artifacts import check_files
from gaiad.learner.example import Message as Said
from gaiad.learner.memory import Machine
from gaiad.learner.protocol import Checkpoint, Job, Message, Progress, Result
from tests.fakes.tiny_base import make_tiny_base
from tests.integration.test_train_run import example, write

torch = pytest.importorskip("torch")

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import device, losses, origins, train  # noqa: E402

STEPS = 9


@pytest.fixture(scope="module", params=[1, 2])
def job(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Job:
    """With two threads, two ranks compute each row."""
    folder = tmp_path_factory.mktemp("run")
    examples = [dataclasses.replace(example(number), rejected="no" if number % 3 else None) for number in range(16)]
    return Job(
        base_model=str(make_tiny_base(folder / "base", seed=1, hidden=64)),
        train_path=write(folder / "train.jsonl", examples),
        validation_path=write(folder / "validation.jsonl", [example(number) for number in range(20, 23)]),
        output_dir="",
        lora=LoraSpec(4, 8, 0.1, ("q_proj", "v_proj"), rslora=True, plus_ratio=4.0),
        training=TrainingSpec(400, STEPS, 4, 5e-3, 2, 0.01, 1.0, "bf16", 4, 3, 7, preference="dpo"),
        threads=request.param,
        device="cpu",
        checkpoint_every_s=0.001,
    )


def at(job: Job, folder: Path, **changes: Any) -> Job:
    return dataclasses.replace(job, output_dir=str(folder / "staging"), checkpoint_dir=str(folder / "kept"), **changes)


def carried_out(job: Job, hear: Callable[[Message], None] = lambda _: None) -> Result:
    return train.train(job, threading.Event(), hear)


@pytest.fixture(scope="module")
def whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return carried_out(at(job, tmp_path_factory.mktemp("whole")))


class Broken(Exception):
    """Stands for the end of the process: nothing of the run catches it."""


def broken_at(step: int, *, after: type[Message]) -> Callable[[Message], None]:
    def hear(message: Message) -> None:
        if isinstance(message, after) and message.step == step:  # type: ignore[union-attr]
            raise Broken

    return hear


@pytest.mark.parametrize("after", [Progress, Checkpoint])
@pytest.mark.parametrize("step", [0, 1, 4, 7, STEPS])
def test_a_run_broken_off_after_any_step_ends_with_the_same_bytes(
    job: Job, whole: Result, tmp_path: Path, step: int, after: type[Message]
) -> None:
    job = at(job, tmp_path)
    with pytest.raises(Broken):
        carried_out(job, broken_at(step, after=after))
    result = carried_out(job)
    assert result.weights_sha256 == whole.weights_sha256
    assert result.resumed_from is not None
    assert (result.best_step, result.validation_loss) == (whole.best_step, whole.validation_loss)
    assert any("went on from the checkpoint" in note for note in result.notes)


def test_a_run_broken_off_again_and_again_ends_with_the_same_bytes(job: Job, whole: Result, tmp_path: Path) -> None:
    job = at(job, tmp_path)
    for step in (2, 3, 5, 8):
        with pytest.raises(Broken):
            carried_out(job, broken_at(step, after=Progress))
    assert carried_out(job).weights_sha256 == whole.weights_sha256


def test_a_stop_leaves_a_checkpoint_of_the_very_step_and_says_preempted(
    job: Job, whole: Result, tmp_path: Path
) -> None:
    job = at(job, tmp_path, checkpoint_every_s=1000.0)
    stop = threading.Event()
    kept: list[int] = []

    def hear(message: Message) -> None:
        if isinstance(message, Progress) and message.step == 3:
            stop.set()
        if isinstance(message, Checkpoint):
            kept.append(message.step)

    with pytest.raises(TrainingError, match=f"preempted after step 3 of {STEPS}") as caught:
        train.train(job, stop, hear)
    assert not caught.value.of_data
    assert kept == [0, 3]
    result = carried_out(job)
    assert (result.resumed_from, result.weights_sha256) == (3, whole.weights_sha256)


@pytest.mark.parametrize(("validation", "step"), [(1, 0), (2, 4), (3, 8), (4, STEPS)])
def test_a_stop_within_a_validation_waits_for_none_of_it_and_the_next_run_makes_up_for_it(
    job: Job, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: int, step: int
) -> None:
    job = at(job, tmp_path, checkpoint_every_s=1000.0)
    stop, begun, done = threading.Event(), list[int](), list[float | None]()
    real = losses.validate

    def validate(model: Any, laid_out: Any, between: Callable[[], None]) -> float | None:
        begun.append(len(begun))
        if len(begun) == validation:
            stop.set()
        done.append(real(model, laid_out, between))
        return done[-1]

    monkeypatch.setattr(train, "validate", validate)
    with pytest.raises(TrainingError, match=f"preempted after step {step} of {STEPS}"):
        train.train(job, stop, lambda _: None)
    assert len(done) == validation - 1
    result = carried_out(job)
    assert (result.resumed_from, result.weights_sha256) == (step, whole.weights_sha256)
    assert (result.best_step, result.validation_loss) == (whole.best_step, whole.validation_loss)
    assert result.base_validation_loss == whole.base_validation_loss
    # Each validation was made once: the one that was broken off by the run that went on.
    assert len(done) == 4


def test_all_that_a_run_computes_with_is_in_the_digest_of_its_code() -> None:
    # These say what fits, what was asked and what is told: what follows from them a checkpoint holds. With the others a
    # dataset is built, whose splits have digests of their own.
    others = {"base_shape", "child", "flops", "lying", "memory", "origins", "protocol"}
    others |= {"allotment", "shares", "wholes"}
    folder = Path(train.__file__).parent
    wanted = set[str]()
    for name in origins.CODE:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gaiad.learner"):
                below = node.module.removeprefix("gaiad.learner").lstrip(".")
                wanted |= {below} if below else {alias.name for alias in node.names}
    assert {"attention", "dropout", "losses"} <= wanted
    assert wanted - others <= set(origins.CODE)


def test_a_stop_before_the_first_step_is_preempted_too(job: Job, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingError, match="preempted before the first step"):
        train.train(at(job, tmp_path), stop, lambda _: None)


def test_a_checkpoint_of_another_spec_or_dataset_is_refused_with_the_reason(job: Job, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        carried_out(at(job, tmp_path), broken_at(2, after=Checkpoint))
    other = dataclasses.replace(job.training, learning_rate=1e-3, max_steps=3)
    fewer = write(tmp_path / "fewer.jsonl", [example(number) for number in range(8)])
    result = carried_out(at(job, tmp_path, training=other, train_path=fewer))
    assert result.resumed_from is None
    assert "a checkpoint was not used: it was made with another spec, train" in result.notes


def test_the_configuration_is_that_of_the_first_checkpoint(
    job: Job, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Broken):
        carried_out(at(job, tmp_path), broken_at(2, after=Checkpoint))
    monkeypatch.setattr(device, "ROOMS", (64,))
    assert carried_out(at(job, tmp_path)).weights_sha256 == whole.weights_sha256


def test_a_checkpoint_whose_configuration_no_longer_fits_is_refused_and_kept(
    job: Job, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Broken):
        carried_out(at(job, tmp_path), broken_at(2, after=Checkpoint))
    with monkeypatch.context() as tight:
        tight.setattr(device, "machine", lambda *_: Machine("cpu", 1 << 20))
        with pytest.raises(
            TrainingError, match="cannot be gone on with as it was begun: the run does not fit"
        ) as caught:
            carried_out(at(job, tmp_path))
        assert not caught.value.of_data
        assert "kept" in caught.value.hint
    assert carried_out(at(job, tmp_path)).weights_sha256 == whole.weights_sha256


def spoiling(monkeypatch: pytest.MonkeyPatch, steps: Sequence[int], value: float) -> None:
    """Let loss and gradients of these steps, counted from 0 as they are tried, be `value` times what they are."""
    real, tried = train.gradients_of, iter(range(1_000_000))

    def spoilt(model: Any, *arguments: Any) -> float:
        loss = real(model, *arguments)
        if next(tried) not in steps:
            return loss
        for weight in bases.trained_weights(model).values():
            weight.grad = weight.grad * value
        return loss * value

    monkeypatch.setattr(train, "gradients_of", spoilt)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_sends_the_run_back_with_half_the_rate(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoiling(monkeypatch, [6], value)
    result = carried_out(at(job, tmp_path))
    (note,) = [note for note in result.notes if "went back" in note]
    assert "the loss is no longer a number in step 7: went back to step 4, learning rate halved" in note
    assert result.steps == STEPS
    check_files(Path(result.output_dir), max_rank=4)


def test_a_run_that_never_finds_its_way_ends_with_its_last_good_state_kept(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiling(monkeypatch, range(6, 1000), math.nan)
    with pytest.raises(TrainingError, match="no longer a number in step 5, and going back 2 times did not help"):
        carried_out(at(job, tmp_path))
    kept = sorted(path.name for path in (tmp_path / "kept").glob("*/step-*"))
    assert kept == ["step-000004.3"]


def test_a_disk_that_is_full_in_mid_save_loses_no_step_that_was_saved(
    job: Job, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = at(job, tmp_path)
    with monkeypatch.context() as limited:
        from gaiad.learner import checkpoint

        real, calls = vars(checkpoint)["save_file"], iter(range(100))

        def filling(*arguments: Any) -> None:
            if next(calls) == 4:
                Path(arguments[1]).write_bytes(b"half")
                raise OSError(28, "No space left on device")
            real(*arguments)

        limited.setattr(checkpoint, "save_file", filling)
        with pytest.raises(TrainingError, match="No space left on device") as caught:
            carried_out(job)
        assert not caught.value.of_data
    result = carried_out(job)
    assert (result.resumed_from, result.weights_sha256) == (3, whole.weights_sha256)


def test_the_result_says_what_the_run_was_made_of(job: Job, whole: Result) -> None:
    assert set(whole.digests) == {"base", "template", "train", "validation", "spec", "code"}
    assert all(len(digest) == 64 for digest in whole.digests.values())
    assert f"{job.threads} threads" in whole.device_name
    assert whole.step_s > 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"messages": (example(1).messages[0], Said("assistant", " "))}, "the answer of toy:1 is empty"),
        ({"weight": 0.0}, "the weight of toy:1 is 0: it would teach nothing"),
    ],
)
def test_an_example_that_would_teach_nothing_is_refused_by_name(
    job: Job, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    spoilt = dataclasses.replace(example(1), **changed)
    job = at(job, tmp_path, train_path=write(tmp_path / "train.jsonl", [example(0), spoilt]))
    with pytest.raises(TrainingError, match=said):
        carried_out(job)


def test_a_base_that_was_changed_gives_another_run(job: Job, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        carried_out(at(job, tmp_path), broken_at(2, after=Checkpoint))
    other = make_tiny_base(tmp_path / "other", seed=2, hidden=64)
    short = dataclasses.replace(job.training, max_steps=3)
    result = carried_out(at(job, tmp_path, base_model=str(other), training=short))
    assert result.resumed_from is None
    assert any("another base" in note for note in result.notes)


def test_random_places_make_no_difference(job: Job, whole: Result, tmp_path: Path) -> None:
    chooser = random.Random(3)
    for number in range(2):
        folder = tmp_path / str(number)
        for _ in range(chooser.randrange(1, 4)):
            step = chooser.randrange(STEPS + 1)
            try:
                result = carried_out(at(job, folder), broken_at(step, after=Progress))
            except Broken:
                continue
            assert result.weights_sha256 == whole.weights_sha256
        assert carried_out(at(job, folder)).weights_sha256 == whole.weights_sha256
