"""The child's side of the pipe, in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gaiad.learner.protocol import Hello, parse_line

SPEAKER = """
import sys
from gaiad.learner.child import Pipe, die_with_daemon, watch_daemon
from gaiad.learner.protocol import Hello
pipe = Pipe.claim()
print("a library talks", flush=True)
die_with_daemon()
stop = watch_daemon()
pipe.say(Hello(pid=1))
sys.exit(4 if stop.wait(60) else 6)
"""

PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SPEAKER!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def start(code: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_what_libraries_print_never_reaches_the_protocol() -> None:
    with start(SPEAKER) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert parse_line(child.stdout.readline()) == Hello(pid=1)
        child.terminate()
        assert child.stdout.read() == ""
        assert child.stderr.read() == "a library talks\n"


def test_stop_and_sigterm_are_heard() -> None:
    for by_line in (True, False):
        with start(SPEAKER) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            if by_line:
                child.stdin.write("stop\n")
                child.stdin.flush()
            else:
                child.terminate()
            assert child.wait(timeout=20) == 4


def test_the_end_of_stdin_ends_the_child_at_once() -> None:
    with start(SPEAKER) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.stdin.close()
        assert child.wait(timeout=20) == 5


def test_a_paused_child_does_not_outlive_a_killed_daemon() -> None:
    with start(PARENT) as daemon:
        assert daemon.stdout is not None
        child = int(daemon.stdout.readline())
        os.kill(child, signal.SIGSTOP)
        daemon.kill()
        daemon.wait(timeout=20)
    deadline = time.monotonic() + 20
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
