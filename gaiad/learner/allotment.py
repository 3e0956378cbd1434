"""Which example goes into which split: whole clusters, every stratum's fair share, each source what it is to give.

Draws no random number: every order comes from hashes of the seed and the content.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gaiad.learner.example import Example, sha_of
from gaiad.learner.likeness import near_pairs, request_of, setting_of, shingles
from gaiad.learner.shares import Share, dealt

SPLITS = ("train", "validation", "heldout")


def first_of(examples: Iterable[Example]) -> list[Example]:
    """The examples without those whose request, values apart, came before."""
    first: dict[Hashable, Example] = {}
    for example in examples:
        first.setdefault(shingles(request_of(example)), example)
    return list(first.values())


def latest_of(examples: Sequence[Example], repeat: float) -> list[Example]:
    """Of the examples whose request in one setting is the same or nearly so, the last; the order stays."""
    by_setting: dict[Hashable, list[Example]] = defaultdict(list)
    for example in reversed(examples):
        by_setting[setting_of(example)].append(example)
    kept = {id(one) for part in by_setting.values() for one in without_near(first_of(part), repeat)}
    return [one for one in examples if id(one) in kept]


def without_near(examples: Sequence[Example], repeat: float) -> list[Example]:
    """The examples without those at least `repeat` alike to one that stands before them and stays."""
    like: dict[int, list[int]] = defaultdict(list)
    for earlier, later, _ in near_pairs(examples, repeat):
        like[later].append(earlier)
    gone: set[int] = set()
    for at in sorted(like):
        if not gone.issuperset(like[at]):
            gone.add(at)
    return [one for at, one in enumerate(examples) if at not in gone]


def fair_choice(examples: Sequence[Example], count: int) -> list[Example]:
    """Choose `count` of `examples`: strata in turn, and within a stratum its groups in turn. Order is kept."""
    if count >= len(examples):
        return list(examples)
    by_stratum: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, example in enumerate(examples):
        by_stratum[example.stratum][example.group].append(position)
    queues = [_in_turn(list(groups.values())) for groups in by_stratum.values()]
    return [examples[position] for position in sorted(_in_turn(queues)[: max(0, count)])]


def _in_turn(queues: Sequence[Sequence[int]]) -> list[int]:
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def shuffled(examples: Iterable[Example], seed: int) -> list[Example]:
    """The examples in the order of hashes of their content."""
    return sorted(examples, key=lambda one: sha_of([seed, one.group, one.key(), one.answer]))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Examples that stand in one split, whichever that is, and the source and stratum that they count as.

    A `large` one holds a whole (a document, say), so that a few of them may be all there are.
    """

    source: str
    stratum: str
    examples: Sequence[Example]
    large: bool = False

    @property
    def size(self) -> int:
        """How many examples there are in it."""
        return len(self.examples)

    def given_to(self, split: str) -> list[Example]:
        """The examples that a split can take: of what no exam can mark, held-out takes none."""
        return [one for one in self.examples if split != "heldout" or one.expected]

    def gives(self, source: str, split: str) -> int:
        """How many examples of a source a split can take."""
        return sum(one.source == source for one in self.given_to(split))

    @property
    def is_marked(self) -> bool:
        """Whether an exam could ask something of it."""
        return any(one.expected for one in self.examples)


def allotted(
    found: Sequence[Cluster], wanted: Mapping[str, Share], seed: int, optional: Collection[str] = ()
) -> dict[str, dict[str, list[Example]]]:
    """Choose each split's examples of each source: split -> source -> examples.

    What an `optional` source has too little of in a split, since its examples go where their clusters go, the others
    make up for. A stratum gives each split about its share of examples; every one keeps a cluster in train, and gives
    one to held-out where it has two.
    """
    placed: dict[str, list[Cluster]] = {name: [] for name in SPLITS}
    strata: dict[tuple[str, str], list[Cluster]] = defaultdict(list)
    available: Counter[str] = Counter()
    for cluster in found:
        strata[cluster.source, cluster.stratum].append(cluster)
        available[cluster.source] += cluster.size
    owed: dict[str, _Owed] = defaultdict(_Owed)
    for (source, stratum), inner in strata.items():
        share = wanted.get(source)
        if share is None:
            continue
        order = sorted(inner, key=lambda cluster: sha_of([seed, stratum, cluster.examples[0].group]))
        for name, part in _divided(order, share, owed[source], available[source]).items():
            placed[name] += part
    _mend(placed, wanted, seed)
    pools: dict[str, dict[str, list[Example]]] = {name: defaultdict(list) for name in SPLITS}
    for name, part in placed.items():
        for cluster in part:
            for example in cluster.given_to(name):
                pools[name][example.source].append(example)
    return {
        name: {
            source: fair_choice(shuffled(pools[name].get(source, ()), seed), count)
            for source, count in _made_up(
                {source: getattr(share, name) for source, share in wanted.items()}, pools[name], optional
            ).items()
        }
        for name in SPLITS
    }


def _made_up(
    wanted: Mapping[str, int], pool: Mapping[str, Sequence[Example]], optional: Collection[str]
) -> dict[str, int]:
    """How many each source gives, once those that need not give so much have given what they have."""
    room = {source: len(pool.get(source, ())) - count for source, count in wanted.items()}
    short = {source: max(0, -room[source]) for source in wanted if source in optional}
    able = {source: count for source, count in wanted.items() if source not in optional}
    more = dealt(sum(short.values()), able, room)
    return {source: count - short.get(source, 0) + more.get(source, 0) for source, count in wanted.items()}


def _mend(placed: Mapping[str, list[Cluster]], wanted: Mapping[str, Share], seed: int) -> None:
    """Move large clusters out of train to where a source is short, as long as none becomes short in train.

    A cluster is divided as its first example's source; what others have in it is only seen afterwards.
    """
    in_train = Counter(one.source for cluster in placed["train"] for one in cluster.examples)
    for name in ("heldout", "validation"):
        for source, share in wanted.items():
            given = sum(cluster.gives(source, name) for cluster in placed[name])
            spare = [cluster for cluster in placed["train"] if cluster.large and cluster.gives(source, name)]
            for cluster in sorted(spare, key=lambda one: sha_of([seed, name, one.examples[0].group])):
                mine = Counter(one.source for one in cluster.examples)
                if given >= getattr(share, name):
                    break
                if all(other not in wanted or in_train[other] - mine[other] >= wanted[other].train for other in mine):
                    placed["train"][:] = [one for one in placed["train"] if one is not cluster]
                    placed[name].append(cluster)
                    in_train -= mine
                    given += cluster.gives(source, name)


@dataclass(slots=True)
class _Owed:
    """How many examples a source's strata have so far given too few to a split (below 0: too many)."""

    to: dict[str, float] = field(default_factory=lambda: {"heldout": 0.0, "validation": 0.0})


def _divided(order: Sequence[Cluster], share: Share, owed: _Owed, available: int) -> dict[str, list[Cluster]]:
    """Divide one stratum's clusters; what a split got too much or too little of is made up by the next strata.

    `available` is how many examples the source has in all strata.
    """
    left = list(order)
    size = sum(cluster.size for cluster in order)
    whole = share.train + share.validation + share.heldout
    parts: dict[str, list[Cluster]] = {}
    for name, least in (("heldout", 1), ("validation", 0)):
        count = getattr(share, name)
        due = owed.to[name] + size * count / max(1, whole)
        # An exam asks nothing that it cannot mark.
        fit = [cluster for cluster in left if name != "heldout" or cluster.is_marked]
        taken = _taken(fit, due, least if count else 0, spare=len(left) - len(fit))
        if any(cluster.large for cluster in fit):
            # What is over can be left out, but what is short leaves the split short.
            _filled_up(taken, fit, math.ceil(due * whole / max(whole, available)))
        parts[name] = taken
        gone = {id(one) for one in taken}
        left = [cluster for cluster in left if id(cluster) not in gone]
        owed.to[name] = due - sum(cluster.size for cluster in taken)
    return {**parts, "train": left}


def _taken(fit: Sequence[Cluster], due: float, least: int, *, spare: int) -> list[Cluster]:
    """The clusters that together come nearest to `due` examples; one is left over, `spare` others counted."""
    taken: list[Cluster] = []
    most, count = len(fit) + min(spare, 1) - 1, 0
    for cluster in fit:
        if len(taken) < most and count + cluster.size / 2 <= due:
            taken.append(cluster)
            count += cluster.size
    if not taken and least and most > 0:
        return [min(fit, key=_size)]
    return taken


def _filled_up(taken: list[Cluster], fit: Sequence[Cluster], needed: int) -> None:
    """Add clusters until there are `needed` examples: the smallest that suffices, else the largest."""
    while (missing := needed - sum(cluster.size for cluster in taken)) > 0:
        gone = {id(one) for one in taken}
        rest = [cluster for cluster in fit if id(cluster) not in gone]
        if len(rest) < 2:
            return
        enough = [cluster for cluster in rest if cluster.size >= missing]
        taken.append(min(enough, key=_size) if enough else max(rest, key=_size))


def _size(cluster: Cluster) -> int:
    return cluster.size
