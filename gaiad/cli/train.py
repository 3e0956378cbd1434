"""`gaiadctl train` and `gaiadctl cancel`: one learning cycle, asked for by a person."""

from __future__ import annotations

import argparse

from gaiad.cli.command import Context, Subcommands, add
from gaiad.cli.watch import watched
from gaiad.errors import Refuse


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `train` and `cancel`."""
    train = add(commands, common, "train", _train, "Start a learning cycle for an adapter.")
    train.add_argument("adapter", metavar="ADAPTER")
    train.add_argument("--profile", metavar="P", help="the curriculum's profile (default: [learning] profile)")
    train.add_argument("--force", action="store_true", help="train even if nothing is new since the last cycle")
    train.add_argument(
        "--wait", action="store_true", help="follow the cycle to its end; the exit code tells how it ended"
    )
    add(commands, common, "cancel", _cancel, "End the running cycle. Serving goes on with what was active before.")


def _train(args: argparse.Namespace, context: Context) -> int:
    client = context.client()
    answer = client.post("train", adapter=args.adapter, profile=args.profile, force=args.force or None)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    if not args.wait:
        return context.terminal.show(answer, f"started cycle {answer.get('cycle')}; gaiadctl status shows its progress")
    return watched(client, str(answer.get("cycle")), context.terminal, patient=False)


def _cancel(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().post("cancel")
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    return context.terminal.show(answer, "the cycle is being ended; gaiadctl status shows when serving is as before")
