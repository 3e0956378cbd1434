"""Draws what a cycle did as one self-contained HTML page: loss curve, exam bars with intervals, version timeline.

Pure: figures in, text out. It writes no file, fetches nothing, and the page it makes loads nothing from outside.
All text is escaped here, so callers pass plain strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 260, 52, 34, 14, 16


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One optimiser step: mean completion loss in nats a token; `validation` where it was measured.

    Before the first step only the base's validation is known, and the loss is None.
    """

    step: int
    loss: float | None
    validation: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One exam result as shares of 0..1, `low`/`high` being its 95% interval."""

    label: str
    rate: float
    low: float
    high: float
    note: str = ""
    muted: bool = False


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars that share one axis and one heading."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that happened to a version; `at_s` counts from the page's first event."""

    at_s: float
    version: str
    what: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the summary table."""

    name: str
    held: bool
    detail: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same request answered before and after."""

    request: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one page shows; empty parts are left out."""

    title: str
    subtitle: str
    steps: Sequence[Step] = field(default_factory=tuple)
    loss: Sequence[LossPoint] = field(default_factory=tuple)
    exams: Sequence[BarGroup] = field(default_factory=tuple)
    timeline: Sequence[TimelineEvent] = field(default_factory=tuple)
    comparisons: Sequence[Comparison] = field(default_factory=tuple)


def render(report: Report) -> str:
    """Return the page as HTML text (UTF-8)."""
    parts = []
    if report.steps:
        parts.append(section("What was shown", _steps_table(report.steps)))
    if report.exams:
        charts = "".join(f"<h3>{escape(group.title)}</h3>{bar_chart(group.bars)}" for group in report.exams)
        parts.append(section("Exams on held-out requests, whiskers are 95% intervals", charts))
    if report.loss:
        parts.append(section("Training loss", loss_chart(report.loss)))
    if report.timeline:
        parts.append(section("Versions over time", timeline_chart(report.timeline)))
    for pair in report.comparisons:
        parts.append(section("The same request, before and after", _comparison(pair)))
    return page(report.title, report.subtitle, parts)


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """One self-contained page of finished sections; title and subtitle are escaped here."""
    head = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1><p class='sub'>{escape(subtitle)}</p>",
    ]
    return "\n".join([*head, *sections, "</main></body></html>"])


def loss_chart(points: Sequence[LossPoint]) -> str:
    """Draw training loss as a line and validation loss as dots; returns an SVG element."""
    last_step = max(point.step for point in points)
    values = [value for p in points for value in (p.loss, p.validation) if value is not None]
    top = max(values, default=0.0) * 1.05 or 1.0

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(last_step, 1)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top

    lines = [_open_svg(_HEIGHT, "training loss by step")]
    for tick in range(5):
        value = top * tick / 4
        lines.append(_grid_line(y(value), f"{value:.2f}"))
    for tick in range(5):
        step = round(last_step * tick / 4)
        lines.append(f"<text class='tick' x='{x(step):.1f}' y='{_HEIGHT - 12}' text-anchor='middle'>{step}</text>")
    path = " ".join(f"{x(p.step):.1f},{y(p.loss):.1f}" for p in points if p.loss is not None)
    lines.append(f"<polyline class='line' points='{path}'/>")
    for p in points:
        if p.validation is not None:
            tip = f"step {p.step}: validation {p.validation:.3f}"
            dot = f"<circle class='dot' cx='{x(p.step):.1f}' cy='{y(p.validation):.1f}' r='4'>"
            lines.append(f"{dot}<title>{tip}</title></circle>")
    legend = "<p class='key'><i class='k1'></i> training <i class='k2'></i> validation (nats a token, by step)</p>"
    return "".join(lines) + "</svg>" + legend


def bar_chart(bars: Sequence[Bar]) -> str:
    """Draw shares as horizontal bars with interval whiskers; returns an SVG element."""
    row, left, right = 34, 220, 110
    height = row * len(bars) + 24
    span = _WIDTH - left - right

    def x(share: float) -> float:
        return left + span * share

    lines = [_open_svg(height, "exam results")]
    for tick in range(0, 101, 25):
        at = x(tick / 100)
        lines.append(f"<line class='grid' x1='{at:.1f}' x2='{at:.1f}' y1='0' y2='{height - 20}'/>")
        lines.append(f"<text class='tick' x='{at:.1f}' y='{height - 5}' text-anchor='middle'>{tick}%</text>")
    for index, bar in enumerate(bars):
        middle = row * index + row / 2
        shade = "bar muted" if bar.muted else "bar"
        lines.append(
            f"<text class='label' x='{left - 10}' y='{middle + 4:.1f}' text-anchor='end'>{escape(bar.label)}</text>"
        )
        width = max(span * bar.rate, 1)
        tip = f"{bar.rate:.1%} ({bar.low:.1%} to {bar.high:.1%})"
        box = f"x='{left}' y='{middle - 9:.1f}' width='{width:.1f}' height='18' rx='3'"
        lines.append(f"<rect class='{shade}' {box}><title>{tip}</title></rect>")
        lines.append(
            f"<line class='whisker' x1='{x(bar.low):.1f}' x2='{x(bar.high):.1f}' y1='{middle:.1f}' y2='{middle:.1f}'/>"
        )
        for end in (bar.low, bar.high):
            lines.append(
                f"<line class='whisker' x1='{x(end):.1f}' x2='{x(end):.1f}' "
                f"y1='{middle - 5:.1f}' y2='{middle + 5:.1f}'/>"
            )
        text = f"{bar.rate:.0%}" + (f" {bar.note}" if bar.note else "")
        lines.append(f"<text class='value' x='{_WIDTH - right + 12}' y='{middle + 4:.1f}'>{escape(text)}</text>")
    return "".join(lines) + "</svg>"


def timeline_chart(events: Sequence[TimelineEvent]) -> str:
    """Draw each version's events on its own row over time, and list them below; returns HTML."""
    versions = list(dict.fromkeys(event.version for event in events))
    row, left = 40, 220
    height = row * len(versions) + 28
    end = max(event.at_s for event in events) or 1.0
    span = _WIDTH - left - 24

    lines = [_open_svg(height, "versions over time")]
    for tick in range(5):
        at = left + span * tick / 4
        lines.append(f"<line class='grid' x1='{at:.1f}' x2='{at:.1f}' y1='0' y2='{height - 22}'/>")
        lines.append(
            f"<text class='tick' x='{at:.1f}' y='{height - 6}' text-anchor='middle'>{end * tick / 4:.0f} s</text>"
        )
    for index, version in enumerate(versions):
        middle = row * index + row / 2
        own = [event for event in events if event.version == version]
        lines.append(
            f"<text class='label' x='{left - 10}' y='{middle + 4:.1f}' text-anchor='end'>{escape(version)}</text>"
        )
        lines.extend(_active_spans(own, end, lambda at: left + span * at / end, middle))
        for event in own:
            kind = "".join(letter if letter.isalpha() else "-" for letter in event.what)
            tip = escape(f"{event.at_s:.0f} s: {event.what}. {event.reason}")
            at = left + span * event.at_s / end
            lines.append(
                f"<circle class='event {kind}' cx='{at:.1f}' cy='{middle:.1f}' r='6'><title>{tip}</title></circle>"
            )
    rows = "".join(
        f"<tr><td>{e.at_s:.0f} s</td><td>{escape(e.version)}</td>"
        f"<td>{escape(e.what)}</td><td>{escape(e.reason)}</td></tr>"
        for e in events
    )
    table = f"<table><tr><th>when</th><th>version</th><th>what</th><th>why</th></tr>{rows}</table>"
    return "".join(lines) + "</svg>" + table


def _active_spans(own: Sequence[TimelineEvent], end: float, x: Callable[[float], float], middle: float) -> list[str]:
    spans, since = [], None
    for event in own:
        if event.what == "active" and since is None:
            since = event.at_s
        elif event.what in ("retired", "rolled_back", "quarantined") and since is not None:
            spans.append((since, event.at_s))
            since = None
    if since is not None:
        spans.append((since, end))
    return [
        f"<rect class='serving' x='{x(a):.1f}' y='{middle - 5:.1f}' "
        f"width='{max(x(b) - x(a), 2):.1f}' height='10' rx='5'/>"
        for a, b in spans
    ]


def _open_svg(height: float, label: str) -> str:
    return f"<svg viewBox='0 0 {_WIDTH} {height:.0f}' role='img' aria-label='{escape(label)}'>"


def _grid_line(y: float, text: str) -> str:
    line = f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
    return f"{line}<text class='tick' x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{text}</text>"


def section(title: str, body: str) -> str:
    """A headed box; the title is escaped, the body is HTML already."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _steps_table(steps: Sequence[Step]) -> str:
    rows = []
    for step in steps:
        mark = "<td class='yes'>held</td>" if step.held else "<td class='no'>FAILED</td>"
        seconds = "" if step.seconds is None else f"{step.seconds:.1f} s"
        rows.append(f"<tr>{mark}<td>{escape(step.name)}</td><td>{escape(step.detail)}</td><td>{seconds}</td></tr>")
    return "<table><tr><th></th><th>step</th><th>figures</th><th>took</th></tr>" + "".join(rows) + "</table>"


def _comparison(pair: Comparison) -> str:
    cells = [("asked", pair.request), ("before", pair.before), ("after", pair.after)]
    return "".join(f"<h3>{name}</h3><pre>{escape(text)}</pre>" for name, text in cells)


_STYLE = """
:root{--ink:#1d2733;--soft:#5d6b7a;--line:#dde3ea;--page:#f6f8fa;--card:#fff;--main:#2563a8;--second:#c2571a;
--muted:#a9b6c4;--good:#1f7a4d;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e4eaf1;--soft:#9aa8b8;--line:#2d3946;--page:#12181f;--card:#1a222b;
--main:#6aa5e8;--second:#e8935a;--muted:#55636f;--good:#5fc492;--bad:#f0857c}}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:820px;margin:0 auto;padding:32px 16px}
h1{font-size:26px;margin:0}h2{font-size:17px;margin:0 0 12px}h3{font-size:14px;color:var(--soft);margin:14px 0 6px}
.sub{color:var(--soft);margin:4px 0 24px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;
margin:0 0 18px;overflow-x:auto}
svg{width:100%;height:auto;display:block}
.grid{stroke:var(--line)}.tick{fill:var(--soft);font-size:11px}.label{fill:var(--ink);font-size:13px}
.value{fill:var(--ink);font-size:13px;font-weight:600}
.line{fill:none;stroke:var(--main);stroke-width:2}.dot{fill:var(--second)}
.bar{fill:var(--main)}.bar.muted{fill:var(--muted)}.whisker{stroke:var(--ink);stroke-width:1.5}
.serving{fill:var(--good);opacity:.35}.event{fill:var(--main);stroke:var(--card);stroke-width:2}
.event.active{fill:var(--good)}.event.retired{fill:var(--muted)}
.event.rejected,.event.rolled-back,.event.quarantined{fill:var(--bad)}
.key{color:var(--soft);font-size:13px}
.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin:0 4px 0 12px}
.k1{background:var(--main)}.k2{background:var(--second)}
table{border-collapse:collapse;width:100%;font-size:13px;margin-top:8px}td,th{text-align:left;padding:5px 8px;
border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:600}
.yes{color:var(--good);font-weight:600}.no{color:var(--bad);font-weight:700}
pre{white-space:pre-wrap;word-break:break-word;background:var(--page);padding:10px;border-radius:6px;font-size:13px;margin:0}
""".replace("\n", "")
