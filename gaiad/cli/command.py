"""What every subcommand is given: where to print, and how to reach the daemon."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gaiad.cli.client import Client
from gaiad.cli.output import Terminal
from gaiad.errors import GaiadError

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = "Callable[[argparse.Namespace, Context], int]"


@dataclass(frozen=True, slots=True)
class Context:
    """`client` looks for the socket only when called: offline commands never do."""

    terminal: Terminal
    client: Callable[[], Client]


def add(
    commands: Subcommands, common: argparse.ArgumentParser, name: str, run: Run, description: str
) -> argparse.ArgumentParser:
    """Add one subcommand with the common options; `description`'s first sentence is its line in the list."""
    parser = commands.add_parser(
        name, parents=[common], help=description.split(". ")[0].rstrip("."), description=description, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_group(commands: Subcommands, name: str, description: str) -> Subcommands:
    """Add a subcommand that has subcommands of its own."""
    parser = commands.add_parser(name, help=description.rstrip("."), description=description, allow_abbrev=False)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def absolute(path: str) -> Path:
    """The path as seen from the working directory.

    Raises:
        GaiadError: that directory was deleted meanwhile, so that nothing can be seen from it.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError as error:
        raise GaiadError("the working directory is gone", hint="change to one that exists") from error
