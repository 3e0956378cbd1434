"""How a run's examples lie in rows of one size, summed up: what its memory and its time are counted from.

Lays the steps out exactly as the trainer will (`packing`), keeps the largest pass and the sums, and forgets the tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gaiad.learner.packing import (
    SIDE,
    Row,
    TokenExample,
    in_blocks,
    plan_pairs,
    plan_rows,
    rejected_side,
    single_rows,
    stretches_of,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """A run laid out in rows with `room` tokens.

    Of the largest pass: `longest` tokens, `cells` that attention computes, `targets` that predict an answer's token,
    and of each row's square the `blocks` that hold a pair of columns, where attention goes by blocks. `by_parts` says
    that it goes part by part (neither: by a mask over the whole row). Over all `passes`: the sums. `least` is the
    longest example, which no row can be shorter than.
    """

    room: int
    least: int
    longest: int
    cells: int
    targets: int
    total_tokens: int
    total_cells: int
    total_targets: int
    passes: int
    by_parts: bool = False
    blocks: int = 0

    def at(self, tokens: int) -> Rows:
        """The same run as if no example, and so no row, had more than `tokens`: to say what would fit."""
        part = min(1.0, tokens / self.longest)
        return dataclasses.replace(
            self,
            room=tokens,
            least=min(self.least, tokens),
            longest=round(self.longest * part),
            cells=round(self.cells * part * part),
            targets=min(self.targets, tokens),
            blocks=math.ceil(self.blocks * part * part),
        )


def rows_of(
    steps: Sequence[Sequence[TokenExample]],
    room: int,
    *,
    shared: bool,
    by_parts: bool = False,
    by_blocks: bool = False,
) -> Rows:
    """Lay out all steps of a run: sharing prefixes (attention going part by part, or by blocks), or padded."""
    least = max((longest_of(example) for step in steps for example in step), default=0)
    room = max(room, least)
    by_parts = shared and by_parts
    longest = cells = blocks = targets = tokens = all_cells = all_targets = passes = 0
    for step in steps:
        for rows in _passes(step, room, shared=shared):
            width = max(len(row.tokens) for row in rows)
            area, square, held = len(rows) * width, len(rows) * width * width, 0
            if shared and by_blocks:
                filled = in_blocks(rows[0])
                area, held = len(filled.tokens), len(filled.blocks)
                square = held * SIDE * SIDE
            elif by_parts:
                square = sum(one.length * one.width for one in stretches_of(rows[0].parts))
            aims = sum(len(row.targets) for row in rows)
            longest, cells, targets = max(longest, area), max(cells, square), max(targets, aims)
            blocks = max(blocks, held)
            tokens, all_cells, all_targets = tokens + area, all_cells + square, all_targets + aims
            passes += 1
    return Rows(room, least, longest, cells, targets, tokens, all_cells, all_targets, passes, by_parts, blocks)


def longest_of(example: TokenExample) -> int:
    """The tokens that an example needs in one row: its own, and those of the answer to keep off."""
    return len(example) + (len(example.rejected) + 1 if example.rejected else 0)


def choices(
    steps: Sequence[Sequence[TokenExample]],
    rooms: Iterable[int],
    *,
    shared: bool,
    by_parts: bool = False,
    by_blocks: bool = False,
) -> tuple[Rows, ...]:
    """The run in rows of each size that makes a difference to it."""
    found: list[Rows] = []
    for room in sorted(rooms):
        # 1. Where a whole step fits into a row already, more room changes nothing.
        if found and found[-1].passes <= len(steps):
            break
        rows = rows_of(steps, room, shared=shared, by_parts=by_parts, by_blocks=by_blocks)
        # 2. Sizes below the longest example are all the same.
        if not found or rows.room != found[-1].room:
            found.append(rows)
    return tuple(found)


def _passes(step: Sequence[TokenExample], room: int, *, shared: bool) -> Iterator[Sequence[Row]]:
    plain = [one for one in step if not one.rejected]
    pairs = [one for one in step if one.rejected]
    if shared:
        yield from ([row] for row in plan_rows(plain, max_row_tokens=room))
        yield from ([row] for row, _ in plan_pairs(pairs, max_row_tokens=room))
        return
    sides = [side for pair in pairs for side in (pair, rejected_side(pair))]
    rows = single_rows(sorted([*plain, *sides], key=len, reverse=True))
    while rows:
        count = max(1, room // len(rows[0].tokens))
        yield rows[:count]
        rows = rows[count:]
