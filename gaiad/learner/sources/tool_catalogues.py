"""Which tools a request is shown: a registry divided into few fixed catalogues that fit, and variants of these.

A catalogue that does not change is what prefix sharing in training lives on, so a registry too big for one request is
cut once, at the same places for all requests, and a bounded number of variants is made: tools missing, strange ones
among them, in another order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gaiad.learner.sources.tool_prompt import Tool

_DROPPED_SHARE, _ADDED = 6, 2
"""A variant lacks one tool in six (one at least), and has up to two strange ones."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Another form of the catalogue number `of`."""

    of: int
    tools: tuple[Tool, ...]


def divided(tools: Sequence[Tool], room: int, most: int) -> tuple[list[tuple[Tool, ...]], list[Tool]]:
    """Cut the tools into at most `most` catalogues of `room` characters each; what finds no room is given back.

    Neighbours stay together (a registry's neighbours are alike, and telling them apart is what is to be learned), and
    the catalogues are about equally long.
    """
    fitting = [tool for tool in tools if _length(tool) <= room]
    left = [tool for tool in tools if _length(tool) > room]
    parts = _packed(fitting, room)
    if len(parts) > most:
        left += [tool for part in parts[most:] for tool in part]
        parts = parts[:most]
        fitting = [tool for part in parts for tool in part]
    if len(parts) > 1:
        parts = _evened(fitting, room, len(parts))
    return [tuple(part) for part in parts], left


def _length(tool: Tool) -> int:
    return len(tool.line()) + 1


def _packed(tools: Sequence[Tool], room: int) -> list[list[Tool]]:
    parts: list[list[Tool]] = []
    used = room
    for tool in tools:
        if used + _length(tool) > room:
            parts.append([])
            used = 0
        parts[-1].append(tool)
        used += _length(tool)
    return parts


def _evened(tools: Sequence[Tool], room: int, count: int) -> list[list[Tool]]:
    """The same number of parts with the least room that still gives no more of them."""
    total = sum(_length(tool) for tool in tools)
    for smaller in range(total // count, room, max(1, room // 40)):
        parts = _packed(tools, smaller)
        if len(parts) == count and all(_length(tool) <= smaller for tool in tools):
            return parts
    return _packed(tools, room)


def variants(
    catalogues: Sequence[tuple[Tool, ...]], strange: Sequence[Tool], count: int, room: int, seed: int
) -> list[Variant]:
    """Make `count` variants, of each catalogue in turn, none longer than `room` characters."""
    made = []
    for number in range(count):
        of = number % len(catalogues)
        own = catalogues[of]
        draw = random.Random(f"{seed}/variant/{number}")
        kept = draw.sample(own, max(1, len(own) - max(1, len(own) // _DROPPED_SHARE)))
        free = room - sum(_length(tool) for tool in kept)
        others = [tool for at, part in enumerate(catalogues) if at != of for tool in part]
        for tool in draw.sample([*strange, *others], min(_ADDED * 2, len(strange) + len(others))):
            if _length(tool) <= free and len(kept) < len(own) + _ADDED:
                kept.append(tool)
                free -= _length(tool)
        draw.shuffle(kept)
        made.append(Variant(of, tuple(kept)))
    return made
