"""Responses and messages: only `model` changes, failures are held back, and the reply is what its events add up to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.body import raw_fields
from gaiad.proxy.endpoints import Form
from gaiad.proxy.forms import EventRenamer, event_of, refusal, said_by, whole_reply, with_model
from tests.fakes.generation import Generation
from tests.fakes.vllm_forms import message_events, message_of, response_events, response_of


def made(**faults: Any) -> Generation:
    return Generation(faults, "base", {"messages": [{"content": 'Wie "geht\'s"?'}]}, True, (0, 32))


def payload(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def framed(events: list[Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), payload(event)) for event in events)


@pytest.mark.parametrize(
    ("form", "raw", "told"),
    [
        (Form.RESPONSES, '{"model":"m","tools":[{"model":"m"}]}', '{"model":"A","tools":[{"model":"m"}]}'),
        (
            Form.RESPONSES,
            '{ "response" : {"metadata":{"model":"m"}, "model" : "m","x":"\\"model\\":\\"m\\""}}',
            '{ "response" : {"metadata":{"model":"m"}, "model" : "A","x":"\\"model\\":\\"m\\""}}',
        ),
        (Form.RESPONSES, '{"message":{"model":"m"}}', '{"message":{"model":"m"}}'),
        (Form.MESSAGES, '{"message":{"id":"1","model":"m"}}', '{"message":{"id":"1","model":"A"}}'),
        (Form.MESSAGES, '{"response":{"model":"m"}}', '{"response":{"model":"m"}}'),
        (Form.PLAIN, '{"data":[{"model":"m"}],"model":"m"}', '{"data":[{"model":"m"}],"model":"A"}'),
        (Form.PLAIN, '{"model":null}', '{"model":null}'),
        (Form.PLAIN, '{"model":{"a":1}}', '{"model":{"a":1}}'),
        (Form.PLAIN, 'not json: "model":"m"', 'not json: "model":"m"'),
    ],
)
def test_the_name_is_changed_in_its_place_and_in_no_other(form: Form, raw: str, told: str) -> None:
    assert with_model(raw.encode(), form, "A").decode() == told


@pytest.mark.parametrize("form", [Form.RESPONSES, Form.MESSAGES])
@given(size=st.integers(1, 200))
def test_a_stream_changes_in_nothing_but_the_name_however_it_is_cut(form: Form, size: int) -> None:
    body: dict[str, Any] = {"metadata": {"model": "base"}, "tools": [{"model": "base"}]}
    events = list(message_events(made()) if form is Form.MESSAGES else response_events(made(), body))
    raw = b": hello\n\n" + framed(events)
    for event in events:
        for inner in (event.get("response"), event.get("message")):
            if inner:
                inner["model"] = "päng"
    renamer = EventRenamer(form, asked="päng")
    told = b"".join(renamer.feed(raw[at : at + size]) for at in range(0, len(raw), size)) + renamer.close()
    assert told == b": hello\n\n" + framed(events)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "error": {"type": "internal_error", "message": "no"}},
        {"error": {"message": "no", "code": 500}},
    ],
)
def test_an_error_is_held_back_and_so_is_what_follows(event: dict[str, Any]) -> None:
    renamer = EventRenamer(Form.MESSAGES, asked="a")
    raw = b"event: error\ndata: " + payload(event) + b"\n\n"
    assert renamer.feed(raw + b"data: {}\n\n") + renamer.close() == b""
    assert renamer.error_event == raw


@pytest.mark.parametrize("faults", [{}, {"finish_reason": "length"}, {"reply": ""}])
def test_the_pieces_of_a_reply_add_up_to_the_whole(faults: dict[str, Any]) -> None:
    one = made(**faults)
    pairs = (
        (Form.RESPONSES, list(response_events(one, {})), response_of(one, {})),
        (Form.MESSAGES, list(message_events(one)), message_of(one)),
    )
    for form, events, whole in pairs:
        assert whole_reply(form, [payload(event) for event in events]) == whole
        assert said_by(form, [payload(whole)]) == said_by(form, [payload(event) for event in events])
        said = said_by(form, [payload(whole)])
        assert (said.text, said.finish_reason) == ("".join(one.tokens), one.finish_reason)
        assert (said.prompt_tokens, said.completion_tokens) == (7, len(one.tokens))


def test_a_call_of_a_tool_is_no_empty_reply() -> None:
    one = made(tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}])
    for form, whole in ((Form.RESPONSES, response_of(one, {})), (Form.MESSAGES, message_of(one))):
        said = said_by(form, [payload(whole)])
        assert (said.calls_tools, said.finish_reason, said.text) == (True, "tool_calls", "")


ODD = st.recursive(
    st.none() | st.integers() | st.sampled_from(["text", "message", "message_start", "content_block_delta", "m"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "message", "response", "output", "content", "delta", "usage", "text", "model"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.lists(ODD | st.binary(max_size=5), max_size=5), st.sampled_from([Form.RESPONSES, Form.MESSAGES]))
def test_no_reply_is_so_odd_that_it_is_a_fault(told: list[Any], form: Form) -> None:
    payloads = [one if isinstance(one, bytes) else payload(one) for one in told]
    said_by(form, payloads)
    renamer = EventRenamer(form, asked="a")
    renamer.feed(b"".join(b"data: " + one + b"\n\n" for one in payloads))


@pytest.mark.parametrize("form", [Form.RESPONSES, Form.MESSAGES])
def test_a_constraint_that_would_be_dropped_is_refused(form: Form) -> None:
    for field in ("guided_json", "guided_regex", "guided_choice", "guided_grammar"):
        refused = refusal(form, raw_fields({field: {}}), "0.32.0")
        assert refused is not None
        assert refused.code == "unsupported_constraint"
        assert refusal(form, raw_fields({field: None}), "0.32.0") is None
        assert refusal(Form.CHAT, raw_fields({field: {}}), "0.32.0") is None
    fields = raw_fields({"structured_outputs": {"json": {}}})
    refused_by = {version: refusal(form, fields, version) is not None for version in ("0.32.0", "0.15.1", "", None)}
    assert refused_by == {"0.32.0": form is Form.MESSAGES, "0.15.1": True, "": True, None: True}


def test_an_error_becomes_an_event_in_the_words_of_the_form() -> None:
    body = b'{"error":{"message":"no"}}'
    assert event_of(body, Form.CHAT) == b'data: {"error":{"message":"no"}}\n\n'
    assert event_of(body, Form.MESSAGES) == b'event: error\ndata: {"type":"error","error":{"message":"no"}}\n\n'
    assert event_of(b'{\n"error": 1}', Form.CHAT) == b'data: {\ndata: "error": 1}\n\n'
