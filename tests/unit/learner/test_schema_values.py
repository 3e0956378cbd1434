"""Claims about parameters drawn from schemas: each satisfies its schema, the same ones for the same seed."""

import random
import re
from collections import Counter
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.sources.catalogue import shipped_curricula
from gaiad.learner.sources.schema_patterns import matching, pattern_fault
from gaiad.learner.sources.schema_values import Drawn, drawn_params, words_of
from gaiad.learner.sources.tool_frames import parse_frames
from tests.fakes.tools_of_a_runtime import TOOLS

FRAMES = parse_frames((shipped_curricula() / "json-architect" / "frames.json").read_text("utf-8"))
CHECK = jsonschema.Draft202012Validator.FORMAT_CHECKER


def drawn(schema: dict[str, Any], seed: int = 0, optional: float = 0.5) -> Drawn:
    return drawn_params(schema, FRAMES, random.Random(seed), optional=optional)


def holding(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


FORMATS = ("date", "time", "date-time", "email", "uri", "uuid", "ipv4", "ipv6", "hostname")
ONES: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "minLength": 60, "maxLength": 70},
    {"type": "string", "maxLength": 2},
    {"type": ["string", "null"]},
    {},
    {"type": "integer", "minimum": -3, "maximum": -2},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "multipleOf": 7},
    {"type": "integer", "maximum": -100},
    {"type": "integer", "minimum": 10**12},
    {"type": "number", "minimum": 0.2, "maximum": 0.3},
    {"type": "number", "multipleOf": 0.5, "maximum": 4},
    {"type": "boolean"},
    {"enum": ["a", None, 3]},
    {"const": {"k": [1]}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
    {"type": "array", "items": {"enum": ["x", "y"]}, "uniqueItems": True, "minItems": 2},
    {"type": "array", "maxItems": 0},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}},
    {"type": "object", "minProperties": 1, "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"anyOf": [{"type": "integer", "minimum": 4}, {"type": "string", "enum": ["none"]}]},
    {"oneOf": [{"type": "integer", "multipleOf": 3}, {"type": "integer", "multipleOf": 5}], "maximum": 40},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 4}]},
    {"type": "integer", "minimum": 1, "maximum": 4, "not": {"const": 2}},
    {"anyOf": [{"type": "null"}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}]},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    {"type": "string", "pattern": r"^\d{4}(-\d\d)?$"},
    {"type": "string", "pattern": "^[a-z0-9]+(?:-[a-z0-9]+)*$"},
    {"type": "string", "pattern": "^(north|south)[^a-z]?$"},
    *({"type": "string", "format": shape} for shape in FORMATS),
]


@pytest.mark.parametrize("schema", ONES, ids=str)
def test_a_drawn_value_satisfies_its_schema(schema: dict[str, Any]) -> None:
    whole = holding(value=schema)
    for seed in range(20):
        params = drawn(whole, seed).params
        jsonschema.Draft202012Validator(whole, format_checker=CHECK).validate(params)


@pytest.mark.parametrize("name", TOOLS)
def test_the_parameters_of_a_runtimes_tools_satisfy_their_schemas(name: str) -> None:
    schema = TOOLS[name]["params"]
    for seed in range(10):
        params = drawn(schema, seed).params
        jsonschema.Draft202012Validator(schema, format_checker=CHECK).validate(params)


def test_the_same_chance_draws_the_same_and_another_one_something_else() -> None:
    schema = TOOLS["event_create"]["params"]
    assert drawn(schema, 3) == drawn(schema, 3)
    assert len({str(drawn(schema, seed).params) for seed in range(20)}) > 15


def test_optional_parameters_come_and_go_and_required_ones_stay() -> None:
    found = Counter(frozenset(drawn(TOOLS["web_lookup"]["params"], seed).params) for seed in range(40))
    assert len(found) == 4
    assert all("query" in names for names in found)
    assert {frozenset(drawn(TOOLS["web_lookup"]["params"], seed, 0.0).params) for seed in range(20)} == {
        frozenset({"query"})
    }


def test_every_value_is_to_be_said_except_one_that_follows_from_the_schema() -> None:
    found = drawn(holding(action={"const": "read"}, path={"type": "string"}))
    assert [(leaf.label, leaf.value) for leaf in found.leaves] == [(("path",), found.params["path"])]
    either = {"anyOf": [holding(kind={"const": "a"}), holding(kind={"const": "b"})]}
    assert {drawn(either, seed).leaves[0].value for seed in range(20)} == {"a", "b"}
    nested = drawn(holding(start_point=holding(x={"type": "integer"}), names={"type": "array", "minItems": 2}))
    assert [leaf.label for leaf in nested.leaves] == [("start", "point", "x"), ("names",)]


@pytest.mark.parametrize(
    "schema",
    [
        holding(a={"type": "integer", "minimum": 1.2, "maximum": 1.8}),
        holding(a={"type": "integer", "multipleOf": 50, "minimum": 1, "maximum": 40}),
        holding(a={"not": {}}),
        holding(a={"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True}),
        holding(a={"allOf": [{"enum": [1]}, {"enum": [2]}]}),
        holding(a={"type": "object", "minProperties": 1, "additionalProperties": False}),
        {"type": "object", "properties": {}, "anyOf": [False]},
    ],
)
def test_a_schema_that_nothing_satisfies_is_a_value_error_and_no_endless_search(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"value|whole number|multiple|drawn|share none"):
        drawn(schema)


@pytest.mark.parametrize(
    ("name", "words"),
    [("read_file", "read file"), ("webSearch", "web search"), ("a.b-c2", "a b c2"), ("getHTTPPage", "get httppage")],
)
def test_names_are_taken_apart_into_words(name: str, words: str) -> None:
    assert " ".join(words_of(name)) == words


# --- Patterns ---------------------------------------------------------------------------------------------------

PIECES = ["a", "[a-f0-9]", r"\d", r"\w", "(ab|c)", "(?:x[0-9])", ".", r"\.", "[^a-y]", "-"]
REPEATS = ["", "?", "{2}", "{1,3}"]


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(REPEATS)), max_size=8), st.integers(0, 99))
def test_a_text_drawn_for_a_pattern_matches_the_whole_of_it(parts: list[tuple[str, str]], seed: int) -> None:
    pattern = "".join(piece + repeat for piece, repeat in parts)
    assert re.fullmatch(pattern, matching(pattern, random.Random(seed)))


@pytest.mark.parametrize("pattern", ["a+", "[a-z]*", "^[a-z]+(_[a-z]+)*$", r"^#[0-9a-fA-F]{6}$", "^(a|b|)$", "[]x]"])
def test_common_patterns_are_drawn_from(pattern: str) -> None:
    assert re.fullmatch(pattern, matching(pattern, random.Random(1)))


INTRICATE = ("(a+)+", "(a|a)*", r"(\w+\s?)*$", "(?=a)", "(?<n>a)", r"(a)\1", r"\bword", r"\p{L}", "a+?", "a**")
BROKEN = ("a{1000}", "a{3,2}", "a{x}", "(a", "a)", "[a", "*a", "[z-a]", "a" * 400, "(" * 20 + ")" * 20, "[^\\w\\W -]")


@pytest.mark.parametrize("pattern", [*INTRICATE, *BROKEN])
def test_a_pattern_that_is_not_simple_is_refused_with_a_reason(pattern: str) -> None:
    assert pattern_fault(pattern)
