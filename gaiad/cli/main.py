"""`gaiadctl`: the owner's command line.

Builds the parser from one file a subcommand group, calls the chosen one, and turns its end into an exit code: 0
done, 1 failed, 2 usage, 3 refused or not yet, 4 no daemon. Online commands talk to the daemon's control socket;
offline ones import what they need only when they run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gaiad.cli import (
    adapters,
    backup,
    config,
    consent,
    curriculum,
    erase,
    exchanges,
    explain,
    keys,
    stages,
    status,
    train,
    watch,
)
from gaiad.cli.client import Client, find_socket
from gaiad.cli.command import Context
from gaiad.cli.output import FAILED, INTERRUPTED, NO_DAEMON, Terminal
from gaiad.errors import ControlError, GaiadError

GROUPS = (status, watch, train, adapters, consent, exchanges, explain, erase, backup, keys, stages, curriculum, config)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each group adds its own subcommands."""
    parser = argparse.ArgumentParser(
        prog="gaiadctl",
        description="Ask a running gaiad, or tell it what to do.",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 refused or not yet, 4 no daemon",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gaiadctl {own_version()}")
    _add_common(parser, first=True)
    common = argparse.ArgumentParser(add_help=False)
    _add_common(common, first=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in GROUPS:
        group.register(commands, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gaiadctl`; returns the exit code."""
    args = build_parser().parse_args(argv)
    terminal = Terminal(as_json=args.json, now=time.time())
    run: Callable[[argparse.Namespace, Context], int] = args.run
    try:
        code = run(args, Context(terminal, lambda: _client(args)))
        sys.stdout.flush()
    except ControlError as error:
        return terminal.failed(error, NO_DAEMON)
    except GaiadError as error:
        return terminal.failed(error, FAILED)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # 1. The reader (`| head`) left: silence Python's own complaint when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def own_version() -> str:
    """The installed version, or `unknown` in a bare checkout."""
    try:
        return version("gaiad")
    except PackageNotFoundError:
        return "unknown"


def _client(args: argparse.Namespace) -> Client:
    # Not by its name: a folder that was deleted meanwhile has none.
    path, origin = find_socket(args.socket, args.config, os.environ, Path())
    return Client(path, origin)


def _add_common(parser: argparse.ArgumentParser, *, first: bool) -> None:
    # 1. The same options before and after the subcommand: only the first place sets the default.
    unset = None if first else argparse.SUPPRESS
    parser.add_argument(
        "--socket", metavar="PATH", default=unset, help="the control socket (also GAIAD_SOCKET; then --config)"
    )
    parser.add_argument("--config", metavar="FILE", default=unset, help="settings file that names the control socket")
    parser.add_argument(
        "--json", action="store_true", default=False if first else argparse.SUPPRESS, help="print JSON, for programs"
    )
