"""The queue between replies and the store: bounded, never waited for by a request.

It drops the newest record when full, writes one commit a batch, and counts what it wrote, dropped and failed to
write. It decides nothing about consent: a record arrives with its purposes.
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


class ExchangeStore(Protocol):
    """Where batches go: one durable commit a call, and the same record twice is kept once."""

    async def keep(self, records: Sequence[ExchangeRecord]) -> None:
        """Write `records`, or raise StoreError where the store cannot be written now."""

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
    ) -> None:
        self._store = conversations
        self._queue_size = queue_size
        # Half a queue stays free: what comes before the writer has its turn would be dropped by a full one.
        self._too_many = max(1, queue_size // 2)
        self._batch = min(BATCH, self._too_many)
        self._retry_delays_s = tuple(retry_delays_s)
        self._linger_s = linger_s
        self._pending: deque[ExchangeRecord] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._turn = asyncio.Lock()
        self._offered = 0
        self._done = 0
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
                    await self._write_one_batch()
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
        """Return once all that was offered before is durable, or counted as failed, whether `run` runs or not."""
        target = self._offered
        while self._done < target:
            await self._write_one_batch()

    async def _write_one_batch(self) -> None:
        # One commit at a time, in turn: whoever waits here finds what the commit before left over.
        async with self._turn:
            # From here on what is written waits no longer, so that only what comes meanwhile can pile up again.
            self._store.hurry(len(self._pending) >= self._too_many)
            batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            if not batch:
                return
            try:
                await self._write(batch)
            except asyncio.CancelledError:
                # Writing twice keeps once, so a batch cut short simply goes back to the front.
                self._pending.extendleft(reversed(batch))
                raise
            self._done += len(batch)

    async def _write(self, batch: Sequence[ExchangeRecord]) -> None:
        try:
            kept = await self._keep(batch)
        except Exception as error:  # noqa: BLE001 - the loop's edge: one strange record must not stop recording
            # 1. A record that cannot be stored at all: the others of its batch still are, in few commits.
            if len(batch) > 1:
                half = len(batch) // 2
                await self._write(batch[:half])
                await self._write(batch[half:])
                return
            _log.error("exchange_not_storable", request_id=batch[0].request_id, error=type(error).__name__)
            kept = False
        if kept:
            self.written += len(batch)
        else:
            self.failed += len(batch)

    async def _keep(self, batch: Sequence[ExchangeRecord]) -> bool:
        """Try, wait, try again, a bounded number of times; False when the store stayed unwritable."""
        for delay_s in (*self._retry_delays_s, None):
            try:
                await self._store.keep(batch)
            except StoreError as error:
                if delay_s is None:
                    self.state = "failing"
                    _log.error("exchanges_not_recorded", count=len(batch), error=error.message, hint=error.hint)
                    return False
                self.state = "retrying"
                await asyncio.sleep(delay_s)
            else:
                self.state = "ok"
                return True
        raise AssertionError("the last try returns")
