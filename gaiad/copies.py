"""A copy of the database file, made while others write: checked before it has its name, and never over a file.

Touches the disk and blocks, so that it is for a thread. Who asks for copies, and where they are noted, is not its
concern.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from gaiad.disk import sync
from gaiad.errors import Refuse, StoreError

_HINT = "name a place with space left that gaiad may write; as a service that is state_dir only"
_OF_THE_SOURCE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def partial_of(target: Path) -> Path:
    """What a copy is called until it is whole. Always the same, so that one left by a kill is found."""
    return target.with_name(f"{target.name}.partial")


def refusal(target: Path) -> Refuse | None:
    """Say why no copy can be made at `target`, if that can be told beforehand."""
    if not target.parent.is_dir():
        return Refuse(f"there is no folder {target.parent}", "make it first, or name another")
    if os.path.lexists(target):
        return Refuse(f"{target} exists already", "a copy never replaces a file: name another, or move that away")
    if os.path.lexists(partial_of(target)):
        return Refuse(
            f"{partial_of(target)} exists already", "another copy is being made; if none is, delete what one left over"
        )
    return None


def copy_database(source: Path, target: Path, busy_timeout_s: float) -> Refuse | None:
    """Copy the database `source` to `target`, private and durable, as it is at one moment.

    Raises:
        StoreError: the copy cannot be written, or is not whole; nothing is left of it.
        sqlite3.Error: the source cannot be read.
    """
    partial = partial_of(target)
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return refusal(target)
    except OSError as error:
        raise StoreError(f"{partial} cannot be made: {error.strerror}", hint=_HINT) from error
    try:
        _write(source, partial, busy_timeout_s)
        _check(partial)
        return _name(partial, target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}", hint=_HINT) from error
    finally:
        partial.unlink(missing_ok=True)


def _write(source: Path, partial: Path, busy_timeout_s: float) -> None:
    # Not the backup interface: it copies page by page, gaps with bytes of deleted rows included. This reads one view,
    # writes only what is in it, and keeps no writer waiting.
    with contextlib.closing(sqlite3.connect(source, timeout=busy_timeout_s, isolation_level=None)) as link:
        try:
            link.execute("VACUUM INTO ?", (str(partial),))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in _OF_THE_SOURCE:
                raise
            raise StoreError(f"{partial} cannot be written: {error}", hint=_HINT) from error
    sync(partial)


def _check(partial: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(f"{partial.as_uri()}?mode=ro", uri=True)) as link:
            found = link.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise StoreError(f"the copy is not whole: {found}", hint="check the disk, then try again, perhaps elsewhere")


def _name(partial: Path, target: Path) -> Refuse | None:
    try:
        os.link(partial, target)
    except FileExistsError:
        return refusal(target)
    except OSError:
        # A disk without second names, such as a stick: nothing there can tell a file that appears just now.
        if os.path.lexists(target):
            return refusal(target)
        partial.rename(target)
    sync(target.parent)
    return None
