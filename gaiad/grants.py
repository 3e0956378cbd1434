"""Who agreed to what: an append-only table of grants and revocations, and what it comes to now.

Appends events and remembers what they come to until the next one expires, so that a request needs no database to know
what it may keep. What a history comes to is decided in `consent`; exchanges are `conversations`' work.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.consent import (
    CONFIG,
    Action,
    GrantEvent,
    Purpose,
    Standing,
    by_time,
    decide,
    fold,
    follow_settings,
    next_change,
    still_holds,
    was_granted,
)
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.errors import Refuse
from gaiad.user import MAX_CONVERSATION_CHARS, MAX_USER_CHARS, conversation_name, user_name

_NOTHING_SAID = Standing()


class _Person:
    """One user's history, and what it comes to in each conversation that it names, each until a moment."""

    def __init__(self, history: Sequence[GrantEvent]) -> None:
        self.history = tuple(history)
        self._by_scope: dict[str | None, list[GrantEvent]] = {None: []}
        for event in history:
            self._by_scope.setdefault(event.conversation, []).append(event)
        self._standings: dict[str | None, tuple[float, Standing]] = {}

    def standing(self, conversation: str | None, now: float) -> Standing:
        # All conversations that nothing was said about are one.
        scope = conversation if conversation in self._by_scope else None
        until, standing = self._standings.get(scope, (-math.inf, _NOTHING_SAID))
        if now < until:
            return standing
        said = self.said_in(scope)
        standing = fold(said, now=now, conversation=scope)
        self._standings[scope] = next_change(said, now=now), standing
        return standing

    def said_in(self, conversation: str | None) -> list[GrantEvent]:
        """What was said for a conversation and for all: there may be thousands of others."""
        here = self._by_scope.get(conversation, []) if conversation is not None else []
        return self._by_scope[None] + here


class Grants:
    """Sole writer of grants. `load` once, before the first request. `clock` tells wall-clock seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        # A revocation may be among grants that were lost: nobody's header is believed then.
        self._header_may_grant = db.config.consent.header_may_grant and not db.grants_lost
        self._people: dict[str, _Person] = {}
        self._loaded = False
        self.clock = clock

    async def load(self) -> None:
        """Read every user's history, so that a request needs no database to know what it may keep."""
        async with self._db.read() as connection:
            found = await events(connection, None)
        histories: dict[str, list[GrantEvent]] = {}
        for event in found:
            histories.setdefault(event.user, []).append(event)
        for user, history in histories.items():
            self._remember(user, history)
        self._loaded = True

    def purposes_for(
        self, user: str | None, header: str | None = None, conversation: str | None = None
    ) -> frozenset[str]:
        """What an exchange of `user` in `conversation` may be kept for now; empty for nobody, and before `load`."""
        name = user_name(user)
        if name is None or not self._loaded:
            return frozenset()
        standing = self._standing(name, conversation)
        purposes = decide(standing.granted, standing.revoked, header, self._header_may_grant)
        return frozenset(purpose.value for purpose in purposes)

    def still_usable(self, purpose: Purpose, user: str, conversation: str | None, began: float) -> bool:
        """Whether what was kept for `purpose` of a request that came at `began` may be used for it now.

        What a grant let be kept is usable while one holds; only what a header did, for as long as headers may grant.
        """
        if not self._loaded:
            return False
        person = self._people.get(user)
        said = () if person is None else person.said_in(conversation)
        by_header = not was_granted(purpose, said, at=began, conversation=conversation)
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

        It is stamped as the last word about this user, whatever the clock said before.
        """
        name, scope = user_name(user), conversation_name(conversation)
        problem = _grant_problem(name, purpose, action) or _scope_problem(conversation, scope)
        problem = problem or _expiry_problem(action, at, expires_at)
        if name is None or problem is not None:
            return problem
        event = GrantEvent(name, Purpose(purpose), Action(action), source, at, scope, expires_at)
        async with self._db.write() as connection:
            history = await events(connection, name)
            event = _stamped(event, history)
            await connection.execute(sa.insert(tables.grants).values(dataclasses.asdict(event)))
            found = (*history, event)
            if event.action is Action.REVOKE:
                # Before the commit: what is written meanwhile may not miss a revocation.
                self._remember(name, found)
        self._remember(name, found)
        return None

    async def follow_settings(self, at: float) -> list[tuple[str, Purpose]]:
        """Append what the settings grant and no longer grant; says what they grant in vain, being revoked since."""
        wanted: dict[str, set[Purpose]] = {}
        for user, purpose in self._db.config.consent.granted():
            wanted.setdefault(user_name(user) or user, set()).add(Purpose(purpose))
        histories = {user: person.history for user, person in self._people.items()}
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

    async def granted(self, user: str, conversation: str | None = None) -> frozenset[str]:
        """The purposes that `user` granted and did not revoke, without what a header may add."""
        history = await self.history(user)
        standing = fold(history, now=self.clock(), conversation=conversation_name(conversation))
        return frozenset(purpose.value for purpose in decide(standing.granted, standing.revoked, None, False))

    async def standing_at(self, user: str, moment: float, conversation: str | None) -> dict[str, Json]:
        """What `user` had granted and revoked at a moment in the past, and the last word that it came from."""
        here = [one for one in await self.history(user) if one.conversation in (None, conversation)]
        until = [one for one in here if one.at <= moment]
        standing = fold(until, now=moment, conversation=conversation)
        allowed = decide(standing.granted, standing.revoked, None, False)
        return {
            "granted": [*sorted(purpose.value for purpose in allowed)],
            "revoked": [*sorted(purpose.value for purpose in standing.revoked)],
            "last": dataclasses.asdict(max(until, key=by_time)) if until else None,
        }

    async def history(self, user: str) -> list[GrantEvent]:
        """All that `user` granted and revoked, oldest first."""
        name = user_name(user)
        if name is None:
            return []
        async with self._db.read() as connection:
            return list(await events(connection, name))

    def unrevoked(self, user: str | None, purposes: frozenset[str], conversation: str | None) -> frozenset[str]:
        """What of `purposes` nobody said no to since, in this conversation."""
        # What is nobody's leaves its content-free row all the same.
        if user is None:
            return frozenset()
        revoked = self._standing(user, conversation).revoked
        return frozenset() if Purpose.LOG in revoked else purposes - revoked

    def _standing(self, user: str, conversation: str | None) -> Standing:
        person = self._people.get(user)
        return _NOTHING_SAID if person is None else person.standing(conversation, self.clock())

    def _remember(self, user: str, events: Sequence[GrantEvent]) -> None:
        # Histories only grow: of two that were read at nearly the same time, the longer one is the newer.
        known = self._people.get(user)
        if known is None or len(events) >= len(known.history):
            self._people[user] = _Person(events)


def _stamped(event: GrantEvent, history: Iterable[GrantEvent]) -> GrantEvent:
    """The event with a time that makes it the last word: a clock that was set back changes nothing about that.

    A revocation wins over a grant of the same moment, a grant needs a later one.
    """
    newest = max((one.at for one in history), default=-math.inf)
    after = newest if event.action is Action.REVOKE else math.nextafter(newest, math.inf)
    return dataclasses.replace(event, at=max(event.at, after))


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
