"""Replies that are whole: the proxy's own refusals, and what the engine answered, as responses to a client."""

from __future__ import annotations

from functools import lru_cache

from aiohttp import web

from gaiad.proxy.outbox import Outbox
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.upstream import Call
from gaiad.proxy.whole import WholeReply, header_lines


def rejected(rejection: Rejection, headers: dict[str, str] | None = None) -> web.Response:
    """Put a rejection into OpenAI's error shape."""
    headers = dict(headers or {})
    if rejection.retry_after_s is not None:
        headers["Retry-After"] = str(rejection.retry_after_s)
    response = web.json_response(rejection.body(), status=rejection.status, headers=headers)
    if rejection.closes:
        response.force_close()
    return response


def body_of(reply: web.StreamResponse) -> bytes:
    """The body of a reply that is whole; nothing of one that is not."""
    if isinstance(reply, WholeReply):
        return reply.whole_body
    return reply.body if isinstance(reply, web.Response) and isinstance(reply.body, bytes) else b""


def passed_on(call: Call, raw: bytes, lines: str, outbox: Outbox | None = None) -> WholeReply:
    """The engine's reply with `raw` as its body and `lines` as headers; of its own those that a client acts on."""
    told = _acted_on(call.header("content-type"), call.header("retry-after"))
    return WholeReply(status=call.status, lines=lines + told, body=raw, outbox=outbox)


@lru_cache(maxsize=64)
def _acted_on(content_type: str, retry_after: str) -> str:
    headers = {"Content-Type": content_type or "application/json"}
    if retry_after:
        headers["Retry-After"] = retry_after
    return header_lines(headers)
