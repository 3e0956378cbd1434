"""How a step's examples lie in rows, so that what they share is computed once.

Examples that begin alike (the same tool catalogue) become one group `[prefix][rest 1]...[rest k]`: each rest sees the
prefix and itself, and its positions go on where the prefix ended, so loss and gradients equal those of separate
sequences. Groups of a row do not see each other. Decides on token lists alone; knows no torch and no tokenizer.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

MIN_PREFIX_TOKENS = 64
_WINDOW_STEPS = 128
_STRETCH_COLUMNS = 256
_SEEN_A_COLUMN = 700
"""How many columns seen by one cost as much as its way through the layers, by measurement of a small base."""
_LEAST_SHARE = 32
"""How many columns a rank must have on average: fewer are not worth the meetings."""
LOGITS_AT_ONCE = 128
"""How many tokens of answers go through the vocabulary at the same time."""
SIDE = 128
"""How many columns a block has either way, where attention goes by blocks of a row's square (`Row.blocks`)."""


@dataclass(frozen=True, slots=True)
class TokenExample:
    """One example as tokens: the request as the engine will see it, the answer that is to be learnt, and perhaps one
    that is to be kept off (`rejected`).
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0
    rejected: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Request and answer in one."""
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Target:
    """The token that the row's hidden state at `column` must predict, and how much that counts."""

    column: int
    token: int
    weight: float


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring columns of one branch: they see themselves up to their own place, and all of the part `prefix`."""

    length: int
    prefix: int | None = None

    @property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """The part cut into equal runs of columns, (first, last + 1), that are attended from in one product: later
        columns than a run's own are then not computed, and scores fit into a processor's cache.
        """
        count = -(-self.length // _STRETCH_COLUMNS)
        bounds = [self.length * place // count for place in range(count + 1)]
        return tuple(itertools.pairwise(bounds))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Columns of a row that are attended from in one product, and the columns that the last of them sees, as slices; of
    these its own are the last. `ranks` says whose columns each of `seen` are, where a row is divided among ranks; all
    are then counted from their rank's first.
    """

    columns: slice
    seen: tuple[slice, ...]
    ranks: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many columns are attended from."""
        return int(self.columns.stop - self.columns.start)

    @property
    def width(self) -> int:
        """How many are seen by the last of them."""
        return sum(one.stop - one.start for one in self.seen)


def stretches_of(parts: Sequence[Part]) -> tuple[Stretch, ...]:
    """All stretches of a row, from its first column to its last."""
    starts = [0, *itertools.accumulate(part.length for part in parts)]
    found: list[Stretch] = []
    for part, start in zip(parts, starts, strict=False):
        before = None if part.prefix is None else slice(starts[part.prefix], starts[part.prefix + 1])
        for first, stop in part.stretches:
            own = slice(start, start + stop)
            seen = (own,) if before is None else (before, own)
            if before is not None and before.stop == start:
                seen = (slice(before.start, own.stop),)
            found.append(Stretch(slice(start + first, own.stop), seen, (0,) * len(seen)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several ranks computes of a row: columns `first` to before `stop`, from which it attends in
    `stretches`. It sees columns of its own and of ranks before it.
    """

    rank: int
    first: int
    stop: int
    stretches: tuple[Stretch, ...]


def shares_of(parts: Sequence[Part], count: int) -> tuple[Share, ...]:
    """Divide a row among `count` ranks in equal work, or fewer where each would have hardly any."""
    stretches = stretches_of(parts)
    # 1. What each column costs: its way through the layers, and each column that it sees.
    costs = [
        1 + (one.width - one.length + place + 1) / _SEEN_A_COLUMN for one in stretches for place in range(one.length)
    ]
    count = max(1, min(count, len(costs) // _LEAST_SHARE))
    spent = list(itertools.accumulate(costs))
    bounds = [0, *(bisect.bisect(spent, spent[-1] * rank / count) for rank in range(1, count)), len(costs)]
    # 2. Stretches are cut where a share ends, and what they see is found again in the shares.
    return tuple(
        Share(rank, first, stop, tuple(_of_share(one, bounds, rank) for one in _cut(stretches, first, stop)))
        for rank, (first, stop) in enumerate(itertools.pairwise(bounds))
    )


def _cut(stretches: Sequence[Stretch], first: int, stop: int) -> Iterator[Stretch]:
    """What lies of the stretches between two columns."""
    for one in stretches:
        columns = slice(max(one.columns.start, first), min(one.columns.stop, stop))
        if columns.start < columns.stop:
            *before, own = one.seen
            yield Stretch(columns, (*before, slice(own.start, columns.stop)), one.ranks)


def _of_share(stretch: Stretch, bounds: Sequence[int], rank: int) -> Stretch:
    """The stretch in columns of the shares."""
    seen = [
        (whose, slice(max(one.start, first) - first, min(one.stop, stop) - first))
        for one in stretch.seen
        for whose, (first, stop) in enumerate(itertools.pairwise(bounds))
        if max(one.start, first) < min(one.stop, stop)
    ]
    columns = slice(stretch.columns.start - bounds[rank], stretch.columns.stop - bounds[rank])
    return Stretch(columns, tuple(place for _, place in seen), tuple(whose for whose, _ in seen))


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence for the network. Column q sees column k when k <= q, their groups are equal and the branch of k is
    0 (a shared prefix) or that of q.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    groups: tuple[int, ...]
    branches: tuple[int, ...]
    targets: tuple[Target, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The same rule for whole parts of the row, one after another."""
        found: list[Part] = []
        prefixes: dict[int, int] = {}
        for (group, branch), columns in itertools.groupby(zip(self.groups, self.branches, strict=True)):
            if branch == 0:
                prefixes[group] = len(found)
            found.append(Part(sum(1 for _ in columns), prefixes.get(group) if branch else None))
        return tuple(found)

    @property
    def blocks(self) -> Counter[tuple[int, int]]:
        """The same rule for blocks of `SIDE` x `SIDE` columns: in how many pairs of block (i, j) a column of run i sees
        one of run j. Blocks without any are not in it.
        """
        found: Counter[tuple[int, int]] = Counter()
        parts = self.parts
        starts = [0, *itertools.accumulate(part.length for part in parts)]
        for part, begin in zip(parts, starts, strict=False):
            for run in range(begin // SIDE, -(-(begin + part.length) // SIDE)):
                first = max(begin, run * SIDE)
                asking = min(begin + part.length, (run + 1) * SIDE) - first
                seen = [(begin, first)]
                if part.prefix is not None:
                    seen.append((starts[part.prefix], starts[part.prefix + 1]))
                for low, high in seen:
                    for other in range(low // SIDE, -(-high // SIDE) if high > low else 0):
                        found[run, other] += asking * (min(high, (other + 1) * SIDE) - max(low, other * SIDE))
                found[run, run] += asking * (asking + 1) // 2
        return found


@dataclass(frozen=True, slots=True)
class _Group:
    members: tuple[int, ...]
    prefix: int
    size: int


def plan_rows(
    examples: Sequence[TokenExample], *, max_row_tokens: int, min_prefix: int = MIN_PREFIX_TOKENS
) -> tuple[Row, ...]:
    """Lay `examples` out with the fewest tokens; a row is longer than `max_row_tokens` only for one long example."""
    groups = sorted(_groups(examples, max_row_tokens, min_prefix), key=lambda group: -group.size)
    rows: list[list[_Group]] = []
    left: list[int] = []
    for group in groups:
        place = next((index for index, room in enumerate(left) if room >= group.size), None)
        if place is None:
            rows.append([group])
            left.append(max_row_tokens - group.size)
        else:
            rows[place].append(group)
            left[place] -= group.size
    return tuple(_row(examples, row) for row in rows)


def plan_pairs(
    pairs: Sequence[TokenExample], *, max_row_tokens: int
) -> tuple[tuple[Row, tuple[TokenExample, ...]], ...]:
    """Lay both answers of each pair behind their one request, never divided between rows.

    Returns rows with the pairs in them, in the order of their targets: a pair's right answer, then its rejected one.
    """
    sides = [side for pair in pairs for side in (pair, rejected_side(pair))]
    rows: list[list[_Group]] = []
    left: list[int] = []
    for place, pair in enumerate(pairs):
        prefix = len(pair.prompt) - 1
        size = len(pair) + 1 + len(pair.rejected)
        row = next((index for index, room in enumerate(left) if room >= size), None)
        if row is None:
            row = len(rows)
            rows.append([])
            left.append(max_row_tokens)
        rows[row].append(_Group((2 * place, 2 * place + 1), prefix, size))
        left[row] -= size
    return tuple((_row(sides, groups), tuple(pairs[group.members[0] // 2] for group in groups)) for groups in rows)


def rejected_side(pair: TokenExample) -> TokenExample:
    """The pair's request with the answer that is to be kept off."""
    return TokenExample(pair.prompt, pair.rejected, pair.weight)


def in_blocks(row: Row) -> Row:
    """The row filled up to whole blocks, two at least, with columns of a group of their own, which no other sees."""
    spare = max(2 * SIDE, -(-len(row.tokens) // SIDE) * SIDE) - len(row.tokens)
    return dataclasses.replace(
        row,
        tokens=row.tokens + (0,) * spare,
        positions=row.positions + (0,) * spare,
        groups=row.groups + (max(row.groups, default=0) + 1,) * spare,
        branches=row.branches + (0,) * spare,
    )


def single_rows(examples: Sequence[TokenExample]) -> tuple[Row, ...]:
    """Lay each example out alone, in the given order: what every architecture allows."""
    return tuple(_row(examples, [_Group((index,), 0, len(example))]) for index, example in enumerate(examples))


def _groups(examples: Sequence[TokenExample], max_row_tokens: int, min_prefix: int) -> list[_Group]:
    """Cut the sorted examples into runs with a common prefix, so that the total is least (dynamic programming)."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].tokens)
    common = [_common_prefix(examples[first], examples[second]) for first, second in itertools.pairwise(order)]
    best: list[tuple[int, _Group | None, int]] = [(0, None, 0)]
    for end in range(1, len(order) + 1):
        whole = sum_of_lengths = len(examples[order[end - 1]])
        choice = (best[end - 1][0] + whole, _Group((order[end - 1],), 0, whole), end - 1)
        prefix: int | None = None
        for start in range(end - 2, -1, -1):
            prefix = common[start] if prefix is None else min(prefix, common[start])
            sum_of_lengths += len(examples[order[start]])
            members = end - start
            size = sum_of_lengths - (members - 1) * prefix
            if prefix < min_prefix or size > max_row_tokens:
                break
            if best[start][0] + size < choice[0]:
                choice = (best[start][0] + size, _Group(tuple(order[start:end]), prefix, size), start)
        best.append(choice)
    groups: list[_Group] = []
    end = len(order)
    while end:
        _, group, end = best[end]
        assert group is not None
        groups.append(group)
    return groups


def _common_prefix(first: TokenExample, second: TokenExample) -> int:
    # The last prompt token predicts the first token of the answer, so it must stay each example's own.
    limit = min(len(first.prompt), len(second.prompt)) - 1
    for index in range(limit):
        if first.prompt[index] != second.prompt[index]:
            return index
    return max(limit, 0)


def _row(examples: Sequence[TokenExample], groups: Sequence[_Group]) -> Row:
    tokens: list[int] = []
    positions: list[int] = []
    numbers: list[int] = []
    branches: list[int] = []
    targets: list[Target] = []

    def lay(part: Sequence[int], *, position: int, number: int, branch: int) -> None:
        tokens.extend(part)
        positions.extend(range(position, position + len(part)))
        numbers.extend([number] * len(part))
        branches.extend([branch] * len(part))

    for number, group in enumerate(groups):
        prefix = examples[group.members[0]].tokens[: group.prefix]
        lay(prefix, position=0, number=number, branch=0)
        for branch, member in enumerate(group.members, start=1):
            example = examples[member]
            lay(example.tokens[group.prefix :], position=group.prefix, number=number, branch=branch)
            first = len(tokens) - len(example.answer) - 1
            targets += [Target(first + offset, token, example.weight) for offset, token in enumerate(example.answer)]
    return Row(tuple(tokens), tuple(positions), tuple(numbers), tuple(branches), tuple(targets))


def plan_steps(kinds: Sequence[Hashable], *, batch: int, steps: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Choose which examples make each step: shuffled epochs without end, nobody left out, alike ones near each other.

    Examples of one kind (the same tool catalogue) meet in a step where the shuffle brought them into the same 128
    steps, which are shuffled in turn: sharing needs that. (Of 256 of the shipped selections of tools, 4 a step, 49% of
    the tokens are then computed; with 32 steps 53%, with 8 steps 57%.)
    """
    chooser = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch:
        epoch = list(range(len(kinds)))
        chooser.shuffle(epoch)
        stream += epoch
    planned: list[tuple[int, ...]] = []
    while len(planned) < steps:
        start = len(planned) * batch
        # No further than the epoch, or an example's copies would meet in a step; one step may lie in two of them.
        rest = max(1, (len(kinds) - start % len(kinds)) // batch)
        window = stream[start : min(start + min(_WINDOW_STEPS, rest) * batch, steps * batch)]
        rank = {kind: place for place, kind in enumerate(dict.fromkeys(kinds[index] for index in window))}
        window.sort(key=lambda index: rank[kinds[index]])
        chunks = [tuple(window[place : place + batch]) for place in range(0, len(window), batch)]
        chooser.shuffle(chunks)
        planned += chunks
    return tuple(planned)
