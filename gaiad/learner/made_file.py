"""The file of what the base itself made: taken up where a killed run left it, added to row by row, shown only whole.

Rows go into a hidden file beside it, each on the disk before the next; `publish` puts that in its place in one step, so
that whoever builds a dataset never sees half. One writes at a time. Touches the disk and blocks; decides nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gaiad.errors import DatasetError, Refuse
from gaiad.learner.self_made import Made, made_of

MOST_BYTES = 64_000_000
_HINT = "name another file, or run this as the user that gaiad runs as"


class MadeFile:
    """One file, open to be added to. `rows` are those that it holds, `unusable` how many lines are no rows."""

    def __init__(self, path: Path, file: BinaryIO, rows: list[Made], unusable: int) -> None:
        self.path, self.rows, self.unusable = path, rows, unusable
        self._file = file

    def add(self, row: Made) -> None:
        """Put a row on the disk; a full disk is an error, and what was there stays."""
        try:
            self._file.write(row.line().encode("utf-8", "backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DatasetError(f"cannot write {_part(self.path)}: {error.strerror}", hint="make room") from error
        self.rows.append(row)

    def publish(self) -> None:
        """Put all rows in the file's place in one step; where there are none, nothing is there as before."""
        part = _part(self.path)
        try:
            if not self.rows:
                part.unlink(missing_ok=True)
                return
            _give_to_owner(self._file.fileno(), self.path.parent)
            part.replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            raise DatasetError(f"cannot write {self.path}: {error.strerror}", hint=_HINT) from error


@contextmanager
def opened(path: Path, *, anew: bool = False) -> Iterator[MadeFile | Refuse]:
    """Open `path` to add to it, what an earlier run left included; `anew` begins without what there was.

    Gives a refusal where another writes to it. What was added and not published is there at the next opening.

    Raises:
        DatasetError: it cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatasetError(f"cannot write below {path.parent}: {error.strerror}", hint=_HINT) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield Refuse(f"another command writes {path}", "wait for its end, or name another file with --out")
            return
        with _begun(path, anew=anew) as file:
            yield MadeFile(path, file, *_rows(_part(path)))
    finally:
        os.close(lock)


def rows_in(path: Path) -> tuple[list[tuple[int, Made | Refuse]], str | None]:
    """The rows of a published file with their lines, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        return [], f"it cannot be read: {error.strerror}"
    if len(content) > MOST_BYTES:
        return [], f"it is larger than {MOST_BYTES // 1_000_000} MB"
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return [], "it is not text in UTF-8"
    return [(at, made_of(line)) for at, line in enumerate(lines, 1) if line.strip()], None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextmanager
def _begun(path: Path, *, anew: bool) -> Iterator[BinaryIO]:
    part = _part(path)
    try:
        if anew:
            part.unlink(missing_ok=True)
        elif not part.exists() and path.exists():
            # A copy that was cut off must not be taken for what a run left.
            fresh = part.with_suffix(".copy")
            shutil.copyfile(path, fresh)
            fresh.replace(part)
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
    except OSError as error:
        raise DatasetError(f"cannot write {part}: {error.strerror}", hint=_HINT) from error
    with file:
        # The line at which a run was killed.
        content = part.read_bytes()
        os.ftruncate(file.fileno(), content.rfind(b"\n") + 1)
        yield file


def _rows(part: Path) -> tuple[list[Made], int]:
    found, wrong = rows_in(part)
    if wrong is not None:
        raise DatasetError(f"{part} cannot be added to: {wrong}", hint="move it away, or give --anew")
    rows = [row for _, row in found if isinstance(row, Made)]
    return rows, len(found) - len(rows)


def _give_to_owner(descriptor: int, folder: Path) -> None:
    # Written by root it still is the daemon's to read.
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
