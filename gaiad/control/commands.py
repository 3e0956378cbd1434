"""What the control socket may ask for, carried out on the daemon's real parts.

Joins the answers of registry, store, learner and GPU into the shapes of `docs/control.md`. Decides nothing itself:
whether something is refused is for the part that owns it. Reads the clock only to stamp what a person asked for.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from gaiad.adapter import AdapterName, VersionName
from gaiad.config import Config
from gaiad.consent import Purpose
from gaiad.control.app import Answer, Reply, Unknown
from gaiad.control.explain import explanation
from gaiad.control.status import World, status_of
from gaiad.conversations import Conversations
from gaiad.curriculum import Json
from gaiad.cycle_page import cycle_page
from gaiad.cycles import Cycles
from gaiad.erasure import Kind, Selector
from gaiad.errors import NotYet, Refuse
from gaiad.exchange import Judgement
from gaiad.grants import NEWEST
from gaiad.registry import Registry, VersionRow
from gaiad.user import conversation_name, user_name

_SOURCE = "gaiadctl"
_SAID_BY = "command"


class Learner(Protocol):
    """The learner's loop as the socket sees it."""

    async def start_cycle(
        self, adapter: AdapterName, profile: str | None = None, source: str = "command", *, force: bool = False
    ) -> str | Refuse | NotYet:
        """Start a cycle and return its id."""

    async def rollback(self, adapter: AdapterName, reason: str) -> Mapping[str, object] | Refuse:
        """Flip the alias back."""

    async def import_adapter(
        self, directory: Path, name: str | None, activate: bool, reason: str
    ) -> Mapping[str, object] | Refuse:
        """Check, examine and perhaps activate a foreign adapter."""

    def cancel(self, reason: str = ...) -> Refuse | None:
        """End the running cycle."""

    async def consent_revoked(self, user: str) -> None:
        """Cancel the cycle if its dataset holds this user's exchanges."""


class Eraser(Protocol):
    """Erasures as the socket sees them."""

    async def plan(self, selector: Selector) -> Reply:
        """What an erasure would reach."""

    async def erase(self, selector: Selector, by: str) -> Reply | Refuse:
        """Erase, and report."""

    async def listed(self, limit: int = ...) -> Sequence[Reply]:
        """Erasures, newest first."""


class DaemonCommands:
    """`control.app.Commands` on the real parts. `observe` takes a picture of the daemon for the status page;
    `flush` writes what the recorder still holds, so that an exchange can be named at once."""

    def __init__(
        self,
        *,
        config: Config,
        registry: Registry,
        cycles: Cycles,
        conversations: Conversations,
        learner: Learner,
        eraser: Eraser,
        observe: Callable[[], World],
        flush: Callable[[], Awaitable[None]],
        backup: Callable[[Path, float], Awaitable[Refuse | None]],
    ) -> None:
        self._config = config
        self._registry = registry
        self._cycles = cycles
        self._conversations = conversations
        self._learner = learner
        self._eraser = eraser
        self._observe = observe
        self._flush = flush
        self._backup = backup

    async def status(self) -> Reply:
        """Everything `gaiadctl status` shows."""
        return status_of(self._observe())

    async def train(self, adapter: str, profile: str | None, *, force: bool) -> Answer:
        """Start a cycle."""
        if not self._config.learning.enabled:
            return Refuse("learning is switched off", "set [learning] enabled = true and start gaiad again")
        cycle = await self._learner.start_cycle(AdapterName(adapter), profile, _SOURCE, force=force)
        return {"cycle": cycle} if isinstance(cycle, str) else cycle

    async def cancel(self) -> Answer:
        """End the current cycle."""
        refused = self._learner.cancel("asked for on the control socket")
        return refused if refused is not None else {"cancelling": True}

    async def cycles(self, limit: int) -> Reply:
        """Cycles, newest first."""
        return {"cycles": [row.to_json() for row in await self._cycles.cycles(limit)]}

    async def cycle_page(self, name: str) -> Answer:
        """One cycle as an HTML page, with its loss curve and its exams."""
        row = await self._cycles.cycle(name)
        if row is None:
            return Unknown(f"there is no cycle {name!r}", "gaiadctl cycles lists them")
        return {"cycle": row.id, "html": cycle_page(row.to_json())}

    async def adapters(self) -> Reply:
        """Each adapter, with or without versions."""
        names = sorted(self._registry.snapshot.adapters)
        return {"adapters": [self._adapter(name) for name in names]}

    async def adapter(self, name: str) -> Answer:
        """One adapter with its history, or one version with its report."""
        row = self._registry.version(VersionName(name))
        if row is not None:
            return self._version(row, whole=True)
        if name not in self._registry.snapshot.adapters:
            return Unknown(f"there is no adapter or version {name!r}", "gaiadctl adapters list shows them")
        events = [event.to_json() for event in self._registry.events(1000) if event.adapter == name]
        return {**self._adapter(AdapterName(name)), "events": events}

    async def import_adapter(self, directory: Path, name: str | None, *, activate: bool, reason: str) -> Answer:
        """Take in an adapter trained elsewhere."""
        return await self._learner.import_adapter(directory, name, activate, reason)

    async def rollback(self, adapter: str, reason: str) -> Answer:
        """Flip an alias back."""
        if adapter not in self._registry.snapshot.adapters:
            return Unknown(f"there is no adapter {adapter!r}", "gaiadctl adapters list shows them")
        return await self._learner.rollback(AdapterName(adapter), reason)

    async def consent(
        self,
        user: str,
        purpose: str,
        action: str,
        conversation: str | None = None,
        expires_at: float | None = None,
        *,
        source: str = _SAID_BY,
    ) -> Reply | Refuse:
        """Append a grant or a revocation; a running cycle that holds what was revoked ends.

        The only way in, for the socket and for the proxy; `source` tells them apart.
        """
        refused = await self._conversations.grants.append(
            user, purpose, action, source, time.time(), conversation=conversation, expires_at=expires_at
        )
        if refused is not None:
            return refused
        name = user_name(user) or user
        if action == "revoke":
            await self._learner.consent_revoked(name)
        return await self.consents(name, conversation)

    async def consents(self, user: str, conversation: str | None = None, limit: int = NEWEST) -> Reply:
        """What a user grants now, in a conversation where one is named, and the newest `limit` events of all."""
        told = await self._conversations.grants.consents(user, conversation, limit)
        return {
            "user": user_name(user) or user,
            "conversation": conversation_name(conversation),
            "granted": sorted(purpose.value for purpose in told.until),
            "until": {purpose.value: None if end == math.inf else end for purpose, end in told.until.items()},
            "history": [dataclasses.asdict(event) for event in told.history],
            "total": told.total,
        }

    async def erase(self, kind: str, name: str, *, dry_run: bool) -> Answer:
        """Erase what is named down to the adapters that learned from it."""
        selector = Selector(Kind(kind), name)
        return await self._eraser.plan(selector) if dry_run else await self._eraser.erase(selector, _SOURCE)

    async def erasures(self, limit: int) -> Reply:
        """Erasures with their reports, newest first."""
        return {"erasures": await self._eraser.listed(limit)}

    async def exchanges(self, limit: int, user: str | None) -> Reply:
        """Exchanges without their content, newest first."""
        return {"exchanges": await self._conversations.exchanges(limit, user)}

    async def exchange(self, request_id: str) -> Answer:
        """One exchange with all that was kept."""
        await self._flush()
        found = await self._conversations.exchange(request_id)
        if found is None:
            return Unknown(f"no exchange {request_id!r} is kept", "gaiadctl exchanges list shows those that are")
        return found

    async def export(
        self, purpose: str, after: tuple[float, str] | None, limit: int, user: str | None, stage: str | None
    ) -> Reply:
        """The next exchanges that may be used for a purpose."""
        if after is None:
            await self._flush()
        rows, end = await self._conversations.exported(
            Purpose(purpose), after=after, limit=limit, user=user, stage=stage
        )
        return {"exchanges": rows, "next": None if end is None else f"{end[0]!r} {end[1]}"}

    async def explain(self, request_id: str) -> Answer:
        """One exchange with its user's consent then and now, and the versions that were made of it."""
        found = await self.exchange(request_id)
        if not isinstance(found, Mapping):
            return found
        kept, grants = cast("Mapping[str, Json]", found), self._conversations.grants
        user, conversation = cast("str | None", kept["user"]), cast("str | None", kept["conversation"])
        then: dict[str, Json] | None = None
        now: dict[str, Json] | None = None
        if user is not None:
            started, purposes = cast("float", kept["started"]), map(Purpose, cast("list[str]", kept["purposes"]))
            then = await grants.standing_at(user, started, conversation)
            usable = [one.value for one in purposes if grants.still_usable(one, user, conversation, started)]
            now = {"granted": [*sorted(await grants.granted(user, conversation))], "usable_for": [*usable]}
        return explanation(kept, then, now, [row.to_json() for row in self._registry.versions()])

    async def feedback(self, request_id: str, given: Judgement) -> Answer:
        """Attach a verdict to an exchange."""
        await self._flush()
        refused = await self._conversations.feedback.add(request_id, given, time.time())
        return refused if refused is not None else {"request_id": request_id, "noted": True}

    async def backup(self, target: Path) -> Answer:
        """Copy the store, with all that was answered until now."""
        await self._flush()
        at = time.time()
        refused = await self._backup(target, at)
        return refused if refused is not None else {"path": str(target), "at": at}

    def _adapter(self, name: AdapterName) -> dict[str, object]:
        snapshot = self._registry.snapshot
        rows = sorted(self._registry.versions(name), key=lambda row: row.number, reverse=True)
        return {
            "adapter": name,
            "stages": [stage for stage, adapter in self._config.stages.items() if adapter == name],
            "active": snapshot.active.get(name),
            "previous": snapshot.previous.get(name),
            "versions": [self._version(row, whole=False) for row in rows],
        }

    def _version(self, row: VersionRow, *, whole: bool) -> dict[str, object]:
        shown: dict[str, object] = {**row.to_json(), "loaded": row.version in self._registry.loaded}
        if not whole:
            del shown["report"], shown["lineage"]
        return shown
