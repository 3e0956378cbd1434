"""One user's grants and revocations, in memory: what they come to now and came to then, without reading all of them.

Takes each new event as the last word. Looks at no clock and keeps nothing on the disk: the table is `grants`' to write.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain

from gaiad.consent import SILENCE, Action, GrantEvent, Purpose, Standing, Told, after, by_time, standing, with_included

_MARK_EVERY = 64
"""Between two moments of the past that are remembered lie so many events at most, which are folded again."""


class History:
    """What one user said, oldest first."""

    def __init__(self, events: Iterable[GrantEvent] = ()) -> None:
        self.events: list[GrantEvent] = []
        self._by_scope: dict[str | None, list[GrantEvent]] = {None: []}
        self._scopes: dict[str | None, _Scope] = {}
        self._stamp = self._latest = -math.inf
        for event in sorted(events, key=by_time):
            self.append(event)

    def stamped(self, event: GrantEvent) -> GrantEvent:
        """The event with a time that makes it the last word: a clock that was set back changes nothing about that.

        A revocation wins over a grant of the same moment, a grant needs a later one. Nothing is added yet.
        """
        later = self._stamp if event.action is Action.REVOKE else math.nextafter(self._stamp, math.inf)
        # Two may be on their way to the disk at once: the second is later than the first all the same.
        self._stamp = max(event.at, later)
        return dataclasses.replace(event, at=self._stamp)

    def append(self, event: GrantEvent) -> None:
        """Add a stamped event."""
        if self.events and by_time(event) < by_time(self.events[-1]):
            # It was written before one that is known already: what they come to is looked at anew.
            known, self.events, self._by_scope, self._scopes = self.events, [], {None: []}, {}
            for one in sorted([*known, event], key=by_time):
                self.append(one)
            return
        self._stamp = max(self._stamp, event.at)
        self.events.append(event)
        self._by_scope.setdefault(event.conversation, []).append(event)

    def is_said(self, event: GrantEvent) -> bool:
        """Whether an event only repeats what was said before, so that it changes nothing, now or later.

        Once single conversations were spoken of, saying something again for all of them is taken for news.
        """
        if event.conversation is None and len(self._by_scope) > 1:
            return False
        here = self._by_scope.get(event.conversation, [])
        before = next((one for one in reversed(here) if one.purpose is event.purpose), None)
        if before is None or before.action is not event.action:
            return False
        told = self.told(event.conversation)
        return after(told, event) == told

    def told(self, conversation: str | None) -> Told:
        """What it comes to in a conversation, or outside of every one."""
        return self._scope(conversation).told()

    def standing(self, conversation: str | None, now: float) -> Standing:
        """What it comes to now. A grant that was over stays over, even where the clock is set back."""
        self._latest = max(self._latest, now)
        return standing(self.told(conversation), now=self._latest)

    def was_granted(self, purpose: Purpose, *, at: float, conversation: str | None, now: float) -> bool:
        """Whether a grant held at `at`, so that what was kept then is kept by it, and only as long as one holds.

        A grant with a time that is still to come was stamped by a clock that was ahead. It may have been given before
        `at`, and counts as if it was.
        """
        scope = self._scope(conversation)
        if purpose in with_included(standing(scope.told(at), now=at).granted):
            return True
        ahead = (event for event in scope.since(now) if event.action is Action.GRANT)
        return any(purpose in with_included({event.purpose}) for event in ahead)

    def standing_at(
        self, moment: float, conversation: str | None, now: float
    ) -> tuple[Standing, GrantEvent | None, int]:
        """What it came to at a moment of the past, the last word then, and how many may have been said before or after.

        Those have a time that is still to come: of what was said nobody knows when, the revocations count.
        """
        scope = self._scope(conversation)
        unclear = scope.since(max(now, moment))
        told, last = scope.told(moment), scope.last(moment)
        for event in unclear:
            if event.action is Action.REVOKE:
                told, last = after(told, event), event
        return standing(told, now=moment), last, len(unclear)

    def _scope(self, conversation: str | None) -> _Scope:
        # All conversations that nothing was said about are one.
        name = conversation if conversation in self._by_scope else None
        if name not in self._scopes:
            here = [] if name is None else self._by_scope[name]
            self._scopes[name] = _Scope(self._by_scope[None], here)
        return self._scopes[name]


class _Scope:
    """What was said `for_all` and `here`, in one conversation, folded as far as it was asked for.

    Both only grow. A mark is how many of each were folded, and what they came to.
    """

    def __init__(self, for_all: Sequence[GrantEvent], here: Sequence[GrantEvent]) -> None:
        self._lines = (for_all, here)
        self._marks: list[tuple[int, int, Told]] = [(0, 0, SILENCE)]
        self._newest = self._marks[0]

    def told(self, moment: float = math.inf) -> Told:
        """What was said until `moment` comes to."""
        ends = (len(self._lines[0]), len(self._lines[1]))
        if self._newest[:2] != ends:
            self._newest = self._folded(self._newest, ends, marking=True)
        if moment == math.inf:
            return self._newest[2]
        until = self._until(moment)
        place = bisect_right(self._marks, sum(until), key=lambda mark: mark[0] + mark[1])
        return self._folded(self._marks[place - 1], until)[2]

    def last(self, moment: float) -> GrantEvent | None:
        """The last word until `moment`."""
        ends = zip(self._lines, self._until(moment), strict=True)
        return max((line[end - 1] for line, end in ends if end), key=by_time, default=None)

    def since(self, moment: float) -> list[GrantEvent]:
        """What was said after `moment`, by its time."""
        begins = zip(self._lines, self._until(moment), strict=True)
        return sorted(chain.from_iterable(line[begin:] for line, begin in begins), key=by_time)

    def _until(self, moment: float) -> tuple[int, int]:
        for_all, here = (bisect_right(line, moment, key=lambda event: event.at) for line in self._lines)
        return for_all, here

    def _folded(
        self, mark: tuple[int, int, Told], ends: tuple[int, int], *, marking: bool = False
    ) -> tuple[int, int, Told]:
        for_all, here, told = mark
        rest = (self._lines[0][for_all : ends[0]], self._lines[1][here : ends[1]])
        for event in heapq.merge(*rest, key=by_time):
            told = after(told, event)
            for_all, here = for_all + (event.conversation is None), here + (event.conversation is not None)
            if marking and (for_all + here) % _MARK_EVERY == 0:
                self._marks.append((for_all, here, told))
        return for_all, here, told
