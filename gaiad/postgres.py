"""The PostgreSQL database that holds the tables, where `store.url` names one: reached, claimed, scoured.

As with a file there is one writer at a time, each transaction has one consistent view, and every commit is durable when
it returns. One gaiad at a time: an advisory lock, held on a connection of its own, is its claim, and every write looks
first whether it still stands. The server may go away and come back; whoever wants it meanwhile is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from gaiad import shape, tables
from gaiad.aside import SetAside
from gaiad.errors import Refuse, StoreError
from gaiad.sqlite_file import Pace

CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 30.0
SILENCE_TIMEOUT_S = STATEMENT_TIMEOUT_S + 5
"""A little more than the server's own: its word says more than its silence."""
LOCK_TIMEOUT_S = 5.0
SCOUR_TIMEOUT_S = 3600.0
_CLAIM_TRIES = 10
_CLAIM_PAUSE_S = 0.2
"""The server needs a moment to see that a daemon which was killed is gone."""
_SCOUR_TRIES = 3

_GAIA = 0x47414941
_CLAIM = f"{_GAIA}, 1"
_WRITING = f"{_GAIA}, 2"
_CLAIM_STANDS = sa.text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    f" AND classid = {_GAIA} AND objid = 1 AND objsubid = 2"
).bindparams(sa.bindparam("pid", type_=sa.Integer))

_QUERY_KEYS = frozenset({"host", "port", "ssl"})
_SSL = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OURS = frozenset({"alembic_version", "exchanges", "grants"})
_DEAD_ROWS = re.compile(r"\d+")

# Kinds of errors, by the beginning of PostgreSQL's code, that no change to gaiad would mend: the connection, who may
# connect to what, resources, locks, the operator, the machine.
_OUTSIDE = ("08", "28", "3D", "3F", "25006", "42501", "53", "55", "57", "58", "40", "25P0", "XX")
# Of these the first line is free of values; of others, as of a text that is no number, it may quote them.
_PLAIN = (*_OUTSIDE, "23", "42")
_HINTS = (
    ("28", "check user and password in store.url, and who may connect by the server's pg_hba.conf"),
    ("3D", "create the database first: see PostgreSQL in docs/operations.md"),
    ("3F", "let the database belong to gaiad's user: see PostgreSQL in docs/operations.md"),
    ("42501", "let the database belong to gaiad's user: see PostgreSQL in docs/operations.md"),
    ("25006", "name the primary server: this one only reads"),
    ("53100", "free some space on the server's disk"),
    ("53300", "let the server take more connections (max_connections); gaiad wants up to nine"),
    ("55", "another program locks gaiad's tables: close that one, or wait"),
)
_AWAY = "see that the server runs and can be reached; what is to be recorded waits meanwhile"


class PostgresServer:
    """One database on a server, as `url` names it."""

    beyond: tuple[str, ...] = (
        "PostgreSQL's write-ahead log, until the server writes over it",
        "copies that the server or its owner keeps: dumps, base backups, archived logs, replicas, its own log",
    )

    def __init__(self, url: sa.URL) -> None:
        """Say where it is; nothing is reached yet.

        Raises:
            StoreError: the URL cannot be meant.
        """
        _check(url)
        self.name = f"PostgreSQL at {_place_of(url)}"
        self.pace = Pace()
        try:
            engine = create_async_engine(
                url.set(drivername="postgresql+asyncpg"),
                connect_args={
                    "timeout": CONNECT_TIMEOUT_S,
                    "command_timeout": SILENCE_TIMEOUT_S,
                    "server_settings": _SETTINGS,
                },
                # What people said must not stand in an error's text, which is logged.
                hide_parameters=True,
                # The server may have been away since a connection was last used.
                pool_pre_ping=True,
                pool_size=5,
                max_overflow=4,
                pool_timeout=STATEMENT_TIMEOUT_S,
            )
        except ArgumentError:
            raise StoreError("store.url names no server", hint=_URL_HINT) from None
        self.engine = engine
        # One view however long a block reads, as in a file.
        self.reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writer = engine.execution_options(isolation_level="READ COMMITTED")
        self._plain = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._claim: AsyncConnection | None = None
        self._claim_pid = 0

    async def make_ready(self) -> None:
        """Reach the database, look whether it may be gaiad's, and claim it.

        Raises:
            StoreError: it cannot be reached or used, is another program's, or another gaiad has it.
        """
        async with self._plain.connect() as connection:
            encoding = (await connection.execute(sa.text("SHOW server_encoding"))).scalar_one()
            found = await connection.execute(
                sa.text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
            )
            names = set(found.scalars())
        if encoding != "UTF8":
            raise StoreError(f"{self.name} is encoded in {encoding}", hint="create it with ENCODING 'UTF8'")
        if names and not names >= _OURS:
            raise StoreError(
                f"{self.name} is a database of another program", hint="set store.url to a database of gaiad's own"
            )
        for _ in range(_CLAIM_TRIES - 1):
            if await self._take():
                return
            await asyncio.sleep(_CLAIM_PAUSE_S)
        if not await self._take():
            raise self._taken()

    async def begun(self, connection: AsyncConnection) -> None:
        """Wait for other writers, then look whether the database is still this gaiad's.

        In this order: who claims it waits for writers too before it reads a row, so none can slip in between.

        Raises:
            StoreError: another gaiad has it by now.
        """
        await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_WRITING})"))
        if await self._is_claim_lost(connection) and not await self._take():
            raise self._taken()

    def bring_forward(self, connection: sa.Connection) -> None:
        """Give the tables the newest shape, and have the planner keep no samples of what was said."""
        shape.bring_forward(connection)
        for table in tables.CONTENT:
            said = [column.name for column in table.columns if isinstance(column.type, sa.Text) and _is_said(column)]
            changes = ", ".join(f'ALTER COLUMN "{name}" SET STATISTICS 0' for name in said)
            if changes:
                # They would outlive the rows, in a catalogue that nobody scours.
                connection.execute(sa.text(f"ALTER TABLE {table.name} {changes}"))

    async def salvage(self) -> tuple[SetAside, ...]:
        """There are no damaged files here."""
        return ()

    async def scour(self) -> None:
        """Write the tables with content anew, without the rows that were deleted, and give the old files back.

        Raises:
            StoreError: others still look at deleted rows, or have the tables locked; ask again.
        """
        for table in tables.CONTENT:
            for _ in range(_SCOUR_TRIES):
                if not await self._rewritten(table.name):
                    break
            else:
                raise StoreError(
                    f"{self.name} still holds rows that were deleted: others kept reading {table.name}",
                    hint="close their transactions, and replication that lags behind; it is tried again by itself",
                    passes=True,
                )

    async def refusal(self, target: Path) -> Refuse | None:
        """A copy of a server's database is for the server's own tools."""
        return Refuse(
            f"{self.name} is not copied by gaiad", "use pg_dump; an erasure does not know of the copies it makes"
        )

    async def copy(self, target: Path) -> Refuse | None:
        """See `refusal`."""
        return await self.refusal(target)

    async def close(self) -> None:
        """Give the claim back, and close every connection."""
        await self._let_go()
        await self.engine.dispose()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the server, the network and other programs may do into StoreError; anything else stays a bug."""
        try:
            yield
        except DBAPIError as error:
            raise self._told(error, error.orig) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._told(error, error) from None
        except PoolTimeoutError:
            raise StoreError(
                f"{self.name}: no connection became free", hint="the server is too slow or overloaded", passes=True
            ) from None
        except TimeoutError:
            raise StoreError(f"{self.name} does not answer", hint=_AWAY, passes=True) from None
        except OSError as error:
            raise StoreError(
                f"{self.name} cannot be reached: {error.strerror or error}", hint=_AWAY, passes=True
            ) from None

    def _told(self, error: Exception, cause: BaseException | None) -> Exception:
        """What is to be raised instead of `error`: nothing of it repeats a value, as PostgreSQL's details do."""
        code = str(getattr(cause, "sqlstate", None) or "")
        is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
        said = str(cause.args[0]).splitlines()[0] if cause is not None and cause.args else type(error).__name__
        if is_lost or code.startswith(_OUTSIDE):
            hint = next((hint for start, hint in _HINTS if code.startswith(start)), _AWAY)
            return StoreError(f"{self.name}: {said}", hint=hint, passes=True)
        if not isinstance(cause, asyncpg.PostgresError) and "closed" in said and not code:
            return StoreError(f"{self.name}: the connection was lost", hint=_AWAY, passes=True)
        told = Exception(f"{code} {said}" if code.startswith(_PLAIN) else f"{code or 'no code'}, by the driver")
        if isinstance(error, DBAPIError):
            plain = type(error)(error.statement, None, told, hide_parameters=True)
            return plain.with_traceback(error.__traceback__)
        return RuntimeError(f"{self.name}: {told}").with_traceback(error.__traceback__)

    # --- the claim ------------------------------------------------------------------------------------------------

    async def _take(self) -> bool:
        """Claim the database, on a connection that is kept for that; False where another gaiad has it."""
        await self._let_go()
        connection = await self._plain.connect()
        try:
            row = (await connection.execute(sa.text(f"SELECT pg_try_advisory_lock({_CLAIM}), pg_backend_pid()"))).one()
        except BaseException:
            await connection.close()
            raise
        if row[0]:
            self._claim, self._claim_pid = connection, int(row[1])
            return True
        await connection.close()
        return False

    async def _let_go(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            # It must not go back among the others: the lock lives as long as it does.
            with contextlib.suppress(DBAPIError, OSError):
                await claim.invalidate()
            await claim.close()

    async def _is_claim_lost(self, connection: AsyncConnection) -> bool:
        if self._claim is None:
            return True
        driver = (await self._claim.get_raw_connection()).driver_connection
        if driver is None or driver.is_closed():
            return True
        return not (await connection.execute(_CLAIM_STANDS, {"pid": self._claim_pid})).scalar_one()

    def _taken(self) -> StoreError:
        # It may also be this one's own claim, on a connection of which the server does not know yet that it was lost.
        hint = "stop it first, or give each a database of its own"
        return StoreError(f"another gaiad is using {self.name}", hint=hint, passes=True)

    # --- scouring -------------------------------------------------------------------------------------------------

    async def _rewritten(self, table: str) -> int:
        """Write one table anew. How many deleted rows had to be taken along, because others may still see them."""
        told: list[str] = []
        async with self._plain.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, asyncpg.Connection)

            def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
                told.append(str(message.detail or ""))

            driver.add_log_listener(listen)
            try:
                await driver.execute("SET statement_timeout = 0")
                # Not plain VACUUM: that leaves the bytes in the gaps of its pages. Indexes and long texts go along.
                await driver.execute(f"VACUUM (FULL, VERBOSE) {table}", timeout=SCOUR_TIMEOUT_S)
            finally:
                driver.remove_log_listener(listen)
                # With settings of its own it must not go back among the others.
                await connection.invalidate()
        counts = [int(found[0]) for detail in told if (found := _DEAD_ROWS.search(detail))]
        if not counts:
            raise StoreError(
                f"{self.name} does not say whether deleted rows are left", hint="see the server's log for why"
            )
        return sum(counts)


_SETTINGS = {
    "application_name": "gaiad",
    # Whatever the server's owner prefers elsewhere: an acknowledged exchange is on the disk.
    "synchronous_commit": "on",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S * 1000:.0f}",
    "lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}",
    "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S * 2000:.0f}",
    # The server finds out in a minute that a machine is gone, and with it a claim.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_URL_HINT = "use postgresql+asyncpg://USER:PASSWORD@HOST/DB, with %40 for an @ in the password"


def _check(url: sa.URL) -> None:
    """Raise StoreError for a URL that cannot be meant; the text repeats none of it, as it may hold a password."""
    if not url.database:
        raise StoreError("store.url names no database", hint=_URL_HINT)
    if "@" in f"{url.host}{url.database}":
        # What stands behind it would be taken for a host, and a host is named in errors.
        raise StoreError("store.url has an @ too many", hint=_URL_HINT)
    unknown = url.query.keys() - _QUERY_KEYS
    if unknown:
        raise StoreError(
            "store.url has options that gaiad does not know", hint=f"it knows {', '.join(sorted(_QUERY_KEYS))} only"
        )
    if url.query.get("ssl", _SSL[0]) not in _SSL:
        raise StoreError("store.url has an ssl that is none", hint=f"use one of {', '.join(_SSL)}")


def _place_of(url: sa.URL) -> str:
    host = url.host or url.query.get("host") or "localhost"
    port = url.port or url.query.get("port")
    where = host if isinstance(host, str) else ",".join(host)
    return f"{where}{f':{port}' if port else ''}/{url.database}"


def _is_said(column: sa.Column[str]) -> bool:
    return not column.primary_key and not column.foreign_keys
