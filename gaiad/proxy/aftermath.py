"""What is left of a request once its reply is out: the consent decision, then the recorder.

One task asks for consent and offers the record, in the order of the replies, so that neither delays nor fails one. It
decides nothing itself; where no decision can be had, nothing is kept but the content-free row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gaiad.exchange import ExchangeRecord

_log = structlog.get_logger()

DECISION_TIMEOUT_S = 5.0


class Aftermath:
    """A bounded queue of records that wait for their purposes; `run` is its only reader."""

    def __init__(
        self,
        consent: Callable[[str, str | None], Awaitable[frozenset[str]]],
        offer: Callable[[ExchangeRecord], bool],
        limit: int,
    ) -> None:
        self._consent = consent
        self._offer = offer
        self._queue: asyncio.Queue[tuple[ExchangeRecord, str | None]] = asyncio.Queue(limit)

    def leave(self, record: ExchangeRecord, consent_header: str | None) -> None:
        """Leave a record for its decision; never waits. A full queue keeps the content-free row only."""
        try:
            self._queue.put_nowait((record, consent_header))
        except asyncio.QueueFull:
            self._offer(record.content_free())

    async def run(self) -> None:
        """Decide and offer until cancelled."""
        while True:
            record, header = await self._queue.get()
            try:
                self._offer(record.with_purposes(await self._purposes(record, header)))
            finally:
                self._queue.task_done()

    async def settled(self) -> None:
        """Return once every record left so far was offered."""
        await self._queue.join()

    async def _purposes(self, record: ExchangeRecord, header: str | None) -> frozenset[str]:
        if record.user is None:
            return frozenset()
        try:
            async with asyncio.timeout(DECISION_TIMEOUT_S):
                return await self._consent(record.user, header)
        except Exception as error:  # noqa: BLE001 - the loop's edge: without a decision nothing may be kept
            _log.warning("consent_not_decided", request_id=record.request_id, error=type(error).__name__)
            return frozenset()
