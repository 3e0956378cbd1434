"""Who agreed to what: an append-only table of grants and revocations, and what it comes to now.

Appends events and remembers what they come to, so that neither a request nor a question about the past needs the table.
What events come to is decided in `consent`; exchanges are `conversations`' work.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.consent import (
    CONFIG,
    Action,
    GrantEvent,
    Purpose,
    Standing,
    decide,
    ends,
    follow_settings,
    still_holds,
)
from gaiad.consent_history import History
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.errors import Refuse
from gaiad.user import MAX_CONVERSATION_CHARS, MAX_USER_CHARS, conversation_name, is_revocable, user_name

NEWEST = 100
"""How many events an answer holds, if nobody asks for another number."""


@dataclass(frozen=True, slots=True)
class Consents:
    """What a user allows now: purposes with the moment at which each ends, infinity for never; and what was said.

    `history` are the newest events, oldest first, of `total`.
    """

    until: Mapping[Purpose, float]
    history: Sequence[GrantEvent]
    total: int


_NOBODY = History()


class Grants:
    """Sole writer of grants. `load` once, before the first request. `clock` tells wall-clock seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        # A revocation may be among grants that were lost: nobody's header is believed then.
        self._header_may_grant = db.config.consent.header_may_grant and not db.grants_lost
        self._people: dict[str, History] = {}
        self._unsure: set[str] = set()
        self._loaded = False
        self.clock = clock

    async def load(self) -> None:
        """Read every user's history, so that a request needs no database to know what it may keep."""
        async with self._db.read() as connection:
            found = await events(connection, None)
        histories: dict[str, list[GrantEvent]] = {}
        for event in found:
            histories.setdefault(event.user, []).append(event)
        self._people = {user: History(history) for user, history in histories.items()}
        self._loaded = True

    def purposes_for(
        self, user: str | None, header: str | None = None, conversation: str | None = None
    ) -> frozenset[str]:
        """What an exchange of `user` in `conversation` may be kept for now; empty for nobody, and before `load`."""
        name = user_name(user)
        if name is None or not self._loaded or not is_revocable(conversation):
            return frozenset()
        standing = self._standing(name, conversation)
        purposes = decide(standing.granted, standing.revoked, header, self._header_may_grant)
        return frozenset(purpose.value for purpose in purposes)

    def still_usable(self, purpose: Purpose, user: str, conversation: str | None, began: float) -> bool:
        """Whether what was kept for `purpose` of a request that came at `began` may be used for it now.

        What a grant let be kept is usable while one holds; only what a header did, for as long as headers may grant.
        """
        if not self._loaded or not is_revocable(conversation):
            return False
        person = self._people.get(user, _NOBODY)
        by_header = not person.was_granted(purpose, at=began, conversation=conversation, now=self.clock())
        return still_holds(purpose, self._standing(user, conversation), self._header_may_grant and by_header)

    async def append(
        self,
        user: str,
        purpose: Purpose | str,
        action: Action | str,
        source: str,
        at: float,
        *,
        conversation: str | None = None,
        expires_at: float | None = None,
    ) -> Refuse | None:
        """Append one grant or revocation that happens now, which is `at`; it holds once this returns.

        It is stamped as the last word about this user, whatever the clock said before. One that changes nothing, being
        said already, is not written down again.
        """
        name, scope = user_name(user), conversation_name(conversation)
        problem = _grant_problem(name, purpose, action) or _scope_problem(conversation, scope)
        problem = problem or _expiry_problem(action, at, expires_at)
        if name is None or problem is not None:
            return problem
        event = GrantEvent(name, Purpose(purpose), Action(action), source, at, scope, expires_at)
        try:
            await self._write(event)
        except BaseException:
            # Whether it is written down only the table knows.
            self._unsure.add(name)
            raise
        return None

    async def _write(self, event: GrantEvent) -> None:
        async with self._db.write() as connection:
            history = await self._known(connection, event.user)
            if history.is_said(event):
                return
            event = history.stamped(event)
            await connection.execute(sa.insert(tables.grants).values(dataclasses.asdict(event)))
            if event.action is Action.REVOKE:
                # Before the commit: what is written meanwhile may not miss a revocation.
                history.append(event)
        if event.action is Action.GRANT:
            history.append(event)

    async def _known(self, connection: AsyncConnection, user: str) -> History:
        """A user's history as it is in the table; read only where it is not known to be in memory as a whole."""
        if user in self._unsure or not (self._loaded or user in self._people):
            self._people[user] = History(await events(connection, user))
            self._unsure.discard(user)
        return self._people.setdefault(user, History())

    async def follow_settings(self, at: float) -> list[tuple[str, Purpose]]:
        """Append what the settings grant and no longer grant; says what they grant in vain, being revoked since."""
        wanted: dict[str, set[Purpose]] = {}
        for user, purpose in self._db.config.consent.granted():
            wanted.setdefault(user_name(user) or user, set()).add(Purpose(purpose))
        histories = {user: person.events for user, person in self._people.items()}
        for user in sorted({*wanted, *histories}):
            news = follow_settings(wanted.get(user, ()), histories.get(user, ()), now=at)
            for purpose, action in news.items():
                # A revocation may be among what was lost.
                if action is Action.REVOKE or not self._db.grants_lost:
                    await self.append(user, purpose, action, CONFIG, at)
        return [
            (user, purpose)
            for user in sorted(wanted)
            for purpose in sorted(wanted[user])
            if purpose.value not in self.purposes_for(user)
        ]

    async def consents(self, user: str, conversation: str | None = None, limit: int = NEWEST) -> Consents:
        """What `user` allows now, without what a header may add, and the `limit` newest events that it came from."""
        person = await self._person(user)
        until = ends(person.told(conversation_name(conversation)), now=self.clock())
        return Consents(until, person.events[-limit:] if limit > 0 else [], len(person.events))

    async def granted(self, user: str, conversation: str | None = None) -> frozenset[str]:
        """The purposes that `user` granted and did not revoke, without what a header may add."""
        return frozenset(purpose.value for purpose in (await self.consents(user, conversation, 0)).until)

    async def standing_at(self, user: str, moment: float, conversation: str | None) -> dict[str, Json]:
        """What `user` had granted and revoked at a moment in the past, and the last word that it came from.

        `unclear` are the words of which nobody knows whether they were before or after, for a clock that was ahead.
        """
        person = await self._person(user)
        standing, last, unclear = person.standing_at(moment, conversation, self.clock())
        allowed = decide(standing.granted, standing.revoked, None, False)
        return {
            "granted": [*sorted(purpose.value for purpose in allowed)],
            "revoked": [*sorted(purpose.value for purpose in standing.revoked)],
            "last": None if last is None else dataclasses.asdict(last),
            "unclear": unclear,
        }

    async def history(self, user: str) -> list[GrantEvent]:
        """All that `user` granted and revoked, oldest first."""
        return list((await self._person(user)).events)

    async def _person(self, user: str) -> History:
        name = user_name(user)
        if name is None:
            return _NOBODY
        known = self._people.get(name)
        if known is not None or self._loaded:
            return known or _NOBODY
        async with self._db.read() as connection:
            return History(await events(connection, name))

    def unrevoked(self, user: str | None, purposes: frozenset[str], conversation: str | None) -> frozenset[str]:
        """What of `purposes` nobody said no to since, in this conversation."""
        # What is nobody's leaves its content-free row all the same, and so does what nobody could revoke for itself.
        if user is None or not is_revocable(conversation):
            return frozenset()
        revoked = self._standing(user, conversation).revoked
        return frozenset() if Purpose.LOG in revoked else purposes - revoked

    def _standing(self, user: str, conversation: str | None) -> Standing:
        return self._people.get(user, _NOBODY).standing(conversation, self.clock())


def _grant_problem(user: str | None, purpose: str, action: str) -> Refuse | None:
    if user is None:
        return Refuse("the user's name is empty, too long or not text", f"use 1 to {MAX_USER_CHARS} characters")
    if purpose not in {*Purpose}:
        return Refuse(f"{purpose!r} is not a purpose", f"use one of {', '.join(Purpose)}")
    if action not in {*Action}:
        return Refuse(f"{action!r} cannot be done to a purpose", f"use one of {', '.join(Action)}")
    return None


def _scope_problem(asked: str | None, conversation: str | None) -> Refuse | None:
    if asked is None or conversation is not None:
        return None
    hint = f"use 1 to {MAX_CONVERSATION_CHARS} characters"
    return Refuse("the conversation's name is empty, too long or not text", hint)


def _expiry_problem(action: str, at: float, expires_at: float | None) -> Refuse | None:
    if expires_at is None:
        return None
    if action == Action.REVOKE:
        return Refuse("a revocation does not expire", "leave out when it ends, and grant again when it should")
    if not (math.isfinite(expires_at) and expires_at > at):
        return Refuse("the grant would have expired already, or at no moment", "let it end later than now")
    return None


async def events(connection: AsyncConnection, user: str | None) -> tuple[GrantEvent, ...]:
    """Read a user's history, or everybody's, oldest first."""
    query = sa.select(tables.grants).order_by(tables.grants.c.id)
    if user is not None:
        query = query.where(tables.grants.c.user == user)
    newest: dict[str, float] = {}
    found = []
    for row in (await connection.execute(query)).all():
        event = GrantEvent(
            row.user, Purpose(row.purpose), Action(row.action), row.source, row.at, row.conversation, row.expires_at
        )
        # Rows of a time when the order of writing decided: what was revoked then stays so, whatever the clock said.
        if event.action is Action.REVOKE:
            event = dataclasses.replace(event, at=max(event.at, newest.get(event.user, -math.inf)))
        newest[event.user] = max(event.at, newest.get(event.user, -math.inf))
        found.append(event)
    return tuple(found)
