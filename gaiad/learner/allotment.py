"""Which example goes into which split: whole clusters, every stratum's fair share, each source what it is to give.

Draws no random number: every order comes from hashes of the seed and the content.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gaiad.learner.example import Example, sha_of
from gaiad.learner.likeness import near_pairs, request_of, shingles
from gaiad.learner.shares import Share, dealt

SPLITS = ("train", "validation", "heldout")


def first_of(examples: Iterable[Example]) -> list[Example]:
    """The examples without those whose request, values apart, came before."""
    first: dict[Hashable, Example] = {}
    for example in examples:
        first.setdefault(shingles(request_of(example)), example)
    return list(first.values())


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


def clusters(examples: Sequence[Example], threshold: float) -> list[list[Example]]:
    """Join what shares a group or is nearly alike; clusters stand in the order of their first example."""
    parent = list(range(len(examples)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    # Of whatever source: what one source makes of a template, another may ask about.
    first_of_group: dict[str, int] = {}
    for position, example in enumerate(examples):
        parent[root(position)] = root(first_of_group.setdefault(example.group, position))
    for here, there, _ in near_pairs(examples, threshold):
        parent[root(here)] = root(there)
    joined: dict[int, list[Example]] = defaultdict(list)
    for position, example in enumerate(examples):
        joined[root(position)].append(example)
    return list(joined.values())


def allotted(
    found: Sequence[Sequence[Example]], wanted: Mapping[str, Share], seed: int, optional: Collection[str] = ()
) -> dict[str, dict[str, list[Example]]]:
    """Choose each split's examples of each source: split -> source -> examples.

    What an `optional` source has too little of in a split, since its examples go where their clusters go, the others
    make up for. A cluster counts as its first example's source and stratum. A stratum gives each split about its share
    of examples; every one keeps a cluster in train, and gives one to held-out where it has two.
    """
    pools: dict[str, dict[str, list[Example]]] = {name: defaultdict(list) for name in SPLITS}
    strata: dict[tuple[str, str], list[Sequence[Example]]] = defaultdict(list)
    for cluster in found:
        strata[cluster[0].source, cluster[0].stratum].append(cluster)
    owed: dict[str, _Owed] = defaultdict(_Owed)
    for (source, stratum), inner in strata.items():
        share = wanted.get(source)
        if share is None:
            continue
        order = sorted(inner, key=lambda cluster: sha_of([seed, stratum, cluster[0].group]))
        for name, part in _divided(order, share, owed[source]).items():
            for cluster in part:
                for example in cluster:
                    if name != "heldout" or example.expected:
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


@dataclass(slots=True)
class _Owed:
    """How many examples a source's strata have so far given too few to a split (below 0: too many)."""

    to: dict[str, float] = field(default_factory=lambda: {"heldout": 0.0, "validation": 0.0})


def _divided(order: Sequence[Sequence[Example]], share: Share, owed: _Owed) -> dict[str, list[Sequence[Example]]]:
    """Divide one stratum's clusters; what a split got too much or too little of is made up by the next strata."""
    left = list(order)
    size = sum(map(len, order))
    whole = share.train + share.validation + share.heldout
    parts: dict[str, list[Sequence[Example]]] = {}
    for name, least in (("heldout", 1), ("validation", 0)):
        count = getattr(share, name)
        due = owed.to[name] + size * count / max(1, whole)
        # An exam asks nothing that it cannot mark.
        fit = [cluster for cluster in left if name != "heldout" or any(one.expected for one in cluster)]
        taken = _taken(fit, due, least if count else 0, spare=len(left) - len(fit))
        parts[name] = taken
        left = [cluster for cluster in left if not any(cluster is one for one in taken)]
        owed.to[name] = due - sum(map(len, taken))
    return {**parts, "train": left}


def _taken(fit: Sequence[Sequence[Example]], due: float, least: int, *, spare: int) -> list[Sequence[Example]]:
    """The clusters that together come nearest to `due` examples; one is left over, `spare` others counted."""
    taken: list[Sequence[Example]] = []
    most, count = len(fit) + min(spare, 1) - 1, 0
    for cluster in fit:
        if len(taken) < most and count + len(cluster) / 2 <= due:
            taken.append(cluster)
            count += len(cluster)
    if not taken and least and most > 0:
        return [min(fit, key=len)]
    return taken
