"""Which adapter versions the engine has: brings it to what the registry wants, and never more than that.

Touches the engine and verifies files before it loads them. What is wanted is the registry's to say; a version that
proves broken is handed to whoever may write the registry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

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
        self._leaving: set[VersionName] = set()
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

    async def reconcile(self) -> None:
        """After a start or a wake: load what the registry wants. A broken version is set aside, not retried.

        Raises:
            EngineError: the engine does not answer.
        """
        facts = await self._engine.facts()
        self._in_engine = set(await self._engine.loaded())
        self._leaving.clear()
        while facts.runtime_lora and (row := self._missing()) is not None:
            await self._bring_in(row)
        self._mark()

    async def settle(self) -> None:
        """While serving: load what a rollback made wanted, unload what is wanted no more once no request holds it."""
        # Asked for by a reconciliation, this comes before the gate opens.
        while str(self._gpu.phase) == PROBING:  # noqa: ASYNC110  the phase is the GPU loop's
            await asyncio.sleep(0.05)
        if str(self._gpu.phase) != SERVING:
            return
        try:
            while (row := self._missing()) is not None:
                await self._bring_in(row)
                self._mark()
            for version in sorted(self._unwanted()):
                await self._let_go(version)
            self.trouble = None
        except EngineError as error:
            # The engine's own loop recovers it, and reconciles then.
            self.trouble = str(error)

    def _missing(self) -> VersionRow | None:
        return next((row for row in self._registry.wanted() if row.version not in self._in_engine), None)

    def _unwanted(self) -> set[VersionName]:
        wanted = {row.version for row in self._registry.wanted()}
        # A rollback in the midst of an exam must not take away what is being examined.
        examined = set() if self.candidate is None else {self.candidate, self._opponent}
        return self._in_engine - wanted - examined

    async def _bring_in(self, row: VersionRow) -> None:
        problem = await self._load_problem(row)
        if problem is None:
            self._in_engine.add(row.version)
            return
        log.warning("version_set_aside", version=row.version, reason=problem)
        await self._set_aside(row.version, problem)

    async def _load_problem(self, row: VersionRow) -> str | None:
        try:
            await asyncio.to_thread(artifacts.verify, row.path)
        except AdapterError as error:
            return str(error)
        problem = ""
        for _ in range(2):
            try:
                await self._engine.load(row.version, row.path)
            except EngineError as error:
                problem = str(error)
                # An engine that answers nothing at all raises here: that says nothing against the version.
                await self._engine.loaded()
            else:
                return None
        return f"the engine refuses it: {problem}"

    async def _let_go(self, version: VersionName) -> None:
        self._leaving.add(version)
        self._mark()
        until = time.monotonic() + self._patience_s
        while self._gpu.leases(version):
            if time.monotonic() > until or str(self._gpu.phase) != SERVING:
                return
            await asyncio.sleep(0.05)
        if version in self._unwanted():
            await self._engine.unload(version)
            self.note_unloaded(version)
        else:
            self._leaving.discard(version)
            self._mark()

    def _mark(self) -> None:
        self._registry.mark_loaded(frozenset(self._in_engine - self._leaving))
