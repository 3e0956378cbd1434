"""Erasures in the database: what was asked for, how far each is, and the rows that go.

Deletes content and keeps the bare row of an exchange, marked as erased. It knows neither adapters nor files; `eraser`
does, and is its only user.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import aside, tables
from gaiad.aside import SetAside
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.erasure import Kind, Phase, Selector, exchange_ids_of

_COLUMNS = {Kind.USER: "user", Kind.CONVERSATION: "conversation", Kind.EXCHANGE: "request_id"}


@dataclass(frozen=True, slots=True)
class Reach:
    """What a selector names: kept exchanges, and those that only a damaged store which was set aside still holds.

    `since` is when the oldest was kept, 0 where that is not known: copies of the store made after it may hold some.
    `unread` are the damaged stores that could not be looked through.
    """

    exchange_ids: tuple[str, ...]
    since: float | None
    unread: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The part of a report that is fixed when an erasure is asked for."""
        return {"exchange_ids": [*self.exchange_ids], "copies_since": self.since, "unread": [*self.unread]}


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
        return exchange_ids_of(self.report)

    @property
    def unread(self) -> list[str]:
        """The damaged stores of which nobody knows whether they hold any of it."""
        unread = self.report.get("unread")
        return [str(one) for one in unread] if isinstance(unread, list) else []

    @property
    def copies_since(self) -> float | None:
        """From when on a copy of the store may hold any of it; None where there is nothing to hold."""
        since = self.report.get("copies_since", 0.0)
        return float(since) if isinstance(since, int | float) else None

    @property
    def versions(self) -> frozenset[str]:
        """The versions that were set aside for it."""
        rows = self.report.get("versions")
        known = rows if isinstance(rows, list) else []
        return frozenset(str(row["version"]) for row in known if isinstance(row, dict))

    def went(self, table: str) -> int:
        """How many rows of a table went already."""
        rows = self.report.get("rows")
        count = rows.get(table) if isinstance(rows, dict) else None
        return count if isinstance(count, int) else 0

    def to_json(self) -> dict[str, Json]:
        """The erasure as the control socket shows it."""
        return {"id": self.id, "at": self.at, "ended": self.ended, "phase": self.phase.value, **self.report}


class Erasures:
    """The table of erasures, and the deletions that it stands for."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reach(self, selector: Selector) -> Reach:
        """The exchanges that a selector names, oldest first."""
        lost, unread = await asyncio.to_thread(_in_set_aside, self._db.set_aside, selector)
        async with self._db.read() as connection:
            return _reach(await _kept(connection, selector), lost, unread)

    async def begin(self, name: str, selector: Selector, at: float, by: str) -> Erasure:
        """Take an erasure down together with what it covers; from here on it is gone through, crash or not."""
        lost, unread = await asyncio.to_thread(_in_set_aside, self._db.set_aside, selector)
        async with self._db.write() as connection:
            reach = _reach(await _kept(connection, selector), lost, unread)
            asked: dict[str, Json] = {"kind": selector.kind.value, "name": selector.name, "by": by}
            report: dict[str, Json] = {"asked": asked, **reach.to_json()}
            row = {"id": name, "at": at, "kind": selector.kind.value, "name": selector.name}
            row |= {"phase": Phase.ASKED.value, "report": json.dumps(report)}
            await connection.execute(sa.insert(tables.erasures).values(row))
        return Erasure(name, at, selector, Phase.ASKED, report)

    async def note(self, erasure: Erasure) -> None:
        """Write down how far an erasure is."""
        async with self._db.write() as connection:
            await connection.execute(_noted(erasure))

    async def purge(self, erasure: Erasure) -> Erasure:
        """Delete content, feedback and signals of its exchanges; the same commit notes how many rows went."""
        exchanges, ids = tables.exchanges, erasure.exchange_ids
        went: dict[str, Json] = {}
        async with self._db.write() as connection:
            for table in tables.CONTENT:
                deleted = erasure.went(table.name)
                for some in tables.in_parts(ids):
                    deleted += (await connection.execute(sa.delete(table).where(table.c.request_id.in_(some)))).rowcount
                went[table.name] = deleted
            for some in tables.in_parts(ids):
                marked = sa.update(exchanges).where(exchanges.c.request_id.in_(some)).values(decision="erased")
                await connection.execute(marked)
            purged = replace(erasure, report={**erasure.report, "rows": went})
            await connection.execute(_noted(purged))
        return purged

    async def left(self, ids: Sequence[str]) -> int:
        """How many rows with content of these exchanges there still are."""
        found = 0
        async with self._db.read() as connection:
            for table in tables.CONTENT:
                for some in tables.in_parts(ids):
                    query = sa.select(sa.func.count()).select_from(table).where(table.c.request_id.in_(some))
                    found += (await connection.execute(query)).scalar_one()
        return found

    async def backups(self, since: float) -> list[dict[str, Json]]:
        """Copies of the database that were made after `since`, oldest first."""
        made = tables.backups.c
        query = sa.select(made.path, made.at).where(made.at >= since).order_by(made.id)
        async with self._db.read() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def listed(self, limit: int = 50) -> list[Erasure]:
        """The newest erasures, newest first."""
        return await self._rows(sa.select(tables.erasures).order_by(tables.erasures.c.at.desc()).limit(max(limit, 0)))

    async def unfinished(self) -> list[Erasure]:
        """What a daemon that ended left undone, oldest first."""
        query = sa.select(tables.erasures).where(tables.erasures.c.ended.is_(None)).order_by(tables.erasures.c.at)
        return await self._rows(query)

    @property
    def beyond(self) -> list[Json]:
        """Where bytes of what is deleted may be that scouring does not reach, in words."""
        return [*self._db.beyond]

    async def scour(self) -> None:
        """Leave none of the deleted bytes in the database's tables."""
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


def _noted(erasure: Erasure) -> sa.Update:
    values = {"phase": erasure.phase.value, "ended": erasure.ended, "report": json.dumps(erasure.report)}
    return sa.update(tables.erasures).where(tables.erasures.c.id == erasure.id).values(values)


async def _kept(connection: AsyncConnection, selector: Selector) -> list[tuple[str, float]]:
    """The kept exchanges that are named, and when each was, oldest first."""
    contents, exchanges = tables.exchange_contents.c, tables.exchanges.c
    joined = tables.exchange_contents.join(tables.exchanges, exchanges.request_id == contents.request_id)
    query = sa.select(contents.request_id, exchanges.at).select_from(joined)
    query = query.where(contents[_COLUMNS[selector.kind]] == selector.name)
    rows = await connection.execute(query.order_by(exchanges.at, contents.request_id))
    return [(row.request_id, row.at) for row in rows]


def _in_set_aside(damaged: Sequence[SetAside], selector: Selector) -> tuple[list[str], list[str]]:
    """Exchanges that are named in damaged stores which are still there, and the stores that could not be read whole."""
    found, unread = dict[str, None](), list[str]()
    for one in damaged:
        path = Path(one.path)
        if not path.exists():
            continue
        ids, is_whole = aside.exchanges_in(path, _COLUMNS[selector.kind], selector.name)
        found |= dict.fromkeys(ids)
        if not is_whole:
            unread.append(one.path)
    return list(found), unread


def _reach(kept: Sequence[tuple[str, float]], lost: Sequence[str], unread: Sequence[str]) -> Reach:
    # Of what lies in a damaged store nobody knows since when it is in copies.
    since = 0.0 if lost or unread else kept[0][1] if kept else None
    return Reach(tuple(dict.fromkeys([*lost, *(one for one, _ in kept)])), since, tuple(unread))
