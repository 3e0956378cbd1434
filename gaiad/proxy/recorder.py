"""The queue between replies and the store: bounded, never waited for by a request.

It drops the newest record when full, writes one commit a batch, and counts what it wrote, dropped and failed to
write. While a server is away that will come back, records wait in the queue. It decides nothing about consent: a record
arrives with its purposes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from gaiad.errors import StoreError
from gaiad.exchange import ExchangeRecord

__all__ = ["ExchangeRecord", "ExchangeStore", "Recorder"]

_log = structlog.get_logger()

BATCH = 4096
LINGER_S = 0.25
"""How long the first record of a batch waits for others: a commit costs as much as hundreds of rows."""
AWAY_S = 1.0
"""How long it waits before it looks again whether a server that was away is back."""


class ExchangeStore(Protocol):
    """Where batches go: one durable commit a call, and the same record twice is kept once."""

    async def keep(self, records: Sequence[ExchangeRecord]) -> None:
        """Write `records`, or raise StoreError where the store cannot be written now; `passes` if waiting helps."""

    def hurry(self, hurries: bool) -> None:
        """Say whether writing is to go before all else."""


class Recorder:
    """Sole writer of exchanges. `offer` from any request; `run` as one task of the daemon."""

    def __init__(
        self,
        conversations: ExchangeStore,
        queue_size: int,
        *,
        retry_delays_s: Sequence[float] = (0.1, 0.5, 2.0),
        linger_s: float = LINGER_S,
        away_s: float = AWAY_S,
    ) -> None:
        self._store = conversations
        self._queue_size = queue_size
        # Half a queue stays free: what comes before the writer has its turn would be dropped by a full one.
        self._too_many = max(1, queue_size // 2)
        self._batch = min(BATCH, self._too_many)
        self._retry_delays_s = tuple(retry_delays_s)
        self._linger_s = linger_s
        self._away_s = away_s
        self._pending: deque[ExchangeRecord] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._turn = asyncio.Lock()
        self._offered = 0
        self._done = 0
        self._is_away = False
        self.state = "stopped"
        self.dropped = 0
        self.failed = 0
        self.written = 0

    @property
    def waiting(self) -> int:
        """How many records are queued and not yet durable."""
        return self._offered - self._done

    def offer(self, record: ExchangeRecord) -> bool:
        """Queue `record`; False when the queue is full and it was dropped. Never waits, never raises."""
        if len(self._pending) >= self._queue_size:
            self.dropped += 1
            return False
        self._pending.append(record)
        self._offered += 1
        self._arrived.set()
        if len(self._pending) == self._batch:
            self._full.set()
        if len(self._pending) == self._too_many:
            self._store.hurry(True)
        return True

    async def run(self) -> None:
        """Write batches until cancelled; what was not yet written stays queued for `flush`."""
        self.state = "ok"
        try:
            while True:
                await self._arrived.wait()
                await self._linger()
                self._arrived.clear()
                while self._pending:
                    if not await self._write_one_batch():
                        await asyncio.sleep(self._away_s)
        finally:
            self.state = "stopped"

    async def _linger(self) -> None:
        # 1. A batch is full already. 2. It fills, or its time is over.
        if len(self._pending) >= self._batch:
            return
        self._full.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                await self._full.wait()

    async def flush(self) -> None:
        """Return once all that was offered before is durable, or counted as failed, whether `run` runs or not.

        Where the store's server is away it still waits when this returns.
        """
        target = self._offered
        while self._done < target:
            if not await self._write_one_batch():
                return

    async def end(self) -> None:
        """Write all that waits; what then still waits is lost with the queue, and counted as failed."""
        await self.flush()
        lost = len(self._pending)
        if lost:
            self._pending.clear()
            self._done += lost
            self.failed += lost
            _log.error("exchanges_not_recorded", count=lost, error="the store was away until the end")

    async def _write_one_batch(self) -> bool:
        """Write what is next; False where the store's server is away, and what is not written waits as before."""
        # One commit at a time, in turn: whoever waits here finds what the commit before left over.
        async with self._turn:
            # From here on what is written waits no longer, so that only what comes meanwhile can pile up again.
            self._store.hurry(len(self._pending) >= self._too_many)
            parts = [[self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]]
            try:
                while parts:
                    if parts[-1]:
                        await self._write(parts)
                    else:
                        parts.pop()
            except BaseException as error:
                # Writing twice keeps once, so what was cut short simply goes back to the front.
                for part in parts:
                    self._pending.extendleft(reversed(part))
                if not isinstance(error, StoreError):
                    raise
                return False
            return True

    async def _write(self, parts: list[list[ExchangeRecord]]) -> None:
        """Write the last of `parts`, which are in reverse order, and take it off; or put its halves in its place.

        Raises:
            StoreError: the store's server is away.
        """
        part = parts[-1]
        try:
            kept = await self._keep(part)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - the loop's edge: one strange record must not stop recording
            # A record that cannot be stored at all: the others of its batch still are, in few commits.
            if len(part) > 1:
                half = len(part) // 2
                parts[-1:] = [part[half:], part[:half]]
                return
            _log.error("exchange_not_storable", request_id=part[0].request_id, error=type(error).__name__)
            kept = False
        parts.pop()
        self._done += len(part)
        if kept:
            self.written += len(part)
        else:
            self.failed += len(part)

    async def _keep(self, batch: Sequence[ExchangeRecord]) -> bool:
        """Try, wait, try again, a bounded number of times; False when the store stayed unwritable.

        Raises:
            StoreError: it is one that passes.
        """
        # Once it is known to be away it is only looked at again and again, and called failing until it is back.
        delays_s = () if self._is_away else self._retry_delays_s
        for delay_s in (*delays_s, None):
            try:
                await self._store.keep(batch)
            except StoreError as error:
                if delay_s is not None:
                    self.state = "retrying"
                    await asyncio.sleep(delay_s)
                    continue
                self.state = "failing"
                if error.passes:
                    self._tell_away(error)
                    raise
                _log.error("exchanges_not_recorded", count=len(batch), error=error.message, hint=error.hint)
                return False
            else:
                self.state, self._is_away = "ok", False
                return True
        raise AssertionError("the last try returns")

    def _tell_away(self, error: StoreError) -> None:
        if not self._is_away:
            _log.error("exchanges_wait", count=self.waiting, error=error.message, hint=error.hint)
        self._is_away = True
