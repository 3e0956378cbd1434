"""Who agreed to what: an append-only table of grants and revocations, and what it comes to now.

Appends events and remembers their fold, so that a request needs no database to know what it may keep. What a history
comes to is decided in `consent`; exchanges are `conversations`' work.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.consent import Action, GrantEvent, Purpose, Standing, decide, fold
from gaiad.db import Database
from gaiad.errors import Refuse
from gaiad.user import MAX_USER_CHARS, user_name


class Grants:
    """Sole writer of grants. `load` once, before the first request."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # A revocation may be among grants that were lost: nobody's header is believed then.
        self._header_may_grant = db.config.consent.header_may_grant and not db.grants_lost
        self._histories: dict[str, tuple[GrantEvent, ...]] = {}
        self._standings: dict[str, Standing] = {}
        self._loaded = False

    async def load(self) -> None:
        """Read every user's history, so that a request needs no database to know what it may keep."""
        async with self._db.read() as connection:
            found = await events(connection, None)
        for user in {event.user for event in found}:
            self._remember(user, tuple(event for event in found if event.user == user))
        self._loaded = True

    def purposes_for(self, user: str | None, header: str | None = None) -> frozenset[str]:
        """What an exchange of `user` may be kept for now; empty for nobody, and before `load`."""
        name = user_name(user)
        if name is None or not self._loaded:
            return frozenset()
        standing = self._standings.get(name, Standing())
        purposes = decide(standing.granted, standing.revoked, header, self._header_may_grant)
        return frozenset(purpose.value for purpose in purposes)

    async def append(
        self, user: str, purpose: Purpose | str, action: Action | str, source: str, at: float
    ) -> Refuse | None:
        """Append one grant or revocation; it holds for every later request once this returns."""
        name = user_name(user)
        problem = _grant_problem(name, purpose, action)
        if name is None or problem is not None:
            return problem
        row = {"user": name, "purpose": str(purpose), "action": str(action), "source": source, "at": at}
        async with self._db.write() as connection:
            await connection.execute(sa.insert(tables.grants).values(row))
            found = await events(connection, name)
            # Before the commit: what is written meanwhile may not miss a revocation.
            self._remember(name, found)
        return None

    async def granted(self, user: str) -> frozenset[str]:
        """The purposes that `user` granted and did not revoke, without what a header may add."""
        standing = fold(await self.history(user))
        return frozenset(purpose.value for purpose in decide(standing.granted, standing.revoked, None, False))

    async def history(self, user: str) -> list[GrantEvent]:
        """All that `user` granted and revoked, oldest first."""
        name = user_name(user)
        if name is None:
            return []
        async with self._db.read() as connection:
            return list(await events(connection, name))

    def unrevoked(self, user: str | None, purposes: frozenset[str]) -> frozenset[str]:
        """What of `purposes` nobody said no to since."""
        # What is nobody's leaves its content-free row all the same.
        if user is None:
            return frozenset()
        revoked = self._standings.get(user, Standing()).revoked
        return frozenset() if Purpose.LOG in revoked else purposes - revoked

    def _remember(self, user: str, events: Sequence[GrantEvent]) -> None:
        # Histories only grow: of two that were read at nearly the same time, the longer one is the newer.
        if len(events) >= len(self._histories.get(user, ())):
            self._histories[user] = tuple(events)
            self._standings[user] = fold(events)


def _grant_problem(user: str | None, purpose: str, action: str) -> Refuse | None:
    if user is None:
        return Refuse("the user's name is empty, too long or not text", f"use 1 to {MAX_USER_CHARS} characters")
    if purpose not in {*Purpose}:
        return Refuse(f"{purpose!r} is not a purpose", f"use one of {', '.join(Purpose)}")
    if action not in {*Action}:
        return Refuse(f"{action!r} cannot be done to a purpose", f"use one of {', '.join(Action)}")
    return None


async def events(connection: AsyncConnection, user: str | None) -> tuple[GrantEvent, ...]:
    """Read a user's history, or everybody's, oldest first."""
    grants = tables.grants.c
    query = sa.select(grants.user, grants.purpose, grants.action, grants.source, grants.at).order_by(grants.id)
    if user is not None:
        query = query.where(grants.user == user)
    rows = (await connection.execute(query)).all()
    return tuple(GrantEvent(row.user, Purpose(row.purpose), Action(row.action), row.source, row.at) for row in rows)
