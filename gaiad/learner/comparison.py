"""Is what the engine serves what was trained? Two steps of a cycle: measure the adapter, compare the engine with it.

Touches the parity child, the GPU's hold and the engine. What the figures are worth stands in `parity`, the order of
steps in `cycle`. A measurement that breaks fails the cycle; only what cannot be measured at all is said to be so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gaiad.config import Config
from gaiad.errors import AdapterError, DatasetError, EngineError, TrainingError
from gaiad.learner import cycle, parity
from gaiad.learner.attempt import Attempt
from gaiad.learner.cycle import Kind
from gaiad.learner.parity import Served
from gaiad.learner.ports import Hold, ServingEngine
from gaiad.learner.protocol import Device, Measured, Reference, ReferenceJob
from gaiad.learner.runner import Run

_Answer = TypeVar("_Answer")

STOP_GRACE_S = 5.0
"""How long the parity child may take to end when its hold is lost or wanted back."""

LONGEST_TOKENS = 4096
"""Held-out examples up to this length are measured even where nothing so long is trained on, as before an import."""

UNABLE_HINT = "set learning.python, free memory, or set learning.parity_examples = 0"


class Comparison:
    """Performs the two steps. One cycle at a time."""

    def __init__(self, *, config: Config, engine: ServingEngine, python: str, program: Sequence[str]) -> None:
        self._config = config
        self._engine = engine
        self._python = python
        self._program = program

    async def measure(self, attempt: Attempt) -> cycle.Event:
        """Measure what was trained, in the trainer's hold. A user who comes first puts it off until the comparison."""
        hold = attempt.hold
        assert hold is not None
        if not self._config.learning.parity_examples:
            return cycle.Measured()
        try:
            async with await self._run(attempt, self._config.engine.device) as run:
                hold.attach(run)
                found = await _heard_out(run, hold)
        except TrainingError as error:
            if hold.lost.is_set():
                return cycle.Failed("the engine failed while the adapter was measured, so the cycle was ended")
            if hold.preempt.is_set():
                return cycle.Measured()
            return _unmeasured(error.message, error.hint)
        if found.unable:
            return _unmeasured(found.unable, UNABLE_HINT)
        attempt.reference = found
        return cycle.Measured()

    async def compare(self, attempt: Attempt) -> cycle.Event:
        """Ask the engine for the same tokens under the version's name, and judge."""
        why_not = self._why_not(attempt)
        if why_not is None and attempt.reference is None:
            try:
                async with await self._run(attempt, "cpu") as run:
                    attempt.reference = await run.reference()
            except TrainingError as error:
                return _unmeasured(error.message, error.hint)
            why_not = attempt.reference.unable or None
            if why_not and attempt.order.kind is Kind.TRAIN:
                return _unmeasured(why_not, UNABLE_HINT)
        if why_not is not None:
            attempt.parity = parity.not_measured(why_not)
            return cycle.Compared(True, attempt.parity.reason)
        assert attempt.reference is not None
        attempt.parity = parity.decide(
            attempt.reference.measured,
            await self._served(attempt, attempt.reference),
            tolerance=self._config.learning.parity_tolerance,
        )
        return cycle.Compared(attempt.parity.passed, attempt.parity.reason)

    def _why_not(self, attempt: Attempt) -> str | None:
        """Why there is nothing to compare with; None where there is."""
        if not self._config.learning.parity_examples:
            return "learning.parity_examples is 0"
        # Who trains has a base model's folder, or the cycle would not have begun.
        if attempt.order.kind is Kind.IMPORT and not (Path(self._config.engine.base_model) / "config.json").is_file():
            return "engine.base_model names no folder with a base model"
        return None

    async def _run(self, attempt: Attempt, device: Device) -> Run:
        curriculum, folder, learning = attempt.curriculum, attempt.dataset_folder, self._config.learning
        assert curriculum is not None
        assert folder is not None
        job = ReferenceJob(
            base_model=self._config.engine.base_model,
            adapter_dir=str(attempt.published.path if attempt.published else attempt.staging),
            examples_path=str(folder / "held_out.jsonl"),
            examples=learning.parity_examples,
            max_tokens=max(curriculum.training.max_sequence_tokens, LONGEST_TOKENS),
            threads=learning.threads,
            device=device,
        )
        return await Run.start(
            job,
            python=self._python,
            log_path=attempt.folder / "parity.log",
            silence_s=learning.trainer_silence_s,
            program=self._program,
        )

    async def _served(self, attempt: Attempt, reference: Reference) -> list[Served]:
        published, dataset = attempt.published, attempt.dataset
        assert published is not None
        assert dataset is not None
        if reference.weights_sha256 != published.sha256:
            raise AdapterError(
                f"the weights that were measured are not those of {published.version}", hint="run the cycle again"
            )
        asked = {
            one.key(): [{"role": m.role, "content": m.content} for m in one.messages[:-1]] for one in dataset.heldout
        }
        if not all(one.key in asked and parity.is_whole(one) for one in reference.measured):
            raise DatasetError("what was measured is no held-out example as a whole", hint="run the cycle again")
        # One example after the other: the engine goes on from the prompt that it has just computed.
        return [await self._answered(published.version, one, asked[one.key]) for one in reference.measured]

    async def _answered(self, version: str, one: Measured, messages: Sequence[Mapping[str, str]]) -> Served:
        limit_s = self._config.learning.exam_timeout_s

        async def figure(at: int) -> float:
            before, token = one.tokens[: at + 1], one.tokens[at + 1]
            return await _once_more(lambda: self._engine.log_prob(version, before, token, timeout_s=limit_s))

        prompt = await _once_more(lambda: self._engine.rendered(version, messages))
        return Served(tuple(prompt), tuple([await figure(at) for at in parity.points_of(one).places]))


async def _once_more(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    # As in an exam: one answer that came too late must not cost a whole cycle, a dead engine should.
    try:
        return await ask()
    except EngineError:
        return await ask()


async def _heard_out(run: Run, hold: Hold) -> Reference:
    async with asyncio.TaskGroup() as group:
        ends = (hold.lost, hold.preempt)
        watches = [group.create_task(_stop_when(event, run), name="learner-hold-watch") for event in ends]
        ending = await _ending(run)
        for watch in watches:
            watch.cancel()
    if isinstance(ending, TrainingError):
        raise ending
    return ending


async def _ending(run: Run) -> Reference | TrainingError:
    # A value, for the group would wrap what is raised inside it.
    try:
        return await run.reference()
    except TrainingError as error:
        return error


async def _stop_when(event: asyncio.Event, run: Run) -> None:
    await event.wait()
    await run.stop(STOP_GRACE_S)


def _unmeasured(why: str, hint: str) -> cycle.Failed:
    # Says nothing about the dataset, so it stays new.
    after = f" ({hint})" if hint else ""
    return cycle.Failed(f"whether it would be served as trained could not be measured: {why}{after}")
