"""The daemon over a store in trouble: copied while in use, full, locked, damaged. Serving goes on in each.

`gaiad` and `gaiadctl` are real processes; the engine is `tests.fakes.vllm`, external, learning off.
"""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.place import ROOT, Home, chat, daemon, free_port, gaiadctl, healthy, status, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, free_port(), free_port())
    home.write()
    return home


@pytest.fixture(autouse=True)
def engine(home: Home) -> Iterator[None]:
    words = [sys.executable, "-m", "tests.fakes.vllm", "--port", str(home.engine_port)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        yield
        child.terminate()


async def test_a_copy_holds_all_that_was_answered_before_it_was_asked_for(home: Home, tmp_path: Path) -> None:
    async with daemon(home):
        await until(lambda: healthy(home))
        asked = {(await chat(home))[1]["X-Gaia-Request-Id"] for _ in range(5)}
        code, said, _ = await gaiadctl(home, "backup", str(tmp_path / "copy.db"))
        assert (code, "keep it private" in said) == (0, True)
        assert (await gaiadctl(home, "backup", str(tmp_path / "copy.db")))[0] == 3
        assert (await gaiadctl(home, "backup", "/proc/copy.db"))[0] == 1
    with closing(sqlite3.connect(tmp_path / "copy.db")) as link:
        assert {row[0] for row in link.execute("SELECT request_id FROM exchanges")} == asked


async def test_a_damaged_store_is_set_aside_at_the_start_and_the_daemon_serves_and_says_so(home: Home) -> None:
    store = home.folder / "state/gaiad.db"
    store.parent.mkdir()
    store.write_bytes(b"this was never a database\n" * 400)
    async with daemon(home):
        await until(lambda: healthy(home))
        assert (await chat(home))[0] == 200
        (told,) = (await status(home))["store"]["set_aside"]
        assert "grants" in told["lost"]
        assert f"set aside: {told['path']} (lost: grants" in (await gaiadctl(home, "status"))[1]
    assert "database_set_aside" in (home.folder / "gaiad.log").read_text()
    assert list(store.parent.glob("gaiad.db.damaged-*")) == [Path(told["path"])]


async def store_of(home: Home) -> Any:
    return (await status(home))["store"]


async def test_a_full_disk_fails_the_recording_and_no_request_until_there_is_space_again(home: Home) -> None:
    async with daemon(home) as child:
        await until(lambda: healthy(home))
        assert (await chat(home))[0] == 200
        await until(lambda: written(home, 1))
        limit = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
        # No file of the daemon's can grow beyond this, its log neither.
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (100, limit[1]))
        assert (await chat(home))[0] == 200
        await until(lambda: in_state(home, "failing"))
        assert (await chat(home))[0] == 200
        assert await healthy(home)
        await until(lambda: failed(home, 2))
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, limit)
        assert (await chat(home))[0] == 200
        await until(lambda: in_state(home, "ok"))
        await until(lambda: written(home, 2))
        assert child.returncode is None


async def test_a_store_locked_for_long_fails_the_recording_and_no_request_until_it_is_free(home: Home) -> None:
    async with daemon(home):
        await until(lambda: healthy(home))
        with closing(sqlite3.connect(home.folder / "state/gaiad.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert (await chat(home))[0] == 200
            await until(lambda: in_state(home, "retrying"))
            assert (await chat(home))[0] == 200
            await until(lambda: in_state(home, "failing"), within_s=60)
            assert (await chat(home))[0] == 200
            other.execute("ROLLBACK")
        await until(lambda: in_state(home, "ok"))
        await until(lambda: written(home, 1))


async def test_a_store_damaged_while_in_use_fails_the_recording_and_no_request_and_the_next_start_records(
    home: Home,
) -> None:
    store = home.folder / "state/gaiad.db"
    async with daemon(home):
        await until(lambda: healthy(home))
        assert (await chat(home))[0] == 200
        await until(lambda: written(home, 1))
        scribble_over(store)
        assert (await chat(home))[0] == 200
        await until(lambda: in_state(home, "failing"))
        assert (await chat(home))[0] == 200
        assert await healthy(home)
    async with daemon(home):
        await until(lambda: healthy(home))
        assert (await store_of(home))["set_aside"]
        assert (await chat(home))[0] == 200
        await until(lambda: written(home, 1))
        assert await in_state(home, "ok")
    assert "Traceback" not in (home.folder / "gaiad.log").read_text()


def scribble_over(store: Path) -> None:
    """Overwrite every page but the first, and have all who read the file look again."""
    with closing(sqlite3.connect(store, isolation_level=None)) as link:
        link.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = store.stat().st_size
        with store.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        link.execute("PRAGMA user_version = 1")


async def in_state(home: Home, state: str) -> bool:
    return bool((await store_of(home))["state"] == state)


async def written(home: Home, least: int) -> bool:
    return bool((await store_of(home))["written"] >= least)


async def failed(home: Home, least: int) -> bool:
    return bool((await store_of(home))["failed"] >= least)
