"""Which adapter versions the engine has: brings it to what the registry wants, and never more than that.

Touches the engine and verifies files before it loads them. What is wanted is the registry's to say; a version whose
files prove broken is handed to whoever may write the registry, one that the engine refuses is only told of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from gaiad.adapter import VersionName, version_parts
from gaiad.errors import AdapterError, EngineError
from gaiad.learner import artifacts
from gaiad.learner.ports import Gpu, ServingEngine
from gaiad.registry import Registry, VersionRow

log = structlog.get_logger()

SERVING, PROBING = "serving", "probing"


class Slots:
    """The engine's adapters: active and previous versions of each adapter, one candidate and what it is measured by."""

    def __init__(
        self,
        engine: ServingEngine,
        gpu: Gpu,
        registry: Registry,
        *,
        set_aside: Callable[[VersionName, str], Awaitable[None]],
        patience_s: float,
    ) -> None:
        self._engine = engine
        self._gpu = gpu
        self._registry = registry
        self._set_aside = set_aside
        self._patience_s = patience_s
        self._in_engine: set[VersionName] = set()
        self._looked = False
        self._leaving: set[VersionName] = set()
        self._refused: dict[VersionName, str] = {}
        self._opponent: VersionName | None = None
        self.candidate: VersionName | None = None
        self.trouble: str | None = None

    @property
    def in_engine(self) -> frozenset[VersionName]:
        """What the engine has, as far as known."""
        return frozenset(self._in_engine)

    def note_loaded(self, version: VersionName) -> None:
        """Take down that the engine has `version` now, which is about to be measured against the active one."""
        self._in_engine.add(version)
        parts = version_parts(version)
        self._opponent = self._registry.active.get(parts.adapter) if parts else None
        self._mark()

    def note_unloaded(self, version: VersionName) -> None:
        """Take down that the engine no longer has `version`."""
        self._in_engine.discard(version)
        self._leaving.discard(version)
        self._mark()

    @property
    def unsettled(self) -> bool:
        """Whether something was refused or a version is still leaving, so that another try is worth it."""
        return self.trouble is not None or bool(self._leaving)

    async def reconcile(self) -> None:
        """After a start or a wake: load what the registry wants. A broken version is set aside; one that the engine
        refuses stays what it is, and is tried again later.

        Raises:
            EngineError: the engine does not answer.
        """
        facts = await self._engine.facts()
        self._in_engine, self._looked = set(await self._engine.loaded()), True
        self._leaving.clear()
        if facts.runtime_lora:
            await self._bring_in_missing()
        self._mark()

    def keep_wanted(self) -> None:
        """Let requests have at once what was leaving and is wanted again."""
        self._leaving &= self._unwanted()
        self._mark()

    async def settle(self) -> None:
        """While serving: load what a rollback made wanted, unload what is wanted no more once no request holds it."""
        self.keep_wanted()
        # Asked for by a reconciliation, this comes before the gate opens.
        while str(self._gpu.phase) == PROBING:  # noqa: ASYNC110  the phase is the GPU loop's
            await asyncio.sleep(0.05)
        if str(self._gpu.phase) != SERVING:
            return
        try:
            await self._bring_in_missing()
            for version in sorted(self._unwanted()):
                await self._let_go(version)
        except EngineError as error:
            # The engine's own loop recovers it, and reconciles then.
            self.trouble = str(error)

    async def wait_until_gone(self, versions: Sequence[str]) -> list[str]:
        """Wait as long as a request is waited for until the engine has none of these; returns what it may have."""
        until = time.monotonic() + self._patience_s
        while (still := self._perhaps_in_engine(versions)) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return still

    def _perhaps_in_engine(self, versions: Sequence[str]) -> list[str]:
        # An engine that outlived the daemon before may have any of them, until it was asked.
        return sorted(one for one in versions if one in self._in_engine or not self._looked)

    def _missing(self) -> VersionRow | None:
        gone = self._in_engine | self._refused.keys()
        return next((row for row in self._registry.wanted() if row.version not in gone), None)

    def _unwanted(self) -> set[VersionName]:
        wanted = {row.version for row in self._registry.wanted()}
        # A rollback in the midst of an exam must not take away what is being examined.
        examined = set() if self.candidate is None else {self.candidate, self._opponent}
        return self._in_engine - wanted - examined

    async def _bring_in_missing(self) -> None:
        """One pass: each missing version is tried once, so that one that is refused holds up neither users nor others.

        Refusals end up in `trouble`; the next pass, after the next event or tick, tries again.
        """
        self._refused.clear()
        while (row := self._missing()) is not None:
            await self._bring_in(row)
            self._mark()
        self.trouble = "; ".join(self._refused.values()) or None

    async def _bring_in(self, row: VersionRow) -> None:
        try:
            await asyncio.to_thread(artifacts.verify, row.path)
        except AdapterError as error:
            # Only its bytes speak against a version: they are not what was published and examined.
            log.warning("version_set_aside", version=row.version, reason=str(error))
            await self._set_aside(row.version, str(error))
            return
        try:
            await self._engine.load(row.version, row.path)
        except EngineError as error:
            # 1. An engine that answers nothing at all raises here. 2. An answer that came too late may have been a yes.
            # 3. A mount, a rank, want of memory: that is the engine's trouble, and the version stays what it is.
            if row.version not in await self._engine.loaded():
                log.warning("version_not_loaded", version=row.version, reason=str(error))
                self._refused[row.version] = str(error)
                return
        self._in_engine.add(row.version)

    async def _let_go(self, version: VersionName) -> None:
        self._leaving.add(version)
        self._mark()
        until = time.monotonic() + self._patience_s
        while self._gpu.leases(version) and version in self._unwanted():
            if time.monotonic() > until or str(self._gpu.phase) != SERVING:
                return
            await asyncio.sleep(0.05)
        if version in self._unwanted():
            await self._engine.unload(version)
            self.note_unloaded(version)
        else:
            self.keep_wanted()

    def _mark(self) -> None:
        self._registry.mark_loaded(frozenset(self._in_engine - self._leaving))
