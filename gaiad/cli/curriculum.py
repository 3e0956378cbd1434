"""`gaiadctl curriculum`: looks at curricula without a daemon. Imports the learner's parts only when run.

What builds datasets stands in `cli.build`, what looks into them in `cli.dataset`, what asks the base model in
`cli.self_made`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gaiad.cli import build, dataset, self_made
from gaiad.cli.command import Context, Subcommands, absolute, add, add_group
from gaiad.cli.output import DONE, FAILED, brief, table
from gaiad.errors import CurriculumError


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `curriculum list|validate|schema|import|build|show|sample|diff`."""
    group = add_group(commands, "curriculum", "Validate curricula and build their datasets, without a daemon.")
    listing = add(group, common, "list", _list, "List the curricula with their sources and sizes.")
    listing.add_argument("--curricula", metavar="DIR", help=dataset.ROOT_HELP)
    validate = add(group, common, "validate", _validate, "Check curricula and name every mistake with its path.")
    validate.add_argument("names", nargs="*", metavar="NAME", help=dataset.NAME_HELP + "; all where none is given")
    validate.add_argument("--curricula", metavar="DIR", help=dataset.ROOT_HELP)
    add(group, common, "schema", _schema, "Print the JSON Schema that a curriculum.json must fit.")
    bring = add(group, common, "import", _import, "Make a curriculum of GAIA's earlier form of spec.")
    bring.add_argument("file", metavar="FILE", help="has training_config or hyperparameters")
    bring.add_argument("--curricula", metavar="DIR", help="write DIR/ADAPTER/curriculum.json (default: only show it)")
    build.register(group, common)
    dataset.register(group, common)
    self_made.register(group, common)


def _schema(args: argparse.Namespace, context: Context) -> int:
    from gaiad.curriculum import SCHEMA

    return context.terminal.show(SCHEMA, json.dumps(SCHEMA, indent=2))


def _import(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.earlier_spec import import_spec

    source = absolute(args.file)
    try:
        found = import_spec(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CurriculumError(f"cannot read {source}: {error}", hint="name a file with the earlier spec") from error
    text = json.dumps(found.spec, ensure_ascii=False, indent=2) + "\n"
    path = absolute(args.curricula) / str(found.spec["adapter"]) / "curriculum.json" if args.curricula else None
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise CurriculumError(
                f"cannot write {path}: {error}", hint="name another folder, or move it away"
            ) from error
    answer = {
        "adapter": found.spec["adapter"],
        "path": str(path) if path else None,
        "spec": found.spec,
        "lost": list(found.lost),
        "assumed": list(found.assumed),
    }
    told = [
        f"written: {path}" if path else text,
        "not carried over:",
        *(f"  {one}" for one in found.lost or ("nothing",)),
    ]
    told += ["assumed, as it does not say:", *(f"  {one}" for one in found.assumed or ("nothing",))]
    return context.terminal.show(answer, "\n".join(told))


def _list(args: argparse.Namespace, context: Context) -> int:
    rows: list[dict[str, object]] = []
    for folder in dataset.all_folders(args.curricula):
        try:
            rows.append(_row(folder))
        except CurriculumError as error:
            rows.append(
                {
                    "adapter": folder.name,
                    "folder": str(folder),
                    "trouble": f"cannot be used: {error.message.rpartition('curriculum.json: ')[2]}",
                }
            )
    cells = [
        (
            row["adapter"],
            row.get("version"),
            row.get("profiles"),
            row.get("train"),
            row.get("held_out"),
            brief(row.get("trouble") or row.get("purpose"), 70),
        )
        for row in rows
    ]
    shown = [(name, version, _joined(profiles), *rest) for name, version, profiles, *rest in cells]
    head = ("adapter", "version", "profiles", "train", "held out", "purpose")
    return context.terminal.show({"curricula": rows}, table(head, shown))


def _joined(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) else ""


def _row(folder: Path) -> dict[str, object]:
    from gaiad.curriculum import profiles_of
    from gaiad.learner.sources import catalogue

    names = profiles_of(catalogue.spec_text(folder))
    curriculum = catalogue.load_curriculum(folder, "full" if "full" in names or not names else names[0])
    return {
        "adapter": str(curriculum.adapter),
        "version": curriculum.version,
        "profiles": names,
        "purpose": curriculum.purpose,
        "stages": list(curriculum.stages),
        "train": curriculum.split.train,
        "validation": curriculum.split.validation,
        "held_out": curriculum.split.heldout,
        "sources": [{"name": one.name, "kind": one.kind, "target": one.target} for one in curriculum.sources],
        "folder": str(folder),
    }


def _validate(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.sources import catalogue

    folders = [dataset.folder_of(name, args.curricula) for name in args.names] or dataset.all_folders(args.curricula)
    found = {folder: catalogue.problems_in(folder) for folder in folders}
    rows = [{"adapter": folder.name, "valid": not wrong, "problems": wrong} for folder, wrong in found.items()]
    lines = []
    for folder, wrong in found.items():
        lines += [f"{folder.name}: {f'{len(wrong)} mistakes' if wrong else 'valid'}", *(f"  {one}" for one in wrong)]
    context.terminal.show({"curricula": rows}, "\n".join(lines))
    return FAILED if any(found.values()) else DONE
