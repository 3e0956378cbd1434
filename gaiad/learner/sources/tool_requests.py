"""Requests for any tool, made by a grammar from its name, its description and parameters drawn from its schema.

A sentence frame goes around a phrase for the tool, values are attached as people say them (bare, quoted, numbers in
words), and something may stand before or after, with a typing error now and then. Frames go round all tools in turn,
so that none is used much more than another. Everything follows from the seed; catalogues are the caller's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gaiad.curriculum import Json
from gaiad.learner.sources.requests import Material, around, mistyped
from gaiad.learner.sources.schema_values import Drawn, Leaf, drawn_params
from gaiad.learner.sources.tool_frames import ENGLISH, Frame, Frames, Role
from gaiad.learner.sources.tool_prompt import Tool
from gaiad.learner.sources.tool_words import Wording, acting, content_words, deciding, wording_of

_FIRM = 0.95
_COSTS = {"implicit": 0.11, "several": 0.02, "hint": 0.06, "question": 0.01}
_FOREIGN_COST, _TYPO_COST, _MANY_COST = 0.04, 0.05, 0.02
_RIVAL_COST = 0.22
_LOWEST, _HIGHEST = 0.5, 0.97
_INLINE = 2
"""How many values are said inside the sentence; further ones get sentences of their own."""

_TOKEN = re.compile(r"\{v(\d+)\}")
_SLOT = re.compile(r"\{([a-zA-Z]+)\}")
_SMALL_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_ONES = tuple(_SMALL_NUMBERS.split())
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_YEAR = "January February March April May June July August September October November December"
_MONTHS = tuple(_YEAR.split(" "))
_BEFORE = r"(?= (?:in|from|of|to|at|on|with|for|by|and|or|into|as|under|inside)\b|$)"
"""What may follow a noun that takes a value after it: "a file name" is no file."""
_AND = {ENGLISH: "and", "de": "und", "fr": "et", "es": "y"}
_UNSAFE = re.compile(r"[\"',;:?!()\[\]{}\n]|\s{2}|^\s|\s$|^$|\.$|\. ")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for one tool. `confidence` is what the wording allows before any catalogue is looked at; `frame`
    is the sentence it was made from, `words` the words that carry its meaning.
    """

    tool: Tool
    frame: str
    text: str
    deciding: str
    params: Mapping[str, Json]
    confidence: float
    words: frozenset[str]


@dataclass(slots=True)
class _Saying:
    """What has been said so far of one request: `values` are filled in last, so that no typing error hits them.

    `crowded` are the roles of more than one value: these are said with their labels, or nobody could tell them apart.
    """

    draw: random.Random
    frames: Frames
    language: str
    values: list[str]
    crowded: frozenset[str]

    def token(self, text: str) -> str:
        self.values.append(text)
        return f"{{v{len(self.values) - 1}}}"

    def filled(self, pattern: str) -> str:
        return _TOKEN.sub(lambda found: self.values[int(found[1])], pattern)


def asked(tool: Tool, place: int, count: int, frames: Frames, material: Material, seed: int) -> Iterator[Asked]:
    """Ask for `tool` in `count` ways; `place` is its number among all tools, by which the frames go round.

    Raises:
        ValueError: where no valid parameters can be drawn for the tool.
    """
    wording = wording_of(tool, frames)
    usable = _usable_frames(frames, wording, seed)
    for turn in range(count):
        frame = usable[(place * 31 + turn) % len(usable)]
        draw = random.Random(f"{seed}/{tool.name}/{frame.name}/{turn}")
        drawn = drawn_params(tool.parameters, frames, draw, optional=0.0 if turn % 5 == 4 else 0.4)
        yield _asked(tool, wording, frame, drawn, frames, material, draw)


def _usable_frames(frames: Frames, wording: Wording, seed: int) -> list[Frame]:
    """The frames in one order for all tools, without those in a language that has no word for the tool."""
    order = sorted(frames.frames, key=lambda frame: random.Random(f"{seed}/frames/{frame.name}").random())
    return [frame for frame in order if frame.language == ENGLISH or _speaks(frame, frames, wording)]


def _speaks(frame: Frame, frames: Frames, wording: Wording) -> bool:
    """Whether a foreign frame has its words: either verb and noun, or else it must do with the tool's name."""
    known = bool(
        frames.verbs.get(wording.verb, {}).get(frame.language)
        and frames.nouns.get(wording.noun, {}).get(frame.language)
    )
    return known == ("verb" in frame.slots)


def _asked(
    tool: Tool, wording: Wording, frame: Frame, drawn: Drawn, frames: Frames, material: Material, draw: random.Random
) -> Asked:
    roles = [leaf.role.name for leaf in drawn.leaves]
    crowded = frozenset(name for name in roles if roles.count(name) > 1)
    saying = _Saying(draw, frames, frame.language, [], crowded)
    act = wording.acts[0] if draw.random() < 0.5 else draw.choice(wording.acts)
    confidence = _FIRM - _COSTS.get(frame.kind, 0) - (_MANY_COST if len(drawn.leaves) > _INLINE else 0)
    leaves = list(drawn.leaves)
    if frame.language == ENGLISH:
        if "title" not in frame.slots:
            act = _with_noun(act, leaves, saying)
        pattern, key, after = _english(frame, act, wording, leaves, saying)
        if draw.random() < 0.18:
            pattern, confidence = mistyped(pattern, draw), confidence - _TYPO_COST
    else:
        pattern, key, after = _foreign(frame, wording, leaves, saying)
        confidence -= _FOREIGN_COST
    text = saying.filled(pattern.replace("[", "").replace("]", ""))
    text = around(text, material, draw, foreign=frame.language != ENGLISH)
    text = _followed(text, [saying.filled(one) for one in after])
    words = content_words(_TOKEN.sub(" ", wording.title if "title" in frame.slots else act))
    return Asked(tool, frame.name, text, key, drawn.params, round(confidence, 2), words)


def doubt(one: Asked, catalogue: Sequence[Tool]) -> float:
    """How much confidence the request loses because other tools of the catalogue are described in the same words."""
    own = len(one.words & _about(one.tool))
    rivals = [len(one.words & _about(tool)) for tool in catalogue if tool.name != one.tool.name]
    return _RIVAL_COST * min(1.0, max(rivals, default=0) / own) if own else _RIVAL_COST / 2


def confidence_among(one: Asked, catalogue: Sequence[Tool]) -> float:
    """How sure the choice can be, 0.5 to 0.97 in steps of 0.01: the wording's certainty less the catalogue's doubt."""
    return round(min(_HIGHEST, max(_LOWEST, one.confidence - doubt(one, catalogue))), 2)


def _about(tool: Tool) -> frozenset[str]:
    return content_words(f"{tool.name} {tool.description}")


# --- Sentences --------------------------------------------------------------------------------------------------


def _english(
    frame: Frame, act: str, wording: Wording, leaves: Sequence[Leaf], saying: _Saying
) -> tuple[str, str, list[str]]:
    """The sentence with its deciding words in brackets, these words, and the sentences that follow it."""
    # Where more words follow, only what needs no comma is said inside.
    between = len(re.sub(r".*\{[a-zA-Z]+\}", "", frame.text)) > 1
    ways = [(leaf, _joins(leaf, saying, between=between)) for leaf in leaves]
    inside = [(leaf, joins) for leaf, joins in ways if joins][: 1 if between else _INLINE]
    within = "".join(_attached(leaf, saying, joins) for leaf, joins in inside)
    after = [_sentence(leaf, saying) for leaf in leaves if all(leaf is not said for said, _ in inside)]
    slot = next(iter(frame.slots))
    phrase = {"act": act, "acting": acting(act), "title": wording.title}[slot]
    # The first value ends the deciding words: they are the tool's, not the request's.
    key = deciding(_TOKEN.split(phrase)[0].strip() or wording.title)
    marked = phrase.replace(key, f"[{key}]", 1) + within

    def fill(found: re.Match[str]) -> str:
        return marked if found[1].islower() else _capital(marked)

    return re.sub(r"\{(act|acting|title)\}", fill, frame.text, flags=re.I), key, after


def _capital(marked: str) -> str:
    """With a capital first letter, be it behind the mark of deciding words."""
    at = 1 if marked.startswith("[") else 0
    return marked[:at] + marked[at : at + 1].upper() + marked[at + 1 :]


def _foreign(frame: Frame, wording: Wording, leaves: list[Leaf], saying: _Saying) -> tuple[str, str, list[str]]:
    verb = saying.frames.verbs.get(wording.verb, {}).get(frame.language, "")
    noun = saying.frames.nouns.get(wording.noun, {}).get(frame.language, "")
    places = [at for at, leaf in enumerate(leaves) if wording.noun in leaf.role.nouns and not leaf.role.instead]
    place = places[0] if len(places) == 1 else -1
    named = f" {saying.token(_said(leaves.pop(place), saying))}" if place >= 0 and "noun" in frame.slots else ""
    said = named + "".join(_attached(leaf, saying, _joins(leaf, saying)) for leaf in leaves[:_INLINE])
    after = [_sentence(leaf, saying) for leaf in leaves[_INLINE:]]
    words = {"verb": verb, "noun": noun, "title": wording.title, "said": said}
    key = wording.title
    if "verb" in frame.slots:
        key = f"{verb} {noun}" if "{verb} {noun}" in frame.text else noun if said else f"{noun} {verb}"

    def fill(found: re.Match[str]) -> str:
        slot = found[1]
        text = words[slot.lower()]
        return text if slot.islower() else _capital(text)

    return re.sub(r"\{(verb|noun|title|said)\}", fill, frame.text, flags=re.I), key, after


def _with_noun(act: str, leaves: list[Leaf], saying: _Saying) -> str:
    """Put the value of a leaf where the phrase has a word for it: "read a file" -> "read the file notes.txt"."""
    for at, leaf in enumerate(leaves):
        nouns = "|".join(map(re.escape, leaf.role.nouns)) if leaf.role.name not in saying.crowded else ""
        found = re.search(rf"\b(?:a|an|the|one|my) ((?:[a-z]+ )?(?:{nouns}))\b{_BEFORE}", act) if nouns else None
        if found is None or saying.draw.random() < 0.25 or not isinstance(leaf.value, str):
            continue
        del leaves[at]
        token = saying.token(_said(leaf, saying))
        inserted = token if leaf.role.instead else f"the {found[1]} {token}"
        return act[: found.start()] + inserted + act[found.end() :]
    return act


def _joins(leaf: Leaf, saying: _Saying, *, between: bool = False) -> tuple[str, ...]:
    """The ways to attach a value to the words before it; `between` wants one that lets the sentence go on."""
    role = _role_spoken(leaf, saying.frames)
    joins = role.joins.get(saying.language, ())
    naming = tuple(join for join in joins if "{label}" in join)
    if not joins or role.name in saying.crowded or (len(leaf.label) > 1 and naming and saying.draw.random() < 0.6):
        joins = naming or saying.frames.plain.joins[saying.language]
    return tuple(join for join in joins if join[0] == " " and ":" not in join) if between else joins


def _sentence(leaf: Leaf, saying: _Saying) -> str:
    """A value in a sentence of its own."""
    name = "sentence"
    if isinstance(leaf.value, bool):
        name = "true_sentence" if leaf.value else "false_sentence"
    return _attached(leaf, saying, saying.frames.role_named(name).joins[saying.language])


def _attached(leaf: Leaf, saying: _Saying, joins: Sequence[str]) -> str:
    label = " ".join(leaf.label) or "value"
    rest = " ".join(word for word in leaf.label if word not in leaf.role.names) or leaf.role.rest
    words = {"label": label, "Label": label.capitalize(), "rest": rest, "last": leaf.label[-1] if leaf.label else label}
    join = _SLOT.sub(lambda found: words.get(found[1], found[0]), saying.draw.choice(joins))
    return join.replace("{v}", saying.token(_said(leaf, saying)))


def _role_spoken(leaf: Leaf, frames: Frames) -> Role:
    """The role whose joins fit the value: those of numbers have no texts of their own, and the other way round."""
    if isinstance(leaf.value, bool):
        return frames.role_named("true" if leaf.value else "false")
    first = leaf.value[0] if isinstance(leaf.value, list) and leaf.value else leaf.value
    if isinstance(first, str) == bool(leaf.role.values) and leaf.role is not frames.plain:
        return leaf.role
    # "fourteen nights" rather than "nights fourteen".
    several = isinstance(first, int | float) and leaf.label and leaf.label[-1].endswith("s") and first != 1
    return frames.role_named("several") if several else frames.plain


def _followed(text: str, sentences: Sequence[str]) -> str:
    for sentence in sentences:
        text = f"{text if text.endswith(('.', '?', '!')) else f'{text}.'} {sentence}"
    return text


# --- Values -----------------------------------------------------------------------------------------------------


def _said(leaf: Leaf, saying: _Saying) -> str:
    return said_value(leaf.value, leaf.role, saying.draw, saying.language)


def said_value(value: Json, role: Role, draw: random.Random, language: str) -> str:
    """A value as a person would say it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if language == ENGLISH and 0 <= value < 100 and draw.random() < 0.4:
            return in_words(value)
        case int() | float():
            return str(value)
        case list():
            *front, last = [said_value(one, role, draw, language) for one in value] or [""]
            return f"{', '.join(front)} {_AND[language]} {last}" if front else last
        case str():
            return _said_text(value, role, draw, language)
        case _:
            return "nothing"


def _said_text(value: str, role: Role, draw: random.Random, language: str) -> str:
    if role.name == "command":
        return f"`{value}`"
    if role.name == "date" and language == ENGLISH and draw.random() < 0.5:
        year, month, day = (
            (int(part) for part in value.split("-")) if re.fullmatch(r"\d{4}-\d\d-\d\d", value) else (0, 0, 0)
        )
        if year:
            return f"{day} {_MONTHS[month - 1]} {year}"
    unsafe = bool(_UNSAFE.search(value)) and "/" not in value
    if unsafe or draw.random() < (0.45 if role.name == "text" else 0.15):
        return f'"{value}"' if '"' not in value else f"“{value}”"
    return value


def in_words(number: int) -> str:
    """0..99 in English words."""
    if number < len(_ONES):
        return _ONES[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_ONES[one]}" if one else "")
