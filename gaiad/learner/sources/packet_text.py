"""Cognition packets as text: chosen sections, one field a line or one section a line, never in quotation marks.

Decides only how a packet looks; what is shown of it is decided by whoever asks about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from gaiad.curriculum import Json

Style: TypeAlias = Literal["paths", "nested", "sections"]
STYLES: tuple[Style, ...] = ("paths", "nested", "sections")

EMPTY = "empty"
"""How an empty text or list is shown."""


def shown(packet: Mapping[str, Json], sections: Sequence[str], style: Style) -> str:
    """The sections of `packet` in the order given, in one of three styles."""
    match style:
        case "paths":
            lines = [f"{path}: {said(value)}" for name in sections for path, value in leaves(name, packet.get(name))]
        case "nested":
            lines = [line for name in sections for line in _nested(name, packet.get(name), 0)]
        case "sections":
            lines = [f"[{name}] {_in_one_line(name, packet.get(name))}" for name in sections]
    return "\n".join(lines)


def leaves(path: str, value: Json) -> Iterator[tuple[str, Json]]:
    """Every field below `path` with its full path; a list is one field."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(f"{path}.{key}", inner)
    else:
        yield path, value


def said(value: Json) -> str:
    """A field's value in words and numbers."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case list():
            return "; ".join(said(one) for one in value) or EMPTY
        case dict():
            return ", ".join(f"{key} {said(inner)}" for key, inner in value.items()) or EMPTY
        case _:
            return str(value) or EMPTY


def _nested(key: str, value: Json, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        yield f"{indent}{key}:"
        for inner, one in value.items():
            yield from _nested(inner, one, depth + 1)
    else:
        yield f"{indent}{key}: {said(value)}"


def _in_one_line(name: str, value: Json) -> str:
    return " | ".join(f"{path.removeprefix(f'{name}.')} = {said(one)}" for path, one in leaves(name, value))
