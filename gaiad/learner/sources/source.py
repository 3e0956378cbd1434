"""What every source of examples has in common: what it may read, and what it gives back.

A source is a module with a `KIND` and a `load_examples(source, ground)`. It generates or reads its examples, each with
its provenance, always the same ones for the same spec, seed and material; how many of them a dataset takes, and into
which split, is `learner.dataset`'s decision. What it cannot use of the owner's material it refuses by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import gaiad
from gaiad.curriculum import Curriculum, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example


@dataclass(frozen=True, slots=True)
class Ground:
    """What a source may read: its curriculum, the curriculum's own folder, and what the owner adds in the settings.

    `documents` are folders or files of Markdown; `registries` are JSON files of tools, or `module:attribute`;
    `self_made` is the owner's folder of what the base itself made, and `base` the name of the base that learns (""
    where that is not known). `before` are the examples of the sources that stand before, `own_catalogues` theirs.
    """

    curriculum: Curriculum
    folder: Path
    documents: tuple[Path, ...] = ()
    registries: tuple[str, ...] = ()
    self_made: Path | None = None
    base: str = ""
    before: tuple[Example, ...] = ()
    own_catalogues: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refused:
    """A piece of material that was left out: where it stands, and why it cannot be used."""

    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a source gives: its examples in a fixed order, and what it had to leave out.

    `own_catalogues` are the tool catalogues (`dataset.catalogue_of`) that the runtime itself shows, where it has tools.
    """

    examples: tuple[Example, ...]
    refused: tuple[Refused, ...] = ()
    own_catalogues: frozenset[str] = frozenset()


Loader: TypeAlias = Callable[[SourceSpec, Ground], Gathered]
"""Reads or generates one source.

Raises:
    CurriculumError: where the source's options are wrong, or shipped material is missing or contradicts itself.
"""


def shipped_curricula() -> Path:
    """The folder of the curricula that come with gaiad: beside the package, or below `share/` once installed."""
    beside = Path(gaiad.__file__).resolve().parent.parent / "curricula"
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "gaiad" / "curricula"


def material_text(path: Path) -> str:
    """The text of a file that comes with a curriculum.

    Raises:
        CurriculumError: it is not there, cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CurriculumError(f"cannot read {path}: {error}", hint="restore the curriculum's folder") from error
