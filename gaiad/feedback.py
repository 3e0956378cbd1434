"""What people thought of the exchanges that were kept, and what may be learned from that.

Takes feedback and gives it back, and answers which corrected exchanges may be learned from now. Consent is decided by
`consent`; here it is only asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TypedDict

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.consent import Purpose
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.errors import Refuse
from gaiad.exchange import MAX_NOTE_CHARS, Judgement, is_score, scope_of, storable, verdict_word
from gaiad.grants import Grants
from gaiad.redact import Scrubber
from gaiad.signals import said_in

MAX_CORRECTION_CHARS = 200_000
_NO_SUCH_EXCHANGE = Refuse("no exchange has this request id", "use the reply's X-Gaia-Request-Id header")


APPROVING = "good"
"""The verdict that says of a reply that it is the right answer."""


class CorrectedRow(TypedDict):
    """An exchange with its right answer, shaped like the learner's `CorrectedExchange`.

    `reply` is what was corrected: the assistant's text, where the reply is a whole text and is not the correction.
    Where somebody `approved` of the reply it is itself the right answer. `began` is when the request came, which says
    what it was kept by.
    """

    exchange_id: str
    user: str
    stage: str
    request_messages: list[dict[str, Json]]
    correction: str
    created_at: float
    conversation: str | None
    reply: str | None
    began: float
    approved: bool


class Feedback:
    """Sole writer of feedback; `grants` says on what it may still be given, `scrubber` what of it is written down."""

    def __init__(self, db: Database, grants: Grants, scrubber: Scrubber) -> None:
        self._db = db
        self._grants = grants
        self._scrubber = scrubber

    async def add(self, request_id: str, given: Judgement, at: float) -> Refuse | None:
        """Attach what somebody thought of it to a kept exchange; the newest feedback counts.

        What is said again in the same words is there already, as whoever got no answer the first time may not know.
        """
        problem = _problem_with(request_id, given)
        if problem is not None:
            return problem
        row: dict[str, object] = {
            "request_id": request_id,
            "verdict": verdict_word(given.verdict),
            "score": given.score,
            "at": at,
        }
        async with self._db.read() as connection:
            found = await _exchange(connection, request_id)
        problem = self._not_open(found)
        if problem is not None or found is None:
            return problem
        # As in what was said before: the same value has the same placeholder.
        scope = scope_of(found["user"], found["conversation"], request_id)
        # Off the loop: looking for secrets takes its time, and replies should not wait for it.
        row |= await asyncio.to_thread(self._scrubbed, given, scope)
        async with self._db.write() as connection:
            # It may have been revoked or erased since.
            problem = self._not_open(await _exchange(connection, request_id))
            if problem is None and not await _is_newest(connection, row):
                await connection.execute(sa.insert(tables.feedback).values(row))
        return problem

    def _scrubbed(self, given: Judgement, scope: str) -> dict[str, object]:
        return {name: self._scrubber.scrub(getattr(given, name), scope).value for name in ("correction", "note")}

    async def corrected(self, stages: Sequence[str]) -> list[CorrectedRow]:
        """Exchanges at `stages` whose newest feedback corrects them and that may be learned from now.

        The purpose `train` must have held when the exchange was recorded, and must hold still.
        """
        rows = await self._learnable(_newest_said(stages, tables.feedback.c.correction.is_not(None)))
        return [_corrected_row(row, messages) for row, messages in rows]

    async def approved(self, stages: Sequence[str]) -> list[CorrectedRow]:
        """Exchanges at `stages` of which the newest feedback says that the reply, whole and in text, is good.

        They may be learned from under the same conditions as the corrected ones.
        """
        rows = await self._learnable(_newest_said(stages, _approving()))
        return [
            _row(row, messages, answer, None, approved=True)
            for row, messages in rows
            if (answer := answer_text(row["response"])) is not None
        ]

    async def _learnable(
        self, query: sa.Select[*tuple[object, ...]]
    ) -> list[tuple[sa.RowMapping, list[dict[str, Json]]]]:
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            (row, messages)
            for row in rows
            if Purpose.TRAIN in row["purposes"].split(",")
            and self._grants.still_usable(Purpose.TRAIN, row["user"], row["conversation"], row["started"])
            and (messages := _messages(row["request"]))
        ]

    def _not_open(self, found: sa.RowMapping | None) -> Refuse | None:
        if found is None:
            return _NO_SUCH_EXCHANGE
        if found["user"] is None:
            return Refuse(
                "the exchange was not kept, because its user had not agreed to that",
                "grant a purpose first; it holds for the exchanges that follow",
            )
        whose = (found["user"], found["conversation"], found["started"])
        # The learner's question, of each purpose: what serves none of them now is not to grow.
        if not any(self._grants.still_usable(one, *whose) for one in map(Purpose, found["purposes"].split(","))):
            return Refuse(
                "what the exchange was kept for was revoked, or its grant has ended",
                "nothing is added to it unless the user grants that again",
            )
        return None


async def _exchange(connection: AsyncConnection, request_id: str) -> sa.RowMapping | None:
    """Whose a recorded exchange is and what it is kept for; nobody's and for nothing where its content is not kept."""
    contents = tables.exchange_contents
    query = (
        sa.select(contents.c.user, contents.c.conversation, contents.c.purposes, tables.exchanges.c.started)
        .select_from(tables.exchanges.outerjoin(contents, contents.c.request_id == tables.exchanges.c.request_id))
        .where(tables.exchanges.c.request_id == request_id)
    )
    return (await connection.execute(query)).mappings().one_or_none()


async def _is_newest(connection: AsyncConnection, row: Mapping[str, object]) -> bool:
    """Whether the last word on an exchange is this one, whenever it was said."""
    said = tables.feedback
    query = sa.select(said).where(said.c.request_id == row["request_id"]).order_by(said.c.id.desc()).limit(1)
    newest = (await connection.execute(query)).mappings().one_or_none()
    return newest is not None and all(newest[name] == value for name, value in row.items() if name != "at")


async def said_of(connection: AsyncConnection, request_ids: Sequence[str]) -> dict[str, list[dict[str, Json]]]:
    """All the feedback on each of these exchanges, oldest first."""
    said = tables.feedback.c
    query = sa.select(said.request_id, said.verdict, said.correction, said.score, said.note, said.at)
    rows = await connection.execute(query.where(said.request_id.in_(request_ids)).order_by(said.id))
    found: dict[str, list[dict[str, Json]]] = {}
    for row in rows.mappings():
        found.setdefault(row["request_id"], []).append({name: row[name] for name in row if name != "request_id"})
    return found


async def newest_of(connection: AsyncConnection, request_ids: Sequence[str]) -> dict[str, dict[str, Json]]:
    """The newest feedback on each of these exchanges, without what was said: of a correction only whether it is one."""
    said = tables.feedback.c
    query = sa.select(
        said.request_id, said.verdict, said.correction.is_not(None).label("correction"), said.score, said.at
    )
    rows = await connection.execute(query.where(said.request_id.in_(request_ids)).order_by(said.id))
    return {
        row.request_id: {"verdict": row.verdict, "correction": row.correction, "score": row.score, "at": row.at}
        for row in rows
    }


def _problem_with(request_id: str, given: Judgement) -> Refuse | None:
    if not storable(request_id):
        return _NO_SUCH_EXCHANGE
    if verdict_word(given.verdict) is None:
        return Refuse("the verdict is not a word", "use one word such as good or bad")
    if given.score is not None and not is_score(given.score):
        return Refuse(
            "the score is not a number from 0 to 1", "leave it out, or send how good the reply was, 1 at best"
        )
    if given.correction is not None and not _is_text(given.correction, MAX_CORRECTION_CHARS):
        return Refuse("the correction is empty, too long or not text", "send the whole right answer as text")
    if given.note is not None and not _is_text(given.note, MAX_NOTE_CHARS):
        return Refuse("the note is empty, too long or not text", f"send up to {MAX_NOTE_CHARS} characters")
    return None


def _is_text(text: str, max_chars: int) -> bool:
    return bool(text.strip()) and len(text) <= max_chars and storable(text)


def _approving() -> sa.ColumnElement[bool]:
    exchanges, said = tables.exchanges.c, tables.feedback.c
    # A reply that was cut off at its length is no whole answer.
    ended = sa.or_(exchanges.finish_reason.is_(None), exchanges.finish_reason != "length")
    whole = sa.and_(exchanges.status == 200, exchanges.complete, ended)
    return sa.and_(said.verdict == APPROVING, said.correction.is_(None), whole)


def _newest_said(stages: Sequence[str], wanted: sa.ColumnElement[bool]) -> sa.Select[*tuple[object, ...]]:
    exchanges, contents, said = tables.exchanges.c, tables.exchange_contents.c, tables.feedback.c
    newest = sa.select(sa.func.max(said.id)).group_by(said.request_id)
    when = (exchanges.at, exchanges.started)
    of_exchange = (exchanges.request_id, exchanges.stage, exchanges.status, exchanges.complete)
    of_content = (contents.user, contents.conversation, contents.purposes, contents.request, contents.response)
    return (
        sa.select(*of_exchange, *when, *of_content, said.correction)
        .select_from(tables.exchanges)
        .join(tables.exchange_contents, contents.request_id == exchanges.request_id)
        .join(tables.feedback, said.request_id == exchanges.request_id)
        .where(said.id.in_(newest), wanted, exchanges.stage.in_(list(stages)))
        .order_by(exchanges.at, exchanges.request_id)
    )


def _corrected_row(row: sa.RowMapping, messages: list[dict[str, Json]]) -> CorrectedRow:
    # Half a reply is no answer that somebody preferred another to.
    reply = answer_text(row["response"]) if row["complete"] and row["status"] == 200 else None
    correction = row["correction"]
    rejected = reply if reply is not None and reply.strip() != correction.strip() else None
    return _row(row, messages, correction, rejected, approved=False)


def _row(
    row: sa.RowMapping, messages: list[dict[str, Json]], answer: str, reply: str | None, *, approved: bool
) -> CorrectedRow:
    return CorrectedRow(
        exchange_id=row["request_id"],
        user=row["user"],
        stage=row["stage"],
        request_messages=messages,
        correction=answer,
        created_at=row["at"],
        conversation=row["conversation"],
        reply=reply,
        began=row["started"],
        approved=approved,
    )


def _messages(request: str | None) -> list[dict[str, Json]]:
    """The chat messages of a kept request; empty where it was none."""
    body = json.loads(request) if request else {}
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return []
    return messages


def answer_text(response: str | None) -> str | None:
    """What the assistant says in a kept chat reply; None where that is nothing, or where it calls tools."""
    body = json.loads(response) if response else {}
    text, calls = said_in(body) if body.get("choices") else ("", False)
    return None if calls or not text.strip() else text
