"""A whole reply in one piece: as any client reads it, and no header in it that was not meant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gaiad.proxy.outbox import Outbox
from gaiad.proxy.server import Server
from gaiad.proxy.whole import WholeReply, header_lines


@asynccontextmanager
async def answering(headers: dict[str, str], body: bytes) -> AsyncIterator[tuple[str, int]]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return WholeReply(status=200, lines=header_lines(headers), body=body)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


async def said(host: str, port: int, request: bytes) -> tuple[list[bytes], bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    writer.close()
    return head[:-4].split(b"\r\n"), body


@pytest.mark.parametrize(
    ("version", "asked", "connection"),
    [
        ("1.1", "", None),
        ("1.1", "Connection: close\r\n", b"Connection: close"),
        ("1.0", "", None),
        ("1.0", "Connection: keep-alive\r\n", b"Connection: keep-alive"),
    ],
)
async def test_it_is_framed_for_each_version_and_kind_of_connection(
    version: str, asked: str, connection: bytes | None
) -> None:
    async with answering({"X-Gaia-Stage": "generation"}, "{'ü': 1}".encode()) as (host, port):
        lines, body = await said(host, port, f"GET / HTTP/{version}\r\nHost: x\r\n{asked}\r\n".encode())
    assert lines[0] == f"HTTP/{version} 200 OK".encode()
    assert b"X-Gaia-Stage: generation" in lines
    assert body == "{'ü': 1}".encode()
    assert next((line for line in lines if line.startswith(b"Connection")), None) == connection


async def test_two_replies_follow_each_other_on_one_connection() -> None:
    async with answering({}, b"ok") as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        everything = await reader.read()
        writer.close()
    assert everything.count(b"HTTP/1.1 200 OK") == 2


async def test_replies_of_both_kinds_keep_the_order_of_their_requests_and_reach_a_client_that_closes() -> None:
    outbox = Outbox()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/whole"):
            return WholeReply(status=200, lines="", body=request.path.encode(), outbox=outbox)
        return web.Response(body=request.path.encode())

    runner = web.ServerRunner(Server(answer, 1000))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    paths = ["/whole/1", "/other/2", "/whole/3", "/whole/4", "/other/5", "/whole/6"]
    try:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\n" for path in paths]
        writer.write(("\r\n".join(requests) + "Connection: close\r\n\r\n").encode())
        everything = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    finally:
        await runner.cleanup()
    places = [everything.find(path.encode()) for path in paths]
    assert places == sorted(places)
    assert places[0] > 0


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb"])
async def test_a_value_with_a_line_break_begins_no_header(value: str, caplog: pytest.LogCaptureFixture) -> None:
    async with answering({"X-Gaia-Stage": value}, b"ok") as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"X-Evil" not in await reader.read()
        writer.close()
