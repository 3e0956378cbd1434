"""May this exchange be kept, and for which purpose? The default is no.

Consent is an append-only list of grants and revocations; what holds at a moment, in a conversation, is their fold.
Looks at no clock and keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from typing import NamedTuple, TypeAlias


class Purpose(StrEnum):
    """What an exchange may be kept for. `train` and `evaluate` each include `log`, not each other."""

    LOG = "log"
    TRAIN = "train"
    EVALUATE = "evaluate"


class Action(StrEnum):
    """The two things that may happen to a purpose."""

    GRANT = "grant"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class GrantEvent:
    """One line of a user's history; `at` and `expires_at` are wall-clock seconds.

    `source` says by which way it came: `header`, `command`, `http` or `config`. `conversation` is the one that it is
    about, None for all of them. `expires_at` is when a grant stops to count, None for never; a revocation never does.
    """

    user: str
    purpose: Purpose
    action: Action
    source: str
    at: float
    conversation: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user's history comes to: purposes said yes to, and purposes said no to. Never both."""

    granted: frozenset[Purpose] = frozenset()
    revoked: frozenset[Purpose] = frozenset()


CONFIG = "config"
"""The source of what the settings say."""

NOTHING: frozenset[Purpose] = frozenset()


class Word(NamedTuple):
    """What was said of one purpose, each as the moment until which it holds; infinity for good, minus that for not.

    A grant for a time is as good as its end: so what was said comes to a few moments, and is read once, whatever the
    time is. `granted` by people and `by_settings` by the settings; nobody's no stands in the way until `free`, and
    nobody's no for this conversation alone, which only a yes for it alone undoes, until `open`.
    """

    granted: float = -math.inf
    by_settings: float = -math.inf
    free: float = math.inf
    open: float = math.inf


Told: TypeAlias = Mapping[Purpose, Word]
"""What a user's events come to in one conversation, or outside of every one, at any moment after the last of them."""

SILENCE: Told = dict.fromkeys(Purpose, Word())


def after(told: Told, event: GrantEvent) -> Told:
    """What it comes to with one event more, which is the last word, and about this conversation."""
    words = dict(told)
    if event.action is Action.GRANT:
        end = math.inf if event.expires_at is None else event.expires_at
        if event.conversation is None:
            # 1. Said for all it counts where it was not said no to for a conversation alone.
            end = min(end, words[event.purpose].open)
        # 2. Saying yes to a purpose says yes to what it includes, but grants that for this purpose only.
        for purpose in with_included({event.purpose}):
            word = words[purpose]
            opens = word.open if event.conversation is None else max(word.open, end)
            words[purpose] = Word(word.granted, word.by_settings, max(word.free, end), opens)
        word, by_settings = words[event.purpose], event.source == CONFIG
        granted = word.granted if by_settings else max(word.granted, end)
        words[event.purpose] = word._replace(
            granted=granted, by_settings=max(word.by_settings, end) if by_settings else word.by_settings
        )
    elif event.source == CONFIG:
        # 3. The settings no longer say yes: they take back no more than that, and nobody has said no then.
        words[event.purpose] = words[event.purpose]._replace(by_settings=-math.inf)
    else:
        # 4. Saying no to `log` says no to all that needs it.
        for purpose in Purpose if event.purpose is Purpose.LOG else (event.purpose,):
            opens = words[purpose].open if event.conversation is None else -math.inf
            words[purpose] = Word(free=-math.inf, open=opens)
    return words


def standing(told: Told, *, now: float) -> Standing:
    """What it comes to at `now`."""
    return Standing(
        frozenset(purpose for purpose, word in told.items() if now < max(word.granted, word.by_settings)),
        frozenset(purpose for purpose, word in told.items() if now >= word.free),
    )


def ends(told: Told, *, now: float) -> dict[Purpose, float]:
    """What is allowed at `now`, and until when it is if nothing more is said; infinity for good."""
    here = standing(told, now=now)
    return {
        purpose: min(
            told[purpose].free,
            max(max(told[one].granted, told[one].by_settings) for one in Purpose if purpose in with_included({one})),
        )
        for purpose in Purpose
        if purpose in decide(here.granted, here.revoked, None, False)
    }


def fold(events: Iterable[GrantEvent], *, now: float, conversation: str | None = None) -> Standing:
    """Say what one user's events come to at `now` in `conversation`; None is outside of every conversation.

    The order in which they are stored or given does not count, only when they happened.
    """
    here = (event for event in events if event.conversation in (None, conversation))
    return standing(reduce(after, sorted(here, key=by_time), SILENCE), now=now)


def follow_settings(wanted: Iterable[Purpose], events: Iterable[GrantEvent], *, now: float) -> dict[Purpose, Action]:
    """What is to be appended so that one user's history says what the settings say: they grant `wanted`, and no more.

    Settings undo nobody's revocation, and take back no grant but their own.
    """
    about_all = [event for event in events if event.conversation is None]
    revoked = fold(about_all, now=now).revoked
    lasting = fold((one for one in about_all if one.expires_at is None), now=now).granted
    theirs = fold((one for one in about_all if one.source == CONFIG or one.action is Action.REVOKE), now=now).granted
    wanted = frozenset(wanted)
    news: dict[Purpose, Action] = {}
    for purpose in Purpose:
        # 1. Granted by nobody for good, and by nobody revoked.
        if purpose in wanted - lasting - revoked:
            news[purpose] = Action.GRANT
        # 2. Theirs still, whoever else granted it since.
        elif purpose in theirs - wanted:
            news[purpose] = Action.REVOKE
    return news


def by_time(event: GrantEvent) -> tuple[float, bool, bool]:
    """By time. Of what happened at once a revocation is the last word, and before it what is about one conversation."""
    return event.at, event.action is Action.REVOKE, event.conversation is not None


def decide(
    granted: frozenset[Purpose], revoked: frozenset[Purpose], header: str | None, header_may_grant: bool
) -> frozenset[Purpose]:
    """Say for which purposes an exchange may be kept; empty means that its content is not kept at all.

    `header` is the value of `X-Gaia-Consent`, or None where it was not sent.
    """
    allowed = with_included(granted) - revoked
    # 1. No header: what was granted.
    if header is None:
        return allowed
    asked = parse_header(header)
    # 2. A value that cannot be read, or `none`: nothing.
    if asked is None or not asked:
        return NOTHING
    narrowed = allowed & with_included(asked)
    # 3. The header narrows.
    if not header_may_grant:
        return narrowed
    # 4. Where the owner lets it, it widens too, but never over a revocation.
    widened = with_included(asked - revoked)
    if Purpose.LOG in revoked:
        widened = NOTHING
    return narrowed | widened


def still_holds(purpose: Purpose, standing: Standing, header_may_grant: bool) -> bool:
    """Say whether an exchange that was kept for `purpose` may still be used for it.

    What a header once granted holds until it is revoked, and only while headers may grant at all. For an exchange that
    was not kept by its header, `header_may_grant` is to be False: see `History.was_granted`.
    """
    return purpose in decide(standing.granted, standing.revoked, purpose.value, header_may_grant)


def parse_header(text: str) -> frozenset[Purpose] | None:
    """Read `none|log|train|evaluate` (comma list, any case); None when it is malformed."""
    words = [word.strip().lower() for word in text.split(",")]
    if words == ["none"]:
        return NOTHING
    try:
        return frozenset(Purpose(word) for word in words)
    except ValueError:
        return None


def header_in_short(text: str | None) -> str | None:
    """What a consent header said, in words that are its own: `none`, purposes, or `malformed`; None without one."""
    if text is None:
        return None
    asked = parse_header(text)
    return "malformed" if asked is None else ",".join(sorted(asked)) or "none"


def with_included(purposes: Iterable[Purpose]) -> frozenset[Purpose]:
    """Add what the purposes include: each of them needs `log`."""
    closed = frozenset(purposes)
    return closed | {Purpose.LOG} if closed else closed
