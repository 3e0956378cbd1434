"""Draws one learning cycle as an HTML page: how it ended and why, the loss curve, what training took, the exams.

Pure: the cycle's row in, text out; the page loads nothing from outside and needs no script. What a row does not hold
(a cycle that ended early, an import) is left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import cast

from gaiad.curriculum import Json
from gaiad.report import Bar, LossPoint, bar_chart, loss_chart, page, section

_METRICS = (("tool", "Exact tool"), ("params", "Exact tool and parameters"), ("valid_json", "Valid JSON"))
_GIB, _TERA = 1 << 30, 1e12


def cycle_page(row: Mapping[str, Json]) -> str:
    """Draw a row of the history, as the control socket shows it."""
    report = _object(row.get("report"))
    parts = [section("How it ended", _table(_ending(row, report)))]
    if points := _points(report.get("loss")):
        parts.append(section("Loss", loss_chart(points)))
    if training := _training(report):
        parts.append(section("Training", _table(training)))
    if exams := _exams(_object(report.get("exams"))):
        parts.append(section("Exams on held-out requests, whiskers are 95% intervals", exams))
    if timings := _object(report.get("timings_s")):
        parts.append(section("Where the time went", _table([(name, f"{took} s") for name, took in timings.items()])))
    verdict = row.get("verdict") or f"still {row.get('phase')}"
    started = _moment(row.get("started"))
    return page(f"{row.get('adapter')}: {verdict}", f"cycle {row.get('id')}, began {started}", parts)


def _ending(row: Mapping[str, Json], report: Mapping[str, Json]) -> list[tuple[str, str]]:
    dataset, gate, parity = (_object(report.get(name)) for name in ("dataset", "gate", "parity"))
    splits = ", ".join(f"{dataset[name]} {name}" for name in ("train", "validation", "heldout") if name in dataset)
    return [
        ("verdict", str(row.get("verdict") or "it still runs")),
        ("why", str(row.get("reason") or "")),
        ("parity", str(parity.get("reason") or "")),
        *(("gate", str(reason)) for reason in cast("list[Json]", gate.get("reasons") or [])),
        ("override", str(report.get("override_reason") or "")),
        ("version", str(report.get("version") or "")),
        ("profile", str(report.get("profile") or "")),
        ("dataset", f"{splits}; digest {dataset.get('digest')}" if dataset else ""),
        ("ended", _moment(row.get("ended"))),
    ]


def _points(rows: Json) -> list[LossPoint]:
    found = [_object(row) for row in rows] if isinstance(rows, list) else []
    return [
        LossPoint(cast("int", row["step"]), _number(row.get("loss")), _number(row.get("validation_loss")))
        for row in found
    ]


def _training(report: Mapping[str, Json]) -> list[tuple[str, str]]:
    """What the run took: the trainer's last words where it ended well, else what it had said before."""
    result, pace = _object(report.get("training")), _object(report.get("pace"))
    peak = _number(result.get("peak_memory_bytes")) or _number(pace.get("memory_bytes"))
    speed, share, flops = (_number(pace.get(name)) for name in ("tokens_per_s", "peak_share", "flops_per_s"))
    base, best = _number(result.get("base_validation_loss")), _number(result.get("validation_loss"))
    steps = f"{result['steps']}, the best after {result.get('best_step')}" if "steps" in result else ""
    rows = [
        ("steps", steps + (", stopped early" if result.get("stopped_early") else "")),
        ("went on from step", _text(pace.get("resumed_from"))),
        (
            "validation loss",
            f"{best:.3f}" + ("" if base is None else f" (base: {base:.3f})") if best is not None else "",
        ),
        ("tokens of examples", _text(result.get("tokens", pace.get("tokens")))),
        ("tokens/s", "" if not speed else f"{speed:.0f}"),
        ("work", "" if not flops else f"{flops / _TERA:.2f} TFLOP/s"),
        ("share of the device's best", "" if share is None else f"{share:.1%}"),
        ("peak memory", "" if not peak else f"{peak / _GIB:.2f} GiB"),
        ("time", f"{result['wall_s']} s" if "wall_s" in result else ""),
        ("how", " ".join(str(result[name]) for name in ("quantisation", "layout", "device") if name in result)),
    ]
    return [row for row in rows if row[1]]


def _exams(exams: Mapping[str, Json]) -> str:
    drawn = []
    for metric, title in _METRICS:
        found = {name: _object(_object(exam).get(metric)) for name, exam in exams.items()}
        bars = [_bar(name, figures) for name, figures in found.items() if figures.get("total")]
        if bars:
            drawn.append(f"<h3>{escape(title)}</h3>{bar_chart(bars)}")
    return "".join(drawn)


def _bar(name: str, figures: Mapping[str, Json]) -> Bar:
    rate, low, high = (cast("float", figures[key]) for key in ("rate", "low", "high"))
    label, note = name.replace("_", " "), f"{figures['hits']}/{figures['total']}"
    return Bar(label, rate, low, high, note=note, muted=name.startswith("base"))


def _table(rows: list[tuple[str, str]]) -> str:
    drawn = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows if text)
    return f"<table>{drawn}</table>"


def _moment(at: Json) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC") if isinstance(at, int | float) else ""


def _number(value: Json) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Json) -> str:
    return "" if value is None else str(value)


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}
