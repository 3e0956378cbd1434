"""The live guard over scripts of replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.adapter import VersionName
from gaiad.rollout import Continue, Fault, Guard, GuardState, ReplyOutcome, RollBack, fault_of

V1 = VersionName("json-architect@v1-00000001")
V2 = VersionName("json-architect@v2-00000002")
GUARD = Guard(window=8, max_failures=4)


def reply(
    *, bad: bool = False, version: VersionName | None = V1, empty: bool = False, cut: bool = False
) -> ReplyOutcome:
    return ReplyOutcome(version, "tool_selection", "r", schema_ok=not bad, empty=empty, truncated=cut)


def played(script: str) -> list[Continue | RollBack]:
    state, decisions = GuardState(V1), []
    for letter in script:
        state, decision = GUARD.observe(state, reply(bad=letter == "x"))
        decisions.append(decision)
    return decisions


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (reply(), None),
        (reply(bad=True), Fault.SCHEMA),
        (reply(bad=True, empty=True), Fault.EMPTY),
        (reply(bad=True, cut=True), Fault.TRUNCATED),
        (ReplyOutcome(V1, "generation", "r", schema_ok=None, empty=False, truncated=False), None),
    ],
)
def test_a_reply_is_bad_when_empty_cut_off_or_against_its_schema(outcome: ReplyOutcome, fault: Fault | None) -> None:
    assert fault_of(outcome) is fault


def test_a_version_goes_back_at_the_very_reply_that_reaches_the_limit() -> None:
    *before, last = played("xxxx")
    assert all(isinstance(decision, Continue) for decision in before)
    assert last == RollBack(V1, "the live guard saw 4 bad replies among the last 4: 4 failed the stage's schema")


@pytest.mark.parametrize("script", ["........", "x.x.x...", "x..x..x.....xxx", "xxx....." * 1])
def test_a_version_stays_while_bad_replies_are_below_the_limit_in_every_window(script: str) -> None:
    assert all(isinstance(decision, Continue) for decision in played(script))


def test_old_replies_leave_the_window() -> None:
    assert all(isinstance(decision, Continue) for decision in played("xxx........xxx"))


def test_replies_of_other_versions_and_of_the_base_never_count() -> None:
    state = GuardState(V1)
    for _ in range(20):
        state, one = GUARD.observe(state, reply(bad=True, version=V2))
        state, two = GUARD.observe(state, reply(bad=True, version=None))
        assert (one, two) == (Continue(), Continue())
    assert state == GuardState(V1)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 10), st.integers(1, 10))
def test_it_rolls_back_exactly_when_the_last_window_holds_enough_bad_replies(
    bads: list[bool], window: int, limit: int
) -> None:
    guard = Guard(window, min(window, limit))
    state = GuardState(V1)
    for count, bad in enumerate(bads, start=1):
        state, decision = guard.observe(state, reply(bad=bad))
        expected = sum(bads[max(0, count - window) : count]) >= guard.max_failures
        assert isinstance(decision, RollBack) is expected
        assert state.seen == count
        assert len(state.faults) <= window
