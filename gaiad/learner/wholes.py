"""What the splits keep whole: what was made of one template, what is nearly alike, and the larger wholes of a source.

A source's examples may name larger wholes (`Example.kin`): a document, a section of it, a set of contrasts. The largest
unit at which every split still gets its examples is kept whole; where that is a smaller one, the card says so. Draws no
random number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gaiad.curriculum import Json
from gaiad.learner.allotment import SPLITS, Cluster, allotted
from gaiad.learner.example import Example, kind_of
from gaiad.learner.likeness import near_pairs
from gaiad.learner.shares import Share

TEMPLATE = "template"
"""The unit of what names no larger one, and of what only counts as another stratum: what was made of one template."""

Parts = dict[str, dict[str, list[Example]]]
"""Split -> source -> examples."""


@dataclass(frozen=True, slots=True)
class Units:
    """How large the units are that each source is divided in: the place in its examples' `kin`."""

    levels: Mapping[str, int]

    def whole_of(self, example: Example) -> str:
        """The name of what an example is never parted from."""
        level = self.levels.get(example.source, 0)
        return example.kin[level] if level < len(example.kin) else example.group

    def told(self, parts: Parts) -> dict[str, Json]:
        """Say by source which unit was kept whole and how many of it stand in each split, for the card."""
        sources = {source for part in parts.values() for source in part}
        return {source: self._told(source, parts) for source in sorted(sources)}

    def _told(self, source: str, parts: Parts) -> dict[str, Json]:
        mine = {name: part.get(source, []) for name, part in parts.items()}
        level = self.levels.get(source, 0)
        units = [_unit(one, level) for part in mine.values() for one in part]
        largest = [_unit(one, 0) for part in mine.values() for one in part]
        kept = [unit for unit in dict.fromkeys(units) if unit != TEMPLATE] or [TEMPLATE]
        missed = [unit for unit in dict.fromkeys(largest) if unit not in kept and unit != TEMPLATE]
        return {
            "unit": ", ".join(kept),
            **{name: len({self.whole_of(one) for one in part}) for name, part in mine.items()},
            **({"too_few": ", ".join(missed)} if missed else {}),
        }


def divided(
    examples: Sequence[Example],
    wanted: Mapping[str, Share],
    near_duplicate: float,
    seed: int,
    optional: Collection[str] = (),
) -> tuple[Parts, Units]:
    """Choose each split's examples of each source, in the largest units that leave no split short.

    What `optional` sources are to give, others may give instead.
    """
    pairs = [(here, there) for here, there, _ in near_pairs(examples, near_duplicate)]
    deepest: dict[str, int] = defaultdict(int)
    for one in examples:
        deepest[one.source] = max(deepest[one.source], len(one.kin))
    levels = dict.fromkeys(deepest, 0)
    while True:
        units = Units(levels)
        parts = allotted(clusters(examples, pairs, units), wanted, seed, optional)
        short = _short(parts, wanted, optional)
        smaller = {source for source in levels if levels[source] < deepest[source]}
        # Whoever is short may lack what a larger unit of another source has taken along.
        finer = short & smaller or (smaller if short else set())
        if not finer:
            return parts, units
        levels = {source: level + (source in finer) for source, level in levels.items()}


def clusters(examples: Sequence[Example], pairs: Iterable[tuple[int, int]], units: Units) -> list[Cluster]:
    """Join what shares a group or a whole, and the `pairs` that are nearly alike.

    Clusters stand in the order of their first example.
    """
    parent = list(range(len(examples)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    # Of whatever source: what one source makes of a template, another may ask about.
    first_of: dict[str, int] = {}
    for position, example in enumerate(examples):
        for name in (example.group, units.whole_of(example)):
            parent[root(position)] = root(first_of.setdefault(name, position))
    for here, there in pairs:
        parent[root(here)] = root(there)
    joined: dict[int, list[Example]] = defaultdict(list)
    for position, example in enumerate(examples):
        joined[root(position)].append(example)
    return [_cluster(found, units) for found in joined.values()]


def _cluster(found: list[Example], units: Units) -> Cluster:
    first = found[0]
    whole = units.whole_of(first)
    is_large = whole != first.group and whole.partition("/")[0] != TEMPLATE
    return Cluster(first.source, kind_of(whole), found, is_large)


def _unit(example: Example, level: int) -> str:
    return example.kin[level].partition("/")[0] if level < len(example.kin) else TEMPLATE


def _short(parts: Parts, wanted: Mapping[str, Share], optional: Collection[str]) -> set[str]:
    """Which sources give a split too little; an optional one only where nobody made up for it."""
    lacking = {
        name
        for name in SPLITS
        if sum(map(len, parts[name].values())) < sum(getattr(one, name) for one in wanted.values())
    }
    return {
        source
        for source, share in wanted.items()
        for name in (lacking if source in optional else SPLITS)
        if len(parts[name][source]) < getattr(share, name)
    }
