"""The dataset made of examples: distinct, split so that nothing leaks, with a digest and a card.

Refuses a dataset whose splits share a request or nearly so, or whose sources do not give what they are to give. Reads
no file and draws no random number: every order comes from hashes of the seed and the content.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gaiad.curriculum import Curriculum, Json
from gaiad.errors import DatasetError
from gaiad.learner.allotment import fair_choice, first_of, latest_of, shuffled, without_near
from gaiad.learner.example import EXCHANGE_ORIGIN, Example, Message, canonical, sha_of
from gaiad.learner.likeness import (
    REPEATED,
    REQUEST_MARK,
    Leak,
    alike,
    jaccard,
    leaks,
    masked,
    request_of,
    setting_of,
    shingles,
)
from gaiad.learner.shares import Share, shares
from gaiad.learner.wholes import divided

__all__ = [
    "EXCHANGE_ORIGIN",
    "REQUEST_MARK",
    "Dataset",
    "Example",
    "Leak",
    "Message",
    "alike",
    "build_dataset",
    "catalogue_of",
    "check_no_leaks",
    "digest_of",
    "fair_choice",
    "jaccard",
    "leaks",
    "masked",
    "others_exams_in",
    "request_of",
    "shingles",
]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A frozen dataset. `exchange_ids` are the ids of the exchanges inside train; `digest` is SHA-256 in hex."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    heldout: tuple[Example, ...]
    digest: str
    exchange_ids: tuple[str, ...]
    card: Mapping[str, Json] = field(default_factory=dict)


def check_no_leaks(dataset: Dataset, threshold: float) -> None:
    """Fail where any two splits share a request, exactly or nearly.

    Raises:
        DatasetError: with the count and the worst pair.
    """
    splits = {"train": dataset.train, "validation": dataset.validation, "held-out": dataset.heldout}
    for first, second in (("train", "held-out"), ("validation", "held-out"), ("train", "validation")):
        found = leaks(splits[first], splits[second], threshold)
        if found:
            worst = max(found, key=lambda leak: leak.jaccard)
            raise DatasetError(
                f"{len(found)} requests of {second} occur in {first} too, the worst pair {worst.jaccard:.2f} alike: "
                f"{worst.first_origin} and {worst.second_origin}",
                hint=f"the splits may share nothing at or above {threshold:g}; give the two one group, or change one",
            )


def others_exams_in(dataset: Dataset, others: Mapping[str, Dataset]) -> tuple[Leak, ...]:
    """The requests of `dataset` to learn from that the exam of one of the `others` asks, exactly or nearly."""
    learnt = (*dataset.train, *dataset.validation)
    return tuple(
        replace(leak, second_origin=f"{name}: {leak.second_origin}")
        for name, other in sorted(others.items())
        for leak in leaks(learnt, other.heldout, REPEATED)
    )


# --- Building ---------------------------------------------------------------------------------------------------


def build_dataset(
    curriculum: Curriculum,
    examples: Sequence[Example],
    exchanges: Sequence[Example],
    own_catalogues: Collection[str] = (),
) -> Dataset:
    """Make the dataset: drop repetitions, split whole clusters, add exchanges to train, check for leaks.

    `own_catalogues` are the tool catalogues that the runtime itself shows; where none are named, the commonest counts.
    What shares a group or is nearly alike never parts, so neither do augmented forms of a template; larger wholes
    (documents, sets of contrasts) are kept where each split can still be filled.
    Where two sources repeat each other, what the earlier one gives stays.

    Raises:
        DatasetError: where there are too few examples, or the outcome would not be trustworthy.
    """
    split = curriculum.split
    distinct = first_of(examples)
    apart = without_near(distinct, split.repeat)
    dropped = Counter({"repeated request": len(examples) - len(distinct)})
    dropped["nearly repeated request"] = len(distinct) - len(apart)
    available = Counter(one.source for one in apart)
    wanted = shares(curriculum, available, {one.source for one in apart if one.expected})
    optional = {one.name for one in curriculum.sources if one.optional}
    parts, units = divided(apart, wanted, split.near_duplicate, curriculum.seed, optional)
    _check_sizes(curriculum, parts, wanted, available)
    weights = {one.name: one.weight for one in curriculum.sources}
    chosen = {name: shuffled(_weighted(part, weights), curriculum.seed) for name, part in parts.items()}
    dropped["beyond the split's size"] = len(apart) - sum(len(part) for part in chosen.values())
    kept = _kept_exchanges(curriculum, exchanges, chosen["heldout"], dropped)
    colliding = {there for _, there, _ in alike(kept, chosen["validation"], split.near_duplicate)}
    dropped["validation example near a correction"] = len(colliding)
    validation = [one for at, one in enumerate(chosen["validation"]) if at not in colliding]
    overruled = _overruled(examples, kept, split.repeat)
    validation = _without_overruled(validation, overruled, dropped)
    train = shuffled([*_without_overruled(chosen["train"], overruled, dropped), *kept], curriculum.seed)
    splits = {"train": train, "validation": _without_pairs(validation), "heldout": _without_pairs(chosen["heldout"])}
    dataset = _with_card(curriculum, splits, wanted, dropped)
    dataset = replace(dataset, card={**dataset.card, "kept_whole": units.told(parts)})
    check_no_leaks(dataset, split.near_duplicate)
    _check_catalogues(curriculum, dataset, own_catalogues)
    return dataset


def _weighted(by_source: Mapping[str, Sequence[Example]], weights: Mapping[str, float]) -> Iterable[Example]:
    for source, part in by_source.items():
        for one in part:
            yield replace(one, weight=one.weight * weights.get(source, 1.0))


def _without_pairs(examples: Iterable[Example]) -> list[Example]:
    """What is wrong is worth showing in training only."""
    return [replace(one, rejected=None) for one in examples]


_TOO_FEW = {
    "train": "for train are there",
    "validation": "for validation are there",
    "heldout": "for held-out have an expected answer",
}


def _check_sizes(
    curriculum: Curriculum,
    parts: Mapping[str, Mapping[str, Sequence[Example]]],
    wanted: Mapping[str, Share],
    available: Mapping[str, int],
) -> None:
    problems = []
    optional = {one.name for one in curriculum.sources if one.optional}
    for source, share in wanted.items():
        if source in optional:
            continue
        short = [
            f"{len(parts[name][source])} of {getattr(share, name)} for {name}"
            for name in parts
            if len(parts[name][source]) < getattr(share, name)
        ]
        if short:
            problems.append(f"source {source!r} gives {', '.join(short)} ({available[source]} distinct ones in all)")
    # What optional sources left open must have been made up for.
    for name, told in _TOO_FEW.items():
        given, whole = sum(map(len, parts[name].values())), getattr(curriculum.split, name)
        if given < whole and not problems:
            problems.append(f"{given} of {whole} {told}")
    if problems:
        raise DatasetError(
            f"the sources of {curriculum.adapter} give too few distinct examples: {'; '.join(problems)}",
            hint="add material or request templates, or lower the source's `target` or `split` in the curriculum",
        )
    if curriculum.split.train < curriculum.minimum_examples:
        raise DatasetError(
            f"{curriculum.split.train} examples to train on, fewer than minimum_examples = "
            f"{curriculum.minimum_examples}",
            hint="raise `split.train` or lower `minimum_examples` in the curriculum",
        )
    _check_exam(curriculum, [one for part in parts["heldout"].values() for one in part])


def _check_exam(curriculum: Curriculum, heldout: Sequence[Example]) -> None:
    """Held-out must hold enough of the exam's stage: with fewer the gate could never open."""
    stage, least = curriculum.exam.stage, curriculum.gate.min_items
    asked = sum(one.stage == stage for one in heldout)
    if asked < least:
        raise DatasetError(
            f"{asked} held-out examples of {curriculum.adapter} are of the exam's stage {stage!r}, and the gate wants "
            f"{least}",
            hint="raise `split.heldout`, or the targets of the sources that give this stage",
        )


def _kept_exchanges(
    curriculum: Curriculum, exchanges: Sequence[Example], heldout: Sequence[Example], dropped: Counter[str]
) -> list[Example]:
    """The exchanges that may be trained on: the last of each request or nearly so, none near a held-out item."""
    latest = latest_of(exchanges, curriculum.split.repeat)
    leaking = {here for here, _, _ in alike(latest, heldout, curriculum.split.near_duplicate)}
    dropped["correction replaced by a later one"] = len(exchanges) - len(latest)
    dropped["correction near a held-out item"] = len(leaking)
    return [one for at, one in enumerate(latest) if at not in leaking]


def _overruled(examples: Sequence[Example], exchanges: Sequence[Example], repeat: float) -> frozenset[str]:
    """A user speaks last: the keys of the examples with the same request or nearly so in the same setting.

    What is of no stage is meant for all.
    """
    if not exchanges:
        return frozenset()
    settings = [setting_of(one) for one in exchanges]
    found: set[str] = set()
    for here, there, _ in alike(examples, exchanges, repeat):
        stage, turns = setting_of(examples[here])
        if stage in (None, settings[there][0]) and turns == settings[there][1]:
            found.add(examples[here].key())
    return frozenset(found)


def _without_overruled(examples: Sequence[Example], overruled: frozenset[str], dropped: Counter[str]) -> list[Example]:
    """The examples but those that are overruled, and what says one of these in other words."""
    own = [one for one in examples if one.key() not in overruled]
    left = [one for one in own if one.of not in overruled]
    dropped["generated example replaced by a correction"] += len(examples) - len(own)
    dropped["other words for what a correction replaces"] += len(own) - len(left)
    return left


# --- Catalogues, card and digest --------------------------------------------------------------------------------


def catalogue_of(example: Example) -> str | None:
    """A digest of all that stands before the user's own words, or None where no request mark says where that is."""
    before = "\n".join(one.content for one in example.messages[:-1])
    head, mark, _ = before.rpartition(REQUEST_MARK)
    return sha_of(head)[:12] if mark else None


def _catalogues(examples: Iterable[Example]) -> Counter[str]:
    own = (catalogue_of(one) for one in examples if not one.origin.startswith(EXCHANGE_ORIGIN))
    return Counter(key for key in own if key is not None)


def _check_catalogues(curriculum: Curriculum, dataset: Dataset, own: Collection[str]) -> None:
    """Few catalogues, each used often: what prefix sharing in training lives on."""
    used = _catalogues(dataset.train)
    total = sum(used.values())
    if not used:
        return
    runtimes = sum(used[key] for key in own) if own else max(used.values())
    rarest = min(used.values())
    if len(used) > max(1, len(dataset.train) // 32) or rarest < min(16, total) or runtimes < 0.6 * total:
        raise DatasetError(
            f"{len(used)} tool catalogues in {total} examples of {curriculum.adapter}, the rarest used {rarest} times, "
            f"the runtime's own {runtimes} times",
            hint="at most train size / 32 catalogues, each used 16 times, the runtime's own in 60%",
        )


def _with_card(
    curriculum: Curriculum, parts: Mapping[str, Sequence[Example]], wanted: Mapping[str, Share], dropped: Counter[str]
) -> Dataset:
    splits = {name: tuple(part) for name, part in parts.items()}
    exchanges = [one.origin for one in splits["train"] if one.origin.startswith(EXCHANGE_ORIGIN)]
    ids = tuple(sorted(origin.removeprefix(EXCHANGE_ORIGIN) for origin in exchanges))
    digest = digest_of(splits)
    card: dict[str, Json] = {
        "adapter": str(curriculum.adapter),
        "curriculum_version": curriculum.version,
        "curriculum_digest": curriculum.digest,
        "profile": curriculum.profile,
        "seed": curriculum.seed,
        "digest": digest,
        "near_duplicate": curriculum.split.near_duplicate,
        "repeat": curriculum.split.repeat,
        "counts": {name: len(part) for name, part in splits.items()},
        "groups": {name: len({one.group for one in part}) for name, part in splits.items()},
        "answers": {name: _balance(part) for name, part in splits.items()},
        "sources": dict(sorted(Counter(one.source for one in splits["train"]).items())),
        "shares": {source: _share_of(source, share, splits) for source, share in wanted.items()},
        "catalogues": {name: dict(_catalogues(part).most_common()) for name, part in splits.items()},
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "exchange_ids": list(ids),
        "split_digests": {name: digest_of({name: part}) for name, part in splits.items()},
    }
    return Dataset(splits["train"], splits["validation"], splits["heldout"], digest, ids, card)


def _share_of(source: str, wanted: Share, splits: Mapping[str, Sequence[Example]]) -> dict[str, Json]:
    """What one source was to give and gave, and how much of its train examples one template and each stratum make."""
    mine = [one for one in splits["train"] if one.source == source]
    templates = Counter(one.group for one in mine)
    strata = Counter(one.stratum for one in mine)
    return {
        "wanted": {name: getattr(wanted, name) for name in splits},
        "got": {name: sum(one.source == source for one in part) for name, part in splits.items()},
        "template_share": round(max(templates.values(), default=0) / max(1, len(mine)), 4),
        "strata": dict(sorted(strata.items())),
    }


def _balance(examples: Sequence[Example]) -> dict[str, Json]:
    """How often each tool is the right answer; the empty text stands for "no tool"."""
    tools = Counter(str((one.expected or {}).get("selected_tool", "unknown")) for one in examples)
    return dict(sorted(tools.items()))


def digest_of(splits: Mapping[str, Sequence[Example]]) -> str:
    """SHA-256 in hex over the splits' names and canonical lines, order included."""
    running = hashlib.sha256()
    for name in sorted(splits):
        running.update(f"{name}\n".encode())
        for example in splits[name]:
            running.update(f"{canonical(example.to_json())}\n".encode())
    return running.hexdigest()
