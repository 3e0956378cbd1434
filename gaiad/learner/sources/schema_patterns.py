"""Texts that match a simple regular expression: literals, classes, groups, alternatives and bounded repeats.

A pattern beyond that (looking around, back references, repeats that could make a match take for ever) is refused with
its reason and never matched against anything. Decides nothing about what a text means.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_REPEATS = 64
_BEYOND = 3
"""How many more than the least an open repeat is drawn."""
_LONGEST = 300
_DIGITS, _SPACE = string.digits, " "
_WORD = string.ascii_lowercase + string.digits + "_"
_ANY = string.ascii_lowercase + string.digits + "-_ "
_ESCAPED = {"d": _DIGITS, "w": _WORD, "s": _SPACE, "D": string.ascii_lowercase, "W": "-", "S": _WORD}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r"}


@dataclass(frozen=True, slots=True)
class _Chars:
    """One of these characters."""

    chars: str


@dataclass(frozen=True, slots=True)
class _Chain:
    """One after the other."""

    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of several."""

    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    """The same again, `low` to `high` times (None: without an end)."""

    part: _Node
    low: int
    high: int | None


_Node = _Chars | _Chain | _Choice | _Repeat


def pattern_fault(pattern: str) -> str | None:
    """Say why no text is drawn for `pattern`, or None where one can be."""
    try:
        _parsed(pattern)
    except ValueError as error:
        return str(error)
    return None


def matching(pattern: str, draw: random.Random) -> str:
    """Draw a text that matches the whole of `pattern`.

    Raises:
        ValueError: where the pattern is not a simple one.
    """
    text = _drawn(_parsed(pattern), draw)
    if len(text) > _LONGEST:
        raise ValueError(f"the pattern {pattern!r} asks for texts longer than {_LONGEST} characters")
    return text


def _drawn(node: _Node, draw: random.Random) -> str:
    match node:
        case _Chars(chars):
            return draw.choice(chars) if chars else ""
        case _Chain(parts):
            return "".join(_drawn(part, draw) for part in parts)
        case _Choice(parts):
            return _drawn(draw.choice(parts), draw)
        case _Repeat(part, low, high):
            most = max(low, 1) + _BEYOND if high is None else min(high, max(low, 1) + _BEYOND)
            return "".join(_drawn(part, draw) for _ in range(draw.randint(low, max(low, most))))


def _parsed(pattern: str) -> _Node:
    if len(pattern) > _LONGEST:
        raise ValueError(f"a pattern of {len(pattern)} characters is too long")
    reader = _Reader(pattern)
    node = reader.choice(depth=0)
    if reader.at < len(pattern):
        raise reader.beyond("a bracket that was never opened")
    return node


class _Reader:
    """Reads one pattern from left to right; `at` is the next character's place."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def beyond(self, what: str) -> ValueError:
        return ValueError(f"the pattern {self.pattern!r} has {what}")

    def choice(self, depth: int) -> _Node:
        if depth > 8:
            raise self.beyond("brackets too deep")
        parts = [self.chain(depth)]
        while self._take("|"):
            parts.append(self.chain(depth))
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def chain(self, depth: int) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            node = self._atom(depth)
            if node is not None:
                parts.append(self._repeated(node))
        return _Chain(tuple(parts))

    def _take(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def _atom(self, depth: int) -> _Node | None:
        char = self.pattern[self.at]
        self.at += 1
        match char:
            case "^" | "$":
                return None
            case ".":
                return _Chars(_ANY)
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case "\\":
                return _Chars(self._escaped())
            case "*" | "+" | "?" | "{":
                raise self.beyond(f"a {char!r} that repeats nothing")
            case _:
                return _Chars(char)

    def _group(self, depth: int) -> _Node:
        if self._take("?") and not self._take(":"):
            raise self.beyond("a group of a kind that is not drawn from")
        node = self.choice(depth + 1)
        if not self._take(")"):
            raise self.beyond("a bracket that is never closed")
        return node

    def _escaped(self) -> str:
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if char in _ESCAPED:
            return _ESCAPED[char]
        if char in _CONTROL:
            return _CONTROL[char]
        if not char or char.isalnum():
            raise self.beyond(f"an escape \\{char} that is not drawn from")
        return char

    def _class(self) -> _Node:
        without = self._take("^")
        found = ""
        while not self._take("]") or not found:
            if self.at >= len(self.pattern):
                raise self.beyond("a class that is never closed")
            found += self._range()
        if without:
            found = "".join(char for char in _ANY if char not in found)
        if not found:
            raise self.beyond("a class that holds none of the common characters")
        return _Chars(found)

    def _range(self) -> str:
        char = self.pattern[self.at]
        self.at += 1
        first = self._escaped() if char == "\\" else char
        rest = self.pattern[self.at : self.at + 2]
        if len(first) != 1 or len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return first
        self.at += 2
        last = self._escaped() if rest[1] == "\\" else rest[1]
        if len(last) != 1 or not 0 <= ord(last) - ord(first) < 256:
            raise self.beyond("a range that is none")
        return "".join(chr(code) for code in range(ord(first), ord(last) + 1))

    def _repeated(self, node: _Node) -> _Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        low, high = bounds
        if self._take("?") or self._take("+") or self._take("*"):
            raise self.beyond("a lazy, possessive or doubled repeat")
        if low > _MOST_REPEATS or (high is not None and high < low):
            raise self.beyond(f"a repeat {{{low},{high}}} that is not drawn from")
        # 1. A repeat of something that itself repeats openly can take for ever to fail, unless what is repeated begins
        #    or ends with a mark that the rest of it cannot be.
        if (high is None or high > _MOST_REPEATS) and not isinstance(node, _Chars) and not _delimited(node):
            raise self.beyond("a repeat inside a repeat that could match in too many ways")
        return _Repeat(node, low, high)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        if not self._take("{"):
            return None
        inside, closed, _ = self.pattern[self.at :].partition("}")
        low, comma, high = inside.partition(",")
        if not closed or not low.isdecimal() or not (high.isdecimal() or not high) or len(inside) > 9:
            raise self.beyond("a '{' that is no repeat")
        self.at += len(inside) + 1
        return int(low), (int(high) if high else None if comma else int(low))


def _delimited(node: _Node) -> bool:
    """Whether a repeated group can be taken apart in one way only: by a mark at its begin or end."""
    parts = node.parts if isinstance(node, _Chain) else ()
    for mark, rest in ((parts[:1], parts[1:]), (parts[-1:], parts[:-1])):
        if mark and isinstance(mark[0], _Chars) and not set(mark[0].chars) & _characters(rest):
            return all(isinstance(part, _Chars) or _flat(part) for part in rest)
    return False


def _flat(node: _Node) -> bool:
    return isinstance(node, _Repeat) and isinstance(node.part, _Chars)


def _characters(nodes: Sequence[_Node]) -> set[str]:
    """Every character that may occur in a text of these."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case _Chars(chars):
                found |= set(chars)
            case _Repeat(part, _, _):
                found |= _characters([part])
            case _Chain(parts) | _Choice(parts):
                found |= _characters(parts)
    return found
