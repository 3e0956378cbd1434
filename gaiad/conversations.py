"""The exchanges that were kept because somebody agreed to it.

Writes exchanges in batches and gives them back; what was thought of them is `feedback`'s work. Consent is decided by
`consent`; here it is only asked, once more before each write.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.consent import Purpose
from gaiad.content import Content, content_of
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.erasure import Selector
from gaiad.exchange import ExchangeRecord, storable
from gaiad.feedback import Feedback, newest_of, said_of
from gaiad.grants import Grants
from gaiad.redact_file import load_scrubber
from gaiad.retention import Held
from gaiad.signals import Asked, Signal, lately, regenerated, untimed
from gaiad.user import user_name

_RECORDED = tuple(column.name for column in tables.exchanges.columns if column.name != "decision")
# Several rows in one statement: the driver gives the interpreter's lock up and takes it back once a step, and a step a
# row would stand in the way of every reply that is on its way meanwhile.
_ROWS_AT_ONCE = 256
_ALIKE = 64
"""How many exchanges with one question are looked at for whether it came again."""
_PAGE_BYTES = 1024 * 1024
_SORTED_AT_MOST = 1000
_Row: TypeAlias = tuple[object, ...]
Place: TypeAlias = tuple[float, str]
"""After which exchange the next ones come: its time and its request id."""


def _length(text: sa.Column[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.length(text), 0)


def _feedback_bytes() -> sa.ColumnElement[int]:
    """What people thought of an exchange goes with it, so its bytes are the exchange's too."""
    said = tables.feedback.c
    each = sa.func.coalesce(tables.Octets(said.correction), 0) + sa.func.coalesce(tables.Octets(said.note), 0)
    query = sa.select(sa.func.coalesce(sa.func.sum(each), 0))
    return query.where(said.request_id == tables.exchange_contents.c.request_id).scalar_subquery()


# Rows of a time when it was not written down have to be measured.
_SIZE = (
    sa.func.coalesce(
        tables.exchange_contents.c.size,
        _length(tables.exchange_contents.c.request) + _length(tables.exchange_contents.c.response),
    )
    + _feedback_bytes()
)


def _insert_metadata(rows: int) -> str:
    row = f"({', '.join('?' * (len(_RECORDED) + 1))})"
    return f"{_INTO_METADATA} {', '.join([row] * rows)} ON CONFLICT DO NOTHING"


_INTO_METADATA = f"INSERT INTO {tables.exchanges.name} ({', '.join(_RECORDED)}, decision) VALUES"
_INSERT_ONE, _INSERT_MANY = _insert_metadata(1), _insert_metadata(_ROWS_AT_ONCE)
_INSERT_ARRAYS = tables.from_arrays(tables.exchanges, (*_RECORDED, "decision"))


def _statements(dialect: str, rows: Sequence[_Row]) -> Iterator[tuple[str, _Row | list[_Row]]]:
    """Statements that write `rows`: many at once as long as they last, the rest one by one in one call.

    Two statements, whatever the number: the driver keeps each different one prepared, and large ones are large.
    """
    if dialect == "postgresql":
        yield _INSERT_ARRAYS, tuple(map(list, zip(*rows, strict=True)))
        return
    rest = len(rows) % _ROWS_AT_ONCE
    for at in range(0, len(rows) - rest, _ROWS_AT_ONCE):
        yield _INSERT_MANY, tuple(chain.from_iterable(rows[at : at + _ROWS_AT_ONCE]))
    if rest:
        yield _INSERT_ONE, list(rows[-rest:])


class Conversations:
    """Sole writer of exchanges, with the `feedback` on them; `grants` says what may be kept.

    `load` once, before the first request.
    """

    def __init__(self, db: Database, grants: Grants | None = None) -> None:
        self._db = db
        self.grants = grants or Grants(db)
        self._scrubber = load_scrubber(db.config)
        self.feedback = Feedback(db, self.grants, self._scrubber)
        self._closed: dict[Selector, float] = {}

    async def load(self) -> None:
        """Read what was agreed to, so that a request needs no database to know what it may keep."""
        await self.grants.load()

    def close(self, selector: Selector, at: float) -> None:
        """Keep nothing of what is named and was begun until `at`, however late it comes: it is being erased."""
        self._closed[selector] = at

    async def keep(self, records: Sequence[ExchangeRecord]) -> None:
        """Write `records` in one durable commit; a record that is already there stays as it is.

        What was revoked while a record waited is not kept.

        Raises:
            StoreError: nothing of the batch was written.
        """
        allowed = [self._without_revoked(record) for record in records]
        if not allowed:
            return
        # Off the loop: looking for secrets takes its time, and replies should not wait for it.
        contents = await asyncio.to_thread(self._contents, [record for record in allowed if record.purposes])
        async with self._db.write() as connection:
            # What was revoked, or is being erased, since the look before is not kept either.
            final = [self._without_revoked(record) for record in allowed]
            dialect = connection.dialect.name
            for statement, values in _statements(dialect, [_metadata_row(record, dialect) for record in final]):
                await connection.exec_driver_sql(statement, values)
            await _write_contents(connection, [record for record in final if record.purposes], contents)

    def _contents(self, records: Sequence[ExchangeRecord]) -> dict[str, Content]:
        """What may be written down of each, by request id."""
        return {record.request_id: content_of(record, self._scrubber) for record in records}

    def hurry(self, hurries: bool) -> None:
        """Have rows written at once, even where replies then wait for a core; or not any more."""
        self._db.pace.hurry(hurries)

    async def exchange(self, request_id: str) -> dict[str, Json] | None:
        """One exchange with all that was kept of it. It is durable: only committed rows are seen."""
        if not storable(request_id):
            return None
        async with self._db.read() as connection:
            query = _joined().where(tables.exchanges.c.request_id == request_id)
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                return None
            said, signals = await said_of(connection, [request_id]), await _signals(connection, [request_id])
        return _whole(row, said, signals)

    async def exchanges(self, limit: int, user: str | None = None) -> list[dict[str, Json]]:
        """The newest exchanges, newest first, of one user only where named.

        Without their content: `feedback` is the newest verdict, with `correction` only saying whether there is one.
        """
        contents = tables.exchange_contents.c
        query = _with(contents.user, contents.conversation, contents.purposes)
        query = query.order_by(tables.exchanges.c.at.desc(), tables.exchanges.c.request_id).limit(max(limit, 0))
        async with self._db.read() as connection:
            if user is not None:
                query = query.where(await _is_of(connection, user_name(user) or ""))
            rows = (await connection.execute(query)).mappings().all()
            ids = [row["request_id"] for row in rows]
            said, signals = await newest_of(connection, ids), await _signals(connection, ids)
        return [
            {**_summary(row), "feedback": said.get(row["request_id"]), "signals": signals.get(row["request_id"], [])}
            for row in rows
        ]

    async def exported(
        self, purpose: Purpose, *, after: Place | None, limit: int, user: str | None, stage: str | None
    ) -> tuple[list[dict[str, Json]], Place | None]:
        """All of the next exchanges that may be used for `purpose` now, oldest first, and where the next ones begin.

        Looks at `limit` rows at most, and at fewer where they are large, so there may be fewer, or none, before the
        end, where that place is None.
        """
        exchanges, contents = tables.exchanges.c, tables.exchange_contents.c
        named = (exchanges.request_id, exchanges.at, exchanges.started, contents.user, contents.conversation)
        query = sa.select(*named, contents.purposes, _SIZE.label("size"))
        query = query.join(tables.exchange_contents, contents.request_id == exchanges.request_id)
        query = query.where(contents.purposes.contains(purpose.value, autoescape=True))
        if after is not None:
            query = query.where(sa.tuple_(exchanges.at, exchanges.request_id) > sa.tuple_(*map(sa.literal, after)))
        if user is not None:
            # Not by the index of users: each page would sort all that is left of one, and here all are gone through.
            query = query.where(sa.func.coalesce(contents.user, "") == (user_name(user) or ""))
        if stage is not None:
            query = query.where(exchanges.stage == stage)
        async with self._db.read() as connection:
            # Bodies are read once it is known which: sorting what may be all of a user's would move every one of them.
            ordered = query.order_by(exchanges.at, exchanges.request_id).limit(limit)
            found = (await connection.execute(ordered)).mappings().all()
            page = _one_page(found)
            ids = [row["request_id"] for row in page if self._may_be_used(row, purpose)]
            whole = _joined().where(exchanges.request_id.in_(ids)).order_by(exchanges.at, exchanges.request_id)
            rows = (await connection.execute(whole)).mappings().all() if ids else []
            said, signals = await said_of(connection, ids), await _signals(connection, ids)
        end = (page[-1]["at"], page[-1]["request_id"]) if len(page) == limit or len(page) < len(found) else None
        return [_whole(row, said, signals) for row in rows], end

    def _may_be_used(self, row: sa.RowMapping, purpose: Purpose) -> bool:
        if purpose.value not in row["purposes"].split(","):
            return False
        return self.grants.still_usable(purpose, row["user"], row["conversation"], row["started"])

    async def held(self, after: Place | None, limit: int) -> tuple[list[Held], Place | None]:
        """The next exchanges with content, newest first, and where the ones before them begin; None at the end."""
        exchanges, contents = tables.exchanges.c, tables.exchange_contents.c
        query = sa.select(exchanges.request_id, exchanges.at, contents.purposes, _SIZE.label("size"))
        query = query.join(tables.exchange_contents, contents.request_id == exchanges.request_id)
        if after is not None:
            query = query.where(sa.tuple_(exchanges.at, exchanges.request_id) < sa.tuple_(*map(sa.literal, after)))
        async with self._db.read() as connection:
            ordered = query.order_by(exchanges.at.desc(), exchanges.request_id.desc()).limit(limit)
            rows = (await connection.execute(ordered)).all()
        found = [Held(row.request_id, row.at, _purposes(row.purposes), row.size) for row in rows]
        return found, (rows[-1].at, rows[-1].request_id) if len(rows) == limit else None

    async def keep_less(self, changes: Mapping[str, frozenset[Purpose]]) -> None:
        """Keep these exchanges for these purposes only; of those without one only the bare row stays."""
        by_purposes: dict[frozenset[Purpose], list[str]] = {}
        for request_id, left in changes.items():
            by_purposes.setdefault(left, []).append(request_id)
        contents = tables.exchange_contents
        async with self._db.write() as connection:
            for left, ids in by_purposes.items():
                for some in tables.in_parts(ids):
                    if left:
                        query = sa.update(contents).where(contents.c.request_id.in_(some))
                        await connection.execute(query.values(purposes=",".join(sorted(left))))
                    else:
                        await _delete_contents(connection, some)

    async def kept_for(self, purpose: Purpose, request_ids: Iterable[str]) -> frozenset[str]:
        """Those of these exchanges that are kept for a purpose."""
        contents = tables.exchange_contents.c
        found: set[str] = set()
        async with self._db.read() as connection:
            for some in tables.in_parts(request_ids):
                query = sa.select(contents.request_id, contents.purposes).where(contents.request_id.in_(some))
                rows = (await connection.execute(query)).all()
                found |= {row.request_id for row in rows if purpose in _purposes(row.purposes)}
        return frozenset(found)

    async def newest(self) -> float | None:
        """When the last exchange was over, in wall-clock seconds; None where there is none."""
        async with self._db.read() as connection:
            (at,) = (await connection.execute(sa.select(sa.func.max(tables.exchanges.c.at)))).one()
        return None if at is None else float(at)

    async def delete_old_metadata(self, before: float, limit: int) -> int:
        """Delete the first `limit` content-free rows older than `before`, so that others may write; say how many."""
        exchanges, contents = tables.exchanges, tables.exchange_contents
        old = sa.select(exchanges.c.request_id).where(exchanges.c.at < before)
        bare = old.where(~sa.exists().where(contents.c.request_id == exchanges.c.request_id)).limit(limit)
        async with self._db.write() as connection:
            return (await connection.execute(sa.delete(exchanges).where(exchanges.c.request_id.in_(bare)))).rowcount

    def _without_revoked(self, record: ExchangeRecord) -> ExchangeRecord:
        if not record.purposes and record.user is None and record.request is None and record.response is None:
            return record
        named = msgspec.structs.replace(record, user=user_name(record.user))
        if self._is_closed(named):
            return named.content_free()
        return named.with_purposes(self.grants.unrevoked(named.user, named.purposes, named.conversation))

    def _is_closed(self, record: ExchangeRecord) -> bool:
        return any(
            record.started <= at
            and selector.covers(user=record.user, conversation=record.conversation, request_id=record.request_id)
            for selector, at in self._closed.items()
        )


async def _is_of(connection: AsyncConnection, user: str) -> sa.ColumnElement[bool]:
    """That an exchange is one of a user's, said so that the newest of them are found without sorting many rows."""
    contents = tables.exchange_contents.c
    some = sa.select(contents.request_id).where(contents.user == user).limit(_SORTED_AT_MOST + 1).subquery()
    (count,) = (await connection.execute(sa.select(sa.func.count()).select_from(some))).one()
    # 1. Few are got by the index of users, and sorted. 2. One of many is soon met, going back in time.
    return contents.user == user if count <= _SORTED_AT_MOST else sa.func.coalesce(contents.user, "") == user


def _metadata_row(record: ExchangeRecord, dialect: str) -> _Row:
    # In the order of `_RECORDED`. Plain texts and numbers: SQLite's driver asks around how to write anything else.
    flag = bool if dialect == "postgresql" else int
    return (
        record.request_id,
        record.at,
        record.stage,
        record.stage_reason,
        record.version,
        str(record.arm),
        record.status,
        record.prompt_tokens,
        record.completion_tokens,
        record.started,
        record.first_byte_ms,
        record.total_ms,
        record.finish_reason,
        flag(record.streamed),
        flag(record.complete),
        None if record.valid is None else flag(record.valid),
        str(record.outcome),
        "kept" if record.purposes else "not_kept",
    )


async def _write_contents(
    connection: AsyncConnection, records: Sequence[ExchangeRecord], contents: Mapping[str, Content]
) -> None:
    """Write what was said in `records`, and what follows from it for these and for earlier replies."""
    if not records:
        return
    # A purpose may have been revoked since the content was made ready.
    rows = [{**contents[one.request_id].row, "purposes": ",".join(sorted(one.purposes))} for one in records]
    await tables.insert_new(connection, tables.exchange_contents, rows)
    signals: list[dict[str, object]] = [
        {"request_id": one.request_id, "what": what.value, "at": one.at}
        for one in records
        for what in contents[one.request_id].signals
    ]
    asked = zip(records, rows, strict=True)
    questions = {(untimed(str(row["question"])), one.started) for one, row in asked if row["question"]}
    signals += await _asked_again(connection, questions, max(one.at for one in records))
    await tables.insert_new(connection, tables.signals, signals)


async def _delete_contents(connection: AsyncConnection, request_ids: Sequence[str]) -> None:
    for table in tables.CONTENT:
        await connection.execute(sa.delete(table).where(table.c.request_id.in_(request_ids)))
    exchanges = tables.exchanges
    marked = sa.update(exchanges).where(exchanges.c.request_id.in_(request_ids), exchanges.c.decision == "kept")
    await connection.execute(marked.values(decision="expired"))


async def _asked_again(
    connection: AsyncConnection, questions: Iterable[tuple[str, float]], now: float
) -> list[dict[str, object]]:
    """The replies after which one of these questions came again; each is named with the time that it came at.

    Of a question that comes again and again only the newest are looked at: those before them were already.
    """
    exchanges, contents = tables.exchanges.c, tables.exchange_contents.c
    newest = sa.func.row_number().over(partition_by=contents.question, order_by=exchanges.at.desc())
    found: list[Asked] = []
    for some in tables.in_parts(sorted({one for question, at in questions for one in lately(question, at)})):
        alike = (
            sa.select(
                *(exchanges.request_id, contents.question, exchanges.started, exchanges.at, exchanges.outcome),
                newest.label("place"),
            )
            .join(tables.exchange_contents, contents.request_id == exchanges.request_id)
            .where(contents.question.in_(some))
            .subquery()
        )
        for row in (await connection.execute(sa.select(alike).where(alike.c.place <= _ALIKE))).all():
            found.append(Asked(row.request_id, untimed(row.question), row.started, row.at, row.outcome))
    return [{"request_id": one, "what": Signal.REGENERATED.value, "at": now} for one in regenerated(found)]


async def _signals(connection: AsyncConnection, request_ids: Sequence[str]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    query = sa.select(tables.signals.c.request_id, tables.signals.c.what)
    query = query.where(tables.signals.c.request_id.in_(request_ids)).order_by(tables.signals.c.what)
    for row in await connection.execute(query):
        found.setdefault(row.request_id, []).append(row.what)
    return found


def _with(*columns: sa.Column[Any]) -> sa.Select[*tuple[object, ...]]:
    contents = tables.exchange_contents
    joined = tables.exchanges.outerjoin(contents, contents.c.request_id == tables.exchanges.c.request_id)
    return sa.select(tables.exchanges, *columns).select_from(joined)


def _joined() -> sa.Select[*tuple[object, ...]]:
    return _with(*(column for column in tables.exchange_contents.columns if column.name != "request_id"))


def _one_page(rows: Sequence[sa.RowMapping]) -> Sequence[sa.RowMapping]:
    """As many of the first rows as may be put into one answer without standing in the way of replies; one at least."""
    sizes = accumulate(row["size"] for row in rows)
    return rows[: max(1, sum(size <= _PAGE_BYTES for size in sizes))]


def _purposes(text: str) -> frozenset[Purpose]:
    return frozenset(map(Purpose, text.split(",")))


def _whole(
    row: sa.RowMapping, said: Mapping[str, Sequence[dict[str, Json]]], signals: Mapping[str, list[Json]]
) -> dict[str, Json]:
    """All of an exchange."""
    found = _summary(row)
    found["signals"], found["feedback"] = signals.get(row["request_id"], []), [*said.get(row["request_id"], ())]
    for name in ("request", "response", "sampling"):
        found[name] = json.loads(row[name]) if row[name] else None
    found["scrubbed"] = json.loads(row["scrubbed"]) if row["scrubbed"] else {}
    return found | {name: row[name] for name in ("consent", "engine", "template")}


def _summary(row: sa.RowMapping) -> dict[str, Json]:
    found: dict[str, Json] = {column.name: row[column.name] for column in tables.exchanges.columns}
    found["user"] = row["user"]
    found["conversation"] = row["conversation"]
    found["purposes"] = row["purposes"].split(",") if row["purposes"] else []
    found["durable"] = True
    return found
