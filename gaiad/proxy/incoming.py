"""What comes in with a request: its body, within size and time, and the id it is given.

Touches the client's connection and the kernel's chance. What the body means is `ask`'s to say.
"""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from gaiad.config import ProxyConfig
from gaiad.proxy.refusals import Rejection, bad_request, too_large, too_slow

REQUEST_ID_HEADER = "X-Gaia-Request-Id"
_CHANCE_BYTES = 10
_pool = bytearray()


def new_request_id(now: float) -> str:
    """An id that nobody can guess. Ids grow with time, so that rows of a batch fall into the same pages of an index."""
    return f"gaia-{int(now * 1000):012x}{_chance()}"


def _chance() -> str:
    """Twenty hex digits that nobody can guess, from a pool: asking the kernel each time would cost more."""
    if len(_pool) < _CHANCE_BYTES:
        _pool.extend(os.urandom(_CHANCE_BYTES * 256))
    taken = _pool[-_CHANCE_BYTES:].hex()
    del _pool[-_CHANCE_BYTES:]
    return taken


def body_now(request: web.BaseRequest, proxy: ProxyConfig) -> bytes | Rejection | None:
    """A body that is all there already, as it mostly is; None where it has to be waited for."""
    content = request.content
    if not content.is_eof() or content.exception() is not None:
        return None
    raw: bytes = content.read_nowait(-1)
    return raw if len(raw) <= proxy.max_body_bytes else too_large(proxy.max_body_bytes)


async def read_body(request: web.BaseRequest, proxy: ProxyConfig) -> bytes | Rejection:
    """Read a request's body, or say why it cannot be had."""
    limit_bytes, limit_s = proxy.max_body_bytes, proxy.limits.body_timeout_s
    if request.content_length is not None and request.content_length > limit_bytes:
        return too_large(limit_bytes)
    try:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with asyncio.timeout(limit_s):
            return await request.read()
    except TimeoutError:
        return too_slow(limit_s)
    except web.HTTPRequestEntityTooLarge:
        return too_large(limit_bytes)
    except web.RequestPayloadError:
        return bad_request("The body ended early or its Content-Encoding is wrong.")
