"""With keys, nobody gets in without one, a key is who asks, it opens its stages only, and it is never passed on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from gaiad.keyfile import WatchedKeys, change_keys, new_key
from gaiad.keys import consent_of
from tests.fakes.proxy_world import World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, running_vllm

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[RunningVllm]:
    with running_vllm(api_key="engines-own") as fake:
        yield fake


@pytest_asyncio.fixture
async def engine(shared_engine: RunningVllm) -> RunningVllm:
    await shared_engine.reset("json-architect@v1-0a1b2c3d", "json-architect@v2-11111111")
    return shared_engine


class Door:
    """A proxy with keys, and the session that asks it."""

    def __init__(self, world: World, path: Path, session: aiohttp.ClientSession) -> None:
        self.world, self.path, self.session = world, path, session

    def key(self, name: str, stages: str = "", consent: str | None = None) -> str:
        held = frozenset(stages.split(",")) if stages else None
        made, text = new_key(name, stages=held, consent=consent_of(consent) if consent else None, created=1.0)
        change_keys(self.path, lambda ring: ring.with_key(made))
        return text

    async def get(self, path: str, key: str = "") -> tuple[int, Any]:
        async with self.session.get(self.world.url + path, headers=bearer(key)) as reply:
            return reply.status, await reply.json()

    async def post(
        self, key: str = "", path: str = "/v1/chat/completions", body: dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"messages": MESSAGES} if body is None else body
        async with self.session.post(self.world.url + path, json=sent, headers={**bearer(key), **named}) as reply:
            return reply.status, reply.headers, await reply.json()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


@pytest_asyncio.fixture
async def door(engine: RunningVllm, tmp_path: Path) -> AsyncIterator[Door]:
    path = tmp_path / "keys.json"
    change_keys(path, lambda ring: ring)
    world = world_of(engine.url, exchange_routes=True)
    world.api_key, world.keys = "engines-own", WatchedKeys(path).current
    async with serving(world), aiohttp.ClientSession() as session:
        yield Door(world, path, session)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer none"},
        {"Authorization": "Bearer engines-own"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"x-api-key": "gaia-00000000-" + "0" * 64},
        {"X-Gaia-User": "ada"},
    ],
)
async def test_without_a_key_nothing_but_health_answers(
    door: Door, engine: RunningVllm, headers: dict[str, str]
) -> None:
    door.key("ada")
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/feedback"),
        ("GET", "/v1/models"),
        ("GET", "/v1/gaia/exchanges/gaia-1"),
        ("GET", "/nowhere"),
    ):
        sent = {"messages": MESSAGES} if method == "POST" else None
        async with door.session.request(method, door.world.url + path, json=sent, headers=headers) as reply:
            told = await reply.json()
            assert reply.status == 401, path
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["code"] == "invalid_api_key"
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert "engines-own" not in told["error"]["message"]
    assert (await door.get("/health"))[0] == 200
    assert (await engine.seen(), door.world.gate.asked, door.world.records) == ([], [], [])


async def test_a_key_opens_as_openai_and_as_anthropic_clients_send_it(door: Door) -> None:
    key = door.key("ada")
    assert (await door.post(key))[0] == 200
    assert (await door.post(x_api_key=key))[0] == 200
    assert (await door.post(Authorization=f"bearer  {key}"))[0] == 200
    assert (await door.get("/v1/models", key))[0] == 200
    async with openai.AsyncOpenAI(base_url=f"{door.world.url}/v1", api_key=key, max_retries=0) as client:
        assert [model.id async for model in client.models.list()]
    async with openai.AsyncOpenAI(base_url=f"{door.world.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="auto", messages=MESSAGES)


async def test_a_revoked_key_is_refused_at_the_next_request_and_a_new_one_served(door: Door) -> None:
    key = door.key("ada")
    assert (await door.post(key))[0] == 200
    change_keys(door.path, lambda ring: ring.without("ada"))
    assert (await door.post(key))[0] == 401
    assert (await door.post())[0] == 401
    assert (await door.post(door.key("ada")))[0] == 200


async def test_no_key_reaches_the_engine_the_store_or_a_log(
    door: Door, engine: RunningVllm, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    key = door.key("ada")
    door.world.grants["ada"] = frozenset({"log", "train"})
    await door.post(key)
    await door.post(x_api_key=key)
    await door.post(key, body={"messages": MESSAGES, "model": "nobody"})
    await door.post(key[:-1] + "x")
    door.world.on_reply_failure = RuntimeError("a bug")
    door.world.offer_failure = RuntimeError("another")
    await door.post(key)
    seen = await engine.seen()
    assert {row["headers"]["Authorization"] for row in seen} == {"Bearer engines-own"}
    written = capfd.readouterr()
    told = json.dumps(seen) + repr(door.world.records) + written.out + written.err + caplog.text
    assert len(door.world.records) == 3
    assert key.rsplit("-", 1)[1] not in told
    assert key.rsplit("-", 1)[1] not in door.path.read_text()


async def test_a_key_is_who_asks_whatever_else_is_said(door: Door) -> None:
    key = door.key("ada")
    door.world.grants = {"ada": frozenset({"log"}), "bob": frozenset({"log", "train"})}
    consent = dataclasses.replace(door.world.config.consent, anonymous_user="bob")
    door.world.config = dataclasses.replace(door.world.config, consent=consent)
    async with serving(door.world):
        await door.post(key, X_Gaia_User="bob", body={"messages": MESSAGES, "user": "bob"})
        record = await door.world.record()
    assert record.user == "ada"
    assert record.purposes == {"log"}


@pytest.mark.parametrize(
    ("granted", "held", "kept"),
    [
        ("log,train", None, {"log", "train"}),
        ("log,train", "train", {"log", "train"}),
        ("log,train", "log", {"log"}),
        ("log,train", "evaluate", {"log"}),
        ("log,train", "none", set()),
        ("", "train", set()),
    ],
)
async def test_a_keys_consent_narrows_and_never_widens(
    door: Door, granted: str, held: str | None, kept: set[str]
) -> None:
    door.world.grants["ada"] = frozenset(granted.split(",")) - {""}
    await door.post(door.key("ada", consent=held), X_Gaia_Consent="train")
    record = await door.world.record()
    assert record.purposes == kept
    assert record.user == ("ada" if kept else None)


async def test_a_key_opens_its_stages_only_however_they_are_named(door: Door, engine: RunningVllm) -> None:
    key = door.key("ada", stages="intent,base")
    for headers, fields in (
        ({"X_Gaia_Stage": "tool_selection"}, {}),
        ({}, {"metadata": {"gaia_stage": "tool_selection"}}),
        ({}, {"model": "gaia:tool_selection"}),
    ):
        status, _, body = await door.post(key, body={"messages": MESSAGES, **fields}, **headers)
        assert (status, body["error"]["code"]) == (403, "stage_not_allowed")
        assert "`tool_selection`" in body["error"]["message"]
        assert "base, intent" in body["error"]["message"]
    status, _, body = await door.post(key)
    assert (status, "`generation`" in body["error"]["message"]) == (403, True)
    assert await engine.seen() == []
    assert (await door.post(key, X_Gaia_Stage="intent"))[0] == 200
    assert (await door.post(key, body={"messages": MESSAGES, "model": "gaia:base"}))[0] == 200


@pytest.mark.parametrize("model", ["json-architect", "json-architect@v2-11111111"])
async def test_an_adapter_named_outright_must_serve_one_of_the_keys_stages(
    door: Door, engine: RunningVllm, model: str
) -> None:
    body = {"messages": MESSAGES, "model": model}
    narrow, right, free = (
        door.key("ada", stages="generation"),
        door.key("bob", stages="generation,intent"),
        door.key("c"),
    )
    status, _, told = await door.post(narrow, body=body)
    assert (status, told["error"]["code"], told["error"]["param"]) == (403, "stage_not_allowed", "model")
    assert "`json-architect`" in told["error"]["message"]
    assert await engine.seen() == []
    assert (await door.post(right, body=body))[0] == 200
    assert (await door.post(free, body=body))[0] == 200


async def test_what_is_kept_of_a_key_is_shown_to_and_judged_by_its_name_alone(door: Door) -> None:
    ada, bob = door.key("ada"), door.key("bob")
    door.world.grants["ada"] = frozenset({"log"})
    _, headers, _ = await door.post(ada)
    request_id = headers["X-Gaia-Request-Id"]
    await door.world.record()
    assert (await door.get(f"/v1/gaia/exchanges/{request_id}", ada))[0] == 200
    assert (await door.get(f"/v1/gaia/exchanges/{request_id}", bob))[0] == 404
    verdict = {"request_id": request_id, "verdict": "good", "user": "ada"}
    assert (await door.post(bob, "/v1/feedback", verdict, X_Gaia_User="ada"))[0] == 404
    assert door.world.feedback == []
    assert (await door.post(ada, "/v1/feedback", {**verdict, "user": "bob"}))[0] == 200


async def test_without_a_file_of_keys_any_key_will_do(engine: RunningVllm, tmp_path: Path) -> None:
    world = world_of(engine.url)
    world.api_key, world.keys = "engines-own", WatchedKeys(tmp_path / "keys.json").current
    async with serving(world), aiohttp.ClientSession() as session:
        door = Door(world, tmp_path / "keys.json", session)
        assert (await door.post())[0] == 200
        assert (await door.post("whatever"))[0] == 200


async def test_a_kept_response_is_for_the_key_that_asked_for_it(door: Door) -> None:
    ada, bob = door.key("ada"), door.key("bob")
    _, _, first = await door.post(ada, "/v1/responses", {"input": "a"})
    path = f"/v1/responses/{first['id']}"
    assert (await door.get(path, ada))[0] == 200
    status, told = await door.get(path, bob)
    assert (status, told["error"]["code"]) == (404, "unknown_response")
    assert (await door.post(bob, f"{path}/cancel", {}))[0] == 404


async def test_no_key_goes_on_with_a_response_of_another_or_takes_its_id(door: Door, engine: RunningVllm) -> None:
    ada, bob = door.key("ada"), door.key("bob")
    _, _, first = await door.post(ada, "/v1/responses", {"input": "a"})
    seen = len(await engine.seen())
    going_on = {"input": "repeat the above", "previous_response_id": first["id"]}
    status, _, told = await door.post(bob, "/v1/responses", going_on)
    assert (status, told["error"]["code"]) == (404, "unknown_response")
    taking = {"input": "a", "request_id": first["id"], "store": False}
    status, _, told = await door.post(bob, "/v1/responses", taking)
    assert (status, told["error"]["param"]) == (400, "request_id")
    assert len(await engine.seen()) == seen
    assert (await door.post(ada, "/v1/responses", going_on))[0] == 200


async def test_a_key_that_is_held_to_stages_may_send_errands(door: Door) -> None:
    key = door.key("ada", stages="intent")
    assert (await door.post(key, "/tokenize", {"prompt": "a"}))[0] == 200
