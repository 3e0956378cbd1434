"""All commands about the proxy and its store, small, with a real daemon: between C upstream and C load generator, and
for one before an engine that never ends a reply.

No time is judged here. What is judged is that all was measured, recorded and given back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bench import store
from bench.load.figures import BARS, FIGURES
from gaiad.tables import exchange_contents, metadata

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shlex.split(os.environ.get("CC", "cc"))[0]

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"upstream and load generator are C, and there is no C compiler {COMPILER}"
)


def told_by(*words: str) -> tuple[int, dict[str, Any], str]:
    """Run a command; its exit code, its JSON and its progress."""
    command = [sys.executable, "-m", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_the_benchmark_measures_every_figure_and_finds_all_recorded() -> None:
    code, told, progress = told_by("bench.proxy", "--rounds", "1", "--seconds", "1", "--only", "gaiad")
    assert (code, told["all_recorded"]) == (0, True), progress
    assert set(told["targets"]) == {"direct", "gaiad"}
    for name, cells in told["targets"].items():
        wanted = {f"added_{each.key}" if each.added and name != "direct" else each.key for each in FIGURES}
        assert set(cells) == wanted
        assert all(len(cell["rounds"]) == 1 for cell in cells.values())
    assert [bar["bar"] for bar in told["bars"]] == [bar.title for bar in BARS]
    kept = told["recorded"]["gaiad"]
    # 1. More than the warm-up's 600; nothing was consented, so nothing that was said is kept.
    assert kept["written"] == kept["asked"] > 600
    assert (kept["dropped"], kept["failed"], kept["with_content"]) == (0, 0, 0)
    # 2. The round says where it stands.
    assert progress.count("bench: round 1 of 1") == 8


def test_a_small_soak_leaves_nothing_behind() -> None:
    sizes = ("--warm-up", "1000", "--requests", "1000", "--slices", "4")
    code, told, progress = told_by("bench.proxy_soak", *sizes, "--aborts", "10")
    missed = {bar["bar"]: bar["found"] for bar in told["bars"] if not bar["holds"]}
    assert (code, told["holds"]) == (1 if missed else 0, not missed)
    # 1. After so few requests memory still warms up, so its bar is not judged; that it was sampled is.
    assert set(missed) <= {"memory's growth after the warm-up, MB"}, missed
    samples = [told["untouched"], told["warm"], *told["after"]]
    assert [each["requests"] for each in samples] == [0, 1000, 1250, 1500, 1750, 2000]
    assert all(each["rss_mb"] > each["allocated_mb"] > 10 for each in samples)
    # 2. All of it happened: both kinds were answered, some were broken off, and each left its record.
    sent, kept = told["sent"], told["kept"]
    assert sent["begun"] == sent["done"] + sent["aborted"] == 2000
    assert min(sent["streams_done"], sent["done"] - sent["streams_done"]) > 500
    assert sent["aborted"] > 100
    assert kept["rows"] - kept["complete"] >= sent["aborted"] / 2 - sent["unsent"]
    assert told["warm"]["connections"] > 1
    assert progress.count("soak: slice") == 4


def test_an_engine_hears_of_every_client_that_leaves() -> None:
    code, told, progress = told_by("bench.proxy_leaving", "--clients", "20", "--at-once", "8")
    assert (code, told["holds"]) in ((0, True), (1, False)), progress
    assert {name: (row["clients"], row["unheard"]) for name, row in told["replies"].items()} == {
        "streamed": (10, 0),
        "whole": (10, 0),
    }


def test_what_recording_costs_is_measured_on_both_daemons_and_nothing_is_lost() -> None:
    code, told, progress = told_by("bench.store", "--rounds", "1", "--seconds", "1")
    assert (code, told["all_recorded"]) == (0, True), progress
    assert set(told["figures"]) == {key for key, _, _ in store.ROWS}
    # 1. Costs stand side by side, with difference and ratio; what is durable is told of the daemon that keeps content.
    for key in ("fast_cpu_us", "steady_cpu_us", "steady_p99_ms"):
        row = told["figures"][key]
        off, on = row["off"]["median"], row["on"]["median"]
        assert min(off, on) > 0
        assert row["difference"]["median"] == pytest.approx(on - off)
        assert row["ratio"]["median"] == pytest.approx(on / off)
    durable = told["figures"]["durable_per_s"]
    assert durable["on"]["median"] > 0
    assert durable["off"] is durable["ratio"] is None
    # 2. Replies were looked for on the disk, by another process.
    assert told["soon"]["looked"] > 0
    assert told["soon"]["holds"] == (told["soon"]["share"] >= told["soon"]["bar"])


def test_a_reply_that_is_not_on_the_disk_in_time_counts_against_the_share(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/gaiad.db")
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(exchange_contents.insert(), [{"request_id": "kept", "user": "owner", "purposes": "log"}])
    engine.dispose()
    with contextlib.closing(sqlite3.connect(tmp_path / "gaiad.db")) as connection:
        assert store.appeared(connection, "kept") is not None
        assert store.appeared(connection, "lost") is None
    assert "99.0% of 100" in store.Soon(100, (0.1,) * 99).line()
    assert store.Soon(100, (0.1,) * 99).line().endswith("holds")
    assert store.Soon(100, (0.1,) * 98).line().endswith("missed")
    assert store.Soon(0, ()).line().endswith("missed")
