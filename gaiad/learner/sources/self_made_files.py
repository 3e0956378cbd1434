"""Where the sources of the base's own making find their files, and which of the rows there may count at all.

Reads files; whether a row's text is good enough is decided by each source, anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gaiad.curriculum import SourceSpec
from gaiad.errors import CurriculumError, Refuse
from gaiad.learner.made_file import rows_in
from gaiad.learner.self_made import PARAPHRASES, REPLIES, SELF_INSTRUCT, SELF_MADE, SELF_REPLAY, Base, Made
from gaiad.learner.sources.source import Gathered, Ground, Refused

OF_ANOTHER_BASE = "another base model said it"


@dataclass(frozen=True, slots=True)
class Row:
    """A row that passed when it was made, and its provenance."""

    made: Made
    origin: str


def owners_file(folder: Path, kind: str, adapter: str) -> Path:
    """Where the owner's folder holds what this kind of source reads."""
    return folder / adapter / PARAPHRASES if kind == SELF_INSTRUCT else folder / REPLIES


def file_of(source: SourceSpec, ground: Ground) -> Path | None:
    """The file that the source reads: that of the option `file`, from the curriculum's folder, else the owner's if any.

    Raises:
        CurriculumError: the option is no file's name, or there are others.
    """
    file = source.options.get("file")
    if set(source.options) - {"file"} or not isinstance(file, str | None) or file == "":
        raise CurriculumError(
            f"sources: {source.kind} {source.name!r} has {dict(source.options)!r}", hint="it may have `file`, a name"
        )
    if file is not None:
        return ground.folder / file
    return owners_file(ground.self_made, source.kind, ground.curriculum.adapter) if ground.self_made else None


def is_absent(source: SourceSpec, ground: Ground) -> bool:
    """Whether it is a source of this kind, and nothing is there for it to read."""
    if source.kind not in SELF_MADE:
        return False
    path = file_of(source, ground)
    return path is None or not is_there(path)


def is_there(path: Path) -> bool:
    """Whether a file may be there; why one cannot be looked at is told when it is read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def nothing(source: SourceSpec, path: Path | None) -> Gathered:
    """What a source gives that has no file: nothing, and a reason where it should have one."""
    if source.optional:
        return Gathered(())
    command = {SELF_INSTRUCT: "propose ADAPTER", SELF_REPLAY: "replay"}[source.kind]
    where = str(path) if path else "no folder of what the base made is named, and no `file`"
    return Gathered((), (Refused(where, f"there is nothing to read; gaiadctl curriculum {command} makes it"),))


def kept_rows(path: Path, base: str) -> Iterator[Row | Refused]:
    """The rows that passed when they were made, in the file's order, and what of the file cannot be used."""
    rows, wrong = rows_in(path)
    if wrong is not None:
        yield Refused(str(path), wrong)
    for line, made in rows:
        place = f"{path.name}/{line}"
        if isinstance(made, Refuse):
            yield Refused(place, made.reason)
        elif made.is_kept and base and not made.base.is_same(Base(base)):
            yield Refused(place, f"{OF_ANOTHER_BASE}, {made.base.served}")
        elif made.is_kept:
            yield Row(made, f"base:{made.base.served}#{place}")
