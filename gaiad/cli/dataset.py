"""`gaiadctl curriculum build|show|sample|diff`: makes datasets and looks into them, without a daemon."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gaiad.cli.command import Context, Subcommands, absolute, add
from gaiad.cli.output import Terminal, bar, pairs, table
from gaiad.errors import CurriculumError, DatasetError

if TYPE_CHECKING:
    from gaiad.learner.dataset import Dataset, Example

NAME_HELP = "a folder that holds curriculum.json, or the name of a shipped one"
ROOT_HELP = "holds a folder for each adapter (default: the shipped ones)"
DEFAULT_OUT = "var/datasets"
SPLITS = {"train": "train", "validation": "validation", "held_out": "heldout"}
"""The splits as people name them, and as the dataset does."""

Card: TypeAlias = Mapping[str, Any]


def register(group: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add the four commands to the group `curriculum`."""
    build = add(group, common, "build", _build, "Build datasets: check them, count them, and write each to a folder.")
    build.add_argument("names", nargs="*", metavar="NAME", help=NAME_HELP)
    build.add_argument("--all", action="store_true", help="every curriculum")
    build.add_argument("--out", metavar="DIR", default=DEFAULT_OUT, help=f"where to (default: {DEFAULT_OUT})")
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
    for parser in (build, show, sample, diff):
        parser.add_argument("--profile", default="full", metavar="P", help="the curriculum's profile (default: full)")
        parser.add_argument("--curricula", metavar="DIR", help=ROOT_HELP)
        parser.add_argument("--documents", action="append", metavar="PATH", help="own Markdown, file or folder")
        parser.add_argument("--registry", action="append", metavar="R", help="own tools: JSON or module:attribute")
        parser.add_argument(
            "--self-made", metavar="DIR", help="what the base itself made: see `curriculum propose` and `replay`"
        )
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


def _built(folder: Path, args: argparse.Namespace) -> Dataset:
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
    )


def _opened(name: str, args: argparse.Namespace) -> Dataset:
    """A dataset from its folder, or built now."""
    from gaiad.learner.sources import catalogue

    if (absolute(name) / "card.json").is_file():
        return catalogue.load_frozen(absolute(name).resolve())
    return _built(folder_of(name, args.curricula), args)


# --- Building ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    adapter: str
    digest: str
    train: int
    validation: int
    held_out: int
    path: str
    profile: str
    seconds: float
    card: Card

    def to_json(self) -> dict[str, object]:
        names = ("adapter", "digest", "train", "validation", "held_out", "path", "profile")
        return {**{name: getattr(self, name) for name in names}, "card": dict(self.card)}


def _build(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.sources import catalogue

    if bool(args.names) == args.all:
        raise CurriculumError("nothing says what to build", hint="name curricula, or give --all")
    folders = all_folders(args.curricula) if args.all else [folder_of(name, args.curricula) for name in args.names]
    out = absolute(args.out)
    progress = Progress(context.terminal, len(folders))
    rows, failures = [], []
    for number, folder in enumerate(folders):
        progress.show(number, f"building {folder.name}")
        began = time.monotonic()
        try:
            dataset = _built(folder, args)
            path = catalogue.freeze(dataset, out)
        except (CurriculumError, DatasetError) as error:
            # Those that can be built are; what is wrong with the others is said at the end, all at once.
            failures.append(f"{folder.name}: {error.message} (try: {error.hint})")
            continue
        rows.append(_row(dataset, path, args.profile, time.monotonic() - began))
    progress.show(len(folders), "done")
    if rows or not failures:
        context.terminal.show([row.to_json() for row in rows], _summary(rows))
    if failures:
        raise DatasetError(
            f"{len(failures)} of {len(folders)} could not be built: {'; '.join(failures)}",
            hint="mend these and build again",
        )
    return 0


def _row(dataset: Dataset, path: Path, profile: str, seconds: float) -> _Row:
    sizes = (len(dataset.train), len(dataset.validation), len(dataset.heldout))
    return _Row(str(dataset.card["adapter"]), dataset.digest, *sizes, str(path), profile, seconds, dataset.card)


def _summary(rows: Sequence[_Row]) -> str:
    cells = [
        (row.adapter, row.train, row.validation, row.held_out, f"{row.seconds:.1f} s", row.digest[:12]) for row in rows
    ]
    places = [f"{row.adapter}: {row.path} (look at card.html)" for row in rows]
    return "\n".join([table(("adapter", "train", "validation", "held out", "took", "digest"), cells), "", *places])


class Progress:
    """One line that is rewritten on a terminal; elsewhere nothing, as builds take seconds."""

    def __init__(self, terminal: Terminal, total: int) -> None:
        self._out, self._total, self._last = terminal.err, total, ""

    def show(self, done: int, what: str) -> None:
        """Show how far it is; the last line is left standing."""
        if not self._out.isatty():
            return
        line = f"{bar(done / self._total)} {done}/{self._total} {what}"
        end = "\n" if done == self._total else ""
        print(f"\r{line:<{len(self._last)}}", end=end, file=self._out, flush=True)
        self._last = line


# --- Looking ----------------------------------------------------------------------------------------------------


def _show(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.diversity import Diversity

    card = _opened(args.name, args).card
    figures = [(key, _said(card[key])) for key in card if not isinstance(card[key], dict | list)]
    parts = [pairs(figures)]
    for key in ("counts", "groups", "sources", "dropped"):
        parts.append(f"\n{key}: {_said(card.get(key))}")
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
