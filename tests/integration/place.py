"""A daemon's place for tests: settings, ports, and the real `gaiad` and `gaiadctl` as processes in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]
START_S = 30.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Home:
    """One daemon's place: settings, ports, socket."""

    folder: Path
    port: int
    engine_port: int

    @property
    def config(self) -> Path:
        return self.folder / "gaiad.toml"

    @property
    def socket(self) -> Path:
        return self.folder / "control.sock"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, **changes: str) -> None:
        settings = {
            "state_dir": '"state"',
            "control_socket": '"control.sock"',
            "proxy.listen": f'"127.0.0.1:{self.port}"',
            "engine.mode": '"external"',
            "engine.url": f'"http://127.0.0.1:{self.engine_port}"',
            "learning.enabled": "false",
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        self.config.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))


@contextlib.asynccontextmanager
async def daemon(home: Home, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running daemon, up to the moment its control socket answers."""
    with (home.folder / "gaiad.log").open("ab") as errors:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gaiad", "--config", str(home.config)),
            cwd=ROOT,
            stderr=errors,
            env={**os.environ, **environment},
        )
    try:
        await until(lambda: _answers(home, child))
        yield child
    finally:
        # A managed engine goes with its daemon only if that is asked, not killed.
        if child.returncode is None:
            child.terminate()
        try:
            await asyncio.wait_for(child.wait(), START_S)
        except TimeoutError:
            child.kill()
            await child.wait()


async def _answers(home: Home, child: asyncio.subprocess.Process) -> bool:
    log = (home.folder / "gaiad.log").read_text()
    assert child.returncode is None, log
    return home.socket.exists() and (await gaiadctl(home, "status"))[0] == 0


async def until(condition: Any, within_s: float = START_S) -> None:
    """Ask again and again until `condition` holds, or fail."""
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.1)


async def run(*words: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), START_S)
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def gaiadctl(home: Home, *words: str) -> tuple[int, str, str]:
    return await run(sys.executable, "-m", "gaiad.cli", "--socket", str(home.socket), *words)


async def status(home: Home) -> Any:
    code, text, complaint = await gaiadctl(home, "status", "--json")
    assert code == 0, complaint
    return json.loads(text)


async def healthy(home: Home) -> bool:
    return bool((await status(home))["health"] == "ok")


async def refused_start(home: Home) -> str:
    """Start a daemon that must refuse; returns the one line it says."""
    code, out, err = await run(sys.executable, "-m", "gaiad", "--config", str(home.config))
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if line.startswith("gaiad: ")]
    assert "Traceback" not in err, err
    assert len(lines) == 1, err
    assert "Try:" in lines[0]
    return lines[0]


async def chat(home: Home, text: str = "hello", **headers: str) -> tuple[int, dict[str, str], Any]:
    body = {"messages": [{"role": "user", "content": text}]}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{home.url}/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        return reply.status, dict(reply.headers), await reply.json()
