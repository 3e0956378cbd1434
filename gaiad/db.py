"""The database, in a file or on a server: opened, brought forward, read and written; and the lock on `state_dir`.

Every commit is durable when it returns, and one writer goes after another. It knows nothing of what the rows mean, nor
how the holder of the tables, `sqlite_file` or `postgres`, keeps its word.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gaiad import tables
from gaiad.aside import SetAside
from gaiad.config import Config
from gaiad.errors import Refuse, StoreError
from gaiad.sqlite_file import PERMISSION_HINT, Pace, SqliteFile

_URL_HINT = "use sqlite+aiosqlite:////path/to/file.db or postgresql+asyncpg://USER:PASSWORD@HOST/DB, or leave it empty"


class Holder(Protocol):
    """What holds the tables. Whatever goes wrong in it, `errors` turns into StoreError where it is not a bug.

    `beyond` names places in which bytes of deleted rows may be and which `scour` does not reach.
    """

    pace: Pace
    engine: AsyncEngine
    reader: AsyncEngine
    writer: AsyncEngine
    beyond: tuple[str, ...]

    async def make_ready(self) -> None:
        """Make or check the place before the first row is read or written."""

    async def begun(self, connection: AsyncConnection) -> None:
        """Do what every writing transaction begins with."""

    def bring_forward(self, connection: sa.Connection) -> None:
        """Give the tables the newest shape."""

    async def salvage(self) -> tuple[SetAside, ...]:
        """Take over what can still be read of damaged files; say what stands aside."""

    async def scour(self) -> None:
        """Leave no byte of deleted rows in the tables."""

    async def refusal(self, target: Path) -> Refuse | None:
        """Why no copy can be made at `target`, where that can be told beforehand."""

    async def copy(self, target: Path) -> Refuse | None:
        """Copy all to a new file."""

    async def close(self) -> None:
        """Let go of everything."""

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn what is outside our power into StoreError; anything else stays a bug."""


class Database:
    """One open database. `read` and `write` turn what its holder may fail with into StoreError."""

    def __init__(self, config: Config, holder: Holder) -> None:
        self.config = config
        self.pace = holder.pace
        self.engine = holder.engine
        self.set_aside: tuple[SetAside, ...] = ()
        self._holder = holder

    @property
    def path(self) -> Path:
        """The database's file; only SQLite has one."""
        assert isinstance(self._holder, SqliteFile)
        return self._holder.path

    @property
    def grants_lost(self) -> bool:
        """Whether a revocation may be among what was lost, for as long as the damaged file is kept."""
        return any("grants" in (one.lost or ()) for one in self.set_aside)

    @property
    def beyond(self) -> tuple[str, ...]:
        """Where bytes of deleted rows may be that `scour` does not reach."""
        return self._holder.beyond

    @classmethod
    async def open(cls, config: Config) -> Database:
        """Create or check the database, migrate it to the newest shape, and return it ready.

        A damaged file is set aside first, and what it can still tell is copied into the fresh one.

        Raises:
            StoreError: it cannot be made, reached, read, trusted, set aside or migrated; it is left as it was.
        """
        holder = _holder_of(config)
        database = cls(config, holder)
        try:
            with holder.errors():
                await holder.make_ready()
            async with database.write() as connection:
                await connection.run_sync(holder.bring_forward)
            with holder.errors():
                database.set_aside = await holder.salvage()
        except BaseException:
            await holder.close()
            raise
        return database

    async def close(self) -> None:
        """Close every connection."""
        await self._holder.close()

    async def scour(self) -> None:
        """Leave no byte of deleted rows in the tables. Call it outside of `read` and `write`.

        Raises:
            StoreError: others kept reading or writing for longer than a bounded wait; nothing is lost, ask again.
        """
        with self._holder.errors():
            await self._holder.scour()

    async def backup(self, target: Path, at: float) -> Refuse | None:
        """Copy the database to the new file `target` while it is in use, and note in it where the copy lies.

        Raises:
            StoreError: the copy cannot be made; nothing is left of it.
        """
        refused = await self._holder.refusal(target)
        if refused is not None:
            return refused
        # Before there is a copy: one that nobody knows of would outlive the erasure of what it holds.
        async with self.write() as connection:
            row = await connection.execute(sa.insert(tables.backups).values(at=at, path=str(target)))
        try:
            with self._holder.errors():
                refused = await self._holder.copy(target)
        except StoreError:
            await self._forget_backup(row)
            raise
        if refused is not None:
            await self._forget_backup(row)
        return refused

    async def _forget_backup(self, row: sa.CursorResult[Any]) -> None:
        async with self.write() as connection:
            (number,) = row.inserted_primary_key or (None,)
            await connection.execute(sa.delete(tables.backups).where(tables.backups.c.id == number))

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view of the database."""
        with self._holder.errors():
            async with self._holder.reader.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, durable once the block is left; nothing of it remains if the block raises.

        Of one that ends with StoreError nobody may know whether it was committed, where the connection was lost just
        then: write so that it may be written again.
        """
        with self._holder.errors():
            async with self._holder.writer.begin() as connection:
                await self._holder.begun(connection)
                yield connection


def _holder_of(config: Config) -> Holder:
    """The file or the server that `store.url` names. It may hold a password: no text repeats any of it."""
    if not config.store.url:
        return SqliteFile(config.state_dir, config.state_dir / "gaiad.db")
    try:
        url = sa.make_url(config.store.url)
    except (ArgumentError, ValueError):
        # Not even as the cause: what could not be read as a port may be a piece of the password.
        raise StoreError("store.url is not a database URL", hint=_URL_HINT) from None
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return SqliteFile(config.state_dir, config.state_dir / str(url.database))
    if url.drivername in ("postgresql", "postgresql+asyncpg"):
        return _server_at(url)
    raise StoreError("store.url names neither an SQLite file nor a PostgreSQL database", hint=_URL_HINT)


def _server_at(url: sa.URL) -> Holder:
    try:
        # Only where it is wanted: its driver is an extra, which others need not have.
        from gaiad.postgres import PostgresServer
    except ModuleNotFoundError as error:
        raise StoreError(
            f"store.url names PostgreSQL, and {error.name} is not installed",
            hint="install gaiad with its extra: pip install 'gaiad[postgres]'",
        ) from error
    return PostgresServer(url)


class StateLock:
    """The claim of one daemon on a state directory; the kernel drops it when the holder dies."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let another daemon in. Harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> StateLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_state_dir(path: Path) -> StateLock:
    """Claim the state directory `path`, creating it where missing.

    Raises:
        StoreError: another daemon holds it, or it cannot be made or locked.
    """
    lock_path = path / "lock"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{lock_path} cannot be opened: {error.strerror}", hint=PERMISSION_HINT) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreError(
            f"another gaiad is running on {path} (pid {holder})", hint="stop it first, or set another state_dir"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"{lock_path} cannot be locked: {error.strerror}", hint=PERMISSION_HINT) from error
    return StateLock(lock_path, descriptor)
