"""Consent: default deny, narrowing by header, revocations that win, scopes and ends of grants."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.consent import (
    Action,
    GrantEvent,
    Purpose,
    Standing,
    decide,
    ends,
    fold,
    follow_settings,
    parse_header,
    still_holds,
)
from gaiad.consent_history import History

LOG, TRAIN, EVALUATE = Purpose.LOG, Purpose.TRAIN, Purpose.EVALUATE


def history(text: str) -> list[GrantEvent]:
    """`+train -log@c1 +log<5` -> events, one a second; about conversation c1, until second 5."""
    events = []
    for number, word in enumerate(text.split()):
        rest, _, end = word.partition("<")
        purpose, _, conversation = rest[1:].partition("@")
        action = Action.GRANT if word[0] == "+" else Action.REVOKE
        expires_at = float(end) if end else None
        events.append(
            GrantEvent("ana", Purpose(purpose), action, "command", float(number), conversation or None, expires_at)
        )
    return events


def allowed(events: str, header: str | None = None, header_may_grant: bool = False) -> set[str]:
    standing = fold(history(events), now=100.0)
    return {str(purpose) for purpose in decide(standing.granted, standing.revoked, header, header_may_grant)}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("", set()),
        ("+log", {"log"}),
        ("+train", {"train", "log"}),
        ("+evaluate", {"evaluate", "log"}),
        ("+train +evaluate", {"train", "evaluate", "log"}),
        ("+train -train", set()),
        ("+log +train -train", {"log"}),
        ("+train -log", set()),
        ("+train +evaluate -log +log", {"log"}),
        ("-log +train", {"train", "log"}),
        ("+train -train +train", {"train", "log"}),
        ("-train +evaluate", {"evaluate", "log"}),
    ],
)
def test_only_what_was_granted_and_not_revoked_is_allowed(events: str, expected: set[str]) -> None:
    assert allowed(events) == expected


@pytest.mark.parametrize(
    ("events", "header", "expected"),
    [
        ("+train", "none", set()),
        ("+train", "log", {"log"}),
        ("+train", "train", {"train", "log"}),
        ("+train", "evaluate", {"log"}),
        ("+train +evaluate", "evaluate", {"evaluate", "log"}),
        ("+train +evaluate", " Train , EVALUATE ", {"train", "evaluate", "log"}),
        ("+log", "train", {"log"}),
        ("", "train", set()),
        ("", "log,train,evaluate", set()),
    ],
)
def test_a_header_narrows_and_never_widens_by_default(events: str, header: str, expected: set[str]) -> None:
    assert allowed(events, header) == expected


@pytest.mark.parametrize("header", ["", "yes", "train;log", "none,train", "train,", "trainlog", "true", "\x00"])
def test_a_malformed_header_keeps_nothing(header: str) -> None:
    assert parse_header(header) is None
    assert allowed("+train", header) == set()
    assert allowed("+train", header, header_may_grant=True) == set()


@pytest.mark.parametrize(
    ("events", "header", "expected"),
    [
        ("", None, set()),
        ("", "none", set()),
        ("", "train", {"train", "log"}),
        ("+log", "train", {"train", "log"}),
        ("+train", "log", {"log"}),
        ("+train", "evaluate", {"evaluate", "log"}),
        ("+train -train", "train", set()),
        ("+log +train -train", "train", {"log"}),
        ("-train", "train,evaluate", {"evaluate", "log"}),
        ("-train", "log", {"log"}),
        ("-log", "train", set()),
        ("-log", "log,train,evaluate", set()),
    ],
)
def test_where_the_owner_lets_it_a_header_widens_but_never_over_a_revocation(
    events: str, header: str | None, expected: set[str]
) -> None:
    assert allowed(events, header, header_may_grant=True) == expected


TIMES = st.integers(0, 5).map(float)
EVENTS = st.lists(
    st.builds(
        GrantEvent,
        st.just("ana"),
        st.sampled_from(Purpose),
        st.sampled_from(Action),
        st.just("http"),
        TIMES,
        st.sampled_from([None, "c1", "c2"]),
        st.none() | st.integers(0, 9).map(float),
    ),
    max_size=12,
)
CONVERSATIONS = st.sampled_from([None, "c1", "c2", "c3"])
NOWS = st.integers(0, 10).map(float)
HEADERS = st.none() | st.text(max_size=8) | st.lists(st.sampled_from(["none", *Purpose]), max_size=4).map(",".join)


def held(events: Sequence[GrantEvent], now: float, conversation: str | None) -> frozenset[Purpose]:
    standing = fold(events, now=now, conversation=conversation)
    return decide(standing.granted, standing.revoked, None, False)


@given(EVENTS, NOWS, CONVERSATIONS, HEADERS, st.booleans())
def test_whatever_happened_no_revoked_purpose_is_allowed_and_all_need_log(
    events: list[GrantEvent], now: float, conversation: str | None, header: str | None, header_may_grant: bool
) -> None:
    standing = fold(events, now=now, conversation=conversation)
    result = decide(standing.granted, standing.revoked, header, header_may_grant)
    assert not standing.granted & standing.revoked
    assert not result & standing.revoked
    assert not result or LOG in result
    if not header_may_grant:
        assert result <= held(events, now, conversation)


@given(EVENTS, st.sampled_from(Purpose), st.booleans(), CONVERSATIONS)
def test_the_last_word_about_a_purpose_is_what_counts(
    events: list[GrantEvent], purpose: Purpose, header_may_grant: bool, conversation: str | None
) -> None:
    events = [*events, GrantEvent("ana", purpose, Action.REVOKE, "http", 6.0, conversation)]
    standing = fold(events, now=6.0, conversation=conversation)
    assert not still_holds(purpose, standing, header_may_grant)
    events = [*events, GrantEvent("ana", purpose, Action.GRANT, "http", 7.0, conversation)]
    assert still_holds(purpose, fold(events, now=7.0, conversation=conversation), header_may_grant)


@given(st.data(), EVENTS, NOWS, CONVERSATIONS)
def test_neither_the_order_nor_the_number_of_the_copies_of_events_counts(
    data: st.DataObject, events: list[GrantEvent], now: float, conversation: str | None
) -> None:
    expected = fold(events, now=now, conversation=conversation)
    assert fold(data.draw(st.permutations(events)), now=now, conversation=conversation) == expected
    assert fold([*events, *events], now=now, conversation=conversation) == expected


@given(EVENTS, st.sampled_from(Purpose), TIMES, st.sampled_from([None, "c1"]), st.sampled_from([None, "c1"]))
def test_a_revocation_wins_over_every_grant_of_its_moment(
    events: list[GrantEvent], purpose: Purpose, at: float, granted_for: str | None, revoked_for: str | None
) -> None:
    earlier = [event for event in events if event.at < at]
    grant = GrantEvent("ana", purpose, Action.GRANT, "http", at, granted_for)
    revocation = GrantEvent("ana", purpose, Action.REVOKE, "http", at, revoked_for)
    assert purpose not in held([*earlier, revocation, grant], at, "c1")


@given(EVENTS, NOWS, CONVERSATIONS)
def test_after_the_last_revocation_of_log_for_all_nothing_holds_in_any_conversation(
    events: list[GrantEvent], now: float, conversation: str | None
) -> None:
    events = [*events, GrantEvent("ana", LOG, Action.REVOKE, "http", 5.0)]
    standing = fold(events, now=now, conversation=conversation)
    assert standing == Standing(frozenset(), frozenset(Purpose))


@given(st.data(), EVENTS, NOWS, CONVERSATIONS)
def test_narrowing_never_widens(
    data: st.DataObject, events: list[GrantEvent], now: float, conversation: str | None
) -> None:
    before = held(events, now, conversation)
    # 1. One more no.
    no = data.draw(EVENTS.map(lambda drawn: [one for one in drawn if one.action is Action.REVOKE]))
    assert held([*events, *no], now, conversation) <= before
    # 2. A grant that ends, is about another conversation, or was never made.
    for number, event in enumerate(events):
        if event.action is Action.GRANT:
            others = [*events[:number], *events[number + 1 :]]
            assert held(others, now, conversation) <= before
            assert held([*others, dataclasses.replace(event, conversation="c9")], now, conversation) <= before
            if event.expires_at is None:
                assert held([*others, dataclasses.replace(event, expires_at=3.0)], now, conversation) <= before


@given(EVENTS, NOWS, NOWS, CONVERSATIONS)
def test_time_alone_never_widens(events: list[GrantEvent], now: float, wait: float, conversation: str | None) -> None:
    assert held(events, now + wait, conversation) <= held(events, now, conversation)


@pytest.mark.parametrize(
    ("events", "everywhere", "in_c1"),
    [
        ("+train@c1", set(), {"train", "log"}),
        ("+train -train@c1", {"train", "log"}, set()),
        ("+train +log -train@c1", {"train", "log"}, {"log"}),
        ("+train -log@c1", {"train", "log"}, set()),
        # The more specific no stands, until there is a more specific yes.
        ("+train -train@c1 +train", {"train", "log"}, set()),
        ("+train -train@c1 +train@c1", {"train", "log"}, {"train", "log"}),
        ("+train -log@c1 +train +log@c1", {"train", "log"}, {"log"}),
        ("-train@c1 -log +train", {"train", "log"}, set()),
        ("+log@c1 -log@c1 +log", {"log"}, set()),
        # A no for all ends a yes for one, and a later yes for one is one.
        ("+train@c1 -train", set(), set()),
        ("+train@c1 -log +evaluate", {"evaluate", "log"}, {"evaluate", "log"}),
        ("-log +log@c1", set(), {"log"}),
        # What has expired neither counts nor undoes; what it covered shows again.
        ("+train<50", set(), set()),
        ("+train +train<50", {"train", "log"}, {"train", "log"}),
        ("-train +train<50", set(), set()),
        ("+train -train@c1 +train@c1<50", {"train", "log"}, set()),
        ("+train -train<50", set(), set()),
    ],
)
def test_scopes_and_ends(events: str, everywhere: set[str], in_c1: set[str]) -> None:
    assert {*map(str, held(history(events), 100.0, None))} == everywhere
    assert {*map(str, held(history(events), 100.0, "c2"))} == everywhere
    assert {*map(str, held(history(events), 100.0, "c1"))} == in_c1


@pytest.mark.parametrize(
    ("events", "in_c1"),
    [
        ("+train<50", {"train": 50.0, "log": 50.0}),
        ("+log +train<50", {"train": 50.0, "log": math.inf}),
        ("+train +train<50", {"train": math.inf, "log": math.inf}),
        ("+train<50 +train<60", {"train": 60.0, "log": 60.0}),
        ("+train<60 +evaluate@c1<50", {"train": 60.0, "evaluate": 50.0, "log": 60.0}),
        ("-log@c1 +log@c1<30 +train", {"log": 30.0}),
        ("-train@c1 +train@c1<50 +train", {"train": 50.0, "log": 50.0}),
        ("+train -log", {}),
    ],
)
def test_it_is_known_until_when_what_is_allowed_holds(events: str, in_c1: dict[str, float]) -> None:
    assert {str(one): end for one, end in ends(History(history(events)).told("c1"), now=20.0).items()} == in_c1


@given(EVENTS, NOWS, CONVERSATIONS)
def test_what_is_allowed_holds_exactly_as_long_as_is_told(
    events: list[GrantEvent], now: float, conversation: str | None
) -> None:
    told = ends(History(events).told(conversation), now=now)
    assert told.keys() == held(events, now, conversation)
    for purpose, end in told.items():
        assert purpose in held(events, math.nextafter(min(end, 1e9), -math.inf), conversation)
        assert end == math.inf or purpose not in held(events, end, conversation)


def test_a_grant_ends_at_its_very_moment() -> None:
    events = history("+train<50")
    assert held(events, 49.9, None) == {TRAIN, LOG}
    assert held(events, 50.0, None) == frozenset()


def test_what_a_header_granted_holds_only_while_headers_may_grant() -> None:
    assert still_holds(TRAIN, Standing(), header_may_grant=True)
    assert not still_holds(TRAIN, Standing(), header_may_grant=False)
    assert not still_holds(EVALUATE, Standing(revoked=frozenset({EVALUATE})), header_may_grant=True)


@pytest.mark.parametrize(
    ("events", "at", "conversation", "granted"),
    [
        ("", 5.0, None, False),
        ("+train", 5.0, None, True),
        ("+evaluate", 5.0, None, False),
        # What was said later, or for another conversation, was no grant of that moment's.
        ("+log +log +train", 1.0, None, False),
        ("+train@c1", 5.0, "c1", True),
        ("+train@c1", 5.0, "c2", False),
        # It was one, whatever came of it.
        ("+train<50", 49.0, None, True),
        ("+train<50", 50.0, None, False),
        ("+train +log +log -train", 2.0, None, True),
        ("+train +log +log -train", 3.0, None, False),
    ],
)
def test_what_held_when_an_exchange_began_is_what_it_was_kept_by(
    events: str, at: float, conversation: str | None, granted: bool
) -> None:
    told = History(history(events))
    assert told.was_granted(TRAIN, at=at, conversation=conversation, now=100.0) is granted


def said(action: Action, purpose: Purpose, at: float, source: str, **more: Any) -> GrantEvent:
    return GrantEvent("ana", purpose, action, source, at, **more)


GRANT, REVOKE = Action.GRANT, Action.REVOKE


@pytest.mark.parametrize(
    ("wanted", "history", "news"),
    [
        ({TRAIN}, (), {TRAIN: GRANT}),
        ({TRAIN}, (said(GRANT, TRAIN, 1, "config"),), {}),
        ({TRAIN}, (said(GRANT, TRAIN, 1, "command"),), {}),
        # What others revoked stays so; what the settings took back they may give again.
        ({TRAIN}, (said(GRANT, TRAIN, 1, "config"), said(REVOKE, TRAIN, 2, "http")), {}),
        ({TRAIN}, (said(REVOKE, LOG, 2, "command"),), {}),
        ({TRAIN}, (said(GRANT, TRAIN, 1, "config"), said(REVOKE, TRAIN, 2, "config")), {TRAIN: GRANT}),
        # One that ended by itself was no revocation.
        ({TRAIN}, (said(GRANT, TRAIN, 1, "http", expires_at=5.0),), {TRAIN: GRANT}),
        (set(), (said(GRANT, TRAIN, 1, "config"),), {TRAIN: REVOKE}),
        # One that will end does not stand in for theirs.
        ({TRAIN}, (said(GRANT, TRAIN, 1, "http", expires_at=50.0),), {TRAIN: GRANT}),
        (set(), (said(GRANT, TRAIN, 1, "config"), said(GRANT, TRAIN, 2, "command")), {TRAIN: REVOKE}),
        (set(), (said(GRANT, TRAIN, 1, "config"), said(GRANT, TRAIN, 2, "http", expires_at=5.0)), {TRAIN: REVOKE}),
        ({TRAIN}, (said(GRANT, LOG, 1, "config"), said(GRANT, TRAIN, 2, "config")), {LOG: REVOKE}),
        (set(), (said(GRANT, TRAIN, 1, "config"), said(REVOKE, LOG, 2, "command")), {}),
        (set(), (), {}),
        # One conversation is not what the settings speak of.
        ({TRAIN}, (said(REVOKE, TRAIN, 2, "http", conversation="c1"),), {TRAIN: GRANT}),
    ],
)
def test_settings_grant_and_take_back_their_own_and_nothing_else(
    wanted: set[Purpose], history: tuple[GrantEvent, ...], news: dict[Purpose, Action]
) -> None:
    assert follow_settings(wanted, history, now=10.0) == news
    after = (*history, *(said(action, purpose, 10.0, "config") for purpose, action in news.items()))
    assert follow_settings(wanted, after, now=11.0) == {}


@pytest.mark.parametrize(
    ("history", "conversation", "left"),
    [
        ((said(GRANT, TRAIN, 2, "command"),), None, {LOG, TRAIN}),
        ((said(GRANT, TRAIN, 2, "http", expires_at=50.0),), None, {LOG, TRAIN}),
        ((said(GRANT, TRAIN, 2, "http", expires_at=5.0),), None, set()),
        ((said(GRANT, TRAIN, 2, "http", conversation="c1"),), "c1", {LOG, TRAIN}),
        ((said(GRANT, TRAIN, 2, "http", conversation="c1"),), None, set()),
        ((said(GRANT, EVALUATE, 2, "command"),), None, {LOG, EVALUATE}),
        ((said(REVOKE, EVALUATE, 2, "command"),), None, set()),
        ((), None, set()),
    ],
)
def test_what_people_granted_outlasts_what_the_settings_take_back(
    history: tuple[GrantEvent, ...], conversation: str | None, left: set[Purpose]
) -> None:
    granted = (said(GRANT, LOG, 1, "config"), said(GRANT, TRAIN, 1, "config"), *history)
    taken_back = follow_settings((), granted, now=10.0)
    after = (*granted, *(said(action, purpose, 10.0, "config") for purpose, action in taken_back.items()))
    assert held(after, 11.0, conversation) == left


def test_settings_that_take_back_log_leave_what_they_still_grant() -> None:
    history = (said(GRANT, LOG, 1, "config"), said(GRANT, TRAIN, 1, "config"), said(REVOKE, LOG, 2, "config"))
    assert held(history, 3.0, None) == {LOG, TRAIN}
    assert fold(history, now=3.0).revoked == frozenset()
