"""How a child of ours ended: its exit code in words, and which line of its log says why.

Decides from text alone, for engine and trainer alike. A cause is only named where the log really tells one: after a
death by signal nothing there does, and warnings never do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL"}
_SIGNALS |= {11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}
_SIGKILL = 9

_MOST_CHARACTERS = 300

# A logger's line below an error, with or without vLLM's process in brackets and the time before it.
_MERELY_TOLD = re.compile(r"\s*(?:\([^)]*\)\s*)?(?:\[?\d[\d\-:.,/TZ ]*\]?\s*(?:-\s*)?)?(?:DEBUG|INFO|WARNING)\b")
# What libraries say in every run: missing faster kernels, Python's warnings, progress bars, what ends with the process.
_NOISE = ("kernels-community", "Warning: ", "warnings.warn(", "%|", "leaked shared_memory", "prefixes are not shared")
_FAILURES = ("Error: ", "error: ", "Error(", "Exception: ", "CUDA out of memory", "Killed")
# These follow from the failure of another process, whose own line says more.
_ECHOES = ("Engine core initialization failed", "EngineDeadError")


def how_it_ended(code: int) -> str:
    """Say how a process with this return code ended, as the rest of a sentence."""
    if code >= 0:
        return f"ended with exit code {code}"
    named = f" ({_SIGNALS[-code]})" if -code in _SIGNALS else ""
    told = f"was killed by signal {-code}{named}"
    # The log of a killed process ends with whatever came last, which is no cause.
    return f"{told}: somebody, or the kernel for want of memory, ended it" if -code == _SIGKILL else told


def failure_line(lines: Iterable[str]) -> str:
    """Return the log's last error, short and without the logger's prefix, or nothing."""
    errors = [line for line in lines if _is_telling(line) and any(mark in line for mark in _FAILURES)]
    causes = [line for line in errors if not any(echo in line for echo in _ECHOES)]
    found = (causes or errors or [""])[-1]
    return found.rpartition("] ")[2].strip()[:_MOST_CHARACTERS]


def last_words(lines: Iterable[str]) -> str:
    """Return the last error, else the last line that may say something, else nothing."""
    telling = [line.strip() for line in lines if line.strip() and _is_telling(line)]
    return failure_line(telling) or (telling or [""])[-1][:_MOST_CHARACTERS]


def _is_telling(line: str) -> bool:
    return not _MERELY_TOLD.match(line) and not any(noise in line for noise in _NOISE)
