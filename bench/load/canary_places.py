"""What the search found where, what of it may not be there, and whether it would have found it.

Looks through a run's folder file by file. What may lie where is `canary_ledger`'s to say.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.canary import FORMS, Canary, Flock, Kind, as_json_escapes, secret_text
from bench.load.canary_bodies import Slot
from bench.load.canary_ledger import Ledger, Place, Verdict
from bench.load.canary_search import Search, Seen

MOST_LINES = 20


@dataclass(slots=True)
class Look:
    """One look through everything: what each place holds, and what strayed there."""

    when: str
    places: dict[Place, Seen] = field(default_factory=dict)
    stray: list[tuple[Place, str, Canary]] = field(default_factory=list)
    stances: Counter[str] = field(default_factory=Counter)

    @property
    def wrong(self) -> list[str]:
        """A line for each stray canary, as far as they can be read by anybody."""
        lines = [f"{self.when}: {name} has {_named(canary)}" for _, name, canary in self.stray[:MOST_LINES]]
        rest = len(self.stray) - len(lines)
        return [*lines, f"{self.when}: and {rest} more"] if rest else lines


def place_of(path: Path) -> Place:
    """What a file of a run is, by its path in the run's folder."""
    match path.parts:
        case ("state", name) if name.endswith((".db-wal", ".db-shm")):
            return Place.LOG_AHEAD
        case ("state", name) if name.endswith(".db"):
            return Place.DATABASE
        case ("state", "datasets", *_):
            return Place.DATASETS
        case ("state", "runs" | "adapters", *_):
            return Place.RUNS
        case ("state", *_):
            return Place.KEYS
        case ("backups", *_):
            return Place.BACKUP
        case ("told", *_):
            return Place.TOLD
        case _:
            return Place.LOGS


def looked(when: str, folder: Path, ledger: Ledger, flock: Flock) -> Look:
    """Look through every file of a run."""
    print(f"canaries: looking through everything {when}", file=sys.stderr)
    look, kept = Look(when), set[Canary]()
    for path, seen in Search(flock).in_tree(folder):
        name = path.relative_to(folder)
        place = place_of(name)
        look.places.setdefault(place, Seen()).add(seen)
        kept |= seen.canaries
        stray = sorted(one for one in seen.canaries if not ledger.may_lie(one, place))
        look.stray += [(place, str(name), one) for one in stray]
    look.stances = Counter(stance.value for one in kept if (stance := ledger.stance_of(one)) is not None)
    return look


def planted(folder: Path, ledger: Ledger, flock: Flock, *, known: Look) -> tuple[int, list[str]]:
    """How much of what nobody agreed to the same search finds in a copy, and a line for each that it misses."""
    copy = folder / "planted"
    for name in ("state", "told"):
        shutil.copytree(folder / name, copy / name)
    try:
        expected = _plant(copy, ledger, flock)
        look = looked("with canaries planted", copy, ledger, flock)
    finally:
        shutil.rmtree(copy)
    before = {(place, canary) for place, _, canary in known.stray}
    found = {(place, canary) for place, _, canary in look.stray} - before
    wrong = [f"planted in {place}, and not found: {_named(canary)}" for place, canary in sorted(expected - found)]
    wrong += [f"not planted in {place}, and found: {_named(canary)}" for place, canary in sorted(found - expected)]
    return len(expected & found), wrong


def _plant(copy: Path, ledger: Ledger, flock: Flock) -> set[tuple[Place, Canary]]:
    """Write one canary in each form, one into a row of the database, and a secret; returns what is to be found."""
    silent = (number for number, verdict in ledger.verdicts.items() if verdict is Verdict.NEVER)
    numbers = [next(silent) for _ in range(len(FORMS) + 1)]
    expected = set()
    with (copy / "state" / "redact.key").open("ab") as file:
        for number, form in zip(numbers, FORMS.values(), strict=False):
            file.write(b" " + form(flock.said(number, Slot.SYSTEM)) + b" ")
            expected.add((Place.KEYS, Canary(Kind.SAID, number, Slot.SYSTEM)))
    with contextlib.closing(sqlite3.connect(copy / "state" / "gaiad.db")) as link, link:
        link.execute(
            "UPDATE exchanges SET finish_reason = ? WHERE request_id = (SELECT min(request_id) FROM exchanges)",
            (flock.said(numbers[-1], Slot.USER),),
        )
    expected.add((Place.DATABASE, Canary(Kind.SAID, numbers[-1], Slot.USER)))
    with_secret = [number for number, asked in ledger.requests.items() if asked.secret is not None]
    with (copy / "told" / "metrics-0.txt").open("ab") as file:
        for number in with_secret[:8]:
            slot = ledger.requests[number].secret or 0
            text = secret_text(flock, number, slot)
            file.write(f" {as_json_escapes(text) if number % 2 else text} ".encode())
            expected.add((Place.TOLD, Canary(Kind.SECRET, number, slot)))
    return expected


def _named(canary: Canary) -> str:
    """A canary in words, without repeating it."""
    if canary.is_torn:
        return f"a torn one ({canary.kind.name.lower()}) of {canary.number}"
    slots = {slot.value: slot.name.lower() for slot in Slot}
    what = "a secret" if canary.kind is Kind.SECRET else slots.get(canary.slot, str(canary.slot))
    return f"{what} ({canary.kind.name.lower()}) of {canary.number}"
