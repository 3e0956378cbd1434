"""How soon the engine hears that a client has left, whether its reply is streamed or not.

    python -m bench.proxy_leaving [--clients 200] [--at-once 32] [--json]

Each client sends a request that the engine never ends, waits until the engine has it (a streamed one until its first
chunk), and closes its connection; so many are there at once. The time is from that close to the end of the proxy's
connection to the engine, as the engine sees it; clients and engine share a process and so a clock.

The bar is 100 ms for the slowest. Exit code 1: it is missed, or somebody's engine never heard.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aiohttp import web

from bench.load import targets as kinds
from bench.load.command import Place, carried_out

BAR_MS = 100.0
WAIT_S = 5.0
_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","model":"base","choices":[{"index":0,"delta":{}}]}\n\n'


class Engine:
    """An engine that begins every reply and ends none, and notes when each request's connection ended."""

    def __init__(self) -> None:
        self.begun: dict[str, asyncio.Event] = {}
        self.left: dict[str, float] = {}
        self.heard: dict[str, asyncio.Event] = {}

    def expect(self, name: str) -> None:
        """Prepare for the request of one client."""
        self.begun[name], self.heard[name] = asyncio.Event(), asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Tell of the one model, or begin a reply and wait for its client to leave."""
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "base", "object": "model"}]})
        if request.path == "/version":
            return web.json_response({"version": "0.32.0"})
        if request.path == "/v1/completions":
            # The daemon's probe.
            choice = {"index": 0, "text": "a", "finish_reason": "length", "logprobs": None}
            return web.json_response({"id": "p", "object": "text_completion", "model": "base", "choices": [choice]})
        if request.path != "/v1/chat/completions":
            return web.Response(status=200 if request.path == "/health" else 404)
        asked = await request.json()
        name = asked["messages"][0]["content"]
        try:
            if asked["stream"]:
                stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await stream.prepare(request)
                await stream.write(_CHUNK)
            self.begun[name].set()
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        finally:
            self.left[name] = time.monotonic()
            self.heard[name].set()


async def leave(engine: Engine, port: int, name: str, *, streamed: bool) -> float | None:
    """One client from its request to what the engine heard of its leaving, in ms; None where it heard nothing."""
    engine.expect(name)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {"model": "auto", "messages": [{"role": "user", "content": name}], "stream": streamed}
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    async with asyncio.timeout(WAIT_S):
        await (reader.readuntil(b'"delta"') if streamed else engine.begun[name].wait())
    begun = time.monotonic()
    writer.close()
    try:
        async with asyncio.timeout(WAIT_S):
            await engine.heard[name].wait()
    except TimeoutError:
        return None
    return (engine.left[name] - begun) * 1000


async def measured(place: Place, clients: int, at_once: int) -> dict[bool, list[float | None]]:
    """The times of all clients, streamed ones under True."""
    engine = Engine()
    runner = web.ServerRunner(web.Server(engine.answer, handler_cancellation=True, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    context = kinds.gaiad(
        place.folder / "gaiad", runner.addresses[0][1], place.proxy_core, consented=False, queue=clients
    )
    target = await asyncio.to_thread(context.__enter__)
    gate, found = asyncio.Semaphore(at_once), {True: list[float | None](), False: list[float | None]()}

    async def one(number: int, *, streamed: bool) -> None:
        async with gate:
            found[streamed].append(await leave(engine, target.port, f"{streamed} {number}", streamed=streamed))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(one(number, streamed=number % 2 == 0))
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
        await runner.cleanup()
    return found


def told(found: dict[bool, list[float | None]], *, as_json: bool) -> bool:
    """Print the figures; whether the bar holds."""
    rows = {}
    for streamed, times in found.items():
        heard = sorted(time_ms for time_ms in times if time_ms is not None)
        rows["streamed" if streamed else "whole"] = {
            "clients": len(times),
            "unheard": len(times) - len(heard),
            "median_ms": round(statistics.median(heard), 2) if heard else None,
            "max_ms": round(heard[-1], 2) if heard else None,
        }
    holds = all(not row["unheard"] and (row["max_ms"] or 0) <= BAR_MS for row in rows.values())
    if as_json:
        print(json.dumps({"replies": rows, "bar_ms": BAR_MS, "holds": holds}))
        return holds
    print(f"{'reply':10}{'clients':>8}{'unheard':>9}{'median ms':>11}{'slowest ms':>12}")
    for name, row in rows.items():
        print(f"{name:10}{row['clients']:>8}{row['unheard']:>9}{row['median_ms']!s:>11}{row['max_ms']!s:>12}")
    print(f"the slowest within {BAR_MS:g} ms: {'holds' if holds else 'missed'}")
    return holds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table; 1 where the bar is missed or it did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.clients < 2 or options.at_once < 1:
        parser.error("--clients must be at least 2 and --at-once at least 1")
    return carried_out(
        "leaving",
        lambda place: told(asyncio.run(measured(place, options.clients, options.at_once)), as_json=options.json),
    )


if __name__ == "__main__":
    sys.exit(main())
