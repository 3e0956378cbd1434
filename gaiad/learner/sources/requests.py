"""What people say when they want a tool: templates with slots, said in many ways.

A template marks its deciding words with [brackets] and its slots with {braces}; a leading "~" means implied rather
than said, "?" too vague to tell, "de:", "fr:", "es:" another language. Everything follows from the seed. Decides
nothing about catalogues or splits; all forms of one template share a group.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError

NO_TOOL = "none"
"""Intents of this "tool" need none."""

_SLOT = re.compile(r"\{([a-z]+)\}")
_PREFIX = re.compile(r"^(~|\?|[a-z]{2}:) ")
_CONFIDENCE = {"": 0.95, "~": 0.8, "?": 0.6}
_FOREIGN_CONFIDENCE = 0.9
_TYPO_COST = 0.05


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that can be wanted: a tool's action, its parameters' pattern, and the templates that ask for it."""

    tool: str
    action: str
    params: Mapping[str, str]
    templates: tuple[str, ...]

    @property
    def name(self) -> str:
        """`tool.action`, as the material has it."""
        return f"{self.tool}.{self.action}"


@dataclass(frozen=True, slots=True)
class Material:
    """All of `requests.json`: intents in order, slot values, and what may stand around a request."""

    intents: tuple[Intent, ...]
    slots: Mapping[str, Sequence[Json]]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    contexts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spoken:
    """One request in words, with what it asks for; `deciding` are the words that say so."""

    intent: Intent
    group: str
    text: str
    deciding: str
    params: Mapping[str, Json]
    confidence: float


def parse_material(text: str) -> Material:
    """Read `requests.json`.

    Raises:
        CurriculumError: naming every intent and slot that cannot be used.
    """
    try:
        raw = json.loads(text)
        intents = tuple(_intent(name, entry) for name, entry in raw["intents"].items())
        around = [tuple(str(one) for one in raw.get(key, [])) for key in ("openers", "closers", "contexts")]
        material = Material(intents, raw["slots"], *around)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurriculumError(f"requests.json cannot be read: {error!r}", hint="mend the place it names") from error
    problems = [problem for intent in intents for problem in _problems(intent, material)]
    if problems:
        raise CurriculumError(f"requests.json: {'; '.join(problems)}", hint="mend these templates")
    return material


def _intent(name: str, entry: Mapping[str, Json]) -> Intent:
    tool, _, action = name.partition(".")
    params = cast("dict[str, str]", entry.get("params", {}))
    return Intent(tool, action, params, tuple(cast("list[str]", entry["templates"])))


def _problems(intent: Intent, material: Material) -> Iterator[str]:
    needed = {slot for pattern in intent.params.values() for slot in _SLOT.findall(pattern)}
    for template in intent.templates:
        slots = set(_SLOT.findall(template))
        unknown = sorted(slots - set(material.slots))
        if unknown or needed - slots:
            yield f"{intent.name}: {template!r} has unknown slots {unknown} or lacks {sorted(needed - slots)}"
        if "[" not in template or template.count("[") != template.count("]"):
            yield f"{intent.name}: {template!r} does not mark its deciding words"


def spoken(material: Material, intents: Sequence[Intent], *, fills: int, seed: int) -> Iterator[Spoken]:
    """Say every template of `intents` in up to `fills` forms: the first plainly, the others with something around."""
    for intent in intents:
        for number, template in enumerate(intent.templates):
            for fill in range(fills):
                draw = random.Random(f"{seed}/{intent.name}/{template}/{fill}")
                group = f"{intent.name}/{number:02d}"
                yield _said(material, intent, template, group, draw, plain=fill == 0)


def _said(material: Material, intent: Intent, template: str, group: str, draw: random.Random, *, plain: bool) -> Spoken:
    found = _PREFIX.match(template)
    mark = found[1] if found else ""
    pattern = template[found.end() :] if found else template
    confidence = _CONFIDENCE.get(mark, _FOREIGN_CONFIDENCE)
    texts: dict[str, str] = {}
    values: dict[str, Json] = {}
    for slot in _SLOT.findall(pattern):
        choice = draw.choice(material.slots[slot])
        said, value = choice if isinstance(choice, list) else (choice, choice)
        texts[slot], values[slot] = str(said), value
    foreign = mark.endswith(":")
    if not plain and not foreign and draw.random() < 0.2:
        pattern, confidence = mistyped(pattern, draw), round(confidence - _TYPO_COST, 2)
    text = _filled(pattern.replace("[", "").replace("]", ""), texts)
    deciding = " ".join(_filled(" ".join(re.findall(r"\[([^\]]*)\]", pattern)), texts).split()[:4])
    if not plain:
        text = around(text, material, draw, foreign=foreign)
    params = {name: _value(shape, values, texts) for name, shape in intent.params.items()}
    return Spoken(intent, group, text, deciding, params, confidence)


def _filled(pattern: str, texts: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda found: texts[found[1]], pattern)


def _value(shape: str, values: Mapping[str, Json], texts: Mapping[str, str]) -> Json:
    """A parameter's value: a lone slot keeps its type, anything else is text."""
    whole = _SLOT.fullmatch(shape)
    return values[whole[1]] if whole else _filled(shape, texts)


def mistyped(pattern: str, draw: random.Random) -> str:
    """Swap two inner letters of one longer word that is neither a slot nor a deciding word."""
    outside = re.sub(r"\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"", lambda found: "\0" * len(found[0]), pattern)
    words = list(re.finditer(r"(?<!\w)[^\W\d_\0]{5,}(?!\w)", outside))
    if not words:
        return pattern
    word = draw.choice(words)
    at = draw.randrange(word.start() + 1, word.end() - 2)
    return pattern[:at] + pattern[at + 1] + pattern[at] + pattern[at + 2 :]


def around(text: str, material: Material, draw: random.Random, *, foreign: bool) -> str:
    """Put an opener, a closer, another sentence or carelessness around a request."""
    if draw.random() < 0.2:
        text = text.rstrip("?.!").rstrip()
    if draw.random() < 0.25:
        text = text[:1].lower() + text[1:]
    if foreign:
        return text
    opened = draw.random()
    if opened < 0.45 and material.openers:
        first = text.split(" ", 1)[0]
        text = draw.choice(material.openers) + (text if first == "I" else text[:1].lower() + text[1:])
    elif opened < 0.65 and material.contexts:
        text = draw.choice(material.contexts) + text
    if draw.random() < 0.3 and material.closers:
        ended = text if text.endswith(("?", "!", ".")) else f"{text}."
        text = ended + draw.choice(material.closers)
    return text
