"""Headers before the engine answers: a stream that waits long gets them, and comments that keep it alive.

Touches the client's response while nobody else does: once the engine answers, the stream is the relay's. What is told
to a client whose request fails after that is the owner's choice, as for any stream that breaks off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from gaiad.proxy.relay import EventStream

COMMENT = b": waiting\n\n"
COMMENT_EVERY_S = 5.0


class EarlyHeaders:
    """One stream that may have to wait. `stream` is set once its headers are out."""

    def __init__(self, request: web.BaseRequest, after_s: float) -> None:
        self._request = request
        self._after_s = after_s
        self._waiting: asyncio.Task[None] | None = None
        self.stream: EventStream | None = None

    async def during(self, answering: Awaitable[web.StreamResponse], lines: Callable[[], str]) -> web.StreamResponse:
        """Await the answer, and keep the client waiting meanwhile."""
        try:
            async with asyncio.TaskGroup() as group:
                self._waiting = group.create_task(self._keep_waiting(lines), name="early headers")
                try:
                    return await answering
                finally:
                    self.end()
        except ExceptionGroup as group:
            # Of the two only one can fail: the one that waits has no failures of its own.
            raise group.exceptions[0] from None

    def end(self) -> None:
        """Say no more: the engine has answered."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def _keep_waiting(self, lines: Callable[[], str]) -> None:
        await asyncio.sleep(self._after_s)
        stream = EventStream(status=200, lines=lines())
        try:
            await stream.prepare(self._request)
            self.stream = stream
            while True:
                await stream.write(COMMENT)
                await asyncio.sleep(COMMENT_EVERY_S)
        except ConnectionError:
            # The client is gone: its request is being cancelled.
            return
