"""What is still kept, by age and by size: the rule alone, and the housekeeper on a real store with real datasets."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad import dataset_files
from gaiad.config import Config, StoreConfig
from gaiad.consent import Purpose, with_included
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.erasure import Kind, Phase, Selector
from gaiad.erasures import Erasures
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.housekeeper import Housekeeper, bounds_of
from gaiad.retention import Bound, Held, Retention

LOG, TRAIN, EVALUATE = Purpose
DAY_S = 86400.0


def held(name: str, at: float, *purposes: Purpose, size: int = 1) -> Held:
    return Held(name, at, with_included(purposes), size)


def kept(bounds: dict[Purpose, Bound], now: float, *rows: Held) -> dict[str, str]:
    retention = Retention(bounds, now)
    return {row.request_id: ",".join(sorted(retention.still(row))) for row in rows}


def test_each_purpose_ends_at_its_own_age_and_the_last_takes_the_content_with_it() -> None:
    bounds = {LOG: Bound(age_s=10), TRAIN: Bound(age_s=30)}
    rows = (
        held("new", 95, TRAIN),
        held("b", 85, TRAIN, EVALUATE),
        held("c", 85, LOG),
        held("d", 69, TRAIN),
        held("e", 1, EVALUATE, TRAIN),
    )
    assert kept(bounds, 100, *rows) == {
        "new": "log,train",
        "b": "evaluate,log,train",
        "c": "",
        "d": "",
        "e": "evaluate,log",
    }
    # What no longer serves for more may be looked at for as long as any other.
    assert kept({TRAIN: Bound(age_s=1)}, 100, held("d", 69, TRAIN)) == {"d": "log"}


def test_what_a_key_held_to_training_alone_is_not_kept_for_the_log_too() -> None:
    rows = [Held("a", 95, frozenset({TRAIN}), 1), Held("b", 60, frozenset({TRAIN}), 1)]
    assert kept({TRAIN: Bound(age_s=30)}, 100, *rows) == {"a": "train", "b": ""}


def test_the_newest_are_kept_until_the_room_is_used_up() -> None:
    bounds = {LOG: Bound(size=10), TRAIN: Bound(size=5)}
    rows = (held("a", 9, TRAIN, size=4), held("b", 8, LOG, size=9), held("c", 7, TRAIN, size=2), held("d", 6, LOG))
    # b leaves room for one, c (2) asks for more and ends it, d (1) would have fit but is older.
    assert kept(bounds, 10, *rows) == {"a": "log,train", "b": "log", "c": "", "d": ""}


def test_nothing_bounds_nothing() -> None:
    free = dataclasses.replace(StoreConfig(), log_days=0, log_mib=0, train_mib=0, evaluate_mib=0)
    assert set(bounds_of(free).values()) == {Bound(math.inf, math.inf)}
    assert bounds_of(StoreConfig())[LOG] == Bound(90 * DAY_S, 1024 * 1024 * 1024)
    assert kept(bounds_of(free), 1e12, held("a", 0, TRAIN, size=10**15)) == {"a": "log,train"}


purposes = st.sets(st.sampled_from(Purpose), min_size=1)
rows_st = st.lists(st.tuples(st.integers(0, 50), purposes, st.integers(0, 20)), max_size=12)
bounds_st = st.dictionaries(
    st.sampled_from(Purpose), st.builds(Bound, st.sampled_from([5, 20, math.inf]), st.sampled_from([0, 15, math.inf]))
)


@given(rows_st, bounds_st)
def test_nothing_is_kept_for_more_than_before_and_doing_it_again_changes_nothing(
    drawn: list[tuple[int, set[Purpose], int]], bounds: dict[Purpose, Bound]
) -> None:
    newest_first = sorted(drawn, key=lambda one: -one[0])
    rows = [held(str(n), at, *some, size=size) for n, (at, some, size) in enumerate(newest_first)]
    retention = Retention(bounds, 50)
    left = [dataclasses.replace(row, purposes=retention.still(row)) for row in rows]
    assert all(now.purposes <= before.purposes for now, before in zip(left, rows, strict=True))
    still_there = [row for row in left if row.purposes]
    again = Retention(bounds, 50)
    assert [again.still(row) for row in still_there] == [row.purposes for row in still_there]


def record(number: int, at: float, *given: str) -> ExchangeRecord:
    return ExchangeRecord(
        request_id=f"r{number}",
        at=at,
        user="ana",
        purposes=frozenset(given),
        stage="intent",
        stage_reason="header",
        status=200,
        started=at,
        total_ms=1.0,
        request={"messages": [{"role": "user", "content": "x" * 500_000}]},
        response={"choices": []},
    )


def dataset(root: Path, name: str, *ids: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    lines = [json.dumps({"origin": f"exchange:{one}", "messages": []}) for one in ids]
    (folder / "train.jsonl").write_text("\n".join([*lines, json.dumps({"origin": "curriculum"}), ""]))
    return folder


async def test_the_housekeeper_lets_go_of_contents_rows_and_datasets(tmp_path: Path, store_at: StoreConfig) -> None:
    store = dataclasses.replace(store_at, train_days=30, log_days=10, log_mib=1, metadata_days=20)
    config = Config(tmp_path, tmp_path / "control.sock", store=store)
    database = await Database.open(config)
    conversations = Conversations(database)
    await conversations.load()
    await conversations.grants.append("ana", "train", "grant", "test", 1.0)
    now, learning = 100 * DAY_S, [True]
    ages = {0: 1.0, 1: 29.0, 2: 31.0, 3: 11.0, 4: 2.0, 5: 1.5, 6: 1.0}
    for number, age in ages.items():
        purposes = ("log", "train") if number < 3 else ("log",)
        await conversations.keep([record(number, now - age * DAY_S, *purposes)])
    await conversations.feedback.add("r2", Judgement("bad", "right"), now)
    fresh = dataset(config.datasets_dir, "fresh", "r0", "r1")
    stale = dataset(config.datasets_dir, "stale", "r0", "r2")
    none = dataset(config.datasets_dir, "none")
    housekeeper = Housekeeper(
        config=config,
        conversations=conversations,
        erasures=Erasures(database),
        is_learning=lambda: learning[0],
        clock=lambda: now,
    )
    try:
        await housekeeper.tidy()
        rows: dict[str, Any] = {str(row["request_id"]): row for row in await conversations.exchanges(20)}
        # Of what serves for the log alone two fit into one MiB.
        assert {name: row["decision"] for name, row in rows.items()} == {
            **dict.fromkeys(("r0", "r1", "r5", "r6"), "kept"),
            **dict.fromkeys(("r3", "r4"), "expired"),
        }, "r2 was older than bare rows may get"
        assert (rows["r3"]["user"], rows["r3"]["purposes"]) == (None, [])
        assert stale.is_dir(), "a cycle runs"
        learning[0] = False
        await housekeeper.tidy()
        assert (fresh.is_dir(), stale.is_dir(), none.is_dir()) == (True, False, True)
    finally:
        await database.close()


async def test_a_dataset_that_was_cut_off_within_a_character_goes_and_stops_nothing(tmp_path: Path) -> None:
    config = Config(tmp_path, tmp_path / "control.sock")
    database = await Database.open(config)
    torn = dataset(config.datasets_dir, ".freezing-1", "r1")
    line = '{"messages": [], "origin": "exchange:r2", "text": "\N{SNOWMAN}'.encode()
    (torn / "train.jsonl").write_bytes((torn / "train.jsonl").read_bytes() + line[:-1])
    assert [*dataset_files.exchanges_in(torn)] == ["r1", "r2"]
    housekeeper = Housekeeper(
        config=config, conversations=Conversations(database), erasures=Erasures(database), is_learning=lambda: False
    )
    await housekeeper.tidy()
    assert not torn.exists()
    await database.close()


async def test_the_dataset_of_a_cycle_that_began_meanwhile_stays(tmp_path: Path) -> None:
    config = Config(tmp_path, tmp_path / "control.sock")
    database = await Database.open(config)
    written = dataset(config.datasets_dir, ".freezing-1", "r1")
    begins = iter([False])
    housekeeper = Housekeeper(
        config=config,
        conversations=Conversations(database),
        erasures=Erasures(database),
        is_learning=lambda: next(begins, True),
    )
    await housekeeper.tidy()
    assert written.is_dir()
    await database.close()


async def test_the_datasets_that_an_erasure_has_to_name_are_left_to_it(tmp_path: Path) -> None:
    config = Config(tmp_path, tmp_path / "control.sock")
    database = await Database.open(config)
    erasures, named = Erasures(database), dataset(config.datasets_dir, "named", "r1")
    begun = await erasures.begin("erasure-1", Selector(Kind.USER, "ana"), 1.0, "test")
    housekeeper = Housekeeper(
        config=config, conversations=Conversations(database), erasures=erasures, is_learning=lambda: False
    )
    await housekeeper.tidy()
    assert named.is_dir()
    await erasures.note(dataclasses.replace(begun, phase=Phase.DONE, ended=2.0))
    await housekeeper.tidy()
    assert not named.exists()
    await database.close()


async def test_old_rows_go_even_where_a_dataset_cannot(tmp_path: Path) -> None:
    config = Config(tmp_path, tmp_path / "control.sock")
    database = await Database.open(config)
    conversations = Conversations(database)
    await conversations.keep([record(1, 1.0)])
    (dataset(config.datasets_dir, "odd", "r1") / "train.jsonl").unlink()
    (config.datasets_dir / "odd" / "train.jsonl").mkdir()
    housekeeper = Housekeeper(
        config=config, conversations=conversations, erasures=Erasures(database), is_learning=lambda: False
    )
    with pytest.raises(IsADirectoryError):
        await housekeeper.tidy()
    assert await conversations.exchanges(5) == []
    await database.close()


async def test_what_was_erased_is_not_called_expired(tmp_path: Path, store_at: StoreConfig) -> None:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    conversations = Conversations(database)
    await conversations.load()
    await conversations.grants.append("ana", "log", "grant", "test", 1.0)
    await conversations.keep([record(1, 5.0, "log")])
    try:
        await conversations.keep_less({"r1": frozenset()})
        async with database.write() as connection:
            await connection.exec_driver_sql("UPDATE exchanges SET decision = 'erased'")
        await conversations.keep_less({"r1": frozenset()})
        (row,) = await conversations.exchanges(5)
        assert row["decision"] == "erased"
    finally:
        await database.close()
