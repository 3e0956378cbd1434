"""What the proxy costs, beside the same traffic straight to the engine, through nginx and through vllm-router.

    python -m bench.proxy [--rounds 5] [--seconds 4] [--only gaiad nginx] [--json]

Upstream and load generator are C, compiled at the start; where there are two cores they have one and the proxies the
other. The engine's first chunk comes 10 ms after the request. In each round every target has its turn in each way of
asking; the table shows medians and, in brackets, ranges. CPU is that of a target's process tree until it is quiet
again, so recording that lags behind is charged too; in the column `direct` it is that of upstream and load generator,
which says how far they are from being the limit.
Rows with a + are added to the direct way in the same round. Machines differ: compare columns, not runs.

A bar that is missed is a result, not a failure. Exit code 1 means that something did not run, or that a daemon did not
record each request: with its content where that is granted, without where it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import targets as kinds
from bench.load.command import Place, carried_out, round_options
from bench.load.figures import as_json, table, verdicts
from bench.load.rounds import Rounds
from bench.load.targets import CONSENTED, DIRECT, NAMES, LeftOut, Target
from bench.load.tree import settle

QUEUE = 1_000_000
"""Records that may wait here. At full speed the default of 2,000 would drop some and make recording look cheap."""

NEWEST = 1000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a daemon says it kept of the requests that it was asked, and how many of its newest records have content."""

    consented: bool
    asked: int
    written: int
    dropped: int
    failed: int
    newest: int
    with_content: int

    @property
    def whole(self) -> bool:
        """Whether each request left its record: with its content where that is granted, without where it is not."""
        content = self.newest if self.consented else 0
        counted = self.written >= self.asked > 0 and not self.dropped and not self.failed
        return counted and self.newest > 0 and self.with_content == content

    def line(self) -> str:
        """One line for people."""
        line = f"{self.asked:,} requests, {self.written:,} records written, {self.dropped} dropped, {self.failed} "
        line += f"failed; of the newest {self.newest}, {self.with_content} with their content"
        return line if self.whole else f"{line}; NOT AS IT SHOULD BE, so the figures do not count"


def started(stack: ExitStack, place: Place, direct: Target, only: Sequence[str]) -> list[Target]:
    """Start what was asked for and can be had; what is left out says so at once."""
    folder, core, port = place.folder, place.proxy_core, direct.port
    makers: dict[str, AbstractContextManager[Target]] = {
        kinds.PLAIN: kinds.gaiad(folder / "plain", port, core, consented=False, queue=QUEUE),
        kinds.CONSENTED: kinds.gaiad(folder / "consented", port, core, consented=True, queue=QUEUE),
        kinds.NGINX: kinds.nginx(folder / "nginx", port, core),
        kinds.VLLM_ROUTER: kinds.vllm_router(folder / "router", port, core),
    }
    found = [direct]
    for name, maker in makers.items():
        if name not in only:
            continue
        try:
            found.append(stack.enter_context(maker))
        except LeftOut as reason:
            print(f"bench: {name} is left out: {reason}", file=sys.stderr)
    return found


def recorded(target: Target, asked: int) -> Recorded:
    """Ask a daemon what it kept."""
    settle(target.pid)
    assert target.control is not None
    store = target.status()["store"]
    newest = target.control.get("exchanges", limit=NEWEST)["exchanges"]
    return Recorded(
        consented=target.name == CONSENTED,
        asked=asked,
        written=store["written"],
        dropped=store["dropped"],
        failed=store["failed"],
        newest=len(newest),
        with_content=sum(bool(row["purposes"]) for row in newest),
    )


def measure(options: argparse.Namespace, place: Place) -> bool:
    """Start everything, run the rounds, end everything, print; False where a daemon did not keep what it was to."""
    with ExitStack() as stack:
        direct = stack.enter_context(kinds.upstream(place.programs.upstream, place.load_core))
        targets = started(stack, place, direct, options.only)
        rounds = Rounds(place.programs.load, place.folder, options.seconds)
        for target in targets:
            rounds.warm_up(target)
        measured = []
        for number in range(options.rounds):
            found: dict[str, dict[str, float]] = {}
            for name, way, figures in rounds.round(targets, number):
                print(f"bench: round {number + 1} of {options.rounds}, {way}, {name}", file=sys.stderr)
                found.setdefault(name, {}).update(figures)
            measured.append(found)
        records = {target.name: recorded(target, rounds.asked[target.name]) for target in targets if target.control}
    names, whole = [target.name for target in targets], all(kept.whole for kept in records.values())
    if options.json:
        told = {name: asdict(kept) for name, kept in records.items()}
        kept_too = {"recorded": told, "all_recorded": whole}
        print(json.dumps({**as_json(measured, names), **kept_too, **about(options, place)}))
    else:
        print_table(measured, names, records, place, options)
    return whole


def about(options: argparse.Namespace, place: Place) -> dict[str, object]:
    """The machine and the plan."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {**machine, "separate_cores": place.separate_cores, "rounds": options.rounds, "seconds": options.seconds}


def print_table(
    measured: Sequence[dict[str, dict[str, float]]],
    names: Sequence[str],
    records: dict[str, Recorded],
    place: Place,
    options: argparse.Namespace,
) -> None:
    """The table, what was recorded, and the bars."""
    where = "all on one, so latencies say little"
    if place.separate_cores:
        where = "proxies on one, upstream and load on another"
    print(f"{platform.machine()}, {os.cpu_count()} cores ({where}), Python {platform.python_version()}; ", end="")
    print(f"median (range) of {options.rounds} rounds of {options.seconds} s")
    print("\n".join(table(measured, names)))
    for name, kept in records.items():
        print(f"{name}: {kept.line()}")
    print("\n".join(verdict.line() for verdict in verdicts(measured)))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    others = [name for name in NAMES if name != DIRECT]
    parser.add_argument("--only", nargs="+", choices=others, default=others, help="besides direct, which always runs")
    return round_options(parser, arguments, seconds_of="target")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table; 1 where something did not run, or was not recorded as it should be."""
    options = parsed(arguments)
    return carried_out("bench", lambda place: measure(options, place))


if __name__ == "__main__":
    sys.exit(main())
