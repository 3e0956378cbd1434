"""Places inside a JSON text, so that one value can be replaced and every other byte stays as it was written.

Pure: finds where the values at a path begin and end. The text must be JSON; what is not is never found to hold
anything. What to replace, and with what, is the caller's to decide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys of objects and indices of arrays, from the outside in."""

Span = tuple[int, int]

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}:,]|[^\s\[\]{}:,"]+')


@dataclass(slots=True)
class _Container:
    """An array or object that is open: where in it the next value belongs."""

    is_object: bool
    key: str | int | None
    at_key: bool


def spans(text: bytes, path: Path) -> list[Span]:
    """Where the values at `path` stand, in their order; several only where a key is written twice."""
    found: list[Span] = []
    open_ones: list[_Container] = []
    begun: int | None = None
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        innermost = open_ones[-1] if open_ones else None
        # 1. Between values.
        if mark in b",:":
            _step(innermost, mark)
            continue
        # 2. The end of an array or object, perhaps of one that is looked for.
        if mark in b"]}":
            if open_ones:
                open_ones.pop()
            if begun is not None and len(open_ones) == len(path):
                found.append((begun, token.end()))
                begun = None
            continue
        # 3. A key.
        if innermost is not None and innermost.at_key and mark == b'"'[0]:
            innermost.key = _text(token[0])
            continue
        # 4. A value, perhaps one that is looked for.
        hit = begun is None and len(open_ones) == len(path) and _stands_at(open_ones, path)
        if mark in b"[{":
            open_ones.append(_Container(mark == b"{"[0], None if mark == b"{"[0] else 0, mark == b"{"[0]))
            begun = token.start() if hit else begun
        elif hit:
            found.append(token.span())
    return found


def replaced(text: bytes, places: Sequence[Span], value: bytes) -> bytes:
    """`text` with `value` at each of `places`."""
    pieces, end = [], 0
    for start, stop in places:
        pieces += [text[end:start], value]
        end = stop
    return b"".join([*pieces, text[end:]])


def with_value(text: bytes, path: Path, value: bytes) -> bytes:
    """`text` with `value` at `path`; as it was where there is nothing."""
    places = spans(text, path)
    return replaced(text, places, value) if places else text


def _step(innermost: _Container | None, mark: int) -> None:
    if innermost is None:
        return
    if innermost.is_object:
        innermost.at_key = mark == b","[0]
    elif mark == b","[0] and isinstance(innermost.key, int):
        innermost.key += 1


def _stands_at(open_ones: Sequence[_Container], path: Path) -> bool:
    return all(container.key == key for container, key in zip(open_ones, path, strict=True))


def _text(token: bytes) -> str | None:
    try:
        return str(json.loads(token))
    except ValueError:
        return None
