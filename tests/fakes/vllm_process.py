"""Start the fake vLLM as a process and talk to its back door: `with running_vllm() as engine: ...`."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningVllm:
    """A fake engine that runs: where it is, what it saw, and its faults. It belongs to no event loop."""

    def __init__(self, port: int, child: subprocess.Popen[bytes], api_key: str = "") -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.child = child
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Send one request to any of its paths; the JSON or text it answers."""
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.request(method, self.url + path, json=body) as response,
        ):
            return await (response.json() if response.content_type == "application/json" else response.text())

    async def reset(self, *adapters: str) -> None:
        """Forget faults, adapters and what was seen; then load `adapters`."""
        await self.call("POST", "/_reset", {})
        for name in adapters:
            await self.call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": "/adapters"})

    async def fault(self, **faults: Any) -> None:
        """Set faults; None clears one."""
        await self.call("POST", "/_fault", faults)

    async def seen(self, path: str = "completions") -> list[dict[str, Any]]:
        """Return the requests it received whose path ends with `path`."""
        rows: list[dict[str, Any]] = await self.call("GET", "/_seen")
        return [row for row in rows if row["path"].endswith(path)]

    async def asked(self) -> list[str]:
        """Return all that was asked of it, as "POST /sleep"."""
        asked: list[str] = await self.call("GET", "/_asked")
        return asked

    async def until_cancelled(self, within_s: float = 5.0) -> dict[str, Any]:
        """Wait until the newest request was cut by its client."""
        async with asyncio.timeout(within_s):
            while True:
                rows = await self.seen()
                if rows and rows[-1]["cancelled"]:
                    return rows[-1]
                await asyncio.sleep(0.02)

    async def until_seen(self, count: int, within_s: float = 5.0) -> None:
        """Wait until so many inference requests arrived."""
        async with asyncio.timeout(within_s):
            while True:
                if len(await self.seen()) >= count:
                    return
                await asyncio.sleep(0.02)


@contextmanager
def running_vllm(*arguments: str, port: int | None = None, api_key: str = "") -> Iterator[RunningVllm]:
    """Run a fake vLLM until the block ends; it listens once the block begins."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.fakes.vllm", "--port", str(port), "--any-lora-path", *arguments]
    if api_key:
        command += ["--api-key", api_key]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, start_new_session=True) as child:
        try:
            if child.stdout is None or b"ready" not in child.stdout.readline():
                raise RuntimeError("the fake vLLM did not start")
            yield RunningVllm(port, child, api_key)
        finally:
            child.kill()
