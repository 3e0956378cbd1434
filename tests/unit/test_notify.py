"""What the supervisor is told, byte for byte, over a real datagram socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaiad.notify import Notifier


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        yield sock, path


def test_each_message_is_one_datagram_in_systemds_words(ear: tuple[socket.socket, str]) -> None:
    sock, path = ear
    with Notifier(path) as notifier:
        assert notifier.ready("serving; the engine\nis starting")
        assert sock.recv(4096) == b"READY=1\nSTATUS=serving; the engine is starting"
        assert notifier.status("training")
        assert sock.recv(4096) == b"STATUS=training"
        assert notifier.watchdog()
        assert sock.recv(4096) == b"WATCHDOG=1"
        assert notifier.stopping()
        assert sock.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_the_abstract_namespace_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0gaiad-test-notify")
        sock.settimeout(5)
        with Notifier("@gaiad-test-notify") as notifier:
            assert notifier.watchdog()
        assert sock.recv(4096) == b"WATCHDOG=1"


def test_without_a_supervisor_every_call_is_a_no_op() -> None:
    notifier = Notifier.from_environment({}, pid=1)
    assert notifier.watchdog_interval_s is None
    assert not notifier.ready("x")
    assert not notifier.watchdog()


def test_a_deaf_supervisor_does_not_fail_the_daemon(tmp_path: Path) -> None:
    with Notifier(str(tmp_path / "nobody.sock")) as notifier:
        assert not notifier.status("still serving")


@pytest.mark.parametrize(
    ("usec", "watchdog_pid", "expected"),
    [("30000000", "7", 15.0), ("30000000", "", 15.0), ("30000000", "8", None), ("", "7", None), ("soon", "7", None)],
)
def test_the_watchdog_is_fed_at_half_its_deadline_and_only_if_meant_for_us(
    usec: str, watchdog_pid: str, expected: float | None
) -> None:
    env = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": watchdog_pid}
    assert Notifier.from_environment(env, pid=7).watchdog_interval_s == expected
