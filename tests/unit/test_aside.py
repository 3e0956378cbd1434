"""Damaged databases, with real files: never overwritten, set aside, and what was in them still counts or is told of."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from gaiad import aside
from gaiad.config import Config, ConsentConfig
from gaiad.consent import Action, Purpose
from gaiad.db import Database
from gaiad.errors import StoreError
from gaiad.grants import Grants
from gaiad.tables import adapter_events, adapter_versions, backups, cycles


def config_at(path: Path) -> Config:
    return Config(path, path / "control.sock", consent=ConsentConfig(header_may_grant=True))


async def filled(folder: Path, users: int = 3) -> Path:
    """A store with grants, a revocation, an active version and a cycle."""
    database = await Database.open(config_at(folder))
    grants = Grants(database)
    for number in range(users):
        await grants.append(f"user{number}", Purpose.TRAIN, Action.GRANT, "test", 1.0)
    await grants.append("user0", Purpose.TRAIN, Action.REVOKE, "test", 2.0)
    version = {"version": "a@v1", "adapter": "a", "number": 1, "path": "p", "sha256": "s", "lineage": "{}"}
    stage = {"stage": "active", "reason": "", "created_at": 1, "changed_at": 1, "last_event": 7}
    async with database.write() as connection:
        await connection.execute(sa.insert(adapter_events).values(id=7, at=1, adapter="a", what="x", reason=""))
        await connection.execute(sa.insert(adapter_versions).values(**version, **stage))
        await connection.execute(sa.insert(cycles).values(id="c", adapter="a", started=1, phase="p"))
    await database.close()
    return database.path


def scribble(path: Path, table: str) -> None:
    """Overwrite the first page of `table`."""
    with closing(sqlite3.connect(path)) as link:
        (page,) = link.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        (size,) = link.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def damage(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    if kind == "not a database":
        path.write_bytes(b"this was never a database\n" * 400)
    elif kind == "torn":
        path.write_bytes(whole[: len(whole) // 2 + 100])
    else:
        scribble(path, kind)


def content(one: aside.SetAside) -> bytes:
    return Path(one.path).read_bytes()


async def count(database: Database, table: sa.Table) -> int:
    async with database.read() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())


async def test_while_grants_are_lost_the_settings_grant_nothing_either(tmp_path: Path) -> None:
    damage(await filled(tmp_path), "grants")
    said = ConsentConfig(grants=("user0=train", "user1=train"))
    for deleted in (False, True):
        database = await Database.open(dataclasses.replace(config_at(tmp_path), consent=said))
        grants = Grants(database)
        await grants.load()
        in_vain = [] if deleted else [("user0", Purpose.TRAIN), ("user1", Purpose.TRAIN)]
        assert await grants.follow_settings(5.0) == in_vain
        assert bool(grants.purposes_for("user1")) == deleted
        for one in database.set_aside:
            os.unlink(one.path)
        await database.close()


@pytest.mark.parametrize("kind", ["not a database", "torn", "exchanges", "grants", "sqlite_autoindex_cycles_1"])
async def test_a_damaged_file_keeps_every_byte_under_another_name_and_a_fresh_one_serves(
    tmp_path: Path, kind: str
) -> None:
    path = await filled(tmp_path)
    damage(path, kind)
    before = path.read_bytes()
    database = await Database.open(config_at(tmp_path))
    (one,) = database.set_aside
    assert content(one) == before
    assert one.path.startswith(f"{path}.damaged-")
    await Grants(database).append("ada", Purpose.LOG, Action.GRANT, "test", 3.0)
    async with database.read() as connection:
        assert [row.path for row in await connection.execute(sa.select(backups.c.path))] == [one.path]
    await database.close()
    again = await Database.open(config_at(tmp_path))
    assert again.set_aside == (one,)
    await again.close()


async def test_what_can_be_read_whole_still_counts(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    damage(path, "exchanges")
    database = await Database.open(config_at(tmp_path))
    assert database.set_aside[0].lost == ()
    assert not database.grants_lost
    grants = Grants(database)
    await grants.load()
    assert grants.purposes_for("user1") == {"log", "train"}
    assert "train" not in grants.purposes_for("user0", "train")
    assert "log" in grants.purposes_for("nobody-yet", "log")
    assert [await count(database, table) for table in (adapter_versions, adapter_events, cycles)] == [1, 1, 1]
    await database.close()


async def test_while_grants_are_lost_no_header_and_no_old_yes_counts_until_the_damaged_file_is_deleted(
    tmp_path: Path,
) -> None:
    path = await filled(tmp_path)
    damage(path, "grants")
    for _ in range(2):
        database = await Database.open(config_at(tmp_path))
        assert "grants" in (database.set_aside[0].lost or ())
        assert database.grants_lost
        grants = Grants(database)
        await grants.load()
        assert grants.purposes_for("user1", "train") == frozenset()
        assert await count(database, cycles) == 1
        await database.close()
    await Grants(database).append("user2", Purpose.TRAIN, Action.GRANT, "test", 3.0)
    os.unlink(database.set_aside[0].path)
    await database.close()
    database = await Database.open(config_at(tmp_path))
    assert (database.set_aside, database.grants_lost) == ((), False)
    grants = Grants(database)
    await grants.load()
    assert "train" in grants.purposes_for("user2")
    assert "log" in grants.purposes_for("user1", "log")
    assert not (tmp_path / "gaiad.db.set-aside.json").exists()
    await database.close()


async def test_of_grants_read_in_part_only_a_no_counts(tmp_path: Path) -> None:
    path = await filled(tmp_path, users=1)
    with closing(sqlite3.connect(path)) as link:
        link.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
            " INSERT INTO grants (user, purpose, action, source, at) SELECT 'x', 'log', 'grant', 't', i FROM n"
        )
        link.commit()
        pages = link.execute("PRAGMA page_count").fetchone()[0]
    with closing(sqlite3.connect(path)) as link:
        link.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[: (pages * 3 // 4) * 4096])
    database = await Database.open(config_at(tmp_path))
    assert "grants" in (database.set_aside[0].lost or ())
    async with database.read() as connection:
        actions = {row.action for row in await connection.execute(sa.text("SELECT action FROM grants"))}
    assert actions == {"revoke"}
    await database.close()


async def test_what_a_killed_daemon_left_in_the_log_beside_a_damaged_file_is_read_too(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("INSERT INTO grants (user, purpose, action, source, at) VALUES ('user1', 'log', 'revoke', 't', 5)")
    writer.commit()
    kept = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal", "-shm")}
    writer.close()
    for end, content in kept.items():
        path.with_name(path.name + end).write_bytes(content)
    damage_page_of_the_file_only(path, "exchanges")
    database = await Database.open(config_at(tmp_path))
    assert len(database.set_aside) == 1
    grants = Grants(database)
    await grants.load()
    assert grants.purposes_for("user1") == frozenset()
    await database.close()


def damage_page_of_the_file_only(path: Path, table: str) -> None:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as link:
        (page,) = link.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


async def test_a_start_killed_while_it_set_a_file_aside_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    damage(path, "grants")
    before = path.read_bytes()
    path.with_name("gaiad.db-wal").touch()
    target = tmp_path / "gaiad.db.damaged-x"
    # 1. Killed right after the note was written, and after a part was moved.
    aside.note(path, [aside.SetAside(str(target), 1.0, None)])
    path.with_name("gaiad.db-wal").rename(tmp_path / "gaiad.db.damaged-x-wal")
    database = await Database.open(config_at(tmp_path))
    assert [one.path for one in database.set_aside] == [str(target)]
    assert target.read_bytes() == before
    assert database.grants_lost
    await database.close()
    # 2. Killed after the rows were copied, before that was noted: nothing is there twice.
    aside.note(path, [aside.SetAside(str(target), 1.0, None)])
    database = await Database.open(config_at(tmp_path))
    assert database.grants_lost
    assert (await count(database, cycles), await count(database, backups)) == (1, 1)
    await database.close()


async def test_a_second_damage_does_not_make_the_first_forgotten(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    damage(path, "grants")
    database = await Database.open(config_at(tmp_path))
    await database.close()
    damage(path, "exchanges")
    database = await Database.open(config_at(tmp_path))
    first, second = database.set_aside
    assert first.path != second.path
    assert "grants" in (first.lost or ())
    assert second.lost == ()
    assert database.grants_lost
    await database.close()


async def test_events_are_numbered_on_from_those_that_were_lost(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    damage(path, "adapter_events")
    database = await Database.open(config_at(tmp_path))
    assert database.set_aside[0].lost == ("adapter_events",)
    async with database.write() as connection:
        made = await connection.execute(sa.insert(adapter_events).values(at=1, adapter="a", what="x", reason=""))
    assert made.inserted_primary_key is not None
    assert made.inserted_primary_key[0] > 7
    assert await count(database, adapter_events) == 1
    await database.close()


async def test_a_damaged_file_of_a_newer_gaiad_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    with closing(sqlite3.connect(path)) as link:
        link.execute("UPDATE alembic_version SET version_num = '9999'")
        link.commit()
    damage(path, "exchanges")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="9999"):
        await Database.open(config_at(tmp_path))
    assert path.read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if "damaged" in name]


async def test_a_note_that_cannot_be_read_keeps_gaiad_from_forgetting_what_was_lost(tmp_path: Path) -> None:
    await filled(tmp_path)
    (tmp_path / "gaiad.db.set-aside.json").write_text("{")
    with pytest.raises(StoreError, match="set-aside") as caught:
        await Database.open(config_at(tmp_path))
    assert caught.value.hint
