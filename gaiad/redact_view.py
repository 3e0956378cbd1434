"""A text as the rules of redaction look at it, with cheap facts that say where a rule is worth trying.

Each fact is found out once, when a rule first asks for it, and shared by all. They are necessary conditions: where one
says no, no rule that asks for it could have found anything; where it says yes, the rule's own pattern decides.
Decides nothing about secrets and touches nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Set
from functools import cache
from typing import AnyStr, Generic, TypeVar

from gaiad.redact_words import LONG, core, lowered

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_PERCENT = re.compile(r"%([2-7][0-9a-fA-F])")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_DEEPEST = 4
_OTHER_DIGITS = re.compile(r"[^\D0-9]")


def _table(**kinds: str) -> bytes:
    """What `bytes.translate` makes of each byte: the letter of its kind, else a full stop."""
    made = bytearray(b"." * 256)
    for letter, chars in kinds.items():
        for char in chars.encode():
            made[char] = ord(letter)
    return bytes(made)


_DIGITS, _JOINING, _PARTING = "0123456789", " ().,/-", "\t\n\r\v\f\x1c\x1d\x1e\x1f+"
_BLANKS = " \t\n\r\v\f\x1c\x1d\x1e\x1f"
_WORDY = _DIGITS + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.%+~/=-"
# In a text that is not all ASCII each other character has become a question mark: it may be a letter, or a blank.
_NUMBERS = (
    _table(d=_DIGITS, j=_JOINING, p=_PARTING),
    _table(d=_DIGITS, j=_JOINING, p=_PARTING + "?"),
)
_WORDS = _table(w=_WORDY, **{" ": _BLANKS}), _table(w=_WORDY + "?", **{" ": _BLANKS})
# What makes a word odd: a symbol, a digit or a capital letter within, many digits, a quotation mark in front.
_ODD = _table(
    a="abcdefghijklmnopqrstuvwxyz",
    A="ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    d=_DIGITS,
    j="-_",
    q="\"'`",
    x="!?",
    s="#$%&*+<=>@[\\]^{|}~",
    **{" ": _BLANKS},
)
# The literal comes first in each of these, so that what is no digit, or no capital letter, is skipped at once.
_ODD_SIGNS = (
    re.compile(rb"d(?:(?<=[^ d]d)|(?<=ddddd)|(?=[aAjq]|[.x][^ ]))"),
    re.compile(rb"A(?:(?<=aA)|(?<=ajA))"),
    re.compile(rb"x(?=[aA])"),
)
_ENDLESS = 1 << 30
_NOWHERE: list[int] = []
_LONG_RUN = b"w" * LONG
_NEAR_DIGITS = re.compile(rb"d(?:j{0,3}d){3}")
_NEAR_OTHER_DIGITS = re.compile(r"\d(?:[ ().,/-]{0,3}\d){3}")
_RUN = re.compile(rb"d(?:[jp]{0,4}d){3,}")
# Two digits right behind two letters.
_STUCK = re.compile(rb"d(?<=[.p][.p]d)d")
_DIALLED = re.compile(rb"d[djp]{6,18}d")


PIECE, OVERLAP = 131_072, 32_768
"""A pattern looks through so many characters at once, and beyond them as far as a match may need to see its end.

Whoever looks through a text holds the interpreter's lock meanwhile. No shipped rule but those for runs of one kind of
character sees further than the overlap, and of such a run all is taken.
"""


_Found = TypeVar("_Found")


class _Fact(Generic[_Found]):
    """What is found out of a view once, when first asked for; as `cached_property`, without its lock."""

    def __init__(self, find: Callable[[View], _Found]) -> None:
        self._find = find
        self._name = find.__name__

    def __get__(self, view: View, _owner: object) -> _Found:
        found = view.__dict__[self._name] = self._find(view)
        return found


class Places:
    """Where what a decoded view says stands in the text that it was made of."""

    def __init__(self, before: Places | None) -> None:
        self._before = before
        self._views, self._texts = [0], [0]

    def add(self, view: int, text: int) -> None:
        """From `view` on, each character stands one further than the one before, from `text` on."""
        self._views.append(view)
        self._texts.append(text)

    def of(self, at: int) -> int:
        """The place of one character of the view, or of its end."""
        found = bisect_right(self._views, at) - 1
        place = self._texts[found] + at - self._views[found]
        return place if self._before is None else self._before.of(place)


class View:
    """One text and its facts; `places` is None where it is the text itself."""

    def __init__(self, text: str, places: Places | None = None) -> None:
        self.text = text
        self.places = places
        self._hits: dict[str, list[int]] = {}
        self._groups: dict[int, list[int]] = {}
        self._near: dict[int, list[tuple[int, int]]] = {}
        self._words: str | None = None
        self._sought: frozenset[str] = frozenset()
        self._there: Set[str] = frozenset()
        self._longest = LONG

    def place(self, at: int) -> int:
        """Where in the original text a character of this view stands."""
        return at if self.places is None else self.places.of(at)

    @_Fact
    def low(self) -> str:
        """In small letters, each character where it was."""
        return lowered(self.text)

    def near(self, words: tuple[tuple[str, int], ...]) -> list[tuple[int, int]]:
        """Every place of each word, which is in small letters, with the number that goes with it."""
        # Rules that look near the same words share one tuple of them, and so what was found.
        shared = self._near.get(id(words))
        if shared is not None:
            return shared
        found, known = [], self._hits
        for word, reach in words:
            hits = known.get(word)
            if hits is None:
                hits = known[word] = _places(self.low, word) if self._may_hold(word) else _NOWHERE
            if hits:
                found += [(hit, reach) for hit in hits]
        self._near[id(words)] = found
        return found

    def narrow(self, words: Collection[str], sought: frozenset[str], there: Set[str]) -> None:
        """Be told all words but plain short ones, and what of `sought` they hold; so the others hold nothing of it."""
        self._words, self._sought, self._there = " ".join(words), sought, there
        self._longest = max(map(len, words), default=0)

    def may_hold_one(self, words: frozenset[str]) -> bool:
        """Whether one of these may be there."""
        return not (words <= self._sought and words.isdisjoint(self._there))

    def _may_hold(self, word: str) -> bool:
        part = core(word) if " " in word else word
        return part in self._there or part not in self._sought

    @_Fact
    def long_words(self) -> list[tuple[int, int]]:
        """Where the words stand that are long enough for a token; empty where there is no such token."""
        if self._ascii and self._longest < LONG:
            return []
        words, found = self._raw.translate(_WORDS[not self._ascii]), []
        at = words.find(_LONG_RUN)
        while at >= 0:
            end = words.find(b" ", at)
            end = len(words) if end < 0 else end
            found.append((words.rfind(b" ", 0, at) + 1, end))
            at = words.find(_LONG_RUN, end)
        return found

    @_Fact
    def long_words_with_digits(self) -> list[tuple[int, int]]:
        """Those of the long words in which there is a digit."""
        if self.has_other_digits:
            return self.long_words
        return [(start, end) for start, end in self.long_words if self._numbers.find(b"d", start, end) >= 0]

    @_Fact
    def long_low(self) -> str:
        """The long words in small letters."""
        return " ".join([self.low[start:end] for start, end in self.long_words])

    @_Fact
    def has_odd_words(self) -> bool:
        """Whether there is a word as sentences have none: with a digit or a symbol, or between quotation marks."""
        if not self._ascii:
            return True
        raw = self._raw if self._words is None else self._words.encode("ascii")
        kinds = raw.translate(_ODD)
        if b"s" in kinds or b" q" in kinds or kinds[:1] == b"q":
            return True
        return any(sign.search(kinds) for sign in _ODD_SIGNS)

    @_Fact
    def has_near_digits(self) -> bool:
        """Whether four digits are close together."""
        if self.has_other_digits:
            return _NEAR_OTHER_DIGITS.search(self.text) is not None
        return self._digits >= 4 and _NEAR_DIGITS.search(self._numbers) is not None

    @_Fact
    def has_other_digits(self) -> bool:
        """Whether there are digits that are not ASCII's, of which `groups` knows nothing."""
        return not self._ascii and _OTHER_DIGITS.search(self.text) is not None

    @_Fact
    def may_hold_a_dialled_number(self) -> bool:
        """Whether something is as long as a telephone number and begins and ends with a digit."""
        return self.has_other_digits or any(self._found(_DIALLED))

    def groups(self, count: int) -> list[int]:
        """Where digits begin of which `count`, four at the least, or more follow each other, with little between."""
        found = self._groups.get(count)
        if found is None:
            near = _of_digits(count)
            found = [
                one.start()
                for start, end, digits in self._runs
                if digits >= count
                for one in near.finditer(self._numbers, start, end)
            ]
            self._groups[count] = found
        return found

    @_Fact
    def most_digits(self) -> int:
        """How many digits follow each other at the most, with little between."""
        return _ENDLESS if self.has_other_digits else max((digits for _, _, digits in self._runs), default=0)

    @_Fact
    def stuck(self) -> list[int]:
        """Where two digits stand right behind two letters."""
        return [match.start() for match in self._found(_STUCK)]

    @_Fact
    def _runs(self) -> list[tuple[int, int, int]]:
        """Where four digits or more stand with little between them: from, to, and how many they are."""
        spans = [match.span() for match in self._found(_RUN)]
        return [(start, end, self._numbers.count(b"d", start, end)) for start, end in spans]

    @_Fact
    def _ascii(self) -> bool:
        return self.text.isascii()

    @_Fact
    def _raw(self) -> bytes:
        return self.text.encode("ascii", "replace")

    def _found(self, pattern: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
        return in_pieces(pattern, self._numbers, 0, len(self._numbers))

    @_Fact
    def _digits(self) -> int:
        return self._numbers.count(b"d")

    @_Fact
    def _numbers(self) -> bytes:
        return self._raw.translate(_NUMBERS[not self._ascii])


def _places(text: str, word: str) -> list[int]:
    found, at = [], text.find(word)
    while at >= 0:
        found.append(at)
        at = text.find(word, at + 1)
    return found


@cache
def _of_digits(count: int) -> re.Pattern[bytes]:
    return re.compile(rb"d(?<!dd)(?=(?:[jp]{0,4}d){%d})" % (count - 1))


def in_pieces(
    pattern: re.Pattern[AnyStr], text: AnyStr, start: int, stop: int, piece: int = PIECE, overlap: int = OVERLAP
) -> Iterator[re.Match[AnyStr]]:
    """What `pattern.finditer` finds from `start` to `stop`, looking no further than piece and overlap at once."""
    while stop - start > piece + overlap:
        border, seen = start + piece, start + piece + overlap
        for found in pattern.finditer(text, start, seen):
            start = found.start()
            if start >= border:
                break
            # What reaches the end of what is seen may go on behind it, or be nothing at all.
            match = found if found.end() < seen else pattern.match(text, start, stop)
            start = start + 1 if match is None else match.end()
            if match is not None:
                yield match
            if match is not found:
                break
        else:
            start = max(start, border)
    yield from pattern.finditer(text, start, stop)


def views(text: str) -> Iterator[View]:
    """The text, and what it says with its escapes taken away, one level after the other, and with percent signs."""
    whole = View(text)
    yield whole
    plain = whole
    for plain in _levels(whole, _ESCAPE, "\\"):
        yield plain
    yield from _levels(whole, _PERCENT, "%")
    if plain is not whole:
        yield from _levels(plain, _PERCENT, "%")


def _levels(view: View, pattern: re.Pattern[str], needed: str) -> Iterator[View]:
    for _ in range(_DEEPEST):
        if needed not in view.text or pattern.search(view.text) is None:
            return
        view = View(*_decoded(view.text, view.places, pattern))
        yield view


def _decoded(text: str, before: Places | None, pattern: re.Pattern[str]) -> tuple[str, Places]:
    places = Places(before)
    parts: list[str] = []
    at = length = 0
    for match in pattern.finditer(text):
        start, end = match.span()
        short = match[2] if pattern is _ESCAPE else None
        parts += (text[at:start], _SHORT.get(short, short) if short else chr(int(match[1], 16)))
        length += start - at + 1
        places.add(length - 1, start)
        places.add(length, end)
        at = end
    parts.append(text[at:])
    return "".join(parts), places
