"""The daemon over a store in trouble: copied while in use, full, locked, damaged. Serving goes on in each.

`gaiad` and `gaiadctl` are real processes; the engine is `tests.fakes.vllm`, external, learning off.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

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
