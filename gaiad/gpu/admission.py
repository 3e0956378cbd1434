"""The gate before the engine: who is let in now, who waits in line, which leases are out.

Touches only futures and counters. When the gate opens and closes is the GPU loop's to say (by `gpu.handoff`); which
request counts as a user's is the proxy's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

from gaiad.adapter import VersionName
from gaiad.errors import Refuse

_TRY_LATER = "try again in a minute; gaiadctl status says what is going on"


class Lease:
    """One request's claim on the engine, and on the version it runs on."""

    __slots__ = ("_gate", "is_user", "version")

    def __init__(self, gate: Gate, is_user: bool) -> None:
        self._gate: Gate | None = gate
        self.is_user = is_user
        self.version: VersionName | None = None

    def pin(self, version: VersionName | None) -> None:
        """Say which version the request runs on (None: the base), so that it stays loaded."""
        if self._gate is not None and version != self.version:
            self._gate.pinned(self.version, version)
            self.version = version

    def release(self) -> None:
        """Give the claim back; a second call changes nothing."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.released(self)


class Gate:
    """Open or closed, with a line of those who wait, first come first served."""

    def __init__(self, max_held: int, on_user_held: Callable[[], None]) -> None:
        self._max_held = max_held
        self._on_user_held = on_user_held
        self._open = False
        self._refusal: Refuse | None = None
        self._line: deque[tuple[asyncio.Future[Lease | Refuse], bool]] = deque()
        self._pins: Counter[VersionName] = Counter()
        self._moved = asyncio.Event()
        self._users = 0
        self._quiet_since = time.monotonic()
        self.active = 0
        self.last_user_end: float | None = None

    @property
    def held(self) -> int:
        """How many requests wait."""
        return len(self._line)

    def leases(self, version: VersionName) -> int:
        """How many requests run on `version`."""
        return self._pins[version]

    def admit_now(self, *, is_user: bool) -> Lease | None:
        """Let a request in if the gate is open; None where it would have to wait."""
        return self._lease(is_user) if self._open else None

    async def admit(self, *, is_user: bool, timeout_s: float) -> Lease | Refuse:
        """Let a request in: at once while the gate is open, else after those before it, at most `timeout_s` later."""
        # 1. Open: in. 2. Nothing to hope for: refused. 3. The line is full: refused. 4. Wait.
        if self._open:
            return self._lease(is_user)
        if self._refusal is not None:
            return self._refusal
        if len(self._line) >= self._max_held:
            return Refuse(f"{len(self._line)} requests wait already, the most that may", hint=_TRY_LATER)
        place = (asyncio.get_running_loop().create_future(), is_user)
        self._line.append(place)
        if is_user:
            self._on_user_held()
        return await self._wait(place, timeout_s)

    async def _wait(self, place: tuple[asyncio.Future[Lease | Refuse], bool], timeout_s: float) -> Lease | Refuse:
        answer = place[0]
        try:
            await asyncio.wait([answer], timeout=timeout_s)
        except asyncio.CancelledError:
            # A lease granted while the caller went away would never be released by anybody else.
            self._leave(place)
            raise
        if not answer.done():
            self._leave(place)
            return Refuse(f"the engine did not serve within {timeout_s:g} s", hint=_TRY_LATER)
        return answer.result()

    def _leave(self, place: tuple[asyncio.Future[Lease | Refuse], bool]) -> None:
        answer = place[0]
        if not answer.done():
            self._line.remove(place)
            answer.cancel()
        elif isinstance(granted := answer.result(), Lease):
            granted.release()

    def _lease(self, is_user: bool) -> Lease:
        self.active += 1
        self._users += is_user
        return Lease(self, is_user)

    def pinned(self, before: VersionName | None, after: VersionName | None) -> None:
        """Count a lease that changed its version."""
        if before is not None:
            self._pins[before] -= 1
            if not self._pins[before]:
                del self._pins[before]
        if after is not None:
            self._pins[after] += 1

    def released(self, lease: Lease) -> None:
        """Count a lease that was given back."""
        if lease.version is not None:
            self.pinned(lease.version, None)
        self.active -= 1
        if lease.is_user:
            self._users -= 1
            self._quiet_since = time.monotonic()
            self.last_user_end = time.time()
        self._moved.set()

    def open(self) -> None:
        """Open the gate and let everybody in line in, in order."""
        self._open, self._refusal = True, None
        while self._line:
            answer, is_user = self._line.popleft()
            answer.set_result(self._lease(is_user))

    def close(self) -> None:
        """Close the gate; who is inside may end."""
        self._open = False

    def refuse(self, refusal: Refuse | None) -> None:
        """Refuse all who wait and all who come until the gate opens or None is given."""
        self._refusal = refusal
        while refusal is not None and self._line:
            self._line.popleft()[0].set_result(refusal)

    async def until_idle(self) -> None:
        """Return once no lease is out."""
        while self.active:
            self._moved.clear()
            await self._moved.wait()

    async def until_quiet(self, quiet_s: float) -> None:
        """Return once no user request has run for `quiet_s`."""
        while True:
            while self._users:
                self._moved.clear()
                await self._moved.wait()
            left_s = self._quiet_since + quiet_s - time.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)
