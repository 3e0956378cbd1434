"""Figures over rounds: their medians and ranges, one table, and how the bars fare. Pure: measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.load.targets import CONSENTED, DIRECT, PLAIN, VLLM_ROUTER

Round = Mapping[str, Mapping[str, float]]
"""Target -> figure -> value, of one round."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `added`: what is shown is what the target adds to the direct way in the same round."""

    key: str
    title: str
    digits: int
    added: bool = False


FIGURES = (
    Figure("request_cpu_us", "CPU us a request", 1),
    Figure("chunk_cpu_us", "CPU us a streamed chunk", 1),
    Figure("requests_per_s", "requests/s, one core", 0),
    Figure("paced_p50_ms", "p50 ms at 50 requests/s", 2, added=True),
    Figure("paced_p99_ms", "p99 ms at 50 requests/s", 2, added=True),
    Figure("steady_p50_ms", "first token p50 ms, 64 streams", 2, added=True),
    Figure("steady_p99_ms", "first token p99 ms, 64 streams", 2, added=True),
    Figure("arriving_p50_ms", "first token p50 ms, 200 streams/s", 2, added=True),
    Figure("arriving_p99_ms", "first token p99 ms, 200 streams/s", 2, added=True),
    Figure("rss_mb", "memory MB", 0),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure of one target over the rounds."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    def said(self, digits: int, sign: str = "") -> str:
        """The median, and the range where there was more than one round."""
        middle = f"{self.median:{sign},.{digits}f}"
        if len(self.rounds) < 2:
            return middle
        return f"{middle} ({self.low:,.{digits}f}..{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Bar:
    """What must hold: a figure of `target`, divided by that of `to` where one is named, is at most `limit`."""

    title: str
    key: str
    target: str
    limit: float
    unit: str
    to: str = ""


BARS = (
    Bar("a request, nothing consented, to vllm-router", "request_cpu_us", PLAIN, 1.6, "x", VLLM_ROUTER),
    Bar("a chunk, nothing consented, to vllm-router", "chunk_cpu_us", PLAIN, 1.25, "x", VLLM_ROUTER),
    Bar("a request, everything consented", "request_cpu_us", CONSENTED, 300, " us"),
    Bar("first token's added p99, 200 streams/s, nothing consented", "arriving_p99_ms", PLAIN, 3, " ms"),
    Bar("first token's added p99, 200 streams/s, everything consented", "arriving_p99_ms", CONSENTED, 3, " ms"),
)


def spread(values: Sequence[float]) -> Spread:
    """Median and range."""
    return Spread(statistics.median(values), min(values), max(values), tuple(values))


def over_rounds(rounds: Sequence[Round], target: str, figure: Figure) -> Spread | None:
    """One cell of the table; None where it was not measured."""
    values = [_value(measured, target, figure) for measured in rounds]
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def _value(measured: Round, target: str, figure: Figure) -> float | None:
    value = measured.get(target, {}).get(figure.key)
    if value is None or not figure.added or target == DIRECT:
        return value
    return value - measured[DIRECT][figure.key]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one bar fared; `found` is None where it could not be measured."""

    bar: Bar
    found: Spread | None

    @property
    def holds(self) -> bool | None:
        """Whether the median is within the limit."""
        return None if self.found is None else self.found.median <= self.bar.limit

    def line(self) -> str:
        """One line for people."""
        bar = self.bar
        if self.found is None:
            missing = f"{bar.target} and {bar.to}" if bar.to else bar.target
            return f"{bar.title:62}not measured: it needs {missing}"
        limit = f"{self.found.said(2)}{bar.unit}, bar {bar.limit:g}{bar.unit}"
        over = self.found.median - bar.limit
        return f"{bar.title:62}{limit:44}{'holds' if self.holds else f'missed by {over:.2f}{bar.unit}'}"


def verdicts(rounds: Sequence[Round]) -> list[Verdict]:
    """Each bar against the rounds; a ratio is taken within a round."""
    figures = {figure.key: figure for figure in FIGURES}
    found = []
    for bar in BARS:
        values = []
        for measured in rounds:
            value = _value(measured, bar.target, figures[bar.key])
            base = _value(measured, bar.to, figures[bar.key]) if bar.to else 1.0
            if value is not None and base:
                values.append(value / base)
        found.append(Verdict(bar, spread(values) if values else None))
    return found


def table(rounds: Sequence[Round], targets: Sequence[str]) -> list[str]:
    """The table's lines: a row a figure, a column a target."""
    rows = [["", *targets]]
    for figure in FIGURES:
        row = [f"+ {figure.title}" if figure.added else figure.title]
        for target in targets:
            cell = over_rounds(rounds, target, figure)
            row.append("-" if cell is None else cell.said(figure.digits, _sign(figure, target)))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:{widths[0]}}", *cells]))
    return lines


def _sign(figure: Figure, target: str) -> str:
    return "+" if figure.added and target != DIRECT else ""


def as_json(rounds: Sequence[Round], targets: Sequence[str]) -> dict[str, object]:
    """Table and bars for machines."""
    cells: dict[str, dict[str, object]] = {}
    for target in targets:
        cells[target] = {}
        for figure in FIGURES:
            cell = over_rounds(rounds, target, figure)
            if cell is not None:
                name = f"added_{figure.key}" if figure.added and target != DIRECT else figure.key
                cells[target][name] = {"median": cell.median, "low": cell.low, "high": cell.high, "rounds": cell.rounds}
    bars = [
        {
            "bar": verdict.bar.title,
            "limit": verdict.bar.limit,
            "median": verdict.found.median if verdict.found else None,
            "low": verdict.found.low if verdict.found else None,
            "high": verdict.found.high if verdict.found else None,
            "holds": verdict.holds,
        }
        for verdict in verdicts(rounds)
    ]
    return {"targets": cells, "bars": bars}
