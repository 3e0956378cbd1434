"""A stream's way from the engine to the client: each piece renamed and written in the turn in which it arrived.

Touches the client's transport directly once the headers are out: a task a chunk would cost more than the chunk. Reads
no more from the engine while the client's buffer is full, so that a slow reader slows its own stream only. Says how
the stream ended; what follows from that is the caller's to decide.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum

from aiohttp import web
from aiohttp.http_writer import StreamWriter

from gaiad.proxy.rename import Renamer
from gaiad.proxy.upstream import BrokenOff, Call


class Ending(StrEnum):
    """How the relay of a stream ended."""

    WHOLE = "whole"
    ENGINE_BROKE = "engine_broke"
    CLIENT_GONE = "client_gone"


class EventStream(web.StreamResponse):
    """A response whose headers wait for the first bytes of its body, and go out with them."""

    _send_headers_immediately = False


class StreamRelay:
    """One stream. `run` once; `first` is what the client gets for the engine's first bytes, perhaps nothing yet."""

    def __init__(self, call: Call, renamer: Renamer, first: bytes) -> None:
        self._call = call
        self._renamer = renamer
        self._first = first
        self._writer: StreamWriter | None = None
        self._gone = False

    async def run(self, response: EventStream, request: web.BaseRequest) -> Ending:
        """Relay until either side ends."""
        try:
            await self._begin(response, request)
            ending = await self._until_end()
        except ConnectionError:
            return Ending.CLIENT_GONE
        return Ending.ENGINE_BROKE if self._renamer.error_event is not None else ending

    async def _begin(self, response: EventStream, request: web.BaseRequest) -> None:
        writer = await response.prepare(request)
        assert isinstance(writer, StreamWriter)
        self._writer = writer
        if self._first:
            await response.write(self._first)
        else:
            writer.send_headers()
        self._call.attach(self._take)

    async def _until_end(self) -> Ending:
        assert self._writer is not None
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
        assert self._writer is not None
        try:
            async with asyncio.timeout(max(0.0, self._call.deadline - time.monotonic())):
                await self._writer.drain()
        except TimeoutError:
            # Closing would wait for the buffer that nobody reads.
            if self._writer.transport is not None:
                self._writer.transport.abort()
            return False
        return True

    def _take(self, piece: bytes) -> None:
        self._write(self._renamer.feed(piece))
        if self._renamer.error_event is not None:
            self._call.wake()

    def _write(self, out: bytes) -> None:
        writer = self._writer
        assert writer is not None
        if not out or self._gone:
            return
        transport = writer.transport
        if transport is None or transport.is_closing():
            self._gone = True
            self._call.wake()
            return
        transport.write(b"%x\r\n%b\r\n" % (len(out), out) if writer.chunked else out)
        if writer.protocol.writing_paused:
            self._call.hold_back()
            self._call.wake()
