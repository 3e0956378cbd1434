"""A stream's way from the engine to the client: each piece renamed and written in the turn in which it arrived.

Touches the client's transport directly once the headers are out: a task a chunk would cost more than the chunk. Reads
no more from the engine while the client's buffer is full, so that a slow reader slows its own stream only. Says how
the stream ended; what follows from that is the caller's to decide.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gaiad.proxy.rename import Renamer
from gaiad.proxy.upstream import BrokenOff, Call
from gaiad.proxy.whole import OwnReply, head


class Ending(StrEnum):
    """How the relay of a stream ended."""

    WHOLE = "whole"
    ENGINE_BROKE = "engine_broke"
    CLIENT_GONE = "client_gone"


class EventStream(OwnReply):
    """A response whose headers wait for the first bytes of its body, and go out with them.

    Stands in for aiohttp's own, like `WholeReply`: written by whoever relays it, chunk by chunk. A client of HTTP/1.0
    gets the bytes as they are and the end of the connection as theirs.
    """

    def __init__(self, *, status: int, lines: str) -> None:
        self._status = status
        self._lines = lines
        self._keep_alive: bool | None = None
        self._begun = False
        self._over = False
        self.is_chunked = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Take the request whose reply this is; nothing is written yet."""
        if self._asked is None:
            self._asked = request
            self.is_chunked = request.version >= HttpVersion11
            self._keep_alive = request.keep_alive and self.is_chunked
        return request.writer

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write a piece, with the headers if they are not out yet, and wait while the client's buffer is full."""
        assert self._asked is not None
        self.transport().write(self.begun_with(bytes(data)))
        await self._asked.writer.drain()

    def begun_with(self, piece: bytes) -> bytes:
        """The first piece as it stands on the wire, or a later one."""
        framed = self.framed(piece) if piece else b""
        if self._begun:
            return framed
        assert self._asked is not None
        self._begun = True
        framing = "Transfer-Encoding: chunked\r\n" if self.is_chunked else ""
        return head(self._asked, self._status, self._lines, framing, keeps=bool(self._keep_alive)) + framed

    def framed(self, piece: bytes) -> bytes:
        """A piece as it stands on the wire."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.is_chunked else piece

    async def write_eof(self, data: bytes = b"") -> None:
        """End it, once."""
        if self._over or self._asked is None:
            return
        self._over = True
        transport = self.transport()
        last = self.begun_with(b"") + (b"0\r\n\r\n" if self.is_chunked else b"")
        if last:
            transport.write(last)
        await self._asked.writer.drain()


class StreamRelay:
    """One stream between an engine's call and a client's response. `run` once."""

    def __init__(self, call: Call, renamer: Renamer, response: EventStream, request: web.BaseRequest) -> None:
        self._call = call
        self._renamer = renamer
        self._response = response
        self._request = request
        self._protocol = request.protocol
        self._transport: asyncio.Transport
        self._gone = False

    async def run(self, first: bytes) -> Ending:
        """Relay until either side ends; `first` is what the client gets for the engine's first bytes, if anything."""
        response = self._response
        try:
            await response.prepare(self._request)
            self._transport = response.transport()
            self._transport.write(response.begun_with(first))
            self._call.attach(self._take)
            ending = await self._until_end()
        except ConnectionError:
            return Ending.CLIENT_GONE
        return Ending.ENGINE_BROKE if self._renamer.error_event is not None else ending

    async def _until_end(self) -> Ending:
        try:
            while not await self._call.moved():
                if self._gone:
                    return Ending.CLIENT_GONE
                if self._renamer.error_event is not None:
                    return Ending.ENGINE_BROKE
                if not await self._drained():
                    return Ending.CLIENT_GONE
                self._call.go_on()
        except (BrokenOff, TimeoutError):
            return Ending.ENGINE_BROKE
        self._write(self._renamer.close())
        return Ending.CLIENT_GONE if self._gone else Ending.WHOLE

    async def _drained(self) -> bool:
        """Wait for the client to read; one that reads nothing may not hold the engine longer than its call may last."""
        try:
            async with asyncio.timeout(max(0.0, self._call.deadline - time.monotonic())):
                await self._request.writer.drain()
        except TimeoutError:
            # Closing would wait for the buffer that nobody reads.
            self._transport.abort()
            return False
        return True

    def _take(self, piece: bytes) -> None:
        out = self._renamer.feed(piece)
        if out:
            self._write(out)
        if self._renamer.error_event is not None:
            self._call.wake()

    def _write(self, out: bytes) -> None:
        if not out or self._gone:
            return
        if self._transport.is_closing():
            self._gone = True
            self._call.wake()
            return
        # Framed here and not by `framed`: this is on the way of every token.
        self._transport.write(b"%x\r\n%b\r\n" % (len(out), out) if self._response.is_chunked else out)
        if self._protocol.writing_paused:
            self._call.hold_back()
            self._call.wake()
