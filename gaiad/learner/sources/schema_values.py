"""Parameters drawn from a tool's own JSON Schema, each value one that a person could say.

Every draw is validated against the whole schema before it is given out; what the drawing does not understand (`not`,
`if`, `contains`) is left to that check and to drawing again. Everything follows from the given `random.Random`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import jsonschema

from gaiad.curriculum import Json
from gaiad.learner.sources.schema_faults import MOST_CHARACTERS, MOST_ITEMS, resolved, types_of
from gaiad.learner.sources.schema_patterns import matching
from gaiad.learner.sources.tool_frames import Frames, Role

_TRIES = 24
_DEEPEST = 6
_MOST_OPTIONAL = 2
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_JOIN = re.compile(r"[_\W]+|(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value that a request must say: the words that name it, and what it is."""

    label: tuple[str, ...]
    value: Json
    role: Role


@dataclass(frozen=True, slots=True)
class Drawn:
    """Parameters that satisfy the schema, and the values among them that do not follow from the schema alone."""

    params: dict[str, Json]
    leaves: tuple[Leaf, ...]


@dataclass(slots=True)
class _Drawing:
    """One try: the schema's root, the wording, the chance, how readily optional parameters are taken.

    `branched` is set once one of several shapes was chosen: from then on a constant does not go without saying.
    """

    root: Mapping[str, Json]
    frames: Frames
    draw: random.Random
    optional: float
    leaves: list[Leaf] = field(default_factory=list)
    branched: bool = False


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in snake, kebab, dotted or camel case, in small letters."""
    return tuple(word.lower() for word in _JOIN.split(name) if word)


def validator_of(schema: Mapping[str, Json]) -> jsonschema.Draft202012Validator:
    """What checks parameters against their tool's schema, formats included."""
    return jsonschema.Draft202012Validator(dict(schema), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


def drawn_params(schema: Mapping[str, Json], frames: Frames, draw: random.Random, *, optional: float = 0.4) -> Drawn:
    """Draw parameters; `optional` is the chance of each parameter that is not required (two at most).

    Raises:
        ValueError: where no valid value was found.
    """
    if not schema:
        return Drawn({}, ())
    validator, problem = validator_of(schema), "no value was found that satisfies the schema"
    for number in range(_TRIES):
        # Later tries take more of what is optional: some schemas need it although `required` does not say so.
        drawing = _Drawing(schema, frames, draw, optional if number < _TRIES // 3 else number / _TRIES)
        try:
            value = _value(drawing, dict(schema), ())
        except ValueError as error:
            problem = str(error)
            continue
        if isinstance(value, dict) and validator.is_valid(value):
            return Drawn(value, tuple(drawing.leaves))
    raise ValueError(problem)


def _value(drawing: _Drawing, given: Json, label: tuple[str, ...]) -> Json:
    if given is False:
        raise ValueError(f"{' '.join(label) or 'the schema'} can have no value")
    if len(label) > _DEEPEST * 3:
        raise ValueError("the parameters are nested too deeply")
    schema = _unfolded(drawing, given if isinstance(given, dict) else {})
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    kind = _kind(drawing, schema)
    if isinstance(choices, list):
        chosen = drawing.draw.choice([one for one in choices if one is not None] or choices)
        return chosen if len(choices) == 1 and not drawing.branched else _told(drawing, chosen, label, schema)
    match kind:
        case "object":
            return _object(drawing, schema, label)
        case "array":
            return _array(drawing, schema, label)
        case "boolean":
            return _told(drawing, drawing.draw.random() < 0.6, label, schema)
        case "null":
            return None
        case "integer" | "number":
            return _told(drawing, _number(drawing, schema, whole=kind == "integer"), label, schema)
        case _:
            return _told(drawing, _text(drawing, schema, label), label, schema)


def _told(drawing: _Drawing, value: Json, label: tuple[str, ...], schema: Mapping[str, Json]) -> Json:
    drawing.leaves.append(Leaf(label, value, role_of(drawing.frames, label, schema)))
    return value


def role_of(frames: Frames, label: Sequence[str], schema: Mapping[str, Json]) -> Role:
    """The role of a parameter by its words, else by its format."""
    named = frames.role_of(label)
    return frames.role_named(str(schema.get("format", "plain"))) if named is frames.plain else named


def _unfolded(drawing: _Drawing, schema: Mapping[str, Json]) -> Mapping[str, Json]:
    """The schema with references followed, `allOf` joined, and one branch of `anyOf` and `oneOf` chosen."""
    for _ in range(_DEEPEST):
        schema = resolved(schema, drawing.root)
        branches = [key for key in ("allOf", "anyOf", "oneOf") if isinstance(schema.get(key), list)]
        if not branches:
            return schema
        for key in branches:
            parts = cast("list[Json]", schema[key])
            schema = {name: value for name, value in schema.items() if name != key}
            options = [one for one in parts if not isinstance(one, dict) or one.get("type") != "null"] or parts
            drawing.branched |= key != "allOf" and len(options) > 1
            for part in parts if key == "allOf" else [drawing.draw.choice(options)]:
                if part is False:
                    raise ValueError(f"{key} can have no value")
                schema = _both(schema, resolved(part, drawing.root) if isinstance(part, dict) else {})
    raise ValueError("the alternatives are nested too deeply")


def _both(first: Mapping[str, Json], second: Mapping[str, Json]) -> Mapping[str, Json]:
    """A schema that asks for what both ask for, as far as plain keywords go."""
    joined: dict[str, Json] = {**first, **second}
    for key in first.keys() & second.keys():
        one, other = first[key], second[key]
        if isinstance(one, dict) and isinstance(other, dict):
            joined[key] = {**one, **other}
        elif key == "required" and isinstance(one, list) and isinstance(other, list):
            joined[key] = [*one, *(name for name in other if name not in one)]
        elif key == "enum" and isinstance(one, list) and isinstance(other, list):
            joined[key] = [value for value in one if value in other]
            if not joined[key]:
                raise ValueError("two lists of values share none")
        elif isinstance(one, int | float) and isinstance(other, int | float):
            joined[key] = max(one, other) if key.lower().startswith(("min", "exclusivemin")) else min(one, other)
    return joined


def _kind(drawing: _Drawing, schema: Mapping[str, Json]) -> str:
    kinds = [kind for kind in types_of(schema) if kind != "null"] or list(types_of(schema))
    if kinds:
        return drawing.draw.choice(kinds)
    signs = (("object", "properties required additionalProperties minProperties"), ("array", "items prefixItems"))
    numeric = "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"
    return next((kind for kind, keys in (*signs, ("number", numeric)) if set(keys.split()) & schema.keys()), "string")


# --- Objects and lists ------------------------------------------------------------------------------------------


def _object(drawing: _Drawing, schema: Mapping[str, Json], label: tuple[str, ...]) -> dict[str, Json]:
    properties = cast("dict[str, Json]", schema.get("properties", {}))
    required = list(cast("list[str]", schema.get("required", [])))
    others = [name for name in properties if name not in required and properties[name] is not False]
    taken = [name for name in others if drawing.draw.random() < drawing.optional and not _settled(properties[name])]
    taken = drawing.draw.sample(taken, min(len(taken), _MOST_OPTIONAL))
    least = int(cast(float, schema.get("minProperties", 0)))
    taken += [name for name in others if name not in taken][: max(0, least - len(required) - len(taken))]
    most = int(cast(float, schema.get("maxProperties", len(required) + len(taken))))
    wanted = {*required, *taken[: max(0, most - len(required))]}
    names = [*[name for name in properties if name in wanted], *[name for name in required if name not in properties]]
    value = {name: _value(drawing, properties.get(name, {}), _under(label, name)) for name in names}
    for name in taken:
        if value.get(name) in ({}, []):
            # Nobody asks for an empty thing that may as well be left out.
            del value[name]
    extra = schema.get("additionalProperties", True)
    for number in range(least - len(value)):
        if extra is False or number >= len(_ORDINALS):
            raise ValueError("too few properties can be drawn")
        value[_ORDINALS[number]] = _value(drawing, extra, (*label, _ORDINALS[number]))
    return value


def _settled(schema: Json) -> bool:
    """Whether a parameter can have one value only: whether it is wanted then cannot be said."""
    return isinstance(schema, dict) and ("const" in schema or len(cast("list[Json]", schema.get("enum", [0, 0]))) == 1)


def _under(label: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The label of a property: its own words, after its parent's last one where there is a parent."""
    return (*label[-2:], *words_of(name)) or (name,)


def _array(drawing: _Drawing, schema: Mapping[str, Json], label: tuple[str, ...]) -> list[Json]:
    front = cast("list[Json]", schema.get("prefixItems", []))
    low = int(cast(float, schema.get("minItems", min(1, int(cast(float, schema.get("maxItems", 1)))))))
    high = int(min(cast(float, schema.get("maxItems", 3)), MOST_ITEMS))
    count = max(low, drawing.draw.randint(low, max(low, min(high, low + 2))), min(len(front), high))
    rest = schema.get("items", {})
    items: list[Json] = []
    before = len(drawing.leaves)
    for number in range(count):
        part = front[number] if number < len(front) else rest
        if part is False:
            break
        items.append(_another(drawing, part, (*label, _ORDINALS[number]), items if schema.get("uniqueItems") else []))
    if all(not isinstance(item, dict | list) for item in items):
        # A list of plain values is said in one breath.
        del drawing.leaves[before:]
        if items:
            drawing.leaves.append(
                Leaf(label, [*items], role_of(drawing.frames, label, rest if isinstance(rest, dict) else {}))
            )
    return items


def _another(drawing: _Drawing, schema: Json, label: tuple[str, ...], taken: Sequence[Json]) -> Json:
    """An item that is not among those `taken`."""
    for _ in range(_TRIES):
        before = len(drawing.leaves)
        item = _value(drawing, schema, label)
        if item not in taken:
            return item
        del drawing.leaves[before:]
    raise ValueError(f"{' '.join(label)} has too few different values")


# --- Numbers and texts ------------------------------------------------------------------------------------------


def _number(drawing: _Drawing, schema: Mapping[str, Json], *, whole: bool) -> int | float:
    low, high = _bounds(schema, whole=whole)
    step = cast("float | None", schema.get("multipleOf"))
    if step is not None:
        first, last = math.ceil(low / step), math.floor(high / step)
        if first > last:
            raise ValueError(f"no multiple of {step} lies between {low} and {high}")
        found = step * drawing.draw.randint(first, min(last, first + 50))
        return int(found) if whole or float(found).is_integer() else round(found, 6)
    if whole:
        if math.ceil(low) > math.floor(high):
            raise ValueError(f"no whole number lies between {low} and {high}")
        return _rounded(drawing.draw.randint(math.ceil(low), math.floor(high)), math.ceil(low))
    found = low + (high - low) * drawing.draw.randint(1, 19) / 20
    found = round(found, 0 if high - low > 40 else 1 if high - low > 4 else 3)
    return int(found) if found.is_integer() else found


def _bounds(schema: Mapping[str, Json], *, whole: bool) -> tuple[float, float]:
    """The least and the most; where one is missing, within reach of the other and of what people say."""

    def limits(plain: str, exclusive: str) -> list[float]:
        shift = (1 if plain == "minimum" else -1) if whole else 0
        given = [cast("float | None", schema.get(plain)), cast("float | None", schema.get(exclusive))]
        return [limit + (shift if at else 0) for at, limit in enumerate(given) if limit is not None]

    lows, highs = limits("minimum", "exclusiveMinimum"), limits("maximum", "exclusiveMaximum")
    low = max(lows) if lows else min(1.0, *(high - 1 for high in highs)) if highs else 1.0
    high = min(highs) if highs else low + 59
    return low, high


def _rounded(number: int, low: int) -> int:
    """A rounder number where it is large, as people say them."""
    step = 50 if number > 500 else 5 if number > 60 else 1
    return max(low, number // step * step)


_HEX = "0123456789abcdef"


def _pick(draw: random.Random, chars: str, count: int) -> str:
    return "".join(draw.choice(chars) for _ in range(count))


def _date(draw: random.Random) -> str:
    return f"{draw.randint(2024, 2027)}-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"


def _clock(draw: random.Random) -> str:
    return f"{draw.randint(6, 22):02d}:{draw.choice(('00', '15', '30', '45'))}:00"


def _uuid(draw: random.Random) -> str:
    groups = (8, 4, 3, 3, 12)
    a, b, c, d, e = (_pick(draw, _HEX, count) for count in groups)
    return f"{a}-{b}-4{c}-{draw.choice('89ab')}{d}-{e}"


_NAMES = ("anna", "tom", "mira", "jonas", "lena", "samir", "office", "paul", "hello", "ines")
_HOSTS = ("example.org", "example.com", "example.net", "mail.example.org", "shop.example.com", "wiki.example.net")
_FORMATS: Mapping[str, Callable[[random.Random], str]] = {
    "date": _date,
    "time": lambda draw: f"{_clock(draw)}Z",
    "date-time": lambda draw: f"{_date(draw)}T{_clock(draw)}Z",
    "duration": lambda draw: f"PT{draw.randint(5, 55)}M",
    "email": lambda draw: f"{draw.choice(_NAMES)}@{draw.choice(_HOSTS)}",
    "hostname": lambda draw: draw.choice(_HOSTS),
    "ipv4": lambda draw: f"10.{draw.randint(0, 9)}.{draw.randint(0, 99)}.{draw.randint(2, 250)}",
    "ipv6": lambda draw: f"fd00::{_pick(draw, _HEX[1:], 3)}:{_pick(draw, _HEX[1:], 3)}",
    "uuid": _uuid,
    "uri": lambda draw: f"https://{draw.choice(_HOSTS)}/{draw.choice(('news', 'menu', 'docs', 'prices', 'about'))}",
    "uri-reference": lambda draw: f"/{draw.choice(('news', 'menu', 'docs', 'prices', 'about'))}",
    "json-pointer": lambda draw: f"/{draw.choice(('title', 'name', 'items/0', 'owner'))}",
    "regex": lambda draw: draw.choice(("^draft", "error$", "[0-9]+", "todo")),
}
_ALIASES = {"url": "uri", "idn-email": "email", "iri": "uri", "datetime": "date-time", "ip": "ipv4"}


def _text(drawing: _Drawing, schema: Mapping[str, Json], label: tuple[str, ...]) -> str:
    """A text by pattern, format, examples or what the parameter's words mean, of a length that fits."""
    low = int(cast(float, schema.get("minLength", 0)))
    high = int(cast(float, schema.get("maxLength", MOST_CHARACTERS)))
    if "pattern" in schema:
        return matching(str(schema["pattern"]), drawing.draw)
    shape = str(schema.get("format", ""))
    made = _FORMATS.get(_ALIASES.get(shape, shape))
    if made is not None:
        return made(drawing.draw)
    examples = [one for one in cast("list[Json]", schema.get("examples", [])) if isinstance(one, str)]
    pools = [examples, drawing.frames.role_of(label).values, drawing.frames.plain.values]
    for pool in pools:
        fitting = [value for value in pool if low <= len(value) <= high]
        if fitting:
            return drawing.draw.choice(fitting)
    return _of_length(drawing, low, high)


def _of_length(drawing: _Drawing, low: int, high: int) -> str:
    """A text of an unusual length: words joined, or a few letters where no word is short enough."""
    text = drawing.draw.choice(drawing.frames.plain.values)
    while len(text) < low:
        text += f" and {drawing.draw.choice(drawing.frames.plain.values)}"
    text = text[:high].rstrip()
    return text + _pick(drawing.draw, _HEX, max(0, min(low, high) - len(text)))
