"""Lets go, hour by hour, of what has been kept long enough: contents, datasets made of them, and bare rows.

Asks `retention` what is still to be kept and what time it is. Writes little at a time and lets others write in between,
so that no reply and no row waits for it. What an adapter learned stays learned: this is no erasure.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from gaiad import dataset_files, disk
from gaiad.config import Config, StoreConfig
from gaiad.consent import Purpose
from gaiad.conversations import Conversations
from gaiad.erasures import Erasures
from gaiad.errors import StoreError
from gaiad.retention import Bound, Held, Look, Retention, first_look, held_back, look_again

log = structlog.get_logger()
T = TypeVar("T")

EVERY_S = 3600.0
_PAGE = 500
_CONTENTS_AT_ONCE = 50
_ROWS_AT_ONCE = 250
_PAUSE_S = 0.025
"""Who waits for the store only looks now and then whether it is free: so seldom once a few tries were in vain."""
_DAY_S = 86400.0
_MIB = 1024 * 1024


def _since_boot() -> float:
    # Asleep the machine gets older too.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Housekeeper:
    """`run` as one task of the daemon. `is_learning` says whether a cycle runs, whose dataset may not go now.

    Nor may any while `erasures` has an unfinished one: its report names what went, so it has to find it.
    """

    def __init__(
        self,
        *,
        config: Config,
        conversations: Conversations,
        erasures: Erasures,
        is_learning: Callable[[], bool],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = _since_boot,
    ) -> None:
        self._config = config
        self._conversations = conversations
        self._erasures = erasures
        self._is_learning = is_learning
        self._clock = clock
        self._steady = steady
        self._look: Look | None = None

    @property
    def held_back(self) -> str | None:
        """Why nothing is let go of by what the clock says; None where it is believed."""
        return None if self._look is None else held_back(self._look)

    async def run(self) -> None:
        """Tidy up at once and every hour, until cancelled."""
        while True:
            try:
                await self.tidy()
            except (StoreError, OSError) as error:
                # The loop's edge: a store that is full or locked is no reason to stop serving.
                log.error("old_rows_not_deleted", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def tidy(self) -> None:
        """Let go of what is over.

        Raises:
            StoreError: the store cannot be written now; what is over stays until the next time.
            OSError: a dataset's folder cannot be removed.
        """
        now = await self._now()
        less, gone = await self._let_go(Retention(bounds_of(self._config.store), now))
        # Before the datasets: one that cannot be removed must not keep these.
        rows = await self._delete_old_metadata(now - self._config.store.metadata_days * _DAY_S)
        datasets = [] if await self._are_wanted() else await self._stale_datasets()
        if await self._are_wanted():
            # A cycle that began meanwhile may be writing the folder that was looked at half-written.
            datasets = []
        await asyncio.to_thread(dataset_files.remove, datasets)
        if less or gone or datasets:
            log.info("kept_long_enough", contents=gone, for_less=less, datasets=len(datasets), rows=rows)

    async def _now(self) -> float:
        """The time that is believed, noted for the next start."""
        wall, steady, file = self._clock(), self._steady(), self._config.state_dir / "housekeeping.json"
        if self._look is None:
            last = await asyncio.to_thread(_last_look, file)
            self._look = first_look(await self._conversations.newest() if last is None else last, wall, steady)
        else:
            self._look = look_again(self._look, wall, steady)
        if self.held_back:
            log.warning("clock_not_believed", reason=self.held_back, hint="set the clock right, or wait if it is")
        await asyncio.to_thread(disk.write_private, file, json.dumps({"believed": self._look.now}).encode())
        return self._look.now

    async def _let_go(self, retention: Retention) -> tuple[int, int]:
        """Go through all contents, newest first; how many are kept for less than before, and how many went."""
        less, gone, after = 0, 0, None
        while True:
            page, after = await self._conversations.held(after, _PAGE)
            changes = {held.request_id: left for held in page if (left := retention.still(held)) != held.purposes}
            for some in _few_at_once([held for held in page if held.request_id in changes]):
                await _giving_way(self._conversations.keep_less({one: changes[one] for one in some}))
            gone += sum(not left for left in changes.values())
            less += sum(bool(left) for left in changes.values())
            if after is None:
                return less, gone

    async def _delete_old_metadata(self, before: float) -> int:
        count, gone = 0, _ROWS_AT_ONCE
        while gone == _ROWS_AT_ONCE:
            gone = await _giving_way(self._conversations.delete_old_metadata(before, _ROWS_AT_ONCE))
            count += gone
        return count

    async def _are_wanted(self) -> bool:
        """Whether datasets are another's to write or to remove."""
        return self._is_learning() or bool(await self._erasures.unfinished())

    async def _stale_datasets(self) -> list[Path]:
        """Datasets in which an exchange stands that is no longer kept for learning."""
        stale = []
        for folder in await asyncio.to_thread(dataset_files.datasets, self._config.datasets_dir):
            ids = await asyncio.to_thread(_exchanges_in, folder)
            if ids and await self._conversations.kept_for(Purpose.TRAIN, ids) != ids:
                stale.append(folder)
        return stale


async def _giving_way(write: Awaitable[T]) -> T:
    """Write, then leave the store to others for longer than that took."""
    began = time.monotonic()
    written = await write
    await asyncio.sleep(max(_PAUSE_S, 2 * (time.monotonic() - began)))
    return written


def _few_at_once(page: Iterable[Held]) -> Iterator[list[str]]:
    """What may be changed in one go, by number and by size; one at least."""
    some: list[str] = []
    size = 0
    for held in page:
        if some and (len(some) == _CONTENTS_AT_ONCE or size + held.size > _MIB):
            yield some
            some, size = [], 0
        some.append(held.request_id)
        size += held.size
    if some:
        yield some


def _last_look(file: Path) -> float | None:
    """What was believed at the last look before this start; None where nobody knows."""
    try:
        believed = json.loads(file.read_bytes())["believed"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return float(believed) if isinstance(believed, int | float) and math.isfinite(believed) else None


def _exchanges_in(folder: Path) -> frozenset[str]:
    return frozenset(dataset_files.exchanges_in(folder))


def bounds_of(store: StoreConfig) -> dict[Purpose, Bound]:
    """The owner's bounds; 0 bounds nothing."""
    return {
        purpose: Bound(
            age_s=getattr(store, f"{purpose.value}_days") * _DAY_S or math.inf,
            size=getattr(store, f"{purpose.value}_mib") * _MIB or math.inf,
        )
        for purpose in Purpose
    }
