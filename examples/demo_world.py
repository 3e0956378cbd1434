"""The demo's surroundings: one daemon of its own in a fresh folder, gaiadctl as a person would type it, two negatives.

Nothing here decides whether a step held; `examples.demo` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai

from gaiad.cli.client import Client
from gaiad.curriculum import Curriculum
from gaiad.learner.dataset import Example
from gaiad.learner.protocol import Job, Progress, Result
from gaiad.learner.runner import Run

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "var" / "models" / "smollm2-135m-instruct"
COMMAND_S = 7200
FORBIDDEN = ("torch", "transformers", "peft", "bitsandbytes", "vllm")

CONFIG = """\
# Written by the demo; examples/gaiad.toml explains every key.
state_dir = "{folder}/state"
control_socket = "{folder}/control.sock"

[proxy]
listen = "127.0.0.1:{port}"
{proxy}
[engine]
mode = "managed"
url = "http://127.0.0.1:{engine}"
base_model = "{model}"
served_name = "smollm2-135m"
max_model_len = 2048

[learning]
idle_minutes = 60
profile = "{profile}"
{learning}
[consent]
header_may_grant = true
"""
GUARD_WINDOW, GUARD_MAX_FAILURES = 6, 3
DEMO_LEARNING = f"guard_window = {GUARD_WINDOW}\nguard_max_failures = {GUARD_MAX_FAILURES}\n"
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


class DemoFailed(Exception):
    """A step did not hold, so the demo ends non-zero."""


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there, else any free TCP port."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise DemoFailed("no free port on 127.0.0.1")


def engine_port() -> int:
    """A free TCP port for the engine, by chance, that the kernel gives to no outgoing connection.

    Never a fixed one: two vLLMs may bind the same port (it sets SO_REUSEPORT) and would share the requests. Never an
    ephemeral one: asking whether the engine is up yet could then connect to itself, and hold the port against it.
    """
    low, high = map(int, EPHEMERAL_PORTS.read_text(encoding="ascii").split())
    lasting = [port for port in range(10_000, 60_000) if not low <= port <= high]
    for port in random.sample(lasting, min(50, len(lasting))):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DemoFailed("no free port outside the ephemeral ones on 127.0.0.1")


def empty_folder(folder: Path) -> None:
    """Make `folder` anew; what lies there is only removed if an earlier run left it.

    Raises:
        SystemExit: it holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "gaiad.toml").is_file():
        raise SystemExit(f"{folder} is not empty and no earlier run's; give --folder another one")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


class World:
    """A running daemon, and what the demo asks of it."""

    def __init__(
        self,
        folder: Path,
        *,
        model: Path = MODEL,
        profile: str = "demo",
        learning: str = DEMO_LEARNING,
        proxy: str = "",
        timeout_s: float = 180,
    ) -> None:
        self.folder = folder
        self.port = free_port(6430)
        self.config = folder / "gaiad.toml"
        self.log = folder / "gaiad.log"
        self.engine_port = engine_port()
        places = {"folder": folder, "port": self.port, "engine": self.engine_port, "model": model}
        more = {"learning": learning, "proxy": proxy, "profile": profile}
        self.config.write_text(CONFIG.format(**more, **places), encoding="utf-8")
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="unused", timeout=timeout_s, max_retries=0
        )
        self.socket = Client(folder / "control.sock")
        self.daemon: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        """The daemon's state directory."""
        return self.folder / "state"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the daemon; end it, and the client's connections, in any case."""
        with self.client:
            self.start()
            try:
                yield
            finally:
                self.end()

    def start(self) -> None:
        """Start the daemon; its output is appended to the log."""
        command = [sys.executable, "-m", "gaiad", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def end(self) -> None:
        """End the daemon if it still runs, whatever it takes."""
        assert self.daemon is not None
        if self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(60)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()

    def stop(self) -> int:
        """End the daemon as systemd would; returns its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(60)

    def command(self, *words: str) -> list[str]:
        """The gaiadctl command line for `words`."""
        gaiadctl = str(Path(sys.executable).parent / "gaiadctl")
        return [gaiadctl, "--socket", str(self.folder / "control.sock"), *words]

    def ctl(self, *words: str, may_fail: bool = False) -> dict[str, Any]:
        """Run gaiadctl with `--json` and parse its answer; progress goes to the terminal.

        Raises:
            DemoFailed: it exited non-zero and `may_fail` is false.
        """
        command = [*self.command(*words), "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False, timeout=COMMAND_S)
        if done.returncode != 0 and not may_fail:
            raise DemoFailed(f"gaiadctl {' '.join(words)} exited {done.returncode}: {done.stdout.decode()[:500]}")
        try:
            answer = json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise DemoFailed(f"gaiadctl {' '.join(words)} printed no JSON: {done.stdout.decode()[:500]}") from error
        if not isinstance(answer, dict):
            raise DemoFailed(f"gaiadctl {' '.join(words)} printed no object")
        return answer

    def status(self) -> dict[str, Any]:
        """The daemon's status page."""
        return self.ctl("status")

    def wait_until_serving(self, seconds: float) -> float:
        """Wait for the engine with a line of progress; returns the seconds it took."""
        started, shown = time.monotonic(), ""
        while (took := time.monotonic() - started) < seconds:
            if self.daemon is not None and self.daemon.poll() is not None:
                raise DemoFailed(f"the daemon ended: {self.log.read_text()[-800:]}")
            with contextlib.suppress(DemoFailed):
                gpu = self.ctl("status")["gpu"]
                if gpu["phase"] == "serving":
                    return took
                line = f"{gpu['phase']}: {gpu.get('reason') or ''}"
                if line != shown:
                    print(f"    {took:4.0f} s  {line}", flush=True)
                    shown = line
            time.sleep(2)
        raise DemoFailed(f"the engine did not serve within {seconds:.0f} s; see {self.log}")

    def modules_in_daemon(self) -> list[str]:
        """Which of the heavy libraries are mapped into the daemon's memory (Linux)."""
        assert self.daemon is not None
        maps = Path(f"/proc/{self.daemon.pid}/maps").read_text()
        return [name for name in FORBIDDEN if f"/{name}/" in maps]

    def files_holding(self, needle: str) -> list[Path]:
        """Every file below the daemon's folder that holds `needle` as bytes."""
        wanted = needle.encode()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path for path in files if wanted in path.read_bytes()]

    def engine_processes(self) -> list[int]:
        """Processes whose command line names this demo's engine port (Linux)."""
        port, found = str(self.engine_port).encode(), []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    if b"--port" in words and port in words:
                        found.append(int(folder.name))
        return found


async def train_negative(
    folder: Path, curriculum: Curriculum, examples: Sequence[Example], steps: int, *, base: Path = MODEL
) -> Result:
    """Train an adapter that must not be trusted, exactly as the daemon's own trainer would.

    Raises:
        TrainingError: the run failed.
    """
    job = _job(folder, curriculum, examples, steps, base)
    run = await Run.start(job, python=sys.executable, log_path=folder / "trainer.log", silence_s=300)
    async with run:
        async for message in run.messages():
            if isinstance(message, Progress) and message.loss is not None and message.step % 10 == 0:
                print(f"    step {message.step}/{message.total_steps}  loss {message.loss:.3f}", flush=True)
        return await run.outcome()


def _job(folder: Path, curriculum: Curriculum, examples: Sequence[Example], steps: int, base: Path) -> Job:
    folder.mkdir(parents=True)
    split, empty = folder / "train.jsonl", folder / "validation.jsonl"
    split.write_text("".join(json.dumps(example.to_json()) + "\n" for example in examples), encoding="utf-8")
    empty.write_text("", encoding="utf-8")
    return Job(
        base_model=str(base),
        train_path=str(split),
        validation_path=str(empty),
        output_dir=str(folder / curriculum.adapter),
        lora=curriculum.lora,
        training=dataclasses.replace(curriculum.training, max_steps=steps),
    )
