"""The daemon over a store on a PostgreSQL server, which dies while requests run and comes back. Serving goes on.

`gaiad`, `gaiadctl` and the server are real; the engine is `tests.fakes.vllm`, external, learning off.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.place import (
    ROOT,
    Home,
    chat,
    daemon,
    free_port,
    gaiadctl,
    healthy,
    refused_start,
    status,
    until,
)
from tests.postgres_server import PASSWORD, PostgresServer


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, url: str) -> Home:
    home = Home(tmp_path, free_port(), free_port())
    home.write(store__url=f'"{url}"')
    return home


@pytest.fixture(autouse=True)
def engine(home: Home) -> Iterator[None]:
    words = [sys.executable, "-m", "tests.fakes.vllm", "--port", str(home.engine_port)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        yield
        child.terminate()


async def store_of(home: Home) -> Any:
    return (await status(home))["store"]


async def in_state(home: Home, state: str) -> bool:
    return bool((await store_of(home))["state"] == state)


async def keep_asking(home: Home, answered: list[str], stop: asyncio.Event) -> None:
    """One request after another; every one is answered."""
    while not stop.is_set():
        code, headers, _ = await chat(home, f"number {len(answered)}", **{"X-Gaia-User": "azrael"})
        assert code == 200
        answered.append(headers["X-Gaia-Request-Id"])
        await asyncio.sleep(0.02)


async def durable(home: Home, request_id: str) -> bool:
    code, text, _ = await gaiadctl(home, "exchanges", "show", request_id, "--json")
    return code == 0 and bool(json.loads(text)["durable"])


async def test_a_server_that_is_killed_costs_no_reply_and_no_record_and_recording_goes_on_when_it_is_back(
    home: Home, postgres: PostgresServer, url: str
) -> None:
    answered: list[str] = []
    async with daemon(home) as child:
        await until(lambda: healthy(home))
        assert (await gaiadctl(home, "consent", "grant", "azrael", "--purpose", "train"))[0] == 0
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(keep_asking(home, answered, stop), name="asking")
            await until(lambda: _many(answered, 30))
            acknowledged = answered[0]
            assert await durable(home, acknowledged)
            postgres.kill()
            try:
                await until(lambda: in_state(home, "failing"))
                before = len(answered)
                await until(lambda: _many(answered, before + 30))
                assert await in_state(home, "failing")
                assert await healthy(home)
                code, _, complaint = await gaiadctl(home, "exchanges", "show", acknowledged)
                assert (code, PASSWORD in complaint) == (1, False), complaint
            finally:
                postgres.start()
            await until(lambda: in_state(home, "ok"))
            stop.set()
        assert await durable(home, acknowledged)
        assert await durable(home, answered[-1])
        found = await store_of(home)
        assert (found["written"], found["dropped"], found["failed"]) == (len(answered), 0, 0)
        assert child.returncode is None
    rows = {row[0] for row in postgres.execute("SELECT request_id FROM exchange_contents", url)}
    assert rows == set(answered)
    log = (home.folder / "gaiad.log").read_text()
    assert "exchanges_wait" in log
    assert "Traceback" not in log
    assert PASSWORD not in log


async def _many(answered: list[str], least: int) -> bool:
    return len(answered) >= least


async def test_consent_feedback_erasure_and_the_rest_work_as_they_do_over_a_file(
    home: Home, tmp_path: Path, postgres: PostgresServer, url: str
) -> None:
    said: list[str] = []

    async def ask(*words: str) -> tuple[int, str, str]:
        code, out, err = await gaiadctl(home, *words)
        said.append(out + err)
        return code, out, err

    async with daemon(home):
        await until(lambda: healthy(home))
        assert (await ask("consent", "grant", "azrael", "--purpose", "train"))[0] == 0
        code, headers, _ = await chat(home, "the lantern in the old mill", **{"X-Gaia-User": "azrael"})
        kept = headers["X-Gaia-Request-Id"]
        assert code == 200
        assert (await ask("feedback", kept, "bad", "--correction", "better"))[0] == 0
        assert "azrael" in (await ask("explain", kept))[1]
        assert kept in (await ask("exchanges", "export", "--purpose", "train"))[1]
        assert b"old mill" in postgres.files(url)
        code, _, complaint = await ask("backup", str(tmp_path / "copy.db"))
        assert (code, "pg_dump" in complaint) == (3, True)
        code, out, _ = await ask("erase", "--user", "azrael")
        assert (code, "signed off" in out, "write-ahead log" in out) == (0, True, True)
        assert b"old mill" not in postgres.files(url)
        assert "erased" in (await ask("exchanges", "show", kept))[1]
        home.write(
            store__url=f'"{url}"',
            state_dir='"elsewhere"',
            proxy__listen=f'"127.0.0.1:{free_port()}"',
            control_socket='"other.sock"',
        )
        line = await refused_start(home)
        assert "another gaiad is using PostgreSQL" in line
        assert (await ask("status", "--json"))[0] == 0
        assert (await ask("config", "check", str(home.config), "--json"))[0] == 0
    log = (home.folder / "gaiad.log").read_text()
    assert "Traceback" not in log
    for text in (*said, line, log):
        assert PASSWORD not in text


async def test_a_server_that_is_not_there_keeps_it_from_starting_with_one_line(
    home: Home, postgres: PostgresServer
) -> None:
    postgres.kill()
    try:
        line = await refused_start(home)
    finally:
        postgres.start()
    assert "PostgreSQL at" in line
    assert PASSWORD not in line
