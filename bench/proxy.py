"""What the proxy adds to a request, beside the same request sent straight to the engine.

    python -m bench.proxy [--requests 300] [--rounds 4] [--json]

A fake engine answers at once, so the difference is the proxy's own cost. Direct and proxied rounds alternate in one
run; the table shows medians over rounds and their ratios. Numbers from different machines do not compare; ratios do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
BODY = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "You are a careful assistant. " * 40},
        {"role": "user", "content": "Hi"},
    ],
    "max_tokens": 16,
}


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def wait_for(session: aiohttp.ClientSession, url: str, seconds: float) -> None:
    """Poll `url` until it answers 200.

    Raises:
        TimeoutError: after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            async with session.get(url) as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{url} did not answer within {seconds} s")


async def one_round(session: aiohttp.ClientSession, url: str, model: str, requests: int, stream: bool) -> list[float]:
    """Send `requests` one after another; returns each one's milliseconds."""
    body = {**BODY, "model": model, "stream": stream}
    took = []
    for _ in range(requests):
        started = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            await reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{url} answered {reply.status}")
        took.append((time.perf_counter() - started) * 1000)
    return took


async def throughput(session: aiohttp.ClientSession, url: str, model: str, requests: int, streams: int) -> float:
    """Send `requests` over `streams` connections at once; returns requests a second."""
    left = iter(range(requests))
    body = {**BODY, "model": model}

    async def worker() -> None:
        for _ in left:
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(streams)))
    return requests / (time.perf_counter() - started)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of `values` do not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def measure(requests: int, rounds: int, engine: str, proxy: str) -> dict[str, dict[str, float]]:
    """Alternate direct and proxied rounds; returns medians over rounds by target."""
    results: dict[str, dict[str, list[float]]] = {"direct": {}, "gaiad": {}}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        await wait_for(session, f"{engine}/health", 30)
        await wait_for(session, f"{proxy}/health", 30)
        for _ in range(rounds):
            for name, url, model in (("direct", engine, "base"), ("gaiad", proxy, "auto")):
                plain = await one_round(session, url, model, requests, stream=False)
                streamed = await one_round(session, url, model, requests // 2, stream=True)
                rate = await throughput(session, url, model, requests * 2, 32)
                row = results[name]
                row.setdefault("p50_ms", []).append(percentile(plain, 0.5))
                row.setdefault("p99_ms", []).append(percentile(plain, 0.99))
                row.setdefault("stream_p50_ms", []).append(percentile(streamed, 0.5))
                row.setdefault("requests_per_s", []).append(rate)
    return {name: {key: statistics.median(v) for key, v in row.items()} for name, row in results.items()}


def run(requests: int, rounds: int) -> dict[str, dict[str, float]]:
    """Start a fake engine and a daemon in front of it, measure, end both."""
    engine_port, proxy_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gaiad.toml"
        config.write_text(
            f'state_dir = "{folder}/state"\ncontrol_socket = "{folder}/control.sock"\n'
            f'[proxy]\nlisten = "127.0.0.1:{proxy_port}"\n[engine]\nmode = "external"\n'
            f'url = "http://127.0.0.1:{engine_port}"\nbase_model = "base"\n[learning]\nenabled = false\n'
            '[log]\nlevel = "error"\n'
        )
        commands = [
            [sys.executable, "-m", "tests.fakes.vllm", "--port", str(engine_port), "--served-model-name", "base"],
            [sys.executable, "-m", "gaiad", "--config", str(config)],
        ]
        children = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        try:
            urls = f"http://127.0.0.1:{engine_port}", f"http://127.0.0.1:{proxy_port}"
            return asyncio.run(measure(requests, rounds, *urls))
        finally:
            for child in reversed(children):
                child.terminate()
            for child in children:
                child.wait(15)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = run(options.requests, options.rounds)
    if options.json:
        print(json.dumps(results))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians of {options.rounds}"
    )
    print(f"{'':16}{'direct':>12}{'gaiad':>12}{'added':>12}{'ratio':>9}")
    for key in results["direct"]:
        direct, proxied = results["direct"][key], results["gaiad"][key]
        print(f"{key:16}{direct:12.2f}{proxied:12.2f}{proxied - direct:12.2f}{proxied / direct:8.2f}x")


if __name__ == "__main__":
    main()
