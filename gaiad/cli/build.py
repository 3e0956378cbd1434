"""`gaiadctl curriculum build`: makes datasets, without a daemon, and looks for what they would give away to each other.

A dataset that cannot be trusted by itself is not written. What is only uneven in one is told beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gaiad.cli.command import Context, Subcommands, absolute, add
from gaiad.cli.dataset import NAME_HELP, Card, add_material, all_folders, built, folder_of
from gaiad.cli.output import Terminal, bar, brief, table
from gaiad.errors import CurriculumError, DatasetError

if TYPE_CHECKING:
    from gaiad.learner.dataset import Dataset, Leak

DEFAULT_OUT = "var/datasets"
_SHOWN_LEAKS, _SHOWN_REFUSALS = 5, 20
_WIDTH = 79


def register(group: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add the command to the group `curriculum`."""
    build = add(group, common, "build", _build, "Build datasets: check them, count them, and write each to a folder.")
    build.add_argument("names", nargs="*", metavar="NAME", help=NAME_HELP)
    build.add_argument("--all", action="store_true", help="every curriculum")
    build.add_argument("--out", metavar="DIR", default=DEFAULT_OUT, help=f"where to (default: {DEFAULT_OUT})")
    add_material(build)


@dataclass(frozen=True, slots=True)
class _Row:
    dataset: Dataset
    path: Path
    profile: str
    seconds: float

    @property
    def adapter(self) -> str:
        return str(self.card["adapter"])

    @property
    def card(self) -> Card:
        return self.dataset.card

    @property
    def sizes(self) -> tuple[int, int, int]:
        return len(self.dataset.train), len(self.dataset.validation), len(self.dataset.heldout)

    def to_json(self) -> dict[str, object]:
        sizes = dict(zip(("train", "validation", "held_out"), self.sizes, strict=True))
        named = {"adapter": self.adapter, "digest": self.dataset.digest, **sizes, "path": str(self.path)}
        return {**named, "profile": self.profile, "card": dict(self.card)}


def _build(args: argparse.Namespace, context: Context) -> int:
    if bool(args.names) == args.all:
        raise CurriculumError("nothing says what to build", hint="name curricula, or give --all")
    folders = all_folders(args.curricula) if args.all else [folder_of(name, args.curricula) for name in args.names]
    progress = _Progress(context.terminal, len(folders))
    rows, failures = _rows(folders, args, progress)
    progress.show(len(folders), "looking for what one gives away of another's exam")
    crossing = _crossing(rows)
    progress.show(len(folders), "done", is_last=True)
    if rows or not failures:
        context.terminal.show([row.to_json() for row in rows], _summary(rows))
    if failures:
        raise DatasetError(
            f"{len(failures)} of {len(folders)} could not be built: {'; '.join([*failures, *_told(crossing)])}",
            hint="mend these and build again",
        )
    if crossing:
        raise DatasetError(
            "; ".join(_told(crossing)),
            hint="reword one of each two; adapters that are meant to share requests are built one by one",
        )
    return 0


def _rows(folders: Sequence[Path], args: argparse.Namespace, progress: _Progress) -> tuple[list[_Row], list[str]]:
    """Build and write each that can be; what is wrong with the others is said at the end, all at once."""
    from gaiad.learner.sources import catalogue

    rows: list[_Row] = []
    failures: list[str] = []
    for number, folder in enumerate(folders):
        began = time.monotonic()
        try:
            dataset = built(folder, args, progress.steps_of(number, folder.name))
            path = catalogue.freeze(dataset, absolute(args.out))
        except (CurriculumError, DatasetError) as error:
            failures.append(f"{folder.name}: {error.message} (try: {error.hint})")
            continue
        rows.append(_Row(dataset, path, args.profile, time.monotonic() - began))
    return rows, failures


def _crossing(rows: Sequence[_Row]) -> list[tuple[str, Leak]]:
    """What an adapter would learn that another one's exam asks: whoever takes both would be asked what it has read."""
    from gaiad.learner.dataset import others_exams_in

    datasets: Mapping[str, Dataset] = {row.adapter: row.dataset for row in rows}
    return [
        (name, leak)
        for name, dataset in datasets.items()
        for leak in others_exams_in(dataset, {other: there for other, there in datasets.items() if other != name})
    ]


def _told(crossing: Sequence[tuple[str, Leak]]) -> list[str]:
    if not crossing:
        return []
    shown = [
        f"{name}: {leak.first_origin} is {leak.jaccard:.2f} like {leak.second_origin}"
        for name, leak in crossing[:_SHOWN_LEAKS]
    ]
    more = [f"and {len(crossing) - len(shown)} more"] if len(crossing) > len(shown) else []
    return [f"{len(crossing)} requests to learn from are asked in another adapter's exam: {', '.join([*shown, *more])}"]


def _summary(rows: Sequence[_Row]) -> str:
    cells = [(row.adapter, *row.sizes, f"{row.seconds:.1f} s", row.dataset.digest[:12]) for row in rows]
    places = [f"{row.adapter}: {row.path} (look at card.html)" for row in rows]
    remarks = [f"{row.adapter}: {remark}" for row in rows for remark in _remarks(row.card)]
    lines = [table(("adapter", "train", "validation", "held out", "took", "digest"), cells), "", *places]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def _remarks(card: Card) -> Iterator[str]:
    """What was left out of the owner's material, what could not be kept whole, and what is uneven."""
    refused = card["refused"][:_SHOWN_REFUSALS]
    yield from (f"refused: {one['origin']}: {one['reason']}" for one in refused)
    if (more := card["refused_count"] - len(refused)) > 0:
        yield f"refused: {more} more"
    for source, units in card["kept_whole"].items():
        if "too_few" in units:
            yield f"{source}: what keeps to one split is the {units['unit']}, as there are too few {units['too_few']}s"
    yield from (f"uneven: {one}" for one in card["uneven"])


class _Progress:
    """One line that is rewritten on a terminal; elsewhere, and beside JSON, nothing."""

    def __init__(self, terminal: Terminal, total: int) -> None:
        self._out, self._total, self._last = terminal.err, total, ""
        self._is_shown = terminal.err.isatty() and not terminal.as_json

    def steps_of(self, number: int, name: str) -> Callable[[int, int, str], None]:
        """What the build of one curriculum, the `number`th, tells its steps to."""
        return lambda done, of, what: self.show(number + done / max(1, of), f"{name}: {what}")

    def show(self, done: float, what: str, *, is_last: bool = False) -> None:
        """Show how far it is; the last line is left standing."""
        if not self._is_shown:
            return
        line = brief(f"{bar(done / self._total)} {int(done)}/{self._total} {what}", _WIDTH)
        print(f"\r{line:<{len(self._last)}}", end="\n" if is_last else "", file=self._out, flush=True)
        self._last = line
