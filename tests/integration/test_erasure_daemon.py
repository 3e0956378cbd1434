"""An erasure as its owner has it: `gaiadctl erase` to a running daemon, after requests over the proxy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.place import ROOT, Home, chat, daemon, free_port, gaiadctl, healthy, until

USER = "Zoë van der Berg"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "home").mkdir()
    home = Home(tmp_path / "home", free_port(), free_port())
    home.write()
    words = [sys.executable, "-m", "tests.fakes.vllm", "--port", str(home.engine_port)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        yield home
        child.terminate()


def files_with(folder: Path, words: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and words in path.read_bytes()]


async def test_nothing_that_was_said_is_in_any_file_or_log_once_it_is_erased(home: Home, tmp_path: Path) -> None:
    async with daemon(home):
        await until(lambda: healthy(home))
        for user in (USER, "bo"):
            assert (await gaiadctl(home, "consent", "grant", user, "--purpose", "train"))[0] == 0
        _, headers, _ = await chat(home, "the zyrcanary sleeps", **{"X-Gaia-User": USER})
        _, others, _ = await chat(home, "the zyrbat flies", **{"X-Gaia-User": "bo"})
        first = headers["X-Gaia-Request-Id"]
        assert (await gaiadctl(home, "feedback", first, "bad", "--correction", "the zyrcanary sings"))[0] == 0
        assert files_with(home.folder, b"zyrcanary")
        assert (await gaiadctl(home, "backup", str(tmp_path / "copy.db")))[0] == 0
        # This one is perhaps still in the queue.
        _, headers, _ = await chat(home, "the zyrcanary wakes", **{"X-Gaia-User": USER})
        code, said, complaint = await gaiadctl(home, "erase", "--user", f" {USER} ", "--json")
        assert (code, complaint) == (0, "")
        report = json.loads(said)
        assert report["signed_off"] is True
        assert first in report["exchange_ids"]
        assert [row["path"] for row in report["backups"]] == [str(tmp_path / "copy.db")]
        assert files_with(home.folder, b"zyrcanary") == []
        for name in (first, headers["X-Gaia-Request-Id"]):
            shown = json.loads((await gaiadctl(home, "exchanges", "show", name, "--json"))[1])
            assert (shown["user"], shown["request"], shown["feedback"]) == (None, None, [])
        # What the user says from now on is another matter, and so is what others said.
        assert (await chat(home, "the zyrcanary is back", **{"X-Gaia-User": USER}))[0] == 200
        assert files_with(home.folder, b"zyrbat")
        assert (await gaiadctl(home, "exchanges", "show", others["X-Gaia-Request-Id"]))[0] == 0
    assert "zyr" not in (home.folder / "gaiad.log").read_text()
    assert USER not in (home.folder / "gaiad.log").read_text()


async def test_erasing_somebody_who_is_not_known_says_so_and_harms_nobody(home: Home) -> None:
    async with daemon(home):
        await until(lambda: healthy(home))
        code, said, _ = await gaiadctl(home, "erase", "--user", "nobody")
        assert (code, "erased 0 exchanges" in said) == (0, True)
        assert (await chat(home))[0] == 200
