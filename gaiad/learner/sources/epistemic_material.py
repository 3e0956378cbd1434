"""The material that knowing and not knowing is taught from: facts, passages, questions, grounds, turns and frames.

Parses what stands in a curriculum's folder, and refuses what contradicts itself: a passage that does not hold its
answer, a wrong value that holds the right one. Takes text, reads no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from gaiad.errors import CurriculumError
from gaiad.learner.sources.computed import OPERATIONS

FILES = ("facts", "passages", "questions", "grounds", "turns", "frames")
"""The names of the material's files, without `.json`."""

Words: TypeAlias = Mapping[str, Any]
"""The wordings of `frames.json`: lists of texts by name."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A question with one right value and wrong ones; `statement` has {} where the value stands."""

    question: str
    statement: str
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A short text, what can be asked of it, and (question, invented answer) where it is silent."""

    name: str
    text: str
    asks: tuple[Fact, ...]
    silent: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing, names of it that somebody made up, and (question, invented answer, why it is not known)."""

    kind: str
    names: tuple[str, ...]
    asks: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One question with evidence and answer where the answer is stated, left open among several, or not spoken of.

    `share` is how often the best answer is right where several are possible, 0..1.
    """

    name: str
    question: str
    exact: tuple[str, str]
    partial: tuple[str, str]
    share: float
    absent: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Wording:
    """A strong and a weak ground for one claim, and the claim said surely and said with doubt."""

    name: str
    strong: str
    weak: str
    sure: str
    hedged: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A finished turn of Core's: what was asked and thought, a good reply, and a bad one with its fault."""

    name: str
    user: str
    thinking: str
    good: str
    bad: str
    category: str
    concern: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply under way with the right verdict on it."""

    name: str
    user: str
    output: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class Registry:
    """Tools as (name, what it does, a task for it), questions about a task, and (question, invention, why) beyond."""

    tools: tuple[tuple[str, str, str], ...]
    asks: tuple[str, ...]
    silent: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Material:
    """All of it. `computed` maps an operation to (question, sentence) templates; triples are question, lure, why."""

    topics: Mapping[str, tuple[Fact, ...]]
    passages: tuple[Passage, ...]
    computed: Mapping[str, tuple[tuple[str, str], ...]]
    missing: tuple[tuple[str, str, str], ...]
    invented: tuple[Kind, ...]
    unknowable: tuple[tuple[str, str, str, str], ...]
    registry: Registry
    evidence: tuple[Evidence, ...]
    wordings: tuple[Wording, ...]
    turns: tuple[Turn, ...]
    streams: tuple[Stream, ...]
    pairs: tuple[tuple[str, str], ...]
    words: Words


def parse_material(texts: Mapping[str, str]) -> Material:
    """Read the files, by the names in `FILES`.

    Raises:
        CurriculumError: a file cannot be read, or contradicts itself; all contradictions are named.
    """
    raw: dict[str, Any] = {}
    for name in FILES:
        try:
            raw[name] = json.loads(texts[name])
        except (ValueError, KeyError, RecursionError) as error:
            raise CurriculumError(f"{name}.json cannot be read: {error!r}", hint="mend the place it names") from error
    try:
        material = _built(raw)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CurriculumError(
            f"the material has another form than expected: {error!r}", hint="compare it with the shipped files"
        ) from error
    if problems := [*_problems(material)]:
        raise CurriculumError("; ".join(problems), hint="mend these places in the material")
    return material


def _built(raw: Mapping[str, Any]) -> Material:
    questions, turns, grounds = raw["questions"], raw["turns"], raw["grounds"]
    registry = questions["registry"]
    return Material(
        topics={topic["name"]: tuple(_fact(one) for one in topic["facts"]) for topic in raw["facts"]["topics"]},
        passages=tuple(
            Passage(
                one["name"], one["text"], tuple(_fact([q, s, *v]) for q, s, *v in _quads(one)), _rows(one, "silent")
            )
            for one in raw["passages"]["passages"]
        ),
        computed={name: tuple((question, said) for question, said in rows) for name, rows in _named(questions)},
        missing=_rows(questions, "missing"),
        invented=tuple(Kind(one["kind"], tuple(one["names"]), _rows(one, "asks")) for one in questions["invented"]),
        unknowable=_rows(questions, "unknowable"),
        registry=Registry(_rows(registry, "tools"), tuple(registry["asks"]), _rows(registry, "silent")),
        evidence=tuple(_evidence(one) for one in grounds["basis"]),
        wordings=tuple(Wording(**one) for one in grounds["wording"]),
        turns=tuple(Turn(**one) for one in turns["audits"]),
        streams=tuple(Stream(**one) for one in turns["streams"]),
        pairs=tuple((first, second) for first, second, _ in turns["pairs"]),
        words=cast(Words, raw["frames"]),
    )


def _fact(row: Sequence[str]) -> Fact:
    question, statement, right, *wrong = row
    return Fact(question, statement, right, tuple(wrong))


def _quads(passage: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    yield from passage["asks"]


def _named(questions: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, rows in questions["computed"].items():
        if name not in OPERATIONS:
            raise ValueError(f"computed: no operation {name!r}, known are {', '.join(OPERATIONS)}")
        yield name, rows


def _rows(part: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    return tuple(tuple(row) for row in part[key])


def _evidence(one: Mapping[str, Any]) -> Evidence:
    given, share, answer = one["partial"]
    part, whole = share if isinstance(share, list) else (1, share)
    exact, absent = one["exact"], one["absent"]
    return Evidence(
        one["name"],
        one["question"],
        (exact[0], exact[1]),
        (given, answer),
        part / whole,
        (absent[0], absent[1]),
    )


def _problems(material: Material) -> Iterator[str]:
    for topic, facts in material.topics.items():
        for fact in facts:
            yield from (f"facts.json: {topic}: {problem}" for problem in _fact_problems(fact))
    for passage in material.passages:
        for fact in passage.asks:
            where = f"passages.json: {passage.name}"
            yield from (f"{where}: {problem}" for problem in _fact_problems(fact))
            if fact.right.casefold() not in passage.text.casefold():
                yield f"{where}: the text does not hold {fact.right!r}"
    for one in material.evidence:
        if not 0 < one.share < 1:
            yield f"grounds.json: {one.name}: a share of {one.share:g} leaves nothing open"
    for stream in material.streams:
        if stream.action not in ("CONTINUE", "INTERRUPT"):
            yield f"turns.json: {stream.name}: no action {stream.action!r}"
    for turn in material.turns:
        if turn.category not in material.words["flag_summaries"]:
            yield f"turns.json: {turn.name}: no category {turn.category!r}"


def _fact_problems(fact: Fact) -> Iterator[str]:
    if fact.statement.count("{}") != 1:
        yield f"{fact.statement!r} needs {{}} once, where the value stands"
    if not fact.wrong:
        yield f"{fact.question!r} has no wrong value"
    yield from (
        f"{fact.question!r}: the wrong {wrong!r} holds the right {fact.right!r}"
        for wrong in fact.wrong
        if fact.right.casefold() in wrong.casefold()
    )
