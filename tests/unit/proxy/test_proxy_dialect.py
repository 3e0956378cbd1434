"""What the engine gets in place of what the client sent."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.dialect import Rewritten, engine_release, for_engine, with_model
from gaiad.proxy.refusals import Rejection

SCHEMA = {"type": "object", "required": ["a"]}


def sent(body: dict[str, Any], version: str | None = "0.32.0") -> dict[str, Any]:
    before = copy.deepcopy(body)
    rewritten = for_engine(body, model="m@v1", engine_version=version)
    assert body == before, "the client's own body was changed"
    assert isinstance(rewritten, Rewritten), rewritten
    return rewritten.body


def refused(body: dict[str, Any], version: str | None = "0.32.0") -> Rejection:
    rewritten = for_engine(body, model="m@v1", engine_version=version)
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


def test_token_counts_are_asked_for_in_streams_and_hidden_unless_the_client_did() -> None:
    ours = for_engine({"stream": True}, model="m", engine_version="0.32.0")
    theirs = for_engine({"stream": True, "stream_options": {"include_usage": True}}, model="m", engine_version=None)
    none = for_engine({"stream": False}, model="m", engine_version="0.32.0")
    assert ours == Rewritten({"stream": True, "model": "m", "stream_options": {"include_usage": True}}, hide_usage=True)
    assert isinstance(theirs, Rewritten)
    assert not theirs.hide_usage
    assert none == Rewritten({"stream": False, "model": "m"})


@given(
    content=st.text(), spaced=st.booleans(), plain=st.booleans(), told=st.text(min_size=1), asked=st.text(min_size=1)
)
def test_renaming_changes_the_model_and_nothing_else(
    content: str, spaced: bool, plain: bool, told: str, asked: str
) -> None:
    reply = {"id": 'x "model":"fake"', "model": told, "choices": [{"delta": {"content": content}}], "n": 1.50}
    separators = (", ", ": ") if spaced else (",", ":")
    raw = json.dumps(reply, ensure_ascii=not plain, separators=separators).encode("utf-8", "surrogatepass")
    renamed = with_model(raw, reply, asked)
    assert json.loads(renamed) == {**reply, "model": asked}


def test_renaming_keeps_every_other_byte() -> None:
    raw = b'{"id":"1",  "model" : "a@v1", "choices":[{"text":"\\u00fc \\"model\\" : \\"a@v1\\""}], "x":1.50}'
    assert with_model(raw, json.loads(raw), "auto") == raw.replace(b'"model" : "a@v1"', b'"model" : "auto"', 1)
