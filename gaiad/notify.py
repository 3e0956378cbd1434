"""Tells the service supervisor how the daemon is doing: READY, STATUS, WATCHDOG, STOPPING.

Speaks systemd's notification protocol: one datagram to the Unix socket named by `NOTIFY_SOCKET`. Without that
variable every call is a no-op. Decides nothing about health: the caller says what to tell, and when.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from types import TracebackType


class Notifier:
    """The supervisor's ear. Sending never blocks and never fails: a deaf supervisor must not stop serving."""

    def __init__(self, address: str = "", watchdog_usec: int = 0) -> None:
        self._address = address
        self._watchdog_usec = watchdog_usec
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, pid: int | None = None) -> Notifier:
        """Read `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` as systemd sets them."""
        env = os.environ if environment is None else environment
        own_pid = os.getpid() if pid is None else pid
        usec = env.get("WATCHDOG_USEC", "")
        meant_for = env.get("WATCHDOG_PID", "")
        mine = meant_for in ("", str(own_pid))
        return cls(env.get("NOTIFY_SOCKET", ""), int(usec) if mine and usec.isdigit() else 0)

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog` (half the supervisor's deadline), or None where it does not watch."""
        return self._watchdog_usec / 2_000_000 if self._watchdog_usec else None

    def ready(self, status: str) -> bool:
        """The doors are open: `READY=1` with a line of status."""
        return self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> bool:
        """One line for people, shown by `systemctl status`."""
        return self._send(f"STATUS={_one_line(text)}")

    def watchdog(self) -> bool:
        """The loop is alive."""
        return self._send("WATCHDOG=1")

    def stopping(self, status: str = "stopping") -> bool:
        """The orderly stop has begun."""
        return self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def close(self) -> None:
        """Close the socket; later calls open it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _send(self, text: str) -> bool:
        if not self._address:
            return False
        # 1. A leading @ means the abstract namespace, whose first byte is NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(text.encode(), address)
        except OSError:
            return False
        return True


def _one_line(text: str) -> str:
    return " ".join(text.split())
