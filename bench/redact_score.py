"""What the rules of redaction find of the tables that were written without sight of them.

    python -m bench.redact_score [--misses]

The third table is parted by a rule that nobody chooses by: a line whose SHA-256 is even may be looked at when rules are
mended, one whose SHA-256 is odd is only ever counted. So what is found of the odd half is what may be expected of texts
that nobody has seen. The fourth, written when the rules were as they are, is counted whole. `--misses` prints what is
wrong in the even half, and no line of the odd one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules

TABLES = Path(__file__).resolve().parents[1] / "tests" / "tables" / "redact"
THIRD = "third.jsonl"


@dataclass(frozen=True, slots=True)
class Score:
    """Secrets that lines have and of which nothing whole is left; replacements, and those a line has a secret for."""

    secrets: int
    found: int
    replaced: int
    right: int

    @property
    def recall(self) -> float:
        """The share of the secrets that was found."""
        return self.found / self.secrets

    @property
    def precision(self) -> float:
        """The share of the replacements that a line has a secret for."""
        return self.right / self.replaced


@dataclass(frozen=True, slots=True)
class Look:
    """One line, and what is wrong with it after scrubbing: secrets that are left, replacements too many."""

    text: str
    cleaned: str
    secrets: int
    left: tuple[str, ...]
    replaced: int

    @property
    def extra(self) -> int:
        """How many replacements there are beyond the line's secrets."""
        return max(0, self.replaced - self.secrets)


def lines(name: str) -> list[str]:
    """The lines of a table."""
    return [line for line in (TABLES / name).read_text("utf-8").split("\n") if line]


def is_open(line: str) -> bool:
    """Whether a line of the third table may be looked at to mend rules by it."""
    return hashlib.sha256(line.encode()).digest()[-1] % 2 == 0


def looks(scrubber: Scrubber, rows: Iterable[str]) -> list[Look]:
    """Each line after scrubbing."""
    found = []
    for line in rows:
        row = json.loads(line)
        scrubbed = scrubber.scrub(row["text"], "c")
        cleaned, values = str(scrubbed.value), [secret["value"] for secret in row["secrets"]]
        left = tuple(value for value in values if value in cleaned)
        found.append(Look(row["text"], cleaned, len(values), left, sum(scrubbed.counts.values())))
    return found


def score(found: Sequence[Look]) -> Score:
    """Lines together."""
    secrets, left = sum(look.secrets for look in found), sum(len(look.left) for look in found)
    replaced, extra = sum(look.replaced for look in found), sum(look.extra for look in found)
    return Score(secrets, secrets - left, replaced, replaced - extra)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and print one table; with `--misses`, what is wrong in the open half before it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--misses", action="store_true", help="print what is wrong in the third table's open half")
    options = parser.parse_args(arguments)
    scrubber, third = Scrubber(shipped_rules(), b"k" * 32), lines(THIRD)
    if options.misses:
        for look in looks(scrubber, filter(is_open, third)):
            if look.left or look.extra:
                print(f"left: {list(look.left)}, too many: {look.extra}\n{look.text!r}\n{look.cleaned!r}\n")
    parts = {
        "first": lines("table.jsonl"),
        "second": lines("second.jsonl"),
        "third, open half": [line for line in third if is_open(line)],
        "third, counted half": [line for line in third if not is_open(line)],
        "fourth": lines("fourth.jsonl"),
    }
    print(f"{'':20}{'lines':>7}{'secrets':>9}{'found':>7}{'recall':>9}{'replaced':>10}{'right':>7}{'precision':>11}")
    for name, rows in parts.items():
        it = score(looks(scrubber, rows))
        counts = f"{len(rows):7}{it.secrets:9}{it.found:7}{it.recall:9.1%}{it.replaced:10}{it.right:7}"
        print(f"{name:20}{counts}{it.precision:11.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
