"""The source `jsonl`: training rows of the owner's, or of an earlier system, as they are.

Reads one file of JSON lines or one JSON list. A row that cannot be used is refused by its line, a file by its name.
Options of the source: `file` (required; in the curriculum's folder, or a link there, so that a change is noticed) and
`stage` (for rows that name none; the exam's stage where absent).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gaiad.curriculum import Json, SourceSpec
from gaiad.errors import CurriculumError, Refuse
from gaiad.learner.example import Example
from gaiad.learner.sources.rows import Place, example_of
from gaiad.learner.sources.source import Gathered, Ground, Refused

KIND = "jsonl"
MOST_BYTES = 32_000_000
MOST_ROWS = 100_000

_OPTIONS = ("file", "stage")


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Read the rows in the file's order.

    Raises:
        CurriculumError: where an option is wrong.
    """
    file, stage = source.options.get("file"), source.options.get("stage", ground.curriculum.exam.stage)
    unknown = sorted(set(source.options) - set(_OPTIONS))
    if unknown or not isinstance(file, str) or not file or stage not in ground.curriculum.stages:
        raise CurriculumError(
            f"sources: {KIND} {source.name!r} needs `file`, may have `stage` (one of "
            f"{', '.join(ground.curriculum.stages)}) and has {dict(source.options)!r}",
            hint="mend the options",
        )
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise CurriculumError(
            f"sources: {KIND} {source.name!r} reads {file!r}, outside the curriculum's folder",
            hint="put the file there, or a link to it",
        )
    path = ground.folder / file
    text = _text(path)
    if isinstance(text, Refused):
        # Where the owner has put nothing there yet, an optional source is given nothing.
        return Gathered(()) if source.optional and not path.exists() else Gathered((), (text,))
    examples: list[Example] = []
    refused: list[Refused] = []
    for line, row in _rows(text):
        place = Place(source.name, file, line, str(stage))
        found = row if isinstance(row, Refuse) else example_of(row, place, ground.curriculum)
        if isinstance(found, Refuse):
            refused.append(Refused(place.origin, found.reason))
        else:
            examples.append(found)
    return Gathered(tuple(examples), tuple(refused))


def _text(path: Path) -> str | Refused:
    try:
        if not path.is_file():
            return Refused(str(path), "there is no such file")
        if (size := path.stat().st_size) > MOST_BYTES:
            return Refused(
                str(path), f"it has {size // 1_000_000} MB, above the {MOST_BYTES // 1_000_000} that are read"
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return Refused(str(path), "it is not text in UTF-8")
    except OSError as error:
        return Refused(str(path), f"it cannot be read: {error.strerror}")


def _rows(text: str) -> Iterator[tuple[int, Json | Refuse]]:
    """Each row with its line, in a list its number; at most so many."""
    if text.lstrip().startswith("["):
        whole = _parsed(text)
        rows = [whole] if isinstance(whole, Refuse) or not isinstance(whole, list) else whole
        numbered = list(enumerate(rows, 1))
    else:
        # JSON's own texts may hold other line ends, unescaped.
        lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
        numbered = [(at, _parsed(line)) for at, line in lines[: MOST_ROWS + 1]]
    yield from numbered[:MOST_ROWS]
    if len(numbered) > MOST_ROWS:
        yield numbered[MOST_ROWS][0], Refuse(f"it and all after it: no more than {MOST_ROWS} rows are read")


def _parsed(text: str) -> Json | Refuse:
    try:
        found: Json = json.loads(text)
    except (ValueError, RecursionError):
        return Refuse("it is no JSON")
    return found
