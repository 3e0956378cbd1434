"""A damaged database file: set aside under a name of its own, and what can still be read of its small tables.

A note beside the database, `NAME.set-aside.json`, says which files were set aside and what was lost with each. It is
written before a file is moved, so that a killed start is taken up where it ended, and holds for as long as its owner
keeps the files. Touches the disk and blocks. Never writes to a damaged file, never decides what a lost table means.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gaiad.disk import sync, write_private
from gaiad.errors import StoreError

TABLES = ("grants", "adapter_versions", "adapter_events", "cycles", "erasures", "backups")
"""What serving depends on; people's exchanges stay in the damaged file, for their owner to look at or delete."""

_LATER_TABLES = frozenset({"erasures", "backups"})
_ENDS = ("-wal", "-shm", "")


@dataclass(frozen=True, slots=True)
class SetAside:
    """One damaged file by its new name, and the tables that could not be read whole; None while that is not known."""

    path: str
    at: float
    lost: tuple[str, ...] | None


def standing(database: Path) -> tuple[SetAside, ...]:
    """What is set aside of `database`, oldest first, without what its owner deleted since.

    Raises:
        StoreError: the note cannot be read: what was lost would be forgotten.
    """
    path = _note(database)
    try:
        found = [
            SetAside(row["path"], row["at"], None if row["lost"] is None else tuple(row["lost"]))
            for row in json.loads(path.read_text())
        ]
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{path} cannot be read: {error}", hint="delete it and the damaged file, if consent is to be asked anew"
        ) from error
    return tuple(one for one in found if one.lost is None or Path(one.path).exists())


def set_aside(database: Path, before: Sequence[SetAside]) -> None:
    """Move the damaged `database` out of the way, with its log; `before` is what stands already."""
    at = time.time()
    note(database, (*before, SetAside(str(_free_name(database, at)), at, None)))
    finish_move(database)


def finish_move(database: Path) -> None:
    """Move what the note says is to be moved and still lies there. Harmless when repeated."""
    for one in standing(database):
        target = Path(one.path)
        # The file itself goes last: as long as it is there, whatever lies beside it is its own.
        if one.lost is not None or target.exists():
            continue
        for end in _ENDS:
            with contextlib.suppress(FileNotFoundError):
                database.with_name(database.name + end).rename(target.with_name(target.name + end))
        sync(database.parent)


def note(database: Path, found: Sequence[SetAside]) -> None:
    """Write the note anew, durably; without anything to say there is none."""
    path = _note(database)
    if not found:
        path.unlink(missing_ok=True)
        return
    write_private(path, json.dumps([asdict(one) for one in found]).encode())


def salvage(database: Path) -> tuple[SetAside, ...]:
    """Copy what can be read into the fresh `database`, and note what could not. Returns what stands.

    Raises:
        sqlite3.Error: the fresh file cannot be written.
    """
    found = []
    for one in standing(database):
        if one.lost is None:
            with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as fresh:
                fresh.execute("PRAGMA synchronous = FULL")
                fresh.execute("BEGIN IMMEDIATE")
                lost = tuple(table for table in TABLES if not _copy(Path(one.path), fresh, table))
                _name_as_backup(fresh, one)
                _count_events_on(fresh)
                fresh.execute("COMMIT")
            one = replace(one, lost=lost)
        found.append(one)
    note(database, found)
    return tuple(found)


def exchanges_in(damaged: Path, column: str, name: str) -> tuple[list[str], bool]:
    """The ids of exchanges whose content in the damaged file has `name` in `column`; and whether all could be read."""
    found: list[str] = []
    try:
        with _reading(damaged) as link:
            query = f'SELECT request_id FROM exchange_contents NOT INDEXED WHERE "{column}" = ? ORDER BY rowid'
            for (one,) in link.execute(query, (name,)):
                # One by one: an error on the way would take what came before with it.
                found.append(str(one))
            checked = link.execute('PRAGMA integrity_check("exchange_contents")').fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return found, False
    return found, checked == [("ok",)]


def newest_revision(damaged: Path) -> str | None:
    """Which shape the damaged file says it has, where that can be read."""
    with contextlib.suppress(sqlite3.Error), _reading(damaged) as link:
        row = link.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None
    return None


def _copy(damaged: Path, fresh: sqlite3.Connection, table: str) -> bool:
    """Copy one table; True if it was there whole and is now."""
    columns, rows, is_whole = _read(damaged, fresh, table)
    if table == "grants" and not is_whole:
        # Whoever granted may have revoked in what is lost: only a no still counts.
        rows = [row for row in rows if row[columns.index("action")] == "revoke"]
    if rows:
        names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
        fresh.executemany(f'INSERT OR IGNORE INTO "{table}" ({names}) VALUES ({marks})', rows)
    (count,) = fresh.execute(f'SELECT count(*) FROM "{table}"').fetchone()
    return is_whole and count >= len(rows)


def _read(damaged: Path, fresh: sqlite3.Connection, table: str) -> tuple[list[str], list[tuple[object, ...]], bool]:
    columns: list[str] = []
    rows: list[tuple[object, ...]] = []
    try:
        with _reading(damaged) as link:
            has = {row[1] for row in link.execute(f'PRAGMA table_info("{table}")')}
            if not has:
                # 1. An older shape had fewer tables. 2. Any other that is not there is lost.
                is_older = bool(link.execute("SELECT 1 FROM sqlite_schema WHERE name = 'grants'").fetchone())
                return [], [], table in _LATER_TABLES and is_older
            columns = [row[1] for row in fresh.execute(f'PRAGMA table_info("{table}")') if row[1] in has]
            names = ", ".join(f'"{name}"' for name in columns)
            # Row by row, so that those before a page that cannot be read are kept.
            for row in link.execute(f'SELECT {names} FROM "{table}" NOT INDEXED ORDER BY rowid'):
                rows.append(row)  # noqa: PERF402 - an error on the way would take what came before with it
            found = link.execute(f'PRAGMA integrity_check("{table}")').fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return columns, rows, False
    return columns, rows, found == [("ok",)]


def _name_as_backup(fresh: sqlite3.Connection, one: SetAside) -> None:
    """Note the damaged file among the copies: it holds what people said, and an erasure must be able to name it."""
    known = fresh.execute("SELECT 1 FROM backups WHERE path = ?", (one.path,)).fetchone()
    if not known:
        fresh.execute("INSERT INTO backups (at, path) VALUES (?, ?)", (one.at, one.path))


def _count_events_on(fresh: sqlite3.Connection) -> None:
    """Give no event of an adapter a number again: versions that were copied are ordered by those they had."""
    (newest,) = fresh.execute("SELECT coalesce(max(last_event), 0) FROM adapter_versions").fetchone()
    fresh.execute(
        "INSERT OR IGNORE INTO adapter_events (id, at, adapter, what, reason) VALUES (?, 0, '', '', '')", (newest,)
    )
    fresh.execute("DELETE FROM adapter_events WHERE id = ? AND what = ''", (newest,))


@contextlib.contextmanager
def _reading(damaged: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)) as link:
        # Or else nothing at all of a file that was cut short could be read. What cannot be written stays as it is.
        link.execute("PRAGMA writable_schema = ON")
        yield link


def _free_name(database: Path, at: float) -> Path:
    stem = f"{database.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at))}"
    names = (database.with_name(stem + (f"-{number}" if number > 1 else "")) for number in range(1, 1000))
    for path in names:
        if not any(os.path.lexists(path.with_name(path.name + end)) for end in _ENDS):
            return path
    raise StoreError(f"no name is free to set {database} aside", hint="delete old damaged files beside it")


def _note(database: Path) -> Path:
    return database.with_name(f"{database.name}.set-aside.json")
