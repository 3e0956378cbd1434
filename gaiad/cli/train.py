"""`gaiadctl train` and `gaiadctl cancel`: one learning cycle, asked for by a person."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from gaiad.cli.client import Client
from gaiad.cli.command import Context, Subcommands, add
from gaiad.cli.output import DONE, FAILED, INTERRUPTED, REFUSED, Terminal
from gaiad.cli.status import cycle_line
from gaiad.errors import GaiadError, Refuse

_POLL_S = 1.0
_GOOD = ("promoted",)
_REFUSED = ("nothing_new",)


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
    try:
        row = _follow(client, str(answer.get("cycle")), context.terminal)
    except KeyboardInterrupt:
        print("\nthe cycle goes on; gaiadctl cancel ends it", file=context.terminal.err)
        return INTERRUPTED
    verdict, reason = str(row.get("verdict")), " ".join(str(row.get("reason") or "").split())
    context.terminal.show(row, f"{row.get('adapter')}: {verdict}{': ' + reason if reason else ''}")
    return DONE if verdict in _GOOD else REFUSED if verdict in _REFUSED else FAILED


def _cancel(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().post("cancel")
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    return context.terminal.show(answer, "the cycle is being ended; gaiadctl status shows when serving is as before")


def _follow(client: Client, cycle: str, terminal: Terminal) -> Mapping[str, Any]:
    """Show progress until the cycle has an end; returns its row."""
    progress = _Progress(terminal)
    while True:
        rows: list[Mapping[str, Any]] = client.get("cycles", limit=50)["cycles"]
        row = next((row for row in rows if row.get("id") == cycle), None)
        if row is not None and row.get("verdict"):
            progress.close()
            return row
        current = client.get("status").get("learning", {}).get("cycle")
        if isinstance(current, dict) and current.get("id") == cycle:
            progress.show(cycle_line(current), str(current.get("phase")))
        elif row is None and current is None:
            raise GaiadError(f"cycle {cycle} is gone", hint="see gaiadctl cycles and the daemon's log")
        time.sleep(_POLL_S)


class _Progress:
    """On a terminal one line that is rewritten; elsewhere a line for each phase and each tenth."""

    def __init__(self, terminal: Terminal) -> None:
        self._out = terminal.err if terminal.as_json else terminal.out
        self._live = self._out.isatty()
        self._last = ""
        self._key: tuple[str, int] | None = None

    def show(self, line: str, phase: str) -> None:
        """Show where the cycle stands, if that is news."""
        if self._live:
            padding = " " * max(0, len(self._last) - len(line))
            print(f"\r{line}{padding}", end="", file=self._out, flush=True)
            self._last = line
            return
        key = (phase, line.count("#"))
        if key != self._key:
            self._key = key
            print(line, file=self._out, flush=True)

    def close(self) -> None:
        """Leave the rewritten line standing."""
        if self._live and self._last:
            print(file=self._out)
