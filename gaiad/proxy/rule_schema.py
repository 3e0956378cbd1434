"""The published JSON schema of a stage rules file, and what is wrong with a file by it.

Published as `stage_rules.schema.json` beside the shipped rules. Every problem names its rule and key. What the schema
cannot say, how the parts of one rule must agree, is checked where the rules are built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

import jsonschema

from gaiad.curriculum import Json
from gaiad.proxy.passages import Place, Where

_TEXT: dict[str, Json] = {"type": "string", "minLength": 1, "maxLength": 2000}
_NAME: dict[str, Json] = {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"}
_FIELD: dict[str, Json] = {"type": "string", "minLength": 1, "maxLength": 100}
_WEIGHT: dict[str, Json] = {
    "description": "what the feature counts; below 0 it speaks against the rule",
    "type": "number",
    "minimum": -100,
    "maximum": 100,
    "not": {"const": 0},
}

_PHRASE: dict[str, Json] = {
    "phrase": _TEXT,
    "in": {"enum": [*get_args(Where)]},
    "place": {"enum": [*get_args(Place)]},
    "weight": _WEIGHT,
}


def _object(required: str, description: str, **properties: Json) -> dict[str, Json]:
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "required": [*required.split()],
        "properties": dict(properties),
    }


def _texts(items: dict[str, Json], least: int) -> dict[str, Json]:
    return {"type": "array", "items": items, "minItems": least, "uniqueItems": True}


FEATURES: Mapping[str, dict[str, Json]] = {
    "phrase": _object(
        "phrase in place weight",
        "a phrase, letter by letter, where it is an instruction: at the start of the text, of a line, of a sentence, "
        "anywhere but in a quotation, or in the last line; never in a fence",
        **_PHRASE,
    ),
    "schema": _object(
        "schema weight",
        "a JSON schema for the reply (guided_json, structured_outputs.json, response_format) of exactly these "
        "properties",
        schema=_texts(_FIELD, 1),
        weight=_WEIGHT,
    ),
    "field": {
        **_object(
            "field weight",
            "weak: a top-level value that is there or not, equal, within a distance of a number, or not above one",
            field=_FIELD,
            present={"type": "boolean"},
            equals={"type": ["string", "boolean"]},
            near={"type": "number"},
            within={"type": "number", "minimum": 0},
            at_most={"type": "number"},
            weight=_WEIGHT,
        ),
        "dependentRequired": {"near": ["within"], "within": ["near"]},
        "oneOf": [
            {"required": ["present"]},
            {"required": ["equals"]},
            {"required": ["near"]},
            {"required": ["at_most"]},
        ],
    },
    "messages_at_most": _object(
        "messages_at_most weight",
        "weak: no more messages than this",
        messages_at_most={"type": "integer", "minimum": 1},
        weight=_WEIGHT,
    ),
}
"""Each kind of feature, by the key that only it has."""

_KINDS = cast("Json", list(FEATURES.values()))
_FEATURE_LIST: dict[str, Json] = {"type": "array", "items": {"oneOf": _KINDS}, "minItems": 1}

SCHEMA: Mapping[str, Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "gaiad stage rules",
    **_object(
        "rules",
        "How a request's stage is known where nobody names it. The rule with the highest score wins; below its "
        "threshold, or level with a rule of another stage, there is none.",
        **{"$schema": _TEXT},
        documents=_object(
            "opened_by closed_by share",
            "lines that open and close a document inside a text, and what a phrase in there still counts",
            opened_by=_texts(_TEXT, 0),
            closed_by=_texts(_TEXT, 0),
            share={"type": "number", "minimum": 0, "maximum": 1},
        ),
        shared={
            "description": "lists of features that rules take in by name",
            "type": "object",
            "propertyNames": _NAME,
            "additionalProperties": _FEATURE_LIST,
        },
        rules={
            "type": "array",
            "items": _object(
                "id stage threshold features",
                "one way in which a stage shows; its id is told as X-Gaia-Stage-Reason: rule:<id>",
                id=_NAME,
                stage={"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
                note={"type": "string"},
                threshold={"type": "number", "exclusiveMinimum": 0},
                include=_texts(_NAME, 0),
                features=_FEATURE_LIST,
            ),
        },
    ),
}
"""The published JSON schema of a stage rules file."""


def problems_of(document: Json) -> Iterator[str]:
    """What is wrong with a file by the schema, each problem with its rule and key."""
    yield from _against(SCHEMA, document, lambda steps: _place(document, steps), skip_features=True)
    for steps, feature in _features(document):
        kind = kind_of(feature)
        if kind is None:
            yield f"{_place(document, steps)}: must be an object with exactly one of {', '.join(FEATURES)}"
        else:
            yield from _against(FEATURES[kind], feature, lambda inner, at=steps: _place(document, [*at, *inner]))


def kind_of(feature: Json) -> str | None:
    """Which kind of feature this is, or None where it is none or several."""
    kinds = [kind for kind in FEATURES if isinstance(feature, dict) and kind in feature]
    return kinds[0] if len(kinds) == 1 else None


def _against(schema: Mapping[str, Json], value: Json, place: Any, *, skip_features: bool = False) -> Iterator[str]:  # noqa: ANN401
    found = jsonschema.Draft202012Validator(dict(schema)).iter_errors(value)
    for error in sorted(found, key=lambda one: [str(step) for step in one.absolute_path]):
        # 1. Each feature is looked at by its own kind: "fits none of four" would help nobody.
        if not (skip_features and error.validator == "oneOf"):
            yield f"{place(list(error.absolute_path))}: {error.message}"


def _features(document: Json) -> Iterator[tuple[list[str | int], Json]]:
    if not isinstance(document, dict):
        return
    shared, rules = document.get("shared"), document.get("rules")
    lists: list[tuple[list[str | int], Json]] = []
    if isinstance(shared, dict):
        lists += [(["shared", name], features) for name, features in shared.items()]
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, dict):
            lists.append((["rules", index, "features"], rule.get("features")))
    for steps, features in lists:
        for number, feature in enumerate(features if isinstance(features, list) else ()):
            yield [*steps, number], feature


def _place(document: Json, steps: Sequence[str | int]) -> str:
    """Where a problem is, as people look for it: the rule by its id, then the key."""
    rest, who = list(steps), ""
    if len(rest) >= 2 and rest[0] == "rules" and isinstance(document, dict):
        rule = cast("list[Json]", document["rules"])[cast(int, rest[1])]
        named = rule.get("id") if isinstance(rule, dict) else None
        who = f"rule {named!r}" if isinstance(named, str) else f"rule number {cast(int, rest[1]) + 1}"
        rest = rest[2:]
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest).removeprefix(".")
    return " ".join(part for part in (who, key) if part) or "the whole file"
