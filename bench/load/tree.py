"""CPU time and memory of a process and all below it, and the cores that they run on. Linux only; starts nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_QUIET_US = 500.0
_QUIET_SAMPLES = 3
_SAMPLE_S = 0.05
_MIB = 1024 * 1024


def tree(root: int) -> list[int]:
    """The process `root` and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in brackets may hold anything, so what follows is counted from its end.
                fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def cpu_us(root: int) -> float:
    """Microseconds of CPU that a tree has used, threads that ended included.

    Each process has a clock of its own that counts in nanoseconds; `/proc/PID/stat` counts in 10 ms.
    """
    used_ns = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            used_ns += time.clock_gettime_ns((~pid << 3) | 2)
    return used_ns / 1000


def rss_mb(root: int) -> float:
    """Resident memory of a tree in MiB."""
    pages = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def allocated_mb(pid: int) -> float:
    """What a process has allocated, in MiB: without the pages of files, and with what was swapped out.

    RSS alone can fall while a process grows, where the kernel takes pages away that are not used: leaked ones first.
    """
    parts = ("RssAnon:", "RssShmem:", "VmSwap:")
    lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(parts)) / 1024


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settle(root: int, limit_s: float = 15.0) -> None:
    """Wait until a tree does next to nothing any more, so that work it put off is counted where it belongs."""
    deadline, quiet, before = time.monotonic() + limit_s, 0, cpu_us(root)
    while quiet < _QUIET_SAMPLES and time.monotonic() < deadline:
        time.sleep(_SAMPLE_S)
        now = cpu_us(root)
        quiet = quiet + 1 if now - before < _QUIET_US else 0
        before = now


def two_cores() -> tuple[int, int] | None:
    """The core for the proxies and the core for upstream and load; None where there is but one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[1], usable[0]) if len(usable) > 1 else None


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in this block runs on `core` only, and so does this process meanwhile."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
