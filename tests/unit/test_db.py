"""The database, its file and the lock on its directory, with real files and real second processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import alembic.autogenerate
import alembic.migration
import pytest
import sqlalchemy as sa

from gaiad.config import Config, StoreConfig
from gaiad.copies import copy_database
from gaiad.db import Database, lock_state_dir
from gaiad.errors import Refuse, StoreError
from gaiad.sqlite_file import APPLICATION_ID
from gaiad.tables import backups, cycles, exchange_contents, metadata


def config_at(path: Path, url: str = "") -> Config:
    return Config(path, path / "control.sock", store=StoreConfig(url=url))


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


async def test_the_migrations_make_exactly_the_tables_that_the_code_uses(tmp_path: Path, store_at: StoreConfig) -> None:
    database = await Database.open(config_at(tmp_path, store_at.url))

    def differences(connection: sa.Connection) -> list[object]:
        context = alembic.migration.MigrationContext.configure(connection)
        return list(alembic.autogenerate.compare_metadata(context, metadata))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_every_connection_is_durable_and_strict(tmp_path: Path) -> None:
    database = await Database.open(config_at(tmp_path))
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "application_id": APPLICATION_ID,
        "busy_timeout": 5000,
    }
    async with database.read() as first, database.write() as second:
        for connection in (first, second):
            for pragma, value in expected.items():
                found = (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one()
                assert found == value, pragma
    await database.close()


async def test_the_file_and_its_directory_are_private(tmp_path: Path) -> None:
    database = await Database.open(config_at(tmp_path / "state"))
    await database.close()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "gaiad.db").stat().st_mode & 0o077 == 0


async def test_opening_again_keeps_what_is_there(tmp_path: Path, store_at: StoreConfig) -> None:
    for number in range(3):
        database = await Database.open(config_at(tmp_path, store_at.url))
        async with database.write() as connection:
            await connection.execute(
                sa.text("INSERT INTO cycles (id, adapter, started, phase) VALUES (:id, 'a', 1, 'x')"),
                {"id": str(number)},
            )
        async with database.read() as connection:
            assert (await connection.execute(sa.text("SELECT count(*) FROM cycles"))).scalar_one() == number + 1
        await database.close()


async def test_a_store_url_may_name_another_file(tmp_path: Path) -> None:
    wanted = tmp_path / "elsewhere" / "own.db"
    database = await Database.open(config_at(tmp_path / "state", f"sqlite+aiosqlite:///{wanted}"))
    await database.close()
    assert wanted.stat().st_size > 0
    assert not (tmp_path / "state" / "gaiad.db").exists()


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "sqlite://", "sqlite:///:memory:", "nonsense:secret"])
async def test_a_store_url_that_cannot_be_used_is_refused_without_repeating_a_password(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(StoreError) as caught:
        await Database.open(config_at(tmp_path, url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("how", ["whole", "damaged"])
async def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, how: str) -> None:
    path = tmp_path / "gaiad.db"
    with contextlib.closing(sqlite3.connect(path)) as link:
        link.execute("CREATE TABLE songs (name TEXT)")
        link.commit()
    if how == "damaged":
        path.write_bytes(path.read_bytes()[:5000])
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program") as caught:
        await Database.open(config_at(tmp_path))
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["gaiad.db"]


async def test_a_database_of_a_newer_gaiad_is_refused(tmp_path: Path, store_at: StoreConfig) -> None:
    database = await Database.open(config_at(tmp_path, store_at.url))
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await database.close()
    with pytest.raises(StoreError, match="newer gaiad"):
        await Database.open(config_at(tmp_path, store_at.url))


async def test_a_place_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be opened"):
        await Database.open(config_at(tmp_path / "file" / "state"))
    with pytest.raises(StoreError, match="cannot be opened"):
        lock_state_dir(tmp_path / "file" / "state")


async def test_a_failed_block_leaves_nothing_behind(tmp_path: Path, store_at: StoreConfig) -> None:
    database = await Database.open(config_at(tmp_path, store_at.url))

    async def write_and_fail() -> None:
        async with database.write() as connection:
            await connection.exec_driver_sql("INSERT INTO cycles (id, adapter, started, phase) VALUES ('x','a',1,'p')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await write_and_fail()
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM cycles")).scalar_one() == 0
    await database.close()


async def test_a_file_locked_by_another_program_is_a_store_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.sqlite_file.BUSY_TIMEOUT_MS", 50)
    database = await Database.open(config_at(tmp_path))
    other = start(
        """
        import sqlite3, sys
        link = sqlite3.connect(sys.argv[1])
        link.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        sys.stdin.read()
        """,
        database.path,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match="locked") as caught:
            async with database.write():
                pass
        assert "another program" in caught.value.hint
    finally:
        end(other)
    async with database.write() as connection:
        await connection.exec_driver_sql("INSERT INTO cycles (id, adapter, started, phase) VALUES ('x','a',1,'p')")
    await database.close()


HOLD = """
import pathlib, sys
from gaiad.db import lock_state_dir
from gaiad.errors import Refuse, StoreError
try:
    lock = lock_state_dir(pathlib.Path(sys.argv[1]))
except StoreError as error:
    print("refused:", error, flush=True)
    sys.exit(1)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    with lock_state_dir(tmp_path / "state"):
        second = start(HOLD, tmp_path / "state")
        output, _ = second.communicate(timeout=30)
        assert second.returncode == 1
        assert f"pid {os.getpid()}" in output
        assert "another gaiad is running" in output
    third = start(HOLD, tmp_path / "state")
    try:
        assert third.stdout is not None
        assert third.stdout.readline() == "held\n"
    finally:
        end(third)


def test_the_lock_of_a_killed_daemon_is_free_at_once(tmp_path: Path) -> None:
    first = start(HOLD, tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"pid {first.pid}"):
        lock_state_dir(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with lock_state_dir(tmp_path) as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"
        lock.release()


async def test_an_acknowledged_write_survives_kill_9_and_the_next_start_opens_it(tmp_path: Path) -> None:
    writer = start(
        """
        import asyncio, itertools, pathlib, sys
        from gaiad.config import Config
        from gaiad.db import Database

        async def main():
            path = pathlib.Path(sys.argv[1])
            database = await Database.open(Config(path, path / "s"))
            for number in itertools.count():
                async with database.write() as connection:
                    await connection.exec_driver_sql(
                        "INSERT INTO cycles (id, adapter, started, phase) VALUES (?, 'a', 1, 'p')", (str(number),))
                print(number, flush=True)

        asyncio.run(main())
        """,
        tmp_path,
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(40)]
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate()
    acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    database = await Database.open(config_at(tmp_path))
    async with database.read() as connection:
        found = {int(row.id) for row in await connection.execute(sa.text("SELECT id FROM cycles"))}
    await database.close()
    assert found >= set(acknowledged)


async def test_a_statement_that_fails_does_not_repeat_what_was_to_be_written(
    tmp_path: Path, store_at: StoreConfig
) -> None:
    database = await Database.open(config_at(tmp_path, store_at.url))
    with pytest.raises(sa.exc.IntegrityError) as caught:
        async with database.write() as connection:
            await connection.execute(sa.insert(exchange_contents).values(request_id="r", user=None, request="the-key"))
    assert "the-key" not in str(caught.value)
    await database.close()


def policies_of_threads() -> dict[int, int]:
    return {int(task.name): os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="a scheduling policy of Linux")
async def test_threads_that_talk_to_the_file_give_way_unless_they_hurry_and_the_loops_never_does(
    tmp_path: Path,
) -> None:
    database = await Database.open(config_at(tmp_path))
    found = []
    async with database.read(), database.write():
        for hurries in (False, True, False):
            database.pace.hurry(hurries)
            policies = policies_of_threads()
            assert policies.pop(os.getpid()) == os.SCHED_OTHER
            found.append(list(policies.values()).count(os.SCHED_BATCH))
    await database.close()
    assert found == [2, 0, 2]
    database.pace.hurry(True)


CANARY = b"the-canary-in-the-attic"


def bytes_of(path: Path) -> bytes:
    return b"".join(
        file.read_bytes() for end in ("", "-wal", "-shm") if (file := path.with_name(path.name + end)).exists()
    )


async def with_canaries(path: Path) -> Database:
    """A database that held rows long and short, of which every second and then every one was deleted."""
    database = await Database.open(config_at(path))
    row = "INSERT INTO cycles (id, adapter, started, phase, report) VALUES (?, 'a', 1, 'p', ?)"
    async with database.write() as connection:
        for number in range(600):
            text = CANARY.decode() * (1 + number % 7 * (300 if number % 50 == 0 else 3))
            await connection.exec_driver_sql(row, (f"{number:09}", text))
    assert CANARY in bytes_of(database.path)
    for rest in (1, 0):
        async with database.write() as connection:
            await connection.exec_driver_sql("DELETE FROM cycles WHERE id < 'kept' AND id % 2 = ?", (rest,))
            await connection.exec_driver_sql(row, (f"kept-{rest}", "x" * 5000))
    return database


async def test_scouring_leaves_no_byte_of_what_was_deleted_in_any_file_and_keeps_the_rest(tmp_path: Path) -> None:
    database = await with_canaries(tmp_path)
    assert CANARY in bytes_of(database.path)
    await database.scour()
    assert CANARY not in bytes_of(database.path)
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM cycles")).scalar_one() == 2
        assert (await connection.exec_driver_sql("PRAGMA integrity_check")).scalar_one() == "ok"
    await database.close()
    assert CANARY not in bytes_of(database.path)


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_scouring_says_so_where_others_stay_in_the_way_and_succeeds_once_they_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("gaiad.sqlite_file.BUSY_TIMEOUT_MS", 50)
    database = await with_canaries(tmp_path)
    async with database.read() if kind == "read" else database.write() as connection:
        await connection.exec_driver_sql("SELECT count(*) FROM cycles")
        if kind == "read":
            # What comes after the reader's view cannot leave the log while it looks.
            async with database.write() as other:
                await other.exec_driver_sql("DELETE FROM cycles WHERE id = 'kept-1'")
        with pytest.raises(StoreError) as caught:
            await database.scour()
        assert caught.value.hint
    await database.scour()
    assert CANARY not in bytes_of(database.path)
    await database.close()


async def noted_copies(database: Database) -> list[str]:
    async with database.read() as connection:
        return [row.path for row in await connection.execute(sa.select(backups.c.path))]


async def write_cycle(database: Database, number: int) -> None:
    async with database.write() as connection:
        await connection.execute(sa.insert(cycles).values(id=f"{number:09}", adapter="a", started=1, phase="p"))


async def test_a_copy_made_while_rows_are_written_is_a_whole_private_database_that_opens(tmp_path: Path) -> None:
    database = await with_canaries(tmp_path / "state")
    target, stop = tmp_path / "copy.db", asyncio.Event()

    async def keep_writing() -> int:
        number = 0
        while not stop.is_set():
            await write_cycle(database, number)
            number += 1
        return number

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(keep_writing())
        for name in ("copy.db", "second.db"):
            assert await database.backup(tmp_path / name, 5.0) is None
        stop.set()
    assert await noted_copies(database) == [str(target), str(tmp_path / "second.db")]
    await database.close()
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "second.db", "state"]
    # Nothing of what was deleted before is in it, and of what was being written a beginning without holes.
    assert CANARY not in target.read_bytes()
    copy = await Database.open(config_at(tmp_path / "other", f"sqlite+aiosqlite:///{target}"))
    async with copy.read() as connection:
        found = [row.id for row in await connection.execute(sa.text("SELECT id FROM cycles WHERE id < 'k' ORDER BY 1"))]
    assert found == [f"{number:09}" for number in range(len(found))]
    assert len(found) <= writing.result()
    assert await noted_copies(copy) == [str(target)]
    await copy.close()


@pytest.mark.parametrize("name", ["there.db", "link.db", "half.db", "missing/copy.db"])
async def test_a_copy_never_replaces_a_file_and_one_that_is_refused_is_not_noted(tmp_path: Path, name: str) -> None:
    database = await Database.open(config_at(tmp_path / "state"))
    (tmp_path / "there.db").write_text("mine")
    (tmp_path / "half.db.partial").write_text("mine")
    (tmp_path / "link.db").symlink_to("nowhere")
    refused = await database.backup(tmp_path / name, 5.0)
    assert isinstance(refused, Refuse)
    assert refused.hint
    assert await noted_copies(database) == []
    await database.close()
    assert (tmp_path / "there.db").read_text() == (tmp_path / "half.db.partial").read_text() == "mine"


async def test_a_copy_that_does_not_fit_leaves_nothing_behind_and_the_database_goes_on(tmp_path: Path) -> None:
    database = await with_canaries(tmp_path / "state")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
    try:
        with pytest.raises(StoreError, match=r"copy\.db"):
            await asyncio.to_thread(copy_database, database.path, tmp_path / "copy.db", 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["state"]
    (tmp_path / ("x" * 250)).touch()
    with pytest.raises(StoreError, match="cannot be made"):
        await database.backup(tmp_path / ("y" * 250), 5.0)
    assert await noted_copies(database) == []
    await write_cycle(database, 1)
    await database.close()
