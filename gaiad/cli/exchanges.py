"""`gaiadctl exchanges` and `gaiadctl feedback`: what was kept, and what people thought of it."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from typing import Any, TextIO

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.cli.lines import FORMATS, line_of
from gaiad.cli.output import DONE, age, table
from gaiad.errors import GaiadError, Refuse

_MISSING = "-"


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `exchanges list|show|export` and `feedback`."""
    group = add_group(commands, "exchanges", "List and show recorded exchanges.")
    listing = add(group, common, "list", _list, "List recorded exchanges, newest first.")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="at most N (1 to 1000, default 20)")
    listing.add_argument("--user", metavar="USER", help="only those kept of this user")
    add(group, common, "show", _show, "Show all that is kept of one exchange.").add_argument("id", metavar="ID")
    export = add(group, common, "export", _export, "Write kept exchanges as JSON lines.")
    export.add_argument("--purpose", required=True, choices=("log", "train", "evaluate"), help="what they are to serve")
    text = "jsonl is all that is kept; sharegpt and openai hold the whole, uncontested or corrected chats"
    export.add_argument("--format", choices=FORMATS, default="jsonl", help=text)
    export.add_argument("--user", metavar="USER", help="only those kept of this user")
    export.add_argument("--stage", metavar="STAGE", help="only those of this stage")
    export.add_argument("--out", metavar="FILE", help="must not exist yet; standard output without")
    feedback = add(commands, common, "feedback", _feedback, "Attach a verdict to an exchange, or the right answer.")
    feedback.add_argument("id", metavar="ID", help="the reply's X-Gaia-Request-Id")
    feedback.add_argument("verdict", metavar="VERDICT", choices=("good", "bad"))
    feedback.add_argument("--score", type=float, metavar="S", help="how good the reply was, from 0 to 1")
    feedback.add_argument("--correction", metavar="TEXT", help="what the reply should have been")
    feedback.add_argument("--note", metavar="TEXT", help="a remark, up to 4,000 characters")


def _list(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("exchanges", limit=args.limit, user=args.user)
    now = context.terminal.now
    head = ("ID", "WHEN", "USER", "STAGE", "SERVED BY", "STATUS", "TOKENS", "MS", "FOR", "VERDICT")
    rows = []
    for row in answer.get("exchanges", []):
        tokens = f"{row.get('prompt_tokens') or _MISSING}+{row.get('completion_tokens') or _MISSING}"
        total_ms = row.get("total_ms")
        rows.append(
            (
                *(row.get("request_id"), age(row.get("at"), now), row.get("user"), row.get("stage")),
                *(row.get("version") or "base", row.get("status"), tokens),
                *(f"{total_ms:.0f}" if isinstance(total_ms, int | float) else None,),
                *(",".join(row.get("purposes") or ()), _verdict(row)),
            )
        )
    return context.terminal.show(answer, table(head, rows))


def _verdict(row: dict[str, object]) -> str:
    feedback = row.get("feedback")
    last = feedback[-1] if isinstance(feedback, list) and feedback else feedback
    if not isinstance(last, dict):
        return ""
    return str(last.get("verdict", "")) + (" +correction" if last.get("correction") else "")


def _show(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("exchanges", args.id)
    return context.terminal.show(answer, json.dumps(answer, indent=2, ensure_ascii=False))


def _export(args: argparse.Namespace, context: Context) -> int:
    told = _exported(args, context, context.terminal.out) if args.out is None else _exported_to(args, context)
    left_out = "; ".join(f"{count} left out: {why}" for why, count in sorted(told["left_out"].items()))
    text = f"exported {told['exported']} exchanges" + (f" ({left_out})" if left_out else "")
    if args.out is not None:
        return context.terminal.show({"path": args.out, **told}, f"{text} to {args.out}; it holds what people said")
    print(text, file=context.terminal.err)
    return DONE


def _exported_to(args: argparse.Namespace, context: Context) -> dict[str, Any]:
    try:
        # What people said is for nobody else's eyes, and never written over something.
        descriptor = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "name a file that does not exist yet, in a folder that you may write to"
        raise GaiadError(f"cannot write {args.out}: {error.strerror}", hint=hint) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            return _exported(args, context, file)
    except BaseException as error:
        # Half of what was asked for is nobody's, and would be in the way of the next try.
        os.unlink(args.out)
        if isinstance(error, OSError):
            raise GaiadError(f"cannot write {args.out}: {error.strerror}", hint="make room, and try again") from error
        raise


def _exported(args: argparse.Namespace, context: Context, out: TextIO) -> dict[str, Any]:
    count, left_out, after = 0, Counter[str](), None
    while True:
        wanted = {"purpose": args.purpose, "user": args.user, "stage": args.stage, "after": after}
        page = context.client().get("export", **wanted)
        for row in page["exchanges"]:
            line = line_of(row, args.format)
            if isinstance(line, str):
                left_out[line] += 1
                continue
            # Escaped as JSON has it: halves of characters stay writable.
            print(json.dumps(line), file=out)
            count += 1
        after = page.get("next")
        if after is None:
            return {"exported": count, "left_out": dict(left_out)}


def _feedback(args: argparse.Namespace, context: Context) -> int:
    given = {"verdict": args.verdict, "score": args.score, "correction": args.correction, "note": args.note}
    answer = context.client().post("feedback", request_id=args.id, **given)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    return context.terminal.show(answer, f"noted for {args.id}")
