"""General requests made by a grammar: templates with slots, by skill, so that a base may show what it can do already.

Every one follows from the seed. None is like another, and all of one template share a group. Decides nothing about who
answers them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaiad.errors import CurriculumError
from gaiad.learner.likeness import Requests

PROMPTS = Path("replay") / "prompts.json"
"""Where the shipped templates lie, below the shipped curricula."""
_SLOT = re.compile(r"\{([a-z_]+)\}")
_ALIKE = 0.7
_TRIES = 40
"""How often another filling is drawn before a template counts as used up."""


@dataclass(frozen=True, slots=True)
class OpenPrompt:
    """One request; `key` names template and filling."""

    key: str
    group: str
    text: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """The templates of each skill, and what may stand in their slots."""

    skills: Mapping[str, Sequence[str]]
    slots: Mapping[str, Sequence[str]]


def parse_grammar(text: str) -> Grammar:
    """Read `prompts.json`.

    Raises:
        CurriculumError: naming every template that cannot be used.
    """
    try:
        raw = json.loads(text)
        skills = {str(name): [str(one) for one in lines] for name, lines in raw["skills"].items()}
        slots = {str(name): [str(one) for one in values] for name, values in raw["slots"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurriculumError(f"prompts.json cannot be read: {error!r}", hint="give it skills and slots") from error
    problems = [f"{name} has a slash" for name in skills if "/" in name]
    for template in (line for lines in skills.values() for line in lines):
        unknown = sorted({slot for slot in _SLOT.findall(template) if not slots.get(slot)})
        problems += [f"{template!r} has no values for {', '.join(unknown)}"] if unknown else []
    if problems or not skills:
        raise CurriculumError(f"prompts.json: {'; '.join(problems) or 'it has no skills'}", hint="mend these templates")
    return Grammar(skills, slots)


def open_prompts(grammar: Grammar, seed: int, most: int) -> Iterator[OpenPrompt]:
    """Up to `most` requests, skills and their templates in turn, none like one before it."""
    order = _in_turn(grammar)
    known, given, turn = Requests(), 0, 0
    while order and given < most:
        left = []
        for skill, number, template in order:
            found = _filled(grammar, template, f"{seed}/{skill}/{number}/{turn}", known)
            if found is None:
                continue
            left.append((skill, number, template))
            known.add(found)
            yield OpenPrompt(f"{skill}/{number:02d}/{turn}", f"open-{skill}/{number:02d}", found)
            given += 1
            if given == most:
                return
        order, turn = left, turn + 1


def _in_turn(grammar: Grammar) -> list[tuple[str, int, str]]:
    longest = max(map(len, grammar.skills.values()))
    return [
        (skill, number, lines[number])
        for number in range(longest)
        for skill, lines in grammar.skills.items()
        if number < len(lines)
    ]


def _filled(grammar: Grammar, template: str, seed: str, known: Requests) -> str | None:
    draw = random.Random(seed)
    for _ in range(_TRIES):
        taken: dict[str, list[str]] = {}

        def value(slot: re.Match[str], taken: dict[str, list[str]] = taken) -> str:
            # A slot that stands twice gets two values.
            free = [one for one in grammar.slots[slot[1]] if one not in taken.get(slot[1], ())]
            taken.setdefault(slot[1], []).append(draw.choice(free or [*grammar.slots[slot[1]]]))
            return taken[slot[1]][-1]

        text = _SLOT.sub(value, template)
        if not known.has_like(text, _ALIKE):
            return text
    return None
