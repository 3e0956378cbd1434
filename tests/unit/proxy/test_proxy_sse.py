"""Any split of the bytes gives the same events, and the bytes come out as they went in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.sse import Event, EventParser

LINES = st.sampled_from(
    [
        b"data: {}",
        'data: {"model":"a","choices":[{"delta":{"content":"grüße 🙂 日本"}}]}'.encode(),
        b"data:x",
        b"data",
        b"data: [DONE]",
        b": keep-alive",
        b"event: message",
        b"id: 7",
        b"",
        b"",
        b"nonsense",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    end = draw(ENDS)
    body = b"".join(line + end for line in draw(st.lists(LINES, max_size=14)))
    return body + draw(st.sampled_from([b"", b"data: torn", b"data: torn" + end]))


def parsed(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events, parser.close()


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@given(stream=streams(), cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=40))
def test_any_split_gives_the_same_payloads_and_the_same_bytes(stream: bytes, cuts: list[int]) -> None:
    whole, whole_rest = parsed([stream])
    events, rest = parsed(split(stream, cuts))
    assert b"".join(event.raw for event in events) + rest == stream
    assert b"".join(event.raw for event in whole) + whole_rest == stream
    payloads = [event.payload for event in events if event.payload is not None]
    assert payloads == [event.payload for event in whole if event.payload is not None]


@given(stream=streams())
def test_one_byte_at_a_time_is_a_split_too(stream: bytes) -> None:
    events, rest = parsed([stream[at : at + 1] for at in range(len(stream))])
    whole, _ = parsed([stream])
    assert b"".join(event.raw for event in events) + rest == stream
    assert [e.payload for e in events if e.payload is not None] == [e.payload for e in whole if e.payload is not None]


def test_an_event_is_given_out_with_its_last_byte_and_no_later() -> None:
    parser = EventParser()
    assert parser.feed(b"data: 1\n") == []
    assert parser.feed(b"\n") == [Event(b"data: 1\n\n", b"1")]
    assert parser.feed(b": ping\n") == [Event(b": ping\n")]
    assert parser.feed(b"data: 2\r\n\r") == [Event(b"data: 2\r\n\r", b"2")]


def test_several_data_lines_are_one_payload() -> None:
    assert parsed([b'data: {"a":\ndata: 1}\n\n'])[0] == [Event(b'data: {"a":\ndata: 1}\n\n', b'{"a":\n1}')]


@pytest.mark.parametrize(
    ("raw", "after"),
    [
        (b'event: x\r\ndata:{"a":1}\r\nid: 3\r\n\r\n', b'event: x\r\ndata:{"b":2}\r\nid: 3\r\n\r\n'),
        (b'data: {"a":1}\n\n', b'data: {"b":2}\n\n'),
        (b'data: {"a":\ndata: 1}\n\n', b'data: {"b":2}\n\n'),
    ],
)
def test_a_new_payload_leaves_the_rest_of_the_event(raw: bytes, after: bytes) -> None:
    (event,) = parsed([raw])[0]
    assert event.with_payload(b'{"b":2}') == after
