"""What a run came to, and its closing table. Touches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.load.canary_ledger import Ledger, Place, Verdict
from bench.load.canary_places import Look
from bench.load.canary_plan import How, Stance
from bench.load.canary_rows import Rows

_MIB = 1024 * 1024


@dataclass(slots=True)
class Proof:
    """What a run came to. `learned` are the exchanges in the dataset of each life's cycle."""

    ledger: Ledger
    looks: list[Look] = field(default_factory=list)
    rows: Rows = field(default_factory=Rows)
    learned: list[int] = field(default_factory=list)
    planted: int = 0
    wrong: list[str] = field(default_factory=list)
    requests_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong, and there was something to lose on either side."""
        at_stake = self.rows.kept and self.rows.bare and self.rows.corrections and self.planted and all(self.learned)
        return not self.wrong and bool(at_stake)

    @property
    def stray(self) -> int:
        """How many canaries were found where they may not be, each counted once for each place and look."""
        return sum(len(look.stray) for look in self.looks)


def table(proof: Proof) -> list[str]:
    """The figures, then all that is wrong."""
    return [*_summary(proof), "", *_by_stance(proof), "", *_by_place(proof), *_wrong(proof)]


def _summary(proof: Proof) -> list[str]:
    ledger, rows = proof.ledger, proof.rows
    hows = Counter(request.how for request in ledger.requests.values())
    verdicts = Counter(ledger.verdicts.values())
    secrets = sum(1 for request in ledger.requests.values() if request.secret is not None)
    figures = [
        ("requests", f"{len(ledger.requests):,} by {len(ledger.people):,} people in {proof.requests_s:.0f} s"),
        ("of which broken off by the client", f"{hows[How.ABORT] + hows[How.HALF_SENT]:,}"),
        ("of which failing in the engine", f"{hows[How.FAIL] + hows[How.REFUSE] + hows[How.BREAK]:,}"),
        ("of which with a secret inside", f"{secrets:,}"),
        ("kept, compared field by field", f"{len(rows.kept):,} ({verdicts[Verdict.MUST]:,} had to be)"),
        ("rows without content", f"{rows.bare:,}"),
        ("corrections kept", f"{rows.corrections:,}"),
        ("corrections in the datasets of the cycles", ", ".join(f"{count:,}" for count in proof.learned)),
        ("planted, and found by the same search", f"{proof.planted}"),
        ("found where they may not be", f"{proof.stray}"),
        ("lost, changed, or in another field", f"{len(proof.wrong) - sum(len(look.wrong) for look in proof.looks)}"),
        ("the whole of it", f"{proof.elapsed_s:.0f} s"),
    ]
    return [f"{title:44}{value}" for title, value in figures]


def _by_stance(proof: Proof) -> list[str]:
    ledger, last = proof.ledger, proof.looks[-1]
    lines = [_row("consent", "people", "requests", "must", "may", "never", "found", "stray")]
    stray = Counter(ledger.stance_of(canary) for look in proof.looks for _, _, canary in look.stray)
    for stance in Stance:
        numbers = [number for number, one in ledger.requests.items() if ledger.people[one.person].stance is stance]
        verdicts = Counter(ledger.verdicts[number] for number in numbers)
        people = sum(1 for person in ledger.people if person.stance is stance)
        counts = (people, len(numbers), *(verdicts[verdict] for verdict in Verdict))
        lines.append(_row(stance.value, *map(_told, (*counts, last.stances[stance.value], stray[stance]))))
    return lines


def _by_place(proof: Proof) -> list[str]:
    lines = []
    for look in proof.looks:
        lines.append(_row(f"place, {look.when}", "MiB", "found", "torn", "stray"))
        for place in Place:
            seen = look.places.get(place)
            if seen is None:
                continue
            torn = sum(1 for canary in seen.canaries if canary.is_torn)
            stray = sum(1 for where, _, _ in look.stray if where is place)
            lines.append(_row(place.value, f"{seen.size / _MIB:.1f}", *map(_told, (len(seen.canaries), torn, stray))))
    return lines


def _wrong(proof: Proof) -> Iterable[str]:
    return ["", *proof.wrong] if proof.wrong else []


def _row(title: str, *values: str) -> str:
    return f"{title:36}" + "".join(f"{value:>11}" for value in values)


_told: Callable[[int], str] = "{:,}".format


def as_json(proof: Proof) -> dict[str, object]:
    """The figures for machines."""
    ledger = proof.ledger
    looks = [
        {
            "when": look.when,
            "places": {place: {"bytes": seen.size, "found": len(seen.canaries)} for place, seen in look.places.items()},
            "stray": len(look.stray),
        }
        for look in proof.looks
    ]
    return {
        "requests": len(ledger.requests),
        "people": len(ledger.people),
        "verdicts": dict(Counter(verdict.name.lower() for verdict in ledger.verdicts.values())),
        "kept": len(proof.rows.kept),
        "bare": proof.rows.bare,
        "corrections": proof.rows.corrections,
        "learned": proof.learned,
        "planted": proof.planted,
        "looks": looks,
        "wrong": proof.wrong,
        "requests_s": proof.requests_s,
        "elapsed_s": proof.elapsed_s,
        "holds": proof.holds,
    }
