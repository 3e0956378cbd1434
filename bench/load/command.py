"""What commands that measure or prove begin and end with: a place to measure in, and an exit code.

The place of the proxy's benchmarks is a temporary folder with both C programs compiled, and the cores of proxies and
load. It goes again however the command ends, SIGTERM included.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.compiled import Programs, compile_into
from bench.load.errors import CannotMeasure
from bench.load.tree import on_core, two_cores
from gaiad.errors import GaiadError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark runs; the cores are None where there is but one for all."""

    folder: Path
    programs: Programs
    proxy_core: int | None
    load_core: int | None

    @property
    def separate_cores(self) -> bool:
        """Whether proxies and load are out of each other's way."""
        return self.load_core is not None


def round_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, *, seconds_of: str
) -> argparse.Namespace:
    """Read a command line with the options that every measurement in rounds has."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=int, default=4, help=f"of each way of asking, for each {seconds_of}, in each round"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return options


@contextlib.contextmanager
def _place(name: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as made:
        folder = Path(made)
        programs, cores = compile_into(folder), two_cores()
        proxy_core, load_core = cores or (None, None)
        with on_core(load_core):
            yield Place(folder, programs, proxy_core, load_core)


def carried_out(name: str, work: Callable[[Place], bool]) -> int:
    """Do `work` in a place of its own; 0 where it says that all is well, 1 where it does not or cannot run."""

    def placed() -> bool:
        with _place(name) as place:
            return work(place)

    return concluded(name, placed)


def concluded(name: str, work: Callable[[], bool]) -> int:
    """Do `work`; 0 where it says that all is well, 1 where it does not or cannot run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{name}: it was ended"))
    try:
        return 0 if work() else 1
    except (CannotMeasure, GaiadError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
