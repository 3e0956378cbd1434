"""The queue before the store: never in the way, bounded, durable soon, and counting what it lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gaiad.config import Config, StoreConfig
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.errors import StoreError
from gaiad.exchange import ExchangeRecord
from gaiad.proxy.recorder import BATCH, Recorder


def record(request_id: str, **more: Any) -> ExchangeRecord:
    fields = {"at": 1.0, "stage": "base", "stage_reason": "default", "status": 200, "started": 1.0, "total_ms": 1.0}
    return ExchangeRecord(request_id=request_id, **{**fields, **more})


class MemoryStore:
    """A tiny real store: keeps ids in commits, fails as often as told, waits where told."""

    def __init__(self, failures: int = 0, refuses: str = "", passes: bool = False) -> None:
        self.commits: list[list[str]] = []
        self.failures = failures
        self.passes = passes
        self.refuses = refuses
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.hurries = False

    async def keep(self, records: Sequence[ExchangeRecord]) -> None:
        self.entered.set()
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise StoreError("database is locked", hint="wait", passes=self.passes)
        ids = [one.request_id for one in records]
        if self.refuses in ids:
            raise TypeError("not JSON")
        self.commits.append(ids)

    def hurry(self, hurries: bool) -> None:
        self.hurries = hurries

    @property
    def ids(self) -> list[str]:
        return [request_id for commit in self.commits for request_id in commit]


@contextlib.asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(recorder.run(), name="recorder")
        try:
            yield
        finally:
            task.cancel()


@pytest.fixture
async def conversations(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Conversations]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    store = Conversations(database)
    await store.load()
    yield store
    await database.close()


async def test_a_full_queue_drops_the_newest_and_counts_it() -> None:
    store = MemoryStore()
    recorder = Recorder(store, 3)
    assert [recorder.offer(record(f"r{number}")) for number in range(5)] == [True, True, True, False, False]
    assert (recorder.dropped, recorder.waiting) == (2, 3)
    await recorder.flush()
    assert store.ids == ["r0", "r1", "r2"]
    assert recorder.offer(record("r9"))


async def test_what_waits_is_written_in_one_commit_a_batch_and_in_order() -> None:
    store = MemoryStore()
    recorder = Recorder(store, 10_000)
    ids = [f"r{number}" for number in range(BATCH * 2 + 1)]
    for request_id in ids:
        recorder.offer(record(request_id))
    async with running(recorder):
        await recorder.flush()
    assert [len(commit) for commit in store.commits] == [BATCH, BATCH, 1]
    assert store.ids == ids
    assert (recorder.written, recorder.failed, recorder.waiting) == (len(ids), 0, 0)


async def test_records_that_arrive_during_a_commit_are_written_after_it() -> None:
    store = MemoryStore()
    recorder = Recorder(store, 10)
    store.open.clear()
    async with running(recorder):
        recorder.offer(record("first"))
        await store.entered.wait()
        recorder.offer(record("second"))
        recorder.offer(record("third"))
        store.open.set()
        await recorder.flush()
    assert store.commits == [["first"], ["second", "third"]]


async def test_a_store_that_is_locked_for_a_moment_loses_nothing() -> None:
    store = MemoryStore(failures=2)
    recorder = Recorder(store, 10, retry_delays_s=(0, 0))
    recorder.offer(record("r1"))
    async with running(recorder):
        await recorder.flush()
        assert recorder.state == "ok"
    assert (store.ids, recorder.written, recorder.failed) == (["r1"], 1, 0)


async def test_a_store_that_stays_unwritable_costs_the_batch_and_then_it_goes_on() -> None:
    store = MemoryStore(failures=3)
    recorder = Recorder(store, 10, retry_delays_s=(0, 0))
    recorder.offer(record("lost"))
    async with running(recorder):
        await recorder.flush()
        assert (recorder.state, recorder.failed) == ("failing", 1)
        recorder.offer(record("kept"))
        await recorder.flush()
        assert recorder.state == "ok"
    assert (store.ids, recorder.written, recorder.failed) == (["kept"], 1, 1)


async def test_what_a_server_that_is_away_keeps_from_being_written_waits_in_order_until_it_is_back() -> None:
    store = MemoryStore(failures=10**6, passes=True)
    recorder = Recorder(store, 4, retry_delays_s=(0, 0), away_s=0)
    assert [recorder.offer(record(f"r{number}")) for number in range(3)] == [True] * 3
    async with running(recorder):
        await recorder.flush()
        assert (recorder.state, recorder.waiting, recorder.failed) == ("failing", 3, 0)
        assert [recorder.offer(record(f"r{number}")) for number in (3, 4)] == [True, False]
        assert recorder.dropped == 1
        store.failures = 0
        await recorder.flush()
        assert recorder.state == "ok"
    assert (store.ids, recorder.written, recorder.waiting) == (["r0", "r1", "r2", "r3"], 4, 0)


async def test_it_is_called_failing_all_the_while_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore(failures=8, passes=True)
    recorder = Recorder(store, 10, retry_delays_s=(0, 0), away_s=0)
    recorder.offer(record("r1"))
    states = []
    async with running(recorder):
        while recorder.waiting:
            await asyncio.sleep(0)
            states.append(recorder.state)
    seen = [state for before, state in zip(["", *states], states, strict=False) if state != before]
    assert seen == ["ok", "retrying", "failing", "ok"]
    assert capsys.readouterr().out.count("exchanges_wait") == 1


async def test_what_is_written_of_a_batch_before_the_server_went_away_is_neither_counted_nor_written_again() -> None:
    class Leaving(MemoryStore):
        """Goes away for a moment after the first commit."""

        async def keep(self, records: Sequence[ExchangeRecord]) -> None:
            await super().keep(records)
            self.failures = int(len(self.commits) == 1)

    store = Leaving(refuses="strange", passes=True)
    recorder = Recorder(store, 8, retry_delays_s=(), away_s=0)
    for name in ("r1", "r2", "strange", "r4"):
        recorder.offer(record(name))
    await recorder.flush()
    assert (store.ids, recorder.written, recorder.waiting) == (["r1", "r2"], 2, 2)
    await recorder.flush()
    assert store.ids == ["r1", "r2", "r4"]
    assert (recorder.written, recorder.failed, recorder.waiting) == (3, 1, 0)


async def test_what_still_waits_at_the_end_is_counted_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(MemoryStore(failures=10**6, passes=True), 4, retry_delays_s=())
    recorder.offer(record("r1"))
    await recorder.end()
    assert (recorder.failed, recorder.waiting) == (1, 0)
    assert "exchanges_not_recorded" in capsys.readouterr().out


async def test_one_record_that_cannot_be_stored_does_not_cost_the_others() -> None:
    store = MemoryStore(refuses="strange")
    recorder = Recorder(store, 10)
    for request_id in ("r1", "strange", "r2"):
        recorder.offer(record(request_id))
    async with running(recorder):
        await recorder.flush()
    assert store.ids == ["r1", "r2"]
    assert (recorder.written, recorder.failed) == (2, 1)


async def test_one_record_that_cannot_be_stored_costs_its_batch_few_commits() -> None:
    store = MemoryStore(refuses="r700")
    recorder = Recorder(store, 1024)
    ids = [f"r{number}" for number in range(1024)]
    for request_id in ids:
        recorder.offer(record(request_id))
    await recorder.flush()
    assert store.ids == [one for one in ids if one != "r700"]
    assert (len(store.commits), recorder.written, recorder.failed) == (10, 1023, 1)


async def test_a_writer_that_is_stopped_in_a_commit_leaves_the_batch_for_flush() -> None:
    store = MemoryStore()
    recorder = Recorder(store, 10)
    store.open.clear()
    recorder.offer(record("r1"))
    recorder.offer(record("r2"))
    async with running(recorder):
        await store.entered.wait()
    assert (recorder.state, recorder.waiting, store.ids) == ("stopped", 2, [])
    store.open.set()
    await recorder.flush()
    assert (store.ids, recorder.waiting) == (["r1", "r2"], 0)


async def test_a_flush_that_waits_is_not_left_behind_when_the_writer_stops() -> None:
    store = MemoryStore()
    recorder = Recorder(store, 10)
    store.open.clear()
    recorder.offer(record("r1"))
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(recorder.run(), name="recorder")
        await store.entered.wait()
        flush = group.create_task(recorder.flush(), name="flush")
        writer.cancel()
        store.open.set()
        await flush
    assert store.ids == ["r1"]


async def test_strange_text_in_a_real_store_costs_only_its_own_record(conversations: Conversations) -> None:
    recorder = Recorder(conversations, 10)
    recorder.offer(record("plain"))
    recorder.offer(record("surrogate", user="ana", purposes=frozenset({"log"}), conversation="\udcff"))
    recorder.offer(record("content", user="ana", purposes=frozenset({"log"}), request={"text": "\udcff\x00"}))
    recorder.offer(record("not-json", user="ana", purposes=frozenset({"log"}), request={"x": object()}))
    async with running(recorder):
        await recorder.flush()
    assert {row["request_id"] for row in await conversations.exchanges(9)} == {"plain", "surrogate", "content"}
    assert (recorder.written, recorder.failed) == (3, 1)


class TimedStore:
    """The real store, noting when each record became durable."""

    def __init__(self, conversations: Conversations) -> None:
        self.conversations = conversations
        self.durable_at: dict[str, float] = {}

    async def keep(self, records: Sequence[ExchangeRecord]) -> None:
        await self.conversations.keep(records)
        now = time.monotonic()
        self.durable_at |= {one.request_id: now for one in records}

    def hurry(self, hurries: bool) -> None:
        self.conversations.hurry(hurries)


async def test_writing_goes_before_all_else_while_half_of_the_queue_or_more_waits() -> None:
    store = MemoryStore()
    recorder = Recorder(store, queue_size=8, linger_s=0.0)
    async with running(recorder):
        store.open.clear()
        recorder.offer(record("first"))
        await store.entered.wait()
        told = []
        for number in range(5):
            recorder.offer(record(f"r{number}"))
            told.append(store.hurries)
        assert told == [False, False, False, True, True]
        store.open.set()
        await recorder.flush()
        recorder.offer(record("last"))
        await recorder.flush()
    assert store.hurries is False


async def test_ninety_nine_in_a_hundred_are_durable_within_a_second(conversations: Conversations) -> None:
    store = TimedStore(conversations)
    recorder = Recorder(store, 2 * BATCH)
    offered_at: dict[str, float] = {}
    body = {"messages": [{"role": "user", "content": "x" * 4000}]}
    async with running(recorder):
        for number in range(600):
            offered_at[f"r{number}"] = time.monotonic()
            recorder.offer(
                record(f"r{number}", user="ana", purposes=frozenset({"log"}), request=body, response=body),
            )
            # The pace of a busy server, not an order that the test relies on.
            await asyncio.sleep(0.001)
        await recorder.flush()
    delays = sorted(store.durable_at[request_id] - offered for request_id, offered in offered_at.items())
    assert len(delays) == 600
    assert delays[593] < 1.0


@pytest.mark.parametrize("steps", [1, 3, 6, 12, 25, 60])
async def test_wherever_the_writer_is_stopped_flush_makes_all_durable(conversations: Conversations, steps: int) -> None:
    recorder = Recorder(conversations, 2 * BATCH)
    for number in range(BATCH * 2):
        recorder.offer(record(f"r{number}"))
    async with running(recorder):
        for _ in range(steps):
            await asyncio.sleep(0)
    await recorder.flush()
    gc.collect()
    assert len(await conversations.exchanges(10_000)) == BATCH * 2
    assert (recorder.written, recorder.failed, recorder.waiting) == (BATCH * 2, 0, 0)


async def test_offering_never_waits_for_a_locked_database(conversations: Conversations, tmp_path: Path) -> None:
    recorder = Recorder(conversations, 1000)
    other = sqlite3.connect(tmp_path / "gaiad.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with running(recorder):
        started = time.monotonic()
        for number in range(500):
            recorder.offer(record(f"r{number}"))
        assert time.monotonic() - started < 0.2
        other.execute("ROLLBACK")
        other.close()
        await recorder.flush()
    assert (recorder.written, recorder.dropped, recorder.failed) == (500, 0, 0)


WRITER = """
import asyncio, itertools, pathlib, sys
from gaiad.config import Config, StoreConfig
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.exchange import ExchangeRecord
from gaiad.proxy.recorder import Recorder

async def main() -> None:
    path = pathlib.Path(sys.argv[1])
    conversations = Conversations(await Database.open(Config(path, path / "s")))
    await conversations.load()
    recorder = Recorder(conversations, 1000)
    task = asyncio.get_running_loop().create_task(recorder.run(), name="recorder")
    for number in itertools.count():
        recorder.offer(ExchangeRecord(
            request_id=str(number), at=1.0, stage="base", stage_reason="default", status=200, started=1.0,
            total_ms=1.0, user="ana", purposes=frozenset({"log"}), request={"text": "x" * 2000}))
        if number % 7 == 0:
            await recorder.flush()
            found = await conversations.exchange(str(number))
            print(number if found and found["durable"] else "missing", flush=True)

asyncio.run(main())
"""


async def test_what_was_shown_as_durable_survives_kill_9(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    shown = [(await child.stdout.readline()).decode().strip() for _ in range(30)]
    child.kill()
    await child.communicate()
    database = await Database.open(Config(tmp_path, tmp_path / "s"))
    rows = {row["request_id"] for row in await Conversations(database).exchanges(100_000)}
    await database.close()
    # Everything offered before a shown record was flushed with it.
    assert rows >= {str(number) for number in range(int(shown[-1]) + 1)}


async def test_a_queue_smaller_than_a_batch_is_written_while_half_of_it_is_free() -> None:
    store = MemoryStore()
    recorder = Recorder(store, 8, linger_s=3600)
    writing = asyncio.create_task(recorder.run())
    # Bursts of one turn each, of which two would fill the queue.
    for burst in range(6):
        for number in range(4):
            recorder.offer(record(f"r{burst}-{number}"))
        async with asyncio.timeout(5):
            while recorder.waiting:  # noqa: ASYNC110  the recorder is not made for waiting on
                await asyncio.sleep(0)
    writing.cancel()
    assert (recorder.dropped, [len(commit) for commit in store.commits]) == (0, [4] * 6)
