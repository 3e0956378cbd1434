"""The GPU's loop: sole writer of the phase, performer of what `gpu.handoff` decides.

One task consumes a queue of events; commands that take time run as named tasks beside it, and their outcomes come
back as events. Proxy and learner never write here: they ask for a lease (`admit`) or a hold (`acquire`), and what
they do is an event. Decides nothing itself about phases; knows nothing of cycles, versions or HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

import structlog

from gaiad.adapter import VersionName
from gaiad.config import Config
from gaiad.errors import EngineError, GaiadError, Refuse
from gaiad.gpu import probe
from gaiad.gpu.admission import Gate, Lease
from gaiad.gpu.engine import Engine
from gaiad.gpu.handoff import MEANING, OUTCOMES, Act, Event, On, Phase, State, backoff_s, step

log = structlog.get_logger()

_STEADY_S = 60.0
_AWAKE = (Phase.SERVING, Phase.HELD, Phase.LENT)
_FAREWELL_S = 10.0
_PROBES, _PROBE_PAUSE_S = 3, 1.0


class Pausable(Protocol):
    """A child that can stand still while a user is answered."""

    def pause(self) -> None:
        """Stand still at once."""

    def resume(self) -> None:
        """Go on."""


class Hold:
    """The trainer's claim on the machine. `lost` is set where it ended without us, `preempt` where a user waits."""

    def __init__(self, loop: GpuLoop, reason: str) -> None:
        self._loop = loop
        self._released: asyncio.Future[None] | None = None
        self.reason = reason
        self.child: Pausable | None = None
        self.lost = asyncio.Event()
        self.preempt = asyncio.Event()

    def attach(self, child: Pausable) -> None:
        """Name the child that must stand still when a user comes; it does at once if one is being served."""
        self.child = child
        if self._loop.trainer_must_stand_still:
            child.pause()

    async def release(self) -> None:
        """Give the machine back; returns once requests are served again.

        Raises:
            EngineError: the engine does not come back by itself (it is tried on nevertheless).
        """
        if self._released is None:
            self._released = asyncio.get_running_loop().create_future()
            self._loop.gave_back(self._released)
        await asyncio.shield(self._released)


class GpuLoop:
    """Owns the phase. `reconcile` gives the engine what the registry wants, before the gate opens.

    `expected` is what the engine should then have: one that lost an adapter (started anew between two looks, or told
    so by somebody else) is taken for ended, and comes back with its adapters.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        reconcile: Callable[[], Awaitable[None]],
        *,
        health_every_s: float = 5.0,
        expected: Callable[[], frozenset[VersionName]] = frozenset,
    ) -> None:
        self._engine = engine
        self._expected = expected
        self._config = config
        self._reconcile = reconcile
        self._health_every_s = health_every_s
        self._state = State(device=engine.device)
        self._since = time.time()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._gate = Gate(config.proxy.max_held, lambda: self._post(On.USER_ARRIVED))
        self._hold: Hold | None = None
        self._asked: asyncio.Future[Hold | Refuse] | None = None
        self._releasing: asyncio.Future[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ended = False
        self._serial = 0
        self._progress: tuple[float, str] | None = None
        self._awake_free_bytes = 0

    # --- what it tells ------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the accelerator stands."""
        return self._state.phase

    @property
    def reason(self) -> str:
        """The last failure that still matters and what a start is at, or nothing."""
        parts = [self._state.reason]
        if self._progress is not None:
            elapsed_s, stage = self._progress
            parts.append(f"starting for {elapsed_s:.0f} s ({stage})")
        return "; ".join(part for part in parts if part)

    @property
    def trainer_must_stand_still(self) -> bool:
        """Whether requests are being served from the trainer's time."""
        return self._state.trainer_stopped

    @property
    def active_inference(self) -> int:
        """How many requests are being answered."""
        return self._gate.active

    @property
    def held(self) -> int:
        """How many requests wait for the gate."""
        return self._gate.held

    @property
    def last_user_end(self) -> float | None:
        """When the last user request ended (seconds since the epoch)."""
        return self._gate.last_user_end

    def leases(self, version: VersionName) -> int:
        """How many requests run on this version."""
        return self._gate.leases(version)

    def status(self) -> dict[str, object]:
        """Return the loop's part of the status page."""
        state = self._state
        return {
            "phase": str(state.phase),
            "meaning": MEANING[state.phase],
            "since": self._since,
            "reason": self.reason,
            "device": state.device,
            "failures": state.failures,
            "hold": str(state.hold),
            "held_for": self._hold.reason if self._hold is not None else None,
            "trainer_stopped": state.trainer_stopped,
            "engine_pid": self._engine.pid,
        }

    # --- the ports ----------------------------------------------------------------------------------------------------

    def admit_now(self, *, is_user: bool) -> Lease | None:
        """Let a request in if the engine serves; None where it would have to wait."""
        return self._gate.admit_now(is_user=is_user)

    async def admit(self, *, is_user: bool, timeout_s: float) -> Lease | Refuse:
        """Let a request in as soon as the engine serves, in order of arrival, at most `timeout_s` from now."""
        return await self._gate.admit(is_user=is_user, timeout_s=timeout_s)

    def refuse_all(self) -> None:
        """Refuse all who wait and all who come, because gaiad is stopping; those inside may end."""
        self._gate.close()
        self._gate.refuse(Refuse("gaiad is stopping", hint="try again once it runs"))

    async def acquire(self, reason: str) -> Hold | Refuse:
        """Quiet the engine and claim the machine; waits while users are being served."""
        if self._hold is not None:
            return Refuse(
                f"the machine is claimed already: {self._hold.reason}", hint="wait for it to end, or cancel it"
            )
        if self._ended:
            return Refuse("gaiad is stopping")
        hold = self._hold = Hold(self, reason)
        self._asked = asyncio.get_running_loop().create_future()
        self._post(On.HOLD_WANTED)
        try:
            return await self._asked
        except asyncio.CancelledError:
            if self._hold is hold:
                self._post(On.HOLD_RELEASED)
            raise

    def gave_back(self, released: asyncio.Future[None]) -> None:
        """Take note that the hold was released, and who waits for serving to begin (called by the hold)."""
        # A release that nobody waits for any more must not complain about its own failure.
        released.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._releasing = released
        if self._ended:
            self._fail_release("gaiad is stopping")
        self._post(On.HOLD_RELEASED)

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the engine and follow events until cancelled. The engine itself is stopped by its owner."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._watch_health(), name="gpu-health")
                self._post(On.BOOTED)
                while True:
                    self._take(await self._events.get())
        finally:
            self._tasks, self._ended = None, True
            self.refuse_all()
            self._fail_release("gaiad is stopping")
            if self._asked is not None and not self._asked.done():
                self._asked.set_result(Refuse("gaiad is stopping"))
            await self._leave_awake()

    def _post(self, on: On, reason: str = "") -> None:
        self._events.put_nowait(Event(on, reason))

    def _take(self, event: Event) -> None:
        before = self._state
        self._state, acts = step(before, event)
        if event.on is On.HOLD_RELEASED:
            self._hold = None
        if self._state.phase is not before.phase:
            self._since = time.time()
            self._end_running()
            log.info(
                "gpu_phase", phase=str(self._state.phase), was=str(before.phase), on=str(event.on), why=event.reason
            )
        for act in acts:
            self._perform(act, event)

    def _perform(self, act: Act, event: Event) -> None:
        match act:
            case Act.OPEN_GATE:
                self._gate.open()
            case Act.CLOSE_GATE:
                self._gate.close()
            case Act.REFUSE_WAITING:
                self._gate.refuse(
                    Refuse(f"the engine does not start: {event.reason}", hint="gaiadctl status tells more")
                )
            case Act.GRANT_HOLD | Act.REFUSE_HOLD | Act.LOSE_HOLD | Act.PREEMPT_TRAINER:
                self._tell_holder(act, event)
            case Act.STOP_TRAINER | Act.CONTINUE_TRAINER:
                self._signal_trainer(act)
            case Act.FINISH_RELEASE:
                releasing, self._releasing = self._releasing, None
                if releasing is not None and not releasing.done():
                    releasing.set_result(None)
            case Act.FAIL_RELEASE:
                self._fail_release(event.reason)
            case (
                Act.START_ENGINE
                | Act.PROBE
                | Act.DRAIN
                | Act.PAUSE_ENGINE
                | Act.VERIFY
                | Act.WAKE_ENGINE
                | Act.AWAIT_BACKOFF
                | Act.AWAIT_QUIET
            ):
                self._begin(act)
            case _:
                assert_never(act)

    def _tell_holder(self, act: Act, event: Event) -> None:
        hold, asked = self._hold, self._asked
        if act is Act.GRANT_HOLD and hold is not None and asked is not None and not asked.done():
            asked.set_result(hold)
        elif act is Act.REFUSE_HOLD:
            self._hold = None
            if asked is not None and not asked.done():
                asked.set_result(Refuse(self._why_not(event), hint="try again once gaiadctl status shows serving"))
        elif act is Act.LOSE_HOLD and hold is not None:
            hold.lost.set()
        elif act is Act.PREEMPT_TRAINER and hold is not None:
            hold.preempt.set()

    def _why_not(self, event: Event) -> str:
        if event.on is On.HOLD_WANTED:
            return f"the engine is not serving: {MEANING[self._state.phase]}"
        return event.reason or "a user request came first"

    def _signal_trainer(self, act: Act) -> None:
        child = self._hold.child if self._hold is not None else None
        success, failure = OUTCOMES[act]
        try:
            if child is not None and act is Act.STOP_TRAINER:
                child.pause()
            elif child is not None:
                child.resume()
        except (OSError, GaiadError) as error:
            self._take(Event(failure, f"the trainer cannot be signalled: {error}"))
        else:
            self._take(Event(success))

    def _fail_release(self, reason: str) -> None:
        releasing, self._releasing = self._releasing, None
        if releasing is not None and not releasing.done():
            releasing.set_exception(EngineError(f"requests are not served yet: {reason}", hint="see gaiadctl status"))

    # --- commands that take time --------------------------------------------------------------------------------------

    def _begin(self, act: Act) -> None:
        before = self._end_running()
        if self._tasks is None:
            return
        self._running = self._tasks.create_task(self._command(act, self._serial, before), name=f"gpu-{act}")

    def _end_running(self) -> asyncio.Task[None] | None:
        # The outcome of a command that was ended must not be heard: its serial number is old from here on.
        self._serial += 1
        self._progress = None
        if self._running is not None:
            self._running.cancel()
        return self._running

    async def _command(self, act: Act, serial: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        success, failure = OUTCOMES[act]
        try:
            await self._work(act)
        except GaiadError as error:
            outcome = Event(failure, str(error))
        else:
            outcome = Event(success)
        if serial == self._serial:
            self._progress = None
            self._events.put_nowait(outcome)

    async def _work(self, act: Act) -> None:
        engine, learning = self._engine, self._config.learning
        on_cpu = self._state.device == "cpu"
        match act:
            case Act.START_ENGINE:
                await self._start_engine()
            case Act.PROBE:
                await self._reconcile()
                await self._probe()
                self._awake_free_bytes = 0 if on_cpu else probe.device_memory("gpu").free_bytes
            case Act.DRAIN:
                await self._drain(learning.drain_s)
            case Act.PAUSE_ENGINE:
                within_s = max(1.0, learning.drain_s)
                await (engine.pause(within_s) if on_cpu else engine.sleep(within_s))
            case Act.VERIFY:
                await self._verify()
            case Act.WAKE_ENGINE:
                await self._wake()
            case Act.AWAIT_QUIET:
                await self._gate.until_quiet(learning.resume_after_s)
            case Act.AWAIT_BACKOFF:
                await asyncio.sleep(backoff_s(self._state.failures))
            case _:
                raise AssertionError(act)

    async def _start_engine(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._engine.start(self._note_progress)
        await self._engine.wait_healthy(self._note_progress)
        if not self._engine.managed:
            await self._wake_if_quiet()
        if self._tasks is not None:
            self._watch = self._tasks.create_task(self._watch_exit(), name="gpu-watch")

    async def _probe(self) -> None:
        # One answer that came too late must not cost a healthy engine its life: it is asked again while it lives.
        for tries_left in reversed(range(_PROBES)):
            try:
                await self._engine.probe(None)
            except EngineError:
                if not tries_left or not self._engine.alive() or not await self._engine.healthy():
                    raise
                await asyncio.sleep(_PROBE_PAUSE_S)
            else:
                return

    async def _wake(self) -> None:
        await (self._engine.resume() if self._state.device == "cpu" else self._engine.wake())

    async def _wake_if_quiet(self) -> None:
        # A daemon that was killed while a trainer had the machine left it so, and nobody else will wake it.
        if await self._engine.paused():
            log.info("quiet_engine_woken")
            await self._wake()

    async def _leave_awake(self) -> None:
        """An engine that is not ours outlives us: it must not stay quiet for a trainer that is gone."""
        if self._engine.managed or self._state.phase is Phase.SERVING:
            return
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await self._wake_if_quiet()
        except (TimeoutError, EngineError) as error:
            # The loop's end: the next start wakes it, and there is nobody left to tell but the log.
            log.warning("engine_not_woken", why=str(error))

    def _note_progress(self, elapsed_s: float, stage: str) -> None:
        if self._progress is None or self._progress[1] != stage:
            log.info("engine_starting", elapsed_s=round(elapsed_s, 1), stage=stage)
        self._progress = (elapsed_s, stage)

    async def _drain(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._gate.until_idle()
        except TimeoutError as error:
            message = f"{self._gate.active} requests still ran after {within_s:g} s"
            raise EngineError(message, hint="raise learning.drain_s") from error

    async def _verify(self) -> None:
        if not await self._engine.paused():
            raise EngineError("the engine says that it is not paused", hint="see logs/engine.log")
        if self._state.device == "cpu":
            return
        # Measured memory is believed, not the engine's 200: at least half of what it used must be free again.
        memory = await asyncio.to_thread(probe.device_memory, "gpu")
        used_bytes = memory.total_bytes - self._awake_free_bytes
        freed_bytes = memory.free_bytes - self._awake_free_bytes
        if freed_bytes * 2 < used_bytes:
            message = f"sleeping freed {freed_bytes / 2**30:.1f} of {used_bytes / 2**30:.1f} GiB"
            raise EngineError(message, hint="see whether another program uses the GPU")

    # --- watching -----------------------------------------------------------------------------------------------------

    async def _watch_exit(self) -> None:
        self._post(On.ENGINE_DIED, await self._engine.exited())

    async def _health_problem(self) -> str:
        if not await self._engine.healthy():
            return "the engine does not answer its health check"
        # 1. Only another's engine can lose adapters and live. 2. One that is just being unloaded is no loss: a loss
        # must be seen as often as a missed health check.
        if self._engine.managed or self._state.phase is not Phase.SERVING or not self._expected():
            return ""
        try:
            lost = self._expected() - await self._engine.loaded()
        except EngineError as error:
            return error.message
        return f"the engine no longer has {', '.join(sorted(lost))}: it was started anew" if lost else ""

    async def _watch_health(self) -> None:
        patience = 6 if self._engine.managed else 2
        misses = 0
        while True:
            await asyncio.sleep(self._health_every_s)
            if self._state.phase not in _AWAKE:
                misses = 0
                continue
            problem = await self._health_problem()
            misses = misses + 1 if problem else 0
            if problem and misses >= patience and self._state.phase in _AWAKE:
                misses = 0
                self._post(On.ENGINE_DIED, problem)
            elif self._state.phase is Phase.SERVING and self._state.failures and time.time() - self._since > _STEADY_S:
                self._post(On.STEADY)
