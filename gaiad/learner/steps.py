"""The long steps of a cycle, each from a command to the one event that answers it.

Touches the disk, the trainer, the GPU's hold and the engine. Decides no order (that is `cycle`) and writes neither
registry nor history (that is `loop`).
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from gaiad.adapter import is_adapter_name, version_parts
from gaiad.config import Config
from gaiad.consent import Purpose
from gaiad.conversations import Conversations
from gaiad.curriculum import Curriculum, Json
from gaiad.cycles import Cycles
from gaiad.errors import AdapterError, DatasetError, EngineError, Refuse, TrainingError
from gaiad.gpu.identity import base_identity
from gaiad.learner import artifacts, cycle, gate
from gaiad.learner.attempt import Attempt, ExamProgress, Order
from gaiad.learner.comparison import Comparison
from gaiad.learner.cycle import Command, Kind
from gaiad.learner.dataset import Dataset
from gaiad.learner.examiner import KeptReports, exam_key, examine
from gaiad.learner.exams.kinds import exam_kind
from gaiad.learner.exams.score import ExamReport, Item
from gaiad.learner.ports import Gpu, Hold, ServingEngine
from gaiad.learner.protocol import Job, Progress, Result
from gaiad.learner.runner import PROGRAMS, Programs, Run
from gaiad.learner.sources import catalogue
from gaiad.learner.sources.exchanges import CorrectedExchange, shaping_fields
from gaiad.learner.sources.material import signature
from gaiad.registry import Registry

STOP_GRACE_S = 10.0
"""How long a trainer may take to end when its cycle is cancelled or its hold is lost."""

MAKE_WAY_S = 5.0
"""How long an exam question waits for users' requests at most, so that an exam comes to its end."""

BASE = "base"

CHECKPOINTS = "checkpoints"
"""Where a run's checkpoints lie, inside its dataset's folder: what is erased there takes them along."""


class Steps:
    """Performs the commands that take time. One cycle at a time."""

    def __init__(
        self,
        *,
        config: Config,
        engine: ServingEngine,
        gpu: Gpu,
        registry: Registry,
        cycles: Cycles,
        conversations: Conversations,
        max_rank: int,
        programs: Programs = PROGRAMS,
    ) -> None:
        self._config = config
        self._engine = engine
        self._gpu = gpu
        self._registry = registry
        self._cycles = cycles
        self._conversations = conversations
        self._python = config.learning.python or sys.executable
        self._max_rank = max_rank
        self._trainer = programs.trainer
        self._comparison = Comparison(config=config, engine=engine, python=self._python, program=programs.measurer)
        self._kept = KeptReports(config.runs_dir / "exams")
        self._shapes: dict[str, tuple[str, ...]] = {}

    async def perform(self, attempt: Attempt, command: Command) -> cycle.Event:
        """Run one command; what fails is a GaiadError."""
        match command:
            case Command.FREEZE:
                return await self._freeze(attempt)
            case Command.ACQUIRE:
                return await self._acquire(attempt)
            case Command.TRAIN:
                return await self._train(attempt)
            case Command.MEASURE:
                return await self._comparison.measure(attempt)
            case Command.RELEASE:
                return await self._release(attempt)
            case Command.PUBLISH:
                return await self._publish(attempt)
            case Command.LOAD:
                return await self._load(attempt)
            case Command.COMPARE:
                return await self._comparison.compare(attempt)
            case Command.EXAMINE:
                return await self._examine(attempt)
            case Command.UNLOAD:
                return await self._unload(attempt)
            case _:
                raise AssertionError(f"{command} is no long step")

    def clear_staging(self) -> None:
        """Remove what a killed daemon left half-made (blocking): nothing else says what it was made of."""
        for root, pattern in (
            (self._config.runs_dir, "*/staging"),
            (self._config.datasets_dir, f"{catalogue.FREEZING}*"),
            (self._config.adapters_dir, f"*/{artifacts.PUBLISHING}*"),
        ):
            for folder in root.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self, attempt: Attempt) -> None:
        """Remove what a cycle at its end needs no more (blocking): what was staged; checkpoints once it has learned."""
        shutil.rmtree(attempt.staging, ignore_errors=True)
        if attempt.has_learned:
            self._clear_checkpoints(attempt.order.adapter)

    def _clear_checkpoints(self, adapter: str, but: Path | None = None) -> None:
        """Remove an adapter's checkpoints, those of its dataset in `but` excepted: nothing goes on from others."""
        for folder in self._config.datasets_dir.glob(f"*/{CHECKPOINTS}/{adapter}"):
            if folder.parents[1] != but:
                shutil.rmtree(folder, ignore_errors=True)

    def refusal(self, order: Order) -> Refuse | None:
        """Why a cycle cannot be begun, as far as that lies with the settings."""
        # The name becomes part of paths.
        if not is_adapter_name(order.adapter) or not (self.curricula() / order.adapter).is_dir():
            return Refuse(
                f"there is no curriculum for {order.adapter!r}", "see [learning] curricula and gaiadctl adapters list"
            )
        if order.kind is Kind.TRAIN and not Path(self._config.engine.base_model or "/nonexistent").is_dir():
            return Refuse(
                "training needs the base model's folder, and [engine] base_model names none", "set it to a local folder"
            )
        return None

    # --- dataset --------------------------------------------------------------------------------------------------

    async def _freeze(self, attempt: Attempt) -> cycle.Event:
        order, facts = attempt.order, await self._engine.facts()
        attempt.engine_version = facts.version
        if not facts.runtime_lora:
            raise EngineError(
                "the engine takes no adapters while it serves, so nothing can be learned",
                hint="start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
            )
        curriculum = await asyncio.to_thread(self.curriculum, order.adapter, order.profile)
        attempt.curriculum = curriculum
        if order.kind is Kind.IMPORT:
            await self._check_not_erased(await asyncio.to_thread(self._bring, attempt))
            attempt.dataset_folder = await self._newest_dataset(order.adapter)
            if attempt.dataset_folder is not None:
                attempt.dataset = await asyncio.to_thread(catalogue.load_frozen, attempt.dataset_folder)
                return cycle.Frozen(is_new=True)
        if order.kind is Kind.TRAIN and curriculum.lora.rank > self._max_rank:
            raise TrainingError(
                f"the curriculum's rank {curriculum.lora.rank} is above the {self._max_rank} that the engine serves",
                hint="raise engine.max_lora_rank and start gaiad again",
            )
        corrections = attempt.corrections = await self.corrections(curriculum)
        # Before it is read: what changes meanwhile is found at the next look.
        attempt.material = await asyncio.to_thread(self.material)
        dataset, folder = await asyncio.to_thread(self._gathered, curriculum, corrections)
        attempt.dataset, attempt.dataset_folder = dataset, folder
        learned = await self._cycles.finished_digests(order.adapter)
        return cycle.Frozen(is_new=order.force or dataset.digest not in learned)

    def curriculum(self, adapter: str, profile: str) -> Curriculum:
        """Load the curriculum of `adapter` (blocking); raises CurriculumError."""
        return catalogue.load_curriculum(self.curricula() / adapter, profile)

    def curricula(self) -> Path:
        """The folder that holds a folder for each adapter."""
        own = self._config.learning.curricula
        return Path(own) if own else catalogue.shipped_curricula()

    def material(self) -> str:
        """A digest of what the curricula's and the owner's files look like from outside (blocking)."""
        learning = self._config.learning
        # Not what is being added to a file that nobody reads yet.
        made = sorted(map(str, self._config.self_made_dir.rglob("*.jsonl")))
        return signature((str(self.curricula()), *learning.documents, *learning.registries, *made))

    async def corrections(self, curriculum: Curriculum) -> list[CorrectedExchange]:
        """What users corrected or approved of at the curriculum's stages and let be learned from."""
        feedback = self._conversations.feedback
        rows = [*await feedback.corrected(curriculum.stages), *await feedback.approved(curriculum.stages)]
        return [CorrectedExchange(**row, shaped_by=await self._shaped_by(row["exchange_id"])) for row in rows]

    async def _shaped_by(self, exchange_id: str) -> tuple[str, ...]:
        # A kept request never changes, so each is read once.
        if exchange_id not in self._shapes:
            kept = await self._conversations.exchange(exchange_id) or {}
            self._shapes[exchange_id] = shaping_fields(kept.get("request"))
        return self._shapes[exchange_id]

    def _gathered(self, curriculum: Curriculum, corrections: list[CorrectedExchange]) -> tuple[Dataset, Path]:
        learning = self._config.learning
        dataset = catalogue.gather(
            curriculum,
            self.curricula() / curriculum.adapter,
            corrections,
            documents=[Path(one) for one in learning.documents],
            registries=learning.registries,
            self_made=self._config.self_made_dir,
            base=self._engine.served_name or "",
        )
        return dataset, catalogue.freeze(dataset, self._config.datasets_dir)

    def _bring(self, attempt: Attempt) -> str:
        """Copy an adapter from elsewhere before looking at it, so that what was checked is what is published.

        Returns the digest of its weights.
        """
        source = attempt.order.directory
        assert source is not None
        artifacts.check_files(source, max_rank=self._max_rank)
        attempt.staging.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(source / name, attempt.staging / name, follow_symlinks=False)
        artifacts.check_files(attempt.staging, max_rank=self._max_rank)
        return artifacts.weights_digest(attempt.staging)

    async def _check_not_erased(self, sha256: str) -> None:
        version = await self._registry.erased_with(sha256)
        if version is not None:
            raise AdapterError(
                f"these are the weights of {version}, which learned from what was erased",
                hint="train again: the dataset is without it",
            )

    async def _newest_dataset(self, adapter: str) -> Path | None:
        for row in await self._cycles.cycles(50):
            if row.adapter == adapter and row.ended is not None and row.dataset_digest:
                folder = self._config.datasets_dir / row.dataset_digest
                if folder.is_dir():
                    return folder
        return None

    # --- run ------------------------------------------------------------------------------------------------------

    async def _acquire(self, attempt: Attempt) -> cycle.Event:
        answer = await self._gpu.acquire(f"training {attempt.order.adapter}")
        if isinstance(answer, Refuse):
            return cycle.Failed(answer.reason)
        attempt.hold = answer
        return cycle.Acquired()

    async def _train(self, attempt: Attempt) -> cycle.Event:
        hold = attempt.hold
        assert hold is not None
        log_path = attempt.folder / "trainer.log"
        silence_s = self._config.learning.trainer_silence_s
        job = self._job(attempt)
        await asyncio.to_thread(self._clear_checkpoints, attempt.order.adapter, but=attempt.dataset_folder)
        try:
            run = await Run.start(
                job, python=self._python, log_path=log_path, silence_s=silence_s, program=self._trainer
            )
        except TrainingError as error:
            # A Python that cannot be started says nothing about the dataset, unlike a trainer that breaks.
            return cycle.Failed(str(error))
        async with run:
            hold.attach(run)
            return await _heard_out(attempt, run, hold)

    def _job(self, attempt: Attempt) -> Job:
        curriculum, folder = attempt.curriculum, attempt.dataset_folder
        assert curriculum is not None
        assert folder is not None
        return Job(
            base_model=self._config.engine.base_model,
            train_path=str(folder / "train.jsonl"),
            validation_path=str(folder / "validation.jsonl"),
            output_dir=str(attempt.staging),
            lora=curriculum.lora,
            training=curriculum.training,
            threads=self._config.learning.threads,
            device=self._config.engine.device,
            checkpoint_dir=str(folder / CHECKPOINTS / curriculum.adapter),
            checkpoint_every_s=self._config.learning.checkpoint_every_s,
        )

    async def _release(self, attempt: Attempt) -> cycle.Event:
        hold, attempt.hold = attempt.hold, None
        assert hold is not None
        await hold.release()
        return cycle.Released()

    # --- version --------------------------------------------------------------------------------------------------

    async def _publish(self, attempt: Attempt) -> cycle.Event:
        self.check_consent(attempt)
        adapter = attempt.order.adapter
        attempt.number = max(await self._registry.next_number(adapter), self._next_free_number(adapter))
        attempt.lineage = self._lineage(attempt)
        attempt.published = await asyncio.to_thread(self._published, attempt)
        return cycle.Published()

    def _next_free_number(self, adapter: str) -> int:
        """A daemon killed between publishing and registering leaves a directory that must not be in the way."""
        found = [version_parts(f"{adapter}@{path.name}") for path in (self._config.adapters_dir / adapter).glob("v*")]
        return 1 + max((parts.number for parts in found if parts is not None), default=0)

    def _published(self, attempt: Attempt) -> artifacts.Published:
        artifacts.check_files(attempt.staging, max_rank=self._max_rank)
        return artifacts.publish(
            attempt.staging,
            self._config.adapters_dir,
            adapter=attempt.order.adapter,
            number=attempt.number,
            lineage=cast("Mapping[str, Json]", attempt.lineage),
        )

    def check_consent(self, attempt: Attempt) -> None:
        """Raise DatasetError where somebody withdrew what it learns from; newer feedback alone withdraws nothing."""
        if attempt.order.kind is Kind.IMPORT:
            return
        said = {one.exchange_id: (one.user, one.conversation, one.began) for one in attempt.corrections}
        still_usable = self._conversations.grants.still_usable
        gone = sum(not still_usable(Purpose.TRAIN, *said[one]) for one in attempt.exchange_ids)
        if gone:
            raise DatasetError(
                f"consent was withdrawn for {gone} of the exchanges it learned from",
                hint="the next cycle leaves them out",
            )

    def _lineage(self, attempt: Attempt) -> dict[str, object]:
        order, curriculum, result = attempt.order, attempt.curriculum, attempt.result
        lineage: dict[str, object] = {
            "cycle": attempt.id,
            "kind": order.kind.value,
            "base_model": self._config.engine.base_model or self._engine.served_name,
            "engine_version": attempt.engine_version,
        }
        if order.kind is Kind.IMPORT:
            return {**lineage, "imported_from": str(order.directory)}
        assert curriculum is not None
        assert attempt.dataset is not None
        lineage |= {
            "curriculum": curriculum.version,
            "curriculum_digest": curriculum.digest,
            "profile": curriculum.profile,
            "dataset_digest": attempt.dataset.digest,
            "exchange_ids": list(attempt.exchange_ids),
            "left_out_exchange_ids": list(attempt.left_out),
        }
        if result is not None:
            lineage |= {
                "steps": result.steps,
                "train_loss": result.train_loss,
                "validation_loss": result.validation_loss,
                "quantisation": result.quantisation,
                "packages": dict(result.packages),
                "digests": dict(result.digests),
                "device": result.device_name or result.device,
                "wall_s": result.wall_s,
                "step_s": result.step_s,
                "peak_memory_bytes": result.peak_memory_bytes,
                "resumed_from": result.resumed_from,
                "notes": list(result.notes),
            }
        return lineage

    async def _load(self, attempt: Attempt) -> cycle.Event:
        assert attempt.published is not None
        await self._engine.load(attempt.published.version, attempt.published.path)
        return cycle.Loaded()

    async def _unload(self, attempt: Attempt) -> cycle.Event:
        assert attempt.version is not None
        await self._engine.unload(attempt.version)
        return cycle.Unloaded()

    # --- exam -----------------------------------------------------------------------------------------------------

    async def _examine(self, attempt: Attempt) -> cycle.Event:
        curriculum, dataset, candidate = attempt.curriculum, attempt.dataset, attempt.version
        assert curriculum is not None
        assert dataset is not None
        assert candidate is not None
        items = await asyncio.to_thread(exam_kind(curriculum.exam.kind).items, dataset.heldout, curriculum.exam)
        active = self._registry.snapshot.active.get(attempt.order.adapter)
        base = await self._report(attempt, "base", items, BASE, constrained=True)
        incumbent = await self._report(attempt, "incumbent", items, active, constrained=True) if active else None
        report = await self._report(attempt, "candidate", items, candidate, constrained=True)
        attempt.gate = gate.decide(curriculum.gate, base=base, candidate=report, incumbent=incumbent)
        # Unconstrained exams are shown beside and decide nothing: a candidate that failed is spared them.
        if attempt.gate.passed:
            await self._report(attempt, "base_unconstrained", items, BASE, constrained=False)
            await self._report(attempt, "candidate_unconstrained", items, candidate, constrained=False)
            self.check_consent(attempt)
        attempt.exam = None
        reason = " ".join(attempt.gate.reasons)
        attempt.forced = attempt.order.activate and not attempt.gate.passed
        if attempt.forced:
            reason = f"activated in spite of the gate: {attempt.order.reason}. {reason}"
        return cycle.Examined(attempt.gate.passed, reason, attempt.forced)

    async def _report(
        self, attempt: Attempt, name: str, items: Sequence[Item], subject: str, *, constrained: bool
    ) -> ExamReport:
        assert attempt.curriculum is not None
        max_tokens = attempt.curriculum.exam.max_tokens
        engine = f"{attempt.engine_version} {await asyncio.to_thread(self._base_identity)}"
        key = exam_key(items, subject=subject, constrained=constrained, max_tokens=max_tokens, engine=engine)
        report = self._kept.find(key)
        if report is None:
            progress = attempt.exam = ExamProgress(name.partition("_")[0], constrained, 0, len(items))

            def count(done: int, total: int) -> None:
                progress.done, progress.total = done, total

            report = await examine(
                self._engine,
                items,
                subject=subject,
                model=self._engine.served_name if subject == BASE else subject,
                constrained=constrained,
                max_tokens=max_tokens,
                judge=exam_kind(attempt.curriculum.exam.kind).score,
                concurrency=self._config.learning.exam_concurrency,
                timeout_s=self._config.learning.exam_timeout_s,
                on_progress=count,
                make_way=self._make_way,
            )
            await asyncio.to_thread(self._kept.keep, key, report)
        attempt.exams[name] = report
        return report

    async def _make_way(self) -> None:
        until = time.monotonic() + MAKE_WAY_S
        while self._gpu.active_inference and time.monotonic() < until:  # noqa: ASYNC110  the count is the GPU loop's
            await asyncio.sleep(0.05)

    def _base_identity(self) -> str:
        return base_identity(self._config.engine.base_model, self._engine.served_name)


async def _heard_out(attempt: Attempt, run: Run, hold: Hold) -> cycle.Event:
    async with asyncio.TaskGroup() as group:
        ends = (hold.lost, hold.preempt)
        watches = [group.create_task(_stop_when(event, run), name="learner-hold-watch") for event in ends]
        ending = await _ending(attempt, run)
        for watch in watches:
            watch.cancel()
    if isinstance(ending, Result):
        attempt.result = ending
        return cycle.Trained()
    later = "so the run was ended (the next cycle goes on from its checkpoint)"
    if hold.lost.is_set():
        return cycle.Failed(f"the engine failed during the run, {later}")
    if hold.preempt.is_set():
        return cycle.Failed(f"a user request came first, {later}")
    raise ending


async def _ending(attempt: Attempt, run: Run) -> Result | TrainingError:
    try:
        async for message in run.messages():
            if isinstance(message, Progress):
                attempt.note(message)
        return await run.outcome()
    except TrainingError as error:
        return error
    except asyncio.CancelledError:
        await run.stop(STOP_GRACE_S)
        raise


async def _stop_when(event: asyncio.Event, run: Run) -> None:
    await event.wait()
    await run.stop(STOP_GRACE_S)
