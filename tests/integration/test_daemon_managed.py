"""The daemon with a managed engine: what happens to requests and processes when something is killed.

The engine's Python is a script that starts `tests.fakes.vllm` instead, the trainer's one that starts
`tests.fakes.trainer`; everything else is real.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.place import ROOT, Home, chat, daemon, free_port, gaiadctl, healthy, run, status, until


def script(path: Path, words: str) -> str:
    path.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" {words}\n')
    path.chmod(0o700)
    return json.dumps(str(path))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, free_port(), free_port())
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    home.write(
        engine__mode='"managed"',
        engine__base_model='"base"',
        engine__python=script(tmp_path / "engine", '-m tests.fakes.vllm "$@"'),
        learning__enabled="true",
        learning__profile='"demo"',
        learning__python=script(tmp_path / "trainer", "-m tests.fakes.trainer normal"),
    )
    return home


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody has buried yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def engine_pid(home: Home) -> int:
    await until(lambda: healthy(home))
    page: Any = await status(home)
    return int(page["engine"]["pid"])


async def test_an_orderly_stop_ends_the_engine_and_lets_requests_end(home: Home) -> None:
    async with daemon(home) as child:
        pid = await engine_pid(home)
        await tell_engine(home, {"delay_s": 1.0})
        asked = asyncio.ensure_future(chat(home))

        async def under_way() -> bool:
            return bool((await status(home))["requests"]["active"] == 1)

        await until(under_way)
        child.send_signal(signal.SIGTERM)
        assert (await asked)[0] == 200
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert not alive(pid)


async def test_a_killed_engine_is_started_again_and_requests_wait_for_it(home: Home) -> None:
    async with daemon(home):
        pid = await engine_pid(home)
        os.kill(pid, signal.SIGKILL)

        async def noticed() -> bool:
            return bool((await status(home))["gpu"]["phase"] != "serving")

        await until(noticed)
        assert (await chat(home))[0] == 200
        page = await status(home)
        assert page["engine"]["restarts"] == 1
        assert page["engine"]["pid"] != pid


async def test_the_engine_of_a_killed_daemon_is_ended_by_the_next_one(home: Home) -> None:
    async with daemon(home) as child:
        pid = await engine_pid(home)
        child.kill()
        await child.wait()
    assert alive(pid)
    async with daemon(home):
        assert await engine_pid(home) != pid
        assert not alive(pid)
        assert (await chat(home))[0] == 200


async def test_a_whole_cycle_leaves_a_rejected_version_and_the_base_serving(home: Home) -> None:
    async with daemon(home):
        await until(lambda: healthy(home))
        code, said, complaint = await gaiadctl(home, "train", "json-architect", "--wait")
        # The fake engine answers every item alike, whatever the adapter: no gain, so the gate rejects.
        assert (code, "rejected" in said) == (1, True), said + complaint
        page = await status(home)
        assert page["learning"]["last"]["what"] == "rejected"
        assert page["health"] == "ok"
        assert {row["stage"]: row["version"] for row in page["stages"]}["tool_selection"] is None
        shown = json.loads((await gaiadctl(home, "adapters", "show", "json-architect", "--json"))[1])
        assert [version["stage"] for version in shown["versions"]] == ["rejected"]
        report = (await gaiadctl(home, "adapters", "show", shown["versions"][0]["version"]))[1]
        assert "right choice" in report
        assert (await chat(home))[0] == 200


async def test_a_loop_that_ends_by_itself_takes_the_daemon_down(home: Home) -> None:
    program = (
        "import sys, gaiad.daemon, gaiad.__main__\n"
        "async def ends_at_once(tick, *, every_s): return None\n"
        "gaiad.daemon.run_schedule = ends_at_once\n"
        f"sys.exit(gaiad.__main__.main(['--config', {str(home.config)!r}]))"
    )
    code, _, said = await run(sys.executable, "-c", program)
    assert (code, "the schedule loop ended by itself" in said) == (1, True)
    assert home.socket.name not in os.listdir(home.folder)


async def tell_engine(home: Home, faults: dict[str, object]) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://127.0.0.1:{home.engine_port}/_fault", json=faults) as reply,
    ):
        assert reply.status == 200
