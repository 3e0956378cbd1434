"""`gaiadctl explain`: why a reply was what it was, what was kept of it, and what was trained from it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from gaiad.cli.command import Context, Subcommands, add
from gaiad.cli.output import age, pairs, table

_SOMEBODY = "somebody who was not taken down"
_NOT_KEPT = {
    "not_kept": "no content: nobody had agreed to that",
    "erased": "no content: it was erased",
    "expired": "no content: the time or the room for it was over",
}


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `explain`."""
    parser = add(commands, common, "explain", _explain, "Say where a reply came from and what became of it.")
    parser.add_argument("id", metavar="ID", help="the reply's X-Gaia-Request-Id")


def _explain(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("explain", args.id)
    return context.terminal.show(answer, explained(answer, context.terminal.now))


def explained(answer: Mapping[str, Any], now: float) -> str:
    """The answer of `GET /explain/{id}` as people read it."""
    text = pairs(
        [
            ("request", str(answer.get("request_id"))),
            ("asked", f"{age(answer.get('started'), now)} by {answer.get('user') or _SOMEBODY}"),
            ("conversation", str(answer.get("conversation") or "")),
            ("stage", f"{answer.get('stage')}, because of: {answer.get('stage_reason')}"),
            ("served by", f"{answer.get('version') or 'the base'}, arm {answer.get('arm')}{_engine(answer)}"),
            ("sampling", ", ".join(f"{name} {value}" for name, value in (answer.get("sampling") or {}).items())),
            ("reply", _reply(answer)),
            ("consent then", _consent_then(answer.get("consent_then"))),
            ("kept", _kept(answer)),
            ("consent now", _consent_now(answer.get("consent_now"))),
            ("feedback", "; ".join(_judged(one) for one in answer.get("feedback") or ()) or "none"),
            ("signals", ", ".join(answer.get("signals") or ())),
            ("trained into", "" if answer.get("trained_into") else "no version"),
        ]
    )
    parts = [text]
    for title, name in (("trained into", "trained_into"), ("left out of", "left_out_of")):
        if rows := answer.get(name):
            parts.append(f"{title}:\n{_versions(rows, now)}")
    return "\n\n".join(parts)


def _engine(answer: Mapping[str, Any]) -> str:
    named = [f"{name} {answer[name]}" for name in ("engine", "template") if answer.get(name)]
    return f" ({', '.join(named)})" if named else ""


def _reply(answer: Mapping[str, Any]) -> str:
    # Where a stage has no schema a reply only has to say something, and to the end.
    valid = {True: "valid", False: "not valid: against its stage's schema, empty or cut short"}
    told = [
        f"status {answer.get('status')}",
        str(answer.get("outcome") or ("whole" if answer.get("complete") else "not whole")),
        f"ended by {answer['finish_reason']}" if answer.get("finish_reason") else "",
        valid.get(answer["valid"], "") if answer.get("valid") is not None else "",
    ]
    return ", ".join(one for one in told if one)


def _kept(answer: Mapping[str, Any]) -> str:
    if not answer.get("purposes"):
        return _NOT_KEPT.get(str(answer.get("decision")), "no content")
    parts = f"{' and '.join(answer.get('kept') or ['its metadata'])}, for {', '.join(answer['purposes'])}"
    replaced = ", ".join(f"{count} {name}" for name, count in (answer.get("scrubbed") or {}).items())
    return f"{parts}; replaced by placeholders: {replaced}" if replaced else parts


def _consent_then(then: Mapping[str, Any] | None) -> str:
    if then is None:
        return ""
    granted = ", ".join(then.get("granted") or ()) or "nothing"
    last, header = then.get("last"), then.get("header")
    said = f"the user allowed {granted}"
    if last:
        said += f" (last word: {last['action']} {last['purpose']}, by {last['source']})"
    if then.get("unclear"):
        said += f" ({then['unclear']} more by a clock that was ahead: before or after, nobody knows)"
    return f"{said}; the request's header said {header}" if header else said


def _consent_now(now: Mapping[str, Any] | None) -> str:
    if now is None:
        return ""
    granted, usable = (", ".join(now.get(name) or ()) or "nothing" for name in ("granted", "usable_for"))
    return f"the user allows {granted}; this exchange may be used for {usable}"


def _judged(one: Mapping[str, Any]) -> str:
    told = [str(one.get("verdict"))]
    if one.get("score") is not None:
        told.append(f"score {one['score']:g}")
    if one.get("correction"):
        told.append("with a correction")
    if one.get("note"):
        told.append(f"note: {one['note']}")
    return ", ".join(told)


def _versions(rows: Sequence[Mapping[str, Any]], now: float) -> str:
    cells = [(row.get("version"), row.get("stage"), row.get("cycle"), age(row.get("at"), now)) for row in rows]
    return table(("VERSION", "STAGE", "CYCLE", "MADE"), cells)
