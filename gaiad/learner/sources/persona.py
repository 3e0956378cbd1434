"""How the assistant speaks: what people say to it, what it answers, and what it would have said in the wrong voice.

Material in JSON: intents, each with what is asked and either whole answers or parts that fit in every combination; and
a frame of system texts, small talk before a question, wrong manners and the marks by which they are known. A leading
"de:", "fr:", "es:" means another language than English. Everything follows from the seed; reads no file.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from gaiad.errors import CurriculumError

ENGLISH = "en"
_EVERY = "all"
_PREFIX = re.compile(r"([a-z]{2}): ")
_HISTORY_SHARE, _CARELESS_SHARE, _DRESSED_SHARE = 0.15, 0.15, 0.5

ByLanguage: TypeAlias = Mapping[str, tuple[str, ...]]
Alternatives: TypeAlias = tuple[str, ...]
"""Texts of which an answer must contain one."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that is said to the assistant, after the turns `before` it; `answers` are whole ones, or none.

    Of each of `contains` an answer holds one.
    """

    language: str
    text: str
    before: tuple[str, ...]
    answers: tuple[str, ...]
    contains: tuple[Alternatives, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """What people want of a voice: the ways to ask, the parts of an answer, and what the wrong voice would say.

    A `bare` one is never put into a context: a greeting stands first.
    """

    name: str
    asks: tuple[Ask, ...]
    parts: tuple[tuple[str, ...], ...]
    wrong: ByLanguage
    bare: bool


@dataclass(frozen=True, slots=True)
class Manner:
    """One way to sound wrong: what it begins and what it ends with."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around: system texts, contexts of a question, small talk before it, wrong manners and their marks.

    No answer has more than `most_words`, where there is such a bound.
    """

    systems: tuple[str, ...]
    contexts: tuple[str, ...]
    histories: tuple[tuple[str, ...], ...]
    manners: Mapping[str, tuple[Manner, ...]]
    marks: ByLanguage
    most_words: int | None

    def marks_of(self, language: str) -> tuple[str, ...]:
        """What must not occur in an answer in this language."""
        return (*self.marks.get(_EVERY, ()), *self.marks.get(language, ()))


@dataclass(frozen=True, slots=True)
class Spoken:
    """A conversation up to the answer, the answer, the wrong one, and what tells them apart.

    `turns` begin and end with the user; `system` may be empty.
    """

    intent: str
    group: str
    system: str
    turns: tuple[str, ...]
    answer: str
    rejected: str
    contains: tuple[Alternatives, ...]
    lacks: tuple[str, ...]
    most_words: int | None


# --- Reading ----------------------------------------------------------------------------------------------------


def parse_frame(text: str) -> Frame:
    """Read `voice.json`.

    Raises:
        CurriculumError: where it lacks a part.
    """
    try:
        raw = json.loads(text)
        return Frame(
            tuple(raw["systems"]),
            tuple(raw["contexts"]),
            tuple(tuple(one) for one in raw["histories"]),
            {
                language: tuple(Manner(tuple(one["open"]), tuple(one["close"])) for one in manners)
                for language, manners in raw["styles"].items()
            },
            _by_language(raw["marks"]),
            int(raw["most_words"]) if "most_words" in raw else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurriculumError(f"voice.json cannot be read: {error!r}", hint="mend the place it names") from error


def parse_intents(text: str, origin: str) -> tuple[Intent, ...]:
    """Read one file of intents; `origin` is its name.

    Raises:
        CurriculumError: where it cannot be read.
    """
    try:
        raw = json.loads(text)
        return tuple(_intent(name, entry) for name, entry in raw.items())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CurriculumError(f"{origin} cannot be read: {error!r}", hint="mend the place it names") from error


def _intent(name: str, entry: Mapping[str, Any]) -> Intent:
    contains = _by_language(entry.get("contains", {}))
    return Intent(
        name,
        tuple(_ask(one, contains) for one in entry["asked"]),
        tuple(tuple(one) for one in entry["answers"]),
        _by_language(entry["wrong"]),
        bool(entry.get("bare", False)),
    )


def _ask(given: object, contains: ByLanguage) -> Ask:
    """A way to ask: its words alone; words and answer, perhaps with what it must contain; or an object with turns."""
    if isinstance(given, str):
        raw: dict[str, Any] = {"ask": given}
    elif isinstance(given, list):
        raw = {"ask": given[0], "answer": given[1], "contains": given[2] if len(given) > 2 else []}
    else:
        raw = cast("dict[str, Any]", given)
    language, text = _language_of(raw["ask"])
    before = tuple(_language_of(one)[1] for one in raw.get("before", []))
    answers = (str(raw["answer"]),) if "answer" in raw else ()
    common = (*contains.get(_EVERY, ()), *contains.get(language, ()), *raw.get("contains", ()))
    return Ask(language, text, before, answers, tuple(map(_alternatives, common)))


def _alternatives(given: object) -> Alternatives:
    return (given,) if isinstance(given, str) else tuple(str(one) for one in cast("list[str]", given))


def _language_of(text: str) -> tuple[str, str]:
    found = _PREFIX.match(text)
    return (found[1], text[found.end() :]) if found else (ENGLISH, text)


def _by_language(raw: Mapping[str, Sequence[str]]) -> ByLanguage:
    return {language: tuple(texts) for language, texts in raw.items()}


def check(intents: Sequence[Intent], frame: Frame) -> None:
    """See that every answer that can come out has what it must contain and no mark, and every wrong one a mark.

    Raises:
        CurriculumError: naming everything that contradicts itself.
    """
    problems = [problem for intent in intents for ask in intent.asks for problem in _problems(intent, ask, frame)]
    problems += _untold(frame)
    names = [intent.name for intent in intents]
    problems += sorted({f"the intent {name} stands there twice" for name in names if names.count(name) > 1})
    if problems:
        raise CurriculumError("; ".join(problems), hint="mend these places of the voice's material")


def _problems(intent: Intent, ask: Ask, frame: Frame) -> Iterator[str]:
    where = f"{intent.name}: {ask.text!r}"
    if len(ask.before) % 2:
        yield f"{where} has an unanswered turn before it"
    if not intent.wrong.get(ask.language) or not frame.manners.get(ask.language):
        yield f"{where} has no wrong voice in {ask.language!r}"
        return
    answers = list(_answers(intent, ask))
    if not answers:
        yield f"{where} has no answer"
    marks = [mark.casefold() for mark in frame.marks_of(ask.language)]
    for answer in answers:
        folded = answer.casefold()
        missing = [" or ".join(one) for one in ask.contains if not any(text.casefold() in folded for text in one)]
        if frame.most_words is not None and len(answer.split()) > frame.most_words:
            yield f"{where}: {answer!r} has more than {frame.most_words} words"
        found = [mark for mark in marks if mark in folded]
        if missing or found:
            yield f"{where}: {answer!r} lacks {missing} or has the wrong voice's {found}"


def _untold(frame: Frame) -> Iterator[str]:
    """The ways to sound wrong that no mark tells."""
    for language, manners in frame.manners.items():
        marks = [mark.casefold() for mark in frame.marks_of(language)]
        for manner in manners:
            for opening, closing in itertools.product(manner.openings, manner.closings):
                text = f"{opening} {closing}".casefold()
                if not any(mark in text for mark in marks):
                    yield f"wrong manner {opening!r}, {closing!r}: no mark tells it"


def _answers(intent: Intent, ask: Ask) -> Iterator[str]:
    if ask.answers:
        yield from ask.answers
    elif intent.parts and ask.language == ENGLISH:
        for chosen in itertools.product(*intent.parts):
            yield _joined(chosen)


def _joined(parts: Sequence[str]) -> str:
    return " ".join(part for part in parts if part)


# --- Speaking ---------------------------------------------------------------------------------------------------


def spoken(intents: Sequence[Intent], frame: Frame, *, fills: int, seed: int) -> Iterator[Spoken]:
    """Say everything that is asked, English in up to `fills` forms: first by itself, then with a sentence before."""
    for intent in intents:
        for number, ask in enumerate(intent.asks):
            forms = 1 if intent.bare or ask.language != ENGLISH or ask.before else fills
            for form in range(forms):
                draw = random.Random(f"{seed}/{intent.name}/{ask.text}/{form}")
                yield _said(intent, ask, f"{intent.name}/{number:02d}", frame, draw, plain=form == 0)


def _said(intent: Intent, ask: Ask, group: str, frame: Frame, draw: random.Random, *, plain: bool) -> Spoken:
    before, text = ask.before, ask.text
    if not before and not intent.bare and ask.language == ENGLISH:
        if draw.random() < _HISTORY_SHARE:
            before = draw.choice(frame.histories)
        if draw.random() < _CARELESS_SHARE:
            text = _careless(text)
    if not plain:
        text = f"{draw.choice(frame.contexts)} {text}"
    answer = draw.choice(ask.answers) if ask.answers else _joined([draw.choice(part) for part in intent.parts])
    manner = draw.choice(frame.manners[ask.language])
    # Half of the wrong ones say the right thing, so that the manner alone is what is wrong with them.
    said = answer if draw.random() < _DRESSED_SHARE else draw.choice(intent.wrong[ask.language])
    wrong = (draw.choice(manner.openings), said, draw.choice(manner.closings))
    return Spoken(
        intent.name,
        group,
        draw.choice(frame.systems),
        (*before, text),
        answer,
        _joined(wrong),
        ask.contains,
        frame.marks_of(ask.language),
        frame.most_words,
    )


def _careless(text: str) -> str:
    """The same words typed in a hurry: no capital at the beginning, no full stop or question mark at the end."""
    first = text.split(" ", 1)[0]
    keeps = first.startswith("I") or first.isupper()
    return (text if keeps else text[:1].lower() + text[1:]).rstrip(".?!").rstrip()
