"""Real processes, killed with real signals: afterwards the last good version serves, and status tells what happened."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from examples.demo_world import World, train_negative
from gaiad.learner.sources import catalogue
from tests.acceptance.conftest import START_S

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

ADAPTER = "json-architect"
STAGE = {"X-Gaia-Stage": "tool_selection"}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TELLING = re.compile(r"\b(?:gpu_phase|engine_starting|cycle_\w+)\b")


def served_by(world: World) -> str:
    try:
        raw = world.client.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO, max_tokens=4, extra_headers=STAGE
        )
    except openai.APIError as error:
        raise AssertionError(told(world, error)) from error
    assert raw.parse().choices[0].finish_reason in ("stop", "length")
    return raw.headers["X-Gaia-Adapter"]


def told(world: World, error: openai.APIError) -> str:
    """What the client got, and what the daemon went through before, so that a run elsewhere explains itself."""
    lines = [line for line in world.log.read_text(errors="replace").splitlines() if TELLING.search(line)]
    got = f"{type(error).__name__}: {error}"
    if isinstance(error, openai.APIStatusError):
        got = f"HTTP {error.status_code}: {error.response.text}"
    return "\n".join([got, "the daemon's log:", *lines[-20:]])


def until(what: Callable[[], Any], seconds: float, why: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds} s: {why}")


def trainer_of(world: World) -> int:
    """The training child of this daemon, or 0."""
    assert world.daemon is not None
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == world.daemon.pid and b"gaiad.learner.train" in words:
            return int(folder.name)
    return 0


def training(world: World) -> bool:
    cycle = world.status()["learning"].get("cycle") or {}
    return cycle.get("phase") == "training" and (cycle.get("progress") or {}).get("step", 0) >= 1


@pytest.fixture(scope="module")
def good(tiny_home: World, tiny_base: Path) -> str:
    """A version that serves, so that there is a last good one to come back to."""
    folder = catalogue.shipped_curricula() / ADAPTER
    curriculum = catalogue.load_curriculum(folder, "demo")
    examples = catalogue.gather(curriculum, folder, []).train[:4]
    asyncio.run(train_negative(tiny_home.folder / "seed", curriculum, examples, 1, base=tiny_base))
    directory = tiny_home.folder / "seed" / ADAPTER
    row = tiny_home.ctl("adapters", "import", str(directory), "--activate", "--reason", "a start for the kill tests")
    assert served_by(tiny_home) == row["version"]
    return str(row["version"])


def running_in_engine(world: World) -> bool:
    """Whether the engine itself says that it works on something: what it has not read yet it cannot fail."""
    with urllib.request.urlopen(f"http://127.0.0.1:{world.engine_port}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return any(line.startswith("vllm:num_requests_running") and float(line.split()[-1]) > 0 for line in lines)


def ask_until_one_fails(world: World, failures: list[openai.APIError]) -> None:
    """Keep the engine busy with long replies."""
    while not failures:
        try:
            world.client.chat.completions.create(
                model="auto", messages=HELLO, max_tokens=1900, extra_body={"ignore_eos": True}
            )
        except openai.APIError as error:
            failures.append(error)


def test_a_killed_engine_is_restarted_with_its_adapters_and_the_waiting_request_is_answered(
    tiny_home: World, good: str
) -> None:
    tiny_home.wait_until_serving(START_S)
    before = tiny_home.engine_processes()
    assert before
    failures: list[openai.APIError] = []
    running = threading.Thread(target=ask_until_one_fails, args=(tiny_home, failures))
    running.start()
    until(lambda: running_in_engine(tiny_home), 20, "the engine works on the request")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    running.join(60)
    assert not running.is_alive()
    # The request that was running got a clear error.
    (failure,) = failures
    assert isinstance(failure, openai.InternalServerError), told(tiny_home, failure)
    assert failure.status_code == 502
    assert failure.code == "engine_failed"
    assert "The engine failed before it answered" in failure.message
    # Sent while the engine is down: held, then answered by the same version as before.
    assert served_by(tiny_home) == good
    after = tiny_home.status()
    assert after["engine"]["restarts"] >= 1
    assert not set(before) & set(tiny_home.engine_processes())


def test_a_killed_trainer_leaves_the_last_good_version_serving_and_a_reason(tiny_home: World, good: str) -> None:
    tiny_home.wait_until_serving(START_S)
    tiny_home.ctl("train", ADAPTER, "--force")
    until(lambda: training(tiny_home), 120, "training begins")
    os.kill(trainer_of(tiny_home), signal.SIGKILL)
    row = until(lambda: ended(tiny_home), 60, "the cycle ends")
    assert row["verdict"] == "failed"
    assert "the trainer was killed by signal 9" in row["reason"]
    assert "gemm_4bit" not in row["reason"], "a missing faster kernel killed nobody"
    assert served_by(tiny_home) == good
    assert tiny_home.status()["learning"]["last"]["reason"] == row["reason"]


def ended(world: World) -> dict[str, Any] | None:
    row: dict[str, Any] = world.ctl("cycles")["cycles"][0]
    return row if row["verdict"] else None


def test_a_killed_daemon_comes_back_to_the_last_good_version_and_tells_of_the_interrupted_cycle(
    tiny_home: World, good: str
) -> None:
    tiny_home.wait_until_serving(START_S)
    tiny_home.ctl("train", ADAPTER, "--force")
    until(lambda: training(tiny_home), 120, "training begins")
    trainer, engines = trainer_of(tiny_home), tiny_home.engine_processes()
    assert tiny_home.daemon is not None
    tiny_home.daemon.kill()
    tiny_home.daemon.wait()
    until(lambda: not Path(f"/proc/{trainer}").exists(), 60, "the orphaned trainer ends by itself")
    tiny_home.start()
    tiny_home.wait_until_serving(START_S)
    assert served_by(tiny_home) == good
    assert not set(engines) & set(tiny_home.engine_processes()), "the engine of the killed daemon was ended"
    row = tiny_home.ctl("cycles")["cycles"][0]
    assert row["verdict"] == "interrupted"
    assert "training" in row["reason"]
    assert tiny_home.status()["learning"]["last"]["what"] == "interrupted"


def test_a_second_daemon_on_the_same_state_says_who_holds_it(tiny_home: World) -> None:
    tiny_home.wait_until_serving(START_S)
    assert tiny_home.daemon is not None
    second = subprocess.run(
        [sys.executable, "-m", "gaiad", "--config", str(tiny_home.config)], capture_output=True, text=True, timeout=60
    )
    assert second.returncode != 0
    assert str(tiny_home.daemon.pid) in second.stderr
    assert "Traceback" not in second.stderr
