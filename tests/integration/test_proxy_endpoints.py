"""Which paths reach the engine, and that each of them answers under the name that was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gaiad.proxy.endpoints import ERRANDS, INFERENCE
from gaiad.proxy.sse import EventParser
from tests.fakes.proxy_world import ACTIVE, FORMER, Facts, World, serving, world_of
from tests.fakes.vllm_process import RunningVllm

MESSAGES: Any = [{"role": "user", "content": "eins zwei"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "eins zwei"},
    "/v1/responses": {"input": "eins zwei"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 100},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/embeddings": {"input": "eins zwei"},
    "/v1/score": {"text_1": "eins", "text_2": "zwei"},
    "/v1/rerank": {"query": "eins", "documents": ["zwei"]},
    "/tokenize": {"prompt": "eins zwei"},
    "/detokenize": {"tokens": [4, 4]},
}
NEVER = """
/adapters /adapters/x /sleep /wake_up /is_sleeping /pause /resume /is_paused /abort_requests /collective_rpc
/reset_prefix_cache /reset_mm_cache /reset_encoder_cache /server_info /start_profile /stop_profile /scale_elastic_ep
/is_scaling_elastic_ep /inference/v1/generate /inference/v1/abort_requests /invocations /v1/chat/completions/render
/v1/completions/render /v1/responses/render /v1/messages/render /v1/chat/completions/derender
/v1/completions/derender /tokenizer_info /docs /docs/oauth2-redirect /redoc /openapi.json /load /metrics /pooling
/classify /score /rerank /v2/rerank /v2/embed /v1/systemone /generative_scoring /kv_event_sources
/fault_tolerance/apply /fault_tolerance/status /init_weight_transfer_engine /shutdown_weight_transfer_engine
/start_weight_update /start_draft_weight_update /update_weights /finish_weight_update /update_weight_version
/weight_info /weight_checker /get_world_size /release_kv_cache_memory /v1/audio/transcriptions /v1/realtime
/slots /slots/0 /model/unload /model/swap /device/cpu /thought/list
"""


@pytest_asyncio.fixture
async def engine(shared_engine: RunningVllm) -> RunningVllm:
    await shared_engine.reset(ACTIVE, FORMER)
    return shared_engine


@pytest_asyncio.fixture
async def world(engine: RunningVllm) -> AsyncIterator[World]:
    async with serving(world_of(engine.url)) as world:
        yield world


async def ask(
    world: World, path: str, body: object = None, method: str = "POST", **headers: str
) -> tuple[int, Any, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, world.url + path, json=body, headers=named) as response,
    ):
        return response.status, response.headers, await response.read()


class Wire:
    """One connection on which paths are sent as they stand, however they are written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def status(self, method: str, target: str) -> tuple[int, bytes]:
        self._writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), await self._reader.readexactly(length)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def wire(world: World) -> Wire:
    host, _, port = world.url.removeprefix("http://").rpartition(":")
    return Wire(*await asyncio.open_connection(host, int(port)))


def spellings(path: str) -> list[str]:
    """Ways to write a path that somebody may take for the same."""
    first = f"%{ord(path[1]):02x}"
    return [
        path,
        path + "/",
        "/" + path,
        path.replace("/", "//"),
        "/" + first + path[2:],
        "/" + first.replace("%", "%25") + path[2:],
        "/v1/.." + path,
        "/v1/%2e%2e" + path,
        "/v1/chat/completions/.." + path,
        "/v1/chat/completions%2f..%2f.." + path,
        "/v1/responses/.." + path,
        "/v1/responses/resp_1/../.." + path,
        "/." + path,
        path + "?model=auto",
        path + "?/v1/chat/completions",
        path + "#/v1/models",
        path + ";/v1/models",
        path + "%00",
        "http://x" + path,
    ]


async def test_nothing_else_reaches_the_engine_however_it_is_written(engine: RunningVllm, world: World) -> None:
    before = await engine.asked()
    line = await wire(world)
    for path in NEVER.split():
        for target in spellings(path):
            for method in ("GET", "POST"):
                status, body = await line.status(method, target)
                assert status == 404, (method, target)
                assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    await line.close()
    assert await engine.asked() == before


async def test_what_is_forwarded_goes_to_the_path_in_the_list_without_query_or_encoding(
    engine: RunningVllm, world: World
) -> None:
    before = await engine.asked()
    line = await wire(world)
    for target in ("/v1/%63ompletions", "/v1/completions?x=/sleep", "/v1/completions#/sleep", "/v1%2fcompletions"):
        await line.status("POST", target)
    for target in ("/v1/completions/", "/v1//completions", "/v1/x/../completions"):
        assert (await line.status("POST", target))[0] == 404
    await line.close()
    assert (await engine.asked())[len(before) :] == ["POST /v1/completions"] * 4


@pytest.mark.parametrize("path", [*INFERENCE, *ERRANDS])
@pytest.mark.parametrize(
    ("model", "named"), [("auto", None), ("json-architect", ACTIVE), (FORMER, FORMER), (None, None)]
)
async def test_each_path_is_served_and_names_the_model_that_was_asked_for(
    engine: RunningVllm, world: World, path: str, model: str | None, named: str | None
) -> None:
    await engine.fault(embeds=True)
    body = {**BODIES[path], **({"model": model} if model else {})}
    status, headers, raw = await ask(world, path, body, X_Gaia_Stage="tool_selection")
    assert status == 200
    told = json.loads(raw).get("model")
    assert told in (None, model or "fake-base")
    assert (told is None) == ("token" in path)
    # A stage has its adapter; what only counts or measures has the base, unless an adapter is named.
    served = named or (ACTIVE if path in INFERENCE else "fake-base")
    (row,) = await engine.seen(path)
    assert row["body"] == {**BODIES[path], "model": served}
    assert headers["X-Gaia-Adapter"] == ("base" if served == "fake-base" else served)
    assert headers["X-Gaia-Request-Id"] in row["headers"].values()
    assert [lease.version for lease in world.gate.leases] == [None if served == "fake-base" else served]
    assert world.gate.running == 0


@pytest.mark.parametrize("path", INFERENCE)
@pytest.mark.parametrize("model", ["auto", "json-architect", 'a "quoted" näme'])
@pytest.mark.parametrize("split", [0, 1])
async def test_every_event_of_a_stream_names_the_model_that_was_asked_for(
    engine: RunningVllm, path: str, model: str, split: int
) -> None:
    await engine.fault(split_bytes=split)
    world = world_of(engine.url, base_names=('a "quoted" näme',))
    asked = {**BODIES[path], "model": model, "stream": True, "metadata": {"model": "mine"}}
    engines = {**asked, "model": ACTIVE if model == "json-architect" else "fake-base"}
    async with serving(world):
        status, headers, ours = await ask(world, path, asked)
        async with aiohttp.ClientSession() as session:
            theirs = await (await session.post(engine.url + path, json=engines)).read()
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
    assert b'"fake-base"' not in ours
    assert f'"{ACTIVE}"'.encode() not in ours
    assert unstamped(ours) == [renamed(event, engines["model"], model) for event in unstamped(theirs)]
    record = await world.record()
    assert (record.complete, record.streamed, record.finish_reason) == (True, True, "stop")
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)


def unstamped(stream: bytes) -> list[tuple[bytes, Any]]:
    """The events of a stream: what is not JSON as bytes, and the JSON without what differs from one to the next."""
    told = []
    for event in EventParser().feed(stream):
        if event.payload is None or event.payload == b"[DONE]":
            told.append((event.raw, None))
            continue
        frame, payload = event.raw.replace(event.payload, b""), json.loads(event.payload)
        for one in (payload, payload.get("response"), payload.get("message")):
            if isinstance(one, dict):
                for key in ("id", "created", "created_at"):
                    one.pop(key, None)
        told.append((frame, payload))
    return told


def renamed(event: tuple[bytes, Any], told: str, asked: str) -> tuple[bytes, Any]:
    frame, payload = event
    for one in (payload, (payload or {}).get("response"), (payload or {}).get("message")):
        if isinstance(one, dict) and one.get("model") == told:
            one["model"] = asked
    return frame, payload


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_said_in_these_forms_is_judged_and_kept(
    engine: RunningVllm, world: World, path: str, stream: bool
) -> None:
    await engine.fault(reply='{"tool": "a"}')
    world.grants["ada"] = frozenset({"log"})
    world.schemas["tool_selection"] = {"type": "object", "required": ["tool"]}
    body = {**BODIES[path], "model": "auto", "stream": stream}
    await ask(world, path, body, X_Gaia_Stage="tool_selection", X_Gaia_User="ada")
    record = await world.record()
    assert (record.version, record.valid, record.stage, record.request) == (ACTIVE, True, "tool_selection", body)
    assert record.response is not None
    assert record.response["model"] == "auto"
    kept: Any = record.response
    texts = kept["content"] if path == "/v1/messages" else kept["output"][0]["content"]
    assert texts[0]["text"] == '{"tool": "a"}'
    assert (world.outcomes[0].schema_ok, world.outcomes[0].empty) == (True, False)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_that_was_cut_off_or_calls_a_tool_is_known_in_these_forms(
    engine: RunningVllm, world: World, path: str, stream: bool
) -> None:
    await engine.fault(finish_reason="length")
    await ask(world, path, {**BODIES[path], "stream": stream})
    assert ((await world.record()).finish_reason, world.outcomes[0].truncated) == ("length", True)
    await engine.fault(finish_reason=None, reply="")
    await ask(world, path, {**BODIES[path], "stream": stream})
    assert world.outcomes[1].empty
    if not stream:
        await engine.fault(tool_calls=[{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}])
        await ask(world, path, BODIES[path])
        assert ((await world.record(3)).finish_reason, world.outcomes[2].empty) == ("tool_calls", False)


@pytest.mark.parametrize("path", ERRANDS)
async def test_an_errand_is_nobodys_request_leaves_no_row_and_is_no_evidence(
    engine: RunningVllm, world: World, path: str
) -> None:
    await engine.fault(embeds=True)
    world.grants["ada"] = frozenset({"log", "train"})
    assert (await ask(world, path, BODIES[path], X_Gaia_User="ada"))[0] == 200
    assert world.gate.asked == [False]
    assert (world.records, world.outcomes) == ([], [])


async def test_an_errand_waits_for_the_gate_and_an_unknown_name_does_not(engine: RunningVllm, world: World) -> None:
    world.gate.is_open = False
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ask(world, "/tokenize", BODIES["/tokenize"]))
        await world.gate.until_held(1)
        assert (await ask(world, "/tokenize", {**BODIES["/tokenize"], "model": "gpt-4o"}))[0] == 404
        world.gate.open()
    assert waiting.result()[0] == 200


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_a_constraint_that_this_path_would_drop_is_refused(engine: RunningVllm, world: World, path: str) -> None:
    for field, value in (("guided_json", {}), ("guided_choice", ["a"]), ("structured_outputs", {"choice": ["a"]})):
        status, _, raw = await ask(world, path, {**BODIES[path], field: value})
        if field == "structured_outputs" and path == "/v1/responses":
            assert status == 200
            world.facts = Facts(version="0.15.1")
            status, _, raw = await ask(world, path, {**BODIES[path], field: value})
            world.facts = Facts()
        assert status == 400, field
        assert json.loads(raw)["error"]["code"] == "unsupported_constraint"


async def test_a_response_in_the_background_is_refused_since_nobody_would_hold_its_lease(world: World) -> None:
    status, _, raw = await ask(world, "/v1/responses", {"input": "a", "background": True})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "background")
    assert (await ask(world, "/v1/responses", {"input": "a", "background": False}))[0] == 200


async def test_a_kept_response_is_read_under_the_name_it_was_asked_for(engine: RunningVllm, world: World) -> None:
    names = {"auto": "auto", "json-architect": "json-architect"}
    for model in names:
        asked = {"input": "a", "model": model}
        first = json.loads((await ask(world, "/v1/responses", asked, X_Gaia_Stage="tool_selection"))[2])
        status, headers, raw = await ask(world, f"/v1/responses/{first['id']}", method="GET")
        assert (status, json.loads(raw)) == (200, first)
        assert headers["X-Gaia-Request-Id"].startswith("gaia-")
    # Another gaiad does not remember, and calls it by the adapter's name.
    async with serving(world_of(engine.url)) as other:
        _, _, raw = await ask(other, f"/v1/responses/{first['id']}", method="GET")
        assert json.loads(raw)["model"] == "json-architect"
    assert world.gate.running == 0


async def test_a_response_is_cancelled_by_its_id_and_unknown_ids_are_the_engines_to_refuse(
    engine: RunningVllm, world: World
) -> None:
    first = json.loads((await ask(world, "/v1/responses", {"input": "a"}))[2])
    status, _, raw = await ask(world, f"/v1/responses/{first['id']}/cancel")
    assert (status, b"Cannot cancel" in raw) == (400, True)
    assert (await ask(world, "/v1/responses/resp_none", method="GET"))[0] == 404
    assert (await ask(world, "/v1/responses/resp_none?stream=true", method="GET"))[0] == 400
    assert (await ask(world, "/v1/responses/resp_none", method="DELETE"))[0] == 405
    assert (await ask(world, "/v1/responses/resp_none", {}))[0] == 405


async def test_a_kept_response_waits_for_the_gate_and_is_refused_where_it_stays_shut(engine: RunningVllm) -> None:
    async with serving(world_of(engine.url, hold_s=0.05)) as world:
        world.gate.is_open = False
        status, headers, _ = await ask(world, "/v1/responses/resp_1", method="GET")
    assert (status, int(headers["Retry-After"]) > 0) == (503, True)


async def test_the_version_is_the_engines_and_a_ping_is_empty(engine: RunningVllm, world: World) -> None:
    before = await engine.asked()
    assert json.loads((await ask(world, "/version", method="GET"))[2]) == {"version": "0.32.0"}
    world.facts = None
    assert (await ask(world, "/version", method="GET"))[0] == 503
    for method in ("GET", "POST"):
        world.health = {"status": "training"}
        assert (await ask(world, "/ping", method=method))[::2] == (200, b"")
        world.health = {"status": "down"}
        assert (await ask(world, "/ping", method=method))[0] == 503
    assert await engine.asked() == before
