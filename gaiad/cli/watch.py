"""`gaiadctl watch` and what `train --wait` shows: a running cycle, followed to its end.

Asks the daemon once a second and shows what is news. Draws by `gaiad.cli.scene`, here only moved about the terminal:
redrawn in place where a person looks, a line for each piece of news where the output goes elsewhere, a JSON object a
line for programs. A daemon that goes away is waited for; what became of the cycle is for it to say.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gaiad.cli.client import Client
from gaiad.cli.command import Context, Subcommands, add
from gaiad.cli.output import DONE, FAILED, INTERRUPTED, REFUSED, Terminal, as_json, printable
from gaiad.cli.scene import fitted, scene
from gaiad.cli.status import cycle_line
from gaiad.errors import ControlError, GaiadError, Refuse

POLL_S = 1.0
_GOOD = ("promoted",)
_REFUSED = ("nothing_new",)

Part = Mapping[str, Any]


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `watch`."""
    add(
        commands,
        common,
        "watch",
        _watch,
        "Follow the running cycle to its end. The exit code tells how it ended, as that of train --wait does.",
    )


def _watch(args: argparse.Namespace, context: Context) -> int:
    client = context.client()
    learning = client.get("status").get("learning", {})
    current = learning.get("cycle")
    if not isinstance(current, dict):
        why = f": {learning['not_yet']}" if learning.get("not_yet") else ""
        return context.terminal.refused(Refuse(f"no cycle is running{why}", "gaiadctl train ADAPTER starts one"))
    return watched(client, str(current.get("id")), context.terminal, patient=True)


def watched(
    client: Client, cycle: str, terminal: Terminal, *, patient: bool, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Follow a cycle, say how it ended, and return the exit code for that.

    `patient` is for `watch`: a daemon that goes away is waited for, and `--json` tells of each step.
    """
    view = view_on(terminal, patient=patient)
    try:
        row = _followed(client, cycle, view, patient=patient, sleep=sleep)
    except KeyboardInterrupt:
        view.close()
        print("\nthe cycle goes on; gaiadctl cancel ends it", file=terminal.err)
        return INTERRUPTED
    finally:
        view.close()
    verdict, reason = str(row.get("verdict")), " ".join(str(row.get("reason") or "").split())
    view.end(row, f"{row.get('adapter')}: {verdict}{': ' + reason if reason else ''}")
    return DONE if verdict in _GOOD else REFUSED if verdict in _REFUSED else FAILED


def _followed(
    client: Client, cycle: str, view: View, *, patient: bool, sleep: Callable[[float], None]
) -> Mapping[str, Any]:
    """Show the cycle until it has an end; returns its row."""
    while True:
        try:
            status = client.get("status")
            current = status.get("learning", {}).get("cycle")
            if isinstance(current, dict) and current.get("id") == cycle:
                view.show(current, status)
            elif (row := _row_of(client, cycle)).get("verdict"):
                return row
        except GaiadError as error:
            # Not the first look: a daemon was there. One that restarts closes its cycle as interrupted, and says so.
            if not patient or not _is_away(error):
                raise
            view.away(error.message)
        sleep(POLL_S)


def _row_of(client: Client, cycle: str) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = client.get("cycles", limit=50)["cycles"]
    row = next((row for row in rows if row.get("id") == cycle), None)
    if row is None:
        # A look of the idle clock that found nothing new leaves no row.
        raise GaiadError(f"cycle {cycle} left nothing in the history", hint="see gaiadctl status, and the daemon's log")
    return row


def _is_away(error: GaiadError) -> bool:
    return isinstance(error, ControlError) or isinstance(error.__cause__, TimeoutError)


class View(Protocol):
    """Where a cycle is shown."""

    def show(self, cycle: Part, status: Part) -> None:
        """Show where the cycle stands, if that is news."""

    def away(self, why: str) -> None:
        """Say that the daemon does not answer."""

    def close(self) -> None:
        """Leave what was drawn standing."""

    def end(self, row: Part, text: str) -> None:
        """Say how it ended."""


def view_on(terminal: Terminal, *, patient: bool) -> View:
    """The view that fits what the output is. `train --wait --json` has one answer, so its progress goes elsewhere."""
    if terminal.as_json:
        return JsonLines(terminal) if patient else Lines(terminal)
    is_live = terminal.out.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return Screen(terminal) if is_live else Lines(terminal)


class Screen:
    """A block of lines that is redrawn in place."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._drawn = 0
        self._last: Sequence[str] = ()

    def show(self, cycle: Part, status: Part) -> None:
        """Redraw."""
        blocks = "▁▂▃▄▅▆▇█" if "utf" in (self._terminal.out.encoding or "").lower() else "_.-~^"
        self._last = scene(cycle, status, blocks)
        self._draw(self._last)

    def away(self, why: str) -> None:
        """Leave the last picture, and say under it that it is old."""
        self._draw([*self._last, f"{why}; waiting for it"])

    def close(self) -> None:
        """What comes next is written below."""
        self._drawn = 0

    def end(self, row: Part, text: str) -> None:
        """Say how it ended, below the last picture."""
        self._terminal.show(row, text)

    def _draw(self, lines: Sequence[str]) -> None:
        out = self._terminal.out
        # A line that breaks would be two, and the next picture one too low.
        size = shutil.get_terminal_size()
        shown = [printable(fitted(line, size.columns - 1), out) for line in lines[: size.lines - 1]]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        out.write(up + "".join(f"\r{line}\x1b[K\n" for line in shown) + "\x1b[J")
        out.flush()
        self._drawn = len(shown)


class Lines:
    """A line for each phase and each tenth or so of it."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._out = terminal.err if terminal.as_json else terminal.out
        self._key: object = None

    def show(self, cycle: Part, status: Part) -> None:
        """Say it if it is a new phase, or a good part further."""
        line = cycle_line(cycle)
        self._say((cycle.get("phase"), line.count("#")), line)

    def away(self, why: str) -> None:
        """Say it once."""
        self._say("away", f"{why}; waiting for it")

    def close(self) -> None:
        """Every line is whole already."""

    def end(self, row: Part, text: str) -> None:
        """Say how it ended."""
        self._terminal.show(row, text)

    def _say(self, key: object, line: str) -> None:
        if key != self._key:
            self._key = key
            print(printable(line, self._out), file=self._out, flush=True)


class JsonLines:
    """A JSON object a line: `progress` for each step seen, `away`, `end`."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last: object = None

    def show(self, cycle: Part, status: Part) -> None:
        """Write the cycle, if it moved; its curve is what the lines before say."""
        progress = cycle.get("progress")
        if isinstance(progress, dict):
            cycle = {**cycle, "progress": {name: value for name, value in progress.items() if name != "curve"}}
        key = (cycle.get("phase"), cycle.get("ending"), cycle.get("progress"))
        self._say(key, {"event": "progress", "cycle": cycle})

    def away(self, why: str) -> None:
        """Write it once."""
        self._say("away", {"event": "away", "why": why})

    def close(self) -> None:
        """Every line is whole already."""

    def end(self, row: Part, text: str) -> None:
        """Write the row of the history, without its report."""
        self._say("end", {"event": "end", "cycle": {name: value for name, value in row.items() if name != "report"}})

    def _say(self, key: object, line: Mapping[str, object]) -> None:
        if key != self._last:
            self._last = key
            out = self._terminal.out
            print(as_json({**line, "at": time.time()}, out), file=out, flush=True)
