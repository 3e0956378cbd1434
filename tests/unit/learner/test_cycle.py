"""The cycle's table: scripts, and a Hypothesis run in which a model world checks what is left behind."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gaiad.learner.cycle import (
    EXPECTED,
    Acquired,
    Activated,
    Cancel,
    Command,
    Compared,
    CycleState,
    Ending,
    Event,
    Examined,
    Failed,
    Frozen,
    Kind,
    Loaded,
    Measured,
    Phase,
    Published,
    Registered,
    Rejected,
    Released,
    Trained,
    Unloaded,
    Verdict,
    begin,
    render_diagram,
    step,
)

TRAINED_UP_TO_COMPARISON: tuple[Event, ...] = (
    *(Frozen(True), Acquired(), Trained(), Measured(), Released(), Published(), Registered(), Loaded()),
)
TRAINED_UP_TO_EXAM = (*TRAINED_UP_TO_COMPARISON, Compared(True, "served as trained"))


def played(kind: Kind, *events: Event) -> tuple[CycleState, list[Command]]:
    state, commands = begin(kind)
    issued = list(commands)
    for event in events:
        state, commands = step(state, event)
        issued += commands
    return state, issued


def verdict(state: CycleState) -> Verdict:
    assert state.phase is Phase.DONE
    assert state.ending is not None
    return state.ending.verdict


def test_a_candidate_that_passes_is_promoted_after_every_step() -> None:
    state, commands = played(Kind.TRAIN, *TRAINED_UP_TO_EXAM, Examined(True, "better"), Activated())
    assert verdict(state) is Verdict.PROMOTED
    assert [command.value for command in commands] == [
        *("freeze", "acquire", "train", "measure", "release", "publish", "register", "load", "compare", "examine"),
        *("activate", "close"),
    ]


def test_a_candidate_that_fails_the_gate_is_rejected_and_unloaded() -> None:
    state, commands = played(Kind.TRAIN, *TRAINED_UP_TO_EXAM, Examined(False, "worse"), Rejected(), Unloaded())
    assert verdict(state) is Verdict.REJECTED
    assert commands[-3:] == [Command.REJECT, Command.UNLOAD, Command.CLOSE]


def test_a_candidate_that_is_not_served_as_trained_is_rejected_without_an_exam() -> None:
    differs = Compared(False, "served differs from trained")
    state, commands = played(Kind.TRAIN, *TRAINED_UP_TO_COMPARISON, differs, Rejected(), Unloaded())
    assert state.ending == Ending(Verdict.REJECTED, "served differs from trained")
    assert Command.EXAMINE not in commands
    assert commands[-3:] == [Command.REJECT, Command.UNLOAD, Command.CLOSE]


def test_nobody_overrides_that_what_is_served_differs_from_what_was_trained() -> None:
    state, commands = played(
        *(Kind.IMPORT, Frozen(True), Published(), Registered(), Loaded(), Compared(False, "differs")),
        *(Rejected(), Unloaded()),
    )
    assert verdict(state) is Verdict.REJECTED
    assert Command.ACTIVATE not in commands


def test_a_measurement_that_fails_releases_the_machine_and_publishes_nothing() -> None:
    state, commands = played(Kind.TRAIN, Frozen(True), Acquired(), Trained(), Failed("the child died"), Released())
    assert verdict(state) is Verdict.FAILED
    assert commands[-2:] == [Command.RELEASE, Command.CLOSE]
    assert Command.PUBLISH not in commands


def test_a_comparison_that_fails_is_no_pass() -> None:
    state, commands = played(Kind.TRAIN, *TRAINED_UP_TO_COMPARISON, Failed("no log-probs"), Rejected(), Unloaded())
    assert verdict(state) is Verdict.FAILED
    assert Command.EXAMINE not in commands


def test_a_failed_gate_is_overridden_only_where_a_person_insists() -> None:
    state, commands = played(
        *(Kind.IMPORT, Frozen(True), Published(), Registered(), Loaded(), Compared(True, "equal")),
        *(Examined(False, "worse", forced=True), Activated()),
    )
    assert verdict(state) is Verdict.PROMOTED
    assert Command.ACQUIRE not in commands


def test_nothing_new_ends_before_the_engine_is_disturbed() -> None:
    state, commands = played(Kind.TRAIN, Frozen(False))
    assert verdict(state) is Verdict.NOTHING_NEW
    assert Command.ACQUIRE not in commands


def test_a_failed_run_releases_the_gpu_before_the_end() -> None:
    state, commands = played(Kind.TRAIN, Frozen(True), Acquired(), Failed("the trainer died"))
    assert state.phase is Phase.RELEASING
    state, more = step(state, Released())
    assert verdict(state) is Verdict.FAILED
    assert [*commands, *more][-2:] == [Command.RELEASE, Command.CLOSE]


def test_an_engine_lost_while_releasing_ends_the_cycle_without_publishing() -> None:
    state, commands = played(Kind.TRAIN, Frozen(True), Acquired(), Trained(), Measured(), Failed("no wake"))
    assert verdict(state) is Verdict.FAILED
    assert Command.PUBLISH not in commands


def test_a_failed_exam_leaves_no_candidate_behind() -> None:
    state, commands = played(Kind.TRAIN, *TRAINED_UP_TO_EXAM, Failed("the engine died"), Rejected(), Unloaded())
    assert verdict(state) is Verdict.FAILED
    assert Command.ACTIVATE not in commands


def test_a_failed_load_is_unloaded_too_for_it_may_have_happened() -> None:
    state, commands = played(
        *(Kind.IMPORT, Frozen(True), Published(), Registered(), Failed("no answer"), Rejected(), Unloaded())
    )
    assert verdict(state) is Verdict.FAILED
    assert Command.UNLOAD in commands


@pytest.mark.parametrize("of_data", [True, False])
def test_a_failure_keeps_whether_it_lies_with_the_dataset_whatever_fails_after_it(of_data: bool) -> None:
    state, _ = played(Kind.TRAIN, Frozen(True), Acquired(), Failed("it broke", of_data), Failed("no wake", not of_data))
    assert state.ending == Ending(Verdict.FAILED, "it broke", of_data)


def test_cancelling_stops_the_trainer_and_releases_what_was_held() -> None:
    state, _ = played(Kind.TRAIN, Frozen(True), Acquired())
    state, commands = step(state, Cancel("asked"))
    assert commands == (Command.STOP_STEP,)
    state, commands = step(state, Failed("stopped"))
    assert commands == (Command.RELEASE,)
    state, _ = step(state, Released())
    assert verdict(state) is Verdict.CANCELLED


def test_cancelling_does_not_wait_until_users_leave_the_machine_alone() -> None:
    state, _ = played(Kind.TRAIN, Frozen(True))
    state, commands = step(state, Cancel("asked"))
    assert commands == (Command.STOP_STEP,)
    assert verdict(step(state, Failed("stopped"))[0]) is Verdict.CANCELLED
    # The machine may have been given just before.
    late, commands = step(state, Acquired())
    assert (late.phase, commands) == (Phase.RELEASING, (Command.RELEASE,))


def test_cancelling_too_late_changes_nothing() -> None:
    state, _ = played(Kind.TRAIN, *TRAINED_UP_TO_EXAM, Examined(True, "better"))
    assert step(state, Cancel("asked")) == (state, ())


def test_an_event_out_of_turn_is_a_bug() -> None:
    with pytest.raises(ValueError, match="Loaded cannot happen while freezing"):
        step(begin(Kind.TRAIN)[0], Loaded())


def test_the_diagram_names_every_phase_and_ends() -> None:
    diagram = render_diagram()
    assert diagram.startswith("stateDiagram-v2")
    assert all(phase.value in diagram for phase in Phase)
    assert "training --> measuring: Trained" in diagram
    assert "comparing --> rejecting: Compared, Failed" in diagram
    assert diagram == render_diagram()


ANSWERS: dict[Command, tuple[Event, ...]] = {
    Command.FREEZE: (Frozen(True), Frozen(False)),
    Command.ACQUIRE: (Acquired(),),
    Command.TRAIN: (Trained(),),
    Command.MEASURE: (Measured(),),
    Command.RELEASE: (Released(),),
    Command.PUBLISH: (Published(),),
    Command.REGISTER: (Registered(),),
    Command.LOAD: (Loaded(),),
    Command.COMPARE: (Compared(True, "equal"), Compared(False, "differs")),
    Command.EXAMINE: (Examined(True, "p"), Examined(False, "f"), Examined(False, "f", forced=True)),
    Command.ACTIVATE: (Activated(),),
    Command.REJECT: (Rejected(),),
    Command.UNLOAD: (Unloaded(),),
}


class CycleRuns(RuleBasedStateMachine):
    """Any command may fail, and a person may cancel at any time; the model world keeps count of what is left."""

    @initialize(kind=st.sampled_from(list(Kind)))
    def begins(self, kind: Kind) -> None:
        self.state, commands = begin(kind)
        self.pending: Command | None = None
        self.held = self.candidate = self.active = self.closed = False
        self.serving_candidate = False
        self.examined = self.compared = False
        self.take(commands)

    def take(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            assert not self.closed
            if command is Command.STOP_STEP:
                long = (Command.ACQUIRE, Command.TRAIN, Command.MEASURE, Command.COMPARE, Command.EXAMINE)
                assert self.pending in long
            elif command is Command.CLOSE:
                self.closed = True
            else:
                assert self.pending is None, "one step at a time"
                self.pending = command

    def tell(self, event: Event) -> None:
        self.state, commands = step(self.state, event)
        self.take(commands)

    @precondition(lambda self: self.pending is not None)
    @rule(pick=st.integers(0, 5))
    def step_succeeds(self, pick: int) -> None:
        done, self.pending = self.pending, None
        assert done is not None
        match done:
            case Command.ACQUIRE:
                self.held = True
            case Command.TRAIN:
                assert self.held, "no training without the hold"
            case Command.MEASURE:
                assert self.held, "what is measured has the machine for itself"
            case Command.RELEASE:
                self.held = False
            case Command.REGISTER:
                self.candidate = True
            case Command.LOAD:
                assert not self.held, "nothing is loaded into an engine at rest"
                self.serving_candidate = True
            case Command.COMPARE:
                assert self.serving_candidate, "what is compared is what is served"
                self.compared = True
            case Command.EXAMINE:
                assert self.compared, "nothing is examined that may differ from what was trained"
                self.examined = True
            case Command.ACTIVATE:
                assert self.examined, "nothing unexamined goes live"
                self.active, self.candidate = True, False
            case Command.REJECT:
                self.candidate = False
            case Command.UNLOAD:
                self.serving_candidate = False
            case _:
                pass
        answers = ANSWERS[done]
        self.tell(answers[pick % len(answers)])

    @precondition(lambda self: self.pending is not None)
    @rule(half_done=st.booleans())
    def step_fails(self, half_done: bool) -> None:
        failed, self.pending = self.pending, None
        if failed is Command.RELEASE:
            self.held = False  # the engine's own loop recovers
        if failed is Command.LOAD and half_done:
            self.serving_candidate = True
        if failed in (Command.REJECT, Command.UNLOAD):
            self.candidate = self.serving_candidate = False  # cleared at the next boot or trim
        self.tell(Failed("a step failed"))

    @rule()
    def a_person_cancels(self) -> None:
        self.tell(Cancel("asked"))

    @invariant()
    def every_event_expected_is_possible_and_the_end_is_clean(self) -> None:
        assert self.closed is (self.state.phase is Phase.DONE)
        assert self.held is self.state.holding
        if self.closed:
            assert self.pending is None
            assert not self.held
            assert not self.candidate
            assert self.state.ending is not None
            assert (self.state.ending.verdict is Verdict.PROMOTED) is self.active
            assert self.active or not self.serving_candidate
        else:
            assert self.pending is not None, "a cycle that is not done always waits for a step"

    def teardown(self) -> None:
        for _ in range(10):
            if self.pending is not None:
                self.step_fails(half_done=False)
        assert self.closed


CycleRuns.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestCycleRuns = CycleRuns.TestCase


def test_every_phase_accepts_failure_and_cancel_until_it_is_done() -> None:
    for phase in Phase:
        assert Cancel in EXPECTED[phase]
        assert (Failed in EXPECTED[phase]) is (phase is not Phase.DONE)
