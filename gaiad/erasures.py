"""Erasures in the database: what was asked for, how far each is, and the rows that go.

Deletes content and keeps the bare row of an exchange, marked as erased. It knows neither adapters nor files; `eraser`
does, and is its only user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.erasure import Kind, Phase, Selector


@dataclass(frozen=True, slots=True)
class Erasure:
    """One row: `report` grows with each phase and never holds what was said."""

    id: str
    at: float
    selector: Selector
    phase: Phase
    report: Mapping[str, Json]
    ended: float | None = None

    @property
    def exchange_ids(self) -> list[str]:
        """The exchanges that go; fixed when it was asked for."""
        ids = self.report.get("exchange_ids")
        return [str(one) for one in ids] if isinstance(ids, list) else []

    def to_json(self) -> dict[str, Json]:
        """The erasure as the control socket shows it."""
        return {"id": self.id, "at": self.at, "ended": self.ended, "phase": self.phase.value, **self.report}


class Erasures:
    """The table of erasures, and the deletions that it stands for."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def covered(self, selector: Selector) -> list[str]:
        """The kept exchanges that a selector names, oldest first."""
        async with self._db.read() as connection:
            return await _covered(connection, selector)

    async def begin(self, name: str, selector: Selector, at: float, by: str) -> Erasure:
        """Take an erasure down together with what it covers; from here on it is gone through, crash or not."""
        async with self._db.write() as connection:
            ids = await _covered(connection, selector)
            asked: dict[str, Json] = {"kind": selector.kind.value, "name": selector.name, "by": by}
            report: dict[str, Json] = {"asked": asked, "exchange_ids": [*ids]}
            row = {"id": name, "at": at, "kind": selector.kind.value, "name": selector.name}
            row |= {"phase": Phase.ASKED.value, "report": json.dumps(report)}
            await connection.execute(sa.insert(tables.erasures).values(row))
        return Erasure(name, at, selector, Phase.ASKED, report)

    async def note(self, erasure: Erasure) -> None:
        """Write down how far an erasure is."""
        values = {"phase": erasure.phase.value, "ended": erasure.ended, "report": json.dumps(erasure.report)}
        query = sa.update(tables.erasures).where(tables.erasures.c.id == erasure.id).values(values)
        async with self._db.write() as connection:
            await connection.execute(query)

    async def purge(self, ids: Sequence[str]) -> dict[str, Json]:
        """Delete content, feedback and signals of exchanges in one commit; says how many rows went."""
        contents, exchanges = tables.exchange_contents, tables.exchanges
        went: dict[str, Json] = {}
        async with self._db.write() as connection:
            for table in (tables.signals, tables.feedback, contents):
                deleted = 0
                for some in tables.in_parts(ids):
                    deleted += (await connection.execute(sa.delete(table).where(table.c.request_id.in_(some)))).rowcount
                went[table.name] = deleted
            for some in tables.in_parts(ids):
                marked = sa.update(exchanges).where(exchanges.c.request_id.in_(some)).values(decision="erased")
                await connection.execute(marked)
        return went

    async def left(self, ids: Sequence[str]) -> int:
        """How many rows with content of these exchanges there still are."""
        found = 0
        async with self._db.read() as connection:
            for table in (tables.exchange_contents, tables.feedback, tables.signals):
                for some in tables.in_parts(ids):
                    query = sa.select(sa.func.count()).select_from(table).where(table.c.request_id.in_(some))
                    found += (await connection.execute(query)).scalar_one()
        return found

    async def backups(self, since: float | None = None) -> list[dict[str, Json]]:
        """Copies of the database, oldest first; those made after `since` only, where given."""
        made = tables.backups.c
        query = sa.select(made.path, made.at).order_by(made.id)
        if since is not None:
            query = query.where(made.at >= since)
        async with self._db.read() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def oldest(self, ids: Sequence[str]) -> float | None:
        """When the oldest of these exchanges was kept."""
        found = []
        async with self._db.read() as connection:
            for some in tables.in_parts(ids):
                query = sa.select(sa.func.min(tables.exchanges.c.at)).where(tables.exchanges.c.request_id.in_(some))
                found.append((await connection.execute(query)).scalar_one())
        return min((at for at in found if at is not None), default=None)

    async def listed(self, limit: int = 50) -> list[Erasure]:
        """The newest erasures, newest first."""
        return await self._rows(sa.select(tables.erasures).order_by(tables.erasures.c.at.desc()).limit(max(limit, 0)))

    async def unfinished(self) -> list[Erasure]:
        """What a daemon that ended left undone, oldest first."""
        query = sa.select(tables.erasures).where(tables.erasures.c.ended.is_(None)).order_by(tables.erasures.c.at)
        return await self._rows(query)

    async def scour(self) -> None:
        """Leave none of the deleted bytes in the database's files."""
        await self._db.scour()

    async def _rows(self, query: sa.Select[*tuple[object, ...]]) -> list[Erasure]:
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            Erasure(
                id=row["id"],
                at=row["at"],
                selector=Selector(Kind(row["kind"]), row["name"]),
                phase=Phase(row["phase"]),
                report=json.loads(row["report"]),
                ended=row["ended"],
            )
            for row in rows
        ]


async def _covered(connection: AsyncConnection, selector: Selector) -> list[str]:
    contents, exchanges = tables.exchange_contents.c, tables.exchanges.c
    column = {Kind.USER: contents.user, Kind.CONVERSATION: contents.conversation, Kind.EXCHANGE: contents.request_id}
    joined = tables.exchange_contents.join(tables.exchanges, exchanges.request_id == contents.request_id)
    query = sa.select(contents.request_id).select_from(joined).where(column[selector.kind] == selector.name)
    return list((await connection.execute(query.order_by(exchanges.at, contents.request_id))).scalars())
