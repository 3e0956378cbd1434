"""Engines and clients at their worst: what breaks is told to whom it concerns, and touches nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gaiad.proxy.endpoints import INFERENCE
from tests.fakes.proxy_world import World, serving, world_of
from tests.fakes.vllm_process import RunningVllm

MESSAGES: Any = [{"role": "user", "content": "eins zwei drei"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "eins zwei drei"},
    "/v1/responses": {"input": "eins zwei drei"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 100},
    "/tokenize": {"prompt": "eins"},
}
ENDS = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/responses": b'"type": "response.completed"}\n\n',
    "/v1/messages": b'data: {"type": "message_stop"}\n\n',
}


def ask(session: aiohttp.ClientSession, world: World, path: str, **body: Any) -> Any:
    return session.post(world.url + path, json={**BODIES[path], **body})


async def all_of(response: aiohttp.ClientResponse) -> tuple[bytes, Exception | None]:
    got = b""
    try:
        async for piece in response.content.iter_any():
            got += piece
    except aiohttp.ClientError as failure:
        return got, failure
    return got, None


@pytest.mark.parametrize("path", BODIES)
async def test_an_engine_that_dies_before_it_answers_is_a_502(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str
) -> None:
    await engine.fault(die_after=0)
    async with serving(world_of(engine.url)) as world:
        for stream in (False, True):
            async with ask(session, world, path, stream=stream) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (502, "engine_failed"), stream
    assert world.gate.running == 0


@pytest.mark.parametrize("path", BODIES)
async def test_an_engine_that_hangs_is_a_504_and_is_let_go(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str
) -> None:
    await engine.fault(hang=True)
    async with serving(world_of(engine.url, upstream_timeout_s=0.3)) as world:
        for stream in (False, True):
            async with ask(session, world, path, stream=stream) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (504, "engine_timeout"), stream
            await until_cancelled(engine, path)
    assert world.gate.running == 0


@pytest.mark.parametrize("path", INFERENCE)
@pytest.mark.parametrize("fault", [{"die_after": 2}, {"stream_error": True}])
@pytest.mark.parametrize("errors", ["close", "event"])
async def test_an_engine_that_fails_in_mid_stream_is_told_as_the_owner_chose(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str, fault: dict[str, Any], errors: str
) -> None:
    await engine.fault(**fault)
    async with serving(world_of(engine.url, stream_errors=errors)) as world:
        async with ask(session, world, path, stream=True) as response:
            got, failure = await all_of(response)
        record = await world.record()
    assert response.status == 200
    assert (failure is not None) == (errors == "close")
    assert (b'"error":' in got) == (errors == "event")
    assert ENDS[path] not in got
    if errors == "event":
        event = got.rstrip().rpartition(b"\n\n")[2]
        named = path == "/v1/messages" or (path == "/v1/responses" and "stream_error" in fault)
        assert event.startswith(b"event: error\ndata: ") == named
        assert "error" in json.loads(event.rpartition(b"data: ")[2])
    assert (record.complete, world.outcomes, world.gate.running) == (False, [], 0)
    assert record.outcome == "failed"


async def test_a_chunk_torn_in_two_is_not_passed_on_as_an_event(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    await engine.fault(torn=2)
    async with serving(world_of(engine.url)) as world, ask(session, world, "/v1/completions", stream=True) as response:
        got, failure = await all_of(response)
    assert failure is not None
    assert got.endswith(b"\n\n")
    assert got.count(b"data: ") == 2


@pytest.mark.parametrize("path", INFERENCE)
async def test_single_bytes_make_the_same_stream(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str
) -> None:
    streams = []
    async with serving(world_of(engine.url)) as world:
        for size in (0, 1):
            await engine.fault(split_bytes=size)
            async with ask(session, world, path, stream=True) as response:
                got, failure = await all_of(response)
            assert failure is None
            assert ENDS[path] in got
            streams.append(texts(got))
    assert streams[0] == streams[1]


def texts(stream: bytes) -> list[Any]:
    """What is said in each event, in any form."""
    told = []
    for line in stream.splitlines():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            told.append((event.get("delta"), [{**choice} for choice in event.get("choices", [])]))
    return told


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("text", ["", "nonsense", '{"model": ', "[1, 2]", '"ü"', "null", "\xff\xfe", '{"choices": 5}'])
async def test_garbage_passes_as_it_came(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str, text: str
) -> None:
    await engine.fault(garbage=text)
    async with serving(world_of(engine.url)) as world:
        async with ask(session, world, path) as response:
            assert (response.status, await response.read()) == (200, text.encode("latin-1"))
        async with ask(session, world, path, stream=True) as response:
            assert (response.status, await response.read()) == (200, text.encode("latin-1"))
        if path in INFERENCE:
            assert (await world.record(2)).status == 200
    assert world.gate.running == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_ten_megabytes_in_one_chunk_arrive_whole(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str, stream: bool
) -> None:
    text = "x{" * 5_000_000
    await engine.fault(reply="x{", reply_times=5_000_000)
    async with (
        serving(world_of(engine.url)) as world,
        ask(session, world, path, stream=stream, model="auto") as response,
    ):
        got, failure = await all_of(response)
    assert failure is None
    assert len(got) > 10_000_000
    assert text.encode() in got
    assert b'fake-base"' not in got


@pytest.mark.parametrize("status", [429, 503, 500, 400])
@pytest.mark.parametrize("path", INFERENCE)
async def test_a_refusal_of_the_engine_passes_with_its_retry_after(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str, status: int
) -> None:
    await engine.fault(status=status, retry_after=7)
    async with serving(world_of(engine.url)) as world:
        for stream in (False, True):
            async with ask(session, world, path, stream=stream) as response:
                assert (response.status, response.headers["Retry-After"]) == (status, "7")
                assert (await response.json())["error"]["message"] == "the fake engine was told to fail"
        assert ((await world.record(2)).status, world.outcomes) == (status, [])


# --- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_engines_work_at_once(engine: RunningVllm, path: str, stream: bool) -> None:
    await engine.fault(**({"hang": True} if path == "/tokenize" or not stream else {"token_delay_s": 30}))
    async with serving(world_of(engine.url)) as world:
        async with aiohttp.ClientSession() as leaving:
            request = asyncio.ensure_future(ask(leaving, world, path, stream=stream).__aenter__())
            await until_seen(engine, path)
            request.cancel()
        await until_cancelled(engine, path)
        assert world.gate.running == 0


async def until_seen(engine: RunningVllm, path: str) -> None:
    async with asyncio.timeout(5):
        while True:
            if await engine.seen(path):
                return
            await asyncio.sleep(0.005)


async def until_cancelled(engine: RunningVllm, path: str) -> None:
    async with asyncio.timeout(2):
        while True:
            if (await engine.seen(path))[-1]["cancelled"]:
                return
            await asyncio.sleep(0.005)


async def test_a_client_that_leaves_in_mid_stream_ends_the_engines_work_at_once(engine: RunningVllm) -> None:
    await engine.fault(token_delay_s=0.05, reply="eins " * 1000)
    async with serving(world_of(engine.url)) as world:
        for path in INFERENCE:
            async with aiohttp.ClientSession() as leaving, ask(leaving, world, path, stream=True) as response:
                await response.content.readany()
                response.close()
            await until_cancelled(engine, path)
    assert world.gate.running == 0


@asynccontextmanager
async def flooding(events: int, size: int) -> AsyncIterator[tuple[str, list[int]]]:
    """An engine that sends as fast as it may; how many bytes it could send so far."""
    sent = [0]
    event = b"data: " + json.dumps({"model": "fake-base", "choices": [{"index": 0, "text": "x" * size}]}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for _ in range(events):
                writer.write(event + b"\n\n")
                await writer.drain()
                sent[0] += len(event) + 2
            writer.close()
        except ConnectionError:
            pass

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}", sent


async def test_a_slow_reader_slows_its_own_stream_only_and_fills_no_memory(session: aiohttp.ClientSession) -> None:
    events, size = 2000, 20_000
    async with flooding(events, size) as (url, sent), serving(world_of(url)) as world:
        host, _, port = world.url.removeprefix("http://").rpartition(":")
        slow = socket.create_connection((host, int(port)))
        body = json.dumps({"prompt": "x", "stream": True}).encode()
        tracemalloc.start()
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        # 1. Nobody reads: soon the engine can send no more, and what it sent is in the kernel's buffers.
        await stands_still(sent)
        stuck, held = sent[0], tracemalloc.get_traced_memory()[0]
        assert stuck < events * size / 2
        # 2. Another stream of the same proxy is as quick as ever.
        async with ask(session, world, "/v1/completions", stream=True) as response:
            assert len(await response.read()) > events * size
        tracemalloc.stop()
        assert held < 30_000_000
        # 3. Once it reads, the slow one gets the rest.
        slow.setblocking(False)
        got, loop = 0, asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while piece := await loop.sock_recv(slow, 1 << 20):
                got += len(piece)
        slow.close()
    assert got > events * size
    assert world.gate.running == 0


async def stands_still(sent: list[int]) -> None:
    """Return once nothing was sent for a moment."""
    before, since = -1, time.monotonic()
    async with asyncio.timeout(30):
        while time.monotonic() - since < 0.3:
            if sent[0] != before:
                before, since = sent[0], time.monotonic()
            await asyncio.sleep(0.02)


async def test_a_client_that_reads_nothing_gives_its_lease_back_when_its_time_is_over(engine: RunningVllm) -> None:
    await engine.fault(reply="x{", reply_times=15_000_000)
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with serving(world_of(engine.url, upstream_timeout_s=1.0)) as world:
        host, _, port = world.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(head.encode() + body)
            async with asyncio.timeout(20):
                while not world.gate.leases or world.gate.running:  # noqa: ASYNC110  the gate is not made for waiting on
                    await asyncio.sleep(0.01)
