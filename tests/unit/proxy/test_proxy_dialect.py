"""What the engine gets in place of what the client sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gaiad.proxy.body import raw, raw_fields
from gaiad.proxy.dialect import Rewritten, engine_release, for_engine
from gaiad.proxy.refusals import Rejection
from tests.fakes.bodies import read_fields

SCHEMA = {"type": "object", "required": ["a"]}


def sent(body: dict[str, Any], version: str | None = "0.32.0") -> dict[str, Any]:
    fields = raw_fields(body)
    before = {key: bytes(value) for key, value in fields.items()}
    rewritten = for_engine(fields, model=raw("m@v1"), engine_version=version)
    assert {key: bytes(value) for key, value in fields.items()} == before, "the client's own body was changed"
    assert isinstance(rewritten, Rewritten), rewritten
    made: dict[str, Any] = json.loads(rewritten.body)
    return made


def refused(body: dict[str, Any], version: str | None = "0.32.0") -> Rejection:
    rewritten = for_engine(raw_fields(body), model=raw("m@v1"), engine_version=version)
    assert isinstance(rewritten, Rejection)
    assert rewritten.status == 400
    return rewritten


@pytest.mark.parametrize(
    ("text", "release"),
    [("0.32.0", (0, 32)), ("0.12.0rc1+cpu", (0, 12)), ("v0.9.2.dev3", (0, 9)), ("1.0", (1, 0)), ("", None)],
)
def test_the_release_is_read_from_any_version_text(text: str, release: tuple[int, int] | None) -> None:
    assert engine_release(text) == release
    assert engine_release("dev") is None


@pytest.mark.parametrize(
    ("guided", "value", "field"),
    [
        ("guided_json", SCHEMA, "json"),
        ("guided_json", json.dumps(SCHEMA), "json"),
        ("guided_regex", "[ab]", "regex"),
        ("guided_choice", ["a", "b"], "choice"),
        ("guided_grammar", "root ::= 'a'", "grammar"),
    ],
)
@pytest.mark.parametrize("version", ["0.11.0", "0.12.0", "0.32.0", "1.2.3"])
def test_guided_constraints_become_structured_outputs(guided: str, value: object, field: str, version: str) -> None:
    body = sent({guided: value, "guided_decoding_backend": "xgrammar", "messages": []}, version)
    assert body == {"messages": [], "model": "m@v1", "structured_outputs": {field: value}}


def test_the_whitespace_pattern_goes_with_its_constraint_and_is_nothing_alone() -> None:
    assert sent({"guided_json": SCHEMA, "guided_whitespace_pattern": " "})["structured_outputs"] == {
        "json": SCHEMA,
        "whitespace_pattern": " ",
    }
    assert sent({"guided_whitespace_pattern": " "}) == {"model": "m@v1"}


@pytest.mark.parametrize("version", ["0.6.3", "0.10.2"])
def test_an_old_engine_gets_guided_constraints_as_they_are(version: str) -> None:
    body = {"guided_json": SCHEMA, "guided_decoding_backend": "outlines"}
    assert sent(body, version) == {**body, "model": "m@v1"}


def test_an_old_engine_gets_structured_outputs_in_its_own_words() -> None:
    assert sent({"structured_outputs": {"json": SCHEMA}}, "0.10.2") == {"guided_json": SCHEMA, "model": "m@v1"}
    refused({"structured_outputs": {"json_object": True}}, "0.10.2")
    refused({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, "0.10.2")


@pytest.mark.parametrize("version", [None, "", "nightly"])
def test_a_guided_constraint_is_refused_while_the_engine_is_unknown(version: str | None) -> None:
    assert "version is unknown" in refused({"guided_json": SCHEMA}, version).message
    assert sent({"structured_outputs": {"json": SCHEMA}}, version)["structured_outputs"] == {"json": SCHEMA}


@pytest.mark.parametrize(
    "second",
    [
        {"guided_regex": "a"},
        {"structured_outputs": {"json": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "json_object"}},
    ],
)
@pytest.mark.parametrize("version", ["0.10.0", "0.32.0"])
def test_two_constraints_conflict(second: dict[str, Any], version: str) -> None:
    assert "cannot be combined" in refused({"guided_json": SCHEMA, **second}, version).message


def test_empty_constraints_conflict_with_nothing() -> None:
    body = sent({"guided_json": SCHEMA, "guided_regex": None, "response_format": {"type": "text"}})
    assert body["structured_outputs"] == {"json": SCHEMA}
    assert sent({"guided_json": None}) == {"model": "m@v1"}


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({"gaia_stage": "intent"}, None),
        ({"gaia_stage": "intent", "gaia_new": 1, "trace": "t"}, {"trace": "t"}),
        ({"trace": "t"}, {"trace": "t"}),
        ({}, {}),
        ("text", "text"),
    ],
)
def test_our_metadata_never_reaches_the_engine(metadata: object, kept: object) -> None:
    assert sent({"metadata": metadata}).get("metadata") == kept


@pytest.mark.parametrize(
    ("body", "options", "hidden"),
    [
        ({"stream": True}, {"include_usage": True}, True),
        ({"stream": True, "stream_options": {"chunked": 1}}, {"chunked": 1, "include_usage": True}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}, False),
        ({"stream": True, "stream_options": "odd"}, "odd", False),
        ({"stream": False}, None, False),
        ({"stream": "true"}, None, False),
    ],
)
def test_token_counts_are_asked_for_in_streams_and_hidden_unless_the_client_did(
    body: dict[str, Any], options: object, hidden: bool
) -> None:
    rewritten = for_engine(raw_fields(body), model=raw("m"), engine_version=None)
    assert isinstance(rewritten, Rewritten)
    assert rewritten.hide_usage is hidden
    assert json.loads(rewritten.body).get("stream_options") == options


def test_what_is_not_meant_to_change_keeps_every_byte() -> None:
    fields = read_fields(
        b'{ "model":"auto", "messages" : [ {"content":"\\u00fc  \\/"} ] ,"temperature":1.50, "n" : 1e0}'
    )
    assert not isinstance(fields, Rejection)
    rewritten = for_engine(fields, model=raw("m@v1"), engine_version="0.32.0")
    assert isinstance(rewritten, Rewritten)
    assert rewritten.body == (b'{"model":"m@v1","messages":[ {"content":"\\u00fc  \\/"} ],"temperature":1.50,"n":1e0}')
