"""The PostgreSQL database on a real server: whose it is, what holds while it is away, and what nobody may read of it.

What both databases do alike is tested where it belongs, over each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from gaiad import postgres as postgres_module
from gaiad import tables
from gaiad.config import Config, StoreConfig
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.errors import Refuse, StoreError
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.proxy.recorder import Recorder
from tests.postgres_server import PASSWORD, PostgresServer, name_in

SECRET = "the-attic-key-is-under-the-mat"


def config_at(path: Path, url: str) -> Config:
    return Config(path, path / "control.sock", store=StoreConfig(url=url))


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture
async def database(tmp_path: Path, url: str) -> AsyncIterator[Database]:
    opened = await Database.open(config_at(tmp_path, url))
    yield opened
    await opened.close()


@pytest.fixture
async def conversations(database: Database) -> Conversations:
    store = Conversations(database)
    await store.load()
    await store.grants.append("ana", "train", "grant", "test", 1.0)
    return store


def record(request_id: str) -> ExchangeRecord:
    return ExchangeRecord(
        request_id=request_id,
        at=100.0,
        user="ana",
        purposes=frozenset({"log", "train"}),
        stage="intent",
        stage_reason="header",
        status=200,
        started=99.0,
        total_ms=1.0,
        request={"messages": [{"role": "user", "content": SECRET}]},
    )


async def write_cycle(database: Database, name: str) -> None:
    async with database.write() as connection:
        await connection.execute(sa.insert(tables.cycles).values(id=name, adapter="a", started=1, phase="p"))


async def cycles_in(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(sa.select(tables.cycles.c.id).order_by("id"))).scalars())


def told(error: BaseException) -> str:
    """All that a log would show of it."""
    return "".join(traceback.format_exception(error))


# --- whose it is ---------------------------------------------------------------------------------------------------


async def test_a_second_gaiad_is_refused_until_the_first_is_gone(
    tmp_path: Path, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.postgres._CLAIM_PAUSE_S", 0.01)
    with pytest.raises(StoreError, match="another gaiad is using PostgreSQL") as caught:
        await Database.open(config_at(tmp_path / "other", url))
    assert caught.value.hint
    await write_cycle(database, "first")
    await database.close()
    second = await Database.open(config_at(tmp_path / "other", url))
    assert await cycles_in(second) == ["first"]
    await second.close()


HOLD = """
import asyncio, pathlib, sys
from gaiad.config import Config, StoreConfig
from gaiad.db import Database

async def main():
    path = pathlib.Path(sys.argv[1])
    database = await Database.open(Config(path, path / "s", store=StoreConfig(url=sys.argv[2])))
    print("held", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_the_database_of_a_killed_gaiad_is_free_at_once(tmp_path: Path, url: str) -> None:
    first = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(tmp_path), url), stdout=asyncio.subprocess.PIPE
    )
    assert first.stdout is not None
    assert await first.stdout.readline() == b"held\n"
    first.kill()
    await first.communicate()
    database = await Database.open(config_at(tmp_path, url))
    await database.close()


def end_sessions(postgres: PostgresServer, url: str, which: str = "true") -> None:
    """As the server's owner does who ends what is connected."""
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_in(url)}' AND {which}"
    )


_CLAIMS = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 1)"


async def test_a_claim_that_was_cut_is_taken_again_before_anything_is_written(
    tmp_path: Path, url: str, database: Database, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_sessions(postgres, url, _CLAIMS)
    await write_cycle(database, "after")
    monkeypatch.setattr("gaiad.postgres._CLAIM_PAUSE_S", 0.01)
    with pytest.raises(StoreError, match="another gaiad"):
        await Database.open(config_at(tmp_path, url))


async def test_who_lost_the_database_to_another_writes_nothing_into_it_any_more(
    tmp_path: Path, url: str, database: Database, postgres: PostgresServer
) -> None:
    end_sessions(postgres, url, _CLAIMS)
    other = await Database.open(config_at(tmp_path / "other", url))
    with pytest.raises(StoreError, match="another gaiad"):
        await write_cycle(database, "lost")
    await write_cycle(other, "other")
    assert await cycles_in(other) == ["other"]
    await other.close()


async def test_a_database_of_another_program_is_refused_and_left_as_it_is(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    postgres.execute("CREATE TABLE songs (name text)", url)
    with pytest.raises(StoreError, match="another program"):
        await Database.open(config_at(tmp_path, url))
    assert postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", url) == [("songs",)]


async def test_a_database_that_cannot_hold_every_text_is_refused(tmp_path: Path, postgres: PostgresServer) -> None:
    with postgres.database("ENCODING 'LATIN1' TEMPLATE template0") as latin:
        with pytest.raises(StoreError, match="LATIN1") as caught:
            await Database.open(config_at(tmp_path, latin))
        assert "UTF8" in caught.value.hint


# --- what nobody may read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url.replace(PASSWORD, "not-the-password"), "pg_hba.conf"),
        (lambda url: url.replace("gaiad:", "nobody-here:"), "pg_hba.conf"),
        (lambda url: re.sub("/test[0-9]+", "/nothing", url), "create the database"),
        (lambda url: url.replace("host=/", "host=/nowhere"), "the server runs"),
        (lambda url: url.replace("@/", "@127.0.0.1:1/").partition("?")[0], "the server runs"),
        (lambda url: url.replace("@/", "@no-such-host.invalid/").partition("?")[0], "the server runs"),
        (lambda url: url.replace(PASSWORD, "not@" + PASSWORD), "%40"),
        (lambda url: f"{url}&password={PASSWORD}", "host, port, ssl"),
        (lambda url: f"{url}&ssl={PASSWORD}", "verify-full"),
        (lambda url: url.replace("@/", f"@host:{PASSWORD}/"), "postgresql+asyncpg://"),
        (lambda url: re.sub("/test[0-9]+", "/", url), "postgresql+asyncpg://"),
        (lambda url: url.replace("asyncpg", "psycopg"), "postgresql+asyncpg://"),
    ],
)
async def test_what_is_wrong_with_a_url_is_told_with_a_hint_and_without_its_password(
    tmp_path: Path, url: str, change: object, says: str
) -> None:
    assert callable(change)
    wrong = change(url)
    assert wrong != url
    with pytest.raises(StoreError) as caught:
        await Database.open(config_at(tmp_path, wrong))
    assert says in caught.value.hint
    assert "password-of" not in told(caught.value)
    assert "not-the-password" not in told(caught.value)


async def test_no_error_repeats_what_was_to_be_written_nor_the_password(database: Database) -> None:

    async def write(**values: object) -> None:
        async with database.write() as connection:
            await connection.execute(sa.insert(tables.exchange_contents).values(request_id="r", **values))

    for values in ({"request": SECRET}, {"request": SECRET, "user": f"{SECRET}\0"}, {"size": SECRET, "user": "a"}):
        with pytest.raises(sa.exc.DBAPIError) as caught:
            await write(**values)
        assert SECRET not in told(caught.value)
        assert PASSWORD not in told(caught.value)
    with pytest.raises(sa.exc.IntegrityError, match="null value in column"):
        await write(request=SECRET)


async def test_the_servers_statistics_hold_no_samples_of_what_was_said(
    conversations: Conversations, url: str, postgres: PostgresServer
) -> None:
    await conversations.keep([record(f"r{number}") for number in range(50)])
    for number in range(50):
        assert await conversations.feedback.add(f"r{number}", Judgement("bad", SECRET, note=SECRET), 2.0) is None
    postgres.execute("ANALYZE", url)
    found = "most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE schemaname = 'public'"
    samples = str(postgres.execute(f"SELECT tablename, {found}", url))
    assert "intent" in samples, "of columns that nobody said anything in there are some"
    assert SECRET not in samples
    contents = str(postgres.execute(f"SELECT {found} AND tablename = 'exchange_contents'", url))
    assert "r49" in contents
    assert "ana" not in contents


# --- one writer, one view ------------------------------------------------------------------------------------------


async def test_a_read_is_one_view_however_long_it_takes(database: Database) -> None:
    async with database.read() as connection:
        count = sa.select(sa.func.count()).select_from(tables.cycles)
        assert (await connection.execute(count)).scalar_one() == 0
        await write_cycle(database, "meanwhile")
        assert (await connection.execute(count)).scalar_one() == 0
    assert await cycles_in(database) == ["meanwhile"]


async def test_one_writer_waits_for_another_and_not_for_ever(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_module._SETTINGS, "lock_timeout", "50")
    database = await Database.open(config_at(tmp_path, url))
    async with database.write():
        with pytest.raises(StoreError) as caught:
            await write_cycle(database, "second")
    assert caught.value.passes
    await write_cycle(database, "second")
    await database.close()


async def test_a_commit_is_durable_whatever_the_servers_owner_prefers(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    postgres.execute(f"ALTER DATABASE {name_in(url)} SET synchronous_commit = off")
    database = await Database.open(config_at(tmp_path, url))
    async with database.write() as connection:
        assert (await connection.execute(sa.text("SHOW synchronous_commit"))).scalar_one() == "on"
    await database.close()


# --- while it is away ----------------------------------------------------------------------------------------------


async def test_a_server_that_dies_and_comes_back_loses_nothing_that_was_acknowledged_nor_what_waits(
    conversations: Conversations, postgres: PostgresServer
) -> None:
    recorder = Recorder(conversations, 1000, retry_delays_s=(0.01,), away_s=0.01)
    recorder.offer(record("before"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(recorder.run(), name="recorder")
        await recorder.flush()
        postgres.kill()
        try:
            for number in range(20):
                assert recorder.offer(record(f"r{number}"))
                await recorder.flush()
            assert (recorder.state, recorder.waiting, recorder.failed) == ("failing", 20, 0)
            with pytest.raises(StoreError) as caught:
                await conversations.exchange("before")
            assert caught.value.passes
        finally:
            postgres.start()
        async with asyncio.timeout(30):
            while recorder.waiting:  # noqa: ASYNC110  the recorder is not made for waiting on
                await asyncio.sleep(0.01)
        assert (recorder.state, recorder.written, recorder.failed, recorder.dropped) == ("ok", 21, 0, 0)
        task.cancel()
    found = {row["request_id"] for row in await conversations.exchanges(100)}
    assert found == {"before", *(f"r{number}" for number in range(20))}


async def test_after_a_restart_of_the_server_the_next_read_and_the_next_write_find_it(
    database: Database, postgres: PostgresServer
) -> None:
    for name in ("first", "second"):
        async with database.read(), database.read():
            await write_cycle(database, name)
        postgres.kill()
        postgres.start()
    assert await cycles_in(database) == ["first", "second"]
    await write_cycle(database, "third")


async def test_a_server_that_says_nothing_any_more_is_not_waited_for_for_ever(
    tmp_path: Path, url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.postgres.SILENCE_TIMEOUT_S", 0.5)
    monkeypatch.setattr("gaiad.postgres.CONNECT_TIMEOUT_S", 0.5)
    database = await Database.open(config_at(tmp_path, url))
    postgres.pause(True)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(StoreError) as caught:
                await write_cycle(database, "unheard")
        assert caught.value.passes
    finally:
        postgres.pause(False)
    await write_cycle(database, "heard")
    assert "heard" in await cycles_in(database)
    await database.close()


class CommitLoser:
    """Stands between gaiad and the server, and cuts the connection once a commit went through, before the answer."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._there = server.folder / ".s.PGSQL.5432"
        self._here = folder / ".s.PGSQL.5432"
        self.loses = False

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            links: list[asyncio.Task[None]] = []

            def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                links.append(group.create_task(self._link(reader, writer), name="link"))

            door = await asyncio.start_unix_server(pass_on, self._here)
            yield
            door.close()
            for link in links:
                link.cancel()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._there)
        with contextlib.suppress(ConnectionError):
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_copied(reader, back), name="questions")
                await self._answer(there, writer)
                asking.cancel()
        for end in (writer, back):
            end.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await there.read(65536):
            # How the server says that a transaction is committed; nobody will hear it.
            if self.loses and b"COMMIT\0" in chunk:
                self.loses = False
                return
            writer.write(chunk)


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
    writer.write_eof()


async def test_what_a_lost_connection_may_have_committed_is_written_once(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    between = CommitLoser(postgres, tmp_path)
    async with between.standing():
        database = await Database.open(config_at(tmp_path, url.replace(str(postgres.folder), str(tmp_path))))
        store = Conversations(database)
        await store.load()
        await store.grants.append("ana", "train", "grant", "test", 1.0)
        between.loses = True
        with pytest.raises(StoreError) as caught:
            await store.keep([record("r1")])
        assert caught.value.passes
        assert await store.exchange("r1") is not None, "it was committed all the same"
        await store.keep([record("r1"), record("r2")])
        assert len(await store.exchanges(10)) == 2
        between.loses = True
        said = Judgement("bad", "right", note="twice")
        with pytest.raises(StoreError):
            await store.feedback.add("r1", said, 2.0)
        assert await store.feedback.add("r1", said, 3.0) is None
        between.loses = True
        with pytest.raises(StoreError):
            await store.grants.append("ana", "log", "revoke", "test", 4.0)
        assert await store.grants.append("ana", "log", "revoke", "test", 5.0) is None
        assert store.grants.purposes_for("ana") == await store.grants.granted("ana") == frozenset()
        found: Any = await store.exchange("r1")
        assert [row["note"] for row in found["feedback"]] == ["twice"]
        await database.close()


# --- erasing and copying -------------------------------------------------------------------------------------------


async def delete_all(database: Database) -> None:
    async with database.write() as connection:
        for table in tables.CONTENT:
            await connection.execute(sa.delete(table))


async def test_scouring_leaves_no_byte_of_what_was_deleted_in_the_tables_and_keeps_the_rest(
    conversations: Conversations, database: Database, url: str, postgres: PostgresServer
) -> None:
    await conversations.keep([record(f"r{number}") for number in range(300)])
    assert SECRET.encode() in postgres.files(url)
    async with database.write() as connection:
        await connection.execute(sa.delete(tables.exchange_contents))
    assert SECRET.encode() in postgres.files(url), "deleting alone leaves them"
    await database.scour()
    assert SECRET.encode() not in postgres.files(url)
    assert len(await conversations.exchanges(1000)) == 300
    assert database.beyond


async def test_scouring_says_so_while_somebody_still_sees_what_was_deleted_and_succeeds_after_that(
    conversations: Conversations, database: Database, url: str, postgres: PostgresServer
) -> None:
    await conversations.keep([record("r1")])
    link = await asyncpg.connect(user="gaiad", password=PASSWORD, database=name_in(url), host=str(postgres.folder))
    async with link.transaction(isolation="repeatable_read"):
        await link.fetch("SELECT count(*) FROM cycles")
        await delete_all(database)
        with pytest.raises(StoreError, match="still holds rows") as caught:
            await database.scour()
        assert caught.value.hint
        assert SECRET.encode() in postgres.files(url)
    await link.close()
    await database.scour()
    assert SECRET.encode() not in postgres.files(url)


async def test_a_copy_is_left_to_the_servers_own_tools(database: Database, tmp_path: Path) -> None:
    refused = await database.backup(tmp_path / "copy.db", 5.0)
    assert isinstance(refused, Refuse)
    assert "pg_dump" in refused.hint
    assert not (tmp_path / "copy.db").exists()
    async with database.read() as connection:
        assert (await connection.execute(sa.select(tables.backups))).all() == []


async def test_without_its_driver_the_url_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "gaiad.postgres", raising=False)
    with pytest.raises(StoreError, match="asyncpg is not installed") as caught:
        await Database.open(config_at(tmp_path, "postgresql+asyncpg://gaiad@localhost/gaiad"))
    assert "gaiad[postgres]" in caught.value.hint
