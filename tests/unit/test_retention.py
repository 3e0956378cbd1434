"""What is still kept, by age and by size: the rule alone, and the housekeeper on a real store with real datasets."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
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
from gaiad.retention import Bound, Held, Look, Retention, first_look, held_back, look_again

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


HOUR_S, YEAR_S = 3600.0, 365 * DAY_S


def looks(*moments: tuple[float, float], last: float | None = None) -> list[Look]:
    """Looks at the clock at moments that are told by it and by one that nobody sets."""
    found: list[Look] = []
    for wall, steady in moments:
        found.append(look_again(found[-1], wall, steady) if found else first_look(last, wall, steady))
    return found


@pytest.mark.parametrize(
    ("last", "moments", "believed"),
    [
        (None, [(1000.0, 5.0), (4600.0, 3605.0)], [1000.0, 4600.0]),
        # Set right by less than a day, or back by any time: it is believed.
        (None, [(0.0, 0.0), (HOUR_S + DAY_S, HOUR_S)], [0.0, HOUR_S + DAY_S]),
        (None, [(YEAR_S, 0.0), (HOUR_S, HOUR_S)], [YEAR_S, HOUR_S]),
        # Ahead by years while gaiad runs: not for a day, and then it is.
        (
            None,
            [(0.0, 0.0), *((YEAR_S + hour * HOUR_S, hour * HOUR_S) for hour in (1, 13, 24, 25))],
            [0.0, HOUR_S, 13 * HOUR_S, 24 * HOUR_S, YEAR_S + 25 * HOUR_S],
        ),
        # Set right in time nothing ever happened.
        (None, [(0.0, 0.0), (YEAR_S, HOUR_S), (2 * HOUR_S, 2 * HOUR_S)], [0.0, HOUR_S, 2 * HOUR_S]),
        # It jumps again: the time of waiting begins anew.
        (
            None,
            [(0.0, 0.0), (YEAR_S, HOUR_S), (3 * YEAR_S, 20 * HOUR_S), (3 * YEAR_S + 20 * HOUR_S, 40 * HOUR_S)],
            [0.0, HOUR_S, 20 * HOUR_S, 40 * HOUR_S],
        ),
        # Nobody looked for a while: an hour, for most likely gaiad was not running.
        (0.0, [(YEAR_S, 7.0), (YEAR_S + HOUR_S, HOUR_S + 7)], [0.0, YEAR_S + HOUR_S]),
        (0.0, [(DAY_S, 7.0)], [DAY_S]),
        (YEAR_S, [(0.0, 7.0)], [0.0]),
    ],
)
def test_a_clock_that_jumped_ahead_is_believed_once_it_stood_there_for_a_while(
    last: float | None, moments: list[tuple[float, float]], believed: list[float]
) -> None:
    assert [look.now for look in looks(*moments, last=last)] == believed


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, DAY_S / 2)), min_size=1, max_size=8))
def test_the_time_that_is_believed_never_runs_ahead_of_the_clock_nor_of_what_passed_without_a_wait(
    drawn: list[tuple[float, float]],
) -> None:
    steady, before = 0.0, None
    for wall, passed in drawn:
        steady += passed
        look = first_look(None, wall, steady) if before is None else look_again(before, wall, steady)
        assert look.now <= wall
        assert (held_back(look) is None) is (look.now == wall)
        if before is not None and not before.ahead_s:
            assert look.now <= before.now + passed + DAY_S + 1e-3, "a jump is not believed at the first look"
        before = look


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
        config=config,
        conversations=conversations,
        erasures=Erasures(database),
        is_learning=lambda: False,
        clock=lambda: 91 * DAY_S,
    )
    (tmp_path / "housekeeping.json").write_text(json.dumps({"believed": 91 * DAY_S}))
    with pytest.raises(IsADirectoryError):
        await housekeeper.tidy()
    assert await conversations.exchanges(5) == []
    await database.close()


async def test_a_clock_that_was_set_years_ahead_lets_nothing_go_and_its_looks_outlast_a_restart(tmp_path: Path) -> None:
    store = dataclasses.replace(StoreConfig(), log_days=10, metadata_days=20)
    config = Config(tmp_path, tmp_path / "control.sock", store=store)
    database = await Database.open(config)
    conversations = Conversations(database)
    await conversations.load()
    await conversations.grants.append("ana", "log", "grant", "test", 1.0)
    now, ahead, steady = 100 * DAY_S, 0.0, 0.0
    await conversations.keep([record(1, now - 9.5 * DAY_S, "log"), record(2, now - 19.5 * DAY_S), record(3, now)])

    def made() -> Housekeeper:
        return Housekeeper(
            config=config,
            conversations=conversations,
            erasures=Erasures(database),
            is_learning=lambda: False,
            clock=lambda: now + steady + ahead,
            steady=lambda: steady,
        )

    async def left() -> dict[str, str]:
        return {str(row["request_id"]): str(row["decision"]) for row in await conversations.exchanges(9)}

    everything = {"r1": "kept", "r2": "not_kept", "r3": "not_kept"}
    try:
        # 1. Nobody noted a look yet: the newest row says what time it was.
        ahead = YEAR_S
        housekeeper = made()
        await housekeeper.tidy()
        assert await left() == everything
        assert "365.0 days ahead" in (housekeeper.held_back or "")
        # 2. What came while it was ahead is no reason to believe it after a restart.
        await conversations.keep([record(4, now + ahead)])
        await made().tidy()
        assert await left() == {**everything, "r4": "not_kept"}
        # 3. Set right: what is over by the right time goes.
        ahead, steady = 0.0, 0.6 * DAY_S
        await housekeeper.tidy()
        assert housekeeper.held_back is None
        assert await left() == {"r1": "expired", "r3": "not_kept", "r4": "not_kept"}
    finally:
        await database.close()


async def test_a_first_look_that_cannot_be_read_is_as_none(tmp_path: Path) -> None:
    config = Config(tmp_path, tmp_path / "control.sock")
    database = await Database.open(config)
    for text in ("", "{", "[]", "{}", '{"believed": "soon"}', '{"believed": NaN}'):
        (tmp_path / "housekeeping.json").write_text(text)
        await Housekeeper(
            config=config,
            conversations=Conversations(database),
            erasures=Erasures(database),
            is_learning=lambda: False,
            clock=lambda: 5.0,
        ).tidy()
        assert json.loads((tmp_path / "housekeeping.json").read_text()) == {"believed": 5.0}
    await database.close()


async def test_much_is_let_go_of_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaiad.housekeeper._CONTENTS_AT_ONCE", 3)
    monkeypatch.setattr("gaiad.housekeeper._ROWS_AT_ONCE", 4)
    store = dataclasses.replace(StoreConfig(), log_days=1, metadata_days=1)
    config = Config(tmp_path, tmp_path / "control.sock", store=store)
    database = await Database.open(config)
    conversations = Conversations(database)
    await conversations.load()
    await conversations.grants.append("ana", "log", "grant", "test", 1.0)
    # Half a megabyte each: two of them are enough for one go, and one with two of the others.
    await conversations.keep([record(number, 1.0, "log") for number in range(5)])
    small = [msgspec.structs.replace(record(n, 1.0, "log"), request={"messages": []}) for n in range(5, 10)]
    await conversations.keep(small)
    gone: list[int] = []

    def note(*told: Any) -> None:
        cursor, text = told[1], told[2]
        if text.startswith(("DELETE FROM exchange_contents", "DELETE FROM exchanges")):
            gone.append(cursor.rowcount)

    sa.event.listen(database.engine.sync_engine, "after_cursor_execute", note)
    housekeeper = Housekeeper(
        config=config,
        conversations=conversations,
        erasures=Erasures(database),
        is_learning=lambda: False,
        clock=lambda: 3 * DAY_S,
    )
    (tmp_path / "housekeeping.json").write_text(json.dumps({"believed": 3 * DAY_S}))
    await housekeeper.tidy()
    assert (gone, await conversations.exchanges(9)) == ([3, 3, 2, 2, 4, 4, 2], [])
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
