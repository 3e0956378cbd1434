"""The learner's loop: one task that takes events one by one, runs each cycle's commands, and watches live versions.

Sole writer of the cycle history and of every version's stage. Long steps run as named tasks and answer with an event,
so that a live version is rolled back at once whatever a cycle is at. Decides nothing itself: the order of steps stands
in `cycle`, passing in `gate`, rolling back in `rollout`, starting by itself in `idle`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import assert_never, cast

import structlog

from gaiad.adapter import AdapterName, VersionName, VersionStage, is_adapter_name, version_parts
from gaiad.config import Config
from gaiad.conversations import Conversations
from gaiad.curriculum import Json
from gaiad.cycles import Cycles
from gaiad.errors import DatasetError, EngineError, GaiadError, NotYet, Refuse, StoreError, TrainingError
from gaiad.idle import Go
from gaiad.learner import artifacts, cycle
from gaiad.learner.attempt import Attempt, Order
from gaiad.learner.cycle import Command, Kind, Phase, Verdict
from gaiad.learner.events import (
    Answer,
    Broken,
    CancelAsked,
    Event,
    ForgetAsked,
    Looked,
    Ordered,
    RollbackAsked,
    StepEnded,
    Ticked,
    Unsettled,
    give,
)
from gaiad.learner.guards import Guards
from gaiad.learner.history import History
from gaiad.learner.lookout import Lookout
from gaiad.learner.ports import Gpu, ServingEngine
from gaiad.learner.runner import PROGRAMS, Programs
from gaiad.learner.slots import Slots
from gaiad.learner.steps import Steps
from gaiad.registry import Registry
from gaiad.rollout import ReplyOutcome

log = structlog.get_logger()

UNLOAD_PATIENCE_S = 60.0
"""How long an unwanted version may still be held by requests before its unloading is put off."""

_INLINE = frozenset({Command.REGISTER, Command.ACTIVATE, Command.REJECT})
_ONCE_SETTLED = frozenset({Command.ACQUIRE, Command.LOAD})


class LearnerLoop:
    """Owns cycles and stages. `boot` once, then `run`; everything else may be called from any task meanwhile."""

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        learning = config.learning
        self._config, self._registry = config, registry
        self._max_rank, self._clock = max_rank, clock
        self._steps = Steps(
            config=config,
            engine=engine,
            gpu=gpu,
            registry=registry,
            cycles=cycles,
            conversations=conversations,
            max_rank=max_rank,
            programs=programs,
        )
        self._slots = Slots(engine, gpu, registry, set_aside=self._set_aside, patience_s=UNLOAD_PATIENCE_S)
        self._lookout = Lookout(learning, gpu, self._steps, cycles, up_since=clock())
        self._history = History(cycles)
        self._guards = Guards(learning.guard_window, learning.guard_max_failures)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: asyncio.TaskGroup | None = None
        self._attempt: Attempt | None = None
        self._answer: Answer | None = None
        self._step: asyncio.Task[cycle.Event] | None = None
        self._looking = self._settling = self._settle_again = False
        self._settled = asyncio.Event()
        self._settled.set()

    # --- what others ask for --------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Load the registry, close what a killed daemon left open, and clear its staging directories."""
        await self._registry.load()
        now = self._clock()
        for row in await self._history.interrupt_unfinished(now):
            self._lookout.note_failure(AdapterName(row.adapter), row.reason or "", now)
        for version in self._registry.versions():
            if version.stage is VersionStage.CANDIDATE:
                reason = "gaiad ended before its exam did"
                await self._registry.set_stage(version.version, VersionStage.REJECTED, reason, now)
        await asyncio.to_thread(self._steps.clear_staging)

    async def run(self) -> None:
        """Take events until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                await self._take(await self._events.get())

    async def reconcile(self) -> None:
        """Bring the engine's adapters to what the registry wants; for the GPU's loop, before it opens the gate."""
        await self._slots.reconcile()
        self._events.put_nowait(Unsettled())

    def observe_reply(self, outcome: ReplyOutcome) -> None:
        """Take note of a reply; only those of versions count."""
        if outcome.version is not None:
            self._events.put_nowait(outcome)

    def tick(self) -> None:
        """See whether a cycle may start by itself."""
        self._events.put_nowait(Ticked())

    async def start_cycle(
        self, adapter: AdapterName, profile: str | None = None, source: str = "command", *, force: bool = False
    ) -> str | Refuse:
        """Start a cycle; returns its id once its dataset is frozen and found new (or `force` is set)."""
        order = Order(adapter, Kind.TRAIN, profile or self._config.learning.profile, source, force)
        answer = await self._ask(lambda future: Ordered(order, future))
        return answer if isinstance(answer, Refuse) else str(answer["cycle"])

    async def import_adapter(
        self, directory: Path, name: str | None, activate: bool, reason: str
    ) -> dict[str, object] | Refuse:
        """Take in an adapter trained elsewhere: file checks, exam, gate; returns how it ended.

        Raises:
            AdapterError: the files are not an adapter that the engine could serve.
        """
        name = name or directory.name
        if not is_adapter_name(name):
            return Refuse(f"{name!r} cannot name an adapter", "give it one with --name")
        if activate and not reason.strip():
            return Refuse("activating an adapter against the gate needs a reason", "add --reason TEXT")
        await asyncio.to_thread(artifacts.check_files, directory, max_rank=self._max_rank)
        order = Order(
            *(AdapterName(name), Kind.IMPORT, self._config.learning.profile),
            directory=directory,
            activate=activate,
            reason=reason,
        )
        return await self._ask(lambda future: Ordered(order, future))

    async def rollback(self, adapter: AdapterName, reason: str) -> dict[str, object] | Refuse:
        """Flip the alias to the version before, or to the base."""
        return await self._ask(lambda future: RollbackAsked(adapter, reason, future))

    def cancel(self, reason: str = "asked for") -> Refuse | None:
        """End the running cycle; serving goes on as before it."""
        if self._attempt is None:
            return Refuse("no cycle is running")
        if self._attempt.state.ending is not None:
            return Refuse("the cycle is at its end already", "gaiadctl status shows how it ends")
        self._events.put_nowait(CancelAsked(self._attempt.id, reason))
        return None

    async def consent_revoked(self, user: str) -> None:
        """Cancel the running cycle where it learns from what somebody no longer lets be learned from."""
        attempt = self._attempt
        if attempt is None:
            return
        try:
            self._steps.check_consent(attempt)
        except DatasetError as error:
            self._events.put_nowait(CancelAsked(attempt.id, error.message))

    async def forget(self, exchange_ids: Sequence[str], reason: str) -> dict[str, object] | Refuse:
        """Set aside at once every version that learned from these, and end a cycle that holds them, waiting for it."""
        ids = frozenset(exchange_ids)
        while True:
            answer = await self._ask(lambda future: ForgetAsked(ids, reason, future))
            if isinstance(answer, Refuse) or not answer["running"]:
                return answer
            await asyncio.sleep(0.05)

    async def wait_until_unloaded(self, versions: Sequence[str]) -> list[str]:
        """Wait a bounded time until the engine has none of these; returns those that it still has."""
        return await self._slots.wait_until_gone(versions)

    def status(self) -> dict[str, object]:
        """The learning part of the status page."""
        now = self._clock()
        attempt = self._attempt
        troubles = (self._slots.trouble, self._history.trouble, self._lookout.trouble)
        return {
            "enabled": self._config.learning.enabled,
            "cycle": attempt.status(now) if attempt else None,
            "last": self._history.last,
            "not_yet": self._lookout.why_not_yet(now, self._running()),
            "active": dict(self._registry.snapshot.active),
            "guards": self._guards.status(),
            "loaded": sorted(self._slots.in_engine),
            "trouble": "; ".join(filter(None, troubles)) or None,
        }

    # --- events ---------------------------------------------------------------------------------------------------

    async def _take(self, event: Event) -> None:
        match event:
            case ReplyOutcome():
                await self._watch(event)
            case StepEnded(attempt_id, outcome):
                if self._attempt is not None and self._attempt.id == attempt_id:
                    await self._advance(self._attempt, outcome)
            case CancelAsked(attempt_id, reason):
                if self._attempt is not None and self._attempt.id == attempt_id:
                    await self._advance(self._attempt, cycle.Cancel(reason))
            case Ordered(order, answer):
                await self._begin(order, answer)
            case RollbackAsked(adapter, reason, answer):
                give(answer, await self._rolled_back(adapter, reason))
            case Broken(version, reason, answer):
                give(answer, await self._quarantine(version, reason))
            case ForgetAsked(ids, reason, answer):
                give(answer, await self._forgotten(ids, reason))
            case Ticked():
                await self._on_tick()
            case Looked():
                self._looking = False
                await self._start_by_itself()
            case Unsettled():
                self._settle()
            case _:
                assert_never(event)

    async def _ask(self, event_with: Callable[[Answer], Event]) -> dict[str, object] | Refuse:
        answer: Answer = asyncio.get_running_loop().create_future()
        self._events.put_nowait(event_with(answer))
        return await answer

    # --- cycles ---------------------------------------------------------------------------------------------------

    async def _begin(self, order: Order, answer: Answer | None) -> None:
        refusal = self._refusal(order)
        if refusal is not None:
            give(answer, refusal)
            return
        now = self._clock()
        name = f"{order.adapter}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(2)}"
        state, commands = cycle.begin(order.kind)
        attempt = Attempt(name, order, now, self._config.runs_dir / name, state, phase_since=now)
        self._attempt, self._answer = attempt, answer
        log.info("cycle_started", cycle=name, adapter=order.adapter, kind=order.kind.value, source=order.source)
        await self._history.record(attempt)
        await self._perform(attempt, commands)

    def _refusal(self, order: Order) -> Refuse | None:
        if self._attempt is not None:
            return Refuse(f"{self._running()} is running", "wait for its end, or gaiadctl cancel")
        return self._steps.refusal(order)

    async def _advance(self, attempt: Attempt, event: cycle.Event) -> None:
        if isinstance(event, cycle.Failed):
            log.warning("cycle_step_failed", cycle=attempt.id, phase=attempt.state.phase.value, reason=event.reason)
        self._follow_slots(attempt, event)
        before = attempt.state.phase
        state, commands = cycle.step(attempt.state, event)
        attempt.enter(state, self._clock())
        if state.phase is not before:
            log.info("cycle_phase", cycle=attempt.id, phase=state.phase.value)
            if before is Phase.FREEZING:
                await self._answer_start(attempt)
            if state.phase is not Phase.DONE:
                await self._history.record(attempt)
        await self._perform(attempt, commands)

    def _follow_slots(self, attempt: Attempt, event: cycle.Event) -> None:
        version = attempt.version
        match event:
            case cycle.Loaded() if version is not None:
                self._slots.note_loaded(version)
            case cycle.Unloaded() if version is not None:
                self._slots.note_unloaded(version)
            case cycle.Registered():
                self._slots.candidate = version
            case _:
                pass

    async def _perform(self, attempt: Attempt, commands: tuple[Command, ...]) -> None:
        for command in commands:
            if command is Command.CLOSE:
                await self._close(attempt)
            elif command is Command.STOP_STEP:
                if self._step is not None:
                    self._step.cancel()
            elif command in _INLINE:
                # Changes of stage are made here, between events, so that no rollback can fall into the midst of one.
                self._events.put_nowait(StepEnded(attempt.id, await self._write(attempt, command)))
            else:
                self._spawn_step(attempt, command)

    def _spawn_step(self, attempt: Attempt, command: Command) -> None:
        assert self._tasks is not None
        self._step = self._tasks.create_task(self._stepped(attempt, command), name=f"learner-{command.value}")

        def ended(task: asyncio.Task[cycle.Event]) -> None:
            event = cycle.Failed("stopped") if task.cancelled() else task.result()
            self._events.put_nowait(StepEnded(attempt.id, event))

        self._step.add_done_callback(ended)

    async def _stepped(self, attempt: Attempt, command: Command) -> cycle.Event:
        try:
            if command in _ONCE_SETTLED:
                await self._settled.wait()
            return await self._steps.perform(attempt, command)
        except GaiadError as error:
            # Only a trainer that broke says something about what it was to learn from.
            return cycle.Failed(str(error), of_data=isinstance(error, TrainingError) and error.of_data)
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug in a step must end in serving, and be told
            # Where, and not what: what a bug says may hold what somebody said.
            kind, where = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            log.error("cycle_step_crashed", cycle=attempt.id, command=command.value, error=kind, where=where)
            return cycle.Failed(f"a bug: {kind} in {command.value}; the log says where")

    async def _write(self, attempt: Attempt, command: Command) -> cycle.Event:
        published, now = attempt.published, self._clock()
        assert published is not None
        version, report = published.version, cast("Mapping[str, Json]", attempt.report())
        try:
            match command:
                case Command.REGISTER:
                    lineage = cast("Mapping[str, Json]", attempt.lineage)
                    await self._registry.add(version, published.path, published.sha256, lineage, at=now)
                    return cycle.Registered()
                case Command.ACTIVATE:
                    self._steps.check_consent(attempt)
                    await self._registry.set_stage(version, VersionStage.CANDIDATE, attempt.reason, now, report)
                    await self._registry.activate(version, attempt.reason, now, override=attempt.forced)
                    self._guards.forget(attempt.order.adapter)
                    return cycle.Activated()
                case _:
                    await self._registry.set_stage(version, VersionStage.REJECTED, attempt.reason, now, report)
                    return cycle.Rejected()
        except GaiadError as error:
            return cycle.Failed(str(error))

    async def _answer_start(self, attempt: Attempt) -> None:
        """Once frozen: tell whoever asked for a cycle whether it goes on."""
        if attempt.dataset is not None and attempt.curriculum is not None and attempt.order.kind is Kind.TRAIN:
            self._lookout.remember(attempt.curriculum, attempt.corrections, attempt.material, attempt.dataset.digest)
        if attempt.order.kind is Kind.IMPORT:
            return
        if attempt.state.phase is not Phase.DONE:
            give(self._answer, {"cycle": attempt.id})
        elif attempt.verdict is Verdict.NOTHING_NEW:
            give(self._answer, Refuse(attempt.reason, "add corrections or change the curriculum, or use --force"))
        else:
            give(self._answer, Refuse(attempt.reason))

    async def _close(self, attempt: Attempt) -> None:
        now = self._clock()
        attempt.ended = now
        verdict, adapter = attempt.verdict, attempt.order.adapter
        assert verdict is not None
        await asyncio.to_thread(self._steps.clear, attempt)
        log.info("cycle_ended", cycle=attempt.id, verdict=verdict.value, reason=attempt.reason)
        if verdict in (Verdict.FAILED, Verdict.CANCELLED):
            self._lookout.note_failure(adapter, attempt.reason, now)
        else:
            self._lookout.note_success(adapter)
        await self._history.record(attempt)
        if verdict is not Verdict.NOTHING_NEW:
            self._history.note(adapter, verdict.value, attempt.reason, version=attempt.version, at=now)
        if attempt.has_learned or verdict is Verdict.NOTHING_NEW:
            self._lookout.news[adapter] = False
        # Only now: who sees no cycle running any more finds its end in the history.
        self._attempt, self._step, self._slots.candidate = None, None, None
        give(self._answer, attempt.outcome())
        self._answer = None
        self._settle()

    # --- live versions --------------------------------------------------------------------------------------------

    async def _watch(self, outcome: ReplyOutcome) -> None:
        decision, parts = self._guards.observe(outcome, self._registry.active), version_parts(outcome.version or "")
        if decision is None or parts is None:
            return
        answer = await self._rolled_back(parts.adapter, decision.reason)
        what = "live_rollback_refused" if isinstance(answer, Refuse) else "version_rolled_back"
        log.warning(what, version=parts.name, reason=decision.reason, answer=str(answer))

    async def _rolled_back(
        self, adapter: AdapterName, reason: str, to_stage: VersionStage = VersionStage.ROLLED_BACK
    ) -> dict[str, object] | Refuse:
        old, now = self._registry.active.get(adapter), self._clock()
        if old is None:
            return Refuse(f"{adapter} has no active version, so there is nothing to roll back")
        try:
            new = await self._registry.rollback(adapter, reason, now, to_stage)
        except StoreError as error:
            # The next bad reply, or the next try, asks again.
            return Refuse(f"the rollback could not be written: {error.message}", error.hint)
        self._guards.forget(adapter)
        self._history.note(adapter, to_stage.value, reason, version=old, at=now)
        self._settle()
        return {"adapter": adapter, "version": new, "rolled_back": old, "reason": reason}

    async def _set_aside(self, version: VersionName, reason: str) -> None:
        answer = await self._ask(lambda future: Broken(version, reason, future))
        if isinstance(answer, Refuse):
            raise EngineError(f"{version} cannot be loaded nor set aside: {answer.reason}", hint=answer.hint)

    async def _quarantine(self, version: VersionName, reason: str) -> dict[str, object] | Refuse:
        parts = version_parts(version)
        assert parts is not None
        if self._registry.active.get(parts.adapter) == version:
            return await self._rolled_back(parts.adapter, reason, VersionStage.QUARANTINED)
        try:
            await self._registry.set_stage(version, VersionStage.QUARANTINED, reason, self._clock())
        except StoreError as error:
            return Refuse(error.message, error.hint)
        return {"version": version}

    async def _forgotten(self, ids: frozenset[str], reason: str) -> dict[str, object] | Refuse:
        attempt = self._attempt if self._attempt and self._attempt.holds(ids) else None
        # An import only has to be waited for: it learns from nobody.
        if attempt is not None and attempt.state.ending is None and attempt.order.kind is Kind.TRAIN:
            await self._advance(attempt, cycle.Cancel(reason))
        active, mine = self._registry.active.values(), attempt and attempt.version
        # The candidate is the cycle's until that is over. Active ones come last: a rollback finds only clean ones then.
        for row in sorted(self._registry.stained(ids), key=lambda row: row.version in active):
            if row.version != mine and row.stage is not VersionStage.QUARANTINED:
                answer = await self._quarantine(row.version, reason)
                if isinstance(answer, Refuse):
                    return answer
        self._settle()
        return {"running": attempt is not None}

    def _settle(self) -> None:
        self._slots.keep_wanted()
        if self._settling:
            self._settle_again = True
            return
        assert self._tasks is not None
        self._settling, self._settle_again = True, False
        self._settled.clear()
        self._tasks.create_task(self._slots.settle(), name="learner-settle").add_done_callback(self._on_settled)

    def _on_settled(self, _: asyncio.Task[None]) -> None:
        self._settling = False
        self._settled.set()
        if self._settle_again:
            self._events.put_nowait(Unsettled())

    # --- starting by itself ---------------------------------------------------------------------------------------

    async def _on_tick(self) -> None:
        await self._history.write()
        if self._slots.unsettled:
            self._settle()
        if self._looking or isinstance(self._lookout.may_start(None, self._clock(), self._running()), NotYet):
            return
        assert self._tasks is not None
        self._looking = True
        look = self._tasks.create_task(self._lookout.look(), name="learner-look")
        look.add_done_callback(lambda _: self._events.put_nowait(Looked()))

    async def _start_by_itself(self) -> None:
        for adapter in sorted(self._lookout.news):
            if isinstance(self._lookout.may_start(adapter, self._clock(), self._running()), Go):
                order = Order(adapter, Kind.TRAIN, self._config.learning.profile, "idle")
                if self._refusal(order) is None:
                    await self._begin(order, None)
                    return

    # --- small things ---------------------------------------------------------------------------------------------

    def _running(self) -> str | None:
        if self._attempt is None:
            return None
        what = "the import" if self._attempt.order.kind is Kind.IMPORT else "a cycle"
        return f"{what} of {self._attempt.order.adapter}"
