"""A small vLLM as a process of its own: the routes, wording and traps of the real one, no model.

    python -m tests.fakes.vllm --port 7777 [--served-model-name base] [--fault delay_s=2] ...

It speaks `/v1/chat/completions` and `/v1/completions` (streamed and not), `/v1/models`, `/v1/load_lora_adapter`,
`/v1/unload_lora_adapter`, `/version`, `/health`, `/metrics`, `/sleep`, `/wake_up`, `/is_sleeping`, `/pause`,
`/resume`, `/is_paused`, `/openapi.json`. Flags of the real server that it does not know are accepted and ignored, and
so is `-m vllm.entrypoints...`, so that it can stand in for a Python that starts vLLM. Like the real one it ignores
`guided_*` and honours `structured_outputs` and `response_format`.

For tests: `GET /_seen` lists the inference and adapter requests it received (path, headers, body, cancelled, status),
`DELETE /_seen` empties the list, `POST /_reset` forgets all but the flags, `GET /_fault` shows the faults and
`POST /_fault {name: value}` sets them (null clears one):

    delay_s          wait before answering                  token_delay_s    wait before each token
    hang             never answer                           status           answer inference with this status
    die_after        abort the connection after N chunks    exit_after       end the process after N chunks
    split_bytes      write streams N bytes at a time        refuse_load      answer 500 to load_lora_adapter
    load_delay_s     wait before loading                    unhealthy        /health answers 503
    reply            the text of every reply                replies          text by model name
    finish_reason    instead of "stop"                      tool_calls       in place of content
    stream_error     end streams with an error event
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.generation import Generation

Json = Any


class Fake:
    """The state of one fake engine: adapters, faults, what it saw, and whether it is paused."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.served: str = (options.served_model_name or [options.model])[0]
        self.adapters: dict[str, str] = {}
        self.faults: dict[str, Json] = dict(options.faults)
        self.seen: list[dict[str, Json]] = []
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
        self.seen.append(row)
        return row


FAKE = web.AppKey("fake", Fake)


def _error(status: int, message: str, kind: str) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return web.json_response(body, status=status)


def _check(fake: Fake, body: Json, chat: bool) -> web.Response | None:
    if not isinstance(body, dict):
        return _error(400, "[{'type': 'dict_type', 'msg': 'Input should be a valid dictionary'}]", "Bad Request")
    field = "messages" if chat else "prompt"
    if field not in body:
        detail = f"[{{'type': 'missing', 'loc': ('body', '{field}'), 'msg': 'Field required'}}]"
        return _error(400, detail, "Bad Request")
    model = body.get("model")
    if model and model != fake.served and model not in fake.adapters:
        return _error(404, f"The model `{model}` does not exist. Valid aliases: {fake.served}.", "NotFoundError")
    return None


async def _infer(request: web.Request) -> web.StreamResponse:
    fake = request.app[FAKE]
    chat = request.path.endswith("/chat/completions")
    body = await request.json()
    row = fake.note(request, body)
    refusal = _check(fake, body, chat)
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
            response = await _answer(fake, request, Generation(fake.faults, fake.served, body, chat), body)
        finally:
            fake.running -= 1
            if fake.running == 0:
                fake.idle.set()
    except (asyncio.CancelledError, ConnectionResetError):
        row["cancelled"] = True
        raise
    row["status"] = response.status
    return response


async def _answer(fake: Fake, request: web.Request, made: Generation, body: Json) -> web.StreamResponse:
    if fake.fault("hang"):
        await asyncio.Event().wait()
    await asyncio.sleep(float(fake.fault("delay_s", 0)))
    status = int(fake.fault("status", 200))
    if int(fake.fault("fail_next", 0)) > 0:
        fake.faults["fail_next"] -= 1
        status = 500
    if status != 200:
        return _error(status, "the fake engine was told to fail", "InternalServerError")
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
    return web.json_response(made.whole())


async def _stream(fake: Fake, request: web.Request, made: Generation, body: Json) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Engine": "fake"})
    await response.prepare(request)
    if fake.fault("die_after") == 0 and request.transport is not None:
        request.transport.abort()
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
        if (body.get("stream_options") or {}).get("include_usage"):
            await _write(fake, response, made.usage_chunk())
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _write(fake: Fake, response: web.StreamResponse, chunk: Json) -> None:
    line = b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
    size = int(fake.fault("split_bytes", 0)) or len(line)
    for start in range(0, len(line), size):
        await response.write(line[start : start + size])
        if size < len(line):
            await asyncio.sleep(0)


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


async def _reset(request: web.Request) -> web.Response:
    fake = request.app[FAKE]
    fake.seen.clear()
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
    get |= {"/_seen": _seen, "/_fault": _fault, "/openapi.json": _openapi}
    post: dict[str, Json] = {
        "/v1/chat/completions": _infer,
        "/v1/completions": _infer,
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


def _fault_option(text: str) -> tuple[str, Json]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value or "true")
    except ValueError:
        return name, value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; what only the real server knows is ignored."""
    parser = argparse.ArgumentParser(prog="tests.fakes.vllm", allow_abbrev=False)
    parser.add_argument("-m", dest="module", help="ignored")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7777)
    parser.add_argument("--model", default="fake-base")
    parser.add_argument("--served-model-name", nargs="*")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--fake-version", default="0.32.0")
    parser.add_argument("--start-delay-s", type=float, default=0.0, help="unhealthy for so long after the start")
    parser.add_argument("--listen-delay-s", type=float, default=0.0, help="not listening for so long after the start")
    parser.add_argument("--no-runtime-lora", action="store_true")
    parser.add_argument("--no-dev-mode", action="store_true")
    parser.add_argument("--any-lora-path", action="store_true", help="load adapters whose folder does not exist")
    parser.add_argument("--exit-at-start", type=int, default=None, help="end at once with this exit code")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--fault", dest="faults", action="append", type=_fault_option, default=[])
    options, _ = parser.parse_known_args(arguments)
    return options


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
