"""What clients send byte by byte: one request is one or none, nothing of it leaks, and nobody sends for ever."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.proxy_world import World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, running_vllm

BODY = b'{"messages": [{"role": "user", "content": "hi"}]}'
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
SIZED = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
WHOLE = START + SIZED + b"\r\n" + BODY


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[RunningVllm]:
    with running_vllm(api_key="engines-own") as fake:
        yield fake


@pytest_asyncio.fixture
async def engine(shared_engine: RunningVllm) -> RunningVllm:
    await shared_engine.reset()
    return shared_engine


@pytest_asyncio.fixture
async def world(engine: RunningVllm) -> AsyncIterator[World]:
    world = world_of(engine.url)
    world.api_key = "engines-own"
    limits = dataclasses.replace(world.config.proxy.limits, body_timeout_s=0.3)
    world.config = dataclasses.replace(world.config, proxy=dataclasses.replace(world.config.proxy, limits=limits))
    async with serving(world):
        yield world


@dataclass
class Reply:
    """One reply as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: Any


class Wire:
    """A bare connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> Reply:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split(" ")[1]), headers, json.loads(body))

    async def until_closed(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()


class Wires:
    """Opens connections to one proxy."""

    def __init__(self, world: World) -> None:
        self.port = int(world.url.rsplit(":", 1)[1])
        self.opened: list[Wire] = []

    async def open(self) -> Wire:
        self.opened.append(Wire(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.opened[-1]


@pytest_asyncio.fixture
async def wires(world: World) -> AsyncIterator[Wires]:
    wires = Wires(world)
    yield wires
    for wire in wires.opened:
        wire.writer.close()
        with contextlib.suppress(ConnectionError):
            await wire.writer.wait_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        START + SIZED + SIZED + b"\r\n" + BODY,
        START + b"Content-Length: 5\r\n" + SIZED + b"\r\n" + BODY + WHOLE,
        START + b"Content-Length: 49, 49\r\n\r\n" + BODY,
        START + b"Content-Length: +49\r\n\r\n" + BODY,
        START + b"Content-Length: -1\r\n\r\n" + BODY,
        START + SIZED + CHUNKED + b"\r\n" + CHUNK,
        START + CHUNKED + SIZED + b"\r\n" + CHUNK,
        START + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + WHOLE,
        START + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNK,
        START + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNK,
        START + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNK,
        START + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNK,
        START + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNK,
        START + b"Transfer-Encoding:\r\n chunked\r\n" + SIZED + b"\r\n" + BODY,
        START + b"X-A: b\r\n c\r\n" + SIZED + b"\r\n" + BODY,
        (START + SIZED + b"\r\n").replace(b"\r\n", b"\n") + BODY,
        START + b"X-A: b\nX-B: c\r\n" + SIZED + b"\r\n" + BODY,
        START + b"X-A: b\rX-B: c\r\n" + SIZED + b"\r\n" + BODY,
        START + b"X-A: b\0c\r\n" + SIZED + b"\r\n" + BODY,
        START + b"Host: y\r\n" + SIZED + b"\r\n" + BODY,
        START.replace(b"Host: x\r\n", b"") + SIZED + b"\r\n" + BODY,
        START + CHUNKED + b"\r\n" + CHUNK.replace(b"\r\n", b"\n"),
        START + CHUNKED + b"\r\n0x" + CHUNK,
        START + CHUNKED + b"\r\n" + b"f" * 20 + b"\r\n" + BODY,
        START + CHUNKED + b"\r\n" + CHUNK.replace(b"\r\n", b";a\n", 1),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_what_could_be_read_as_two_requests_is_read_as_none(
    wires: Wires, engine: RunningVllm, request_bytes: bytes
) -> None:
    wire = await wires.open()
    wire.send(request_bytes)
    reply = await wire.reply()
    assert reply.status == 400
    assert reply.body["error"]["code"] == "invalid_http"
    assert await wire.until_closed() == b""
    assert await engine.seen() == []


async def test_a_body_is_never_taken_for_a_request(wires: Wires, engine: RunningVllm) -> None:
    inner = json.dumps({"messages": [{"role": "user", "content": WHOLE.decode()}]}).encode()
    for head in (START, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", b"POST /nowhere HTTP/1.1\r\nHost: x\r\n"):
        wire = await wires.open()
        wire.send(head + b"Content-Length: %d\r\n\r\n" % len(inner) + inner)
        await wire.reply()
        wire.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await wire.reply()).status == 200
    assert len(await engine.seen()) == 1


async def test_requests_one_after_the_other_are_answered_in_their_order(wires: Wires, engine: RunningVllm) -> None:
    wire = await wires.open()
    wire.send(WHOLE + START + CHUNKED + b"\r\n" + CHUNK)
    assert [(await wire.reply()).status, (await wire.reply()).status] == [200, 200]
    assert len(await engine.seen()) == 2


async def test_no_header_of_the_client_reaches_the_engine(wires: Wires, engine: RunningVllm) -> None:
    theirs = {
        "Connection": "keep-alive, X-Named",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "Basic x",
        "Proxy-Connection": "keep-alive",
        "TE": "trailers",
        "Trailer": "X-T",
        "Upgrade": "h2c",
        "X-Named": "1",
        "X-Amzn-SageMaker-Session-Id": "NEW_SESSION",
        "X-Amzn-SageMaker-Custom-Attributes": "a",
        "X-Amzn-Trace-Id": "Root=1",
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Host": "evil",
        "Forwarded": "for=x",
        "X-data-parallel-rank": "7",
        "X-Request-Id": "theirs",
        "Authorization": "Bearer theirs",
        "x-api-key": "theirs",
        "Cookie": "a=b",
        "Expect": "",
        "Accept-Encoding": "gzip",
        "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in theirs.items()).encode()
    wire = await wires.open()
    wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: evil\r\n" + lines + SIZED + b"\r\n" + BODY)
    assert (await wire.reply()).status == 200
    (row,) = await engine.seen()
    seen = {name.lower(): value for name, value in row["headers"].items()}
    assert seen.keys() == {
        "host",
        "accept-encoding",
        "authorization",
        "x-request-id",
        "content-type",
        "content-length",
    }
    assert seen["host"] == engine.url.removeprefix("http://")
    assert (seen["authorization"], seen["accept-encoding"]) == ("Bearer engines-own", "identity")
    assert re.fullmatch("gaia-[0-9a-f]{32}", seen["x-request-id"])


@pytest.mark.parametrize(
    "request_bytes",
    [
        START + b"X-A: " + b"a" * 9000 + b"\r\n" + SIZED + b"\r\n" + BODY,
        START + b"".join(b"X-%d: a\r\n" % at for at in range(120)) + SIZED + b"\r\n" + BODY,
        b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n" + SIZED + b"\r\n" + BODY,
        START + b"X-" + b"a" * 9000 + b": a\r\n" + SIZED + b"\r\n" + BODY,
    ],
)
async def test_headers_above_the_limits_are_refused_without_being_quoted(
    wires: Wires, engine: RunningVllm, request_bytes: bytes
) -> None:
    wire = await wires.open()
    wire.send(request_bytes)
    reply = await wire.reply()
    assert (reply.status, reply.body["error"]["code"]) == (400, "headers_too_large")
    assert "8190 bytes" in reply.body["error"]["message"]
    assert "aaa" not in reply.body["error"]["message"]
    assert await engine.seen() == []


@pytest.mark.parametrize(
    "pieces",
    [[SIZED + b"\r\n" + BODY[:10]], [CHUNKED + b"\r\n5\r\n" + BODY[:5] + b"\r\n"], [SIZED + b"\r\n"]],
)
async def test_a_sender_that_takes_too_long_is_told_so_and_never_held_a_lease(
    world: World, wires: Wires, engine: RunningVllm, pieces: list[bytes]
) -> None:
    wire = await wires.open()
    wire.send(START)
    for piece in pieces:
        wire.send(piece)
        await wire.writer.drain()
    reply = await wire.reply()
    assert (reply.status, reply.body["error"]["code"]) == (408, "request_timeout")
    assert "proxy.limits.body_timeout_s" in reply.body["error"]["message"]
    assert reply.headers["connection"] == "close"
    assert await wire.until_closed() == b""
    assert (world.gate.asked, world.gate.leases, await engine.seen()) == ([], [], [])


async def test_feedback_that_comes_too_slowly_is_ended_too(wires: Wires) -> None:
    wire = await wires.open()
    wire.send(b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
    assert (await wire.reply()).status == 408


async def test_a_body_in_time_may_come_in_pieces(wires: Wires) -> None:
    wire = await wires.open()
    wire.send(START + SIZED + b"\r\n" + BODY[:10])
    await wire.writer.drain()
    wire.send(BODY[10:])
    assert (await wire.reply()).status == 200


async def test_who_sends_no_whole_header_is_cut(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaiad.proxy.server.IDLE_S", 0.2)
    silent, slow = await wires.open(), await wires.open()
    slow.send(START + b"X-A: ")
    assert await silent.until_closed() == b""
    assert await slow.until_closed() == b""


async def test_who_asks_before_sending_a_body_is_told_to_go_on(engine: RunningVllm) -> None:
    body = json.dumps({"prompt": "hi"}).encode()
    asked = ("POST /v1/completions HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "Expect: 100-continue", "", "")
    made = world_of(engine.url)
    made.api_key = "engines-own"
    async with serving(made) as world:
        host, _, port = world.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write("\r\n".join(asked).encode())
        told = await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        answered = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("version", "told", "is_chunked"),
    [(b"1.0", b"HTTP/1.0 200 OK", False), (b"1.1", b"HTTP/1.1 200 OK", True), (b"2.0", b"HTTP/1.1 200 OK", True)],
)
async def test_a_stream_is_framed_as_its_status_line_says(
    wires: Wires, version: bytes, told: bytes, is_chunked: bool
) -> None:
    wire = await wires.open()
    body = BODY[:-1] + b', "stream": true}'
    start = START.replace(b"1.1", version) + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    wire.send(start + body)
    head, _, sent = (await wire.until_closed()).partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], b"Transfer-Encoding: chunked" in head) == (told, is_chunked)
    assert sent.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if is_chunked else b"data: [DONE]\n\n")
