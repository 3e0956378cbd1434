"""A managed fake engine, a GPU loop over it and a busy child: what the tests of `gaiad.gpu` share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gaiad.adapter import VersionName
from gaiad.config import Config, EngineConfig, LearningConfig, ProxyConfig
from gaiad.gpu import probe
from gaiad.gpu.admission import Lease
from gaiad.gpu.engine import Engine
from gaiad.gpu.handoff import Phase
from gaiad.gpu.loop import GpuLoop
from tests.fakes.vllm_process import ROOT, free_port

SERVED = "tiny-base"


def fake_python(folder: Path, *arguments: str, first: str = ":") -> str:
    """Write a stand-in for the Python that starts vLLM: it runs the shell line `first` and starts the fake instead."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python"
    words = " ".join(["--any-lora-path", *arguments])
    script.write_text(
        f'#!/bin/sh\n{first}\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.fakes.vllm {words} "$@"\n',
        encoding="ascii",
    )
    script.chmod(0o755)
    return str(script)


def managed_config(folder: Path, *fake: str, port: int | None = None, first: str = ":", **engine: Any) -> Config:
    """Return settings whose managed engine is the fake, with short times."""
    base = folder / "models" / SERVED
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_text("{}", encoding="ascii")
    settings: dict[str, Any] = {
        "url": f"http://127.0.0.1:{port or free_port()}",
        "base_model": str(base),
        "device": "cpu",
        "python": fake_python(folder / "bin", *fake, first=first),
        "start_timeout_s": 20.0,
        "request_timeout_s": 10.0,
        **engine,
    }
    return Config(
        state_dir=folder / "state",
        control_socket=folder / "control.sock",
        proxy=ProxyConfig(max_held=8),
        engine=EngineConfig(**settings),
        learning=LearningConfig(drain_s=2.0, resume_after_s=0.2),
    )


async def until(claim: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until `claim` holds; fail when it does not in time."""
    async with asyncio.timeout(within_s):
        while True:
            if claim():
                return
            await asyncio.sleep(0.01)


class BusyChild:
    """A real process that computes, paused and resumed by signals to its group."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"], start_new_session=True)

    @property
    def state(self) -> str:
        """The kernel's letter for what it is at: R runs, T stands still."""
        one = probe.living(self.child.pid)
        return one.state if one is not None else "gone"

    def pause(self) -> None:
        os.killpg(self.child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.child.pid, signal.SIGCONT)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


@dataclass
class GpuWorld:
    """A loop that runs, its engine, and how often it reconciled."""

    config: Config
    engine: Engine
    loop: GpuLoop
    reconciled: list[int] = field(default_factory=list)

    async def serving(self, within_s: float = 20.0) -> None:
        """Wait until requests are served."""
        await until(lambda: self.loop.phase is Phase.SERVING, within_s)

    async def ask(self, *, is_user: bool = True, timeout_s: float = 20.0) -> str:
        """Be a request: wait for a lease, ask the engine, give the lease back."""
        lease = await self.loop.admit(is_user=is_user, timeout_s=timeout_s)
        if not isinstance(lease, Lease):
            return lease.reason
        try:
            body = {"model": self.engine.served_name, "messages": [{"role": "user", "content": "hello"}]}
            await self.engine.complete(body)
        finally:
            lease.release()
        return "served"

    async def fault(self, **faults: Any) -> None:
        """Set the fake's faults."""
        async with aiohttp.ClientSession() as session, session.post(f"{self.engine.url}/_fault", json=faults):
            pass


@contextlib.asynccontextmanager
async def running_gpu(
    config: Config,
    reconcile: Callable[[Engine], Awaitable[None]] | None = None,
    health_every_s: float = 0.1,
    expected: Callable[[], frozenset[VersionName]] = frozenset,
) -> AsyncIterator[GpuWorld]:
    """Run a GPU loop over the engine that `config` describes; nothing is left afterwards."""
    engine = Engine(config, max_lora_rank=16)
    marks: list[int] = []

    async def note() -> None:
        marks.append(engine.pid or 0)
        if reconcile is not None:
            await reconcile(engine)

    world = GpuWorld(
        config, engine, GpuLoop(engine, config, note, health_every_s=health_every_s, expected=expected), marks
    )
    task = asyncio.create_task(world.loop.run(), name="gpu")
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.wait([task])
        await engine.stop(5.0)
        if not task.cancelled() and task.exception() is not None:
            task.result()
