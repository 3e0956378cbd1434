"""A stream renamed on its way: nothing else changes, and nothing waits."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.rename import ChunkRenamer, with_model
from gaiad.proxy.said import Said, said_by

TOLD, ASKED = "json-architect@v1-0a1b2c3d", "auto"
DONE = b"data: [DONE]\n\n"


def chunk(content: str, *, model: str = TOLD, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "model": model, "choices": [choice], **more}


def event(body: object, *, spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=separators).encode() + b"\n\n"


def renamer(**more: Any) -> ChunkRenamer:
    return ChunkRenamer(**{"told": TOLD, "asked": ASKED, "hide_usage": False, **more})


@given(
    texts=st.lists(
        st.text() | st.sampled_from(['"model"', f'"model":"{TOLD}"', "model", "\r\n", "[DONE]"]), max_size=5
    ),
    spaced=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_however_a_stream_is_cut_only_model_changes(texts: list[str], spaced: bool, cuts: list[int]) -> None:
    def stream(model: str) -> bytes:
        return b"".join(event(chunk(text, model=model), spaced=spaced) for text in texts) + DONE

    raw = stream(TOLD)
    places = [0, *sorted(place for place in cuts if place < len(raw)), len(raw)]
    renaming = renamer()
    out = b"".join(renaming.feed(raw[start:end]) for start, end in itertools.pairwise(places))
    assert out + renaming.close() == stream(ASKED)
    assert said_by(renaming.payloads).text == "".join(texts)


@given(
    st.lists(
        st.tuples(
            st.text() | st.sampled_from(['"model"', f'"model":"{TOLD}"', "\r\n", '"choices":[{']),
            st.sampled_from([TOLD, ASKED, "another"]),
            st.dictionaries(st.sampled_from(["usage", "model_of", "x"]), st.sampled_from([1, {"model": TOLD}, None])),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_was_learned_from_one_event_changes_nothing_about_the_next(
    told: list[tuple[str, str, dict[str, Any]]],
) -> None:
    events = [event(chunk(content, model=model, **more)) for content, model, more in told]
    renaming = renamer()
    assert [renaming.feed(one) for one in events] == [renamer().feed(one) for one in events]
    assert [event(json.loads(payload)) for payload in renaming.payloads] == events


@pytest.mark.parametrize("strange", [b'{"choices":[{}],"model":"' + TOLD.encode() + b'"}', b'{"a":{"choices":[{}]}}'])
def test_an_event_that_begins_otherwise_is_read_with_care(strange: bytes) -> None:
    renaming = renamer()
    renaming.feed(event(chunk("a")))
    assert renaming.feed(b"data: " + strange + b"\n\n") == renamer().feed(b"data: " + strange + b"\n\n")


def test_an_event_is_passed_on_in_the_call_that_completes_it() -> None:
    renaming, first, second = renamer(), event(chunk("a")), event(chunk("b"))
    assert renaming.feed(first) == first.replace(TOLD.encode(), b"auto")
    assert renaming.feed(second[:10]) == b""
    assert renaming.feed(second[10:]) == second.replace(TOLD.encode(), b"auto")
    assert renaming.feed(DONE) == DONE


def test_comments_and_other_line_ends_pass_as_they_are() -> None:
    renaming = renamer()
    odd = b": ping\n\ndata: {}\r\n\r\nevent: x\ndata: not json\n\n"
    assert renaming.feed(odd) + renaming.close() == odd


@pytest.mark.parametrize("spaced", [True, False])
def test_token_counts_that_only_we_asked_for_are_taken_out_and_kept_for_us(spaced: bool) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 8}
    body = {"model": TOLD, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    counts = event(body, spaced=spaced)
    hiding, showing = renamer(hide_usage=True), renamer()
    assert hiding.feed(event(chunk("a")) + counts + DONE).count(b"data:") == 2
    assert showing.feed(counts) == counts.replace(TOLD.encode(), b"auto")
    assert said_by(hiding.payloads) == Said("a", prompt_tokens=7, completion_tokens=8)


@pytest.mark.parametrize("more", [{"usage": None}, {}, {"usage": {}, "choices": None}, {"x": {"choices": []}}])
def test_what_holds_no_counts_is_passed_on_though_there_is_no_choice_in_it(more: dict[str, Any]) -> None:
    body = {"model": TOLD, "choices": [], **more}
    hiding = renamer(hide_usage=True)
    assert hiding.feed(event(body)) == event({**body, "model": ASKED})


def test_an_error_event_and_what_follows_it_is_held_back() -> None:
    renaming, failure = renamer(), event({"error": {"message": "engine core died"}})
    assert renaming.feed(event(chunk("a")) + failure + DONE) == event(chunk("a", model=ASKED))
    assert renaming.error_event == failure
    assert renaming.feed(event(chunk("b"))) == b""
    assert renaming.close() == b""


def test_an_engine_that_tells_another_name_is_renamed_all_the_same() -> None:
    assert renamer().feed(event(chunk("a", model="odd"))) == event(chunk("a", model=ASKED))


def test_what_was_never_finished_comes_out_at_the_end() -> None:
    renaming = renamer()
    assert renaming.feed(b"data: {") == b""
    assert renaming.close() == b"data: {"


@pytest.mark.parametrize(
    "reply", [b"[]", b"{}", b'{"choices": "odd"}', b'{"choices": [{"delta": {"content": 3}}]}', b"x"]
)
def test_any_shape_of_reply_can_be_read(reply: bytes) -> None:
    assert said_by([reply]).finish_reason is None


@given(
    content=st.text(), spaced=st.booleans(), plain=st.booleans(), told=st.text(min_size=1), asked=st.text(min_size=1)
)
def test_renaming_a_whole_reply_changes_the_model_and_nothing_else(
    content: str, spaced: bool, plain: bool, told: str, asked: str
) -> None:
    reply = {"id": 'x "model":"fake"', "model": told, "choices": [{"delta": {"content": content}}], "n": 1.50}
    separators = (", ", ": ") if spaced else (",", ":")
    raw = json.dumps(reply, ensure_ascii=not plain, separators=separators).encode("utf-8", "surrogatepass")
    renamed = with_model(raw, reply, asked)
    assert json.loads(renamed) == {**reply, "model": asked}


def test_renaming_a_whole_reply_keeps_every_other_byte() -> None:
    raw = b'{"id":"1",  "model" : "a@v1", "choices":[{"text":"\\u00fc \\"model\\" : \\"a@v1\\""}], "x":1.50}'
    assert with_model(raw, json.loads(raw), "auto") == raw.replace(b'"model" : "a@v1"', b'"model" : "auto"', 1)
