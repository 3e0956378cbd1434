"""Frozen datasets on the disk, as what holds exchanges: which of them stand in which, and how they are removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gaiad.learner.dataset import EXCHANGE_ORIGIN


def datasets(root: Path) -> list[Path]:
    """The folders of frozen datasets, and what a build that was cut off left."""
    return sorted(path for path in root.glob("*") if path.is_dir()) if root.is_dir() else []


def datasets_with(root: Path, ids: frozenset[str]) -> list[Path]:
    """Those in which one of the exchanges stands."""
    return [folder for folder in datasets(root) if not ids.isdisjoint(exchanges_in(folder))] if ids else []


def exchanges_in(folder: Path) -> Iterator[str]:
    """The request ids of the exchanges that a dataset's examples were made of."""
    for file in sorted(folder.glob("*.jsonl")):
        # A line that was cut off in writing may end within a character.
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                # Only lines that name an exchange are worth reading.
                if EXCHANGE_ORIGIN in line:
                    origin = str(read_object(line).get("origin"))
                    if origin.startswith(EXCHANGE_ORIGIN):
                        yield origin.removeprefix(EXCHANGE_ORIGIN)


def remove(folders: Sequence[Path]) -> None:
    """Remove folders with all that is in them."""
    for folder in folders:
        shutil.rmtree(folder)


def read_object(line: str) -> Mapping[str, object]:
    """The object that a line holds; of one that was cut off, what it says of where it comes from."""
    try:
        found = json.loads(line)
    except ValueError:
        # A line that was cut off in writing: it names what it names.
        start = line.find(f'"origin": "{EXCHANGE_ORIGIN}')
        return {"origin": line[start:].split('"')[3]} if start >= 0 else {}
    return found if isinstance(found, dict) else {}
