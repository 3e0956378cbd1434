"""The HTTP server below the routes: how long and how large what a client sends may be, and what is no HTTP.

Touches connections only. Whatever cannot be read as a request is a 400 in OpenAI's shape, is never quoted, and ends its
connection, so that nothing after it is taken for another request. A client that sends no whole header, or nothing at
all, for `IDLE_S` is cut.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gaiad.proxy.refusals import headers_too_large, no_http
from gaiad.proxy.replies import rejected
from gaiad.proxy.whole import WholeReply

MAX_LINE_BYTES = 8190
MAX_HEADERS = 100
IDLE_S = 75.0
LINGER_S = 2.0
"""How long what is left of a refused body is read and thrown away, so that its client gets to see the refusal."""


class _InPlace:
    """The loop as a connection uses it while it answers, but what it would make a task of is awaited where it is.

    A task of its own for each request costs two turns of the loop, and would keep apart only context variables, of
    which there are none here. Newer Pythons begin such a task in place by themselves.
    """

    __slots__ = ("call_at", "create_future", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_future = loop.create_future
        self.call_at = loop.call_at
        self.time = loop.time

    def create_task(self, answering: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Give back what is to be awaited."""
        return answering


class Server(web.Server):
    """aiohttp's bare server: an application's router and middleware would cost a fifth more."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], max_body_bytes: int) -> None:
        loop = asyncio.get_running_loop()

        def made(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:  # noqa: ANN401
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes)

        super().__init__(answer, request_factory=made, handler_cancellation=True)
        self._loop = loop

    def __call__(self) -> web.RequestHandler:
        """Make what reads one connection."""
        return _Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            keepalive_timeout=IDLE_S,
            lingering_time=LINGER_S,
        )


class _Connection(web.RequestHandler):
    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read; from here on requests are answered in the connection's own task."""
        super().connection_made(transport)
        if sys.version_info < (3, 12):
            self._loop = cast("asyncio.AbstractEventLoop", _InPlace(self._loop))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is whole in one step; anything else goes aiohttp's way."""
        if not isinstance(resp, WholeReply) or self._upgraded:
            return await super().finish_response(request, resp, start_time)
        try:
            # What follows in this very turn, another reply or the connection's end, must not overtake what is put off.
            resp.send(request, may_wait=not (self._messages or self._close or self._force_close))
            if self.writing_paused:
                await request.writer.drain()
        except ConnectionError:
            return resp, True
        return resp, False

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Tell a client that what it sent is no HTTP; aiohttp logs it."""
        plain = super().handle_error(request, status, exc, message)
        if status != 400:
            return plain
        too_long = isinstance(exc, LineTooLong) or "Too many headers" in (message or "")
        return rejected(headers_too_large(MAX_LINE_BYTES, MAX_HEADERS) if too_long else no_http())
