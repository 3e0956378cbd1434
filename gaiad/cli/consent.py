"""`gaiadctl consent`: what a user allows to be kept and learned from."""

from __future__ import annotations

import argparse

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.cli.erase import erase_named
from gaiad.cli.output import DONE, age, table
from gaiad.errors import Refuse

PURPOSES = ("log", "train", "evaluate")


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
        parser.set_defaults(action=action, erase=False)
        if action == "revoke":
            parser.add_argument(
                "--erase", action="store_true", help="erase what was kept of the user so far, as gaiadctl erase does"
            )
    add(group, common, "show", _show, "Show what a user allows now.").add_argument("user", metavar="USER")
    add(group, common, "history", _history, "Show each grant and revocation.").add_argument("user", metavar="USER")


def _change(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().post("consent", user=args.user, purpose=args.purpose, action=args.action)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    # 1. Programs get one answer, the erasure's report. 2. Erased once nothing more is kept: what comes later is not.
    code = DONE
    if not (args.erase and context.terminal.as_json):
        code = context.terminal.show(answer, _allowed(args.user, answer.get("granted")))
    return erase_named("user", args.user, context) if args.erase else code


def _show(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("consent", args.user)
    return context.terminal.show(answer, _allowed(args.user, answer.get("granted")))


def _history(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("consent", args.user)
    now = context.terminal.now
    rows = [
        (age(event.get("at"), now), event.get("action"), event.get("purpose"), event.get("source"))
        for event in answer.get("history", [])
    ]
    return context.terminal.show(answer, table(("WHEN", "ACTION", "PURPOSE", "BY"), rows))


def _allowed(user: str, granted: object) -> str:
    names = ", ".join(map(str, granted)) if isinstance(granted, list) else ""
    return f"{user} allows: {names}" if names else f"{user} allows nothing: no exchange of theirs is kept"
