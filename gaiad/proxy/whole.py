"""A whole reply, written as one piece: status line, headers and body in a single call to the client's transport.

Stands in for `web.Response`, whose general way through header maps and payload kinds costs several times what there is
to do here. Writes nothing before `write_eof`; decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gaiad.proxy.outbox import Outbox

_SERVER = "gaiad"


class OwnReply(web.StreamResponse):
    """A reply that is written without aiohttp's general way, of whose state it uses nothing but what is set here."""

    _asked: web.BaseRequest | None = None
    """The request whose reply it is, once that is known."""

    @property
    def prepared(self) -> bool:
        """Whether it was handed to a request."""
        return self._asked is not None

    def transport(self) -> asyncio.Transport:
        """The client's connection.

        Raises:
            ConnectionResetError: it is closed.
        """
        transport = None if self._asked is None else self._asked.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        return transport


class WholeReply(OwnReply):
    """A reply whose every byte is known; `lines` are its headers, as `header_lines` has them.

    With an outbox it goes out together with the other replies of its turn.
    """

    def __init__(self, *, status: int, lines: str, body: bytes, outbox: Outbox | None = None) -> None:
        self._status = status
        self._lines = lines
        self.whole_body = body
        self._keep_alive: bool | None = None
        self._is_out = False
        self._outbox = outbox

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Take the request whose reply this is."""
        self._asked = request
        self._keep_alive = request.keep_alive
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Write all of it, once."""
        if self._asked is not None and not self._is_out:
            self.send(self._asked)
            await self._asked.writer.drain()

    def send(self, request: web.BaseRequest, *, may_wait: bool = False) -> None:
        """Put all of it on its way, once; with the others of this turn, if there is an outbox and it `may_wait`.

        Raises:
            ConnectionError: the client is gone.
        """
        self._asked = request
        transport = self.transport()
        self._is_out = True
        keeps = self._keep_alive = request.keep_alive
        framing = f"Content-Length: {len(self.whole_body)}\r\n"
        whole = head(request, self._status, self._lines, framing, keeps=keeps) + self.whole_body
        if may_wait and keeps and self._outbox is not None:
            self._outbox.put(transport, whole)
        else:
            transport.write(whole)


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as they stand on the wire.

    Raises:
        ValueError: a name or a value holds a line break, and would begin a header of its own.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header of a reply holds a line break")
    return lines


def head(request: web.BaseRequest, status: int, lines: str, framing: str, *, keeps: bool) -> bytes:
    """Status line and headers; `framing` says how the body ends, `keeps` whether the connection stays."""
    modern = request.version >= HttpVersion11
    return (
        f"{_status_line(status, modern)}{lines}{_connection(keeps, modern)}{framing}"
        f"Date: {_date(int(time.time()))}\r\nServer: {_SERVER}\r\n\r\n"
    ).encode("utf-8", "surrogateescape")


def _connection(keep_alive: bool, modern: bool) -> str:
    if keep_alive:
        return "" if modern else "Connection: keep-alive\r\n"
    return "Connection: close\r\n" if modern else ""


@lru_cache(maxsize=64)
def _status_line(status: int, modern: bool) -> str:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.{int(modern)} {status} {phrase}\r\n"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
