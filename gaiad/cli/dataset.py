"""`gaiadctl curriculum show|sample|diff`: looks into datasets, and builds one on the way, without a daemon."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gaiad.cli.command import Context, Subcommands, absolute, add
from gaiad.cli.output import pairs, table
from gaiad.errors import CurriculumError, DatasetError

if TYPE_CHECKING:
    from gaiad.learner.dataset import Dataset, Example
    from gaiad.learner.sources.catalogue import Tell

NAME_HELP = "a folder that holds curriculum.json, or the name of a shipped one"
ROOT_HELP = "holds a folder for each adapter (default: the shipped ones)"
SPLITS = {"train": "train", "validation": "validation", "held_out": "heldout"}
"""The splits as people name them, and as the dataset does."""

Card: TypeAlias = Mapping[str, Any]


def register(group: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add the three commands to the group `curriculum`."""
    show = add(group, common, "show", _show, "Show what a dataset holds: its data card.")
    show.add_argument("name", metavar="NAME", help=f"a dataset's folder, or {NAME_HELP}, which is built first")
    sample = add(group, common, "sample", _sample, "Show examples of a dataset.")
    sample.add_argument("name", metavar="NAME", help=f"a dataset's folder, or {NAME_HELP}, which is built first")
    sample.add_argument("--split", choices=sorted(SPLITS), default="train", help="which split (default: train)")
    sample.add_argument("--source", metavar="S", help="only of this source")
    sample.add_argument("--group", metavar="G", help="only of groups that begin so")
    sample.add_argument("-n", "--count", type=int, default=5, metavar="N", help="how many (default: 5)")
    diff = add(group, common, "diff", _diff, "Show what differs between two datasets.")
    for name in ("first", "second"):
        diff.add_argument(name, metavar="NAME", help=f"a dataset's folder, or {NAME_HELP}, which is built first")
    for parser in (show, sample, diff):
        add_material(parser)


def add_material(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a dataset is built from."""
    parser.add_argument("--profile", default="full", metavar="P", help="the curriculum's profile (default: full)")
    parser.add_argument("--curricula", metavar="DIR", help=ROOT_HELP)
    parser.add_argument("--documents", action="append", metavar="PATH", help="own Markdown, file or folder")
    parser.add_argument("--registry", action="append", metavar="R", help="own tools: JSON or module:attribute")
    parser.add_argument("--self-made", metavar="DIR", help="what the base itself made: `curriculum propose|replay`")
    parser.add_argument("--tokenizer", metavar="DIR", help="the base model's folder, to measure lengths in tokens")


# --- Finding ----------------------------------------------------------------------------------------------------


def all_folders(root: str | None) -> list[Path]:
    """The folders of all curricula below `root`, or of the shipped ones.

    Raises:
        CurriculumError: there is none.
    """
    from gaiad.learner.sources import catalogue

    place = absolute(root) if root else catalogue.shipped_curricula()
    folders = catalogue.curriculum_folders(place)
    if not folders:
        raise CurriculumError(f"there is no curriculum below {place}", hint="name a folder that holds one an adapter")
    return folders


def folder_of(name: str, root: str | None) -> Path:
    """The folder of one curriculum, given as such or by its adapter's name.

    Raises:
        CurriculumError: naming the known ones.
    """
    folders = all_folders(root)
    known = {folder.name: folder for folder in folders}
    folder = known.get(name, absolute(name))
    if not (folder / "curriculum.json").is_file():
        raise CurriculumError(
            f"{name} holds no curriculum.json", hint=f"name a folder or one of: {', '.join(sorted(known))}"
        )
    return folder


def built(folder: Path, args: argparse.Namespace, tell: Tell | None = None) -> Dataset:
    """Build the dataset of one curriculum as the options say.

    Raises:
        CurriculumError: where the spec or its material cannot be used.
        DatasetError: where the dataset would not be trustworthy.
    """
    from gaiad.config import names_module
    from gaiad.learner.sources import catalogue
    from gaiad.learner.template import ServingTemplate

    curriculum = catalogue.load_curriculum(folder, args.profile)
    return catalogue.gather(
        curriculum,
        folder,
        [],
        documents=[absolute(one) for one in args.documents or ()],
        registries=[one if names_module(one) else str(absolute(one)) for one in args.registry or ()],
        self_made=absolute(args.self_made) if args.self_made else None,
        count=ServingTemplate.load(absolute(args.tokenizer)).count if args.tokenizer else None,
        tell=tell,
    )


def _opened(name: str, args: argparse.Namespace) -> Dataset:
    """A dataset from its folder, or built now."""
    from gaiad.learner.sources import catalogue

    if (absolute(name) / "card.json").is_file():
        return catalogue.load_frozen(absolute(name).resolve())
    return built(folder_of(name, args.curricula), args)


# --- Looking ----------------------------------------------------------------------------------------------------


def _show(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.diversity import Diversity

    card = _opened(args.name, args).card
    figures = [(key, _said(card[key])) for key in card if not isinstance(card[key], dict | list)]
    parts = [pairs(figures)]
    for key in ("counts", "groups", "sources", "dropped"):
        parts.append(f"\n{key}: {_said(card.get(key))}")
    whole = card.get("kept_whole")
    told = whole.items() if isinstance(whole, dict) else ()
    parts += [f"\nkept whole in one split, of {source}: {_said(units)}" for source, units in told]
    uneven = card.get("uneven")
    parts += [f"\nuneven: {one}" for one in (uneven if isinstance(uneven, list) else ())]
    sources: Mapping[str, Mapping[str, object]] = card.get("diversity") or {}  # type: ignore[assignment]
    names = [one.name for one in fields(Diversity)]
    rows = [(source, *(figures_of.get(name) for name in names)) for source, figures_of in sources.items()]
    parts.append("\n" + table(("source", *(name.replace("_", " ") for name in names)), rows))
    return context.terminal.show(card, "\n".join(parts))


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items()) or "none"
    return str(value)


def _sample(args: argparse.Namespace, context: Context) -> int:
    dataset = _opened(args.name, args)
    split: Sequence[Example] = getattr(dataset, SPLITS[args.split])
    of_source = [one for one in split if args.source in (None, one.source)]
    chosen = [one for one in of_source if one.group.startswith(args.group or "")][: max(0, args.count)]
    if not chosen:
        raise DatasetError(
            f"{args.split} has no such example", hint=f"sources: {', '.join(sorted({one.source for one in split}))}"
        )
    rows = [one.to_json() for one in chosen]
    return context.terminal.show({"examples": rows}, "\n\n".join(map(_drawn, chosen)))


def _drawn(one: Example) -> str:
    turns = [f"{message.role}: {message.content}" for message in one.messages]
    rejected = [f"rejected: {one.rejected}"] if one.rejected else []
    expected = [f"expected: {json.dumps(one.expected, ensure_ascii=False)}"] if one.expected else []
    return "\n".join([f"--- {one.source} {one.group} ({one.origin})", *turns, *rejected, *expected])


def _diff(args: argparse.Namespace, context: Context) -> int:
    first, second = _opened(args.first, args), _opened(args.second, args)
    answer: dict[str, object] = {"first": first.digest, "second": second.digest, "same": first.digest == second.digest}
    splits: dict[str, dict[str, object]] = {}
    for name, attribute in SPLITS.items():
        before = {one.key(): one for one in getattr(first, attribute)}
        after = {one.key(): one for one in getattr(second, attribute)}
        both = before.keys() & after.keys()
        splits[name] = {
            "kept": sum(before[key] == after[key] for key in both),
            "changed": sum(before[key] != after[key] for key in both),
            "gone": [before[key].origin for key in before if key not in after],
            "new": [after[key].origin for key in after if key not in before],
        }
    answer["splits"] = splits
    answer["cards"] = _changed(first.card, second.card)
    rows = [
        (name, row["kept"], row["changed"], _count(row["gone"]), _count(row["new"])) for name, row in splits.items()
    ]
    lines = [table(("split", "kept", "changed", "gone", "new"), rows)]
    lines += [f"{name}: {brief_pair}" for name, brief_pair in _lines(answer["cards"])]
    return context.terminal.show(answer, "the two are the same" if answer["same"] else "\n".join(lines))


def _count(found: object) -> int:
    return len(found) if isinstance(found, list) else 0


_COMPARED = ("adapter", "curriculum_version", "curriculum_digest", "profile", "seed", "counts", "sources", "dropped")


def _changed(first: Card, second: Card) -> dict[str, list[object]]:
    return {name: [first.get(name), second.get(name)] for name in _COMPARED if first.get(name) != second.get(name)}


def _lines(cards: object) -> list[tuple[str, str]]:
    found = cards if isinstance(cards, dict) else {}
    return [(name, f"{_said(before)} -> {_said(after)}") for name, (before, after) in found.items()]
