"""What many requests leave behind in the proxy: memory, leases, open files, records that were dropped.

    python -m bench.proxy_soak [--requests 200000] [--aborts 5] [--connections 32] [--json]

Streamed and plain requests in turns, of a user who granted everything and of nobody, as fast as 32 clients can; some
in a hundred are broken off by their client in mid-reply. The settings are the defaults, the queue's size included.
The first tenth warms the daemon up; from there on memory may grow by 10 MB. Exit code 1: memory grew by more, a lease
or a held request is left over, a record was dropped, a request that nobody broke off failed, or it did not run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import targets as kinds
from bench.load.compiled import compile_into
from bench.load.errors import CannotMeasure
from bench.load.targets import Target
from bench.load.traffic import FRAME_EVENTS, Ask, Asks, Load, send
from bench.load.tree import on_core, open_files, rss_mb, settle, two_cores
from gaiad.config import StoreConfig
from gaiad.errors import GaiadError

GROWTH_MB = 10.0
SLICES = 10
SLICE_S = 900
CHUNKS = 5
GAP_US = 1000
QUIET_S = 10.0


@dataclass(frozen=True, slots=True)
class Soak:
    """What was sent, and what it left behind. Memory by slice; the first one is the warm-up."""

    begun: int
    done: int
    streams_done: int
    aborted: int
    failed: int
    first_failure: str
    elapsed_s: float
    rss_mb: tuple[float, ...]
    open_files: tuple[int, ...]
    active: int
    held: int
    written: int
    dropped: int

    @property
    def growth_mb(self) -> float:
        """Memory at the end, less that after the warm-up."""
        return self.rss_mb[-1] - self.rss_mb[0]

    def troubles(self) -> list[str]:
        """What must not be; empty where all is well."""
        found = []
        if self.growth_mb > GROWTH_MB:
            found.append(f"memory grew by {self.growth_mb:.1f} MB, more than {GROWTH_MB:g}")
        if self.active or self.held:
            found.append(f"{self.active} leases and {self.held} held requests are left over")
        if self.dropped:
            found.append(f"{self.dropped} records were dropped or could not be written")
        if self.failed:
            found.append(f"{self.failed} requests failed, the first with: {self.first_failure}")
        return found


def asks_of(folder: Path) -> list[Ask]:
    """Plain and streamed, of the consenting user and of one who never agreed to anything."""
    asks = Asks(folder)
    users = ({"X-Gaia-User": kinds.OWNER}, {"X-Gaia-User": "guest"})
    return [
        asks.write(model="auto", chunks=CHUNKS, streamed=streamed, headers=user)
        for user in users
        for streamed in (False, True)
    ]


def soak(options: argparse.Namespace, folder: Path) -> Soak:
    """Start upstream and daemon, send everything in slices, look at what is left."""
    programs, cores = compile_into(folder), two_cores()
    proxy_core, load_core = cores or (None, None)
    with on_core(load_core), ExitStack() as stack:
        direct = stack.enter_context(kinds.upstream(programs.upstream, load_core, gap_us=GAP_US, reply_us=GAP_US))
        queue = StoreConfig().queue_size
        made = kinds.gaiad(folder / "gaiad", direct.port, proxy_core, consented=True, queue=queue)
        target = stack.enter_context(made)
        loads, memory, files = [], [], []
        asks = asks_of(folder)
        for number in range(SLICES):
            loads.append(one_slice(programs.load, target, asks, number, options))
            settle(target.pid)
            memory.append(rss_mb(target.pid))
            files.append(open_files(target.pid))
            told = f"{memory[-1]:.1f} MB, {files[-1]} open files, {loads[-1].failed} failed"
            print(f"soak: slice {number + 1} of {SLICES}, {loads[-1].elapsed_s:.0f} s, {told}", file=sys.stderr)
        return left_behind(target, loads, memory, files)


def one_slice(program: Path, target: Target, asks: Sequence[Ask], number: int, options: argparse.Namespace) -> Load:
    """A tenth of all requests.

    Raises:
        CannotMeasure: not all could be sent in time.
    """
    load = send(
        program,
        target.port,
        asks,
        SLICE_S,
        connections=options.connections,
        requests=max(1, options.requests // SLICES),
        events=CHUNKS + FRAME_EVENTS,
        abort_percent=options.aborts,
        abort_within_us=GAP_US,
        seed=number + 1,
    )
    if load.unfinished or load.begun < options.requests // SLICES:
        raise CannotMeasure(f"slice {number + 1} came to no end: {load.trouble or 'it took too long'}")
    return load


def left_behind(target: Target, loads: Sequence[Load], memory: Sequence[float], files: Sequence[int]) -> Soak:
    """Ask the daemon what is still out; what is on its way gets a moment to come home."""
    deadline = time.monotonic() + QUIET_S
    while True:
        status = target.status()
        busy = status["requests"]["active"] or status["requests"]["held"] or status["store"]["waiting"]
        if not busy or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return Soak(
        begun=sum(load.begun for load in loads),
        done=sum(load.done for load in loads),
        streams_done=sum(load.streams_done for load in loads),
        aborted=sum(load.aborted for load in loads),
        failed=sum(load.failed for load in loads),
        first_failure=next((load.first_failure for load in loads if load.failed), ""),
        elapsed_s=sum(load.elapsed_s for load in loads),
        rss_mb=tuple(memory),
        open_files=tuple(files),
        active=status["requests"]["active"],
        held=status["requests"]["held"],
        written=status["store"]["written"],
        dropped=status["store"]["dropped"] + status["store"]["failed"],
    )


def print_table(found: Soak) -> None:
    """One table for people."""
    plain = found.done - found.streams_done
    rows = (
        ("requests", f"{found.begun:,} in {found.elapsed_s:.0f} s, {found.begun / found.elapsed_s:,.0f}/s"),
        ("answered", f"{plain:,} plain, {found.streams_done:,} streamed"),
        ("broken off by the client", f"{found.aborted:,}"),
        ("failed", f"{found.failed:,} {found.first_failure}".rstrip()),
        ("memory MB, slice by slice", " ".join(f"{value:.1f}" for value in found.rss_mb)),
        ("memory's growth after warm-up", f"{found.growth_mb:+.1f} MB, bar {GROWTH_MB:g} MB"),
        ("open files, slice by slice", " ".join(str(value) for value in found.open_files)),
        ("leases still out", f"{found.active}, and {found.held} held"),
        ("records", f"{found.written:,} written, {found.dropped:,} dropped"),
    )
    for name, value in rows:
        print(f"{name:32}{value}")
    print("\n".join(found.troubles()) or "all holds")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--aborts", type=int, default=5, metavar="PERCENT")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.requests < SLICES or not 0 <= options.aborts <= 100 or options.connections < 1:
        parser.error(f"--requests must be at least {SLICES}, --aborts 0 to 100, --connections at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print one table; 1 where something is left behind."""
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: it was ended"))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
            found = soak(options, Path(folder))
    except (CannotMeasure, GaiadError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({**asdict(found), "growth_mb": found.growth_mb, "troubles": found.troubles()}))
    else:
        print_table(found)
    return 1 if found.troubles() else 0


if __name__ == "__main__":
    sys.exit(main())
