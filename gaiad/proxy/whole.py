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
        self._whole_body = body
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
        transport.write(self._head(request) + self._whole_body)
        out.output_size += len(self._whole_body)
        await out.drain()

    def _head(self, request: web.BaseRequest) -> bytes:
        lines = [_status_line(self._status, request.version == HttpVersion11)]
        lines += [f"{name}: {value}" for name, value in self._whole_headers.items()]
        if any("\n" in line or "\r" in line for line in lines):
            raise ValueError("a header of a reply holds a line break")
        if not self._keep_alive:
            lines.append("Connection: close")
        elif request.version != HttpVersion11:
            lines.append("Connection: keep-alive")
        lines.append(f"Content-Length: {len(self._whole_body)}\r\nDate: {_date(int(time.time()))}\r\nServer: {_SERVER}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


@lru_cache(maxsize=64)
def _status_line(status: int, modern: bool) -> str:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.{int(modern)} {status} {phrase}"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
