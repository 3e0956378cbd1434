"""A history in memory says of each moment and conversation what its events say, however it grew; clocks that jumped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad import consent_history
from gaiad.consent import CONFIG, Action, GrantEvent, Purpose, Standing, Told, after, by_time, fold, with_included
from gaiad.consent_history import History

LOG, TRAIN, EVALUATE = Purpose.LOG, Purpose.TRAIN, Purpose.EVALUATE
GRANT, REVOKE = Action.GRANT, Action.REVOKE
EVENT = st.builds(
    GrantEvent,
    st.just("ana"),
    st.sampled_from(Purpose),
    st.sampled_from(Action),
    st.sampled_from(["http", CONFIG]),
    st.integers(0, 9).map(float),
    st.sampled_from([None, None, "c1", "c2"]),
    st.none() | st.integers(0, 20).map(float),
).map(lambda one: dataclasses.replace(one, conversation=None) if one.source == CONFIG else one)
EVENTS = st.lists(EVENT, max_size=14)
MOMENTS = st.integers(-1, 21).map(float)
CONVERSATIONS = st.sampled_from([None, "c1", "c2", "c3"])


def event(action: Action, purpose: Purpose, at: float, conversation: str | None = None, **more: object) -> GrantEvent:
    return dataclasses.replace(GrantEvent("ana", purpose, action, "http", at, conversation), **more)  # type: ignore[arg-type]


def word_for_word(events: Iterable[GrantEvent], now: float, conversation: str | None) -> Standing:
    """The rule as it is written down for people: who is still in force is gone through from the first to the last."""
    granted: dict[str, set[Purpose]] = {"people": set(), "settings": set()}
    revoked: set[Purpose] = set()
    closed: set[Purpose] = set()
    for one in sorted(events, key=by_time):
        who = granted["settings" if one.source == CONFIG else "people"]
        is_over = one.action is GRANT and one.expires_at is not None and one.expires_at <= now
        if is_over or one.conversation not in (None, conversation):
            continue
        if one.action is GRANT:
            if one.conversation is None and one.purpose in closed:
                continue
            who.add(one.purpose)
            revoked -= with_included({one.purpose})
            if one.conversation is not None:
                closed -= with_included({one.purpose})
        elif one.source == CONFIG:
            who.discard(one.purpose)
        else:
            gone = set(Purpose) if one.purpose is LOG else {one.purpose}
            for holders in granted.values():
                holders -= gone
            revoked |= gone
            closed |= gone if one.conversation is not None else set()
    return Standing(frozenset(granted["people"] | granted["settings"]), frozenset(revoked))


@given(EVENTS, MOMENTS, CONVERSATIONS)
def test_what_events_come_to_is_what_the_rule_says_word_for_word(
    events: list[GrantEvent], now: float, conversation: str | None
) -> None:
    assert fold(events, now=now, conversation=conversation) == word_for_word(events, now, conversation)


@given(EVENTS, st.lists(st.tuples(MOMENTS, CONVERSATIONS), max_size=4))
def test_however_it_grew_a_history_says_of_now_and_then_what_all_of_its_events_say(
    events: list[GrantEvent], asked: list[tuple[float, str | None]]
) -> None:
    grown = History()
    for number, one in enumerate(events):
        grown.append(grown.stamped(one) if number % 3 else one)
        for moment, conversation in asked:
            # Asked in between, so that what was folded by then is gone on with.
            grown.told(conversation)
            then = word_for_word((each for each in grown.events if each.at <= moment), moment, conversation)
            assert grown.standing_at(moment, conversation, now=1e9)[0] == then
    for now in sorted(moment for moment, _ in asked):
        for conversation in (None, "c1", "c3"):
            assert grown.standing(conversation, now) == word_for_word(grown.events, now, conversation)


def test_a_long_history_is_not_folded_again_for_one_event_more_nor_for_one_question_about_the_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folded = 0

    def counted(told: Told, one: GrantEvent) -> Told:
        nonlocal folded
        folded += 1
        return after(told, one)

    monkeypatch.setattr(consent_history, "after", counted)
    long = History(event(GRANT, Purpose("train"), float(n), f"c{n % 3}" if n % 2 else None) for n in range(10_000))
    long.standing("c1", 1e9)
    folded = 0
    for n in range(100):
        long.append(long.stamped(event(REVOKE if n % 2 else GRANT, LOG, 2e4)))
        long.standing("c1", 1e9)
    assert folded == 100
    folded = 0
    for n in range(100):
        long.was_granted(TRAIN, at=97.0 * n, conversation="c1", now=1e9)
    assert folded <= 100 * 64


@given(EVENTS, EVENT, MOMENTS, CONVERSATIONS, EVENTS)
def test_what_only_repeats_what_was_said_changes_nothing_now_or_later(
    events: list[GrantEvent], again: GrantEvent, now: float, conversation: str | None, later: list[GrantEvent]
) -> None:
    without, with_it = History(events), History(events)
    if not without.is_said(again):
        return
    with_it.append(with_it.stamped(again))
    for one in later:
        for history in (without, with_it):
            history.append(dataclasses.replace(one, at=history.events[-1].at + 1))
    assert without.standing(conversation, now) == with_it.standing(conversation, now)


def test_saying_it_again_is_no_news_but_more_less_or_elsewhere_is() -> None:
    said = History([event(GRANT, TRAIN, 1.0)])
    assert said.is_said(event(GRANT, TRAIN, 5.0))
    assert said.is_said(event(GRANT, TRAIN, 5.0, expires_at=9.0)), "it does not shorten what holds for good"
    for news in (
        event(GRANT, LOG, 5.0),
        event(REVOKE, TRAIN, 5.0),
        event(GRANT, TRAIN, 5.0, "c1"),
        event(GRANT, TRAIN, 5.0, source=CONFIG),
    ):
        assert not said.is_said(news)
    assert not History([event(GRANT, TRAIN, 1.0, expires_at=9.0)]).is_said(event(GRANT, TRAIN, 5.0))
    # For all of them it may be news where one of them was spoken of.
    said.append(event(REVOKE, TRAIN, 6.0, "c1"))
    assert not said.is_said(event(GRANT, TRAIN, 7.0))
    assert said.is_said(event(REVOKE, TRAIN, 7.0, "c1"))


def test_of_what_a_clock_that_was_ahead_stamped_the_stricter_is_believed() -> None:
    ahead, now = 5000.0, 1000.0
    given = History([event(GRANT, TRAIN, ahead, expires_at=1100.0)])
    # Kept by that grant, as far as anybody knows: so it is usable no longer than the grant holds.
    assert given.was_granted(TRAIN, at=900.0, conversation=None, now=now)
    assert not given.was_granted(EVALUATE, at=900.0, conversation=None, now=now)
    assert not given.was_granted(TRAIN, at=900.0, conversation=None, now=ahead)
    standing, last, unclear = given.standing_at(900.0, None, now)
    assert (standing, last, unclear) == (Standing(), None, 1)
    taken = History([event(GRANT, TRAIN, 800.0), event(REVOKE, TRAIN, ahead), event(GRANT, TRAIN, ahead + 1)])
    standing, last, unclear = taken.standing_at(900.0, None, now)
    assert (standing, unclear) == (Standing(revoked=frozenset({TRAIN})), 2)
    assert last is not None
    assert last.action is REVOKE
    # Now the last word counts, whatever its time.
    assert taken.standing(None, now).granted == {TRAIN}
