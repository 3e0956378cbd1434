"""May this exchange be kept, and for which purpose? The default is no.

Consent is an append-only list of grants and revocations; what holds at a moment, in a conversation, is their fold.
Looks at no clock and keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


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


def fold(events: Iterable[GrantEvent], *, now: float, conversation: str | None = None) -> Standing:
    """Say what one user's events come to at `now` in `conversation`; None is outside of every conversation.

    The order in which they are stored or given does not count, only when they happened.
    """
    granted: frozenset[Purpose] = frozenset()
    revoked: frozenset[Purpose] = frozenset()
    # What the settings grant, besides: they take back no more than that, and nobody has said no then.
    by_settings: frozenset[Purpose] = frozenset()
    # What was said no to for this conversation alone: only a yes for this conversation alone undoes it.
    closed: frozenset[Purpose] = frozenset()
    for event in sorted((one for one in events if _counts(one, now, conversation)), key=by_time):
        match event.action:
            case Action.GRANT:
                # 1. Saying yes to a purpose says yes to what it includes, but grants that for this purpose only.
                said_yes_to = with_included({event.purpose})
                if event.conversation is not None:
                    closed -= said_yes_to
                elif event.purpose in closed:
                    continue
                if event.source == CONFIG:
                    by_settings |= {event.purpose}
                else:
                    granted |= {event.purpose}
                revoked -= said_yes_to
            case Action.REVOKE if event.source == CONFIG:
                # 2. The settings no longer say yes.
                by_settings -= {event.purpose}
            case Action.REVOKE:
                # 3. Saying no to `log` says no to all that needs it.
                gone = frozenset(Purpose) if event.purpose is Purpose.LOG else frozenset({event.purpose})
                granted, by_settings = granted - gone, by_settings - gone
                revoked |= gone
                if event.conversation is not None:
                    closed |= gone
    return Standing(granted | by_settings, revoked)


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


def next_change(events: Iterable[GrantEvent], *, now: float) -> float:
    """When the fold of `events` may come to something else by time alone; infinity where it never does."""
    ends = (event.expires_at for event in events if event.action is Action.GRANT and event.expires_at is not None)
    return min((end for end in ends if end > now), default=math.inf)


def _counts(event: GrantEvent, now: float, conversation: str | None) -> bool:
    """Whether an event is about this conversation, and has not expired."""
    if event.conversation not in (None, conversation):
        return False
    return event.action is Action.REVOKE or event.expires_at is None or now < event.expires_at


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
    was not kept by its header, `header_may_grant` is to be False: see `was_granted`.
    """
    return purpose in decide(standing.granted, standing.revoked, purpose.value, header_may_grant)


def was_granted(purpose: Purpose, events: Iterable[GrantEvent], *, at: float, conversation: str | None = None) -> bool:
    """Say whether a grant held at `at`, so that what was kept then is kept by it, and only as long as one holds."""
    before = (event for event in events if event.at <= at)
    return purpose in with_included(fold(before, now=at, conversation=conversation).granted)


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
