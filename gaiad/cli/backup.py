"""`gaiadctl backup`: a copy of the store while gaiad runs."""

from __future__ import annotations

import argparse

from gaiad.cli.command import Context, Subcommands, absolute, add
from gaiad.errors import Refuse

_TIMEOUT_S = 3600.0


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `backup`."""
    parser = add(commands, common, "backup", _backup, "Copy the store to a new file while gaiad runs.")
    parser.add_argument("file", metavar="FILE", help="must not exist yet; it will hold what people said")


def _backup(args: argparse.Namespace, context: Context) -> int:
    path = str(absolute(args.file))
    answer = context.client().post("backup", timeout_s=_TIMEOUT_S, path=path)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    return context.terminal.show(answer, f"copied to {answer.get('path')}; it holds what people said, keep it private")
