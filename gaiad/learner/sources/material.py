"""What the files of a source's material look like from outside, so that a change is noticed without reading them.

Touches names, sizes and times of change only. A module is looked for where Python would, and never imported.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from gaiad.config import names_module

MAX_FILES = 20_000
"""Of a folder that holds more, the first ones in order of their names are looked at."""


def signature(places: Sequence[str]) -> str:
    """A digest over `places` (files, folders, or `module:attribute`); an absent one counts as absent."""
    running = hashlib.sha256()
    for place in places:
        running.update(f"{place}\n".encode(errors="surrogateescape"))
        path = _module_file(place.partition(":")[0]) if names_module(place) else Path(place)
        for line in _looks(path) if path is not None else ():
            running.update(f"{line}\n".encode(errors="surrogateescape"))
    return running.hexdigest()


def _looks(path: Path) -> Iterator[str]:
    for count, file in enumerate(_files(path)):
        if count >= MAX_FILES:
            return
        try:
            found = file.stat()
        except OSError:
            yield f"{file}: gone"
        else:
            yield f"{file}: {found.st_size} {found.st_mtime_ns}"


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, inner, names in os.walk(path):
        inner.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _module_file(name: str) -> Path | None:
    """The file of a module, found from package to package; importing it could run anything."""
    places: Sequence[str] | None = None
    parts = name.split(".")
    spec = None
    for depth in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), places)
        if spec is None:
            return None
        places = spec.submodule_search_locations or []
    return Path(spec.origin) if spec is not None and spec.origin else None
