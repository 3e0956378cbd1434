"""What is written in one turn of the loop, put on the wire together at the end of it.

A write wakes whoever waits at the other end, and that costs more than the write. Where several replies or requests are
ready in the same turn, the first wakes the other end and the rest find it awake. Nothing waits for a clock: whatever
is put goes out before anything that is made ready after it. A loop may look at its sockets before that, as uvloop does,
so a connection may end with something still here. Pieces of streams do not come this way.
"""

from __future__ import annotations

import asyncio


class Outbox:
    """One for all connections of a loop. What is put for a connection that closes meanwhile is lost with it."""

    def __init__(self) -> None:
        # Asked for once: each asking is a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self.turn = 0
        """Which turn's end comes next; what was put in an earlier one has gone out."""

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` at the end of this turn, after what was put before it."""
        self._waiting.append((transport, data))
        if len(self._waiting) == 1:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.turn += 1
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
