"""What many requests leave behind in the proxy: memory, leases, open files, connections, records.

    python -m bench.proxy_soak [--requests 200000] [--warm-up 20000] [--slices 20] [--aborts 5] [--connections 32]
        [--json]

Streamed and plain requests in turns, of a user who granted everything and of one who granted nothing, as fast as 32
clients can; some in a hundred are broken off by their client in mid-reply. The settings are the defaults, the queue's
size included. The warm-up's requests come before the others and are of the same kinds; memory, open files and
connections are looked at when it is over and then after each slice of the requests, always at rest, and the highest
one counts. With far fewer requests than the default the bar for memory says little: 10 MB in 200,000 requests
are 52 bytes for each.

Progress goes to stderr. Exit code 1: a bar is missed, each of which the table names, or it did not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import targets as kinds
from bench.load.command import Place, carried_out
from bench.load.errors import CannotMeasure
from bench.load.soaked import Kept, Sample, Sent, Soak, as_json, table
from bench.load.targets import Target
from bench.load.traffic import FRAME_EVENTS, Ask, Asks, Load, send
from bench.load.tree import allocated_mb, open_files, rss_mb, settle
from gaiad.config import StoreConfig

SLICE_S = 900
CHUNKS = 5
GAP_US = 1000
QUIET_S = 10.0

STREAMED_TEXT = "".join(f" token{number}" for number in range(CHUNKS))
PLAIN_END = "follows from the list."
"""How the upstream's replies read, or end, when they are whole."""

_COUNTS = """
SELECT count(*), coalesce(sum(complete), 0), count(exchange_contents.request_id)
FROM exchanges LEFT JOIN exchange_contents USING (request_id)
"""
_TORN = """
SELECT count(*) FROM (
    SELECT complete, streamed, outcome, response IS NOT NULL AS is_kept,
        coalesce(json_extract(response, '$.choices[0].finish_reason'), '') = 'stop' AS is_ended,
        coalesce(json_extract(response, '$.choices[0].message.content'), '') AS text
    FROM exchanges JOIN exchange_contents USING (request_id)
) WHERE CASE
    WHEN NOT complete THEN outcome = 'whole' OR is_ended
    WHEN streamed THEN NOT (is_ended AND text = :streamed)
    ELSE NOT (is_ended AND text LIKE '%' || :plain_end)
END
"""


def asks_of(folder: Path) -> list[Ask]:
    """Plain and streamed, of the consenting user and of one who never agreed to anything."""
    asks = Asks(folder)
    users = ({"X-Gaia-User": kinds.OWNER}, {"X-Gaia-User": "guest"})
    return [
        asks.write(model="auto", chunks=CHUNKS, streamed=streamed, headers=user)
        for user in users
        for streamed in (False, True)
    ]


def soak(options: argparse.Namespace, place: Place) -> Soak:
    """Start upstream and daemon, send everything in slices, look at what is left."""
    with ExitStack() as stack:
        upstream = kinds.upstream(place.programs.upstream, place.load_core, gap_us=GAP_US, reply_us=GAP_US)
        direct = stack.enter_context(upstream)
        alone = open_files(direct.pid)
        queue = StoreConfig().queue_size
        made = kinds.gaiad(place.folder / "gaiad", direct.port, place.proxy_core, consented=True, queue=queue)
        target = stack.enter_context(made)
        traffic = Traffic(place.programs.load, target, asks_of(place.folder), options)
        samples: list[Sample] = []
        untouched = sampled(0, target.pid, direct.pid, alone)
        for size in (options.warm_up, *slices(options.requests, options.slices)):
            traffic.send(size)
            samples.append(sampled(traffic.begun, target.pid, direct.pid, alone))
            what = f"slice {len(samples) - 1} of {options.slices}" if len(samples) > 1 else "warm-up"
            tell(what, samples[-1], traffic.loads[-1])
        return Soak(untouched, samples[0], tuple(samples[1:]), traffic.sent(), left_behind(target))


def turns_of_owner(begun: int) -> int:
    """How many of so many requests are the consenting user's: the first two of each four, as `asks_of` has them."""
    return begun // 4 * 2 + min(begun % 4, 2)


def slices(requests: int, count: int) -> list[int]:
    """Nearly equal parts that come to exactly `requests`."""
    return [requests * (number + 1) // count - requests * number // count for number in range(count)]


@dataclass(slots=True)
class Traffic:
    """Sends slice after slice and adds up what the clients saw."""

    program: Path
    target: Target
    asks: Sequence[Ask]
    options: argparse.Namespace
    loads: list[Load] = field(default_factory=list)

    @property
    def begun(self) -> int:
        """How many requests began so far."""
        return sum(load.begun for load in self.loads)

    def send(self, requests: int) -> None:
        """Send so many and wait until each is answered or broken off.

        Raises:
            CannotMeasure: not all could be sent in time.
        """
        load = send(
            self.program,
            self.target.port,
            self.asks,
            SLICE_S,
            connections=self.options.connections,
            requests=requests,
            events=CHUNKS + FRAME_EVENTS,
            abort_percent=self.options.aborts,
            abort_within_us=GAP_US,
            seed=len(self.loads) + 1,
        )
        if load.unfinished or load.begun < requests:
            raise CannotMeasure(f"{requests:,} requests came to no end: {load.trouble or 'it took too long'}")
        self.loads.append(load)

    def sent(self) -> Sent:
        """The sum of all slices, the warm-up included."""
        return Sent(
            clients=self.options.connections,
            abort_percent=self.options.aborts,
            begun=self.begun,
            granted=sum(turns_of_owner(load.begun) for load in self.loads),
            done=sum(load.done for load in self.loads),
            streams_done=sum(load.streams_done for load in self.loads),
            aborted=sum(load.aborted for load in self.loads),
            unsent=sum(load.unsent for load in self.loads),
            failed=sum(load.failed for load in self.loads),
            first_failure=next((load.first_failure for load in self.loads if load.failed), ""),
            elapsed_s=sum(load.elapsed_s for load in self.loads),
        )


def sampled(requests: int, pid: int, engine: int, alone: int) -> Sample:
    """Look at a daemon once it is at rest; its engine had `alone` files open before anybody connected.

    Raises:
        CannotMeasure: one of them is gone, and nothing is not little.
    """
    settle(pid)
    try:
        connections = open_files(engine) - alone
        found = Sample(requests, rss_mb(pid), allocated_mb(pid), open_files(pid), connections)
    except OSError as error:
        raise CannotMeasure(f"the daemon or its engine is gone after {requests:,} requests") from error
    if found.rss_mb <= 0 or found.allocated_mb <= 0:
        raise CannotMeasure(f"the daemon has no memory any more after {requests:,} requests")
    return found


def tell(what: str, sample: Sample, load: Load) -> None:
    """One line of progress."""
    told = f"{sample.rss_mb:.1f} MB, {sample.open_files} open files, {sample.connections} to the engine"
    print(f"soak: {what}, {load.elapsed_s:.1f} s, {told}, {load.failed} failed", file=sys.stderr)


def left_behind(target: Target) -> Kept:
    """Ask the daemon what is still out and its database what was kept; what is on its way gets a moment."""
    deadline = time.monotonic() + QUIET_S
    while True:
        status = target.status()
        requests, store = status["requests"], status["store"]
        if not (requests["active"] or requests["held"] or store["waiting"]) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    rows, complete, with_content, torn = read_store(target.store)
    return Kept(
        active=requests["active"],
        held=requests["held"],
        waiting=store["waiting"],
        dropped=store["dropped"],
        failed=store["failed"],
        rows=rows,
        complete=complete,
        with_content=with_content,
        torn=torn,
    )


def read_store(path: Path | None) -> tuple[int, int, int, int]:
    """Records on the disk: all, those that are complete, those with content, those with a reply that is not whole.

    Raises:
        CannotMeasure: the file cannot be read.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            counts = connection.execute(_COUNTS).fetchone()
            words = {"streamed": STREAMED_TEXT, "plain_end": PLAIN_END}
            return (*counts, connection.execute(_TORN, words).fetchone()[0])
    except sqlite3.Error as error:
        raise CannotMeasure(f"the daemon's database cannot be read: {error}") from error


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000, help="after the warm-up")
    parser.add_argument("--warm-up", type=int, default=20_000, metavar="REQUESTS")
    parser.add_argument("--slices", type=int, default=20, help="how often it is looked at after the warm-up")
    parser.add_argument("--aborts", type=int, default=5, metavar="PERCENT")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not 1 <= options.slices <= options.requests or options.warm_up < 1:
        parser.error("--slices must be 1 to --requests, --warm-up at least 1")
    if not 0 <= options.aborts <= 100 or options.connections < 1:
        parser.error("--aborts must be 0 to 100, --connections at least 1")
    return options


def soaked(options: argparse.Namespace, place: Place) -> bool:
    """Soak and print; False where a bar is missed."""
    found = soak(options, place)
    print(json.dumps(as_json(found)) if options.json else "\n".join(table(found)))
    return found.holds


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print one table; 1 where something is left behind."""
    options = parsed(arguments)
    return carried_out("soak", lambda place: soaked(options, place))


if __name__ == "__main__":
    sys.exit(main())
