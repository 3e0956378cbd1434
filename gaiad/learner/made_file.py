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
_TOO_LARGE = f"it is larger than {MOST_BYTES // 1_000_000} MB"
_HINT = "name another file, or run this as the user that gaiad runs as"


class MadeFile:
    """One file, open to be added to. `rows` are those that it holds, `unusable` how many lines are no rows.

    `replaces` says whether there is a published file with rows that are not among these.
    """

    def __init__(self, path: Path, file: BinaryIO, rows: list[Made], unusable: int, *, replaces: bool) -> None:
        self.path, self.rows, self.unusable, self.replaces = path, rows, unusable, replaces
        self._file = file

    def add(self, row: Made) -> None:
        """Put a row on the disk; a full disk is an error, and so is a full file, and what was there stays."""
        line = row.line().encode("utf-8", "backslashreplace")
        try:
            if os.fstat(self._file.fileno()).st_size + len(line) > MOST_BYTES:
                raise DatasetError(f"{self.path} is full: {_TOO_LARGE}", hint="name another file with --out")
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DatasetError(f"cannot write {_part(self.path)}: {error.strerror}", hint="make room") from error
        self.rows.append(row)

    def publish(self, *, whole: bool = True) -> bool:
        """Put all rows in the file's place in one step; whether they were. Where there are none, all is as before.

        What `replaces` others waits beside them until it is `whole` and holds a row that is kept; the next opening
        takes it up.
        """
        part = _part(self.path)
        try:
            if not self.rows:
                part.unlink(missing_ok=True)
                return False
            if self.replaces and not (whole and any(row.is_kept for row in self.rows)):
                return False
            part.replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            raise DatasetError(f"cannot write {self.path}: {error.strerror}", hint=_HINT) from error
        return True


@contextmanager
def opened(path: Path, *, anew: bool = False) -> Iterator[MadeFile | Refuse]:
    """Open `path` to add to it, what an earlier run left included; `anew` begins without what there was.

    Gives a refusal where another writes to it. What was added and not published is there at the next opening.

    Raises:
        DatasetError: it cannot be read or written.
    """
    try:
        _make(path.parent)
        lock = _open(path.with_name(f".{path.name}.lock"))
    except OSError as error:
        raise DatasetError(f"cannot write below {path.parent}: {error.strerror}", hint=_HINT) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield Refuse(f"another command writes {path}", "wait for its end, or name another file with --out")
            return
        with _begun(path, anew=anew) as file:
            rows, unusable = _rows(_part(path))
            yield MadeFile(path, file, rows, unusable, replaces=_replaces(path))
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
        return [], _TOO_LARGE
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
        file = os.fdopen(_open(part, os.O_APPEND), "ab")
    except OSError as error:
        raise DatasetError(f"cannot write {part}: {error.strerror}", hint=_HINT) from error
    with file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise _unfit(part, _TOO_LARGE)
        # The line at which a run was killed.
        content = part.read_bytes()
        os.ftruncate(file.fileno(), content.rfind(b"\n") + 1)
        yield file


def _rows(part: Path) -> tuple[list[Made], int]:
    found, wrong = rows_in(part)
    if wrong is not None:
        raise _unfit(part, wrong)
    rows = [row for _, row in found if isinstance(row, Made)]
    return rows, len(found) - len(rows)


def _unfit(part: Path, why: str) -> DatasetError:
    return DatasetError(f"{part} cannot be added to: {why}", hint="move it away, or give --anew")


def _replaces(path: Path) -> bool:
    """Whether there is a file, and what is to come in its place does not begin with all that it holds."""
    try:
        with path.open("rb") as old, _part(path).open("rb") as new:
            held = old.read(MOST_BYTES + 1)
            return new.read(len(held)) != held
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}", hint=_HINT) from error


# --- What root writes still is the daemon's to read -------------------------------------------------------------


def _make(folder: Path) -> None:
    """Make a folder and those above it, each for the owner of the one that it stands in."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            owner = one.parent.stat()
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _open(path: Path, flags: int = 0) -> int:
    """Open a file to read and write, and give it to its folder's owner; a link is none of ours."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
