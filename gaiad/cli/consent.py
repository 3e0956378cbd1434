"""`gaiadctl consent`: what a user allows to be kept and learned from."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.cli.erase import erase_named
from gaiad.cli.output import DONE, age, span, table
from gaiad.errors import Refuse

PURPOSES = ("log", "train", "evaluate")
_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `consent grant|revoke|show|history`."""
    group = add_group(commands, "consent", "Grant, revoke and show what may be kept of a user's exchanges.")
    for action, text in (
        ("grant", "Allow a user's exchanges to be kept for a purpose."),
        ("revoke", "Withdraw a user's consent for a purpose. Rows kept so far leave later datasets."),
    ):
        parser = add(group, common, action, _change, text)
        parser.add_argument("user", metavar="USER")
        parser.add_argument("--purpose", required=True, choices=PURPOSES, help="train and evaluate each include log")
        parser.add_argument("--conversation", metavar="C", help="this conversation only, instead of all")
        parser.set_defaults(action=action, lasts_s=None, erase=False)
        if action == "grant":
            text = "how long it holds, such as 30d or 12h (m, h, d, w); for good without"
            parser.add_argument("--for", dest="lasts_s", metavar="SPAN", type=_seconds, help=text)
        else:
            text = "erase what was kept of the user so far, as gaiadctl erase does"
            parser.add_argument("--erase", action="store_true", help=text)
    shown = add(group, common, "show", _show, "Show what a user allows now.")
    shown.add_argument("user", metavar="USER")
    shown.add_argument("--conversation", metavar="C", help="what holds in this conversation")
    told = add(group, common, "history", _history, "Show grants and revocations, the newest last.")
    told.add_argument("user", metavar="USER")
    told.add_argument("--limit", type=int, default=100, metavar="N", help="the newest N (1 to 1000, default 100)")


def _change(args: argparse.Namespace, context: Context) -> int:
    if args.erase and args.conversation:
        hint = "revoke without --erase, then gaiadctl erase --conversation erases it, whoever took part in it"
        return context.terminal.refused(Refuse("--erase erases all of a user, not one conversation", hint))
    end = None if args.lasts_s is None else context.terminal.now + args.lasts_s
    said = {"purpose": args.purpose, "action": args.action, "conversation": args.conversation, "expires_at": end}
    answer = context.client().post("consent", user=args.user, **said)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    # 1. Programs get one answer, the erasure's report. 2. Erased once nothing more is kept: what comes later is not.
    code = DONE
    if not (args.erase and context.terminal.as_json):
        code = context.terminal.show(
            answer, _allowed(args, answer, context.terminal.now) + _outlasted(args, answer, end)
        )
    return erase_named("user", args.user, context) if args.erase else code


def _show(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("consent", args.user, conversation=args.conversation)
    return context.terminal.show(answer, _allowed(args, answer, context.terminal.now))


def _history(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("consent", args.user, limit=args.limit)
    now = context.terminal.now
    rows = [
        (
            age(event.get("at"), now),
            event.get("action"),
            event.get("purpose"),
            event.get("conversation") or "all",
            _end(event.get("expires_at"), now),
            event.get("source"),
        )
        for event in answer.get("history", [])
    ]
    text = table(("WHEN", "ACTION", "PURPOSE", "SCOPE", "EXPIRES", "BY"), rows)
    total = answer.get("total", len(rows))
    # What is not shown is said, so that nobody takes a part for the whole.
    more = f"\nthe newest {len(rows)} of {total}: more with --limit" if total > len(rows) else ""
    return context.terminal.show(answer, text + more)


def _allowed(args: argparse.Namespace, answer: Mapping[str, Any], now: float) -> str:
    names = ", ".join(map(str, answer.get("granted") or ()))
    where = f" in {args.conversation}" if args.conversation else ""
    if names:
        until = (answer.get("until") or {}).items()
        ends = [f"{purpose} ends {_end(end, now)}" for purpose, end in sorted(until) if end is not None]
        return f"{args.user} allows{where}: {names}" + (f" ({', '.join(ends)})" if ends else "")
    return f"{args.user} allows nothing{where}: no exchange of theirs is kept" + (" there" if where else "")


def _outlasted(args: argparse.Namespace, answer: Mapping[str, Any], end: float | None) -> str:
    """What somebody should know who granted for a time what is granted for longer already."""
    until = answer.get("until") or {}
    if end is None or args.purpose not in until:
        return ""
    # As it was asked for, but for what is lost of a second on the way.
    if until[args.purpose] is not None and until[args.purpose] <= end + 1:
        return ""
    where = f" --conversation {args.conversation}" if args.conversation else ""
    return (
        f"\nan earlier grant of {args.purpose} holds longer, and this one does not shorten it: to have it end sooner,"
        f" first gaiadctl consent revoke {args.user} --purpose {args.purpose}{where}"
    )


def _end(at: object, now: float) -> str:
    if not isinstance(at, int | float):
        return ""
    return f"in {span(at - now)}" if at > now else age(at, now)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span such as 30d or 12h")
    return float(found[1]) * _UNITS_S[found[2]]
