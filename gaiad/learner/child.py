"""The training child's side of the pipe: keeps stdout for the protocol, hears `stop`, notices that the daemon is gone.

Only `train` imports this, before anything that prints. It knows no torch and nothing of training.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback

from gaiad.learner.protocol import Message, encode

_PR_SET_PDEATHSIG = 1


class Pipe:
    """Where the child's messages go. What a library prints after `claim` goes to the log instead."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def claim(cls) -> Pipe:
        """Take over stdout."""
        descriptor = os.dup(1)
        os.dup2(2, 1)
        return cls(descriptor)

    def say(self, message: Message) -> None:
        """Send one line; a daemon that is gone is noticed on stdin instead."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, encode(message).encode())


def bug(failure: Exception) -> str:
    """Say of a failure that nobody foresaw what it is, and in the log where.

    Not what it says of itself: that may hold what somebody said.
    """
    sys.stderr.write("".join(traceback.format_tb(failure.__traceback__)))
    return f"a bug: {type(failure).__name__}"


def watch_daemon() -> threading.Event:
    """Return the event that `stop` or SIGTERM sets; the end of stdin means that the daemon is gone and ends us."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                stop.set()
        os._exit(5)

    threading.Thread(target=listen, name="stdin", daemon=True).start()
    return stop


def die_with_daemon() -> None:
    """Ask Linux for SIGKILL when the daemon dies: a paused child could not read the end of its stdin."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
