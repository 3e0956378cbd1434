"""The handoff table: what it promises in every state that can be reached, with every command failing anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gaiad.gpu.handoff import (
    MEANING,
    OUTCOMES,
    TABLE,
    Act,
    Device,
    Event,
    HoldState,
    On,
    Phase,
    State,
    backoff_s,
    render_diagram,
    step,
)

IMMEDIATE = (Act.STOP_TRAINER, Act.CONTINUE_TRAINER)
ENGINE_IS_UP = (
    Phase.SERVING,
    Phase.DRAINING,
    Phase.SLEEPING,
    Phase.VERIFYING,
    Phase.HELD,
    Phase.LENT,
    Phase.WAKING,
    Phase.PROBING,
)


class World:
    """What a faithful loop would hold: the state and the one command in flight."""

    def __init__(self, device: Device) -> None:
        self.state = State(device=device)
        self.in_flight: Act | None = None
        self.send(On.BOOTED)

    def copy(self) -> World:
        twin = object.__new__(World)
        twin.state, twin.in_flight = self.state, self.in_flight
        return twin

    def key(self) -> tuple[object, ...]:
        s = self.state
        return (s.phase, s.hold, s.gate_open, s.trainer_stopped, s.user_waiting, min(s.failures, 4), self.in_flight)

    def send(self, on: On, *, immediate_fails: bool = False) -> None:
        before = self.state
        self.state, acts = step(before, Event(on, reason=f"because of {on}"))
        if self.state.phase is not before.phase:
            self.in_flight = None
        for act in acts:
            if act in IMMEDIATE:
                success, failure = OUTCOMES[act]
                self.send(failure if immediate_fails else success)
            elif act in OUTCOMES:
                self.in_flight = act

    def finish(self, *, failed: bool) -> None:
        assert self.in_flight is not None
        outcome = OUTCOMES[self.in_flight][failed]
        self.in_flight = None
        self.send(outcome)

    def moves(self) -> Iterator[World]:
        if self.in_flight is not None:
            for failed in (False, True):
                twin = self.copy()
                twin.finish(failed=failed)
                yield twin
        outside = [On.USER_ARRIVED]
        if self.state.phase in ENGINE_IS_UP:
            outside.append(On.ENGINE_DIED)
        if self.state.hold is HoldState.NONE:
            outside.append(On.HOLD_WANTED)
        else:
            outside.append(On.HOLD_RELEASED)
        if self.state.phase is Phase.SERVING:
            outside.append(On.STEADY)
        for on in outside:
            for immediate_fails in (False, True):
                twin = self.copy()
                twin.send(on, immediate_fails=immediate_fails)
                yield twin

    def check(self) -> None:
        s = self.state
        assert not (s.gate_open and s.trainer_may_run), f"the gate is open while a trainer runs: {s}"
        assert not (s.gate_open and s.phase not in (Phase.SERVING, Phase.LENT)), f"open in {s.phase}"
        assert s.phase is not Phase.SERVING or s.gate_open
        assert s.phase is not Phase.SERVING or s.hold is HoldState.NONE
        assert s.phase is not Phase.HELD or s.hold in (HoldState.GRANTED, HoldState.LOST)
        assert s.phase is not Phase.LENT or s.hold is HoldState.WANTED or s.trainer_stopped
        assert not s.user_waiting or not s.gate_open
        if s.device == "gpu" and s.hold is HoldState.GRANTED:
            assert not s.trainer_stopped, "on a GPU a trainer gives memory back, it does not stand still"
        waits_for_release = s.hold in (HoldState.GRANTED, HoldState.LOST) and s.phase in (Phase.HELD, Phase.RESTARTING)
        idle = s.phase is Phase.SERVING or waits_for_release
        assert idle or self.in_flight is not None, f"nothing is going on in {s}"


def explore(device: Device) -> list[World]:
    first = World(device)
    seen = {first.key()}
    queue, found = deque([first]), [first]
    while queue:
        for world in queue.popleft().moves():
            if world.key() not in seen:
                seen.add(world.key())
                queue.append(world)
                found.append(world)
    return found


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_no_request_is_served_while_trainer_holds_gpu_in_any_reachable_state(device: Device) -> None:
    worlds = explore(device)
    assert {world.state.phase for world in worlds} >= set(Phase) - ({Phase.LENT} if device == "gpu" else set())
    for world in worlds:
        world.check()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_reachable_state_leads_back_to_serving_once_commands_succeed(device: Device) -> None:
    for world in explore(device):
        start = world.state
        for _ in range(12):
            if world.state.phase is Phase.SERVING:
                break
            if world.state.hold is not HoldState.NONE:
                world.send(On.HOLD_RELEASED)
            elif world.in_flight is not None:
                world.finish(failed=False)
        assert world.state.phase is Phase.SERVING, f"stuck in {world.state}, from {start}"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_outcome_of_every_command_in_flight_changes_something(device: Device) -> None:
    for world in explore(device):
        if world.in_flight is None:
            continue
        for on in OUTCOMES[world.in_flight]:
            rows = [row for row in TABLE if row.source is world.state.phase and row.on is on]
            assert any(row.when.holds(world.state) for row in rows), f"{on} is lost in {world.state}"


@pytest.mark.parametrize("act", list(OUTCOMES))
def test_each_command_that_fails_ends_where_serving_can_come_back(act: Act) -> None:
    failure = OUTCOMES[act][1]
    met = False
    for device in ("cpu", "gpu"):
        for world in explore(device):
            if act in IMMEDIATE:
                on = On.USER_ARRIVED if act is Act.STOP_TRAINER else On.VERIFIED
                wanted = Phase.HELD if act is Act.STOP_TRAINER else Phase.VERIFYING
                if (world.state.phase, world.state.hold) != (wanted, HoldState.GRANTED) or world.state.user_waiting:
                    continue
                if device == "gpu":
                    continue
                world.in_flight = None
                world.send(on, immediate_fails=True)
                assert (world.state.phase, world.state.hold) == (Phase.HELD, HoldState.LOST)
            elif world.in_flight is act:
                world.finish(failed=True)
            else:
                continue
            met = True
            world.check()
            assert failure not in (On.START_FAILED, On.PROBE_FAILED) or world.state.reason == f"because of {failure}"
    assert met


def drive(device: Device, *events: On) -> tuple[State, list[Act]]:
    state, acts = State(device=device), list[Act]()
    for on in events:
        state, new = step(state, Event(on, str(on)))
        acts.extend(new)
    return state, acts


SERVE = (On.BOOTED, On.ENGINE_STARTED, On.PROBE_PASSED)
HOLD = (*SERVE, On.HOLD_WANTED, On.DRAINED, On.ENGINE_PAUSED, On.VERIFIED)
LEND = (*HOLD, On.USER_ARRIVED, On.TRAINER_STOPPED, On.ENGINE_WOKEN)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_wish_for_the_machine_is_taken_up_or_refused_in_every_reachable_state(device: Device) -> None:
    free = [world.state for world in explore(device) if world.state.hold is HoldState.NONE]
    assert {state.phase for state in free} >= {Phase.SERVING, Phase.SLEEPING, Phase.WAKING}
    for state in free:
        after, acts = step(state, Event(On.HOLD_WANTED))
        assert after.hold is HoldState.WANTED or Act.REFUSE_HOLD in acts, f"a wish is forgotten in {state}"


def test_gate_opens_only_after_the_probe_passed() -> None:
    assert not drive("cpu", *SERVE[:2])[0].gate_open
    assert drive("cpu", *SERVE)[0].gate_open


def test_trainer_is_granted_the_machine_only_after_memory_was_measured() -> None:
    _, acts = drive("gpu", *HOLD)
    assert acts.index(Act.VERIFY) < acts.index(Act.GRANT_HOLD)


def test_user_request_on_the_cpu_stops_the_trainer_before_the_gate_opens() -> None:
    state, acts = drive("cpu", *LEND)
    assert (state.phase, state.gate_open, state.trainer_stopped) == (Phase.LENT, True, True)
    assert acts[-4:] == [Act.STOP_TRAINER, Act.WAKE_ENGINE, Act.OPEN_GATE, Act.AWAIT_QUIET]


def test_trainer_goes_on_only_after_the_engine_stands_still_again() -> None:
    state, acts = drive("cpu", *LEND, On.QUIET, On.DRAINED, On.ENGINE_PAUSED, On.VERIFIED)
    assert state.phase is Phase.HELD
    assert not state.trainer_stopped
    assert acts[-5:] == [Act.CLOSE_GATE, Act.DRAIN, Act.PAUSE_ENGINE, Act.VERIFY, Act.CONTINUE_TRAINER]


def test_user_request_on_a_gpu_asks_the_trainer_to_give_way() -> None:
    state, acts = drive("gpu", *HOLD, On.USER_ARRIVED)
    assert state.phase is Phase.HELD
    assert acts[-1] is Act.PREEMPT_TRAINER


def test_user_request_that_comes_while_draining_is_let_through_at_once() -> None:
    state, acts = drive("cpu", *SERVE, On.HOLD_WANTED, On.USER_ARRIVED)
    assert (state.phase, state.gate_open) == (Phase.LENT, True)
    assert Act.PAUSE_ENGINE not in acts


def test_engine_that_dies_under_a_trainer_starts_again_only_after_release() -> None:
    state, acts = drive("cpu", *HOLD, On.ENGINE_DIED)
    assert (state.phase, state.hold) == (Phase.RESTARTING, HoldState.LOST)
    assert acts[-1] is Act.LOSE_HOLD
    assert step(state, Event(On.HOLD_RELEASED))[1] == (Act.AWAIT_BACKOFF,)


def test_requests_are_refused_only_after_several_failed_starts() -> None:
    state, acts = drive("cpu", On.BOOTED, On.START_FAILED, On.BACKOFF_OVER, On.START_FAILED)
    assert Act.REFUSE_WAITING not in acts
    assert state.phase is Phase.RESTARTING
    state, acts = drive("cpu", On.BOOTED, *(On.START_FAILED, On.BACKOFF_OVER) * 3)
    assert state.phase is Phase.DOWN
    assert acts[-1] is Act.START_ENGINE


def test_reason_of_the_last_failure_stays_until_the_engine_serves() -> None:
    assert drive("cpu", On.BOOTED, On.START_FAILED, On.BACKOFF_OVER)[0].reason == "start_failed"
    assert drive("cpu", On.BOOTED, On.START_FAILED, On.BACKOFF_OVER, On.ENGINE_STARTED, On.PROBE_PASSED)[0].reason == ""


def test_back_off_grows_to_a_minute_and_no_further() -> None:
    assert [backoff_s(n) for n in (0, 1, 2, 3, 4, 7, 50)] == [1, 1, 2, 4, 8, 60, 60]


def test_diagram_shows_every_row_and_every_phase_has_a_meaning() -> None:
    text = render_diagram()
    assert text.startswith("stateDiagram-v2\n")
    for row in TABLE:
        assert f"{row.source} --> {row.target}: {row.on}" in text
    assert set(MEANING) == set(Phase)


class Handoff(RuleBasedStateMachine):
    """Any interleaving of outcomes, failures, requests, holds and deaths."""

    @initialize(device=st.sampled_from(["cpu", "gpu"]))
    def boot(self, device: Device) -> None:
        self.world = World(device)

    @precondition(lambda self: self.world.in_flight is not None)
    @rule(failed=st.booleans())
    def command_ends(self, failed: bool) -> None:
        self.world.finish(failed=failed)

    @rule(fails=st.booleans())
    def user_arrives(self, fails: bool) -> None:
        self.world.send(On.USER_ARRIVED, immediate_fails=fails)

    @precondition(lambda self: self.world.state.hold is HoldState.NONE)
    @rule()
    def trainer_asks(self) -> None:
        self.world.send(On.HOLD_WANTED)

    @precondition(lambda self: self.world.state.hold is not HoldState.NONE)
    @rule()
    def trainer_gives_back(self) -> None:
        self.world.send(On.HOLD_RELEASED)

    @precondition(lambda self: self.world.state.phase in ENGINE_IS_UP)
    @rule()
    def engine_dies(self) -> None:
        self.world.send(On.ENGINE_DIED)

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


Handoff.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHandoff = Handoff.TestCase
