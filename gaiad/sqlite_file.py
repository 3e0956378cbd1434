"""The SQLite file that holds the tables, where `store.url` names no server: checked, opened, copied, scoured.

Every commit is durable when it returns (WAL with `synchronous=FULL`), deleted content is overwritten
(`secure_delete`). It never repairs or overwrites a damaged file: that is set aside, and a fresh one made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from gaiad import aside, copies, shape
from gaiad.errors import Refuse, StoreError

APPLICATION_ID = 0x47414941
"""`GAIA`, written into the file's header by the first migration."""

BUSY_TIMEOUT_MS = 5000
_SCOUR_TRIES = 3
_JOIN = "gaiad_join"
PERMISSION_HINT = "check that state_dir is on a local disk with space left and writable by this user"


class SqliteFile:
    """One database file; `state_dir` is made where it is missing."""

    beyond: tuple[str, ...] = ()

    def __init__(self, state_dir: Path, path: Path) -> None:
        self.path = path
        self.pace = Pace()
        self._state_dir = state_dir
        engine = create_async_engine(
            sa.URL.create("sqlite+aiosqlite", database=str(path)),
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
            # What people said must not stand in an error's text, which is logged.
            hide_parameters=True,
            pool_size=4,
            max_overflow=4,
        )
        sa.event.listen(engine.sync_engine, "connect", lambda connection, _: _on_connect(connection, self.pace))
        sa.event.listen(engine.sync_engine, "begin", _on_begin)
        self.engine = self.reader = engine
        self.writer = engine.execution_options(gaiad_write=True)

    async def make_ready(self) -> None:
        """Make or check the file; a damaged one is set aside.

        Raises:
            StoreError: it cannot be made, read, trusted or set aside; it is left as it was.
        """
        _make_private(self._state_dir, self.path)
        await asyncio.to_thread(_inspect, self.path)
        _make_private(self._state_dir, self.path)

    async def begun(self, connection: AsyncConnection) -> None:
        """Nothing is to be added: `BEGIN IMMEDIATE` keeps other writers waiting."""

    def bring_forward(self, connection: sa.Connection) -> None:
        """Give it the newest shape."""
        shape.bring_forward(connection)

    async def salvage(self) -> tuple[aside.SetAside, ...]:
        """Copy what a damaged file can still tell into this one; say what stands aside."""
        return await asyncio.to_thread(aside.salvage, self.path)

    async def scour(self) -> None:
        """Leave no byte of deleted rows in the files."""
        await asyncio.to_thread(_scour, self.path)

    async def refusal(self, target: Path) -> Refuse | None:
        """Why no copy can be made at `target`, where that can be told beforehand."""
        return await asyncio.to_thread(copies.refusal, target)

    async def copy(self, target: Path) -> Refuse | None:
        """Copy it to a new file while it is in use."""
        return await asyncio.to_thread(copies.copy_database, self.path, target, BUSY_TIMEOUT_MS / 1000)

    async def close(self) -> None:
        """Close every connection; the last one folds the write-ahead log back into the file."""
        await self.engine.dispose()

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn what the disk and other writers may do into StoreError; constraint violations stay bugs."""
        return _as_store_errors(self.path)


def _make_private(state_dir: Path, path: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}", hint=PERMISSION_HINT) from error


def _inspect(path: Path) -> None:
    """Look before writing: a foreign file is refused with not one byte of it changed, a damaged one is set aside."""
    try:
        aside.finish_move(path)
        if not path.exists() or path.stat().st_size == 0:
            return
        with _as_store_errors(path):
            if not _is_whole(path):
                _refuse_what_is_not_ours(path)
                aside.set_aside(path, aside.standing(path))
    except OSError as error:
        raise StoreError(f"{path} cannot be read or set aside: {error.strerror}", hint=PERMISSION_HINT) from error


def _is_whole(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as link:
            link.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            if link.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return False
            tables = link.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if tables and link.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise _foreign(path)
    except sqlite3.DatabaseError as error:
        # Anything else, such as a lock or a disk that does not answer, says nothing of the file.
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        raise
    return True


def _refuse_what_is_not_ours(damaged: Path) -> None:
    # 1. Another program's file is not ours to move. Without a header nobody can tell whose it was.
    with damaged.open("rb") as file:
        header = file.read(100)
    if header.startswith(b"SQLite format 3\0") and header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise _foreign(damaged)
    # 2. Nor can what a newer gaiad wrote be copied by this one.
    revision = aside.newest_revision(damaged)
    if revision is not None:
        shape.refuse_newer(revision)


def _foreign(path: Path) -> StoreError:
    return StoreError(
        f"{path} is a database of another program", hint="set store.url or state_dir to a place of gaiad's own"
    )


def _damage_hint(path: Path) -> str:
    return f"start gaiad again: it sets {path} aside and keeps what can be read; or restore a backup"


def _scour(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)) as link:
        link.execute("PRAGMA synchronous = FULL")
        link.execute("PRAGMA secure_delete = ON")
        # 1. The log holds pages as they were. Whoever reads them is met here, before the long work.
        _empty_log(link, path)
        # 2. A page whose rows were moved keeps copies of them in its gaps, which only a new page is without.
        link.execute("VACUUM")
        # 3. The log holds the new pages now, and the file still the old ones.
        _empty_log(link, path)


def _empty_log(link: sqlite3.Connection, path: Path) -> None:
    for _ in range(_SCOUR_TRIES):
        # Each try waits for the others as long as any statement does.
        is_busy, _, _ = link.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not is_busy:
            return
    raise StoreError(
        f"{path} still holds bytes of what was deleted: others kept reading or writing it",
        hint="close what has it open, and try again",
    )


class Pace:
    """Whether the threads that talk to the file give way to the loop: rows can wait a moment, a reply should not.

    Where they do, one of them never interrupts the loop, which on a busy core means that it hardly runs; so who sees
    rows pile up has them hurry. Changes nothing on systems without such a policy.
    """

    def __init__(self) -> None:
        self.hurries = False
        self._threads: set[int] = set()

    def join(self) -> None:
        """Count the calling thread among them."""
        self._threads.add(threading.get_native_id())
        self._schedule(threading.get_native_id())

    def hurry(self, hurries: bool) -> None:
        """Let them run like any other, or give way again."""
        if hurries == self.hurries:
            return
        self.hurries = hurries
        for thread in tuple(self._threads):
            # The number of one that ended may be another program's by now.
            if Path(f"/proc/self/task/{thread}").exists():
                self._schedule(thread)
            else:
                self._threads.discard(thread)

    def _schedule(self, thread: int) -> None:
        if hasattr(os, "SCHED_BATCH"):
            with contextlib.suppress(OSError):
                os.sched_setscheduler(thread, os.SCHED_OTHER if self.hurries else os.SCHED_BATCH, os.sched_param(0))


def _on_connect(connection: Any, pace: Pace) -> None:  # noqa: ANN401 - the driver's, as SQLAlchemy wraps it
    # Transactions begin where SQLAlchemy says so, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    # A function of SQL is called in the thread that runs the statement, which no other way leads to.
    connection.create_function(_JOIN, 0, pace.join)
    cursor.execute(f"SELECT {_JOIN}()")
    cursor.close()


def _on_begin(connection: sa.Connection) -> None:
    # A writer takes the write lock at once: a reader that turns writer half-way cannot wait for it.
    writes = connection.get_execution_options().get("gaiad_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def _as_store_errors(path: Path) -> Iterator[None]:
    """Turn what the disk and other writers may do into StoreError; constraint violations stay bugs."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) and _is_outside_our_power(error.orig):
            raise _store_error(path, error.orig) from error
        raise
    except sqlite3.Error as error:
        if _is_outside_our_power(error):
            raise _store_error(path, error) from error
        raise
    except PoolTimeoutError as error:
        raise StoreError(f"{path}: no connection became free", hint="the disk is too slow or overloaded") from error


def _is_outside_our_power(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    text = str(error)
    if "locked" in text or "busy" in text:
        hint = "another program is writing to it: close that one, or wait"
    elif "full" in text:
        hint = f"free some space on the disk of {path.parent}"
    elif "malformed" in text or "not a database" in text:
        hint = _damage_hint(path)
    else:
        hint = PERMISSION_HINT
    return StoreError(f"{path}: {text}", hint=hint)
