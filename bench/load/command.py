"""What every command of the proxy's benchmarks begins and ends with: a place to measure in, and an exit code.

The place is a temporary folder with both C programs compiled, and the cores of proxies and load. It goes again however
the command ends, SIGTERM included.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{name}: it was ended"))
    try:
        with _place(name) as place:
            return 0 if work(place) else 1
    except (CannotMeasure, GaiadError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
