"""For what is an exchange still kept? By age and by size, purpose by purpose, the newest first.

Decides too by which time ages are measured: a clock that jumped is not believed at once, for what went for its age
never comes back. Looks at no clock and deletes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gaiad.consent import Purpose, with_included

JUMP_S = 86400.0
"""A clock is believed that is not further than this ahead of the time that passed since the last look at it."""

PATIENCE_S = 86400.0
"""How long one that jumped while gaiad ran has to stand where it is, to be believed."""

PATIENCE_AT_START_S = 3600.0
"""The same where nobody looked meanwhile: it is far more likely that gaiad was not running for so long."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How long (seconds) and how much (bytes) is kept for a purpose; infinity for no bound."""

    age_s: float = math.inf
    size: float = math.inf


@dataclass(frozen=True, slots=True)
class Held:
    """One exchange whose content is kept: `at` in wall-clock seconds, `size` in bytes."""

    request_id: str
    at: float
    purposes: frozenset[Purpose]
    size: int


class Retention:
    """Feed it every exchange that has content, newest first, once."""

    def __init__(self, bounds: Mapping[Purpose, Bound], now: float) -> None:
        self._bounds = bounds
        self._now = now
        self._used = dict.fromkeys(Purpose, 0)
        self._full: set[Purpose] = set()

    def still(self, held: Held) -> frozenset[Purpose]:
        """What it is kept for from now on; empty where its content is to go."""
        # 1. What serves a purpose of its own is kept for that.
        own = frozenset(purpose for purpose in held.purposes - {Purpose.LOG} if self._has_room(purpose, held))
        if own:
            return with_included(own) & held.purposes
        # 2. What no longer does may be looked at for as long as any other.
        return frozenset({Purpose.LOG} & held.purposes) if self._has_room(Purpose.LOG, held) else frozenset()

    def _has_room(self, purpose: Purpose, held: Held) -> bool:
        bound = self._bounds.get(purpose, Bound())
        if self._now - held.at > bound.age_s or purpose in self._full:
            return False
        # Once something did not fit nothing older does: else what is left would depend on sizes, not on age.
        if self._used[purpose] + held.size > bound.size:
            self._full.add(purpose)
            return False
        self._used[purpose] += held.size
        return True


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the clock: `now`, in wall-clock seconds, is by what ages are measured, however the clock stands.

    `steady` is what a clock said that nobody sets, in seconds. `ahead_s` is how far the clock is ahead of what is
    believed, 0 where it is believed itself; it stands there since `since` (steady), and is believed `patience_s` later.
    """

    now: float
    steady: float
    ahead_s: float = 0.0
    since: float = 0.0
    patience_s: float = PATIENCE_S


def first_look(last: float | None, wall: float, steady: float) -> Look:
    """The first look after a start; `last` is what was believed at the last one before, None where there was none."""
    began = Look(wall if last is None else last, steady, patience_s=PATIENCE_AT_START_S)
    return look_again(began, wall, steady)


def look_again(before: Look, wall: float, steady: float) -> Look:
    """What to believe now that the clock says `wall`."""
    now = before.now + (steady - before.steady)
    ahead_s = wall - now
    # 1. About where it should be, or behind: then nothing goes too early.
    if ahead_s <= JUMP_S:
        return Look(wall, steady)
    # 2. It jumped, or jumped once more.
    if ahead_s - before.ahead_s > JUMP_S or before.ahead_s - ahead_s > JUMP_S:
        return Look(now, steady, ahead_s, steady, PATIENCE_S if before.ahead_s else before.patience_s)
    # 3. Somebody would have set it right by now.
    if steady - before.since >= before.patience_s:
        return Look(wall, steady)
    # 4. It stands where it stood.
    return replace(before, now=now, steady=steady, ahead_s=ahead_s)


def held_back(look: Look) -> str | None:
    """Why nothing goes by what the clock says; None where it is believed."""
    if not look.ahead_s:
        return None
    left_h = max(0.0, look.since + look.patience_s - look.steady) / 3600
    return (
        f"the clock is {look.ahead_s / 86400:.1f} days ahead of the time that passed, and is believed in {left_h:.1f} h"
        " unless it is set right before"
    )
