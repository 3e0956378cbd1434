"""Raw connections to an engine that behaves, and to one that does not: a server that plays back bytes."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from gaiad.proxy.outbox import Outbox
from gaiad.proxy.upstream import BrokenOff, NotConnected, NotTaken, Upstream
from tests.fakes.vllm_process import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Script:
    """Plays one list of byte strings a request, in turn; remembers what was asked and on how many connections."""

    def __init__(self, *replies: Sequence[bytes]) -> None:
        self.replies = list(replies)
        self.asked: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.replies:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
                self.asked.append(head + await reader.readexactly(length))
                for piece in self.replies.pop(0):
                    await self.go_on.wait()
                    writer.write(piece)
                    await writer.drain()
            await reader.read(1)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def playing(handler: Handler, *, timeout_s: float = 5.0, api_key: str = "") -> AsyncIterator[Upstream]:
    running: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append((task, writer))
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    upstream = Upstream(f"http://{host}:{port}", api_key=api_key, timeout_s=timeout_s)
    try:
        yield upstream
    finally:
        await upstream.close()
        server.close()
        for task, writer in running:
            writer.close()
            await asyncio.wait([task], timeout=5)


async def ask(upstream: Upstream, body: bytes = b"{}") -> tuple[int, bytes]:
    call = await upstream.send("POST", "/v1/completions", body, "gaia-1")
    try:
        await call.head()
        return call.status, await call.whole()
    finally:
        call.close()


async def test_a_request_is_framed_and_its_reply_read_and_the_connection_used_again() -> None:
    script = Script([OK], [OK[:10], OK[10:60], OK[60:]], [CHUNKED, b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"])
    async with playing(script, api_key="secret") as upstream:
        assert [await ask(upstream, b'{"a":1}') for _ in range(3)] == [(200, b"ok")] * 3
    assert script.connections == 1
    head, _, body = script.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret" in head
    assert b"X-Request-Id: gaia-1" in head
    assert body == b'{"a":1}'


async def test_calls_at_once_have_a_connection_each() -> None:
    script = Script(*[[OK]] * 5)
    async with playing(script) as upstream:
        assert await asyncio.gather(*(ask(upstream) for _ in range(5))) == [(200, b"ok")] * 5
    assert script.connections == 5


async def test_pieces_reach_the_taker_as_they_arrive_and_in_order() -> None:
    script = Script([CHUNKED, b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"])
    async with playing(script) as upstream:
        call = await upstream.send("POST", "/v1/completions", b"{}", "gaia-1")
        await call.first()
        assert call.is_stream
        taken: list[bytes] = []
        call.attach(taken.append)
        while not await call.moved():
            pass
        call.close()
    assert b"".join(taken) == b"onetwo"
    assert call.first_byte_at is not None


async def test_a_taker_that_is_slow_holds_the_engine_back_and_loses_nothing() -> None:
    size, count = 100_000, 40
    piece = b"%x\r\n" % size + b"x" * size + b"\r\n"
    script = Script([CHUNKED, *[piece] * count, b"0\r\n\r\n"])
    async with playing(script) as upstream:
        call = await upstream.send("POST", "/v1/completions", b"{}", "gaia-1")
        taken: list[int] = []

        def take(data: bytes) -> None:
            taken.append(len(data))
            call.hold_back()
            call.wake()

        await call.head()
        call.attach(take)
        while not await call.moved():
            before = sum(taken)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sum(taken) == before, "held back means that nothing more arrives"
            call.go_on()
        call.close()
    assert sum(taken) == size * count


@pytest.mark.parametrize(
    "reply",
    [
        [b""],
        [OK[:30]],
        [OK[:-1]],
        [CHUNKED, b"3\r\none\r\n"],
        [b"this is not HTTP at all\r\n\r\n"],
        [CHUNKED, b"zz\r\nnonsense\r\n"],
    ],
    ids=["nothing", "half a head", "half a body", "half a stream", "garbage", "garbage in a stream"],
)
async def test_an_engine_that_breaks_off_is_told_as_such(reply: list[bytes]) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in reply:
            writer.write(piece)
        await writer.drain()
        writer.close()

    async with playing(break_off) as upstream:
        with pytest.raises(BrokenOff):
            await ask(upstream)


async def test_a_reply_without_a_length_ends_with_its_connection() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        await writer.drain()
        writer.close()

    async with playing(old) as upstream:
        assert await ask(upstream) == (200, b"all of it")


async def test_an_engine_that_says_nothing_runs_into_the_deadline() -> None:
    script = Script([OK])
    script.go_on.clear()
    async with playing(script, timeout_s=0.1) as upstream:
        with pytest.raises(TimeoutError):
            await ask(upstream)


async def test_a_call_that_is_given_up_closes_its_connection() -> None:
    script = Script([CHUNKED, b"3\r\none\r\n"])
    async with playing(script) as upstream:
        call = await upstream.send("POST", "/v1/completions", b"{}", "gaia-1")
        await call.first()
        call.close()
        async with asyncio.timeout(5):
            await script.gone.wait()


async def test_a_connection_on_which_more_came_than_was_asked_for_is_not_used_again() -> None:
    script = Script([OK + b"HTTP/1.1 200 OK\r\nContent-Le"], [OK])
    async with playing(script) as upstream:
        assert await ask(upstream) == (200, b"ok")
        assert await ask(upstream) == (200, b"ok")
    assert script.connections == 2


async def test_a_call_that_is_over_is_closed_without_harm_to_the_next_one() -> None:
    script = Script([OK], [OK])
    async with playing(script) as upstream:
        first = await upstream.send("POST", "/v1/completions", b"{}", "gaia-1")
        await first.whole()
        second = await upstream.send("POST", "/v1/completions", b"{}", "gaia-2")
        first.close()
        assert await second.whole() == b"ok"
        second.close()
    assert script.connections == 1


async def test_nobody_listening_is_known_before_anything_is_sent() -> None:
    upstream = Upstream(f"http://127.0.0.1:{free_port()}", api_key="", timeout_s=5)
    with pytest.raises(NotConnected):
        await ask(upstream)


async def test_a_connection_that_the_engine_closed_meanwhile_is_not_used() -> None:
    closing: list[Callable[[], None]] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        closing.append(writer.close)

    async with playing(once) as upstream:
        assert await ask(upstream) == (200, b"ok")
        closing[0]()
        async with asyncio.timeout(5):
            await noticed(upstream)
        assert await ask(upstream) == (200, b"ok")


async def noticed(upstream: Upstream) -> None:
    while upstream.free:  # noqa: ASYNC110  the pool is not made for waiting on
        await asyncio.sleep(0.001)


def reset_unread(listening: socket.socket) -> None:
    """Take one connection, let something arrive on it, and close it with that unread."""
    taken, _ = listening.accept()
    select.select([taken], [], [], 5)
    taken.close()


async def test_a_request_that_the_engine_never_read_is_told_from_one_that_it_broke_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        upstream = Upstream(f"http://127.0.0.1:{listening.getsockname()[1]}", api_key="", timeout_s=5)
        reset = asyncio.to_thread(reset_unread, listening)
        with pytest.raises(NotTaken):
            await asyncio.gather(ask(upstream, b"x" * 100), reset)
    await upstream.close()


async def test_a_request_in_the_line_of_an_engine_that_ends_was_never_taken() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    upstream = Upstream(f"http://127.0.0.1:{listening.getsockname()[1]}", api_key="", timeout_s=5)
    call = await upstream.send("POST", "/v1/completions", b"{}", "gaia-1")
    listening.close()
    with pytest.raises(NotTaken):
        await call.head()
    call.close()
    await upstream.close()


class LateOutbox(Outbox):
    """Its turn does not end, as if the loop heard of everything else first."""

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        pass


async def test_a_request_whose_connection_ends_before_it_goes_out_was_never_taken() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        upstream = Upstream(f"http://{host}:{port}", api_key="", timeout_s=5, outbox=LateOutbox())
        with pytest.raises(NotTaken):
            await ask(upstream)
        await upstream.close()


async def test_a_free_connection_whose_end_is_not_heard_yet_is_not_used() -> None:
    ending = threading.Event()

    def serve(listening: socket.socket) -> None:
        taken, _ = listening.accept()
        taken.recv(65536)
        taken.sendall(OK)
        ending.wait(5)
        taken.close()
        again, _ = listening.accept()
        again.recv(65536)
        again.sendall(OK)
        again.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        upstream = Upstream(f"http://127.0.0.1:{listening.getsockname()[1]}", api_key="", timeout_s=5)
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        assert await ask(upstream) == (200, b"ok")
        ending.set()
        # The loop stands still meanwhile, so that it cannot have heard.
        time.sleep(0.2)  # noqa: ASYNC251
        assert await ask(upstream) == (200, b"ok")
        server.join(5)
    await upstream.close()
