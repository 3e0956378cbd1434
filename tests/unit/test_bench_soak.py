"""The soak's decision: each thing that a proxy may leave behind is found, and a clean run passes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bench import proxy_soak
from bench.load.errors import CannotMeasure
from bench.load.soaked import FILES_GROWTH, GROWTH_MB, Kept, Sample, Sent, Soak, as_json, table
from gaiad.tables import exchange_contents, exchanges, metadata

MEMORY = "memory's growth after the warm-up, MB"
FILES = "open files besides connections to the engine, growth"
CONNECTIONS = "connections to the engine, 3 for 2 clients"

SENT = Sent(
    clients=32,
    abort_percent=5,
    begun=2000,
    granted=1000,
    done=1900,
    streams_done=950,
    aborted=100,
    unsent=1,
    failed=0,
    first_failure="",
    elapsed_s=2.0,
)
KEPT = Kept(active=0, held=0, waiting=0, dropped=0, failed=0, rows=1999, complete=1920, with_content=1000, torn=0)


def sample(requests: int, memory_mb: float = 90.0, **changes: Any) -> Sample:
    made = Sample(requests, rss_mb=memory_mb + 20, allocated_mb=memory_mb, open_files=50, connections=30)
    return dataclasses.replace(made, **changes)


def soak(*after: Sample, sent: Sent = SENT, kept: Kept = KEPT) -> Soak:
    return Soak(sample(0, 70.0), sample(1000), after or (sample(2000),), sent, kept)


def missed(found: Soak) -> list[str]:
    return [bar.title for bar in found.bars() if not bar.holds]


def test_a_clean_soak_holds() -> None:
    assert missed(soak()) == []
    assert soak().holds


@pytest.mark.parametrize(
    ("after", "title"),
    [
        ([sample(2000, 90 + GROWTH_MB + 0.1)], MEMORY),
        ([sample(2000, rss_mb=110 + GROWTH_MB + 0.1)], MEMORY),
        ([sample(2000, 101.0, rss_mb=80.0)], MEMORY),
        ([sample(1500, 101.0), sample(2000)], MEMORY),
        ([sample(2000, open_files=50 + FILES_GROWTH + 1)], FILES),
        ([sample(1500, open_files=80), sample(2000)], FILES),
        ([sample(2000, open_files=69, connections=49)], CONNECTIONS),
    ],
    ids=[
        "allocated",
        "rss",
        "taken away by the kernel",
        "in the middle",
        "files",
        "files in the middle",
        "connections",
    ],
)
def test_what_grows_is_found(after: list[Sample], title: str) -> None:
    found = soak(*after)
    assert missed(found) == [title]
    assert not found.holds


def test_what_stays_within_the_bars_is_no_leak() -> None:
    within = sample(2000, 90 + GROWTH_MB, open_files=50 + FILES_GROWTH)
    assert missed(soak(within, sample(3000, open_files=68, connections=48))) == []


def test_growth_counts_from_the_warm_up_and_not_from_the_start() -> None:
    assert soak(sample(2000, 93.0)).growth_mb == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"active": 1}, "leases still out"),
        ({"held": 1}, "requests still held"),
        ({"dropped": 1}, "records dropped"),
        ({"failed": 1}, "records that could not be written"),
        ({"waiting": 1}, "records that could not be written"),
        ({"rows": 1998}, "requests without a record, or with two"),
        ({"rows": 2001}, "requests without a record, or with two"),
        ({"complete": 1899}, "answered, but not recorded as complete"),
        ({"complete": 1951}, "broken off, but recorded as complete"),
        ({"with_content": 998}, "records without granted content, or with any other"),
        ({"with_content": 1001}, "records without granted content, or with any other"),
        ({"torn": 1}, "records with half a reply"),
    ],
)
def test_what_the_daemon_keeps_wrongly_is_found(changes: dict[str, int], title: str) -> None:
    assert missed(soak(kept=dataclasses.replace(KEPT, **changes))) == [title]


def test_a_soak_that_broke_nothing_off_says_so() -> None:
    sent = dataclasses.replace(SENT, done=1990, aborted=10)
    kept = dataclasses.replace(KEPT, complete=1990)
    assert missed(soak(sent=sent, kept=kept)) == ["too few broken off, by"]


def test_nothing_has_to_be_broken_off_where_nobody_wanted_to() -> None:
    sent = dataclasses.replace(SENT, abort_percent=0, done=2000, aborted=0, unsent=0)
    kept = dataclasses.replace(KEPT, rows=2000, complete=2000)
    assert missed(soak(sent=sent, kept=kept)) == []


def test_a_failed_request_is_told_with_its_reason() -> None:
    sent = dataclasses.replace(SENT, done=1899, failed=1, first_failure="status 502")
    assert missed(soak(sent=sent)) == ["requests that failed (status 502)"]


def test_the_table_draws_memory_towards_its_bar_and_names_what_is_missed() -> None:
    lines = table(soak(sample(1500, 95.0), sample(2000, 101.0)))
    rows = [line for line in lines if "#" in line]
    assert [row.count("#") for row in rows] == [15, 30]
    assert rows[1].endswith("|>")
    assert [line for line in lines if line.endswith("MISSED")] == [line for line in lines if line.startswith(MEMORY)]


def test_the_json_holds_each_sample_and_each_bar() -> None:
    told = json.loads(json.dumps(as_json(soak(sample(1500), sample(2000, 101.0)))))
    assert [each["requests"] for each in told["after"]] == [1500, 2000]
    assert [bar["bar"] for bar in told["bars"] if not bar["holds"]] == [MEMORY]
    assert told["holds"] is False


@pytest.mark.parametrize("requests", [20, 39, 2005, 200_000])
def test_the_slices_come_to_all_requests(requests: int) -> None:
    sizes = proxy_soak.slices(requests, 20)
    assert sum(sizes) == requests
    assert len(sizes) == 20
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("begun", "granted"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (200_000, 100_000)])
def test_two_in_four_requests_are_the_consenting_users(begun: int, granted: int) -> None:
    assert proxy_soak.turns_of_owner(begun) == granted


GROWING = """
import sys
kept = []
print("ready", flush=True)
for line in sys.stdin:
    kept.append(bytearray(b"x" * (12 << 20)))
    kept.extend(open("/dev/null") for _ in range(20))
    print("grown", flush=True)
"""


@pytest.fixture
def growing() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", GROWING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def grow(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()


def test_a_process_that_grows_is_found(growing: subprocess.Popen[str]) -> None:
    def look(requests: int) -> Sample:
        return proxy_soak.sampled(requests, growing.pid, growing.pid, alone=3)

    untouched = look(0)
    grow(growing)
    warm = look(1000)
    still = look(1500)
    assert missed(Soak(untouched, warm, (still,), SENT, KEPT)) == []
    grow(growing)
    # The child stands for the engine too, so its new files are connections; enough of them for one client.
    after = look(2000)
    sent = dataclasses.replace(SENT, clients=1)
    assert missed(Soak(untouched, warm, (still, after), sent, KEPT)) == [MEMORY, CONNECTIONS]
    assert after.connections == 40


def test_a_process_that_is_gone_does_not_pass_for_a_small_one(growing: subprocess.Popen[str]) -> None:
    growing.kill()
    growing.wait()
    with pytest.raises(CannotMeasure, match="gone"):
        proxy_soak.sampled(1000, growing.pid, growing.pid, alone=3)


def reply(text: str, finish_reason: str | None = "stop") -> str:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish_reason}]})


WHOLE = reply(proxy_soak.STREAMED_TEXT)


@pytest.mark.parametrize(
    ("streamed", "complete", "response", "torn"),
    [
        (True, True, WHOLE, 0),
        (False, True, reply(f"Of course. And so it {proxy_soak.PLAIN_END}"), 0),
        (True, False, None, 0),
        (False, False, None, 0),
        (True, True, reply(" token0 token1"), 1),
        (True, True, reply(proxy_soak.STREAMED_TEXT, None), 1),
        (False, True, reply("Of course. And so"), 1),
        (True, True, reply(""), 1),
        (True, True, "{}", 1),
        (True, True, None, 1),
        (True, False, WHOLE, 1),
    ],
)
def test_half_a_reply_is_found_in_the_database(
    streamed: bool, complete: bool, response: str | None, torn: int, tmp_path: Path
) -> None:
    common = {"at": 0.0, "stage": "chat", "stage_reason": "", "arm": "none", "started": 0.0, "total_ms": 1.0}
    row = {**common, "status": 200, "streamed": streamed, "complete": complete, "decision": ""}
    content = {"request_id": "said", "user": "owner", "purposes": "train", "request": "{}", "response": response}
    engine = sa.create_engine(f"sqlite:///{tmp_path}/gaiad.db")
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(exchanges.insert(), [{"request_id": each, **row} for each in ("said", "unsaid")])
        connection.execute(exchange_contents.insert(), [content])
    engine.dispose()
    assert proxy_soak.read_store(tmp_path / "gaiad.db") == (2, 2 * complete, 1, torn)


def test_a_database_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="cannot be read"):
        proxy_soak.read_store(tmp_path / "gaiad.db")
