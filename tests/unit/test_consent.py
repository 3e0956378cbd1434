"""Consent: default deny, narrowing by header, revocations that win."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.consent import Action, GrantEvent, Purpose, Standing, decide, fold, parse_header, still_holds

LOG, TRAIN, EVALUATE = Purpose.LOG, Purpose.TRAIN, Purpose.EVALUATE


def history(text: str) -> list[GrantEvent]:
    """`+train -log` -> events; their times run backwards, because only the order counts."""
    return [
        GrantEvent("ana", Purpose(word[1:]), Action.GRANT if word[0] == "+" else Action.REVOKE, "test", -number)
        for number, word in enumerate(text.split())
    ]


def allowed(events: str, header: str | None = None, header_may_grant: bool = False) -> set[str]:
    standing = fold(history(events))
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


EVENTS = st.lists(
    st.builds(GrantEvent, st.just("ana"), st.sampled_from(Purpose), st.sampled_from(Action), st.just("t"), st.floats()),
    max_size=12,
)
HEADERS = st.none() | st.text(max_size=8) | st.lists(st.sampled_from(["none", *Purpose]), max_size=4).map(",".join)


@given(EVENTS, HEADERS, st.booleans())
def test_whatever_happened_no_revoked_purpose_is_allowed_and_all_need_log(
    events: list[GrantEvent], header: str | None, header_may_grant: bool
) -> None:
    standing = fold(events)
    result = decide(standing.granted, standing.revoked, header, header_may_grant)
    assert not standing.granted & standing.revoked
    assert not result & standing.revoked
    assert not result or LOG in result
    if not header_may_grant:
        assert result <= decide(standing.granted, standing.revoked, None, False)


@given(EVENTS, st.sampled_from(Purpose), st.booleans())
def test_the_last_word_about_a_purpose_is_what_counts(
    events: list[GrantEvent], purpose: Purpose, header_may_grant: bool
) -> None:
    standing = fold([*events, GrantEvent("ana", purpose, Action.REVOKE, "t", 0.0)])
    assert not still_holds(purpose, standing, header_may_grant)
    standing = fold([*events, GrantEvent("ana", purpose, Action.GRANT, "t", 0.0)])
    assert still_holds(purpose, standing, header_may_grant)


def test_what_a_header_granted_holds_only_while_headers_may_grant() -> None:
    assert still_holds(TRAIN, Standing(), header_may_grant=True)
    assert not still_holds(TRAIN, Standing(), header_may_grant=False)
    assert not still_holds(EVALUATE, Standing(revoked=frozenset({EVALUATE})), header_may_grant=True)
