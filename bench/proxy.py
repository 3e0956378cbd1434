"""What the proxy costs, beside the same traffic straight to the engine, through nginx and through vllm-router.

    python -m bench.proxy [--rounds 5] [--seconds 4] [--only gaiad nginx] [--json]

Upstream and load generator are C, compiled at the start; where there are two cores they have one and the proxies the
other. The engine's first chunk comes 10 ms after the request. In each round every target has its turn in each way of
asking; the table shows medians and, in brackets, ranges. CPU is that of a target's process tree until it is quiet
again, so recording that lags behind is charged too; in the column `direct` it is that of upstream and load generator,
which says how far they are from being the limit.
Rows with a + are added to the direct way in the same round. Machines differ: compare columns, not runs.

A bar that is missed is a result, not a failure. Exit code 1 means that something did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import targets as kinds
from bench.load.compiled import compile_into
from bench.load.errors import CannotMeasure
from bench.load.figures import as_json, table, verdicts
from bench.load.rounds import Rounds
from bench.load.targets import CONSENTED, DIRECT, NAMES, LeftOut, Target
from bench.load.tree import on_core, settle, two_cores
from gaiad.errors import GaiadError

QUEUE = 1_000_000
"""Records that may wait here. At full speed the default of 2,000 would drop some and make recording look cheap."""

NEWEST = 1000


def started(stack: ExitStack, folder: Path, direct: Target, core: int | None, only: Sequence[str]) -> list[Target]:
    """Start what was asked for and can be had; what is left out says so at once."""
    port = direct.port
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


def recorded(target: Target, asked: int) -> tuple[bool, str]:
    """Whether all that a consented target was asked is kept with its content, and a line that says so."""
    settle(target.pid)
    assert target.control is not None
    store = target.status()["store"]
    newest = target.control.get("exchanges", limit=NEWEST)["exchanges"]
    full = sum(bool(row["purposes"]) for row in newest)
    line = f"{asked:,} requests, {store['written']:,} records written, {store['dropped']} dropped, {store['failed']} "
    line += f"failed; of the newest {len(newest)}, {full} with their content"
    whole = store["written"] >= asked and not store["dropped"] and not store["failed"] and full == len(newest)
    return whole, line


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Start everything, run the rounds, end everything; prints the table unless JSON is wanted."""
    programs, cores = compile_into(folder), two_cores()
    proxy_core, load_core = cores or (None, None)
    with on_core(load_core), ExitStack() as stack:
        direct = stack.enter_context(kinds.upstream(programs.upstream, load_core))
        targets = started(stack, folder, direct, proxy_core, options.only)
        rounds = Rounds(programs.load, folder, options.seconds)
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
    names = [target.name for target in targets]
    if not options.json:
        print_table(measured, names, records, cores, options)
    told = {name: line for name, (_, line) in records.items()}
    whole = CONSENTED not in records or records[CONSENTED][0]
    return {**as_json(measured, names), "recorded": told, "all_recorded": whole, **about(options, cores)}


def about(options: argparse.Namespace, cores: tuple[int, int] | None) -> dict[str, object]:
    """The machine and the plan."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {**machine, "separate_cores": cores is not None, "rounds": options.rounds, "seconds": options.seconds}


def print_table(
    measured: Sequence[dict[str, dict[str, float]]],
    names: Sequence[str],
    records: dict[str, tuple[bool, str]],
    cores: tuple[int, int] | None,
    options: argparse.Namespace,
) -> None:
    """The table, what was recorded, and the bars."""
    where = "proxies on one, upstream and load on another" if cores else "all on one, so latencies say little"
    print(f"{platform.machine()}, {os.cpu_count()} cores ({where}), Python {platform.python_version()}; ", end="")
    print(f"median (range) of {options.rounds} rounds of {options.seconds} s")
    print("\n".join(table(measured, names)))
    for name, (whole, line) in records.items():
        told = "" if whole or name != CONSENTED else "; NOT ALL IS KEPT, so its figures do not count"
        print(f"{name}: {line}{told}")
    print("\n".join(verdict.line() for verdict in verdicts(measured)))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each way of asking, for each target, in each round")
    others = [name for name in NAMES if name != DIRECT]
    parser.add_argument("--only", nargs="+", choices=others, default=others, help="besides direct, which always runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table; 1 where something did not run."""
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: it was ended"))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-proxy-") as folder:
            found = measure(options, Path(folder))
    except (CannotMeasure, GaiadError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found))
    return 0 if found["all_recorded"] else 1


if __name__ == "__main__":
    sys.exit(main())
