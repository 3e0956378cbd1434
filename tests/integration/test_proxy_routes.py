"""The proxy before a fake engine process, through the real `openai` client and plain HTTP: names, shapes, refusals."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from gaiad.adapter import AdapterName
from gaiad.errors import ConfigError, Refuse, StoreError
from gaiad.exchange import Judgement
from gaiad.proxy.app import listen
from gaiad.proxy.sse import EventParser
from tests.fakes.proxy_world import ACTIVE, FORMER, Facts, World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, running_vllm

MESSAGES: Any = [{"role": "user", "content": "Wie spät ist es?"}]
SCHEMA = {"type": "object", "required": ["tool"], "properties": {"tool": {"enum": ["clock"]}}}


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[RunningVllm]:
    with running_vllm(api_key="secret") as fake:
        yield fake


@pytest_asyncio.fixture
async def engine(shared_engine: RunningVllm) -> RunningVllm:
    await shared_engine.reset(ACTIVE, FORMER)
    return shared_engine


@pytest_asyncio.fixture
async def world(engine: RunningVllm) -> AsyncIterator[World]:
    world = world_of(engine.url, max_body_bytes=20_000, exchange_routes=True)
    world.api_key = "secret"
    async with serving(world):
        yield world


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as made:
        yield made


async def post(world: World, body: object, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.url + path, data=raw, headers={"Content-Type": "application/json", **named}) as response,
    ):
        text = await response.text()
        return response.status, response.headers, json.loads(text) if text.startswith("{") else text


@pytest.mark.parametrize(
    ("model", "stage", "upstream", "label"),
    [
        ("auto", "tool_selection", ACTIVE, ACTIVE),
        ("/models/prime", "tool_review", ACTIVE, ACTIVE),
        ("/models/core", "generation", "fake-base", "base"),
        ("fake-base", "base", "fake-base", "base"),
        ("json-architect", "generation", ACTIVE, ACTIVE),
        (FORMER, "tool_selection", FORMER, FORMER),
        ("gaia:confidence", None, ACTIVE, ACTIVE),
    ],
)
async def test_the_version_serves_and_the_client_reads_the_name_it_asked_for(
    engine: RunningVllm, client: openai.AsyncOpenAI, model: str, stage: str | None, upstream: str, label: str
) -> None:
    headers = {"X-Gaia-Stage": stage} if stage else {}
    whole = await client.chat.completions.with_raw_response.create(
        model=model, messages=MESSAGES, extra_headers=headers
    )
    reply = whole.parse()
    assert reply.model == model
    assert reply.choices[0].message.content == f"[{upstream}] grüße 🙂 Wie spät ist es?"
    assert whole.headers["X-Gaia-Adapter"] == label
    assert whole.headers["X-Gaia-Arm"] == "none"
    assert whole.headers["X-Gaia-Stage"] == (stage or "confidence")
    assert whole.headers["X-Gaia-Stage-Reason"] == ("header" if stage else "model")
    assert whole.headers["X-Gaia-Request-Id"].startswith("gaia-")

    stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True, extra_headers=headers)
    chunks = [chunk async for chunk in stream]
    assert {chunk.model for chunk in chunks} == {model}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == f"[{upstream}] grüße 🙂 Wie spät ist es?"
    assert [row["body"]["model"] for row in await engine.seen()] == [upstream, upstream]


async def test_without_a_model_the_reply_names_the_base(world: World) -> None:
    status, _, body = await post(world, {"messages": MESSAGES}, X_Gaia_Stage="tool_selection")
    assert (status, body["model"]) == (200, "fake-base")
    assert "[json-architect@v1" in body["choices"][0]["message"]["content"]


async def test_completions_work_streamed_and_not(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="auto", prompt="hi there")
    stream = await client.completions.create(model="auto", prompt="hi there", stream=True)
    chunks = [chunk async for chunk in stream]
    assert whole.choices[0].text == "[fake-base] grüße 🙂 hi there"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert {chunk.model for chunk in chunks} == {"auto"}


async def test_the_models_are_the_base_and_the_active_aliases(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["fake-base", "json-architect"]


@pytest.mark.parametrize("model", ["gaia-voice", "gpt-4o", "gaia:nonsense", "json-architect@v9-00000000"])
async def test_an_unknown_model_does_not_exist_and_never_reaches_the_engine(
    engine: RunningVllm, client: openai.AsyncOpenAI, world: World, model: str
) -> None:
    world.gate.is_open = False
    with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
        await client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert await engine.seen() == []


async def test_our_fields_stay_here_and_the_engine_gets_its_key(engine: RunningVllm, world: World) -> None:
    body = {"messages": MESSAGES, "metadata": {"gaia_stage": "intent", "trace": "t"}, "guided_json": SCHEMA, "top_k": 5}
    status, headers, reply = await post(world, body, Authorization="Bearer theirs", X_Gaia_User="ada", Cookie="a=b")
    assert status == 200
    assert headers["X-Gaia-Stage-Reason"] == "metadata"
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"tool": "clock"}
    (row,) = await engine.seen()
    assert row["body"] == {
        "messages": MESSAGES,
        "metadata": {"trace": "t"},
        "top_k": 5,
        "model": ACTIVE,
        "structured_outputs": {"json": SCHEMA},
    }
    assert row["headers"]["Authorization"] == "Bearer secret"
    assert not {"X-Gaia-User", "Cookie"} & set(row["headers"])


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"messages": [}', "line 1, column 15"),
        (b"[]", "must be a JSON object"),
        (b'{"guided_json": {}, "guided_regex": "a"}', "cannot be combined"),
        (b'{"metadata": {"gaia_stage": "nonsense"}}', "Stages are: base"),
    ],
)
async def test_bad_input_is_told_what_is_wrong_even_while_the_gate_is_closed(
    world: World, raw: bytes, text: str
) -> None:
    world.gate.is_open = False
    status, headers, body = await post(world, raw)
    assert status == 400
    assert text in body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"
    assert headers["X-Gaia-Request-Id"]


async def test_a_body_at_the_limit_passes_and_one_above_is_refused(world: World) -> None:
    limit = world.config.proxy.max_body_bytes
    frame = len(json.dumps({"messages": [{"role": "user", "content": ""}]}))
    fits = {"messages": [{"role": "user", "content": "a" * (limit - frame)}]}
    assert (await post(world, fits))[0] == 200
    fits["messages"][0]["content"] += "a"
    status, _, body = await post(world, fits)
    assert status == 413
    assert "20000 bytes" in body["error"]["message"]
    assert "proxy.max_body_bytes" in body["error"]["message"]
    bomb = gzip.compress(b'{"messages": "' + b"a" * 1_000_000 + b'"}')
    assert (await post(world, bomb, Content_Encoding="gzip"))[0] == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/load_lora_adapters", 404),
        ("POST", "/sleep", 404),
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/health", 405),
    ],
)
async def test_any_other_path_or_method_is_refused_in_the_same_shape(
    world: World, engine: RunningVllm, method: str, path: str, status: int
) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, world.url + path) as response:
        assert response.status == status
        assert set((await response.json())["error"]) == {"message", "type", "param", "code"}
    assert await engine.seen() == []


async def test_what_the_engine_refuses_passes_unchanged(world: World) -> None:
    status, _, body = await post(world, {"prompt": "no messages"})
    assert (status, body["error"]["type"]) == (400, "Bad Request")
    assert "Field required" in body["error"]["message"]


async def test_an_unknown_engine_is_waited_for_before_a_name_is_refused(world: World) -> None:
    world.facts, world.gate.is_open = None, False
    async with asyncio.TaskGroup() as group:
        known = group.create_task(post(world, {"model": "fake-base", "messages": MESSAGES}))
        unknown = group.create_task(post(world, {"model": "gpt-4o", "messages": MESSAGES}))
        await world.gate.until_held(2)
        world.facts = Facts(served_name="fake-base")
        world.gate.open()
    assert known.result()[0] == 200
    assert unknown.result()[0] == 404


@pytest.mark.parametrize(
    ("status", "http"), [("starting", 200), ("ok", 200), ("training", 200), ("degraded", 200), ("down", 503)]
)
async def test_health_is_json_and_never_claims_another_engine(world: World, status: str, http: int) -> None:
    world.health = {"status": status, "model_loaded": True, "mode": "active", "active_inference": 0}
    async with aiohttp.ClientSession() as session, session.get(f"{world.url}/health") as response:
        assert response.status == http
        assert await response.json() == {**world.health, "engine": "vllm"}


async def test_feedback_refers_to_a_reply_that_just_went_out(world: World) -> None:
    _, headers, _ = await post(world, {"messages": MESSAGES})
    request_id = headers["X-Gaia-Request-Id"]
    asked = {"request_id": request_id, "verdict": "bad", "correction": "so"}
    assert (await post(world, asked, "/v1/feedback"))[0] == 200
    assert world.feedback == [(request_id, Judgement("bad", "so"))]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{world.url}/v1/gaia/exchanges/{request_id}") as response:
            assert (await response.json())["durable"] is True
        async with session.get(f"{world.url}/v1/gaia/exchanges/gaia-none") as response:
            assert response.status == 404
    world.feedback_refusal = Refuse("the exchange was not kept", "grant a purpose first")
    assert (await post(world, asked, "/v1/feedback"))[0] == 409
    status, _, body = await post(world, {"request_id": "gaia-none", "verdict": "bad"}, "/v1/feedback")
    assert (status, "`gaia-none`" in body["error"]["message"]) == (404, True)
    assert (await post(world, {"verdict": "bad"}, "/v1/feedback"))[0] == 400
    assert (await post(world, {**asked, "correction": 5}, "/v1/feedback"))[0] == 400


async def test_what_is_kept_of_a_person_is_shown_to_them_alone(world: World) -> None:
    world.grants["ada"] = frozenset({"log"})
    adas = await request_id_of(world, X_Gaia_User="ada")
    nobodys = await request_id_of(world)
    for headers, seen in (({"X-Gaia-User": " ada "}, True), ({"X-Gaia-User": "bob"}, False), ({}, False)):
        assert (await exchange(world, adas, headers))[0] == (200 if seen else 404)
        assert await exchange(world, nobodys, headers) == (
            200,
            {"request_id": nobodys, "user": None, "durable": True},
        )
    unseen, unknown = await exchange(world, adas, {}), await exchange(world, "gaia-none", {})
    assert json.dumps(unseen).replace(adas, "gaia-none") == json.dumps(unknown)


async def test_a_caller_without_a_name_is_who_the_owner_says(world: World) -> None:
    consent = dataclasses.replace(world.config.consent, anonymous_user="ada")
    world.config = dataclasses.replace(world.config, consent=consent)
    world.grants["ada"] = frozenset({"log"})
    async with serving(world):
        adas = await request_id_of(world)
        assert (await exchange(world, adas, {}))[0] == 200
        assert (await exchange(world, adas, {"X-Gaia-User": "bob"}))[0] == 404
        assert (await exchange(world, adas, {"X-Gaia-User": "x" * 201}))[0] == 404


async def test_who_says_who_they_are_may_judge_their_own_replies_only(world: World) -> None:
    world.grants["ada"] = frozenset({"log"})
    adas = await request_id_of(world, X_Gaia_User="ada")
    asked = {"request_id": adas, "verdict": "bad"}
    status, _, body = await post(world, asked, "/v1/feedback", X_Gaia_User="bob")
    assert (status, body["error"]["code"]) == (404, "unknown_exchange")
    assert (await post(world, {**asked, "user": "bob"}, "/v1/feedback"))[0] == 404
    assert (await post(world, asked, "/v1/feedback", X_Gaia_User="x" * 201))[0] == 404
    assert world.feedback == []
    assert (await post(world, asked, "/v1/feedback", X_Gaia_User="ada"))[0] == 200
    assert (await post(world, {**asked, "user": "ada"}, "/v1/feedback"))[0] == 200
    assert (await post(world, asked, "/v1/feedback"))[0] == 200
    assert len(world.feedback) == 3


async def test_a_verdict_is_one_word_in_any_case(world: World) -> None:
    request_id = await request_id_of(world)
    assert (await post(world, {"request_id": request_id, "verdict": " Good "}, "/v1/feedback"))[2]["verdict"] == "good"
    assert world.feedback == [(request_id, Judgement("good"))]
    for verdict in ("very good", "", "👍", "x" * 33, 5, None):
        status, _, body = await post(world, {"request_id": request_id, "verdict": verdict}, "/v1/feedback")
        assert (status, body["error"]["param"]) == (400, "verdict")


async def test_feedback_may_hold_a_score_from_0_to_1_and_a_note(world: World) -> None:
    asked = {"request_id": await request_id_of(world), "verdict": "good"}
    assert (await post(world, {**asked, "score": 1, "note": "n" * 4000}, "/v1/feedback"))[0] == 200
    assert world.feedback == [(asked["request_id"], Judgement("good", None, 1, "n" * 4000))]
    wrong: list[tuple[str, object]] = [("note", "n" * 4001), ("note", 5)]
    wrong += [("score", value) for value in (1.01, -0.01, True, "1", float("nan"), float("inf"), 10**400)]
    for name, value in wrong:
        assert (await post(world, {**asked, name: value}, "/v1/feedback"))[0] == 400, (name, value)
    assert len(world.feedback) == 1


async def request_id_of(world: World, **headers: str) -> str:
    _, told, _ = await post(world, {"messages": MESSAGES}, **headers)
    return str(told["X-Gaia-Request-Id"])


async def exchange(world: World, request_id: str, headers: dict[str, str]) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{world.url}/v1/gaia/exchanges/{request_id}", headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_no_depth_of_nesting_is_a_fault_of_ours(world: World) -> None:
    for depth in range(940, 1000):
        raw = b'{"messages": [], "a": ' + b"[" * depth + b"]" * depth + b"}"
        status, _, body = await post(world, raw)
        assert status == 200 or "nested too deeply" in body["error"]["message"], (depth, body)


async def test_a_store_that_cannot_be_read_is_one_sentence(world: World) -> None:
    world.store_failure = StoreError("the database is locked", hint="end the other gaiad")
    status, _, body = await post(world, {"request_id": "gaia-1", "verdict": "good"}, "/v1/feedback")
    assert (status, body["error"]["message"]) == (503, "The database is locked. End the other gaiad.")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_ours_reaches_its_own_client_only(
    world: World, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    # The one is met once the whole reply is here, the other at the end of a stream that has begun.
    monkeypatch.setattr("gaiad.proxy.inference.renamed_reply", broken)
    monkeypatch.setattr(EventParser, "close", broken)
    body = {"messages": MESSAGES, "stream": stream}
    if stream:
        with pytest.raises(aiohttp.ClientPayloadError):
            await post(world, body)
    else:
        status, headers, told = await post(world, body)
        assert status == 500
        assert headers["X-Gaia-Request-Id"] in told["error"]["message"]
    monkeypatch.undo()
    assert (await post(world, body))[0] == 200
    assert world.gate.running == 0


async def test_a_taken_port_is_one_clear_sentence(world: World) -> None:
    port = int(world.url.rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
        await listen(world.deps(), "127.0.0.1", port)
    assert "end the program that holds the port" in caught.value.hint


async def test_an_address_of_another_machine_is_told_apart_from_a_taken_port(world: World) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:") as caught:
        await listen(world.deps(), "192.0.2.1", 6430)
    assert "an address of this machine" in caught.value.hint


async def test_a_flipped_alias_is_used_by_the_next_request(world: World, client: openai.AsyncOpenAI) -> None:
    before = await client.chat.completions.create(model="json-architect", messages=MESSAGES)
    world.snapshot = dataclasses.replace(world.snapshot, active={AdapterName("json-architect"): FORMER})
    after = await client.chat.completions.create(model="json-architect", messages=MESSAGES)
    assert f"[{ACTIVE}]" in str(before.choices[0].message.content)
    assert f"[{FORMER}]" in str(after.choices[0].message.content)
