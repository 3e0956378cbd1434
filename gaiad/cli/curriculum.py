"""`gaiadctl curriculum`: looks at curricula without a daemon. Imports the learner's parts only when run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gaiad.cli.command import Context, Subcommands, absolute, add, add_group
from gaiad.cli.output import pairs
from gaiad.errors import CurriculumError


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `curriculum schema|build`."""
    group = add_group(commands, "curriculum", "Validate curricula and build their datasets, without a daemon.")
    add(group, common, "schema", _schema, "Print the JSON Schema that a curriculum.json must fit.")
    build = add(group, common, "build", _build, "Build a curriculum's dataset, shipped material only.")
    build.add_argument("folder", metavar="FOLDER", help="holds curriculum.json; or the name of a shipped one")
    build.add_argument("--profile", default="full", metavar="P", help="the curriculum's profile (default: full)")
    build.add_argument("--out", metavar="DIR", help="freeze the dataset below DIR (default: only check and count)")


def _schema(args: argparse.Namespace, context: Context) -> int:
    from gaiad.curriculum import SCHEMA

    return context.terminal.show(SCHEMA, json.dumps(SCHEMA, indent=2))


def _build(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.sources import catalogue

    folder = Path(args.folder)
    if not folder.exists():
        folder = catalogue.shipped_curricula() / args.folder
    if not (folder / "curriculum.json").is_file():
        known = ", ".join(sorted(found.name for found in catalogue.curriculum_folders(catalogue.shipped_curricula())))
        raise CurriculumError(f"{args.folder} holds no curriculum.json", hint=f"name a folder or one of: {known}")
    curriculum = catalogue.load_curriculum(folder, args.profile)
    dataset = catalogue.gather(curriculum, folder, [])
    frozen = catalogue.freeze(dataset, absolute(args.out)) if args.out else None
    answer: dict[str, object] = {
        "adapter": curriculum.adapter,
        "profile": curriculum.profile,
        "digest": dataset.digest,
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "heldout": len(dataset.heldout),
        "frozen": str(frozen) if frozen else None,
        "card": dict(dataset.card),
    }
    shown = [(key, str(answer[key])) for key in answer if key != "card" and answer[key] is not None]
    return context.terminal.show(answer, pairs(shown))
