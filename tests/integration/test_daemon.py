"""The daemon as a process of its own, over the fake engine: start, serve, refuse, stop.

`gaiad` and `gaiadctl` are real processes; the engine is `tests.fakes.vllm`, external, learning off.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gaiad.__main__ import read_config
from gaiad.adapter import AdapterName, VersionName
from gaiad.config import Config
from gaiad.daemon import _Daemon
from gaiad.db import Database
from gaiad.learner import artifacts
from gaiad.notify import Notifier
from gaiad.registry import Registry
from tests.fakes.trainer import write_adapter
from tests.integration.place import (
    ROOT,
    START_S,
    Home,
    chat,
    daemon,
    free_port,
    gaiadctl,
    healthy,
    refused_start,
    run,
    status,
    until,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, free_port(), free_port())
    home.write()
    return home


@pytest.fixture
def engine(home: Home) -> Iterator[None]:
    words = [sys.executable, "-m", "tests.fakes.vllm", "--port", str(home.engine_port)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        yield
        child.terminate()


async def test_it_serves_records_what_is_granted_and_stops_cleanly(home: Home, engine: None) -> None:
    async with daemon(home) as child:
        await until(lambda: healthy(home))
        code, _, _ = await gaiadctl(home, "consent", "grant", "azrael", "--purpose", "train")
        assert code == 0
        answer, kept_headers, _ = await chat(home, "keep this", **{"X-Gaia-User": "azrael"})
        assert answer == 200
        _, other_headers, _ = await chat(home, "forget this", **{"X-Gaia-User": "somebody"})

        kept, other = kept_headers["X-Gaia-Request-Id"], other_headers["X-Gaia-Request-Id"]

        async def both_durable() -> bool:
            return (await gaiadctl(home, "exchanges", "show", other))[0] == 0

        await until(both_durable)
        shown = json.loads((await gaiadctl(home, "exchanges", "show", kept, "--json"))[1])
        assert shown["durable"] is True
        assert shown["request"]["messages"][0]["content"] == "keep this"
        assert "forget this" not in (await gaiadctl(home, "exchanges", "show", other, "--json"))[1]
        assert (await gaiadctl(home, "feedback", kept, "bad", "--correction", "better"))[0] == 0
        assert kept in (await gaiadctl(home, "exchanges", "list"))[1]
        explained = json.loads((await gaiadctl(home, "explain", kept, "--json"))[1])
        assert explained["consent_then"]["granted"] == ["log", "train"]
        assert (explained["consent_then"]["last"]["source"], explained["consent_then"]["header"]) == ("command", None)
        assert explained["consent_now"] == {"granted": ["log", "train"], "usable_for": ["log", "train"]}
        assert (explained["user"], explained["kept"]) == ("azrael", ["request", "response"])
        assert (explained["feedback"][0]["correction"], explained["trained_into"]) == (True, [])
        assert "no content: nobody had agreed" in (await gaiadctl(home, "explain", other))[1]
        assert (await gaiadctl(home, "explain", "gaia-none"))[0] == 1

        page = await status(home)
        assert page["versions"]["engine"]
        assert {row["stage"]: row["adapter"] for row in page["stages"]}["tool_selection"] == "json-architect"
        assert page["learning"]["enabled"] is False
        code, _, complaint = await gaiadctl(home, "train", "json-architect")
        assert (code, "switched off" in complaint) == (3, True)

        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 20) == 0
    assert not home.socket.exists()
    assert "Traceback" not in (home.folder / "gaiad.log").read_text()


async def test_a_key_given_out_while_it_runs_closes_the_door_to_all_others(home: Home, engine: None) -> None:
    async with daemon(home):
        await until(lambda: healthy(home))
        assert (await chat(home))[0] == 200
        words = ("keys", "add", "ada", "--stages", "intent", "--json", "--config", str(home.config))
        code, said, _ = await gaiadctl(home, *words)
        assert code == 0
        key = json.loads(said)["key"]

        async def closed() -> bool:
            return (await chat(home))[0] == 401

        await until(closed)
        sent = {"Authorization": f"Bearer {key}", "X-Gaia-Stage": "intent"}
        assert (await chat(home, **sent))[0] == 200
        assert (await chat(home, **sent | {"X-Gaia-Stage": "base"}))[0] == 403
        assert await healthy(home)
        assert (await status(home))["pid"]
        assert (await gaiadctl(home, "keys", "revoke", "ada", "--config", str(home.config)))[0] == 0
        assert (await chat(home, **sent))[0] == 401
    assert key not in (home.folder / "gaiad.log").read_text()


async def test_keys_that_cannot_be_read_keep_it_from_starting(home: Home) -> None:
    (home.folder / "state").mkdir()
    (home.folder / "state/keys.json").write_text("{")
    assert "keys" in await refused_start(home)


async def test_its_doors_are_open_before_the_engine_is_there(home: Home) -> None:
    home.write(proxy__hold_s="0.5")
    async with daemon(home) as child:
        page = await status(home)
        assert page["health"] in ("starting", "degraded", "down")
        async with aiohttp.ClientSession() as client, client.get(f"{home.url}/health") as reply:
            assert (await reply.json())["status"] == page["health"]
        answer, headers, _ = await chat(home)
        assert (answer, "Retry-After" in headers) == (503, True)
        child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 20) == 0


async def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on(home: Home, engine: None) -> None:
    async with daemon(home) as child:
        home.write(proxy__listen=f'"127.0.0.1:{free_port()}"', control_socket='"other.sock"')
        line = await refused_start(home)
        assert "another gaiad is running" in line
        assert str(child.pid) in line
        assert (await status(home))["pid"] == child.pid


async def test_a_taken_port_is_one_clear_sentence(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.port))
        taken.listen()
        line = await refused_start(home)
    assert str(home.port) in line
    assert not home.socket.exists()


async def test_a_control_socket_that_answers_is_not_stolen(home: Home, engine: None) -> None:
    async with daemon(home) as child:
        home.write(proxy__listen=f'"127.0.0.1:{free_port()}"', state_dir='"other"')
        assert "another gaiad answers" in await refused_start(home)
        assert (await status(home))["pid"] == child.pid


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"proxy__listen": '"here"'}, "proxy.listen"),
        ({"proxy__speed": "9"}, "proxy.speed"),
        ({"learning__enabled": "true"}, "base_model"),
        ({"learning__enabled": "true", "engine__base_model": '"missing"'}, "no base model"),
        ({"engine__mode": '"managed"', "engine__base_model": '"missing"'}, "no base model"),
        ({"learning__curricula": '"missing"'}, "no curriculum"),
        ({"learning__profile": '"nonsense"'}, "nonsense"),
    ],
)
async def test_settings_that_cannot_work_are_refused_at_once(
    home: Home, changes: dict[str, str], expected: str
) -> None:
    home.write(**changes)
    assert expected in await refused_start(home)


async def test_a_missing_settings_file_is_named(home: Home) -> None:
    home.config.unlink()
    assert "gaiad.toml" in await refused_start(home)


async def test_check_validates_without_starting_anything(home: Home) -> None:
    code, _, said = await run(sys.executable, "-m", "gaiad", "--config", str(home.config), "--check")
    assert (code, "valid" in said) == (0, True)
    assert not (home.folder / "state").exists()


async def test_the_supervisor_is_told_ready_alive_and_stopping(home: Home, engine: None, tmp_path: Path) -> None:
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        heard: list[str] = []
        loop = asyncio.get_running_loop()
        async with daemon(home, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as child:
            while not {"READY=1", "WATCHDOG=1"} <= set(heard):
                heard += (await asyncio.wait_for(loop.sock_recv(ear, 4096), START_S)).decode().splitlines()
            child.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in heard:
                heard += (await asyncio.wait_for(loop.sock_recv(ear, 4096), START_S)).decode().splitlines()
            assert await asyncio.wait_for(child.wait(), 20) == 0
    assert any(line.startswith("STATUS=listening on") for line in heard)


def test_the_daemon_imports_none_of_the_training_libraries() -> None:
    script = (
        "import sys, gaiad.daemon\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'vllm', 'numpy', 'scipy', 'gaiad.learner.train'}\n"
        "raise SystemExit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


async def test_what_is_no_http_is_refused_and_not_quoted_in_the_log(home: Home, engine: None) -> None:
    async with daemon(home):
        for request in (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Gaia-User the-attic-key\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Gaia-User: " + b"the-attic-key" * 1000 + b"\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: 13\r\n\r\nthe-attic-key",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
            writer.write(request)
            assert b" 400 " in await reader.readline()
            writer.close()
    log = (home.folder / "gaiad.log").read_text()
    assert log.count("no proper HTTP") >= 2
    assert "the-attic-key" not in log
    assert "Traceback" not in log


async def test_who_waits_for_the_engine_is_told_at_once_that_gaiad_stops(home: Home) -> None:
    async with daemon(home) as child:
        waiting = [asyncio.ensure_future(chat(home)) for _ in range(3)]

        async def all_held() -> bool:
            return bool((await status(home))["requests"]["held"] == 3)

        await until(all_held)
        child.send_signal(signal.SIGTERM)
        for answer, headers, body in await asyncio.gather(*waiting):
            assert (answer, "Retry-After" in headers) == (503, True)
            assert "is stopping" in body["error"]["message"]
        assert await asyncio.wait_for(child.wait(), 20) == 0


async def activated(config: Config, staging: Path) -> VersionName:
    """Put a version of json-architect into the store and onto the disk, active, as an earlier life left it."""
    database = await Database.open(config)
    registry = Registry(database)
    await registry.load()
    write_adapter(staging)
    name = AdapterName("json-architect")
    made = artifacts.publish(staging, config.adapters_dir, adapter=name, number=1, lineage={})
    await registry.add(made.version, made.path, made.sha256, {}, at=1.0)
    await registry.activate(made.version, "passed", 2.0)
    await database.close()
    return made.version


async def test_an_alias_asked_for_while_its_version_is_being_loaded_is_served_by_it(home: Home, engine: None) -> None:
    version = await activated(read_config(home.config), home.folder / "staging")

    async def slow() -> bool:
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"http://127.0.0.1:{home.engine_port}/_fault", json={"load_delay_s": 1.0}) as reply,
            ):
                return reply.status == 200
        except aiohttp.ClientError:
            return False

    await until(slow)
    async with daemon(home):
        for model in ("json-architect", version):
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{home.url}/v1/chat/completions", json=body) as reply,
            ):
                assert (reply.status, reply.headers.get("X-Gaia-Adapter")) == (200, version), await reply.text()


async def test_the_proxy_knows_an_engine_only_once_its_adapters_are_in(tmp_path: Path) -> None:
    seen: list[tuple[object, bool]] = []
    parts: Any = _Daemon(Config(tmp_path, tmp_path / "c.sock"), Notifier(), asyncio.Event())

    class Told:
        starts = 1

        async def facts(self) -> str:
            return "what it is"

        async def reconcile(self) -> None:
            seen.append((parts.facts, parts.first_start))

    parts.engine = parts.learner = Told()
    await parts._reconcile()
    await parts._reconcile()
    assert seen == [(None, True), ("what it is", False)]
