"""`gaiadctl adapters` and `gaiadctl rollback`: what was learned, and the way back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from gaiad.cli.command import Context, Subcommands, absolute, add, add_group
from gaiad.cli.output import FAILED, age, brief, pairs, percent, table
from gaiad.errors import Refuse

_IMPORT_TIMEOUT_S = 3600.0
_METRICS = (("tool", "right choice"), ("params", "exact answer"), ("valid_json", "valid answer"))


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `adapters list|show|import` and `rollback`."""
    group = add_group(commands, "adapters", "List, show and import adapters.")
    add(group, common, "list", _list, "List each adapter's versions, newest first.")
    show = add(group, common, "show", _show, "Show an adapter, or one version with its exam report.")
    show.add_argument("name", metavar="NAME", help="an adapter, or a full version such as json-architect@v3-1a2b3c4d")
    bring = add(
        group, common, "import", _import, "Take in an adapter trained elsewhere, through checks, exam and gate."
    )
    bring.add_argument("directory", metavar="DIR", help="holds adapter_config.json and adapter_model.safetensors")
    bring.add_argument(
        "--name", metavar="N", help="the adapter it becomes a version of (default: the directory's name)"
    )
    bring.add_argument("--activate", action="store_true", help="serve it even if it fails the gate; needs --reason")
    bring.add_argument("--reason", metavar="TEXT", help="why it may skip the gate; kept in its history")
    bring.set_defaults(usage_error=bring.error)
    back = add(commands, common, "rollback", _rollback, "Flip an adapter to its previous version, or to the base.")
    back.add_argument("adapter", metavar="ADAPTER")
    back.add_argument("--reason", metavar="TEXT", help="kept in the adapter's history")


def _list(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("adapters")
    now = context.terminal.now
    rows = []
    for adapter in answer.get("adapters", []):
        versions = adapter.get("versions") or [{}]
        for version in versions:
            rows.append((adapter.get("adapter"), *_version_cells(version, now)))
    return context.terminal.show(answer, table(("ADAPTER", "VERSION", "STAGE", "SINCE", "LOADED", "WHY"), rows))


def _version_cells(version: Mapping[str, Any], now: float) -> tuple[object, ...]:
    since = version.get("changed_at") or version.get("created_at")
    return (
        version.get("version"),
        version.get("stage"),
        age(since, now),
        version.get("loaded"),
        brief(version.get("reason")),
    )


def _show(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("adapters", args.name)
    now = context.terminal.now
    if "versions" in answer:
        head = pairs(
            [
                ("adapter", str(answer.get("adapter"))),
                ("stages", ", ".join(answer.get("stages") or ())),
                ("active", str(answer.get("active") or "none: its stages are served by the base")),
                ("previous", str(answer.get("previous") or "")),
            ]
        )
        rows = [_version_cells(version, now) for version in answer["versions"]]
        listing = table(("VERSION", "STAGE", "SINCE", "LOADED", "WHY"), rows)
        history = [
            (age(event.get("at"), now), event.get("version"), event.get("what"), brief(event.get("reason")))
            for event in answer.get("events", [])
        ]
        return context.terminal.show(
            answer, f"{head}\n\n{listing}\n\n{table(('WHEN', 'VERSION', 'WHAT', 'WHY'), history)}"
        )
    return context.terminal.show(answer, _version_page(answer, now))


def _version_page(version: Mapping[str, Any], now: float) -> str:
    rows = [(str(key), _short(version[key])) for key in version if key not in ("report", "created_at", "changed_at")]
    parity = (version.get("report") or {}).get("parity") or {}
    rows.append(("parity", _short(parity.get("reason"))))
    rows.append(("since", age(version.get("changed_at") or version.get("created_at"), now)))
    exams = _exam_rows(version.get("report"))
    listing = table(("EXAM", "SUBJECT", *(name for _, name in _METRICS)), exams) if exams else "no exam report"
    return f"{pairs(rows)}\n\n{listing}"


def _exam_rows(report: object) -> list[tuple[object, ...]]:
    """A row for each exam report found in a version's report, whatever it is filed under."""
    rows: list[tuple[object, ...]] = []
    if not isinstance(report, Mapping):
        return rows
    for name, exam in report.items():
        if isinstance(exam, Mapping) and isinstance(exam.get("tool"), Mapping):
            rows.append((name, exam.get("subject"), *(_metric(exam.get(key)) for key, _ in _METRICS)))
        elif isinstance(exam, Mapping):
            rows.extend((f"{name} {inner}", *rest) for inner, *rest in _exam_rows(exam))
    return rows


def _metric(metric: object) -> str:
    if not isinstance(metric, Mapping) or not metric.get("total"):
        return ""
    hits, total = metric.get("hits", 0), metric["total"]
    interval = f" ({percent(metric.get('low'))} to {percent(metric.get('high'))})" if "low" in metric else ""
    return f"{hits}/{total} = {percent(hits / total)}{interval}"


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={inner}" for key, inner in value.items() if not isinstance(inner, Mapping | list))
    return "" if value is None else str(value)


def _import(args: argparse.Namespace, context: Context) -> int:
    directory = absolute(args.directory)
    if args.activate and not args.reason:
        args.usage_error("--activate needs --reason TEXT: why may this version skip the gate?")
    answer = context.client().post(
        "adapters",
        "import",
        timeout_s=_IMPORT_TIMEOUT_S,
        directory=str(directory),
        name=args.name,
        activate=args.activate or None,
        reason=args.reason,
    )
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    verdict = str(answer.get("verdict") or answer.get("stage") or "taken in")
    reason, parity = str(answer.get("reason") or ""), str(answer.get("parity") or "")
    # What was not compared is no reason of the verdict, and yet to be told.
    told = f"{answer.get('version', directory.name)} {verdict}{': ' + reason if reason else ''}"
    context.terminal.show(answer, told if parity in reason else f"{told}\n{parity}")
    return FAILED if verdict in ("rejected", "failed", "cancelled") else 0


def _rollback(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().post("rollback", adapter=args.adapter, reason=args.reason)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    now_serving = answer.get("version") or "the base"
    return context.terminal.show(answer, f"{args.adapter} is now served by {now_serving}")
