"""May this exchange be kept, and for which purpose? The default is no.

Consent is an append-only list of grants and revocations; the current value is their fold. Looks at no clock and
keeps nothing.
"""

from __future__ import annotations

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
    """One line of a user's history; `source` says who said so (a command, a route), `at` is wall-clock seconds."""

    user: str
    purpose: Purpose
    action: Action
    source: str
    at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user's history comes to: purposes said yes to, and purposes said no to. Never both."""

    granted: frozenset[Purpose] = frozenset()
    revoked: frozenset[Purpose] = frozenset()


NOTHING: frozenset[Purpose] = frozenset()


def fold(events: Iterable[GrantEvent]) -> Standing:
    """Fold one user's events, in the order in which they were appended.

    Nothing expires, and the order of appending decides, not the clock: a clock that was set back cannot bring a
    revoked purpose to life.
    """
    granted: frozenset[Purpose] = frozenset()
    revoked: frozenset[Purpose] = frozenset()
    for event in events:
        match event.action:
            case Action.GRANT:
                # 1. Saying yes to a purpose says yes to what it includes, but grants that for this purpose only.
                granted |= {event.purpose}
                revoked -= with_included({event.purpose})
            case Action.REVOKE:
                # 2. Saying no to `log` says no to all that needs it.
                gone = frozenset(Purpose) if event.purpose is Purpose.LOG else frozenset({event.purpose})
                granted -= gone
                revoked |= gone
    return Standing(granted, revoked)


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

    What a header once granted holds until it is revoked, and only while headers may grant at all.
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


def with_included(purposes: Iterable[Purpose]) -> frozenset[Purpose]:
    """Add what the purposes include: each of them needs `log`."""
    closed = frozenset(purposes)
    return closed | {Purpose.LOG} if closed else closed
