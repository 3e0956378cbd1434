"""Who may use the accelerator: one transition table, (state, event) -> (state, commands).

Decides the GPU phase, when the gate for requests is open, when the trainer may run and what is to be done next.
Touches nothing: `gpu.loop` performs the commands and feeds their outcomes back as events. It knows no clock, no
lease and no engine; waiting is a command whose end is an event.

Two promises, held by tests over every reachable state: the gate is never open while a trainer runs, and every
failure leads back to serving as long as commands succeed again.

An event without a row changes no phase: it came too late or means nothing there. Guards look at the state as it was
before the event. A change of phase ends the command in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

Device = Literal["cpu", "gpu"]

TIRED_AFTER = 3
"""So many failures in a row, and requests are refused at once instead of held (the attempts go on)."""


class Phase(StrEnum):
    """Where the accelerator stands. The text of each is what `docs/architecture.md` says about it."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    SLEEPING = "sleeping"
    VERIFYING = "verifying"
    HELD = "held"
    LENT = "lent"
    WAKING = "waking"
    PROBING = "probing"
    RESTARTING = "restarting"
    DOWN = "down"


MEANING: Mapping[Phase, str] = {
    Phase.STARTING: "the engine is starting for the first time; requests are held",
    Phase.SERVING: "the gate is open",
    Phase.DRAINING: "the gate is closed, requests that run may end",
    Phase.SLEEPING: "the engine is being paused (CPU) or put to sleep (GPU)",
    Phase.VERIFYING: "what the engine gave up is being measured",
    Phase.HELD: "the trainer has the machine; requests are held",
    Phase.LENT: "a user request came first: the trainer stands still and requests are served",
    Phase.WAKING: "the engine is being resumed or woken",
    Phase.PROBING: "adapters are reconciled and a few tokens are asked for",
    Phase.RESTARTING: "the engine failed and is being started again; requests are held",
    Phase.DOWN: "several attempts in a row failed; requests are refused, the attempts go on",
}


class HoldState(StrEnum):
    """The trainer's claim: none, asked for, given, or taken back and not yet released."""

    NONE = "none"
    WANTED = "wanted"
    GRANTED = "granted"
    LOST = "lost"


class On(StrEnum):
    """What can happen."""

    BOOTED = "booted"
    ENGINE_STARTED = "engine_started"
    START_FAILED = "start_failed"
    ENGINE_DIED = "engine_died"
    BACKOFF_OVER = "backoff_over"
    STEADY = "steady"
    HOLD_WANTED = "hold_wanted"
    HOLD_RELEASED = "hold_released"
    USER_ARRIVED = "user_arrived"
    QUIET = "quiet"
    DRAINED = "drained"
    DRAIN_TIMED_OUT = "drain_timed_out"
    ENGINE_PAUSED = "engine_paused"
    PAUSE_FAILED = "pause_failed"
    VERIFIED = "verified"
    VERIFY_FAILED = "verify_failed"
    TRAINER_STOPPED = "trainer_stopped"
    TRAINER_NOT_STOPPED = "trainer_not_stopped"
    TRAINER_CONTINUED = "trainer_continued"
    TRAINER_NOT_CONTINUED = "trainer_not_continued"
    ENGINE_WOKEN = "engine_woken"
    WAKE_FAILED = "wake_failed"
    PROBE_PASSED = "probe_passed"
    PROBE_FAILED = "probe_failed"


class Act(StrEnum):
    """What the loop is told to perform, in order."""

    START_ENGINE = "start_engine"
    AWAIT_BACKOFF = "await_backoff"
    OPEN_GATE = "open_gate"
    CLOSE_GATE = "close_gate"
    REFUSE_WAITING = "refuse_waiting"
    DRAIN = "drain"
    PAUSE_ENGINE = "pause_engine"
    VERIFY = "verify"
    GRANT_HOLD = "grant_hold"
    REFUSE_HOLD = "refuse_hold"
    LOSE_HOLD = "lose_hold"
    STOP_TRAINER = "stop_trainer"
    CONTINUE_TRAINER = "continue_trainer"
    PREEMPT_TRAINER = "preempt_trainer"
    AWAIT_QUIET = "await_quiet"
    WAKE_ENGINE = "wake_engine"
    PROBE = "probe"
    FINISH_RELEASE = "finish_release"
    FAIL_RELEASE = "fail_release"


OUTCOMES: Mapping[Act, tuple[On, On]] = {
    Act.START_ENGINE: (On.ENGINE_STARTED, On.START_FAILED),
    Act.PROBE: (On.PROBE_PASSED, On.PROBE_FAILED),
    Act.DRAIN: (On.DRAINED, On.DRAIN_TIMED_OUT),
    Act.PAUSE_ENGINE: (On.ENGINE_PAUSED, On.PAUSE_FAILED),
    Act.VERIFY: (On.VERIFIED, On.VERIFY_FAILED),
    Act.WAKE_ENGINE: (On.ENGINE_WOKEN, On.WAKE_FAILED),
    Act.STOP_TRAINER: (On.TRAINER_STOPPED, On.TRAINER_NOT_STOPPED),
    Act.CONTINUE_TRAINER: (On.TRAINER_CONTINUED, On.TRAINER_NOT_CONTINUED),
    Act.AWAIT_BACKOFF: (On.BACKOFF_OVER, On.BACKOFF_OVER),
    Act.AWAIT_QUIET: (On.QUIET, On.QUIET),
}
"""What a command's success and failure are called. Commands that are not here cannot fail."""

_FAILURES = frozenset({On.START_FAILED, On.ENGINE_DIED, On.WAKE_FAILED, On.PROBE_FAILED})
_EXPLAINED = _FAILURES | {
    On.PAUSE_FAILED,
    On.VERIFY_FAILED,
    On.DRAIN_TIMED_OUT,
    On.TRAINER_NOT_STOPPED,
    On.TRAINER_NOT_CONTINUED,
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `reason` is one sentence where it needs one."""

    on: On
    reason: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """Everything the table looks at."""

    phase: Phase = Phase.STARTING
    device: Device = "cpu"
    hold: HoldState = HoldState.NONE
    gate_open: bool = False
    trainer_stopped: bool = False
    user_waiting: bool = False
    failures: int = 0
    reason: str = ""

    @property
    def trainer_may_run(self) -> bool:
        """Whether a trainer may be using the machine now."""
        return self.hold in (HoldState.GRANTED, HoldState.LOST) and not self.trainer_stopped


@dataclass(frozen=True, slots=True)
class When:
    """A row's guard; an empty field matches everything."""

    hold: HoldState | None = None
    device: Device | None = None
    gate_open: bool | None = None
    user_waiting: bool | None = None
    tired: bool | None = None

    def holds(self, state: State) -> bool:
        """Say whether the guard matches `state`."""
        return (
            (self.hold is None or self.hold is state.hold)
            and (self.device is None or self.device == state.device)
            and (self.gate_open is None or self.gate_open == state.gate_open)
            and (self.user_waiting is None or self.user_waiting == state.user_waiting)
            and (self.tired is None or self.tired == (state.failures >= TIRED_AFTER - 1))
        )

    def label(self) -> str:
        """Name the guard in a diagram."""
        words: list[str] = []
        if self.hold is not None:
            words.append("no hold" if self.hold is HoldState.NONE else f"hold {self.hold}")
        if self.device is not None:
            words.append(self.device)
        if self.gate_open is not None:
            words.append("gate open" if self.gate_open else "gate closed")
        if self.user_waiting is not None:
            words.append("user waiting" if self.user_waiting else "nobody waiting")
        if self.tired is not None:
            words.append("again and again" if self.tired else "at first")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: in `source`, on `on`, if `when`, go to `target` and perform `acts`."""

    source: Phase
    on: On
    target: Phase
    acts: tuple[Act, ...] = ()
    when: When = When()


_ANY = When()
_NO_HOLD = When(hold=HoldState.NONE)
_WANTED = When(hold=HoldState.WANTED)
_GRANTED = When(hold=HoldState.GRANTED)
_LOST = When(hold=HoldState.LOST)
_USER_FIRST = When(device="cpu", user_waiting=True)


def _death(source: Phase) -> Iterable[Row]:
    # 1. Nobody trains: start again. 2. Somebody waits to train: not now. 3. Somebody trains: the claim is lost, and
    # the engine starts once it is given back. 4. It was lost already: the same.
    target = Phase.RESTARTING
    yield Row(source, On.ENGINE_DIED, target, (Act.CLOSE_GATE, Act.AWAIT_BACKOFF), _NO_HOLD)
    yield Row(source, On.ENGINE_DIED, target, (Act.CLOSE_GATE, Act.REFUSE_HOLD, Act.AWAIT_BACKOFF), _WANTED)
    yield Row(source, On.ENGINE_DIED, target, (Act.CLOSE_GATE, Act.LOSE_HOLD), _GRANTED)
    yield Row(source, On.ENGINE_DIED, target, (Act.CLOSE_GATE,), _LOST)


_P = Phase
_AWAKE = (_P.SERVING, _P.DRAINING, _P.SLEEPING, _P.VERIFYING, _P.HELD, _P.LENT, _P.WAKING, _P.PROBING)
_BUSY = (_P.STARTING, _P.WAKING, _P.PROBING, _P.RESTARTING, _P.DOWN)
_AGAIN = (Act.CLOSE_GATE, Act.FAIL_RELEASE, Act.AWAIT_BACKOFF)

TABLE: tuple[Row, ...] = (
    # Start, restart, give up for a while but never for good.
    Row(_P.STARTING, On.BOOTED, _P.STARTING, (Act.START_ENGINE,)),
    Row(_P.STARTING, On.ENGINE_STARTED, _P.PROBING, (Act.PROBE,)),
    Row(_P.STARTING, On.START_FAILED, _P.RESTARTING, _AGAIN),
    Row(_P.RESTARTING, On.BACKOFF_OVER, _P.RESTARTING, (Act.START_ENGINE,)),
    Row(_P.RESTARTING, On.HOLD_RELEASED, _P.RESTARTING, (Act.AWAIT_BACKOFF,), _LOST),
    Row(_P.RESTARTING, On.ENGINE_STARTED, _P.PROBING, (Act.PROBE,)),
    Row(_P.RESTARTING, On.START_FAILED, _P.RESTARTING, _AGAIN, When(tired=False)),
    Row(_P.RESTARTING, On.START_FAILED, _P.DOWN, (Act.REFUSE_WAITING, *_AGAIN), When(tired=True)),
    Row(_P.DOWN, On.BACKOFF_OVER, _P.DOWN, (Act.START_ENGINE,)),
    Row(_P.DOWN, On.ENGINE_STARTED, _P.PROBING, (Act.PROBE,)),
    Row(_P.DOWN, On.START_FAILED, _P.DOWN, (Act.AWAIT_BACKOFF,)),
    Row(_P.PROBING, On.PROBE_PASSED, _P.SERVING, (Act.OPEN_GATE, Act.FINISH_RELEASE)),
    Row(_P.PROBING, On.PROBE_FAILED, _P.RESTARTING, _AGAIN, When(tired=False)),
    Row(_P.PROBING, On.PROBE_FAILED, _P.DOWN, (Act.REFUSE_WAITING, *_AGAIN), When(tired=True)),
    Row(_P.SERVING, On.STEADY, _P.SERVING),
    *(row for phase in _AWAKE for row in _death(phase)),
    # From serving to held.
    Row(_P.SERVING, On.HOLD_WANTED, _P.DRAINING, (Act.CLOSE_GATE, Act.DRAIN)),
    *(Row(phase, On.HOLD_WANTED, phase, (Act.REFUSE_HOLD,)) for phase in _BUSY),
    Row(_P.DRAINING, On.DRAINED, _P.SLEEPING, (Act.PAUSE_ENGINE,)),
    Row(_P.DRAINING, On.DRAIN_TIMED_OUT, _P.SERVING, (Act.REFUSE_HOLD, Act.OPEN_GATE), _WANTED),
    Row(_P.DRAINING, On.DRAIN_TIMED_OUT, _P.LENT, (Act.OPEN_GATE, Act.AWAIT_QUIET), _GRANTED),
    Row(_P.DRAINING, On.USER_ARRIVED, _P.LENT, (Act.OPEN_GATE, Act.AWAIT_QUIET)),
    Row(_P.DRAINING, On.HOLD_RELEASED, _P.SERVING, (Act.OPEN_GATE, Act.FINISH_RELEASE)),
    Row(_P.SLEEPING, On.HOLD_RELEASED, _P.SLEEPING),
    Row(_P.SLEEPING, On.HOLD_WANTED, _P.SLEEPING, (Act.REFUSE_HOLD,), _NO_HOLD),
    Row(_P.SLEEPING, On.ENGINE_PAUSED, _P.WAKING, (Act.WAKE_ENGINE,), _NO_HOLD),
    Row(_P.SLEEPING, On.ENGINE_PAUSED, _P.VERIFYING, (Act.VERIFY,)),
    Row(_P.SLEEPING, On.PAUSE_FAILED, _P.WAKING, (Act.WAKE_ENGINE,), _NO_HOLD),
    Row(_P.SLEEPING, On.PAUSE_FAILED, _P.WAKING, (Act.REFUSE_HOLD, Act.WAKE_ENGINE), _WANTED),
    Row(_P.SLEEPING, On.PAUSE_FAILED, _P.HELD, (Act.LOSE_HOLD,), _GRANTED),
    Row(_P.VERIFYING, On.HOLD_RELEASED, _P.WAKING, (Act.WAKE_ENGINE,)),
    Row(_P.VERIFYING, On.VERIFIED, _P.LENT, (Act.WAKE_ENGINE,), _USER_FIRST),
    Row(
        _P.VERIFYING, On.VERIFIED, _P.WAKING, (Act.REFUSE_HOLD, Act.WAKE_ENGINE), When(device="gpu", user_waiting=True)
    ),
    Row(_P.VERIFYING, On.VERIFIED, _P.HELD, (Act.GRANT_HOLD,), _WANTED),
    Row(_P.VERIFYING, On.VERIFIED, _P.HELD, (Act.CONTINUE_TRAINER,), _GRANTED),
    Row(_P.VERIFYING, On.VERIFY_FAILED, _P.WAKING, (Act.REFUSE_HOLD, Act.WAKE_ENGINE), _WANTED),
    Row(_P.VERIFYING, On.VERIFY_FAILED, _P.HELD, (Act.LOSE_HOLD,), _GRANTED),
    # Held, and lent to a user request.
    Row(_P.HELD, On.USER_ARRIVED, _P.LENT, (Act.STOP_TRAINER,), When(hold=HoldState.GRANTED, device="cpu")),
    Row(_P.HELD, On.USER_ARRIVED, _P.HELD, (Act.PREEMPT_TRAINER,), When(hold=HoldState.GRANTED, device="gpu")),
    Row(_P.HELD, On.TRAINER_CONTINUED, _P.HELD),
    Row(_P.HELD, On.TRAINER_NOT_CONTINUED, _P.HELD, (Act.LOSE_HOLD,), _GRANTED),
    Row(_P.HELD, On.HOLD_RELEASED, _P.WAKING, (Act.WAKE_ENGINE,)),
    Row(_P.LENT, On.TRAINER_STOPPED, _P.LENT, (Act.WAKE_ENGINE,)),
    Row(_P.LENT, On.TRAINER_NOT_STOPPED, _P.HELD, (Act.LOSE_HOLD,)),
    Row(_P.LENT, On.ENGINE_WOKEN, _P.LENT, (Act.OPEN_GATE, Act.AWAIT_QUIET)),
    Row(_P.LENT, On.WAKE_FAILED, _P.RESTARTING, (Act.REFUSE_HOLD, Act.AWAIT_BACKOFF), _WANTED),
    Row(_P.LENT, On.WAKE_FAILED, _P.RESTARTING, (Act.LOSE_HOLD,), _GRANTED),
    Row(_P.LENT, On.QUIET, _P.DRAINING, (Act.CLOSE_GATE, Act.DRAIN)),
    Row(_P.LENT, On.HOLD_RELEASED, _P.SERVING, (Act.FINISH_RELEASE,), When(gate_open=True)),
    Row(_P.LENT, On.HOLD_RELEASED, _P.WAKING, (Act.WAKE_ENGINE,), When(gate_open=False)),
    # Back to serving.
    Row(_P.WAKING, On.ENGINE_WOKEN, _P.PROBING, (Act.PROBE,)),
    Row(_P.WAKING, On.WAKE_FAILED, _P.RESTARTING, (Act.CLOSE_GATE, Act.AWAIT_BACKOFF)),
)


def step(state: State, event: Event, table: tuple[Row, ...] = TABLE) -> tuple[State, tuple[Act, ...]]:
    """Return the state after `event`, and what is to be performed, in order."""
    for row in table:
        if row.source is state.phase and row.on is event.on and row.when.holds(state):
            noted = _after_event(state, event)
            return _after_acts(replace(noted, phase=row.target), row.acts), row.acts
    if event.on is On.USER_ARRIVED:
        return replace(state, user_waiting=not state.gate_open), ()
    return state, ()


def _after_event(state: State, event: Event) -> State:
    if event.on in _FAILURES:
        state = replace(state, failures=state.failures + 1)
    if event.on in _EXPLAINED:
        state = replace(state, reason=event.reason)
    match event.on:
        case On.STEADY:
            return replace(state, failures=0)
        case On.HOLD_WANTED:
            return replace(state, hold=HoldState.WANTED)
        case On.HOLD_RELEASED:
            return replace(state, hold=HoldState.NONE, trainer_stopped=False)
        case On.USER_ARRIVED:
            return replace(state, user_waiting=not state.gate_open)
        case On.TRAINER_STOPPED:
            return replace(state, trainer_stopped=True)
        case On.TRAINER_CONTINUED | On.PROBE_PASSED:
            return replace(state, reason="")
        case _:
            return state


def _after_acts(state: State, acts: tuple[Act, ...]) -> State:
    for act in acts:
        match act:
            case Act.OPEN_GATE:
                state = replace(state, gate_open=True, user_waiting=False)
            case Act.CLOSE_GATE:
                state = replace(state, gate_open=False)
            case Act.REFUSE_WAITING:
                state = replace(state, user_waiting=False)
            case Act.GRANT_HOLD:
                state = replace(state, hold=HoldState.GRANTED, trainer_stopped=False)
            case Act.REFUSE_HOLD:
                state = replace(state, hold=HoldState.NONE)
            case Act.LOSE_HOLD:
                state = replace(state, hold=HoldState.LOST)
            case Act.CONTINUE_TRAINER:
                state = replace(state, trainer_stopped=False)
            case _:
                pass
    return state


def backoff_s(failures: int) -> float:
    """Return how long to wait before the next start after `failures` in a row: 1, 2, 4, ... 60 seconds."""
    return min(60.0, 2.0 ** max(0, min(failures, 10) - 1))


def render_diagram(table: tuple[Row, ...] = TABLE) -> str:
    """Return the table as a Mermaid state diagram for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    drawn: dict[tuple[Phase, Phase, On], list[str]] = {}
    for row in table:
        drawn.setdefault((row.source, row.target, row.on), []).append(row.when.label())
    for (source, target, on), labels in drawn.items():
        guards = [label for label in labels if label]
        # A row without a guard, or a row for each state of the hold, means: always.
        always = len(guards) < len(labels) or len(guards) == len(HoldState)
        guard = "" if always else f" [{' / '.join(guards)}]"
        lines.append(f"    {source} --> {target}: {on}{guard}")
    return "\n".join(lines) + "\n"
