"""What `gaiadctl` prints: tables for people, JSON for programs, and the exit codes.

Pure text but for the print at the end. Decides no colours and no terminal tricks except one line that progress
rewrites in place.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from gaiad.errors import GaiadError, Refuse

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
DONE, FAILED, USAGE, REFUSED, NO_DAEMON, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass
class Terminal:
    """Where answers go, and in which form. `now` is wall-clock seconds, for ages."""

    as_json: bool
    now: float
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def show(self, answer: Mapping[str, object] | Sequence[object], text: str) -> int:
        """Print the answer as JSON or as `text`; the exit code is DONE."""
        print(as_json(answer, self.out, indent=2) if self.as_json else printable(text, self.out), file=self.out)
        return DONE

    def refused(self, refusal: Refuse) -> int:
        """Say that the daemon refused, and what to try."""
        return self._problem(REFUSED, "refused", refusal.reason, refusal.hint)

    def failed(self, error: GaiadError, code: int) -> int:
        """Say what failed, and what to try."""
        return self._problem(code, "gaiadctl", error.message, error.hint)

    def _problem(self, code: int, who: str, message: str, hint: str) -> int:
        if self.as_json:
            print(as_json({"error": {"message": message, "hint": hint}}, self.out), file=self.out)
        print(printable(sentence(who, message, hint), self.err), file=self.err)
        return code


def printable(text: str, out: TextIO) -> str:
    """The text with what `out` cannot write (halves of characters, a small character set) in escapes.

    So is what would move the cursor or speak to the terminal: much of what is shown was said by strangers.
    """
    encoding = out.encoding or "utf-8"
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def as_json(answer: object, out: TextIO, indent: int | None = None) -> str:
    """The answer as JSON that `out` can write, on one line unless told otherwise."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False)
    # The escapes of JSON itself, where any are needed: the result stays JSON.
    return text if printable(text, out) == text else json.dumps(answer, indent=indent)


def sentence(who: str, message: str, hint: str) -> str:
    """One line: who, what happened, what to try."""
    text = f"{who}: {' '.join(message.split()).rstrip('.')}."
    return f"{text} Try: {' '.join(hint.split())}" if hint else text


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns two spaces apart, a dash for what is empty; only the head where there are no rows."""
    cells = [[*head], *([_cell(value) for value in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join("  ".join(map(_padded, row, widths)).rstrip() for row in cells)


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A label and a text a line; rows without a text are left out."""
    kept = [(label, " ".join(text.split())) for label, text in rows if text]
    width = max((_width(label) for label, _ in kept), default=0)
    return "\n".join(f"{_padded(label, width)}  {text}" for label, text in kept)


def bar(share: float, width: int = 24) -> str:
    """A progress bar of `width` cells; shares outside 0..1 are clipped."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "[" + "#" * full + "." * (width - full) + "]"


def span(seconds: float) -> str:
    """A duration as people say it: `40 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 100 * 60:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def age(at: object, now: float) -> str:
    """How long ago a wall-clock moment was, or an empty text for none."""
    return f"{span(now - at)} ago" if isinstance(at, int | float) else ""


def brief(text: object, width: int = 100) -> str:
    """A reason cut to a table's measure; `--json` has the whole."""
    words = " ".join(str(text or "").split())
    return words if len(words) <= width else words[: width - 3].rstrip() + "..."


def amount(value: float, unit: str) -> str:
    """A large figure with its prefix and three digits: `1.24 TFLOP/s`."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def percent(share: object) -> str:
    """A share of 0..1 as per cent with one decimal, or an empty text for none."""
    return f"{share * 100:.1f}%" if isinstance(share, int | float) else ""


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    # 1. Whatever the daemon was told must not move the cursor or break the table.
    return "".join(char if char.isprintable() else " " for char in str(value))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
