"""For what is an exchange still kept? By age and by size, purpose by purpose, the newest first.

Looks at no clock and deletes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gaiad.consent import Purpose, with_included


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
