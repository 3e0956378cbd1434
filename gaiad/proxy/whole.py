"""A whole reply, written as one piece: status line, headers and body in a single call to the client's transport.

Stands in for `web.Response`, whose general way through header maps and payload kinds costs several times what there is
to do here. Writes nothing before `write_eof`; decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

from aiohttp import HttpVersion11, web
from aiohttp.http_writer import StreamWriter

_SERVER = "gaiad"


class WholeReply(web.StreamResponse):
    """A reply whose every byte is known. Header values must be free of line breaks."""

    def __init__(self, *, status: int, headers: Mapping[str, str], body: bytes) -> None:
        # Nothing of the general response's own state is used: what aiohttp asks for is answered below.
        self._status = status
        self._whole_headers = headers
        self.whole_body = body
        self._keep_alive: bool | None = None
        self._asked: web.BaseRequest | None = None
        self._out: StreamWriter | None = None

    @property
    def prepared(self) -> bool:
        """Whether it was handed to a request."""
        return self._out is not None

    async def prepare(self, request: web.BaseRequest) -> StreamWriter:
        """Take the request whose reply this is."""
        self._keep_alive = request.keep_alive
        self._asked = request
        self._out = cast("StreamWriter", request.writer)
        return self._out

    async def write_eof(self, data: bytes = b"") -> None:
        """Write all of it, once."""
        request, out = self._asked, self._out
        if request is None or out is None:
            return
        self._asked = None
        transport = out.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(self._head(request) + self.whole_body)
        out.output_size += len(self.whole_body)
        await out.drain()

    def _head(self, request: web.BaseRequest) -> bytes:
        modern = request.version == HttpVersion11
        told = "".join([f"{name}: {value}\r\n" for name, value in self._whole_headers.items()])
        # A line a header, and not one more: whatever a value holds, it begins no header of its own.
        if told.count("\n") != len(self._whole_headers) or told.count("\r") != len(self._whole_headers):
            raise ValueError("a header of a reply holds a line break")
        connection = _connection(bool(self._keep_alive), modern)
        length = len(self.whole_body)
        return (
            f"{_status_line(self._status, modern)}{told}{connection}Content-Length: {length}\r\n"
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
