"""The history of learning cycles: one row each, rewritten while it runs, kept for good.

It decides nothing: the learner's loop is the only writer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from gaiad import tables
from gaiad.curriculum import Json
from gaiad.db import Database

CUT_SHORT = ("cancelled", "interrupted")
"""Verdicts of cycles that ended without an answer: their dataset is still new."""


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One whole attempt. A finished cycle has an end and a verdict that is not one of `CUT_SHORT`."""

    id: str
    adapter: str
    started: float
    phase: str
    ended: float | None = None
    dataset_digest: str | None = None
    verdict: str | None = None
    reason: str | None = None
    report: Mapping[str, Json] | None = None

    def to_json(self) -> dict[str, Json]:
        """The row as the control socket shows it."""
        shown: dict[str, Json] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown["report"] = None if self.report is None else dict(self.report)
        return shown


class Cycles:
    """The table of cycles."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def record_cycle(self, row: CycleRow) -> None:
        """Write `row`, in place of an earlier one with the same id."""
        values: dict[str, object] = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        values["report"] = None if row.report is None else json.dumps(row.report)
        changed = {name: value for name, value in values.items() if name != "id"}
        async with self._db.write() as connection:
            query = tables.insert(connection, tables.cycles).values(values)
            await connection.execute(query.on_conflict_do_update(index_elements=["id"], set_=changed))

    async def cycles(self, limit: int) -> list[CycleRow]:
        """The newest cycles, newest first."""
        order = (tables.cycles.c.started.desc(), tables.cycles.c.id.desc())
        return await self._rows(sa.select(tables.cycles).order_by(*order).limit(max(limit, 0)))

    async def cycle(self, name: str) -> CycleRow | None:
        """One cycle by its id."""
        rows = await self._rows(sa.select(tables.cycles).where(tables.cycles.c.id == name))
        return rows[0] if rows else None

    async def unfinished(self) -> list[CycleRow]:
        """Cycles without an end, oldest first: at boot, those that a killed daemon left behind."""
        query = sa.select(tables.cycles).where(tables.cycles.c.ended.is_(None)).order_by(tables.cycles.c.started)
        return await self._rows(query)

    async def finished_digests(self, adapter: str) -> set[str]:
        """The datasets that finished cycles of `adapter` had, whatever the verdict: nothing more comes of them."""
        cycles = tables.cycles.c
        query = sa.select(cycles.dataset_digest).where(
            cycles.adapter == adapter,
            cycles.ended.is_not(None),
            cycles.verdict.not_in(CUT_SHORT),
            cycles.dataset_digest.is_not(None),
        )
        async with self._db.read() as connection:
            return {row.dataset_digest for row in await connection.execute(query)}

    async def with_exchanges(self, exchange_ids: frozenset[str]) -> list[str]:
        """The cycles whose dataset held one of these exchanges, oldest first."""
        query = sa.select(tables.cycles.c.id, tables.cycles.c.report).where(tables.cycles.c.report.is_not(None))
        async with self._db.read() as connection:
            rows = (await connection.execute(query.order_by(tables.cycles.c.started))).all()
        return [row.id for row in rows if not exchange_ids.isdisjoint(_exchanges_of(json.loads(row.report)))]

    async def _rows(self, query: sa.Select[*tuple[object, ...]]) -> list[CycleRow]:
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            CycleRow(**{**row, "report": None if row["report"] is None else json.loads(row["report"])}) for row in rows
        ]


def _exchanges_of(report: Mapping[str, Json]) -> set[str]:
    """The exchanges in a cycle's dataset, those that the trainer left out among them."""
    dataset = report.get("dataset")
    named = [dataset.get(key) for key in ("exchange_ids", "left_out_exchange_ids")] if isinstance(dataset, dict) else []
    return {str(one) for ids in named if isinstance(ids, list) for one in ids}
