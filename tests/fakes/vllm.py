"""A small vLLM as a process of its own: the routes, wording and traps of the real one, no model.

    python -m tests.fakes.vllm --port 7777 [--served-model-name base] [--fault delay_s=2] ...

It speaks `/v1/chat/completions`, `/v1/completions`, `/v1/responses` and `/v1/messages` (streamed and not), what counts
and measures text (`/tokenize`, `/v1/score`, ...), `/v1/models`, `/v1/load_lora_adapter`, `/v1/unload_lora_adapter`,
`/version`, `/health`, `/metrics`, `/sleep`, `/wake_up`, `/is_sleeping`, `/pause`, `/resume`, `/is_paused`,
`/openapi.json`. Flags of the real server that it does not know are accepted and ignored, and so is
`-m vllm.entrypoints...`, so that it can stand in for a Python that starts vLLM. Like the real one of its version
(`--fake-version`) it ignores `structured_outputs` below 0.11 and `guided_*` from 0.12 on, and honours
`response_format`.

For tests: `GET /_seen` lists the inference and adapter requests it received (path, headers, body, cancelled, status),
`DELETE /_seen` empties the list, `GET /_asked` lists all that was asked of it ("POST /sleep"), `POST /_reset` forgets
all but the flags, `GET /_fault` shows the faults and `POST /_fault {name: value}` sets them (null clears one):

    delay_s          wait before answering                  token_delay_s    wait before each token
    hang             never answer                           status           answer inference with this status
    die_after        abort the connection after N chunks    exit_after       end the process after N chunks
    split_bytes      write streams N bytes at a time        refuse_load      answer 500 to load_lora_adapter
    load_delay_s     wait before loading                    unhealthy        /health answers 503
    reply            the text of every reply                replies          text by model name
    finish_reason    instead of "stop"                      tool_calls       in place of content
    stream_error     end streams with an error event   torn             abort in the middle of a chunk
    message          the text of a `status`            retry_after      the Retry-After of a `status`
    reworded         reply with this and what the last message has after "It is: "
    reply_times      repeat that text so often
    status_times     give the `status` so often only    garbage          answer 200 with these characters
    embeds           serve /v1/embeddings, which a model that generates does not
    end_delay_s      wait once a stream said why it ends
    piece_chars      cut the text into tokens of N characters, not into words
    directed         a request's words set faults for it alone: see `tests.fakes.directed`
    forgets          keep neither requests nor replies
    no_log_probs     leave them out                     swapped          give those of other weights
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.directed import directed
from tests.fakes.generation import Generation
from tests.fakes.log_probs import OTHER, forced_log_prob, mark_of
from tests.fakes.vllm_flags import parse
from tests.fakes.vllm_forms import chat_body, counted, message_events, message_of, response_events, response_of

Json = Any

COUNTING = ("/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/messages/count_tokens", "/tokenize", "/detokenize")


class Fake:
    """The state of one fake engine: adapters, faults, what it saw, and whether it is paused."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.served: str = (options.served_model_name or [options.model])[0]
        self.adapters: dict[str, str] = {}
        self.faults: dict[str, Json] = dict(options.faults)
        self.seen: list[dict[str, Json]] = []
        self.asked: list[str] = []
        self.stored: dict[str, Json] = {}
        self.running = 0
        self.waiting = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.awake = asyncio.Event()
        self.awake.set()
        self.asleep = False
        self.aborts = 0
        self.healthy_at = time.monotonic() + options.start_delay_s

    def fault(self, name: str, default: Json = None) -> Json:
        return self.faults.get(name, default)

    def note(self, request: web.Request, body: Json) -> dict[str, Json]:
        row = {
            "path": request.path,
            "headers": dict(request.headers),
            "body": body,
            "at": time.monotonic(),
            "cancelled": False,
            "status": None,
        }
        if not self.fault("forgets"):
            self.seen.append(row)
        return row

    def for_one(self, body: Json) -> Fake:
        """The same engine with the faults that a request's own words set for it."""
        if not self.fault("directed"):
            return self
        one = copy.copy(self)
        one.faults = {**self.faults, **directed(body)}
        return one


FAKE = web.AppKey("fake", Fake)


def _error(status: int, message: str, kind: str) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return web.json_response(body, status=status)


def _check(fake: Fake, body: Json, field: str) -> web.Response | None:
    if not isinstance(body, dict):
        return _error(400, "[{'type': 'dict_type', 'msg': 'Input should be a valid dictionary'}]", "Bad Request")
    if field and field not in body:
        detail = f"[{{'type': 'missing', 'loc': ('body', '{field}'), 'msg': 'Field required'}}]"
        return _error(400, detail, "Bad Request")
    model = body.get("model")
    if model and model != fake.served and model not in fake.adapters:
        return _error(404, f"The model `{model}` does not exist. Valid aliases: {fake.served}.", "NotFoundError")
    return None


async def _infer(request: web.Request) -> web.StreamResponse:
    fake = request.app[FAKE]
    body = await request.json()
    row = fake.note(request, body)
    field = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(request.path, "messages")
    refusal = _check(fake, body, field)
    if refusal is not None:
        row["status"] = refusal.status
        return refusal
    try:
        fake.waiting += 1
        try:
            await fake.awake.wait()
        finally:
            fake.waiting -= 1
        fake.running += 1
        fake.idle.clear()
        try:
            one = fake.for_one(body)
            response = await _answer(one, request, _generation(one, request.path, body), body)
        finally:
            fake.running -= 1
            if fake.running == 0:
                fake.idle.set()
    except (asyncio.CancelledError, ConnectionResetError):
        row["cancelled"] = True
        raise
    row["status"] = response.status
    return response


def _generation(fake: Fake, path: str, body: Json) -> Generation:
    release = tuple(int(part) for part in fake.options.fake_version.split(".")[:2])
    if path in ("/v1/responses", "/v1/messages"):
        body = chat_body(body, path)
    return Generation(fake.faults, fake.served, body, path != "/v1/completions", release)


async def _answer(fake: Fake, request: web.Request, made: Generation, body: Json) -> web.StreamResponse:
    if fake.fault("hang"):
        await asyncio.Event().wait()
    await asyncio.sleep(float(fake.fault("delay_s", 0)))
    status = int(fake.fault("status", 200))
    if int(fake.fault("fail_next", 0)) > 0:
        fake.faults["fail_next"] -= 1
        status = 500
    if status != 200:
        times = fake.fault("status_times")
        if times is None or times > 0:
            fake.faults |= {} if times is None else {"status_times": times - 1}
            response = _error(status, str(fake.fault("message", "the fake engine was told to fail")), "InternalError")
            if fake.fault("retry_after") is not None:
                response.headers["Retry-After"] = str(fake.fault("retry_after"))
            return response
    if fake.fault("garbage") is not None:
        kind = "text/event-stream" if body.get("stream") else "application/json"
        return web.Response(body=str(fake.fault("garbage")).encode("latin-1"), content_type=kind)
    if body.get("stream"):
        return await _stream(fake, request, made, body)
    aborts = fake.aborts
    for _ in made.tokens:
        await fake.awake.wait()
        await asyncio.sleep(float(fake.fault("token_delay_s", 0)))
    if fake.aborts != aborts:
        made.tokens, made.finish_reason = [], "abort"
    if fake.fault("die_after") is not None and request.transport is not None:
        request.transport.abort()
    if fake.fault("exit_after") is not None:
        os._exit(9)
    if request.path == "/v1/messages":
        return web.json_response(message_of(made), dumps=_compact)
    if request.path == "/v1/responses":
        reply = response_of(made, body)
        if not fake.fault("forgets"):
            fake.stored[reply["id"]] = reply
        return web.json_response(reply, dumps=_compact)
    whole = made.whole()
    if request.path == "/v1/completions" and body.get("allowed_token_ids") and not fake.fault("no_log_probs"):
        mark = OTHER if fake.fault("swapped") else mark_of(fake.adapters.get(str(body.get("model"))))
        whole["choices"][0]["logprobs"] = forced_log_prob(mark, body["prompt"], body["allowed_token_ids"][0])
    return web.json_response(whole)


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def _stream_events(fake: Fake, response: web.StreamResponse, request: web.Request, events: Json) -> None:
    for sent, event in enumerate(events, start=1):
        await asyncio.sleep(float(fake.fault("token_delay_s", 0)))
        await _write(fake, response, event, f"event: {event['type']}\n".encode())
        if fake.fault("die_after") is not None and sent >= int(fake.fault("die_after")):
            assert request.transport is not None
            request.transport.abort()
            return
        if fake.fault("stream_error"):
            error = {"type": "error", "error": {"type": "internal_error", "message": "engine core died"}}
            await _write(fake, response, error, b"event: error\n")
            break
    await response.write_eof()


async def _stream(fake: Fake, request: web.Request, made: Generation, body: Json) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Engine": "fake"})
    await response.prepare(request)
    if fake.fault("die_after") == 0 and request.transport is not None:
        request.transport.abort()
        return response
    if request.path in ("/v1/responses", "/v1/messages"):
        is_message = request.path == "/v1/messages"
        events = message_events(made) if is_message else response_events(made, body)
        await _stream_events(fake, response, request, events)
        return response
    aborts = fake.aborts
    chunks = [made.first_chunk()] if made.chat else []
    chunks += [made.chunk(token) for token in made.tokens] + made.tool_chunks()
    ending = made.chunk("", made.finish_reason)
    for sent, chunk in enumerate(chunks, start=1):
        await fake.awake.wait()
        await asyncio.sleep(float(fake.fault("token_delay_s", 0)))
        if fake.aborts != aborts:
            ending = made.chunk("", "abort")
            break
        if fake.fault("torn") is not None and sent > int(fake.fault("torn")) and request.transport is not None:
            await response.write(b"data: " + json.dumps(chunk).encode()[:30])
            request.transport.abort()
            return response
        await _write(fake, response, chunk)
        if fake.fault("exit_after") is not None and sent >= int(fake.fault("exit_after")):
            os._exit(9)
        if fake.fault("die_after") is not None and sent >= int(fake.fault("die_after")):
            if request.transport is not None:
                request.transport.abort()
            return response
    if fake.fault("stream_error"):
        await _write(fake, response, {"error": {"message": "engine core died", "type": "Internal", "code": 500}})
    else:
        await _write(fake, response, ending)
        await asyncio.sleep(float(fake.fault("end_delay_s", 0)))
        if (body.get("stream_options") or {}).get("include_usage"):
            await _write(fake, response, made.usage_chunk())
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _write(fake: Fake, response: web.StreamResponse, chunk: Json, name: bytes = b"") -> None:
    line = name + b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
    size = int(fake.fault("split_bytes", 0)) or len(line)
    for start in range(0, len(line), size):
        await response.write(line[start : start + size])
        if size < len(line):
            await asyncio.sleep(0)


async def _count(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    body = await request.json()
    row = fake.note(request, body)
    if fake.fault("hang"):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            row["cancelled"] = True
            raise
    if fake.fault("die_after") is not None and request.transport is not None:
        request.transport.abort()
    if fake.fault("garbage") is not None:
        return web.Response(body=str(fake.fault("garbage")).encode("latin-1"), content_type="application/json")
    refusal = _check(fake, body, "")
    if refusal is None and request.path == "/v1/embeddings" and not fake.fault("embeds"):
        refusal = web.Response(status=404, body=b'{"detail":"Not Found"}', content_type="application/json")
    if refusal is not None:
        return refusal
    reply = counted(request.path, body, body.get("model") or fake.served)
    return _error(400, "Field required", "Bad Request") if reply is None else web.json_response(reply, dumps=_compact)


async def _stored(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    fake.note(request, None)
    reply = fake.stored.get(request.match_info["id"])
    if reply is None:
        return _error(404, f"Response with id '{request.match_info['id']}' not found.", "invalid_request_error")
    if request.path.endswith("/cancel"):
        return _error(400, "Cannot cancel a synchronous response.", "invalid_request_error")
    return web.json_response(reply, dumps=_compact)


async def _models(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    root = fake.options.model
    cards = [{"id": fake.served, "object": "model", "created": 1, "owned_by": "vllm", "root": root, "parent": None}]
    cards[0]["max_model_len"] = fake.options.max_model_len
    for name, path in fake.adapters.items():
        card = {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "root": path, "parent": fake.served}
        cards.append(card)
    return web.json_response({"object": "list", "data": cards})


async def _load(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    body = await request.json()
    row = fake.note(request, body)
    await asyncio.sleep(float(fake.fault("load_delay_s", 0)))
    name, path = body.get("lora_name"), body.get("lora_path")
    response = _load_refusal(fake, name, path)
    if response is None:
        fake.adapters[name] = path
        response = web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")
    row["status"] = response.status
    return response


def _load_refusal(fake: Fake, name: Json, path: Json) -> web.Response | None:
    if not name or not path:
        return _error(400, "Both 'lora_name' and 'lora_path' must be provided.", "InvalidUserInput")
    if fake.fault("refuse_load"):
        return _error(500, "LoRA rank 64 is greater than max_lora_rank 16.", "InternalServerError")
    if name == fake.served:
        return _error(400, f"The lora adapter '{name}' conflicts with a served base model.", "InvalidUserInput")
    if name in fake.adapters:
        message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
        return _error(400, message + "set 'load_inplace' to True.", "InvalidUserInput")
    if not fake.options.any_lora_path and not os.path.exists(os.path.join(path, "adapter_config.json")):
        return _error(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
    return None


async def _unload(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    body = await request.json()
    row = fake.note(request, body)
    name = body.get("lora_name")
    if name not in fake.adapters:
        row["status"] = 404
        return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
    del fake.adapters[name]
    row["status"] = 200
    return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


async def _pause(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    fake.note(request, dict(request.query))
    sleeping = request.path == "/sleep"
    fake.awake.clear()
    match request.query.get("mode", "abort"):
        case "abort":
            fake.aborts += 1
            fake.awake.set()
            await fake.idle.wait()
            fake.awake.clear()
        case "wait":
            fake.awake.set()
            await fake.idle.wait()
            fake.awake.clear()
        case _:
            pass
    fake.asleep = sleeping
    level = int(request.query.get("level", "1"))
    return web.json_response({"status": "sleeping", "level": level} if sleeping else {"status": "paused"})


async def _go_on(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    fake.note(request, dict(request.query))
    fake.asleep = False
    fake.awake.set()
    if request.path == "/wake_up":
        return web.json_response({"status": "awake", "tags": None})
    return web.json_response({"status": "resumed"})


async def _is_paused(request: web.Request) -> web.Response:
    name = "is_sleeping" if request.path == "/is_sleeping" else "is_paused"
    return web.json_response({name: not request.app[FAKE].awake.is_set()})


async def _health(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    bad = fake.fault("unhealthy") or time.monotonic() < fake.healthy_at
    return web.Response(status=503 if bad else 200)


async def _version(request: web.Request) -> web.Response:
    return web.json_response({"version": request.app[FAKE].options.fake_version})


async def _metrics(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    label = f'{{engine="0",model_name="{fake.served}"}}'
    text = f"vllm:num_requests_running{label} {fake.running}.0\nvllm:num_requests_waiting{label} {fake.waiting}.0\n"
    return web.Response(text=text)


async def _openapi(request: web.Request) -> web.Response:
    paths: Json = {route.resource.canonical: {} for route in request.app.router.routes() if route.resource}
    return web.json_response({"openapi": "3.1.0", "paths": paths})


async def _seen(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    if request.method == "DELETE":
        fake.seen.clear()
    return web.json_response(fake.seen)


async def _asked(request: web.Request) -> web.Response:
    return web.json_response(request.app[FAKE].asked)


async def _reset(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    fake.seen.clear()
    fake.asked.clear()
    fake.stored.clear()
    fake.faults.clear()
    fake.adapters.clear()
    return web.json_response({})


async def _fault(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    if request.method == "POST":
        for name, value in (await request.json()).items():
            fake.faults.pop(name, None)
            if value is not None:
                fake.faults[name] = value
    return web.json_response(fake.faults)


@web.middleware
async def _guard(request: web.Request, handler: Json) -> web.StreamResponse:
    if not request.path.startswith("/_"):
        request.app[FAKE].asked.append(f"{request.method} {request.raw_path}")
    key = request.app[FAKE].options.api_key
    if key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": "Unauthorized"}, status=401)
    response: web.StreamResponse = await handler(request)
    return response


def make_app(options: argparse.Namespace) -> web.Application:
    """Build the fake engine's application."""
    app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[_guard])
    app[FAKE] = Fake(options)
    get: dict[str, Json] = {"/v1/models": _models, "/health": _health, "/version": _version, "/metrics": _metrics}
    get |= {"/_seen": _seen, "/_asked": _asked, "/_fault": _fault, "/openapi.json": _openapi}
    get |= {"/v1/responses/{id}": _stored}
    post: dict[str, Json] = {
        "/v1/chat/completions": _infer,
        "/v1/completions": _infer,
        "/v1/responses": _infer,
        "/v1/responses/{id}/cancel": _stored,
        "/v1/messages": _infer,
        **dict.fromkeys(COUNTING, _count),
        "/_fault": _fault,
        "/_reset": _reset,
    }
    if not options.no_runtime_lora:
        post |= {"/v1/load_lora_adapter": _load, "/v1/unload_lora_adapter": _unload}
    if not options.no_dev_mode:
        get |= {"/is_sleeping": _is_paused, "/is_paused": _is_paused}
        post |= {"/sleep": _pause, "/pause": _pause, "/wake_up": _go_on, "/resume": _go_on}
    app.add_routes([web.get(path, handler) for path, handler in get.items()])
    app.add_routes([web.post(path, handler) for path, handler in post.items()])
    app.add_routes([web.delete("/_seen", _seen)])
    return app


def _ending(options: argparse.Namespace, ended: asyncio.Event) -> Callable[[], None]:
    return (lambda: None) if options.ignore_sigterm else ended.set


async def _serve(options: argparse.Namespace) -> None:
    await asyncio.sleep(options.listen_delay_s)
    runner = web.AppRunner(make_app(options), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port).start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _ending(options, ended))
    print(f"fake vllm ready on {options.host}:{options.port}", flush=True)
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    options = parse()
    if options.exit_at_start is not None:
        print("RuntimeError: the fake engine was told not to start", flush=True)
        raise SystemExit(options.exit_at_start)
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
