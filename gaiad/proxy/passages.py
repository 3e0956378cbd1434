"""The texts of a request by who wrote them, and where in them a phrase stands.

Decides whether a phrase is an instruction or is merely mentioned: quoted, fenced, or inside a document that was put
into the text. Knows nothing of stages. Every search is linear in the text's length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

import msgspec

_QUOTES = "\"'`“”„«»‘’‚「『"
_PAIRS = (("“", "”"), ("«", "»"), ("「", "」"), ("『", "』"))
_LOOK_BACK = 300
_MOST_PLACES = 100
_FAR = 1 << 62
_FENCE = re.compile(r"\n[ \t]{0,3}(?:```|~~~)")


# Literals and not enums: they are compared for every phrase of every request.
Where: TypeAlias = Literal["system", "first_user", "last_user", "user", "any"]
"""Whose text a phrase is looked for in."""

Place: TypeAlias = Literal["start", "line", "sentence", "unquoted", "last_line"]
"""Where in a text a phrase must stand: never in a fence, and in a quotation for `last_line` only."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Lines that open and close a document inside a text, and what a phrase in there still counts (0..1)."""

    opened_by: tuple[str, ...] = ()
    closed_by: tuple[str, ...] = ()
    share: float = 0.0
    marks: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        opens, closes = ("|".join(map(re.escape, marks)) or "(?!)" for marks in (self.opened_by, self.closed_by))
        object.__setattr__(self, "marks", re.compile(f"\n(?:(?P<opens>{opens})|(?P<closes>{closes}))"))


@dataclass(slots=True)
class Passage:
    """One text. `whole` stands for a prompt, in which instruction and person share one text: only its start counts."""

    text: str
    documents: Documents
    is_system: bool = False
    whole: bool = False
    _fences: list[tuple[int, int]] | None = field(default=None, init=False)
    _inserted: list[tuple[int, int]] | None = field(default=None, init=False)

    def share(self, phrase: str, place: Place) -> float:
        """How much `phrase` counts here: 1 where it is an instruction, less inside a document, 0 where it is none."""
        if phrase not in self.text:
            return 0.0
        best = 0.0
        for at in self._positions(phrase, "start" if self.whole else place):
            if _covers(self._fenced(), at):
                continue
            if not _covers(self._in_documents(), at):
                return 1.0
            best = self.documents.share
        return best

    def _positions(self, phrase: str, place: Place) -> Iterator[int]:
        text = self.text
        if place == "last_line":
            at = text.find(phrase, text.rstrip().rfind("\n") + 1)
            if at >= 0:
                yield at
            return
        if text.startswith(phrase):
            yield 0
        if place == "start":
            return
        wanted, skip = (f"\n{phrase}", 1) if place == "line" else (phrase, 0)
        at = 0 - skip
        # 1. Bounded, so that a text made of one phrase costs no more than its length.
        for _ in range(_MOST_PLACES):
            at = text.find(wanted, at + 1)
            if at < 0:
                return
            if place == "line" or self._is_own(at, place):
                yield at + skip

    def _is_own(self, at: int, place: Place) -> bool:
        """Whether what stands at `at` is said by the text itself, and begins a sentence where it must."""
        text = self.text
        before = text[at - 1]
        if before == "\n":
            return True
        if place == "sentence" and not (before == " " and text[at - 2 : at - 1] in (".", "!", "?")):
            return False
        if before in _QUOTES:
            return False
        begin = max(0, at - _LOOK_BACK)
        line = text[max(begin, text.rfind("\n", begin, at) + 1) : at]
        odd = line.count('"') % 2 == 1 or line.count("`") % 2 == 1
        return not (odd or line.startswith(">") or any(line.rfind(a) > line.rfind(b) for a, b in _PAIRS))

    def _fenced(self) -> list[tuple[int, int]]:
        if self._fences is None:
            marks = [match.start() for match in _FENCE.finditer("\n" + self.text)]
            # 1. A fence that never closes: a person pasted on to the end; a system text lost its beginning.
            if len(marks) % 2 == 1:
                marks = marks[:-1] if self.is_system else [*marks, len(self.text)]
            self._fences = list(pairwise(marks))[::2]
        return self._fences

    def _in_documents(self) -> list[tuple[int, int]]:
        """Where documents stand: from the end of an opening mark to a closing one, or to the text's end."""
        if self._inserted is None:
            spans, begin = [], -1
            for match in self.documents.marks.finditer("\n" + self.text):
                if match.lastgroup == "opens" and begin < 0:
                    begin = match.end() - 1
                elif match.lastgroup == "closes" and begin >= 0:
                    spans.append((begin, match.start()))
                    begin = -1
            self._inserted = [*spans, (begin, len(self.text))] if begin >= 0 else spans
        return self._inserted


def _covers(spans: list[tuple[int, int]], at: int) -> bool:
    found = bisect_right(spans, (at, _FAR)) - 1
    return found >= 0 and at < spans[found][1]


class Texts(msgspec.Struct, frozen=True):
    """The texts of a request by who wrote them. `whole`: one prompt, which is instruction and question at once."""

    system: list[str]
    user: list[str]
    other: list[str]
    whole: bool = False

    def of(self, where: Where) -> list[str]:
        """The texts that `where` means."""
        if where == "system":
            return self.system
        if where == "last_user":
            return self.user[-1:]
        if where == "first_user":
            return self.user[:1]
        return self.user if where == "user" or self.whole else [*self.system, *self.user, *self.other]

    def passages(self, where: Where, documents: Documents) -> list[Passage]:
        """The same, ready to be searched."""
        is_system = where == "system"
        return [Passage(text, documents, is_system=is_system, whole=self.whole) for text in self.of(where)]


def texts_of_chat(messages: object) -> Texts:
    """The texts of a chat; whatever is no message, or holds no text, has none."""
    told = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return texts_of_plain((message.get("role"), _text_of(message.get("content"))) for message in told)


def texts_of_plain(messages: Iterable[tuple[object, str]]) -> Texts:
    """The texts of a chat whose messages are a role and a text each."""
    texts = Texts([], [], [])
    for role, text in messages:
        if role == "user":
            texts.user.append(text.lstrip())
        elif role == "system" or role == "developer":
            texts.system.append(text.lstrip())
        else:
            texts.other.append(text.lstrip())
    return texts


def texts_of_prompt(prompt: object) -> Texts:
    """The text of a completion's prompt; the first where there are several."""
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    only = [first.lstrip()] if isinstance(first, str) else []
    return Texts(only, only, [], whole=True)


def _text_of(content: object) -> str:
    """The text of a message, or those of its parts, a line each."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "\n".join(part for part in parts if isinstance(part, str))
