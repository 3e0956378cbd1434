"""The engine as our child: started, found again after a killed daemon, ended to the last process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaiad.adapter import VersionName
from gaiad.errors import EngineError
from gaiad.gpu import probe
from gaiad.gpu.engine import Engine
from tests.fakes.vllm_process import ROOT, running_vllm
from tests.integration.gpu_world import SERVED, managed_config

VERSION = VersionName("json-architect@v1-0123abcd")


def engine_of(folder: Path, *fake: str, **settings: Any) -> Engine:
    return Engine(managed_config(folder, *fake, **settings), max_lora_rank=16)


async def test_start_tells_progress_and_facts(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, "--start-delay-s 0.6", "--max-model-len 2048")
    heard: list[tuple[float, str]] = []
    try:
        await engine.start()
        await engine.wait_healthy(lambda elapsed_s, phase: heard.append((elapsed_s, phase)))
        facts = await engine.facts()
    finally:
        await engine.stop()
    assert heard
    assert heard[-1][0] > 0
    assert (facts.version, facts.served_name, facts.runtime_lora, facts.sleep) == ("0.32.0", SERVED, True, True)
    assert facts.missing == ()


async def test_what_an_engine_lacks_is_named_by_flag(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, "--no-runtime-lora", "--no-dev-mode")
    try:
        await engine.start()
        await engine.wait_healthy()
        facts = await engine.facts()
        with pytest.raises(EngineError, match="does not pause") as caught:
            await engine.pause(1.0)
    finally:
        await engine.stop()
    assert "VLLM_SERVER_DEV_MODE=1" in caught.value.hint
    assert [word.split("=")[0] for word in facts.missing] == [
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_SERVER_DEV_MODE",
    ]


async def test_adapters_load_and_unload_twice_without_complaint(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, adapter_root="/mnt/adapters")
    folder = tmp_path / "state" / "adapters" / "json-architect" / "v1-0123abcd"
    try:
        await engine.start()
        await engine.wait_healthy()
        await engine.load(VERSION, folder)
        await engine.load(VERSION, folder)
        assert await engine.loaded() == {VERSION}
        assert await engine.probe(VERSION)
        cards = await engine._cards()
        assert cards[-1]["root"] == "/mnt/adapters/json-architect/v1-0123abcd"
        await engine.unload(VERSION)
        await engine.unload(VERSION)
        assert await engine.loaded() == frozenset()
        with pytest.raises(EngineError, match="does not exist"):
            await engine.probe(VERSION)
    finally:
        await engine.stop()


async def test_paused_engine_says_so_and_answers_after_resume(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    body = {"model": SERVED, "messages": [{"role": "user", "content": "hello"}]}
    try:
        await engine.start()
        await engine.wait_healthy()
        await engine.pause(2.0)
        assert await engine.paused()
        asked = asyncio.ensure_future(engine.complete(body))
        assert await asyncio.wait([asked], timeout=0.3) == (set(), {asked})
        await engine.resume()
        assert (await asked)["choices"]
        assert not await engine.paused()
    finally:
        await engine.stop()


async def test_stop_leaves_no_process_even_where_sigterm_is_ignored(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, "--ignore-sigterm")
    await engine.start()
    await engine.wait_healthy()
    pid = engine.pid
    assert pid is not None
    assert (tmp_path / "state" / "engine.json").exists()
    await engine.stop(0.3)
    assert probe.group_members(pid) == []
    assert not (tmp_path / "state" / "engine.json").exists()


async def test_stop_that_was_cut_off_is_finished_by_the_next_one(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, "--ignore-sigterm")
    await engine.start()
    await engine.wait_healthy()
    pid = engine.pid
    assert pid is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.stop(30.0), 0.2)
    assert probe.group_members(pid) != []
    await engine.stop(0.1)
    assert probe.group_members(pid) == []


async def test_children_that_outlive_the_killed_leader_are_ended_too(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, first="sleep 1000 &")
    await engine.start()
    await engine.wait_healthy()
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert (await engine.exited()).endswith("somebody, or the kernel for want of memory, ended it")
    assert not engine.alive()
    assert len(probe.group_members(pid)) == 1
    await engine.stop(2.0)
    assert probe.group_members(pid) == []


STARTER = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from gaiad.gpu.engine import Engine
from tests.integration.gpu_world import managed_config

async def main():
    engine = Engine(managed_config(Path({folder!r}), port={port}), max_lora_rank=16)
    await engine.start()
    await engine.wait_healthy()
    print(engine.pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_engine_of_a_killed_daemon_is_ended_at_boot_and_the_port_is_free(tmp_path: Path) -> None:
    config = managed_config(tmp_path)
    port = int(config.engine.url.rpartition(":")[2])
    text = textwrap.dedent(STARTER).format(root=str(ROOT), folder=str(tmp_path), port=port)
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", text, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    left = int(await asyncio.wait_for(daemon.stdout.readline(), 30))
    daemon.kill()
    await daemon.communicate()
    assert probe.living(left) is not None
    engine = Engine(config, max_lora_rank=16)
    try:
        await engine.start()
        assert probe.living(left) is None
        await engine.wait_healthy()
        assert engine.pid not in (None, left)
    finally:
        await engine.stop()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as child:
        yield child
        child.kill()


async def test_process_that_only_has_the_recorded_id_is_left_alone(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "state").mkdir()
    record = f'{{"pid": {stranger.pid}, "started": 1, "boot_id": "{probe.boot_id()}"}}'
    (tmp_path / "state" / "engine.json").write_text(record)
    engine = engine_of(tmp_path)
    await engine.start()
    await engine.stop()
    assert stranger.poll() is None


async def test_taken_port_is_named_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        engine = Engine(managed_config(tmp_path, port=port), max_lora_rank=16, port_patience_s=0.3)
        with pytest.raises(EngineError, match=f"port {port} for the engine is taken") as caught:
            await engine.start()
    assert "engine.url" in caught.value.hint
    assert engine.pid is None


async def test_a_port_that_a_dead_engine_still_holds_is_waited_for_and_told(tmp_path: Path) -> None:
    heard: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        engine = engine_of(tmp_path, port=port)

        def hear(elapsed_s: float, stage: str) -> None:
            heard.append(stage)
            taken.close()

        try:
            await engine.start(hear)
            await engine.wait_healthy()
        finally:
            await engine.stop()
    assert heard[0] == f"waiting for port {port} to become free"


async def test_what_outlives_a_dead_leader_may_clear_up_before_the_next_start(tmp_path: Path) -> None:
    cleared = tmp_path / "cleared"
    tracker = f"(trap 'touch {cleared}; exit 0' TERM; while :; do sleep 0.05; done) &"
    engine = engine_of(tmp_path, first=f"[ -e {tmp_path}/again ] || {tracker} touch {tmp_path}/again")
    try:
        await engine.start()
        await engine.wait_healthy()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await engine.exited()
        assert not cleared.exists()
        await engine.start()
        assert cleared.exists()
    finally:
        await engine.stop()


@pytest.mark.parametrize("text", ["one\ntwo\n", "", " \n", "a\x07b", "schlüssel"])
def test_a_key_file_that_is_no_single_line_of_text_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text, encoding="utf-8")
    with pytest.raises(EngineError, match="must hold one line of printable ASCII text"):
        engine_of(tmp_path, api_key_file=str(tmp_path / "key"))


async def test_missing_base_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, base_model=str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match="no base model") as caught:
        await engine.start()
    assert "engine.base_model" in caught.value.hint


async def test_engine_that_ends_while_starting_tells_its_own_last_error(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, "--exit-at-start 3")
    await engine.start()
    with pytest.raises(EngineError, match="ended while starting: RuntimeError: the fake engine was told not to start"):
        await engine.wait_healthy()
    await engine.stop()


async def test_engine_that_never_becomes_healthy_is_ended_in_time(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, "--start-delay-s 1000", start_timeout_s=1.0)
    began = time.monotonic()
    await engine.start()
    pid = engine.pid
    assert pid is not None
    with pytest.raises(EngineError, match="not healthy within 1 s"):
        await engine.wait_healthy()
    assert time.monotonic() - began < 8
    assert probe.living(pid) is None
    await engine.stop()


async def test_wrong_python_is_an_engine_error(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, python=str(tmp_path / "no-python"))
    with pytest.raises(EngineError, match="cannot be started") as caught:
        await engine.start()
    assert "engine.python" in caught.value.hint


async def test_api_key_goes_by_environment_and_not_by_command_line(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("very-secret\n")
    seen = tmp_path / "seen"
    engine = engine_of(
        tmp_path, api_key_file=str(tmp_path / "key"), first=f'echo "$VLLM_API_KEY" > {seen}; echo "$@" > {seen}.words'
    )
    try:
        await engine.start()
        await engine.wait_healthy()
    finally:
        await engine.stop()
    assert seen.read_text() == "very-secret\n"
    words = seen.with_suffix(".words").read_text()
    assert "--enable-lora" in words
    assert "very-secret" not in words


async def test_external_engine_that_is_not_there_says_what_to_try(tmp_path: Path) -> None:
    config = managed_config(tmp_path, mode="external")
    engine = Engine(config, max_lora_rank=16)
    try:
        with pytest.raises(EngineError, match="cannot be reached") as caught:
            await engine.facts()
    finally:
        await engine.stop()
    assert "engine.url" in caught.value.hint


async def test_an_external_engine_that_comes_up_late_is_waited_for_in_one_attempt(tmp_path: Path) -> None:
    config = managed_config(tmp_path, mode="external", start_timeout_s=30.0)
    engine = Engine(config, max_lora_rank=16)
    heard: list[tuple[float, str]] = []
    came_up = asyncio.Event()

    def hear(elapsed_s: float, stage: str) -> None:
        heard.append((elapsed_s, stage))
        came_up.set()

    try:
        waiting = asyncio.ensure_future(engine.wait_healthy(hear))
        await came_up.wait()
        with running_vllm(port=int(engine.url.rpartition(":")[2])):
            await asyncio.wait_for(waiting, 15)
    finally:
        await engine.stop()
    assert {stage for _, stage in heard} == {f"asking {engine.url}"}
    assert engine.starts == 1


async def test_an_external_engine_that_stays_away_is_told_with_the_time(tmp_path: Path) -> None:
    engine = Engine(managed_config(tmp_path, mode="external", start_timeout_s=0.2), max_lora_rank=16)
    with pytest.raises(EngineError, match=r"no engine answered at .* within 0\.2 s"):
        await engine.wait_healthy()
    await engine.stop()


async def test_a_connection_that_rested_carries_no_request(tmp_path: Path) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = Engine(managed_config(tmp_path, mode="external", port=port), max_lora_rank=16)
    async with server:
        assert await engine.healthy()
        assert await engine.healthy()
        assert connections == 1
        # Longer than a connection is kept, shorter than vLLM keeps it.
        await asyncio.sleep(2.2)
        assert await engine.healthy()
        await engine.stop()
    assert connections == 2


async def test_an_exam_question_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    body = {"model": SERVED, "messages": [{"role": "user", "content": "hello"}]}
    with running_vllm("--fault", "delay_s=0.6", "--served-model-name", SERVED) as vllm:
        config = managed_config(tmp_path, mode="external", port=vllm.port, request_timeout_s=0.3)
        engine = Engine(config, max_lora_rank=16)
        with pytest.raises(EngineError, match=r"within 0\.3 s"):
            await engine.complete(body)
        assert (await engine.complete(body, timeout_s=20.0))["choices"]
        await engine.stop()
