"""Secrets and personal data out of what is about to be written down: typed placeholders in their place.

A value that is written with escapes (JSON inside JSON, percent signs in a URL) is looked for in decoded views of the
text, and replaced where it stands. Touches nothing: rules and key come in. It is a net with meshes, not a proof: what
no rule knows passes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gaiad.redact_columns import cells
from gaiad.redact_doubts import PLACEHOLDER, is_secret_value
from gaiad.redact_numbers import is_card
from gaiad.redact_rules import Rules
from gaiad.redact_view import views

_MEDIA = re.compile(r"data:[\w/+.;=-]{1,100};base64,[A-Za-z0-9+/=\s]{200,}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_REMEMBERED = 20_000
_SMALLEST_CARD = 10**12
_QUOTES = ('"', "'")
_NAME, _WORD = 64, 16

_Span = tuple[int, int, str, str]


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A value without what was found in it, and how often each type was."""

    value: object
    counts: Counter[str] = field(default_factory=Counter)


class Scrubber:
    """Replaces what the rules find. `key` makes placeholders that nobody without it can trace back."""

    def __init__(self, rules: Rules, key: bytes) -> None:
        self._rules = rules
        self._key = key
        self._clean: dict[str | bytes, None] = {}
        self._names: dict[str, bool] = {}

    def scrub(self, value: object, scope: str) -> Scrubbed:
        """Scrub texts at any depth, the names of fields too; one value has one placeholder within `scope`."""
        counts: Counter[str] = Counter()
        return Scrubbed(self._scrubbed(value, scope, counts), counts)

    def scrub_text(self, text: str, scope: str) -> str:
        """The same for one text."""
        return self._text(text, scope, Counter())

    def _scrubbed(self, value: object, scope: str, counts: Counter[str]) -> object:
        if isinstance(value, str):
            return self._text(value, scope, counts)
        if isinstance(value, list | tuple):
            return [self._scrubbed(one, scope, counts) for one in value]
        if isinstance(value, Mapping):
            return self._fields(value, scope, counts)
        if isinstance(value, int) and value >= _SMALLEST_CARD and is_card(str(value)):
            return self._placeholder("CARD", str(value), scope, counts)
        return value

    def _fields(self, value: Mapping[object, object], scope: str, counts: Counter[str]) -> dict[str, object]:
        names, ones = list[str](), list[object]()
        for key, one in value.items():
            name = str(key)
            named = self._names.get(name)
            if named is None:
                named = self._names_a_secret(name)
                shown = self._text(name, scope, counts)
                # Few names are ever used, again and again; one in which something was found is not remembered.
                if shown == name and len(name) <= _NAME and len(self._names) < _REMEMBERED:
                    self._names[name] = named
                name = shown
            names.append(name)
            cleaned = one if named and isinstance(one, str) else self._scrubbed(one, scope, counts)
            if named and isinstance(cleaned, str) and not is_secret_value(cleaned):
                cleaned = self._text(cleaned, scope, counts)
            # What was no secret may look like one when something has gone from it.
            if named and isinstance(cleaned, str) and is_secret_value(cleaned):
                cleaned = self._placeholder("PASSWORD", cleaned, scope, counts)
            ones.append(cleaned)
        found = dict(zip(names, ones, strict=True))
        return found if len(found) == len(names) else dict(zip(_apart(names, value), ones, strict=True))

    def _names_a_secret(self, name: str) -> bool:
        # A placeholder's own type is no name that a value follows.
        return self._rules.secret_fields.search(PLACEHOLDER.sub("", name)) is not None

    def _text(self, text: str, scope: str, counts: Counter[str]) -> str:
        # Prompts are said again with each request: of a text in which nothing was found a digest is remembered, or a
        # word itself.
        if len(text) <= _WORD:
            known: str | bytes = text
        else:
            known = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if known in self._clean:
            return text
        cleaned = self._searched(text, scope, counts)
        if cleaned == text:
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            self._clean[known] = None
        return cleaned

    def _searched(self, text: str, scope: str, counts: Counter[str]) -> str:
        if "base64," in text:
            text = _MEDIA.sub(lambda match: self._placeholder("MEDIA", match[0], scope, counts), text)
        # What stands around a placeholder may come to match, so it is looked again until nothing is found: each time
        # at least one character more has gone.
        while spans := self._found(text):
            parts, at = list[str](), 0
            for start, end, kind, value in spans:
                parts += (text[at:start], self._placeholder(kind, value, scope, counts))
                at = end
            text = "".join((*parts, text[at:]))
        return text

    def _found(self, text: str) -> list[_Span]:
        spans: list[_Span] = []
        taken = [match.span() for match in PLACEHOLDER.finditer(text)] if "[" in text else []
        for view in views(text):
            for rule in self._rules.for_view(view):
                for match in rule.matches(view):
                    # A placeholder's own type is no name that a value follows.
                    if taken and _touched(taken, at := view.place(match.start()), at + 1):
                        continue
                    if span := rule.span(match):
                        start, end = span[0], _before_escape(view.text, *span)
                        if start < end:
                            spans.append((view.place(start), view.place(end), rule.type, view.text[start:end]))
            for start, end, kind in cells(view):
                spans.append((view.place(start), view.place(end), kind, view.text[start:end]))
        return _joined(spans, taken)

    def _placeholder(self, kind: str, value: str, scope: str, counts: Counter[str]) -> str:
        counts[kind] += 1
        said = "\0".join((scope, kind, value if kind in ("PASSWORD", "KEY", "TOKEN") else _plain(value)))
        if not said.isascii():
            # Escapes may say one character as two halves.
            said = said.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        number = int.from_bytes(hmac.digest(self._key, said.encode("utf-8", "surrogatepass"), hashlib.sha256)[:8])
        letters = "".join(_LETTERS[number // 26**place % 26] for place in range(6))
        return f"[{kind}_{letters}]"


def _before_escape(text: str, start: int, end: int) -> int:
    """The end of a span without the backslashes that belong to the quotation mark behind it: perhaps its start."""
    if text[end - 1] == "\\" and text[end : end + 1] in _QUOTES:
        return start + len(text[start:end].rstrip("\\"))
    return end


def _apart(names: Sequence[str], before: Iterable[object]) -> list[str]:
    """Names that were different, and have become the same, with a number: no field may take another's place."""
    # What was not changed keeps its name, wherever it stands.
    used, found = {name for name, key in zip(names, before, strict=True) if name == key}, list[str]()
    for name, key in zip(names, before, strict=True):
        other, number = name, 1
        while name != key and other in used:
            number += 1
            other = f"{name} ({number})"
        used.add(other)
        found.append(other)
    return found


def _plain(value: str) -> str:
    """The same card, number or address, however it is spaced and cased."""
    return re.sub(r"[\s()./-]", "", value).casefold()


def _joined(spans: list[_Span], placeholders: Sequence[tuple[int, int]]) -> list[_Span]:
    """Spans that do not overlap, in order: what overlaps becomes one, of the type of the rule that stands first."""
    joined: list[_Span] = []
    for start, end, kind, value in sorted(spans, key=lambda span: span[0]):
        touched = _touched(placeholders, start, end)
        # 1. What is a placeholder already stays. 2. What holds one and more takes it in.
        if any(first <= start and end <= last for first, last in touched):
            continue
        start, end = min([start, *(place[0] for place in touched)]), max([end, *(place[1] for place in touched)])
        if joined and start < joined[-1][1]:
            before = joined.pop()
            start, end = min(start, before[0]), max(end, before[1])
            kind, value = before[2], max(before[3], value, key=len)
        joined.append((start, end, kind, value))
    return joined


def _touched(places: Sequence[tuple[int, int]], start: int, end: int) -> Sequence[tuple[int, int]]:
    """Those of `places`, which are in order and apart, that have something of what is from `start` to `end`."""
    first = bisect_right(places, start, key=lambda place: place[1])
    return places[first : bisect_left(places, end, lo=first, key=lambda place: place[0])]
