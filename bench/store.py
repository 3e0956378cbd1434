"""What recording costs and how soon it is done: exchanges of about 2 KB asked and 1 KB answered, everything consented.

    python -m bench.store [--rounds 5] [--seconds 4] [--json]

Two daemons with the default queue, between C upstream and C load generator: to one its user granted everything, to the
other nothing, so that one keeps what was said and the other a row without content. In each round both have their turn
as fast as 32 clients can ask and at 200 requests/s. Differences and ratios are taken within a round; shown are medians
and ranges. CPU is that of a daemon until it is quiet again.

`durable/s` is what was committed, divided by the time from the first request until nothing waits any more. At 200
requests/s a sample of replies says how soon they are durable: another process sees them in the database file. It is
not asked for over the exchange route, which makes the daemon commit at once.

The bar is 99% durable within 1 s of the reply. A bar that is missed is a result, not a failure. Exit code 1: something
did not run, an exchange could not be written, or one was dropped while the sample was taken.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import targets as kinds
from bench.load.command import Place, carried_out, round_options
from bench.load.errors import CannotMeasure
from bench.load.figures import Spread, spread
from bench.load.rounds import Rounds, Way
from bench.load.targets import Target
from bench.load.traffic import Ask, messages, send
from gaiad.config import StoreConfig

ASKED_BYTES, ANSWERED_BYTES = 2048, 1024
RATE = 200
SOON_S, BAR_SHARE = 1.0, 0.99
LOOKS = 8
LOOK_S = 0.01
DRAIN_S = 60.0

FAST = Way("fast", {"connections": 32}, body_bytes=ASKED_BYTES)
STEADY = Way("steady", {"rate": RATE, "skip_ms": 500}, body_bytes=ASKED_BYTES)

ROWS = (
    ("fast_cpu_us", "CPU us an exchange, 32 clients", 1),
    ("steady_cpu_us", f"CPU us an exchange, {RATE}/s", 1),
    ("steady_p99_ms", f"reply p99 ms, {RATE}/s", 2),
    ("durable_per_s", "durable exchanges/s, 32 clients", 0),
    ("dropped_percent", "dropped by a full queue, %, 32 clients", 2),
)
"""Key, title and digits of each figure; the last two are those of the daemon that keeps content."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Soon:
    """How many replies were looked for on the disk, and after how long they were there; the others were not in time."""

    looked: int
    after_s: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of all, those that were durable in time."""
        return len(self.after_s) / self.looked if self.looked else 0.0

    def line(self) -> str:
        """One line for people."""
        told = f"durable within {SOON_S:g} s of the reply at {RATE}/s: {self.share:.1%} of {self.looked}"
        if self.after_s:
            told += f", the slowest of them after {max(self.after_s):.2f} s"
        return f"{told}; bar {BAR_SHARE:.0%}: {'holds' if self.share >= BAR_SHARE else 'missed'}"


def sustained(program: Path, target: Target, ask: Ask, seconds: int) -> Figures:
    """As many exchanges as 32 clients can have, until all of them are on the disk.

    Raises:
        CannotMeasure: requests failed, or the queue does not empty.
    """
    before, began = target.status()["store"], time.monotonic()
    load = send(program, target.port, [ask], seconds, **FAST.options)
    if load.trouble:
        raise CannotMeasure(f"{target.name}: {load.trouble}")
    while (after := target.status()["store"])["waiting"]:
        if time.monotonic() > began + seconds + DRAIN_S:
            raise CannotMeasure(f"{after['waiting']} records still wait {DRAIN_S:g} s after the last request")
        time.sleep(LOOK_S)
    written, dropped = (after[name] - before[name] for name in ("written", "dropped"))
    return {
        "durable_per_s": written / (time.monotonic() - began),
        "dropped_percent": 100 * dropped / max(1, written + dropped),
    }


def paid(rounds: Rounds, target: Target) -> Figures:
    """What both ways cost one daemon."""
    fast, steady = rounds.put(target, FAST), rounds.put(target, STEADY)
    return {
        "fast_cpu_us": fast.cpu_us / fast.load.done,
        "steady_cpu_us": steady.cpu_us / steady.load.done,
        "steady_p99_ms": steady.load.p99_ms,
    }


def soon(program: Path, target: Target, ask: Ask, seconds: int) -> Soon:
    """Look for a sample of replies on the disk while 200 requests come each second."""
    with ThreadPoolExecutor(LOOKS + 1) as threads:
        load = threads.submit(send, program, target.port, [ask], seconds, **STEADY.options)
        looks = [threads.submit(looked, target, time.monotonic() + seconds) for _ in range(LOOKS)]
        found = [after_s for look in looks for after_s in look.result()]
        if load.result().trouble:
            raise CannotMeasure(f"{target.name}: {load.result().trouble}")
    return Soon(len(found), tuple(after_s for after_s in found if after_s is not None))


def looked(target: Target, until: float) -> list[float | None]:
    """Ask, and look for what was answered, again and again: how long it took each time, None where too long."""
    body = json.dumps({"model": target.model, "messages": messages(ASKED_BYTES)})
    headers = {"Content-Type": "application/json", **target.headers}
    connection, found = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30), list[float | None]()
    with contextlib.closing(sqlite3.connect(f"file:{target.store}?mode=ro", uri=True)) as store:
        while time.monotonic() < until:
            connection.request("POST", "/v1/chat/completions", body, headers)
            reply = connection.getresponse()
            reply.read()
            found.append(appeared(store, str(reply.headers["X-Gaia-Request-Id"])))
    connection.close()
    return found


def appeared(store: sqlite3.Connection, request_id: str) -> float | None:
    """Seconds until an exchange and its content can be read by another process; None where it takes too long."""
    began = time.monotonic()
    while (after_s := time.monotonic() - began) <= SOON_S:
        if store.execute("SELECT 1 FROM exchange_contents WHERE request_id = ?", (request_id,)).fetchone():
            return after_s
        time.sleep(LOOK_S)
    return None


def measure(options: argparse.Namespace, place: Place) -> bool:
    """Start everything, run the rounds, look at the disk, print; False where an exchange was lost at 200/s."""
    program, queue = place.programs.load, StoreConfig().queue_size
    with ExitStack() as stack:
        started = kinds.upstream(place.programs.upstream, place.load_core, reply_bytes=ANSWERED_BYTES)
        port = stack.enter_context(started).port
        plain, consented = (
            stack.enter_context(
                kinds.gaiad(place.folder / name, port, place.proxy_core, consented=name == "on", queue=queue)
            )
            for name in ("off", "on")
        )
        rounds, measured = Rounds(program, place.folder, options.seconds), list[dict[str, Figures]]()
        for target in (plain, consented):
            rounds.warm_up(target)
        for number in range(options.rounds):
            turns = (plain, consented) if number % 2 else (consented, plain)
            found = {target.name: paid(rounds, target) for target in turns}
            found[consented.name] |= sustained(program, consented, rounds.ask(consented, FAST), options.seconds)
            measured.append(found)
            print(f"store: round {number + 1} of {options.rounds}", file=sys.stderr)
        before = consented.status()["store"]
        sample = soon(program, consented, rounds.ask(consented, STEADY), options.seconds * options.rounds)
        after = consented.status()["store"]
    whole = after["dropped"] == before["dropped"] and not after["failed"]
    tell = as_json if options.json else as_table
    print(tell(measured, sample, whole))
    return whole


def cells(measured: Sequence[dict[str, Figures]], key: str) -> dict[str, Spread | None]:
    """One row: without content, with it, the difference and the ratio, each over the rounds."""
    on = [found[kinds.CONSENTED][key] for found in measured]
    off = [found[kinds.PLAIN][key] for found in measured if key in found[kinds.PLAIN]]
    row: dict[str, Spread | None] = {"off": None, "on": spread(on), "difference": None, "ratio": None}
    if off:
        pairs = list(zip(on, off, strict=True))
        row |= {"off": spread(off), "difference": spread([more - less for more, less in pairs])}
        row["ratio"] = spread([more / less for more, less in pairs])
    return row


def as_table(measured: Sequence[dict[str, Figures]], sample: Soon, whole: bool) -> str:
    """The table, the bar and whether all was kept."""
    wide = 24
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {ASKED_BYTES} bytes asked, "
        f"{ANSWERED_BYTES} answered; median (range) of {len(measured)} rounds",
        f"{'':40}" + "".join(f"{name:>{wide}}" for name in ("nothing consented", "recorded", "difference", "ratio")),
    ]
    for key, title, digits in ROWS:
        row = cells(measured, key)
        said = ("-" if cell is None else cell.said(2 if name == "ratio" else digits) for name, cell in row.items())
        lines.append(f"{title:40}" + "".join(f"{each:>{wide}}" for each in said))
    lines += [
        sample.line(),
        f"exchanges that could not be written, or were dropped with the sample: {'none' if whole else 'SOME'}",
    ]
    return "\n".join(lines)


def as_json(measured: Sequence[dict[str, Figures]], sample: Soon, whole: bool) -> str:
    """All of it for machines."""
    figures = {
        key: {
            name: None if cell is None else {"median": cell.median, "rounds": cell.rounds} for name, cell in row.items()
        }
        for key, row in ((key, cells(measured, key)) for key, _, _ in ROWS)
    }
    told = {"looked": sample.looked, "share": sample.share, "bar": BAR_SHARE, "holds": sample.share >= BAR_SHARE}
    return json.dumps({"figures": figures, "soon": told, "all_recorded": whole})


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return round_options(parser, arguments, seconds_of="daemon")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table; 1 where something did not run, or an exchange was lost at a steady pace."""
    options = parsed(arguments)
    return carried_out("store", lambda place: measure(options, place))


if __name__ == "__main__":
    sys.exit(main())
