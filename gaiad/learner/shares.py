"""How many examples of each source go into each split: targets first, the rest shared, nothing beyond what there is.

Counts only: which examples these are is `allotment`'s decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gaiad.curriculum import Curriculum, SourceSpec
from gaiad.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Share:
    """How many examples of one source each split is to hold."""

    train: int
    validation: int
    heldout: int


def shares(curriculum: Curriculum, available: Mapping[str, int], verifiable: Iterable[str]) -> dict[str, Share]:
    """Say what each source gives, by name, where `available` counts its distinct examples.

    Validation and held-out follow train in proportion; held-out is shared among the `verifiable` sources only, since
    an exam can ask nothing that it cannot mark.

    Raises:
        DatasetError: where the sources cannot fill the train split.
    """
    split = curriculum.split
    sources = curriculum.sources or (SourceSpec("any", name=name) for name in available)
    train = _train(curriculum, {one.name: one for one in sources}, available)
    if sum(train.values()) < split.train:
        found = ", ".join(f"{name} {available.get(name, 0)}" for name in train)
        raise DatasetError(
            f"the sources of {curriculum.adapter} give too few distinct examples: {sum(train.values())} of "
            f"{split.train} for train ({found} in all splits together)",
            hint="add material or request templates, or lower `split` in the curriculum",
        )
    marked = {name: count for name, count in train.items() if name in set(verifiable)}
    validation = dealt(split.validation, train)
    heldout = dealt(split.heldout, marked)
    return {name: Share(count, validation[name], heldout.get(name, 0)) for name, count in train.items()}


def _train(curriculum: Curriculum, sources: Mapping[str, SourceSpec], available: Mapping[str, int]) -> dict[str, int]:
    split = curriculum.split
    whole = split.train + split.validation + split.heldout
    # An optional source is asked for a little less than it has: what hangs together cannot be divided at will.
    room = {
        name: available.get(name, 0) * split.train // whole * (9 if one.optional else 10) // 10
        for name, one in sources.items()
    }
    # 1. A target is a promise, except an optional source's, which gives what it has.
    wanted = {
        name: min(one.target, room[name]) if one.optional else one.target
        for name, one in sources.items()
        if one.target is not None
    }
    replay = {name for name, one in sources.items() if one.is_replay}
    # 2. What the replay share leaves after the targets goes to the replay sources without one.
    aimed = round(curriculum.replay_share * split.train)
    if aimed:
        left = max(0, aimed - sum(wanted.get(name, 0) for name in replay))
        wanted |= dealt(left, {name: 1 for name in sources if name in replay and name not in wanted}, room)
    # 3. The others without a target share the rest equally; one that has less gives all it has.
    rest = max(0, split.train - sum(wanted.values()))
    wanted |= dealt(rest, {name: 1 for name in sources if name not in wanted}, room)
    # 4. What optional sources did not give falls to those with a target, in proportion.
    missing = max(0, split.train - sum(wanted.values()))
    able = {name: wanted[name] for name, one in sources.items() if one.target is not None and name not in replay}
    more = dealt(missing, able, {name: room[name] - count for name, count in able.items()})
    return {name: wanted[name] + more.get(name, 0) for name in sources}


def dealt(total: int, weights: Mapping[str, int], room: Mapping[str, int] | None = None) -> dict[str, int]:
    """Deal `total` out in proportion to `weights`, to none more than its `room`; the largest remainders get the rest.

    Ties go to who stands first. Less than `total` is dealt where the room does not suffice.
    """
    given = dict.fromkeys(weights, 0)
    space = {name: total if room is None else max(0, room[name]) for name in weights}
    left = total
    while left > 0 and (takers := [name for name in weights if given[name] < space[name] and weights[name] > 0]):
        whole = sum(weights[name] for name in takers)
        quota = {name: left * weights[name] // whole for name in takers}
        # What is left over once somebody is full is dealt anew among the others.
        if all(quota[name] <= space[name] - given[name] for name in takers):
            order = sorted(takers, key=lambda name: -(left * weights[name] % whole))
            quota |= {name: quota[name] + 1 for name in order[: left - sum(quota.values())]}
        for name in takers:
            taken = min(quota[name], space[name] - given[name])
            given[name] += taken
            left -= taken
    return given
