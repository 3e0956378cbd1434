"""The cycle as one table: (state, event) -> (state, commands).

Decides the order of a cycle's steps and what must be cleared away whenever one fails or a person cancels: a held GPU
is released, a registered candidate is rejected and unloaded, and the end is always `DONE` with a verdict. Performs
nothing; the learner's loop runs the commands and reports back exactly one event for each.

A cycle of kind `import` takes in an adapter trained elsewhere: the same table without GPU and trainer; what its
adapter gives outside the engine is measured when the two are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias


class Kind(StrEnum):
    """What a cycle examines: an adapter trained in it, or one brought from elsewhere."""

    TRAIN = "train"
    IMPORT = "import"


class Phase(StrEnum):
    """Where a cycle stands."""

    FREEZING = "freezing"
    ACQUIRING = "acquiring"
    TRAINING = "training"
    MEASURING = "measuring"
    RELEASING = "releasing"
    PUBLISHING = "publishing"
    LOADING = "loading"
    COMPARING = "comparing"
    EXAMINING = "examining"
    ACTIVATING = "activating"
    REJECTING = "rejecting"
    DONE = "done"


class Verdict(StrEnum):
    """How a cycle ended. `interrupted` is found at boot: the daemon ended inside the cycle."""

    PROMOTED = "promoted"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOTHING_NEW = "nothing_new"
    INTERRUPTED = "interrupted"


class Command(StrEnum):
    """What the loop is to perform. All but STOP_STEP and CLOSE answer with one event."""

    FREEZE = "freeze"
    ACQUIRE = "acquire"
    TRAIN = "train"
    MEASURE = "measure"
    RELEASE = "release"
    PUBLISH = "publish"
    REGISTER = "register"
    LOAD = "load"
    COMPARE = "compare"
    EXAMINE = "examine"
    ACTIVATE = "activate"
    REJECT = "reject"
    UNLOAD = "unload"
    STOP_STEP = "stop_step"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A dataset lies frozen; `is_new` where no finished cycle had it (or where a person insists)."""

    is_new: bool


@dataclass(frozen=True, slots=True)
class Acquired:
    """The engine is quiet and the GPU is ours."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The trainer left an adapter in the staging directory."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the adapter gives outside the engine is known; or, where a user came first, is to be measured later."""


@dataclass(frozen=True, slots=True)
class Released:
    """The engine serves again."""


@dataclass(frozen=True, slots=True)
class Published:
    """The version's immutable directory is in place."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The registry knows the version as a candidate."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine has the candidate under its unique name."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Whether what the engine serves is what was trained; nobody can override that it is not."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Examined:
    """The gate has spoken; `forced` where a person overrides a failed gate."""

    passed: bool
    reason: str
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Activated:
    """The alias points at the candidate."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The registry keeps the candidate as rejected."""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The engine no longer has the candidate."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The running step failed or was stopped; it holds nothing any more. `of_data`: this dataset would fail again."""

    reason: str
    of_data: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """A person, or a withdrawn consent, ends the cycle."""

    reason: str


Event: TypeAlias = (
    "Frozen | Acquired | Trained | Measured | Released | Published | Registered | Loaded | Compared | Examined"
    " | Activated | Rejected | Unloaded | Failed | Cancel"
)

EXPECTED: Mapping[Phase, tuple[type, ...]] = {
    Phase.FREEZING: (Frozen, Failed, Cancel),
    Phase.ACQUIRING: (Acquired, Failed, Cancel),
    Phase.TRAINING: (Trained, Failed, Cancel),
    Phase.MEASURING: (Measured, Failed, Cancel),
    Phase.RELEASING: (Released, Failed, Cancel),
    Phase.PUBLISHING: (Published, Registered, Failed, Cancel),
    Phase.LOADING: (Loaded, Failed, Cancel),
    Phase.COMPARING: (Compared, Failed, Cancel),
    Phase.EXAMINING: (Examined, Failed, Cancel),
    Phase.ACTIVATING: (Activated, Failed, Cancel),
    Phase.REJECTING: (Rejected, Unloaded, Failed, Cancel),
    Phase.DONE: (Cancel,),
}
"""Which events may arrive in which phase; any other is a bug and raises."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a cycle ends, known before everything is cleared away; `of_data` where a failure lies with the dataset."""

    verdict: Verdict
    reason: str
    of_data: bool = False


@dataclass(frozen=True, slots=True)
class CycleState:
    """A cycle at one moment.

    `holding`: the GPU is ours. `published`: a version's directory exists. `registered`: the registry has it as a
    candidate. `loaded`: the engine may have it (true from the moment it is asked to).
    """

    kind: Kind
    phase: Phase
    holding: bool = False
    published: bool = False
    registered: bool = False
    loaded: bool = False
    ending: Ending | None = None


Step: TypeAlias = tuple[CycleState, tuple[Command, ...]]


_LONG = (Phase.ACQUIRING, Phase.TRAINING, Phase.MEASURING, Phase.COMPARING, Phase.EXAMINING)
"""Phases whose step is stopped by a cancellation: users may keep the machine busy for as long as they like."""


def begin(kind: Kind) -> Step:
    """The first state of a cycle and its first command."""
    return CycleState(kind, Phase.FREEZING), (Command.FREEZE,)


def step(state: CycleState, event: Event) -> Step:
    """Take one event.

    Raises:
        ValueError: where the event cannot happen in this phase, which is a bug of the caller.
    """
    if not isinstance(event, EXPECTED[state.phase]):
        raise ValueError(f"{type(event).__name__} cannot happen while {state.phase}")
    match event:
        case Cancel(reason):
            return _cancel(state, reason)
        case Failed():
            return _failed(state, event)
        case Acquired():
            return _onwards(replace(state, holding=True), Phase.TRAINING, Command.TRAIN)
        case Trained():
            return _onwards(state, Phase.MEASURING, Command.MEASURE)
        case Measured():
            return _onwards(state, Phase.RELEASING, Command.RELEASE)
        case Released():
            return _onwards(replace(state, holding=False), Phase.PUBLISHING, Command.PUBLISH)
        case Published():
            return _onwards(replace(state, published=True), Phase.PUBLISHING, Command.REGISTER, always=True)
        case Registered():
            return _load(replace(state, registered=True))
        case Loaded():
            return _onwards(state, Phase.COMPARING, Command.COMPARE)
        case Compared():
            return _compared(state, event)
        case Activated():
            return _wind_up(replace(state, registered=False, loaded=False))
        case Rejected():
            return _rejected(state)
        case Unloaded():
            return _wind_up(replace(state, loaded=False))
        case Frozen(is_new):
            return _frozen(state, is_new)
        case Examined():
            return _examined(state, event)


def _frozen(state: CycleState, is_new: bool) -> Step:
    if state.kind is Kind.IMPORT:
        return _onwards(state, Phase.PUBLISHING, Command.PUBLISH)
    if not is_new and state.ending is None:
        reason = "nothing new to learn: a finished cycle had this very dataset"
        return _wind_up(replace(state, ending=Ending(Verdict.NOTHING_NEW, reason)))
    return _onwards(state, Phase.ACQUIRING, Command.ACQUIRE)


def _load(state: CycleState) -> Step:
    if state.ending is not None:
        return _wind_up(state)
    return replace(state, phase=Phase.LOADING, loaded=True), (Command.LOAD,)


def _compared(state: CycleState, event: Compared) -> Step:
    if event.passed:
        return _onwards(state, Phase.EXAMINING, Command.EXAMINE)
    return _wind_up(replace(state, ending=state.ending or Ending(Verdict.REJECTED, event.reason)))


def _examined(state: CycleState, event: Examined) -> Step:
    # 1. Ended meanwhile: the exam no longer counts.
    if state.ending is not None:
        return _wind_up(state)
    # 2. Passed, or a person insists.
    if event.passed or event.forced:
        ending = Ending(Verdict.PROMOTED, event.reason)
        return replace(state, phase=Phase.ACTIVATING, ending=ending), (Command.ACTIVATE,)
    # 3. Failed.
    return _wind_up(replace(state, ending=Ending(Verdict.REJECTED, event.reason)))


def _rejected(state: CycleState) -> Step:
    after = replace(state, registered=False)
    if after.loaded:
        return after, (Command.UNLOAD,)
    return _wind_up(after)


def _failed(state: CycleState, event: Failed) -> Step:
    failed = Ending(Verdict.FAILED, event.reason, event.of_data)
    match state.phase:
        case Phase.RELEASING:
            # The engine's recovery is its own loop's work: what was held is no longer ours.
            return _wind_up(replace(state, holding=False, ending=state.ending or failed))
        case Phase.ACTIVATING:
            return _wind_up(replace(state, ending=failed))
        case Phase.REJECTING:
            # A rejection that could not be written or unloaded: the candidate never serves, and a restart clears it.
            return _wind_up(replace(state, registered=False, loaded=False, ending=state.ending or failed))
        case _:
            return _wind_up(replace(state, ending=state.ending or failed))


def _cancel(state: CycleState, reason: str) -> Step:
    # 1. Too late: what is under way is already the end.
    if state.ending is not None or state.phase is Phase.DONE:
        return state, ()
    after = replace(state, ending=Ending(Verdict.CANCELLED, reason))
    # 2. Long steps are stopped, and answer with `Failed`; short ones are left to finish, then everything is cleared.
    return after, ((Command.STOP_STEP,) if state.phase in _LONG else ())


def _onwards(state: CycleState, phase: Phase, command: Command, *, always: bool = False) -> Step:
    if state.ending is not None and not always:
        return _wind_up(state)
    return replace(state, phase=phase), (command,)


def _wind_up(state: CycleState) -> Step:
    """Clear away whatever is left, one thing at a time, then close."""
    if state.holding:
        return replace(state, phase=Phase.RELEASING), (Command.RELEASE,)
    if state.registered:
        return replace(state, phase=Phase.REJECTING), (Command.REJECT,)
    return replace(state, phase=Phase.DONE), (Command.CLOSE,)


def render_diagram() -> str:
    """Draw the table as a Mermaid state diagram, by walking every state that can be reached."""
    samples: tuple[Event, ...] = (
        *(Frozen(True), Frozen(False), Acquired(), Trained(), Measured(), Released(), Published(), Registered()),
        *(Loaded(), Compared(True, "equal"), Compared(False, "not equal"), Examined(True, "passed")),
        *(Examined(False, "failed"), Activated(), Rejected(), Unloaded()),
        *(Failed("a step failed"), Cancel("asked")),
    )
    edges: set[tuple[str, str, str]] = set()
    waiting = [begin(kind)[0] for kind in Kind]
    seen = set(waiting)
    while waiting:
        state = waiting.pop()
        for event in samples:
            if not isinstance(event, EXPECTED[state.phase]):
                continue
            after, _ = step(state, event)
            if after.phase is not state.phase:
                edges.add((state.phase, after.phase, type(event).__name__))
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return _mermaid(edges)


def _mermaid(edges: set[tuple[str, str, str]]) -> str:
    order = list(Phase)
    labels: dict[tuple[str, str], set[str]] = {}
    for source, target, name in edges:
        labels.setdefault((source, target), set()).add(name)
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.FREEZING}"]
    for (source, target), names in sorted(
        labels.items(), key=lambda edge: (order.index(Phase(edge[0][0])), order.index(Phase(edge[0][1])))
    ):
        lines.append(f"    {source} --> {target}: {', '.join(sorted(names))}")
    lines.append(f"    {Phase.DONE} --> [*]")
    return "\n".join(lines)
