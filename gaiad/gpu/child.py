"""The managed engine's processes: started in a group of their own, found again, ended to the last one.

Touches processes, the engine's log file and `engine.json` (the record by which a later daemon knows a left-over).
Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from gaiad.errors import EngineError
from gaiad.gpu import probe

log = structlog.get_logger()

_TAIL_BYTES = 64 * 1024
_ASK_EVERY_S = 0.05
_KILL_S = 10.0


class EngineChild:
    """One engine at a time: the leader of its process group, and what descends from it."""

    def __init__(self, state_dir: Path) -> None:
        self._record = state_dir / "engine.json"
        self.log_path = state_dir / "logs" / "engine.log"
        self._leader: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The leader's process id while it lives."""
        return self._leader.pid if self._leader is not None and self._leader.returncode is None else None

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the engine; its output goes to the log file, the last one's is kept beside it.

        Raises:
            EngineError: the program cannot be started or recorded.
        """
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            if self.log_path.exists():
                self.log_path.replace(self.log_path.with_suffix(".log.1"))
            with self.log_path.open("wb") as output:
                self._leader = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(environment),
                    cwd=self.log_path.parent,
                    start_new_session=True,
                )
            self._remember(self._leader.pid)
        except OSError as error:
            await self.end(0)
            hint = "check engine.python and that state_dir can be written"
            raise EngineError(f"the engine cannot be started: {error}", hint=hint) from error

    def _remember(self, pid: int) -> None:
        one = probe.living(pid)
        record = {"pid": pid, "started": one.started if one else 0, "boot_id": probe.boot_id(), "at": time.time()}
        torn = self._record.with_suffix(".tmp")
        torn.write_text(json.dumps(record), "utf-8")
        torn.replace(self._record)

    async def exited(self) -> int:
        """Wait until the leader is gone and return its exit code."""
        if self._leader is None:
            return 0
        return await self._leader.wait()

    async def end(self, grace_s: float) -> None:
        """End the engine and everything in its group: ask, then kill. Returns once none of them lives.

        Raises:
            EngineError: a process outlives even being killed.
        """
        # Known until it is gone: an ending that is cut off or fails is done again by the next call.
        if self._leader is not None:
            await _end_group(self._leader.pid, grace_s)
            await self._leader.wait()
            self._leader = None
        self._record.unlink(missing_ok=True)

    async def end_left_over(self) -> bool:
        """End the engine that a killed daemon left behind, known by its recorded id and start; say if there was one.

        Raises:
            EngineError: it cannot be ended.
        """
        if self._leader is not None:
            return False
        group = self._left_over()
        if group is not None:
            log.warning("left_over_engine_ended", pid=group)
            await _end_group(group, 5.0)
        self._record.unlink(missing_ok=True)
        return group is not None

    def _left_over(self) -> int | None:
        try:
            record = json.loads(self._record.read_text("utf-8"))
            pid, started, boot_id = int(record["pid"]), int(record["started"]), str(record["boot_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if boot_id != probe.boot_id():
            return None
        # 1. The leader lives and is the one recorded. 2. It is gone, but children of its session live on: the kernel
        # gives no new process an id that still names a group. 3. The id was given to somebody else.
        leader = probe.living(pid)
        if leader is not None:
            return pid if leader.started == started else None
        members = [one for one in probe.group_members(pid) if one.session == pid and one.started >= started]
        return pid if members else None

    def log_tail(self) -> list[str]:
        """Return the last lines of the engine's log."""
        try:
            with self.log_path.open("rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return output.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []


def check_port_free(host: str, port: int) -> None:
    """Make sure that nobody else listens where the engine is to.

    Raises:
        EngineError: somebody does.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as claim:
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            claim.bind(address)
    except OSError as error:
        hint = "end the program that listens there, or set engine.url to another port"
        raise EngineError(f"port {port} for the engine is taken or forbidden: {error}", hint=hint) from error


async def _end_group(group: int, grace_s: float) -> None:
    if grace_s > 0:
        _signal(group, signal.SIGTERM)
        if await _gone(group, grace_s):
            return
    _signal(group, signal.SIGKILL)
    if not await _gone(group, _KILL_S):
        raise EngineError(f"the engine's process group {group} outlives SIGKILL", hint="look at it with ps; reboot")


async def _gone(group: int, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while probe.group_members(group):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(_ASK_EVERY_S)
    return True


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
