"""`gaiadctl exchanges` and `gaiadctl feedback`: what was kept, and what people thought of it."""

from __future__ import annotations

import argparse
import json

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.cli.output import age, table
from gaiad.errors import Refuse

_MISSING = "-"


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `exchanges list|show` and `feedback`."""
    group = add_group(commands, "exchanges", "List and show recorded exchanges.")
    listing = add(group, common, "list", _list, "List recorded exchanges, newest first.")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="at most N (1 to 1000, default 20)")
    listing.add_argument("--user", metavar="USER", help="only those kept of this user")
    add(group, common, "show", _show, "Show all that is kept of one exchange.").add_argument("id", metavar="ID")
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


def _feedback(args: argparse.Namespace, context: Context) -> int:
    given = {"verdict": args.verdict, "score": args.score, "correction": args.correction, "note": args.note}
    answer = context.client().post("feedback", request_id=args.id, **given)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    return context.terminal.show(answer, f"noted for {args.id}")
