"""What rules of redaction look for within words, found by the words that were met before.

People say the same words again and again, and rules look for hundreds of pieces of words: a text is looked through for
them only in words that are new. What a word holds is remembered in memory alone, of words without digits, and not of
more than some thousands. Decides nothing about secrets and touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import filterfalse
from operator import concat

LONG = 15
"""So many characters at the least, without a blank, has every token that a vendor's rule knows."""
_REMEMBERED = 30_000
_FEW = 100
"""Up to so many characters it is quicker to look what begins with two that are there than for each piece."""
_LEARNT = 100
_AT_ONCE = 65_536
_BLANK = re.compile(r"\s")
_AROUND = "().,;:!?"
_QUOTES = ("'", '"', "`")
_WITHOUT_DIGITS = re.compile(r"[!-/:-~]{1,40}")
# What (?i) takes for an ASCII letter, and `lower` does not make one of a single character.
_ODD_LETTERS = (("İ", "i"), ("ı", "i"), ("ſ", "s"))


def lowered(text: str) -> str:
    """In small letters, each character where it was."""
    if not text.isascii():
        for odd, plain in _ODD_LETTERS:
            text = text.replace(odd, plain)
    return text.lower()


def core(piece: str) -> str:
    """The longest part of what is sought that lies within one word; nothing where it is but a blank."""
    return max(piece.split(), key=len, default="")


class KnownWords:
    """What was met of words, and which of `sought`, in small letters, they hold; of that what lies within one word."""

    def __init__(self, sought: Iterable[str]) -> None:
        # A single character is found as soon in the text itself.
        self.sought = frozenset(part for part in map(core, sought) if len(part) > 1)
        self._ascii = [piece for piece in self.sought if piece.isascii()]
        self._abroad = [piece for piece in self.sought if not piece.isascii()]
        self._by_pair: dict[str, list[str]] = {}
        for piece in self.sought:
            self._by_pair.setdefault(piece[:2], []).append(piece)
        self._of_numbers = any(not piece.strip("0123456789" + _AROUND) for piece in self.sought)
        self._plain: set[str] = set()
        self._held: dict[str, tuple[str, ...]] = {}

    def told_of(self, text: str) -> tuple[list[str], set[str]]:
        """Words of a text, all but short ones of letters that hold nothing; and what of the sought they hold."""
        others = [word for part in _parts(text) for word in filterfalse(self._plain.__contains__, part.split())]
        there, new = set[str](), set[str]()
        for word in others:
            held = self._held.get(word)
            if held is not None:
                there.update(held)
            elif self._of_numbers or not word.strip(_AROUND).isdigit():
                new.add(word)
        if new:
            there.update(self._learnt(list(new)))
        return others, there

    def _learnt(self, words: list[str]) -> list[str]:
        low = lowered(" ".join(words))
        there = self._in_few(low) if len(low) < _FEW else self._in_many(low)
        if len(self._plain) + len(self._held) + len(words) > _REMEMBERED:
            self._plain, self._held = set(), {}
        # What is new is learnt a little at a time, so that no text waits for it long.
        for word in words[: max(_LEARNT, len(words) // 4)]:
            if _WITHOUT_DIGITS.fullmatch(word):
                low = word.lower()
                held = tuple([piece for piece in there if piece in low])
                if held or not _is_plain(word):
                    self._held[word] = held
                else:
                    self._plain.add(word)
        return there

    def _in_few(self, low: str) -> list[str]:
        pairs = self._by_pair.keys() & set(map(concat, low, low[1:]))
        return [piece for pair in pairs for piece in self._by_pair[pair] if piece in low]

    def _in_many(self, low: str) -> list[str]:
        there = [piece for piece in self._ascii if piece in low]
        return there if low.isascii() else there + [piece for piece in self._abroad if piece in low]


def _parts(text: str) -> Iterator[str]:
    """The text in parts between blanks: whoever takes one apart holds the interpreter's lock."""
    at = 0
    while len(text) - at > _AT_ONCE:
        blank = _BLANK.search(text, at + _AT_ONCE)
        end = blank.start() if blank else len(text)
        yield text[at:end]
        at = end
    yield text[at:]


def _is_plain(word: str) -> bool:
    """Whether a word has but letters, as sentences write them, and marks around them, and is too short for a token."""
    bare = word.strip(_AROUND).replace("'", "")
    if len(word) >= LONG or not bare.isalpha() or word.startswith(_QUOTES):
        return False
    return bare.isupper() or bare[1:].islower() or len(bare) == 1
