"""Whether a pattern of the owner's can be let loose on any text.

Python's patterns try one way after the other. Where a part repeats and a text can be shared out among its turns in more
ways than one, a text that does not match in the end is tried in all of them: twice as many with each further character.
Such a part is found here before it is used: the pattern as a graph of its characters, and in it a round that can be
gone in two ways with the same text. Touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

# Python has no public parser of its patterns; this is the one that `re.compile` itself uses.
if TYPE_CHECKING:
    import sre_parse as parser
    from typing import Any

    _Said: TypeAlias = Any
    """What the parser says of one thing, of a shape of its own for each."""
else:
    from re import _parser as parser

_OWN, _OTHERS = 0x180, 128
_ALL = (1 << _OWN + _OTHERS) - 1
_FOR_EVER = 6
"""A part that repeats more often counts as one that repeats for ever."""
_MOST = 300
_I = re.IGNORECASE
_CLASSES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


def why_not(pattern: str) -> str | None:
    """What is wrong with a pattern that compiles, and what to try instead; None where nothing is."""
    parsed = parser.parse(pattern)
    if parsed.getwidth()[0] == 0:
        return "it matches a text without any character; have it ask for one at least, with + in place of *"
    graph = _Graph(any_case=bool(parsed.state.flags & _I))
    graph.add(parsed.data)
    if graph.turns and len(graph.takes) > _MOST:
        return f"it repeats parts and is longer than {_MOST} characters and classes; write several, or repeat nothing"
    if graph.has_two_ways_round():
        return (
            "a part that repeats can share a text out among its turns in many ways, and would try them all; "
            r"let each turn begin or end with what it has nowhere else, as in (?:\d+,)+, or keep what it took: "
            r"(?>\d+) or \d++"
        )
    return None


class _Graph:
    """The places of a pattern that take a character each, what each takes, and which may follow which."""

    def __init__(self, *, any_case: bool) -> None:
        self.takes: list[int] = []
        self.follow: list[set[int]] = []
        self.turns = False
        self._doubled = False
        self._keeping = self._turning = 0
        self._any_case = any_case

    def add(self, items: Sequence[tuple[object, _Said]]) -> _Part:
        """Add one thing after the other; where the whole can begin and end."""
        whole = _Part((), (), ways=1)
        for op, value in items:
            whole = self._joined(whole, self._one(str(op), value))
        return whole

    def has_two_ways_round(self) -> bool:
        """Whether from some place back to it there are two ways that the same text can take."""
        if self._doubled:
            return True
        for start, after in enumerate(self.follow):
            parting = [(one, two) for one in after for two in after if one < two and self.takes[one] & self.takes[two]]
            if parting and self._meet(start, parting):
                return True
        return False

    def _meet(self, start: int, parting: Iterable[tuple[int, int]]) -> bool:
        seen, waiting = set(parting), list(parting)
        while waiting:
            for pair in self._next(*waiting.pop()):
                if pair == (start, start):
                    return True
                if pair not in seen:
                    seen.add(pair)
                    waiting.append(pair)
        return False

    def _next(self, one: int, two: int) -> Iterator[tuple[int, int]]:
        for first in self.follow[one]:
            for second in self.follow[two]:
                if self.takes[first] & self.takes[second]:
                    yield (first, second)

    def _one(self, op: str, value: _Said) -> _Part:
        match op:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "CATEGORY" | "RANGE":
                self.takes.append(_taken(op, value, self._any_case))
                self.follow.append(set())
                place = (len(self.takes) - 1,)
                return _Part(place, place, ways=0)
            case "BRANCH" | "GROUPREF_EXISTS":
                ways = value[1] if op == "BRANCH" else [one or [] for one in value[1:]]
                parts = [self.add(list(one)) for one in ways]
                first = tuple(place for part in parts for place in part.first)
                last = tuple(place for part in parts for place in part.last)
                return self._unsure(_Part(first, last, ways=sum(part.ways for part in parts)))
            case "SUBPATTERN":
                before, self._any_case = self._any_case, bool((self._any_case or value[1] & _I) and not value[2] & _I)
                part = self.add(list(value[3]))
                self._any_case = before
                return part
            case "ATOMIC_GROUP":
                return self._kept(list(value))
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return self._repeated(op, *value)
            case "ASSERT" | "ASSERT_NOT":
                self._look_through_alone(list(value[1]))
                return _Part((), (), ways=1)
            case _:
                # What says where it stands, or says again what a group took, has no way of its own.
                return _Part((), (), ways=1)

    def _repeated(self, op: str, least: int, most: int, items: _Said) -> _Part:
        items = list(items)
        if op == "POSSESSIVE_REPEAT":
            return self._kept([(parser.MAX_REPEAT, (least, most, items))])
        if most > _FOR_EVER:
            self._turning += not self._keeping
            part = self.add(items)
            self._turning -= not self._keeping
            if not self._keeping:
                self.turns = True
                self._link(part.last, part.first)
            return self._unsure(_Part(part.first, part.last, ways=part.ways + (least == 0)))
        whole = _Part((), (), ways=1)
        for turn in range(most):
            part = self.add(items)
            whole = self._joined(whole, _Part(part.first, part.last, ways=part.ways + (turn >= least)))
        return whole

    def _kept(self, items: Sequence[tuple[object, _Said]]) -> _Part:
        """Add what gives nothing back once it is done: by itself it may have many ways, for what follows it has one."""
        self._look_through_alone(items)
        self._keeping += 1
        part = self.add(items)
        self._keeping -= 1
        return part

    def _look_through_alone(self, items: Sequence[tuple[object, _Said]]) -> None:
        alone = _Graph(any_case=self._any_case)
        alone.add(items)
        self._doubled |= alone.has_two_ways_round()

    def _joined(self, one: _Part, two: _Part) -> _Part:
        self._link(one.last, two.first)
        first = (*one.first, *two.first) if one.ways else one.first
        last = (*one.last, *two.last) if two.ways else two.last
        return self._unsure(_Part(first, last, ways=one.ways * two.ways))

    def _unsure(self, part: _Part) -> _Part:
        # Each turn of what repeats can then take nothing in two ways.
        self._doubled |= self._turning > 0 and part.ways > 1
        return part

    def _link(self, before: Iterable[int], after: Sequence[int]) -> None:
        for one in before:
            for two in after:
                self._doubled |= two in self.follow[one]
                self.follow[one].add(two)


class _Part:
    """Where a part of a pattern can begin and end, and in how many ways it can take nothing."""

    def __init__(self, first: Sequence[int], last: Sequence[int], *, ways: int) -> None:
        self.first, self.last, self.ways = first, last, min(ways, 2)


def _taken(op: str, value: _Said, any_case: bool) -> int:
    """The characters that something takes, a bit each; rare ones share theirs."""
    match op:
        case "LITERAL":
            chars = {chr(value)} | ({chr(value).lower(), chr(value).upper()[:1]} if any_case else set())
            return _bits(ord(char) for char in chars)
        case "NOT_LITERAL":
            return _ALL ^ _bits([value])
        case "RANGE":
            found = _bits(range(value[0], min(value[1], value[0] + _OWN + _OTHERS) + 1))
            return found | (_swapped(found) if any_case else 0)
        case "CATEGORY":
            name = str(value).removeprefix("CATEGORY_").removeprefix("UNI_")
            return _ALL ^ _class(name.removeprefix("NOT_")) if name.startswith("NOT_") else _class(name)
        case "IN":
            negated = str(value[0][0]) == "NEGATE"
            found = 0
            for inner, what in value[negated:]:
                found |= _taken(str(inner), what, any_case)
            return _ALL ^ found if negated else found
        case _:
            return _ALL


def _bits(chars: Iterable[int]) -> int:
    found = 0
    for char in chars:
        found |= 1 << (char if char < _OWN else _OWN + char % _OTHERS)
    return found


@cache
def _class(name: str) -> int:
    pattern = re.compile(_CLASSES.get(name, "."))
    rare = 0 if name == "SPACE" else _ALL >> _OWN << _OWN
    return rare | _bits(char for char in range(_OWN) if pattern.match(chr(char)))


def _swapped(found: int) -> int:
    return _bits(ord(chr(char).swapcase()[:1]) for char in range(_OWN) if found >> char & 1)
