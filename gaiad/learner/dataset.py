"""Examples, and the dataset made of them: distinct, split so that nothing leaks, with a digest and a card.

Decides which example goes into which split, and refuses a dataset whose splits share a request or nearly so.
Reads no file and draws no random number: every order comes from hashes of the seed and the content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from gaiad.curriculum import Curriculum, Json
from gaiad.errors import DatasetError

EXCHANGE_ORIGIN = "exchange:"
"""An example that came from a user's exchange has this and the exchange's id as its origin and its group."""

REQUEST_MARK = "USER REQUEST:"
"""What stands before the user's own words in a tool selection request."""

_MASKS = (
    (re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)|`[^`]*`"), " quoted "),
    (re.compile(r"\S*[/\\]\S+|\b[\w-]+\.[a-z][a-z0-9]{0,4}\b"), " path "),
    (re.compile(r"\d+(?:[.,:]\d+)*"), " number "),
)
_WORD = re.compile(r"\w+")

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message in OpenAI's form, text content only."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One request with its right answer last.

    `group` is never divided between splits; what precedes its last "/" is the stratum that the splits share fairly.
    `origin` says where it came from, `expected` what an exam compares with.
    """

    messages: tuple[Message, ...]
    source: str
    group: str
    origin: str
    stage: str | None = None
    schema: Mapping[str, Json] | None = None
    expected: Mapping[str, Json] | None = None
    rejected: str | None = None
    weight: float = 1.0

    @property
    def answer(self) -> str:
        """The assistant's text, which training learns to give."""
        return self.messages[-1].content

    @property
    def stratum(self) -> str:
        """What the example is about, as far as fair shares go."""
        return self.group.rpartition("/")[0] or self.group

    def key(self) -> str:
        """A short stable id of the request (16 hex digits); two examples with the same messages share it."""
        return _sha([[one.role, one.content] for one in self.messages[:-1]])[:16]

    def to_json(self) -> dict[str, Json]:
        """The example as one line of a dataset file; absent options are left out."""
        line: dict[str, Json] = {
            "messages": [{"role": one.role, "content": one.content} for one in self.messages],
            "source": self.source,
            "group": self.group,
            "origin": self.origin,
        }
        optional: dict[str, Json] = {
            "stage": self.stage,
            "schema": dict(self.schema) if self.schema is not None else None,
            "expected": dict(self.expected) if self.expected is not None else None,
            "rejected": self.rejected,
            "weight": self.weight if self.weight != 1.0 else None,
        }
        line.update({key: value for key, value in optional.items() if value is not None})
        return line

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> Example:
        """Read a dataset line, or raise DatasetError naming what is wrong with it."""
        try:
            rows = cast("list[dict[str, Json]]", raw["messages"])
            messages = tuple(Message(_text(row["role"]), _text(row["content"])) for row in rows)
            if len(messages) < 2 or messages[-1].role != "assistant":
                raise ValueError("the assistant's answer must stand last, after a request")
            return cls(
                messages,
                source=_text(raw["source"]),
                group=_text(raw["group"]),
                origin=_text(raw["origin"]),
                stage=_optional_text(raw.get("stage")),
                schema=cast("dict[str, Json] | None", raw.get("schema")),
                expected=cast("dict[str, Json] | None", raw.get("expected")),
                rejected=_optional_text(raw.get("rejected")),
                weight=float(cast(float, raw.get("weight", 1.0))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"not an example: {error!r}", hint="rebuild the dataset") from error


@dataclass(frozen=True, slots=True)
class Dataset:
    """A frozen dataset. `exchange_ids` are the ids of the exchanges inside train; `digest` is SHA-256 in hex."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    heldout: tuple[Example, ...]
    digest: str
    exchange_ids: tuple[str, ...]
    card: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leak:
    """Two examples in different splits whose requests are too much alike; `jaccard` is 1 for the same request."""

    first_origin: str
    second_origin: str
    jaccard: float


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _optional_text(value: Json) -> str | None:
    return None if value is None else _text(value)


def _canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _sha(value: object) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


# --- Likeness ---------------------------------------------------------------------------------------------------


def request_of(example: Example) -> str:
    """The user's own words: what follows the request mark up to a blank line, else the last user message whole."""
    users = [one.content for one in example.messages[:-1] if one.role == "user"]
    last = users[-1] if users else ""
    _, mark, rest = last.rpartition(REQUEST_MARK)
    return (rest.strip().split("\n\n", 1)[0] if mark else last).strip()


def masked(request: str) -> str:
    """The request case-folded, with quoted strings, paths and numbers replaced by one word each."""
    text = request.casefold()
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return " ".join(_WORD.findall(text))


def shingles(request: str) -> Shingles:
    """The 3-word shingles of the masked request; a shorter request is one shingle."""
    words = masked(request).split()
    if len(words) < 3:
        return frozenset({tuple(words)})
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(first: Shingles, second: Shingles) -> float:
    """Shared shingles over all shingles, 0..1."""
    return len(first & second) / len(first | second) if first or second else 1.0


def alike(first: Sequence[Example], second: Sequence[Example], threshold: float) -> Iterable[tuple[int, int, float]]:
    """Index pairs (one from each side) whose requests are at least `threshold` alike, with the likeness."""
    sets = [shingles(request_of(example)) for example in second]
    index: dict[Hashable, list[int]] = defaultdict(list)
    for position, one in enumerate(sets):
        for shingle in one:
            index[shingle].append(position)
    for here, example in enumerate(first):
        mine = shingles(request_of(example))
        shared = Counter(there for shingle in mine for there in index.get(shingle, ()))
        for there, count in shared.items():
            likeness = count / (len(mine) + len(sets[there]) - count)
            if likeness >= threshold:
                yield here, there, likeness


def leaks(first: Sequence[Example], second: Sequence[Example], threshold: float) -> tuple[Leak, ...]:
    """Every pair across two splits whose requests are the same or nearly so."""
    return tuple(
        Leak(f"{first[a].group} ({first[a].origin})", f"{second[b].group} ({second[b].origin})", likeness)
        for a, b, likeness in alike(first, second, threshold)
    )


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


# --- Building ---------------------------------------------------------------------------------------------------


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


def build_dataset(
    curriculum: Curriculum,
    examples: Sequence[Example],
    exchanges: Sequence[Example],
    own_catalogues: Collection[str] = (),
) -> Dataset:
    """Make the dataset: drop repetitions, split whole clusters, add exchanges to train, check for leaks.

    `own_catalogues` are the tool catalogues that the runtime itself shows; where none are named, the commonest counts.
    A cluster holds everything that shares a group or is nearly alike, so augmented forms of a template never part.

    Raises:
        DatasetError: where there are too few examples, or the outcome would not be trustworthy.
    """
    threshold = curriculum.split.near_duplicate
    distinct = _first_of(examples, lambda one: shingles(request_of(one)))
    dropped = Counter({"repeated request": len(examples) - len(distinct)})
    parts = _assigned(curriculum, distinct, threshold)
    chosen = {
        name: fair_choice(parts[name], wanted)
        for name, wanted in (
            ("heldout", curriculum.split.heldout),
            ("validation", curriculum.split.validation),
            ("train", curriculum.split.train),
        )
    }
    dropped["beyond the split's size"] = len(distinct) - sum(len(part) for part in chosen.values())
    _check_sizes(curriculum, chosen)
    kept = _kept_exchanges(exchanges, chosen["heldout"], threshold, dropped)
    colliding = {there for _, there, _ in alike(kept, chosen["validation"], threshold)}
    dropped["validation example near a correction"] = len(colliding)
    validation = [one for at, one in enumerate(chosen["validation"]) if at not in colliding]
    train = _shuffled([*_without_contradicted(chosen["train"], kept, dropped), *kept], curriculum.seed)
    dataset = _with_card(curriculum, tuple(train), tuple(validation), tuple(chosen["heldout"]), dropped)
    check_no_leaks(dataset, threshold)
    _check_catalogues(curriculum, dataset, own_catalogues)
    return dataset


def _first_of(examples: Iterable[Example], key: Callable[[Example], Hashable]) -> list[Example]:
    first: dict[Hashable, Example] = {}
    for example in examples:
        first.setdefault(key(example), example)
    return list(first.values())


def _shuffled(examples: Iterable[Example], seed: int) -> list[Example]:
    return sorted(examples, key=lambda one: _sha([seed, one.group, one.key(), one.answer]))


def _clusters(examples: Sequence[Example], threshold: float) -> list[list[Example]]:
    """Join what shares a group or is nearly alike; clusters stand in the order of their first example."""
    parent = list(range(len(examples)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    first_of_group: dict[str, int] = {}
    for position, example in enumerate(examples):
        parent[root(position)] = root(first_of_group.setdefault(example.group, position))
    for here, there, _ in alike(examples, examples, threshold):
        parent[root(here)] = root(there)
    joined: dict[int, list[Example]] = defaultdict(list)
    for position, example in enumerate(examples):
        joined[root(position)].append(example)
    return list(joined.values())


def _assigned(curriculum: Curriculum, examples: Sequence[Example], threshold: float) -> dict[str, list[Example]]:
    """Give each stratum's clusters to the splits in proportion to the splits' sizes.

    Sizes count in examples, so a stratum gives each split about its share whatever its clusters' sizes are. Every
    stratum keeps at least one cluster in train, and gives one to held-out where it has two.
    """
    split = curriculum.split
    whole = split.train + split.validation + split.heldout
    strata: dict[str, list[list[Example]]] = defaultdict(list)
    for cluster in _clusters(examples, threshold):
        strata[cluster[0].stratum].append(cluster)
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "heldout": []}
    owed_validation = 0.0
    for name, clusters in strata.items():
        order = sorted(clusters, key=lambda cluster: _sha([curriculum.seed, name, cluster[0].group]))
        heldout = max(1, round(len(order) * split.heldout / whole)) if len(order) > 1 else 0
        owed_validation += len(order) * split.validation / whole
        validation = min(int(owed_validation), max(0, len(order) - heldout - 1))
        owed_validation -= validation
        for at, cluster in enumerate(order):
            part = "heldout" if at < heldout else "validation" if at < heldout + validation else "train"
            parts[part].extend(cluster)
    return {name: _shuffled(part, curriculum.seed) for name, part in parts.items()}


def _check_sizes(curriculum: Curriculum, chosen: Mapping[str, Sequence[Example]]) -> None:
    wanted = {
        "train": curriculum.split.train,
        "validation": curriculum.split.validation,
        "heldout": curriculum.split.heldout,
    }
    short = [
        f"{len(chosen[name])} of {count} for {name}" for name, count in wanted.items() if len(chosen[name]) < count
    ]
    if short:
        raise DatasetError(
            f"the sources of {curriculum.adapter} give too few distinct examples: {', '.join(short)}",
            hint="add request templates, or lower `split` in the curriculum",
        )
    if len(chosen["train"]) < curriculum.minimum_examples:
        raise DatasetError(
            f"{len(chosen['train'])} examples to train on, fewer than minimum_examples = {curriculum.minimum_examples}",
            hint="raise `split.train` or lower `minimum_examples` in the curriculum",
        )


def _kept_exchanges(
    exchanges: Sequence[Example], heldout: Sequence[Example], threshold: float, dropped: Counter[str]
) -> list[Example]:
    """The corrections that may be trained on: the latest of each request, none near a held-out item."""
    latest = _first_of(reversed(exchanges), lambda one: (one.stage, request_of(one)))[::-1]
    leaking = {here for here, _, _ in alike(latest, heldout, threshold)}
    dropped["correction replaced by a later one"] = len(exchanges) - len(latest)
    dropped["correction near a held-out item"] = len(leaking)
    return [one for at, one in enumerate(latest) if at not in leaking]


def _without_contradicted(
    train: Sequence[Example], exchanges: Sequence[Example], dropped: Counter[str]
) -> list[Example]:
    """A correction speaks last: a generated example with the very same request gives way to it."""
    corrected = {(one.stage, request_of(one)) for one in exchanges}
    kept = [one for one in train if (one.stage, request_of(one)) not in corrected]
    dropped["generated example replaced by a correction"] = len(train) - len(kept)
    return kept


# --- Catalogues, card and digest --------------------------------------------------------------------------------


def catalogue_of(example: Example) -> str | None:
    """A digest of all that stands before the user's own words, or None where no request mark says where that is."""
    before = "\n".join(one.content for one in example.messages[:-1])
    head, mark, _ = before.rpartition(REQUEST_MARK)
    return _sha(head)[:12] if mark else None


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
    curriculum: Curriculum,
    train: tuple[Example, ...],
    validation: tuple[Example, ...],
    heldout: tuple[Example, ...],
    dropped: Counter[str],
) -> Dataset:
    splits = {"train": train, "validation": validation, "heldout": heldout}
    exchanges = [one.origin for one in train if one.origin.startswith(EXCHANGE_ORIGIN)]
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
        "counts": {name: len(part) for name, part in splits.items()},
        "groups": {name: len({one.group for one in part}) for name, part in splits.items()},
        "answers": {name: _balance(part) for name, part in splits.items()},
        "sources": dict(sorted(Counter(one.source for one in train).items())),
        "catalogues": {name: dict(_catalogues(part).most_common()) for name, part in splits.items()},
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "exchange_ids": list(ids),
        "split_digests": {name: digest_of({name: part}) for name, part in splits.items()},
    }
    return Dataset(train, validation, heldout, digest, ids, card)


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
            running.update(f"{_canonical(example.to_json())}\n".encode())
    return running.hexdigest()


# --- Negative controls ------------------------------------------------------------------------------------------


def shuffled_labels(examples: Sequence[Example], seed: int) -> list[Example]:
    """A negative control: the answers permuted among the examples, so that tool labels are chance.

    Every answer stays well-formed; an adapter trained on these must not pass the gate.
    """
    order = sorted(range(len(examples)), key=lambda at: _sha([seed, "labels", at]))
    donors = [examples[at] for at in order]
    return [
        replace(example, messages=(*example.messages[:-1], donor.messages[-1]), expected=donor.expected)
        for example, donor in zip(examples, donors, strict=True)
    ]


def scrambled_answers(examples: Sequence[Example], seed: int) -> list[Example]:
    """A negative control: the characters of each answer in a hashed order, so that none is JSON any more.

    An adapter trained on these must be stopped by the live guard when it is forced live.
    """
    result = []
    for at, example in enumerate(examples):
        order = sorted(range(len(example.answer)), key=lambda place: _sha([seed, at, place]))
        text = "".join(example.answer[place] for place in order)
        wrong = Message("assistant", text if not text.startswith("{") else f"}}{text}")
        result.append(replace(example, messages=(*example.messages[:-1], wrong), expected=None))
    return result
