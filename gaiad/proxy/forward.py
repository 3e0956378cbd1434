"""Requests to the engine and its replies back, chunk by chunk, nothing buffered but an unfinished event.

Owns the connections to the engine and the deadlines on them. Which version serves, and what a failure means to the
client, is decided elsewhere: this module says how a relay ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import aiohttp
from aiohttp import web

from gaiad.proxy.dialect import with_model
from gaiad.proxy.reply import ReplyCopy
from gaiad.proxy.sse import DONE, Event, EventParser

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 2.0
"""Shorter than the engine's own 5 s, so that no request goes out on a connection that is being closed."""


class Ending(StrEnum):
    """How the relay of a reply ended."""

    WHOLE = "whole"
    ENGINE_BROKE = "engine_broke"
    CLIENT_GONE = "client_gone"


class Upstream:
    """The engine's inference paths, over one pool of connections."""

    def __init__(self, url: str, *, api_key: str, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool; needs a running loop."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=self._timeout, trust_env=False
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any], request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the connection is cut at exit unless the reply was read to its end."""
        if self._session is None:
            raise RuntimeError("the upstream was not opened")
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "X-Request-Id": request_id}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        encoded = json.dumps(body).encode()
        response = await self._session.post(self._url + path, data=encoded, headers=headers, allow_redirects=False)
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()


class StreamRelay:
    """One stream on its way to the client: `model` renamed, token counts hidden if the client asked for none."""

    def __init__(self, *, model: str, hide_usage: bool, copy: ReplyCopy) -> None:
        self._model = model
        self._hide_usage = hide_usage
        self._copy = copy
        self.first_byte_at: float | None = None
        self.error_event: bytes | None = None

    async def run(
        self, upstream: aiohttp.ClientResponse, downstream: web.StreamResponse, request: web.Request
    ) -> Ending:
        """Relay until either side ends; the headers go out with the first bytes.

        An engine that breaks off before them leaves `downstream` unprepared, free for an error reply. Its end is left
        to whoever called.
        """
        parser = EventParser()
        chunks = aiter(upstream.content.iter_any())
        while True:
            try:
                chunk = await anext(chunks, None)
            except (aiohttp.ClientError, TimeoutError, OSError):
                return Ending.ENGINE_BROKE
            events = [self._reworded(event) for event in parser.feed(chunk or b"")]
            rest = parser.close() if chunk is None else b""
            try:
                await self._write(downstream, request, b"".join(events) + rest)
            except ConnectionError:
                return Ending.CLIENT_GONE
            if self.error_event is not None:
                return Ending.ENGINE_BROKE
            if chunk is None:
                return Ending.WHOLE

    async def _write(self, downstream: web.StreamResponse, request: web.Request, out: bytes) -> None:
        if not out:
            return
        if not downstream.prepared:
            self.first_byte_at = time.monotonic()
            await downstream.prepare(request)
        await downstream.write(out)

    def _reworded(self, event: Event) -> bytes:
        # 1. Comments, blank lines, the end mark, and whatever follows a failure.
        if self.error_event is not None:
            return b""
        if event.payload is None or event.payload == DONE:
            return event.raw
        chunk = read_reply(event.payload)
        # 2. No object: nothing that we know how to rename.
        if chunk is None:
            return event.raw
        # 3. The engine says that it failed: whether the client hears it is the caller's choice.
        if "error" in chunk and "choices" not in chunk:
            self.error_event = event.raw
            return b""
        self._copy.chunk(chunk)
        # 4. Token counts that only we asked for.
        if self._hide_usage and chunk.get("choices") == [] and chunk.get("usage") is not None:
            return b""
        # 5. A chunk of the reply.
        renamed = with_model(event.payload, chunk, self._model)
        return event.raw if renamed is event.payload else event.with_payload(renamed)


def read_reply(raw: bytes) -> dict[str, Any] | None:
    """Parse a reply or chunk; None for anything but a JSON object."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
