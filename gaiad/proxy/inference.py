"""The way of one inference request: read, route, wait for the gate, forward, tell what came of it.

Holds a lease exactly while the engine works on the request, and releases it whatever happens. The decisions are made
in `ask`, `routing`, `dialect` and `validity`; waiting happens in the admission port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from typing import assert_never

import aiohttp
import structlog
from aiohttp import web

from gaiad.errors import Refuse
from gaiad.exchange import ExchangeRecord
from gaiad.proxy.aftermath import Aftermath
from gaiad.proxy.ask import Ask, read_ask
from gaiad.proxy.dialect import Rewritten, for_engine, with_model
from gaiad.proxy.forward import Ending, StreamRelay, Upstream, read_reply
from gaiad.proxy.ports import Lease, ProxyDeps
from gaiad.proxy.refusals import (
    Rejection,
    bad_request,
    engine_failed,
    engine_timeout,
    nested_too_deeply,
    not_now,
    too_large,
)
from gaiad.proxy.reply import ReplyCopy
from gaiad.proxy.routing import Serve, route
from gaiad.proxy.validity import Validity, judge
from gaiad.rollout import ReplyOutcome

_log = structlog.get_logger()

RECONNECT_PAUSE_S = 0.2
CLIENT_GONE_STATUS = 499


class Inference:
    """One request from its first byte to its record."""

    def __init__(self, deps: ProxyDeps, upstream: Upstream, aftermath: Aftermath, request: web.Request) -> None:
        self.request_id = f"gaia-{uuid.uuid4().hex}"
        self._deps = deps
        self._upstream = upstream
        self._aftermath = aftermath
        self._request = request
        self._arrived_wall = time.time()
        self._arrived = time.monotonic()
        self._serve: Serve | None = None
        self._status = CLIENT_GONE_STATUS
        self._copy = ReplyCopy()
        self._first_byte_at: float | None = None
        self._stream: web.StreamResponse | None = None
        self._complete = False
        self._validity: Validity | None = None

    async def run(self) -> web.StreamResponse:
        """Answer the request; only a client that went away gets nothing."""
        raw = await read_body(self._request, self._deps.config.proxy.max_body_bytes)
        deps = self._deps
        ask = raw if isinstance(raw, Rejection) else read_ask(raw, self._request.headers, deps.config, deps.rules)
        if isinstance(ask, Rejection):
            return self._reject(ask, None)
        early = self._early_rejection(ask)
        if early is not None:
            return self._reject(early, ask)
        try:
            return await self._answer(ask)
        finally:
            self._leave_record(ask)

    def cut(self) -> web.StreamResponse | None:
        """End a stream that has begun so that its client knows it is not whole; None where none has begun."""
        if self._stream is None or not self._stream.prepared:
            return None
        if self._request.transport is not None:
            self._request.transport.close()
        return self._stream

    def _early_rejection(self, ask: Ask) -> Rejection | None:
        """What is wrong for certain before anything is waited for; nothing while the engine is unknown."""
        if self._deps.facts() is None:
            return None
        serve = self._route(ask)
        if isinstance(serve, Rejection):
            return serve
        rewritten = self._rewrite(ask, serve)
        return rewritten if isinstance(rewritten, Rejection) else None

    async def _answer(self, ask: Ask) -> web.StreamResponse:
        hold_s = self._deps.config.proxy.hold_s
        deadline = self._arrived + hold_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            admitted = await self._deps.admission.admit(is_user=ask.is_user, timeout_s=left_s)
            if isinstance(admitted, Refuse):
                return self._reject(not_now(admitted.reason, admitted.hint), ask)
            try:
                response = await self._attempt(ask, admitted)
            finally:
                admitted.release()
            if response is not None:
                return response
            # The engine took no connection, so it never saw the request: once the gate knows, it is held there.
            if time.monotonic() + RECONNECT_PAUSE_S >= deadline:
                reason = f"the engine could not be reached for {hold_s:g} s"
                return self._reject(not_now(reason, "see gaiadctl status"), ask)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _attempt(self, ask: Ask, lease: Lease) -> web.StreamResponse | None:
        """Forward under `lease`; None where the engine could not even be connected to."""
        # 1. Waiting may have changed what is active: route anew, and pin before anything else can happen.
        serve = self._route(ask)
        if isinstance(serve, Rejection):
            return self._reject(serve, ask)
        lease.pin(serve.version)
        self._serve = serve
        rewritten = self._rewrite(ask, serve)
        if isinstance(rewritten, Rejection):
            return self._reject(rewritten, ask)
        # 2. A failure before the headers is an error reply.
        timeout_s = self._deps.config.proxy.upstream_timeout_s
        try:
            async with self._upstream.post(self._request.path, rewritten.body, self.request_id) as upstream:
                if upstream.content_type == "text/event-stream":
                    return await self._relay_stream(ask, upstream, rewritten)
                return await self._relay_whole(ask, upstream)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None
        except TimeoutError:
            return self._reject(engine_timeout(timeout_s), ask)
        except RecursionError:
            return self._reject(nested_too_deeply(), ask)
        except (aiohttp.ClientError, OSError) as error:
            _log.warning("engine_broke_off", request_id=self.request_id, error=type(error).__name__)
            return self._reject(engine_failed("it closed the connection"), ask)

    async def _relay_whole(self, ask: Ask, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        raw = await upstream.read()
        self._status = upstream.status
        self._first_byte_at = time.monotonic()
        reply = read_reply(raw)
        if upstream.status == 200 and reply is not None:
            self._copy.whole(reply)
            self._finish(ask)
            raw = with_model(raw, reply, self._model_for_client(ask))
        headers = self._headers(ask) | {"Content-Type": upstream.headers.get("Content-Type", "application/json")}
        if "Retry-After" in upstream.headers:
            headers["Retry-After"] = upstream.headers["Retry-After"]
        return web.Response(status=upstream.status, body=raw, headers=headers)

    async def _relay_stream(
        self, ask: Ask, upstream: aiohttp.ClientResponse, rewritten: Rewritten
    ) -> web.StreamResponse:
        headers = {"Content-Type": upstream.headers["Content-Type"], "Cache-Control": "no-cache"}
        response = web.StreamResponse(status=upstream.status, headers=self._headers(ask) | headers)
        self._stream = response
        relay = StreamRelay(model=self._model_for_client(ask), hide_usage=rewritten.hide_usage, copy=self._copy)
        self._status = upstream.status
        ending = await relay.run(upstream, response, self._request)
        self._first_byte_at = relay.first_byte_at
        match ending:
            case Ending.WHOLE:
                self._finish(ask)
            case Ending.CLIENT_GONE:
                pass
            case Ending.ENGINE_BROKE if not response.prepared:
                return self._reject(engine_failed("it broke off before the first token"), ask)
            case Ending.ENGINE_BROKE:
                await self._break_off(response, relay.error_event)
            case _:
                assert_never(ending)
        return response

    async def _break_off(self, response: web.StreamResponse, told: bytes | None) -> None:
        """End a stream whose engine failed, as the owner chose: with one error event, or by closing."""
        _log.warning("engine_broke_stream", request_id=self.request_id)
        if self._deps.config.proxy.stream_errors == "close":
            self.cut()
            return
        own = json.dumps(engine_failed("it broke off in mid-stream").body()).encode()
        with contextlib.suppress(ConnectionError):
            await response.write(told or b"data: " + own + b"\n\n")

    def _finish(self, ask: Ask) -> None:
        """The reply is whole: judge it and tell at once, before the last byte is on its way."""
        self._complete = True
        self._validity = judge(self._copy, self._deps.stage_schemas().get(ask.stage.stage))
        self._deps.on_reply(
            ReplyOutcome(
                version=self._serve.version if self._serve else None,
                stage=ask.stage.stage,
                request_id=self.request_id,
                schema_ok=self._validity.schema_ok,
                empty=self._validity.empty,
                truncated=self._validity.truncated,
            )
        )

    def _leave_record(self, ask: Ask) -> None:
        now = time.monotonic()
        first_byte_ms = (self._first_byte_at - self._arrived) * 1000 if self._first_byte_at else None
        record = ExchangeRecord(
            request_id=self.request_id,
            at=time.time(),
            user=ask.user,
            conversation=ask.conversation,
            stage=ask.stage.stage,
            stage_reason=ask.stage.reason,
            version=self._serve.version if self._serve else None,
            arm=self._serve.arm if self._serve else "none",
            status=self._status,
            prompt_tokens=self._copy.tokens("prompt"),
            completion_tokens=self._copy.tokens("completion"),
            started=self._arrived_wall,
            first_byte_ms=first_byte_ms,
            total_ms=(now - self._arrived) * 1000,
            finish_reason=self._copy.finish_reason,
            streamed=ask.stream,
            complete=self._complete,
            valid=self._validity.valid if self._validity else None,
            request=ask.body,
            response=self._copy.body(self._model_for_client(ask)) if self._complete else None,
        )
        self._aftermath.leave(record, ask.consent)

    def _route(self, ask: Ask) -> Serve | Rejection:
        config = self._deps.config
        return route(
            model=ask.model,
            stage=ask.stage.stage,
            stages=config.stages,
            base_names=config.proxy.base_names,
            served_name=self._served_name(),
            snapshot=self._deps.snapshot(),
        )

    def _rewrite(self, ask: Ask, serve: Serve) -> Rewritten | Rejection:
        facts = self._deps.facts()
        model = serve.version or self._served_name()
        return for_engine(ask.body, model=model, engine_version=facts.version if facts else None)

    def _served_name(self) -> str:
        facts = self._deps.facts()
        return (facts.served_name if facts else "") or self._deps.config.engine.served_name

    def _model_for_client(self, ask: Ask) -> str:
        return ask.model or self._served_name()

    def _reject(self, rejection: Rejection, ask: Ask | None) -> web.Response:
        self._status = rejection.status
        return rejected(rejection, self._headers(ask))

    def _headers(self, ask: Ask | None) -> dict[str, str]:
        headers = {"X-Gaia-Request-Id": self.request_id}
        if ask is not None:
            headers["X-Gaia-Stage"] = ask.stage.stage
            headers["X-Gaia-Stage-Reason"] = ask.stage.reason
        if self._serve is not None:
            headers["X-Gaia-Adapter"] = self._serve.label
            headers["X-Gaia-Arm"] = self._serve.arm
        return headers


def rejected(rejection: Rejection, headers: dict[str, str] | None = None) -> web.Response:
    """Put a rejection into OpenAI's error shape."""
    headers = dict(headers or {})
    if rejection.retry_after_s is not None:
        headers["Retry-After"] = str(rejection.retry_after_s)
    return web.json_response(rejection.body(), status=rejection.status, headers=headers)


async def read_body(request: web.Request, limit_bytes: int) -> bytes | Rejection:
    """Read a request's body, or say why it cannot be had."""
    if request.content_length is not None and request.content_length > limit_bytes:
        return too_large(limit_bytes)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return too_large(limit_bytes)
    except web.RequestPayloadError:
        return bad_request("The body ended early or its Content-Encoding is wrong.")
