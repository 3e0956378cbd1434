"""Goes through erasures one at a time: rows, adapter versions, files, the file's free pages; then signs them off.

Sole writer of erasures. What a daemon that ended left undone is gone on with at the next start. It asks the learner's
loop to set versions aside, as that is the writer of their stages; retraining needs no order of its own, since without
the rows the dataset is another one, which is something new to learn.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import structlog

from gaiad.adapter import VersionStage
from gaiad.config import Config
from gaiad.conversations import Conversations
from gaiad.curriculum import Json
from gaiad.cycles import Cycles
from gaiad.dataset_files import datasets_with, remove
from gaiad.erasure import Phase, Selector, signed_off
from gaiad.erasures import Erasure, Erasures
from gaiad.errors import GaiadError, Refuse, StoreError
from gaiad.learner.artifacts import WEIGHTS
from gaiad.registry import Registry

log = structlog.get_logger()

RETRY_S = 30.0
"""How long an erasure that could not go on (a locked or full disk) waits for its next try."""

_Answer: TypeAlias = "asyncio.Future[dict[str, Json] | Refuse]"


class Learner(Protocol):
    """The learner's loop as an erasure sees it."""

    async def forget(self, exchange_ids: Sequence[str], reason: str) -> Mapping[str, object] | Refuse:
        """End a cycle that holds these exchanges, and set aside the versions that learned from them."""

    async def wait_until_unloaded(self, versions: Sequence[str]) -> list[str]:
        """Wait a bounded time until the engine has none of these; returns those that it still has."""


class Eraser:
    """`run` as one task of the daemon; `erase` from any other."""

    def __init__(
        self,
        *,
        config: Config,
        erasures: Erasures,
        conversations: Conversations,
        registry: Registry,
        cycles: Cycles,
        learner: Learner,
        flush: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._erasures = erasures
        self._conversations = conversations
        self._registry = registry
        self._cycles = cycles
        self._learner = learner
        self._flush = flush
        self._clock = clock
        self._orders: asyncio.Queue[tuple[Selector, str, _Answer]] = asyncio.Queue()

    async def plan(self, selector: Selector) -> dict[str, Json]:
        """What an erasure would reach, with nothing changed."""
        await self._flush()
        ids = await self._erasures.covered(selector)
        datasets, runs = await self._places(ids)
        return {
            "asked": {"kind": selector.kind.value, "name": selector.name},
            "exchange_ids": [*ids],
            "versions": [row.version for row in self._registry.stained(ids)],
            "datasets": [path.name for path in datasets],
            "runs": [path.name for path in runs],
            "backups": [*await self._backups(ids)],
        }

    async def erase(self, selector: Selector, by: str) -> dict[str, Json] | Refuse:
        """Erase what is named, and return the report once it is signed off, or why it is not done yet."""
        # From here on nothing that was begun before is kept, however late its reply comes.
        self._conversations.close(selector, self._clock())
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((selector, by, answer))
        return await answer

    async def listed(self, limit: int = 50) -> list[dict[str, Json]]:
        """Erasures, newest first."""
        return [erasure.to_json() for erasure in await self._erasures.listed(limit)]

    async def run(self) -> None:
        """Go on with what was left undone, then with each order, until cancelled."""
        while True:
            unfinished = await self._go_on()
            try:
                async with asyncio.timeout(RETRY_S if unfinished else None):
                    order = await self._orders.get()
            except TimeoutError:
                continue
            await self._take(*order)

    async def _go_on(self) -> bool:
        """Go through what is undone; whether something still is."""
        try:
            left = await self._erasures.unfinished()
            for erasure in left:
                await self._through(erasure)
        except Exception as error:  # noqa: BLE001 - the loop's edge: serving goes on, and the erasure is tried again
            log.error("erasure_not_finished", error=_told(error))
            return True
        return False

    async def _take(self, selector: Selector, by: str, answer: _Answer) -> None:
        name = f"erasure-{secrets.token_hex(6)}"
        try:
            await self._flush()
            erasure = await self._erasures.begin(name, selector, self._clock(), by)
        except StoreError as error:
            _give(answer, Refuse(f"nothing was erased: {error.message}", error.hint))
            return
        try:
            _give(answer, await self._through(erasure))
        except Exception as error:  # noqa: BLE001 - the loop's edge: what was begun is gone on with until it is done
            log.error("erasure_not_finished", erasure=name, error=_told(error))
            hint = f"it is tried again every {RETRY_S:g} s; gaiadctl erasures shows how far {name} is"
            _give(answer, Refuse(f"the erasure is not finished: {_told(error)}", hint))

    # --- the phases -----------------------------------------------------------------------------------------------

    async def _through(self, erasure: Erasure) -> dict[str, Json]:
        log.info("erasure", erasure=erasure.id, phase=erasure.phase.value, exchanges=len(erasure.exchange_ids))
        ids = erasure.exchange_ids
        # 1. The alias flips before all else: from here on nobody is served by what is being erased.
        if erasure.phase is Phase.ASKED:
            await self._forgotten(erasure)
            erasure = await self._entered(erasure, Phase.SET_ASIDE, {"versions": self._set_aside(erasure)})
        # 2. What was said: rows, and after them the files, since no new ones can be made of rows that are gone.
        if erasure.phase is Phase.SET_ASIDE:
            backups = await self._backups(ids)
            rows = await self._erasures.purge(ids)
            await self._forgotten(erasure)
            more = {"rows": rows, "backups": backups, **await self._without_files(erasure)}
            erasure = await self._entered(erasure, Phase.PURGED, more)
        # 3. The bytes that deleting left in the database's files.
        if erasure.phase is Phase.PURGED:
            await self._erasures.scour()
            erasure = await self._entered(erasure, Phase.SCOURED, {})
        # 4. Weights, once no request is served by them any more; then a look whether anything is left.
        erasure = await self._entered(erasure, Phase.SCOURED, {"weights": await self._without_weights(erasure)})
        checks = await self._checks(erasure)
        report = signed_off({**erasure.report, "checks": checks, "ended": self._clock()})
        done = dataclasses.replace(erasure, phase=Phase.DONE, ended=self._clock(), report=report)
        await self._erasures.note(done)
        log.info("erasure", erasure=erasure.id, phase=done.phase.value, signed_off=report["signed_off"])
        return done.to_json()

    async def _entered(self, erasure: Erasure, phase: Phase, more: Mapping[str, Json]) -> Erasure:
        # What a phase that is gone through again no longer finds stands in the report from the first time.
        report = {**erasure.report, **{key: _joined(erasure.report.get(key), value) for key, value in more.items()}}
        entered = dataclasses.replace(erasure, phase=phase, report=report)
        await self._erasures.note(entered)
        return entered

    async def _forgotten(self, erasure: Erasure) -> None:
        answer = await self._learner.forget(erasure.exchange_ids, f"{erasure.id} reached what it learned from")
        if isinstance(answer, Refuse):
            raise StoreError(f"versions could not be set aside: {answer.reason}", hint=answer.hint)

    def _set_aside(self, erasure: Erasure) -> list[Json]:
        serving = self._registry.active
        return [
            {"version": row.version, "adapter": row.adapter, "now_serves": serving.get(row.adapter)}
            for row in self._registry.stained(erasure.exchange_ids)
        ]

    async def _without_files(self, erasure: Erasure) -> dict[str, Json]:
        datasets, runs = await self._places(erasure.exchange_ids)
        await asyncio.to_thread(remove, [*datasets, *runs])
        return {"datasets": [path.name for path in datasets], "runs": [path.name for path in runs]}

    async def _without_weights(self, erasure: Erasure) -> list[Json]:
        rows = self._registry.stained(erasure.exchange_ids)
        still = await self._learner.wait_until_unloaded([row.version for row in rows])
        if still:
            raise StoreError(f"the engine still has {', '.join(still)}", hint="it is tried again by itself")
        for row in rows:
            await asyncio.to_thread((row.path / WEIGHTS).unlink, missing_ok=True)
        return [row.version for row in rows]

    async def _checks(self, erasure: Erasure) -> dict[str, Json]:
        """What is left of it, by place; zero everywhere where all is gone."""
        ids = erasure.exchange_ids
        datasets, runs = await self._places(ids)
        rows = self._registry.stained(ids)
        return {
            "rows": await self._erasures.left(ids),
            "datasets": len(datasets),
            "runs": len(runs),
            "versions_that_may_serve": sum(row.stage is not VersionStage.QUARANTINED for row in rows),
            "weights": sum((row.path / WEIGHTS).exists() for row in rows),
        }

    # --- what it reaches ------------------------------------------------------------------------------------------

    async def _places(self, ids: Sequence[str]) -> tuple[list[Path], list[Path]]:
        """The folders of datasets and of runs in which these exchanges stand."""
        datasets = await asyncio.to_thread(datasets_with, self._config.datasets_dir, frozenset(ids))
        runs = await self._cycles.with_exchanges(frozenset(ids))
        folders = [self._config.runs_dir / name for name in runs]
        return datasets, [folder for folder in folders if folder.is_dir()]

    async def _backups(self, ids: Sequence[str]) -> list[Json]:
        since = await self._erasures.oldest(ids)
        rows = await self._erasures.backups(since) if since is not None else []
        return [{**row, "there": await asyncio.to_thread(Path(str(row["path"])).exists)} for row in rows]


def _give(answer: _Answer, value: dict[str, Json] | Refuse) -> None:
    if not answer.done():
        answer.set_result(value)


def _told(error: Exception) -> str:
    # What a bug says may hold what somebody said.
    return str(error) if isinstance(error, GaiadError | OSError) else type(error).__name__


def _joined(before: Json, now: Json) -> Json:
    if isinstance(before, list) and isinstance(now, list):
        return [*before, *(one for one in now if one not in before)]
    return now
