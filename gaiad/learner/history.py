"""The history of cycles as the loop writes it: rows that wait while the store cannot take them, and the last decision.

Touches the table of cycles only; the learner's loop is its only user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import structlog

from gaiad.curriculum import Json
from gaiad.cycles import CycleRow, Cycles
from gaiad.errors import StoreError
from gaiad.learner.attempt import Attempt
from gaiad.learner.cycle import Kind, Phase, Verdict

log = structlog.get_logger()


class History:
    """Writes each cycle's row, and remembers what was decided last for the status page."""

    def __init__(self, cycles: Cycles) -> None:
        self._cycles = cycles
        self._waiting: dict[str, CycleRow] = {}
        self.last: dict[str, object] | None = None
        self.trouble: str | None = None

    async def interrupt_unfinished(self, now: float) -> list[CycleRow]:
        """At boot: close what a killed daemon left open, and return it."""
        ended = []
        for row in await self._cycles.unfinished():
            reason = f"gaiad ended while the cycle was {row.phase}"
            row = replace(row, ended=now, verdict=Verdict.INTERRUPTED.value, reason=reason, dataset_digest=None)
            await self._cycles.record_cycle(row)
            ended.append(row)
        for row in await self._cycles.cycles(1):
            version = (row.report or {}).get("version")
            self.note(row.adapter, str(row.verdict), row.reason or "", version=version, at=row.ended or now)
        return ended

    def note(self, adapter: str, what: str, reason: str, *, version: object, at: float) -> None:
        """Remember the last decision."""
        self.last = {"adapter": adapter, "version": version, "what": what, "reason": reason, "at": at}

    async def record(self, attempt: Attempt) -> None:
        """Write the cycle as it stands now."""
        order, verdict = attempt.order, attempt.verdict
        # 1. A look of the idle clock that finds nothing new leaves no row.
        if order.source == "idle" and (attempt.state.phase is Phase.FREEZING or verdict is Verdict.NOTHING_NEW):
            return
        # 2. The digest of an ended cycle says "nothing more to learn from this". An engine that died, a user who came
        #    first, a cancellation say nothing about the dataset: it stays new.
        learned = order.kind is Kind.TRAIN and (verdict is None or attempt.has_learned)
        self._waiting[attempt.id] = CycleRow(
            id=attempt.id,
            adapter=order.adapter,
            started=attempt.started,
            phase=attempt.state.phase.value,
            ended=attempt.ended,
            dataset_digest=(attempt.dataset_digest or None) if learned else None,
            verdict=verdict.value if verdict else None,
            reason=attempt.reason or None,
            report=cast("Mapping[str, Json]", attempt.report()),
        )
        await self.write()

    async def write(self) -> None:
        """Write rows that wait; while the store cannot take them they wait on, and `trouble` says so."""
        try:
            for name, row in list(self._waiting.items()):
                await self._cycles.record_cycle(row)
                del self._waiting[name]
        except StoreError as error:
            self.trouble = f"a cycle is not in the history yet: {error}"
            log.warning("cycle_not_written", reason=str(error))
        else:
            self.trouble = None
