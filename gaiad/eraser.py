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

from gaiad import copies
from gaiad.adapter import VersionStage
from gaiad.config import Config
from gaiad.conversations import Conversations
from gaiad.curriculum import Json
from gaiad.cycles import Cycles
from gaiad.dataset_files import datasets_with, read_object, remove
from gaiad.erasure import Phase, Selector, exchange_ids_of, signed_off
from gaiad.erasures import Erasure, Erasures
from gaiad.errors import GaiadError, Refuse, StoreError
from gaiad.learner.artifacts import MANIFEST, WEIGHTS
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
        reach = await self._erasures.reach(selector)
        datasets, runs = await self._places(reach.exchange_ids)
        return {
            "asked": {"kind": selector.kind.value, "name": selector.name},
            "exchange_ids": [*reach.exchange_ids],
            "versions": [row.version for row in self._registry.stained(reach.exchange_ids)],
            "datasets": [path.name for path in datasets],
            "runs": [path.name for path in runs],
            "backups": [*await self._backups(reach.since)],
            "unread": [*reach.unread],
            "beyond": self._erasures.beyond,
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
        stuck = False
        # Every alias flips before anything is waited for, and one that is stuck holds up no other.
        for step in (self._flipped, self._through):
            try:
                left = await self._erasures.unfinished()
            except StoreError as error:
                log.error("erasures_not_read", error=error.message)
                return True
            for erasure in left:
                try:
                    await step(erasure)
                except Exception as error:  # noqa: BLE001 - the loop's edge: serving goes on, and it is tried again
                    log.error("erasure_not_finished", erasure=erasure.id, error=_told(error))
                    stuck = True
        return stuck

    async def _take(self, selector: Selector, by: str, answer: _Answer) -> None:
        under_way: Erasure | None = None
        report: dict[str, Json] | None = None
        try:
            await self._flush()
            # 1. Asked for again before it was finished: that one first, or what is new would be signed off for all.
            for under_way in await self._asked_before(selector):
                report = await self._through(under_way)
            # 2. A new one, unless all there was went with that.
            if report is None or (await self._erasures.reach(selector)).exchange_ids:
                under_way = None
                under_way = await self._erasures.begin(_new_name(), selector, self._clock(), by)
                report = await self._through(under_way)
            _give(answer, report)
        except Exception as error:  # noqa: BLE001 - the loop's edge: what was begun is gone on with until it is done
            log.error("erasure_not_finished", erasure=under_way and under_way.id, error=_told(error))
            _give(answer, _refusal(under_way, error))

    async def _asked_before(self, selector: Selector) -> list[Erasure]:
        """What was asked for in the same words and is not finished, oldest first."""
        return [one for one in await self._erasures.unfinished() if one.selector == selector]

    # --- the phases -----------------------------------------------------------------------------------------------

    async def _through(self, erasure: Erasure) -> dict[str, Json]:
        log.info("erasure", erasure=erasure.id, phase=erasure.phase.value, exchanges=len(erasure.exchange_ids))
        # 1. The alias flips before all else: from here on nobody is served by what is being erased.
        erasure = await self._flipped(erasure)
        # 2. What was said: rows, and after them the files, since no new ones can be made of rows that are gone.
        if erasure.phase is Phase.SET_ASIDE:
            erasure = await self._erasures.purge(erasure)
            # Only now: a copy that is begun from here on holds none of it, and one before is in the list.
            backups = await self._backups(erasure.copies_since)
            await self._forgotten(erasure)
            more: dict[str, Json] = {"backups": backups, "versions": self._set_aside(erasure)}
            erasure = await self._without_files(await self._entered(erasure, Phase.SET_ASIDE, more))
            erasure = await self._entered(erasure, Phase.PURGED, {})
        # 3. The bytes that deleting left in the database's files; and where they may be that nobody here can reach.
        if erasure.phase is Phase.PURGED:
            await self._erasures.scour()
            erasure = await self._entered(erasure, Phase.SCOURED, {"beyond": self._erasures.beyond})
        # 4. Weights, once no request is served by them any more; then a look whether anything is left.
        erasure = await self._entered(erasure, Phase.SCOURED, {"weights": await self._without_weights(erasure)})
        checks = await self._checks(erasure)
        report = signed_off({**erasure.report, "checks": checks, "ended": self._clock()})
        done = dataclasses.replace(erasure, phase=Phase.DONE, ended=self._clock(), report=report)
        await self._erasures.note(done)
        log.info("erasure", erasure=erasure.id, phase=done.phase.value, signed_off=report["signed_off"])
        return done.to_json()

    async def _flipped(self, erasure: Erasure) -> Erasure:
        if erasure.phase is not Phase.ASKED:
            return erasure
        await self._forgotten(erasure)
        return await self._entered(erasure, Phase.SET_ASIDE, {"versions": self._set_aside(erasure)})

    async def _entered(self, erasure: Erasure, phase: Phase, more: Mapping[str, Json]) -> Erasure:
        # What a phase that is gone through again no longer finds stands in the report from the first time.
        report = {**erasure.report, **{key: _joined(erasure.report.get(key), value) for key, value in more.items()}}
        entered = dataclasses.replace(erasure, phase=phase, report=report)
        await self._erasures.note(entered)
        return entered

    async def _forgotten(self, erasure: Erasure) -> None:
        if not erasure.exchange_ids:
            return
        answer = await self._learner.forget(erasure.exchange_ids, f"{erasure.id} reached what it learned from")
        if isinstance(answer, Refuse):
            raise StoreError(f"versions could not be set aside: {answer.reason}", hint=answer.hint)

    def _set_aside(self, erasure: Erasure) -> list[Json]:
        """The versions that the report does not name yet: a cycle may have brought one until its rows were gone."""
        named, serving = erasure.versions, self._registry.active
        return [
            {"version": row.version, "adapter": row.adapter, "now_serves": serving.get(row.adapter)}
            for row in self._registry.stained(erasure.exchange_ids)
            if row.version not in named
        ]

    async def _without_files(self, erasure: Erasure) -> Erasure:
        datasets, runs = await self._places(erasure.exchange_ids)
        # Said before it is done: the next daemon would find nothing any more to say.
        said: dict[str, Json] = {"datasets": [path.name for path in datasets], "runs": [path.name for path in runs]}
        erasure = await self._entered(erasure, Phase.SET_ASIDE, said)
        await asyncio.to_thread(remove, [*datasets, *runs])
        return erasure

    async def _without_weights(self, erasure: Erasure) -> list[Json]:
        rows = self._registry.stained(erasure.exchange_ids)
        still = await self._learner.wait_until_unloaded([row.version for row in rows])
        if still:
            raise StoreError(f"the engine may still have {', '.join(still)}", hint="it is tried again by itself")
        folders = await self._folders(erasure.exchange_ids)
        for folder in folders:
            await asyncio.to_thread((folder / WEIGHTS).unlink, missing_ok=True)
        return [f"{folder.parent.name}@{folder.name}" for folder in folders]

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
            "weights": sum((folder / WEIGHTS).exists() for folder in await self._folders(ids)),
            "unread": await asyncio.to_thread(_there, erasure.unread),
        }

    # --- what it reaches ------------------------------------------------------------------------------------------

    async def _places(self, ids: Sequence[str]) -> tuple[list[Path], list[Path]]:
        """The folders of datasets and of runs in which these exchanges stand."""
        datasets = await asyncio.to_thread(datasets_with, self._config.datasets_dir, frozenset(ids))
        runs = await self._cycles.with_exchanges(frozenset(ids))
        folders = [self._config.runs_dir / name for name in runs]
        return datasets, [folder for folder in folders if folder.is_dir()]

    async def _folders(self, ids: Sequence[str]) -> list[Path]:
        """The folders of versions that learned from these, with those that were published and never registered."""
        registered = {row.path for row in self._registry.stained(ids)}
        return sorted(registered | await asyncio.to_thread(_published_from, self._config.adapters_dir, frozenset(ids)))

    async def _backups(self, since: float | None) -> list[Json]:
        rows = await self._erasures.backups(since) if since is not None else []
        return [one for row in rows for one in await asyncio.to_thread(_copies_at, row)]


def _give(answer: _Answer, value: dict[str, Json] | Refuse) -> None:
    if not answer.done():
        answer.set_result(value)


def _told(error: Exception) -> str:
    # What a bug says may hold what somebody said.
    return str(error) if isinstance(error, GaiadError | OSError) else type(error).__name__


def _new_name() -> str:
    return f"erasure-{secrets.token_hex(6)}"


def _refusal(under_way: Erasure | None, error: Exception) -> Refuse:
    """Why an order is not done: it could not even be written down, or it is gone on with later."""
    if under_way is None:
        hint = error.hint if isinstance(error, GaiadError) else "see the daemon's log"
        return Refuse(f"nothing was erased: {_told(error)}", hint)
    hint = f"it is tried again every {RETRY_S:g} s; gaiadctl erasures shows how far {under_way.id} is"
    return Refuse(f"the erasure is not finished: {_told(error)}", hint)


def _joined(before: Json, now: Json) -> Json:
    if isinstance(before, list) and isinstance(now, list):
        return [*before, *(one for one in now if one not in before)]
    return now


def _copies_at(row: Mapping[str, Json]) -> list[Json]:
    """What lies where a copy was noted: the copy, or none any more, and what a copy that was cut off left."""
    path = Path(str(row["path"]))
    partial = copies.partial_of(path)
    rows: list[Json] = [{**row, "path": str(one), "there": True} for one in (path, partial) if one.exists()]
    return rows or [{**row, "there": False}]


def _published_from(root: Path, ids: frozenset[str]) -> set[Path]:
    """Published folders whose manifest says that they learned from one of these."""
    found = set()
    for manifest in root.glob(f"*/v*/{MANIFEST}") if ids else ():
        lineage = read_object(manifest.read_text("utf-8", "replace")).get("lineage")
        if isinstance(lineage, dict) and not ids.isdisjoint(exchange_ids_of(lineage)):
            found.add(manifest.parent)
    return found


def _there(paths: Sequence[str]) -> int:
    return sum(Path(path).exists() for path in paths)
