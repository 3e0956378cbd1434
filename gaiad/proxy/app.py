"""The proxy's routes: the engine's that clients may use, what GAIA asks of an engine, and the proxy's own.

An allow-list: whatever is not named here or in `endpoints` is a 404 in OpenAI's error shape and never reaches the
engine. Nothing is decided here but which path goes where; `inference` has the way of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import structlog
from aiohttp import web

from gaiad.adapter import RegistrySnapshot
from gaiad.errors import ConfigError, GaiadError, Refuse
from gaiad.exchange import MAX_NOTE_CHARS, Judgement, is_score, verdict_word
from gaiad.keys import Key
from gaiad.proxy.agreeing import own_consent, read_conversation, read_limit, read_said
from gaiad.proxy.ask import caller, named_caller
from gaiad.proxy.body import read_object
from gaiad.proxy.credentials import key_of
from gaiad.proxy.endpoints import ERRANDS, INFERENCE, RESPONSES, Endpoint, StoredResponse, stored_response
from gaiad.proxy.gaia import (
    NOTHING_TO_DO,
    Scene,
    adapter_list,
    adapter_status,
    load_model,
    loading,
    model_info,
    named_adapter,
    status,
    unloading,
)
from gaiad.proxy.incoming import REQUEST_ID_HEADER, read_body
from gaiad.proxy.inference import Inference
from gaiad.proxy.ports import ProxyDeps
from gaiad.proxy.refusals import (
    Rejection,
    bad_request,
    internal_failure,
    not_now,
    refused_consent,
    refused_feedback,
    unknown_exchange,
    unknown_path,
    wrong_method,
)
from gaiad.proxy.replies import rejected
from gaiad.proxy.server import Server
from gaiad.proxy.shared import shared_of
from gaiad.proxy.stored import StoredReply

_log = structlog.get_logger()

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEY: web.RequestKey[Key | None] = web.RequestKey("key", Key)
"""Under which a request that is no inference carries its API key."""
EXCHANGES = "/v1/gaia/exchanges/"
CONSENT = "/v1/gaia/consent"
ENGINE_PATHS: Mapping[str, Endpoint] = {**INFERENCE, **ERRANDS}
SETTLE_TIMEOUT_S = 5.0
SHUTDOWN_TIMEOUT_S = 5.0


class Proxy:
    """The handlers, and what they share: the engine's connections, and the count of what runs for whom."""

    def __init__(self, deps: ProxyDeps) -> None:
        self._deps = deps
        self._shared = shared_of(deps)
        self._created = int(time.time())
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/models": {"GET": self._models},
            "/v1/feedback": {"POST": self._feedback},
            "/version": {"GET": self._version},
            "/ping": {"GET": self._ping, "POST": self._ping},
            "/health": {"GET": self._health},
            **self._gaia_routes(),
        }
        if deps.config.proxy.exchange_routes:
            self._routes = {**self._routes, CONSENT: {"GET": self._consents, "POST": self._consent}}

    def _gaia_routes(self) -> dict[str, dict[str, Handler]]:
        told = {
            "/status": status,
            "/model/info": model_info,
            "/adapter/status": adapter_status,
            "/adapter/list": adapter_list,
        }
        return {
            **{path: {"GET": partial(self._tell, tell)} for path, tell in told.items()},
            **{path: {"POST": self._confirm} for path in NOTHING_TO_DO},
            "/model/load": {"POST": self._load_model},
            "/v1/load_lora_adapter": {"POST": partial(self._adapter, loading)},
            "/v1/unload_lora_adapter": {"POST": partial(self._adapter, unloading)},
            "/adapter/load": {"POST": partial(self._adapter, loading)},
            "/adapter/unload": {"POST": partial(self._adapter, unloading)},
        }

    def stop(self) -> None:
        """Let what runs know that whoever cuts it from now on is the daemon."""
        self._shared.stopping.set()

    async def close(self) -> None:
        """Close what the handlers share."""
        await self._shared.upstream.close()

    async def dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        """Find the handler of a path and method; every other answer is a refusal in OpenAI's shape."""
        path, method = request.path, request.method
        key = key_of(path, request.headers, self._deps.keys())
        if isinstance(key, Rejection):
            return rejected(key, {"WWW-Authenticate": "Bearer"})
        endpoint = ENGINE_PATHS.get(path)
        if endpoint is not None:
            if method != "POST":
                return rejected(wrong_method(method, path, ("POST",)), {"Allow": "POST"})
            inference = Inference(self._shared, request, endpoint, key)
            try:
                return await inference.run()
            except Exception:  # noqa: BLE001 - the edge of the loop: a fault must reach its own client and no other
                return _faulty(inference, path)
        request[KEY] = key
        handlers = self._routes.get(path)
        if handlers is None and path.startswith(RESPONSES):
            stored = stored_response(path)
            handlers = None if stored is None else {stored.method: partial(self._stored, stored)}
        if handlers is None and self._deps.config.proxy.exchange_routes and path.startswith(EXCHANGES):
            handlers = {"GET": self._exchange}
        if handlers is None:
            return rejected(unknown_path(method, path, [*INFERENCE, "/v1/models", "/health"]))
        handler = handlers.get(method)
        if handler is None:
            return rejected(wrong_method(method, path, handlers), {"Allow": ", ".join(handlers)})
        return await self._guarded(handler, request)

    async def _guarded(self, handler: Handler, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except GaiadError as error:
            _log.warning("request_failed", path=request.path, error=error.message)
            return rejected(not_now(error.message, error.hint))
        except Exception:  # noqa: BLE001 - the loop's edge: a fault on one request must reach its client and no other
            reference = uuid.uuid4().hex
            _log.exception("request_failed", path=request.path, reference=reference)
            return rejected(internal_failure(reference))

    async def _stored(self, stored: StoredResponse, request: web.BaseRequest) -> web.StreamResponse:
        return await StoredReply(self._deps, self._shared.upstream, stored, self._shared.names, request[KEY]).answer(
            request.query_string
        )

    async def _models(self, request: web.BaseRequest) -> web.StreamResponse:
        facts = self._deps.facts()
        base = self._shared.ways.served_name()
        card = {"object": "model", "created": self._created, "owned_by": "gaiad"}
        window = {"max_model_len": facts.max_model_len} if facts and facts.max_model_len else {}
        cards: list[Mapping[str, object]] = [{"id": base, **card, "parent": None, **window}] if base else []
        for alias, version in sorted(self._deps.snapshot().active.items()):
            cards.append({"id": alias, **card, "root": version, "parent": base or None, **window})
        return web.json_response({"object": "list", "data": cards})

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        health = {**self._deps.health(), "engine": "vllm"}
        return web.json_response(health, status=503 if health.get("status") == "down" else 200)

    async def _ping(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503 if self._deps.health().get("status") == "down" else 200)

    async def _version(self, request: web.BaseRequest) -> web.StreamResponse:
        facts = self._deps.facts()
        if facts is None:
            return rejected(not_now("the engine was not asked for its version yet", "try again in a minute"))
        return web.json_response({"version": facts.version})

    # --- what GAIA asks of an engine ----------------------------------------------------------------------------------

    def _scene(self) -> Scene:
        facts = self._deps.facts()
        health, snapshot = {**self._deps.health(), "engine": "vllm"}, self._deps.snapshot()
        if facts is None:
            return Scene(health, snapshot, self._deps.config.engine.served_name)
        return Scene(health, snapshot, facts.served_name, facts.version, facts.max_model_len)

    async def _tell(self, tell: Callable[[Scene], dict[str, Any]], request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(tell(self._scene()))

    async def _confirm(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"ok": True})

    async def _load_model(self, request: web.BaseRequest) -> web.StreamResponse:
        code, body = load_model(self._scene())
        return web.json_response(body, status=code)

    async def _adapter(
        self, refusal: Callable[[str, RegistrySnapshot], Rejection | None], request: web.BaseRequest
    ) -> web.StreamResponse:
        raw = await read_body(request, self._deps.config.proxy)
        body = raw if isinstance(raw, Rejection) else read_object(raw)
        name = body if isinstance(body, Rejection) else named_adapter(body)
        refused = name if isinstance(name, Rejection) else refusal(name, self._deps.snapshot())
        if refused is not None:
            return rejected(refused)
        # vLLM answers with text, GAIA's own engine with an object.
        if request.path.startswith("/v1/"):
            return web.Response(text=f"Success: '{name}' is as the registry has it.")
        return web.json_response({"ok": True, "name": name, "vram_mb": 0})

    # --- the proxy's own ----------------------------------------------------------------------------------------------

    async def _feedback(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await read_body(request, self._deps.config.proxy)
        body = raw if isinstance(raw, Rejection) else read_object(raw)
        if isinstance(body, Rejection):
            return rejected(body)
        given = _read_feedback(body)
        if isinstance(given, Rejection):
            return rejected(given)
        request_id, judgement = given
        await self._settle()
        kept = await self._deps.exchange(request_id)
        # Whoever says who they are may judge their own replies only; another's does not exist for them.
        named = named_caller(request.headers, body.get("user"), request[KEY])
        if kept is None or (named is not None and kept["user"] not in (None, named)):
            return rejected(unknown_exchange(request_id))
        refusal = await self._deps.feedback(request_id, judgement)
        if refusal is not None:
            return rejected(refused_feedback(refusal.reason, refusal.hint))
        return web.json_response({"request_id": request_id, "verdict": judgement.verdict, "recorded": True})

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = request.path.removeprefix(EXCHANGES)
        await self._settle()
        kept = await self._deps.exchange(request_id)
        # What is kept of a person is for them alone; what is kept of nobody holds nothing that was said.
        if kept is None or kept["user"] not in (None, self._caller(request)):
            return rejected(unknown_exchange(request_id))
        return web.json_response(dict(kept))

    async def _consent(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await read_body(request, self._deps.config.proxy)
        body = raw if isinstance(raw, Rejection) else read_object(raw)
        said = body if isinstance(body, Rejection) else read_said(body, self._caller(request))
        if isinstance(said, Rejection):
            return rejected(said)
        expires_at = None if said.expires_in_s is None else time.time() + said.expires_in_s
        answer = await self._deps.change_consent(said.user, said.purpose, said.action, said.conversation, expires_at)
        if isinstance(answer, Refuse):
            return rejected(refused_consent(answer.reason, answer.hint))
        return web.json_response(dict(answer))

    async def _consents(self, request: web.BaseRequest) -> web.StreamResponse:
        user = own_consent(self._caller(request), request.query.get("user"))
        conversation = read_conversation(request.query.get("conversation"))
        if isinstance(user, Rejection):
            return rejected(user)
        if isinstance(conversation, Rejection):
            return rejected(conversation)
        limit = read_limit(request.query.get("limit"))
        if isinstance(limit, Rejection):
            return rejected(limit)
        return web.json_response(dict(await self._deps.consents(user, conversation, limit)))

    def _caller(self, request: web.BaseRequest) -> str | None:
        """Who asks, by key or header; a name in the body proves nothing."""
        return caller(request.headers, None, self._deps.config, request[KEY])

    async def _settle(self) -> None:
        """Wait a moment for replies that just went out to be on disk, so that they can be referred to."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                await self._deps.flush()


def _faulty(inference: Inference, path: str) -> web.StreamResponse:
    """What the client of a request gets on which we failed: its stream cut, or a refusal with its id."""
    _log.exception("request_failed", path=path, reference=inference.request_id)
    headers = {REQUEST_ID_HEADER: inference.request_id}
    return inference.cut() or rejected(internal_failure(inference.request_id), headers)


def _read_feedback(body: Mapping[str, object]) -> tuple[str, Judgement] | Rejection:
    """Request id and what is thought of the reply, or what is wrong with them."""
    request_id, verdict, correction = body.get("request_id"), body.get("verdict"), body.get("correction")
    score, note = body.get("score"), body.get("note")
    if not isinstance(request_id, str) or not request_id:
        return bad_request("`request_id` must be the X-Gaia-Request-Id of a reply.", param="request_id")
    word = verdict_word(verdict) if isinstance(verdict, str) else None
    if word is None:
        return bad_request("`verdict` must be one word, such as good or bad.", param="verdict")
    if correction is not None and not isinstance(correction, str):
        return bad_request("`correction` must be the text of a right reply.", param="correction")
    if score is not None and not is_score(score):
        return bad_request("`score` must be a number from 0 to 1.", param="score")
    if note is not None and not (isinstance(note, str) and len(note) <= MAX_NOTE_CHARS):
        return bad_request(f"`note` must be a text of at most {MAX_NOTE_CHARS} characters.", param="note")
    return request_id, Judgement(word, correction, score, note)


class Door:
    """Where the proxy listens, until `cleanup`."""

    def __init__(self, proxy: Proxy, runner: web.ServerRunner) -> None:
        self._proxy = proxy
        self._runner = runner

    @property
    def addresses(self) -> list[Any]:
        """The addresses that were got."""
        return self._runner.addresses

    async def cleanup(self) -> None:
        """Take no new connection, let running replies end for a bounded time, close the rest."""
        self._proxy.stop()
        await self._runner.cleanup()
        await self._proxy.close()


async def listen(deps: ProxyDeps, host: str, port: int) -> Door:
    """Serve the proxy at an address; the end of a client's connection cancels its request.

    Raises:
        ConfigError: when the address cannot be had.
    """
    proxy = Proxy(deps)
    server = Server(proxy.dispatch, deps.config.proxy.max_body_bytes)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        reason = error.strerror or str(error)
        raise ConfigError(f"the proxy cannot listen on {host}:{port}: {reason}", hint=_how_to_listen(error)) from error
    return Door(proxy, runner)


def _how_to_listen(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "set proxy.listen to an address of this machine, such as 127.0.0.1:6430"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "set proxy.listen to a port above 1023"
    return "end the program that holds the port, or set another proxy.listen"
