"""The wording from which requests for any tool are made: sentence frames, joins for values, verbs, nouns, values.

Read from the curriculum's `frames.json`. A frame has `{act}` ("read the file"), `{acting}` ("reading the file"),
`{title}` ("read file") or, in another language, `{verb}`, `{noun}` and `{said}`; with a capital letter where a sentence
begins. Decides nothing about tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError

ENGLISH = "en"
LANGUAGES = (ENGLISH, "de", "fr", "es")
_SLOTS = frozenset({"act", "acting", "title", "verb", "noun", "said"})
_SLOT = re.compile(r"\{([a-zA-Z]+)\}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One sentence or more around what is wanted; `kind` says how openly it is asked for."""

    name: str
    language: str
    kind: str
    text: str

    @property
    def slots(self) -> frozenset[str]:
        """The slots it has, in small letters."""
        return frozenset(slot.lower() for slot in _SLOT.findall(self.text))


@dataclass(frozen=True, slots=True)
class Role:
    """What a parameter is, as far as talking about it goes.

    `names` are the parameter words that show it, `values` what its texts may be, `joins` by language how a value is
    attached ("{v}" the value, "{label}" the parameter's words); `nouns` take the value after them ("the file {v}"), or
    give way to it where `instead` is set ("for a city" -> "for Oslo"). `rest` stands for "{rest}" where no other word
    of the parameter's name is left for it.
    """

    name: str
    names: frozenset[str]
    values: tuple[str, ...]
    joins: Mapping[str, tuple[str, ...]]
    nouns: tuple[str, ...] = ()
    instead: bool = False
    rest: str = ""


@dataclass(frozen=True)
class Frames:
    """All of `frames.json`. `verbs` and `nouns` give each word's German, French and Spanish, "" where unknown."""

    frames: tuple[Frame, ...]
    roles: tuple[Role, ...]
    verbs: Mapping[str, Mapping[str, str]]
    alike: Mapping[str, tuple[str, ...]]
    nouns: Mapping[str, Mapping[str, str]]
    contexts: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    reasons: tuple[str, ...]
    fetching: tuple[str, ...]

    @cached_property
    def plain(self) -> Role:
        """The role of a parameter that shows none."""
        return next(role for role in self.roles if role.name == "plain")

    def role_named(self, name: str) -> Role:
        """The role of this name, else the plain one."""
        return next((role for role in self.roles if role.name == name), self.plain)

    def role_of(self, words: Sequence[str]) -> Role:
        """The role that a parameter's words show: the last one that shows any."""
        for word in reversed(words):
            for role in self.roles:
                if word in role.names:
                    return role
        return self.plain


def parse_frames(text: str) -> Frames:
    """Read `frames.json`.

    Raises:
        CurriculumError: naming what is missing or every frame that cannot be used.
    """
    try:
        raw = json.loads(text)
        frames = tuple(
            Frame(f"{language}.{kind}{number:02d}", language, kind, str(words))
            for language, kinds in raw["frames"].items()
            for kind, texts in kinds.items()
            for number, words in enumerate(texts)
        )
        roles = tuple(_role(name, given) for name, given in raw["roles"].items())
        verbs = {word: _translated(given[1:]) for word, given in raw["verbs"].items()}
        alike = {word: tuple(filter(None, given[0].split("|"))) for word, given in raw["verbs"].items()}
        nouns = {word: _translated(given) for word, given in raw["nouns"].items()}
        lists = [_texts(raw[key]) for key in ("contexts", "openers", "closers", "reasons", "fetching")]
        found = Frames(frames, roles, verbs, alike, nouns, *lists)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurriculumError(f"frames.json cannot be read: {error!r}", hint="mend the place it names") from error
    problems = [f"{frame.name} {frame.text!r}" for frame in frames if not frame.slots or frame.slots - _SLOTS]
    problems += [f"frames in {language}" for language in LANGUAGES if not any(f.language == language for f in frames)]
    problems += [] if any(role.name == "plain" for role in roles) else ["a role called plain"]
    if problems:
        raise CurriculumError(
            f"frames.json: {'; '.join(problems)}", hint=f"a frame needs slots of {', '.join(sorted(_SLOTS))}"
        )
    return found


def _role(name: str, given: Mapping[str, Json]) -> Role:
    joins = cast("dict[str, list[str]]", given.get("joins", {}))
    return Role(
        name,
        frozenset(str(given.get("names", "")).split()),
        _texts(given.get("values", [])),
        {language: _texts(texts) for language, texts in joins.items()},
        tuple(str(given.get("nouns", "")).split()),
        bool(given.get("instead", False)),
        str(given.get("rest", "")),
    )


def _translated(given: Sequence[str]) -> dict[str, str]:
    return dict(zip(LANGUAGES[1:], [*given, "", "", ""], strict=False))


def _texts(given: object) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise TypeError(f"{given!r} is no list of texts")
    return tuple(str(one) for one in given)
