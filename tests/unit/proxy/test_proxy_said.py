"""What a reply came to, in full and in short: the short way leaves out only what nobody asks it for."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.said import Said, copy_of, said_by, said_in_short

FINISH = st.sampled_from([None, "stop", "length", "tool_calls"])
DELTA = st.fixed_dictionaries({}, optional={"content": st.none() | st.text(" \nab", max_size=3)})
CHOICE = st.fixed_dictionaries({"index": st.integers(0, 1), "delta": DELTA, "finish_reason": FINISH})
USAGE = st.none() | st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9), "completion_tokens": st.integers(0, 9)})
CHUNK = st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": USAGE})


def payload(chunk: dict[str, Any]) -> bytes:
    return msgspec.json.encode(chunk)


def is_blank(said: Said) -> bool:
    return not said.text.strip()


@given(st.lists(CHUNK, max_size=6))
def test_in_short_it_is_the_same_but_for_the_words(chunks: list[dict[str, Any]]) -> None:
    payloads = [payload(chunk) for chunk in chunks]
    full, short = said_by(payloads), said_in_short(payloads)
    assert (short.finish_reason, short.prompt_tokens, short.completion_tokens) == (
        full.finish_reason,
        full.prompt_tokens,
        full.completion_tokens,
    )
    assert is_blank(short) == is_blank(full)


@given(st.lists(st.booleans(), min_size=2, max_size=6))
def test_a_reply_that_says_nothing_but_calls_a_tool_is_known_to_do_so(calling: list[bool]) -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    payloads = [
        payload({"choices": [{"index": 0, "delta": {"tool_calls": [call] if calls else []}}]}) for calls in calling
    ]
    assert said_in_short(payloads).calls_tools == said_by(payloads).calls_tools == any(calling)


def test_what_stands_between_the_ends_of_a_stream_is_not_read() -> None:
    first, last = payload({"choices": [{"delta": {"content": "a"}}]}), payload({"choices": [{"finish_reason": "stop"}]})
    told = payload({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert said_in_short([first, b"no JSON", last, told]) == Said("a", False, "stop", 1, 2)


def test_a_reply_of_an_unforeseen_shape_is_read_all_the_same() -> None:
    odd = payload({"choices": [{"delta": {"content": ["a"]}}]})
    last = payload({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert said_in_short([odd, last]).finish_reason == "stop"
    assert said_in_short([]) == Said()


def test_the_copy_of_a_streamed_completion_holds_every_piece_of_its_text() -> None:
    pieces = [("eins", None), (" zwei", None), ("", "stop")]
    payloads = [
        payload({"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": finish}]})
        for text, finish in pieces
    ]
    (choice,) = copy_of(payloads).body("m")["choices"]
    assert choice == {"index": 0, "text": "eins zwei", "finish_reason": "stop"}
    (whole,) = copy_of(payloads[:1]).body("m")["choices"]
    assert whole["text"] == "eins"
