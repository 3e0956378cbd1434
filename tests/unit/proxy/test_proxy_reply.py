"""The copy of a reply, and what is thought of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.reply import ReplyCopy
from gaiad.proxy.validity import Validity, judge
from tests.fakes.generation import Generation

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a.txt"}'}},
    {"id": "c2", "type": "function", "function": {"name": "list_files", "arguments": "{}"}},
]
SCHEMA: dict[str, Any] = {"type": "object", "required": ["tool"], "properties": {"tool": {"enum": ["a", "b"]}}}


def both_ways(chat: bool, **faults: object) -> tuple[ReplyCopy, ReplyCopy]:
    made = Generation(
        faults, "base", {"messages": [{"content": "Wie geht's?"}]} if chat else {"prompt": "x y"}, chat, (0, 32)
    )
    chunks = [made.first_chunk()] if chat else []
    chunks += [made.chunk(token) for token in made.tokens] + made.tool_chunks()
    chunks += [made.chunk("", made.finish_reason), made.usage_chunk()]
    streamed, whole = ReplyCopy(), ReplyCopy()
    for chunk in chunks:
        streamed.chunk(chunk)
    whole.whole(made.whole())
    return streamed, whole


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("faults", [{}, {"reply": ""}, {"finish_reason": "length"}, {"reply": "a 🙂 b"}])
def test_a_stream_put_together_equals_the_whole_reply(chat: bool, faults: dict[str, object]) -> None:
    streamed, whole = both_ways(chat, **faults)
    assert streamed.text == whole.text
    assert streamed.finish_reason == whole.finish_reason
    assert streamed.tokens("prompt") == whole.tokens("prompt") == 7
    assert streamed.body("m") == whole.body("m")


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    streamed, whole = both_ways(True, tool_calls=CALLS)
    assert streamed.body("m")["choices"][0]["message"]["tool_calls"] == CALLS
    assert streamed.calls_tools
    assert whole.calls_tools


@pytest.mark.parametrize(
    ("text", "ending", "expected"),
    [
        ('{"tool": "a"}', "stop", Validity(True, empty=False, truncated=False)),
        ('{"tool": "c"}', "stop", Validity(False, empty=False, truncated=False)),
        ('{"tool": "a"', "length", Validity(False, empty=False, truncated=True)),
        ("hello", "stop", Validity(False, empty=False, truncated=False)),
        (" \n", "stop", Validity(False, empty=True, truncated=False)),
    ],
)
def test_a_reply_is_judged_by_its_stage(text: str, ending: str, expected: Validity) -> None:
    reply = ReplyCopy()
    reply.whole({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": ending}]})
    assert judge(reply, SCHEMA) == expected
    assert judge(reply, None).schema_ok is None


def test_a_reply_of_tool_calls_is_neither_empty_nor_against_the_schema() -> None:
    reply, _ = both_ways(True, tool_calls=CALLS)
    assert judge(reply, SCHEMA) == Validity(None, empty=False, truncated=False)
    assert not judge(ReplyCopy(), None).valid


FIELD_NAMES = "id object usage choices index delta message text content tool_calls function arguments finish_reason"
FIELDS = st.sampled_from(sorted(set(FIELD_NAMES.split())))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)
CALL_PIECES = st.lists(st.dictionaries(FIELDS, JSON, max_size=4) | JSON, max_size=3) | JSON
DELTAS = st.fixed_dictionaries({}, optional={"tool_calls": CALL_PIECES, "content": JSON, "reasoning": JSON}) | JSON
CHOICES = st.fixed_dictionaries({}, optional={"index": JSON, "delta": DELTAS, "message": DELTAS, "text": JSON})
REPLIES = st.fixed_dictionaries({"choices": st.lists(CHOICES | JSON, max_size=3)}, optional={"usage": JSON, "id": JSON})


@given(st.lists(REPLIES, max_size=4), REPLIES)
def test_no_reply_is_too_odd_to_be_copied(chunks: list[dict[str, Any]], whole: dict[str, Any]) -> None:
    streamed, at_once = ReplyCopy(), ReplyCopy()
    for chunk in chunks:
        streamed.chunk(chunk)
    at_once.whole(whole)
    for copy in (streamed, at_once):
        assert copy.body("m")["model"] == "m"
        assert isinstance(judge(copy, SCHEMA).valid, bool)
        assert copy.tokens("prompt") is None or isinstance(copy.tokens("prompt"), int)


def test_a_tool_call_that_is_none_is_left_out_of_the_copy() -> None:
    reply = ReplyCopy()
    reply.whole({"choices": [{"message": {"tool_calls": ["x", {"id": "c1", "index": 0}]}}]})
    assert reply.body("m")["choices"][0]["message"]["tool_calls"] == [{"id": "c1"}]
