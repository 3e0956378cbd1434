"""Lets go, hour by hour, of what has been kept long enough: contents, datasets made of them, and bare rows.

Asks `retention` what is still to be kept, in small pages, so that no reply waits for it. What an adapter learned stays
learned: this is no erasure.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from gaiad import dataset_files
from gaiad.config import Config, StoreConfig
from gaiad.consent import Purpose
from gaiad.conversations import Conversations
from gaiad.erasures import Erasures
from gaiad.errors import StoreError
from gaiad.retention import Bound, Retention

log = structlog.get_logger()

EVERY_S = 3600.0
_PAGE = 500
_DAY_S = 86400.0
_MIB = 1024 * 1024


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
    ) -> None:
        self._config = config
        self._conversations = conversations
        self._erasures = erasures
        self._is_learning = is_learning
        self._clock = clock

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
        now = self._clock()
        less, gone = await self._let_go(Retention(bounds_of(self._config.store), now))
        # Before the datasets: one that cannot be removed must not keep these.
        rows = await self._conversations.delete_old_metadata(now - self._config.store.metadata_days * _DAY_S)
        datasets = [] if await self._are_wanted() else await self._stale_datasets()
        if await self._are_wanted():
            # A cycle that began meanwhile may be writing the folder that was looked at half-written.
            datasets = []
        await asyncio.to_thread(dataset_files.remove, datasets)
        if less or gone or datasets:
            log.info("kept_long_enough", contents=gone, for_less=less, datasets=len(datasets), rows=rows)

    async def _let_go(self, retention: Retention) -> tuple[int, int]:
        """Go through all contents, newest first; how many are kept for less than before, and how many went."""
        less, gone, after = 0, 0, None
        while True:
            page, after = await self._conversations.held(after, _PAGE)
            changes = {held.request_id: left for held in page if (left := retention.still(held)) != held.purposes}
            if changes:
                await self._conversations.keep_less(changes)
            gone += sum(not left for left in changes.values())
            less += sum(bool(left) for left in changes.values())
            if after is None:
                return less, gone

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
