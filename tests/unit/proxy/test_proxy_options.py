"""Preludes, fences and bounds: what each changes, and that it changes nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.options import StageOptions
from gaiad.proxy.body import Fields, joined
from gaiad.proxy.endpoints import Form
from gaiad.proxy.options import ANNOUNCEMENT, FencedStream, fenced_reply, optioned, with_prelude
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.rename import ChunkRenamer
from tests.fakes.bodies import read_fields

PRELUDE = 'Ich bin "GAIA".\n'


def fields_of(body: dict[str, Any]) -> Fields:
    fields = read_fields(json.dumps(body).encode())
    assert not isinstance(fields, Rejection)
    return fields


def changed(body: dict[str, Any], form: Form = Form.CHAT, prelude: str = "", **option: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(joined(optioned(fields_of(body), StageOptions(**option), form, prelude)))
    return told


# --- preludes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [f"{ANNOUNCEMENT}\n\nBe brief.", f"Before. {ANNOUNCEMENT}", [{"type": "text", "text": ANNOUNCEMENT}]]
)
def test_the_prelude_comes_first_in_the_system_message_that_announces_it(content: Any) -> None:
    raw = json.dumps([{"role": "user", "content": "ü"}, {"role": "system", "content": content}], indent=1)
    told = json.loads(with_prelude(raw.encode(), PRELUDE))[1]["content"]
    text = told if isinstance(content, str) else told[0]["text"]
    before = content if isinstance(content, str) else content[0]["text"]
    assert text == f"{PRELUDE}\n\n{before}"


def test_no_other_byte_of_the_messages_changes() -> None:
    raw = (
        f'[ {{"content" :"{ANNOUNCEMENT} \\u00e9", "role":"system", "x":1.50}},{{"role": "user","content":"\\u00fc"}}]'
    )
    told = with_prelude(raw.encode(), "P")
    assert told == raw.replace(f"{ANNOUNCEMENT} \\u00e9", f"P\\n\\n{ANNOUNCEMENT} é").encode()


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": ANNOUNCEMENT}],
        [{"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": None}, ANNOUNCEMENT],
        [{"role": "system", "content": [{"type": "text"}, ANNOUNCEMENT, 5]}],
        {"role": "system", "content": ANNOUNCEMENT},
        ANNOUNCEMENT,
        [{"role": "assistant", "content": ANNOUNCEMENT}, {"content": ANNOUNCEMENT}],
    ],
)
def test_nobody_but_a_system_message_brings_the_prelude(messages: Any) -> None:
    raw = json.dumps(messages).encode()
    assert with_prelude(raw, PRELUDE) == raw


def test_only_the_first_announcement_is_answered() -> None:
    body = {"messages": [{"role": "system", "content": ANNOUNCEMENT}] * 2}
    told = changed(body, prelude="P")["messages"]
    assert [message["content"] for message in told] == [f"P\n\n{ANNOUNCEMENT}", ANNOUNCEMENT]


def test_a_number_too_long_to_read_beside_it_is_no_fault() -> None:
    raw = b'[{"role":"system","content":"%s"},%s]' % (ANNOUNCEMENT.encode(), b"1" * 5000)
    assert with_prelude(raw, "P") == raw.replace(b'"[', b'"P\\n\\n[')


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "body", "told"),
    [
        (Form.CHAT, {"max_tokens": 500}, {"max_tokens": 100}),
        (Form.CHAT, {"max_tokens": 50}, {"max_tokens": 50}),
        (Form.CHAT, {"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
        (Form.CHAT, {"max_tokens": 500, "max_completion_tokens": 50}, {"max_tokens": 100, "max_completion_tokens": 50}),
        (Form.CHAT, {}, {"max_tokens": 100}),
        (Form.CHAT, {"max_tokens": None}, {"max_tokens": 100}),
        (Form.CHAT, {"max_tokens": "500"}, {"max_tokens": 100}),
        (Form.CHAT, {"max_tokens": "many"}, {"max_tokens": "many"}),
        (Form.CHAT, {"max_tokens": 500, "min_tokens": 200}, {"max_tokens": 100, "min_tokens": 100}),
        (Form.TEXT, {}, {}),
        (Form.TEXT, {"max_tokens": None}, {"max_tokens": 100}),
        (Form.TEXT, {"max_tokens": 500}, {"max_tokens": 100}),
        (Form.RESPONSES, {}, {"max_output_tokens": 100}),
        (Form.RESPONSES, {"max_output_tokens": 500}, {"max_output_tokens": 100}),
        (Form.MESSAGES, {"max_tokens": 500}, {"max_tokens": 100}),
        (Form.MESSAGES, {}, {}),
        (Form.PLAIN, {"max_tokens": 500}, {"max_tokens": 500}),
    ],
)
def test_tokens_are_bounded_in_the_words_of_each_form(form: Form, body: dict[str, Any], told: dict[str, Any]) -> None:
    assert changed(body, form, max_tokens=100) == told


def test_a_completion_that_says_nothing_has_sixteen_tokens_at_most() -> None:
    assert changed({}, Form.TEXT, max_tokens=8) == {"max_tokens": 8}


@pytest.mark.parametrize(("given", "told"), [(1.5, 0.5), (0.2, 0.2), (0, 0), ("0.9", 0.5), (None, None), ([1], [1])])
def test_a_temperature_is_lowered_and_never_raised(given: Any, told: Any) -> None:
    assert changed({"temperature": given}, temperature=0.5) == {"temperature": told}


def test_no_temperature_is_left_to_the_engine_and_zero_is_a_bound() -> None:
    assert changed({}, temperature=0) == {}
    assert changed({"temperature": 0.7}, temperature=0) == {"temperature": 0}


JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)


@given(
    st.dictionaries(
        st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "min_tokens", "x"]),
        JUNK | st.lists(JUNK, max_size=2),
    ),
    st.integers(1, 1000),
    st.floats(0, 2),
    st.sampled_from(Form),
)
def test_a_bound_never_raises_anything(body: dict[str, Any], most: int, hottest: float, form: Form) -> None:
    told = changed(body, form, max_tokens=most, temperature=hottest)
    for key, before in body.items():
        after = told.pop(key)
        if after != before:
            assert before is None or float(before) > float(after), key
    assert all(value == most for value in told.values())


# --- fences -----------------------------------------------------------------------------------------------------------


def reply(*texts: str | None) -> bytes:
    choices = [{"index": at, "message": {"role": "assistant", "content": text}} for at, text in enumerate(texts)]
    return json.dumps({"model": "m", "choices": choices, "usage": {"x": 1.50}}, ensure_ascii=False).encode()


@pytest.mark.parametrize("text", ['{"tool": "a", "params": "{}"}', ' {"ä": "🙂"}\n', "{}"])
def test_a_bare_object_is_fenced_and_nothing_else_changes(text: str) -> None:
    told = fenced_reply(reply("plain", text, None))
    assert told == reply("plain", f"```json\n{text}\n```", None)


@pytest.mark.parametrize(
    "text", ["", "no", "[1]", '"{}"', '```json\n{"a": 1}\n```', '{"a": 1} and more', '{"a": ', "5"]
)
def test_what_is_no_bare_object_stays_as_it_is(text: str) -> None:
    raw = reply(text)
    assert fenced_reply(raw) is raw


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"choices":5}', b'{"choices":[5,{"message":3}]}', b'{"choices":[{}]}'])
def test_a_strange_reply_passes(raw: bytes) -> None:
    assert fenced_reply(raw) == raw


def chunk(delta: object, ending: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": ending}
    return (
        b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"
    )


def fed(*chunks: bytes) -> list[bytes]:
    renamer = FencedStream(ChunkRenamer(told="m", asked="m", hide_usage=False))
    return [renamer.feed(one) for one in chunks]


ROLE = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("ending", "closed"),
    [
        ({}, {"content": "\n```"}),
        ({"content": "}"}, {"content": "}\n```"}),
        ({"content": None}, {"content": "\n```"}),
        ({"role": "assistant"}, {"content": "\n```", "role": "assistant"}),
    ],
)
def test_a_stream_is_fenced_chunk_by_chunk_and_nothing_is_held_back(ending: Any, closed: Any) -> None:
    told = fed(
        chunk(ROLE),
        chunk({"content": "\n"}),
        chunk({"content": '{"a'}),
        chunk({"content": '":1'}),
        chunk(ending, "stop"),
    )
    assert told == [
        chunk(ROLE),
        chunk({"content": "\n"}),
        chunk({"content": '```json\n{"a'}),
        chunk({"content": '":1'}),
        chunk(closed, "stop"),
    ]


def test_a_stream_that_begins_otherwise_has_no_fence() -> None:
    chunks = [chunk(ROLE), chunk({"content": "a {"}), chunk({"content": "{"}), chunk({}, "stop"), b"data: [DONE]\n\n"]
    assert fed(*chunks) == chunks


def test_each_choice_has_its_own_fence() -> None:
    told = fed(chunk({"content": "{"}), chunk({"content": "no"}, index=1), chunk({}, "stop", 1), chunk({}, "stop"))
    assert told == [
        chunk({"content": "```json\n{"}),
        chunk({"content": "no"}, index=1),
        chunk({}, "stop", 1),
        chunk({"content": "\n```"}, "stop"),
    ]


def test_a_call_of_a_tool_has_no_fence() -> None:
    call = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    chunks = [chunk(ROLE), chunk(call), chunk({}, "tool_calls")]
    assert fed(*chunks) == chunks


@given(st.integers(1, 40), st.booleans())
def test_a_fence_does_not_depend_on_how_the_stream_was_cut(size: int, is_object: bool) -> None:
    first = chunk({"content": "{" if is_object else "x"})
    raw = chunk(ROLE) + first + chunk({"content": "ü"}) + chunk({}, "stop") + b": a comment\n\n" + b"data: [DONE]\n\n"
    renamer = FencedStream(ChunkRenamer(told="m", asked="m", hide_usage=False))
    told = b"".join(renamer.feed(raw[at : at + size]) for at in range(0, len(raw), size)) + renamer.close()
    assert told == b"".join(fed(raw))
    assert (b"```json" in told) == is_object
    assert b"```" not in b"".join(renamer.payloads)
