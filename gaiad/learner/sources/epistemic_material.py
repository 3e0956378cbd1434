"""The material that knowing and not knowing is taught from: facts, passages, questions, grounds, turns and frames.

Parses what stands in a curriculum's folder, and refuses what contradicts itself: a passage that does not hold its
answer, a wrong value that holds the right one, a wording with a slot that nothing fills. Takes text, reads no file.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gaiad.errors import CurriculumError
from gaiad.learner.sources.computed import OPERATIONS

FILES = ("facts", "passages", "questions", "grounds", "turns", "frames")
"""The names of the material's files, without `.json`."""

Words: TypeAlias = Mapping[str, Sequence[str]]
"""The wordings of `frames.json` by name; those of a part of it have its name before a dot."""

_SLOTS = {"topic_requests": "topic", "topic_openings": "topic", "topic_closings": "", "leads": "", "boasts": ""}
_SLOTS |= {"needless_doubts": "", "admissions": "why", "refusals_to_guess": "why", "notes": "ground", "not_told": ""}
_SLOTS |= {"sound_reasons": "", "candid_reasons": "", "wrong_reasons": "truth", "invented_reasons": "why"}
_SLOTS |= {"silences": "", "hasty": "", "thoughts": "right", "clean_summaries": "", "conflict_users": "a b"}
_SLOTS |= {f"systems.{form}": "" for form in ("known", "plain", "basis", "wording", "audit", "conflict")}
_SLOTS |= {f"flag_summaries.{fault}": "" for fault in ("error", "invention")}
"""What every wording of a name has slots for; the openings of a topic may do without."""
_FEWEST_TOOLS = 5


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
        words=_flat(raw["frames"]),
    )


def _flat(frames: Mapping[str, Any]) -> Words:
    named: dict[str, tuple[str, ...]] = {}
    for name, found in frames.items():
        parts = {f"{name}.{part}": texts for part, texts in found.items()} if isinstance(found, dict) else {name: found}
        named.update({key: tuple(str(text) for text in texts) for key, texts in parts.items()})
    return named


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
    yield from _told_problems(material)
    yield from _word_problems(material.words)
    yield from _template_problems(material)
    for one in material.evidence:
        if not 0 < one.share < 1:
            yield f"grounds.json: {one.name}: a share of {one.share:g} leaves nothing open"
    for stream in material.streams:
        if stream.action not in ("CONTINUE", "INTERRUPT"):
            yield f"turns.json: {stream.name}: no action {stream.action!r}"
    for turn in material.turns:
        if not material.words.get(f"flag_summaries.{turn.category}"):
            yield f"turns.json: {turn.name}: frames.json has no flag_summaries for {turn.category!r}"


def _told_problems(material: Material) -> Iterator[str]:
    if not material.topics:
        yield "facts.json: no topics"
    for topic, facts in material.topics.items():
        for fact in facts:
            yield from (f"facts.json: {topic}: {problem}" for problem in _fact_problems(fact))
    for passage in material.passages:
        where = f"passages.json: {passage.name}"
        for fact in passage.asks:
            yield from (f"{where}: {problem}" for problem in _fact_problems(fact))
            if fact.right.casefold() not in passage.text.casefold():
                yield f"{where}: the text does not hold {fact.right!r}"


def _word_problems(words: Words) -> Iterator[str]:
    for name, slots in _SLOTS.items():
        if not words.get(name):
            yield f"frames.json: {name} is missing or empty"
        for text in words.get(name, ()):
            needed = set() if name == "topic_openings" else set(slots.split())
            yield from _slot_problems(f"frames.json: {name}", [text], set(slots.split()), needed)
    frames = words.get("streams", ())
    if not frames or not all("{user}" in frame and "{output}" in frame for frame in frames):
        yield "frames.json: streams needs frames with {user} and {output}"


def _template_problems(material: Material) -> Iterator[str]:
    for name, rows in material.computed.items():
        for question, sentence in rows:
            filled = OPERATIONS[name](random.Random(0), question).slots
            yield from _slot_problems(f"questions.json: {name}", [question], filled, filled)
            yield from _slot_problems(f"questions.json: {name}", [sentence], {"r"}, {"r"})
    for question, _, _ in material.missing:
        yield from _slot_problems("questions.json: missing", [question], {"n"}, {"n"})
    for kind in material.invented:
        if not kind.names:
            yield f"questions.json: {kind.kind} has no names"
        for ask in kind.asks:
            yield from _slot_problems(f"questions.json: {kind.kind}", ask, {"name"}, set())
    yield from _slot_problems("questions.json: registry", material.registry.asks, {"task"}, {"task"})
    for ask in material.registry.silent:
        yield from _slot_problems("questions.json: registry", ask, {"tool"}, set())
    if len(material.registry.tools) < _FEWEST_TOOLS:
        yield f"questions.json: registry has fewer than {_FEWEST_TOOLS} tools"


def _slot_problems(where: str, texts: Iterable[str], known: Iterable[str], needed: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            yield f"{where}: {text!r}: {error}"
            continue
        if found - set(known) or set(needed) - found:
            yield f"{where}: {text!r} needs the slots {sorted(needed)} and may have no others than {sorted(known)}"


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
