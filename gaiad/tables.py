"""The tables of the database. They say what a row holds; what it means is for the modules that write it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

metadata = sa.MetaData()
_ARRAYS: dict[type, str] = {sa.Text: "text[]", sa.Float: "float8[]", sa.Integer: "int4[]", sa.Boolean: "bool[]"}
_IS_ACTIVE = sa.text("stage = 'active'")

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("conversation", sa.Text),
    sa.Column("expires_at", sa.Float),
    sa.Index("grants_by_user", "user", "id"),
    sqlite_autoincrement=True,
)

exchanges = sa.Table(
    "exchanges",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("stage_reason", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("completion_tokens", sa.Integer),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("first_byte_ms", sa.Float),
    sa.Column("total_ms", sa.Float, nullable=False),
    sa.Column("finish_reason", sa.Text),
    sa.Column("streamed", sa.Boolean, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("valid", sa.Boolean),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Index("exchanges_by_time", "at"),
)
"""One row a request, without anything that the client said or is."""

exchange_contents = sa.Table(
    "exchange_contents",
    metadata,
    sa.Column("request_id", sa.Text, sa.ForeignKey("exchanges.request_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("conversation", sa.Text),
    sa.Column("purposes", sa.Text, nullable=False),
    sa.Column("request", sa.Text),
    sa.Column("response", sa.Text),
    sa.Column("consent", sa.Text),
    sa.Column("scrubbed", sa.Text),
    sa.Column("question", sa.Text),
    sa.Column("sampling", sa.Text),
    sa.Column("engine", sa.Text),
    sa.Column("template", sa.Text),
    sa.Column("size", sa.Integer),
    sa.Index("contents_by_user", "user"),
    sa.Index("contents_by_conversation", "conversation"),
    sa.Index("contents_by_question", "question"),
)
"""Who said what: only for exchanges that were kept for at least one purpose."""

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.Text, sa.ForeignKey("exchange_contents.request_id", ondelete="CASCADE"), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("correction", sa.Text),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("note", sa.Text),
    sa.Index("feedback_by_exchange", "request_id", "id"),
    sqlite_autoincrement=True,
)

signals = sa.Table(
    "signals",
    metadata,
    sa.Column("request_id", sa.Text, sa.ForeignKey("exchange_contents.request_id", ondelete="CASCADE"), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.PrimaryKeyConstraint("request_id", "what"),
)
"""What a reply's fate says without anybody saying it: JSON that is none, a question asked again, a stream left."""

CONTENT = (signals, feedback, exchange_contents)
"""All that goes with what was said in an exchange, in the order in which it can go."""

adapter_versions = sa.Table(
    "adapter_versions",
    metadata,
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("adapter", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("lineage", sa.Text, nullable=False),
    sa.Column("report", sa.Text),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Column("last_event", sa.Integer, nullable=False),
    sa.Index("versions_by_number", "adapter", "number", unique=True),
    sa.Index("one_active_version", "adapter", unique=True, sqlite_where=_IS_ACTIVE, postgresql_where=_IS_ACTIVE),
)

adapter_events = sa.Table(
    "adapter_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("adapter", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

cycles = sa.Table(
    "cycles",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("adapter", sa.Text, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Column("dataset_digest", sa.Text),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("report", sa.Text),
    sa.Index("cycles_by_start", "started"),
)

backups = sa.Table(
    "backups",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
"""Copies of this database, so that an erasure can name those that still hold what it erased."""

erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Column("report", sa.Text, nullable=False),
    sa.Index("erasures_by_time", "at"),
)
"""What was asked to be erased, how far that is, and the report of what went: names and counts, no content."""


class Octets(FunctionElement[int]):
    """How many bytes a text takes, where `length` would count its characters."""

    type = sa.Integer()
    inherit_cache = True


@compiles(Octets)
def _standard(octets: Octets, compiler: SQLCompiler, **more: Any) -> str:  # noqa: ANN401 - as SQLAlchemy hands it on
    return f"octet_length({compiler.process(octets.clauses, **more)})"


@compiles(Octets, "sqlite")
def _for_sqlite(octets: Octets, compiler: SQLCompiler, **more: Any) -> str:  # noqa: ANN401 - as SQLAlchemy hands it on
    # Releases before 3.43 have no octet_length.
    return f"length(CAST({compiler.process(octets.clauses, **more)} AS BLOB))"


_AT_ONCE = 500


def in_parts(values: Iterable[str]) -> Iterator[list[str]]:
    """Few enough at once for one statement's variables."""
    every = list(values)
    for at in range(0, len(every), _AT_ONCE):
        yield every[at : at + _AT_ONCE]


def insert(connection: AsyncConnection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An insertion that may say what is to be done about rows that are there: SQL alone has no word for it."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


async def insert_new(connection: AsyncConnection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows that have the same columns; those that are there stay as they are."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        columns = tuple([row[name] for row in rows] for name in rows[0])
        await connection.exec_driver_sql(from_arrays(table, tuple(rows[0])), columns)
    else:
        await connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)


@cache
def from_arrays(table: sa.Table, names: tuple[str, ...]) -> str:
    """PostgreSQL's words for `insert_new`, with an array a column.

    Its driver can send row after row too, but hangs where that is cancelled half-way.
    """
    arrays = ", ".join(f"${number}::{_ARRAYS[type(table.c[name].type)]}" for number, name in enumerate(names, 1))
    columns = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO {table.name} ({columns}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
