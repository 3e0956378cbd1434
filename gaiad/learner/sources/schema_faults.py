"""What is wrong with a tool's parameter schema: the contradictions that leave no value, or none that can be said.

Takes schemas of any origin and looks at them only, within bounds: no reference is followed outside, no pattern is
matched, and a schema that refers to itself is found before anything unfolds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import jsonschema

from gaiad.curriculum import Json
from gaiad.learner.sources.schema_patterns import pattern_fault

MOST_PARTS = 2000
"""Schemas with more parts than this are not a tool's parameters."""
MOST_ITEMS, MOST_CHARACTERS, MOST_PROPERTIES = 6, 200, 24
"""What still can be said in a request: items that must be named, characters of one value, required parameters."""

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
_BOUNDS = (
    ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
    ("minimum", "exclusiveMaximum"),
    ("exclusiveMinimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)
_LEAST = (("minItems", MOST_ITEMS), ("minLength", MOST_CHARACTERS), ("minProperties", MOST_PROPERTIES))
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def schema_fault(schema: Json) -> str | None:
    """Say why no parameters can be drawn from `schema`, naming the place; None where nothing speaks against it."""
    if not isinstance(schema, dict):
        return "the parameters are no JSON Schema object"
    try:
        if sum(1 for _ in _parts(schema, "")) > MOST_PARTS:
            return f"the schema has more than {MOST_PARTS} parts"
        jsonschema.Draft202012Validator.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as error:
        return f"not a JSON Schema: {getattr(error, 'message', 'nested too deeply')}"
    if schema and not _is_object(schema):
        return "the parameters' schema is not that of an object"
    looping = recursion(schema)
    if looping:
        return looping
    return next(
        (f"{place or 'the schema'}: {fault}" for place, part in _parts(schema, "") for fault in _faults(part)), None
    )


def resolved(schema: Mapping[str, Json], root: Mapping[str, Json]) -> Mapping[str, Json]:
    """The schema with its own `$ref` followed (and merged over what stands beside it), as often as needed.

    Raises:
        ValueError: where a reference leads outside, nowhere or in a circle.
    """
    seen: set[str] = set()
    while "$ref" in schema:
        reference = str(schema["$ref"])
        if reference in seen:
            raise ValueError(f"the reference {reference} leads in a circle")
        seen.add(reference)
        schema = {**_target(reference, root), **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _target(reference: str, root: Mapping[str, Json]) -> Mapping[str, Json]:
    if not reference.startswith("#"):
        raise ValueError(f"the reference {reference} leads outside the schema")
    found: Json = dict(root)
    for step in reference.removeprefix("#").removeprefix("/").split("/") if reference != "#" else ():
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"the reference {reference} leads nowhere")
    return found


def recursion(root: Mapping[str, Json]) -> str | None:
    """Name a reference by which the schema comes to contain itself, or that leads outside or nowhere."""
    done: set[str] = set()
    try:
        return _looping(dict(root), root, (), done)
    except ValueError as error:
        return str(error)


def _looping(part: Json, root: Mapping[str, Json], path: tuple[str, ...], done: set[str]) -> str | None:
    for _, inner in _parts(part, "", into_definitions=False):
        if "$dynamicRef" in inner or "$recursiveRef" in inner:
            return "a dynamic reference is not followed"
        reference = inner.get("$ref")
        if not isinstance(reference, str) or reference in done:
            continue
        if reference in path:
            return f"the schema is recursive: {' -> '.join([*path, reference])}"
        found = _looping(dict(_target(reference, root)), root, (*path, reference), done)
        if found:
            return found
        done.add(reference)
    return None


def _parts(schema: Json, place: str, *, into_definitions: bool = True) -> Iterator[tuple[str, dict[str, Json]]]:
    """Every schema in the schema, itself first, each with its place."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key in _MAPS:
        inner = schema.get(key)
        if isinstance(inner, dict) and (into_definitions or key not in ("$defs", "definitions")):
            for name, part in inner.items():
                yield from _parts(part, _at(place, name), into_definitions=into_definitions)
    for key in _LISTS:
        inner = schema.get(key)
        for number, part in enumerate(inner if isinstance(inner, list) else []):
            yield from _parts(part, _at(place, f"{key}[{number}]"), into_definitions=into_definitions)
    for key in _SINGLE:
        yield from _parts(schema.get(key), _at(place, key), into_definitions=into_definitions)


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _is_object(schema: Mapping[str, Json]) -> bool:
    kinds = types_of(schema)
    return "object" in kinds or (not kinds and any(key in schema for key in ("properties", "$ref", *_LISTS)))


def types_of(schema: Mapping[str, Json]) -> tuple[str, ...]:
    """The type or types that the schema names; none where it names none."""
    kinds = schema.get("type")
    return tuple(cast("list[str]", kinds)) if isinstance(kinds, list) else (kinds,) if isinstance(kinds, str) else ()


def _faults(schema: Mapping[str, Json]) -> Iterator[str]:
    kinds = types_of(schema)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        if not values:
            yield "enum names no value"
        strange = [value for value in values if kinds and not any(_is_a(value, kind) for kind in kinds)]
        if strange:
            yield f"the value {_short(strange[0])} is not of type {' or '.join(kinds)}"
    for low, high in _BOUNDS:
        least, most = schema.get(low), schema.get(high)
        if isinstance(least, int | float) and isinstance(most, int | float):
            touching = least == most and "exclusive" in low + high
            if least > most or touching:
                yield f"{low} {least} and {high} {most} leave no value"
    for key, limit in _LEAST:
        least = schema.get(key)
        if isinstance(least, int | float) and least > limit:
            yield f"{key} {least} is more than a request can say ({limit})"
    yield from _property_faults(schema)
    for pattern in [schema.get("pattern"), *cast("dict[str, Json]", schema.get("patternProperties", {}))]:
        fault = pattern_fault(pattern) if isinstance(pattern, str) else None
        if fault:
            yield fault


def _property_faults(schema: Mapping[str, Json]) -> Iterator[str]:
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict):
        return
    strange = [name for name in cast("list[str]", required) if name not in properties]
    if strange:
        yield f"required names {', '.join(strange[:5])}, which is not among the properties"
    never = [name for name in cast("list[str]", required) if properties.get(name) is False]
    if never:
        yield f"{never[0]} is required and can have no value"
    if len(required) > MOST_PROPERTIES:
        yield f"{len(required)} required parameters are more than a request can say ({MOST_PROPERTIES})"


def _is_a(value: Json, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("number", "integer"):
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, object))


def _short(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def names_some_keyword(schema: Mapping[str, Json]) -> bool:
    """Whether an object looks like a JSON Schema at all: it is empty or has one of the keywords."""
    known: Sequence[str] = (
        "type",
        "properties",
        "required",
        "$ref",
        "additionalProperties",
        "$schema",
        "enum",
        *_LISTS,
    )
    return not schema or any(_is_keyword(key, schema[key]) for key in known if key in schema)


def _is_keyword(key: str, value: Json) -> bool:
    """A parameter may be called `type` or `items`: then its own schema stands there, an object."""
    return not isinstance(value, dict) if key in ("type", "required", "$ref", "$schema", "enum") else True
