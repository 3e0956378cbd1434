"""Clients of the proxy before a real vLLM with a real small model: each path, constraint and refusal, and leaving."""

from __future__ import annotations

import http.client
import json
import re
import socket
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal

import openai
import pydantic
import pytest

from examples.demo_world import World
from tests.acceptance.test_kills import running_in_engine, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

SERVED, WINDOW = "smollm2-135m", 2048
LEFT_S = 2.0
"""How long the engine may still work for a client that closed its connection."""
CORE = "/models/core"
"""What gaia-core asks for; like "auto" it means the stage's adapter, or the base."""
GREETING = "Say hello in three words."
HELLO: Any = [{"role": "user", "content": GREETING}]
LINES = '{"colour": "red"}\n{"colour": "red"}\n'
"""A beginning that the small model goes on with, and so does not fill up with white space, which JSON allows."""
COLOURS = ["red", "blue"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": COLOURS}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "colour", "schema": SCHEMA}}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
COUNTED = re.compile(
    r'^http_requests_total\{(?=[^}]*handler="(?!/v1/\w*load)[^}]*method="POST")[^}]*\} (\S+)$', re.MULTILINE
)
ROOM = re.compile(r"max_tokens\s+\d+\s*>\s*(\d+)\s*-\s*(\d+)")
"""As gaia-core looks for it, in the first 500 characters of a reply."""


class Colour(pydantic.BaseModel):
    colour: Literal["red", "blue"]


def ask(world: World, **given: Any) -> Any:
    """One short chat reply through the real client."""
    asked: dict[str, Any] = {"model": "auto", "messages": HELLO, "max_tokens": 64, "temperature": 0, **given}
    return world.client.chat.completions.create(**asked)


def send(port: int, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
    """Status and text of one request, to the proxy or to the engine itself."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        sent = None if body is None else json.dumps(body).encode()
        connection.request(method, path, sent, {} if sent is None else {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def post(port: int, path: str, **body: Any) -> tuple[int, Any]:
    """Status and JSON of one POST."""
    status, text = send(port, "POST", path, body)
    return status, json.loads(text)


def events(port: int, path: str, **body: Any) -> list[tuple[str, Any]]:
    """Name and JSON of each event of a stream that is read to its end."""
    status, text = send(port, "POST", path, {**body, "stream": True})
    assert status == 200, text
    found = []
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert (name[:7], data[:6]) == ("event: ", "data: ")
        found.append((name[7:], json.loads(data[6:])))
    return found


def posts_seen(world: World) -> float:
    """How many POSTs reached the engine, as it counts them itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{world.engine_port}/metrics", timeout=10) as page:
        return sum(float(count) for count in COUNTED.findall(page.read().decode()))


def assert_passes_unchanged(world: World, path: str, **body: Any) -> tuple[int, Any]:
    """The engine's own refusal, which a client of the proxy gets word by word."""
    own = post(world.engine_port, path, **{**body, "model": SERVED})
    assert post(world.port, path, **{**body, "model": "auto"}) == own
    return own


# --- chat and completions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["auto", CORE, SERVED, "gaia:base"])
def test_a_chat_reply_bears_the_name_that_was_asked_for(home: World, model: str) -> None:
    reply = ask(home, model=model, max_tokens=8)
    assert reply.model == model
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert 0 < reply.usage.completion_tokens <= 8


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
def test_a_chat_stream_counts_tokens_only_for_who_asked(home: World, options: dict[str, bool] | None) -> None:
    given = {} if options is None else {"stream_options": options}
    chunks = list(ask(home, model=CORE, max_tokens=8, stream=True, **given))
    assert {chunk.model for chunk in chunks} == {CORE}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    if options and options["include_usage"]:
        assert len(counts) == 1
        assert 0 < counts[0] <= 8
        assert chunks.pop().choices == []
    else:
        assert counts == []
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_completions_whole_and_streamed(home: World) -> None:
    prompt = "The capital of France is"
    whole = home.client.completions.create(model=CORE, prompt=[prompt, "One, two,"], max_tokens=8, temperature=0)
    assert whole.model == CORE
    assert [bool(choice.text) for choice in whole.choices] == [True, True]
    stream = home.client.completions.create(model=CORE, prompt=prompt, max_tokens=8, temperature=0, stream=True)
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {CORE}
    assert "".join(chunk.choices[0].text for chunk in chunks)
    assert [chunk.usage for chunk in chunks if chunk.usage] == []


@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "clock"}}, "required", "auto", None])
def test_an_engine_without_a_parser_for_tools_says_so_in_its_own_words(home: World, choice: Any) -> None:
    given = {"tools": [CLOCK]} if choice is None else {"tools": [CLOCK], "tool_choice": choice}
    status, told = assert_passes_unchanged(home, "/v1/chat/completions", messages=HELLO, max_tokens=8, **given)
    assert status == 400
    assert told["error"].keys() == {"message", "type", "param", "code"}
    with pytest.raises(openai.BadRequestError, match="--tool-call-parser to be set") as refused:
        ask(home, max_tokens=8, **given)
    assert refused.value.response.json() == told


def test_tools_that_may_not_be_called_leave_a_text(home: World) -> None:
    reply = ask(home, max_tokens=8, tools=[CLOCK], tool_choice="none")
    assert reply.choices[0].message.content
    assert not reply.choices[0].message.tool_calls


# --- constraints ------------------------------------------------------------------------------------------------------


def test_structured_output_is_parsed_by_the_client(home: World) -> None:
    reply = home.client.chat.completions.parse(
        model="auto", messages=HELLO, max_tokens=64, temperature=0, response_format=Colour
    )
    assert isinstance(reply.choices[0].message.parsed, Colour)
    response = home.client.responses.parse(
        model="auto", input=GREETING, max_output_tokens=64, temperature=0, text_format=Colour
    )
    assert isinstance(response.output_parsed, Colour)


@pytest.mark.parametrize(
    ("constraint", "allowed"),
    [
        ({"guided_json": SCHEMA}, r'\s*\{\s*"colour"\s*:\s*"(?:red|blue)"\s*\}\s*'),
        ({"guided_json": json.dumps(SCHEMA)}, r'\s*\{\s*"colour"\s*:\s*"(?:red|blue)"\s*\}\s*'),
        ({"guided_choice": COLOURS}, "red|blue"),
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"guided_grammar": 'root ::= "ja" | "nein"'}, "ja|nein"),
        ({"structured_outputs": {"choice": COLOURS}}, "red|blue"),
        ({"guided_choice": COLOURS, "guided_decoding_backend": "outlines"}, "red|blue"),
    ],
    ids=["json", "json as text", "choice", "regex", "grammar", "structured_outputs", "with a backend"],
)
def test_a_constraint_constrains_chat_completions_and_streams(
    home: World, constraint: dict[str, Any], allowed: str
) -> None:
    chat = ask(home, extra_body=constraint)
    chunks = ask(home, extra_body=constraint, stream=True)
    text = home.client.completions.create(
        model="auto", prompt=LINES, max_tokens=64, temperature=0, extra_body=constraint
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    replies = [chat.choices[0].message.content, streamed, text.choices[0].text]
    assert [reply for reply in replies if not re.fullmatch(allowed, reply)] == []


@pytest.mark.parametrize(
    "pair",
    [
        {"guided_json": SCHEMA, "guided_choice": COLOURS},
        {"guided_regex": "[0-9]+", "structured_outputs": {"choice": COLOURS}},
        {"guided_choice": COLOURS, "response_format": FORMAT},
    ],
    ids=["guided twice", "guided and structured_outputs", "guided and response_format"],
)
def test_two_constraints_at_once_are_refused(home: World, pair: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="give one constraint") as refused:
        ask(home, extra_body=pair)
    assert refused.value.code == "conflicting_constraints"


def test_a_response_is_constrained_in_its_own_way_and_refuses_the_old_one(home: World) -> None:
    given: Any = {"model": "auto", "input": GREETING, "max_output_tokens": 64, "temperature": 0}
    reply = home.client.responses.create(**given, extra_body={"structured_outputs": {"choice": COLOURS}})
    assert reply.output_text in COLOURS
    with pytest.raises(openai.BadRequestError, match=r"text\.format") as refused:
        home.client.responses.create(**given, extra_body={"guided_choice": COLOURS})
    assert refused.value.code == "unsupported_constraint"


# --- responses, messages, embeddings ----------------------------------------------------------------------------------


def test_responses_whole_and_streamed(home: World) -> None:
    given: Any = {"model": CORE, "input": GREETING, "max_output_tokens": 8, "temperature": 0}
    whole = home.client.responses.create(**given)
    assert whole.model == CORE
    assert whole.output_text
    assert whole.usage is not None
    assert 0 < whole.usage.output_tokens <= 8
    told = list(home.client.responses.create(**given, stream=True))
    assert told[0].type == "response.created"
    assert {event.response.model for event in told if hasattr(event, "response")} == {CORE}
    last: Any = told[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text
    deltas = [event.delta for event in told if event.type == "response.output_text.delta"]
    assert "".join(deltas) == last.response.output_text


def test_a_response_is_not_kept_by_an_engine_that_keeps_none(home: World) -> None:
    reply = home.client.responses.create(model="auto", input="Say hello.", max_output_tokens=2)
    with pytest.raises(openai.NotFoundError, match="not found") as refused:
        home.client.responses.retrieve(reply.id)
    assert refused.value.response.json()["error"]["param"] == "response_id"


def test_messages_whole_and_streamed_in_anthropics_form(home: World) -> None:
    given: Any = {"model": CORE, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    status, whole = post(home.port, "/v1/messages", **given)
    assert status == 200
    assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", CORE)
    assert [block["type"] for block in whole["content"]] == ["text"]
    assert whole["content"][0]["text"]
    assert whole["stop_reason"] in ("end_turn", "max_tokens")
    assert 0 < whole["usage"]["output_tokens"] <= 8
    told = events(home.port, "/v1/messages", **given)
    assert [name for name, event in told if name != event["type"]] == []
    names = [name for name, _ in told]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    assert told[0][1]["message"]["model"] == CORE
    assert "".join(event["delta"]["text"] for name, event in told if name == "content_block_delta")
    assert told[-2][1]["delta"]["stop_reason"] in ("end_turn", "max_tokens")
    assert 0 < told[-2][1]["usage"]["output_tokens"] <= 8


def test_messages_refuse_in_anthropics_form(home: World) -> None:
    given: Any = {"messages": HELLO, "max_tokens": WINDOW + 1}
    status, told = post(home.port, "/v1/messages", model="auto", **given)
    assert (status, told["type"]) == (400, "error")
    assert told["error"]["message"].startswith(f"max_tokens {WINDOW + 1} > {WINDOW} - 0. ")


def test_a_model_that_generates_has_no_embeddings_and_the_client_hears_it_in_its_own_shape(home: World) -> None:
    with pytest.raises(openai.NotFoundError, match="does not serve /v1/embeddings") as refused:
        home.client.embeddings.create(model="auto", input="one two")
    assert refused.value.code == "not_served_by_engine"
    for path, body in (
        ("/v1/score", {"text_1": "one", "text_2": "two"}),
        ("/v1/rerank", {"query": "one", "documents": ["two"]}),
    ):
        status, told = post(home.port, path, model="auto", **body)
        assert (status, told["error"]["code"]) == (404, "not_served_by_engine")
    # A name that means nothing is the proxy's to refuse, on this path too.
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        home.client.embeddings.create(model="text-embedding-3-small", input="one two")


# --- what counts and tells --------------------------------------------------------------------------------------------


def test_text_is_counted_cut_and_put_together_again(home: World) -> None:
    text = "Straße 42 grüßt 🙂"
    status, cut = post(home.port, "/tokenize", model="auto", prompt=text, add_special_tokens=False)
    assert status == 200
    assert (cut["count"], cut["max_model_len"]) == (len(cut["tokens"]), WINDOW)
    assert post(home.port, "/detokenize", model="auto", tokens=cut["tokens"]) == (200, {"prompt": text})


def test_a_prompt_has_the_same_length_wherever_it_is_counted(home: World) -> None:
    told = ask(home, max_tokens=1).usage.prompt_tokens
    assert post(home.port, "/tokenize", model="auto", messages=HELLO)[1]["count"] == told
    counted = post(home.port, "/v1/messages/count_tokens", model="auto", messages=HELLO)[1]
    assert counted["input_tokens"] == told


def test_version_models_and_health_are_the_engines(home: World) -> None:
    version = send(home.port, "GET", "/version")
    assert json.loads(version[1]) == json.loads(send(home.engine_port, "GET", "/version")[1])
    assert re.match(r"0\.32\.", json.loads(version[1])["version"])
    base = home.client.models.list().data[0]
    assert base.id == SERVED
    assert (base.model_extra or {})["max_model_len"] == WINDOW
    well = {"status": "ok", "model_loaded": True, "engine": "vllm", "mode": "active", "active_inference": 0}
    until(lambda: json.loads(send(home.port, "GET", "/health")[1]) == well, 10, "nothing is asked of the engine")
    assert send(home.port, "GET", "/health")[0] == 200
    assert send(home.port, "GET", "/ping") == (200, "")


# --- limits -----------------------------------------------------------------------------------------------------------

PICTURE: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}]}]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "x", "prompt_embeds": "AAAA"}, "prompt_embeds"),
        ("/v1/chat/completions", {"messages": HELLO, "chat_template": "{{ 1 }}"}, "chat_template"),
        ("/v1/chat/completions", {"messages": HELLO, "cache_salt": "another's"}, "cache_salt"),
        ("/v1/chat/completions", {"messages": PICTURE}, "messages.content"),
        ("/v1/messages", {"messages": HELLO, "cache_salt": "another's"}, "cache_salt"),
        ("/v1/responses", {"input": "x", "cache_salt": "another's"}, "cache_salt"),
        ("/tokenize", {"messages": HELLO, "chat_template": "{{ 1 }}"}, "chat_template"),
    ],
)
def test_what_makes_the_engine_fetch_unpack_or_run_something_never_reaches_it(
    home: World, path: str, body: dict[str, Any], param: str
) -> None:
    before = posts_seen(home)
    # One that is served is counted, so the count would tell.
    assert post(home.port, "/tokenize", model="auto", prompt="x")[0] == 200
    until(lambda: posts_seen(home) == before + 1, 5, "the engine counts what it serves")
    url = f"http://127.0.0.1:{home.port}{path}"
    with pytest.raises(openai.BadRequestError, match=r"refused here.*proxy\.limits\.allow_") as refused:
        home.client.post(url, cast_to=object, body={"model": "auto", "max_tokens": 1, **body})
    assert (refused.value.code, refused.value.param) == ("field_not_allowed", param)
    assert posts_seen(home) == before + 1


# --- more than the window ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": HELLO}, "max_tokens"),
        ("/v1/chat/completions", {"messages": HELLO}, "max_completion_tokens"),
        ("/v1/completions", {"prompt": LINES}, "max_tokens"),
    ],
)
def test_who_asks_for_more_than_the_window_learns_what_to_ask_for_and_gets_it(
    home: World, path: str, body: dict[str, Any], field: str
) -> None:
    # However many tokens it may have, this reply is short.
    asked = {"model": CORE, **body, "guided_choice": COLOURS, "temperature": 0}
    status, told = send(home.port, "POST", path, {**asked, field: 5000})
    assert status == 400, told
    room = ROOM.search(told[:500])
    assert room is not None, told
    assert json.loads(told)["error"]["message"].startswith(f"max_tokens 5000 > {WINDOW} - 0. ")
    left = int(room[1]) - int(room[2])
    assert 0 < left < 5000
    status, reply = post(home.port, path, **{**asked, field: left})
    assert status == 200, reply
    choice = reply["choices"][0]
    assert (choice["message"]["content"] if "message" in choice else choice["text"]) in COLOURS


def test_a_prompt_that_alone_is_too_long_is_refused_in_the_engines_own_words(home: World) -> None:
    long: Any = [{"role": "user", "content": "word " * (WINDOW + 50)}]
    status, told = assert_passes_unchanged(home, "/v1/chat/completions", messages=long, max_tokens=8)
    assert status == 400
    assert f"maximum context length is {WINDOW} tokens" in told["error"]["message"]
    assert ROOM.search(told["error"]["message"]) is None


# --- clients that leave -----------------------------------------------------------------------------------------------

LONG: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1900}),
    "completions": ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 1900}),
    "responses": ("/v1/responses", {"input": "Say hello.", "max_output_tokens": 1900}),
}
"""Each keeps the small model busy on a CPU for far longer than a client here stays."""


def request_bytes(path: str, body: Mapping[str, Any]) -> bytes:
    """A request as it is on the wire, so that the socket, and the moment it is closed, are the test's own."""
    sent = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: gaiad\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    return head.encode() + sent


def read_until(client: socket.socket, mark: bytes, times: int) -> bytes:
    """What came until `mark` was seen so often."""
    got = b""
    while got.count(mark) < times:
        piece = client.recv(65536)
        assert piece, got
        got += piece
    return got


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", LONG)
def test_the_engine_stops_within_two_seconds_of_a_client_that_leaves(home: World, form: str, is_streamed: bool) -> None:
    until(lambda: not running_in_engine(home), 30, "the engine is idle before")
    path, body = LONG[form]
    request = request_bytes(path, {"model": "auto", "ignore_eos": True, "stream": is_streamed, **body})
    with socket.create_connection(("127.0.0.1", home.port), timeout=60) as client:
        client.sendall(request)
        if is_streamed:
            assert read_until(client, b"data: ", 6).startswith(b"HTTP/1.1 200 ")
        until(lambda: running_in_engine(home), 30, "the engine works on the request")
    until(lambda: not running_in_engine(home), LEFT_S, "the engine stops")


def test_the_engine_stops_within_two_seconds_of_a_client_that_closes_its_stream(home: World) -> None:
    until(lambda: not running_in_engine(home), 30, "the engine is idle before")
    stream = ask(home, max_tokens=1900, stream=True, extra_body={"ignore_eos": True})
    assert sum(1 for _, _ in zip(range(4), stream, strict=False)) == 4
    until(lambda: running_in_engine(home), 30, "the engine works on the request")
    stream.close()
    until(lambda: not running_in_engine(home), LEFT_S, "the engine stops")
    # The next one is served as ever.
    assert ask(home, max_tokens=2).choices[0].message.content
