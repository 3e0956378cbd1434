"""The clock of learning: an APScheduler job that calls one function every `tick_s` seconds.

Decides nothing: whether a tick leads anywhere is for `idle` to say and for the learner's loop to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]


async def run_schedule(tick: Callable[[], None], *, every_s: float) -> None:
    """Call `tick` every `every_s` seconds until cancelled; missed ticks are merged into one."""
    scheduler = scheduler_for(tick, every_s=every_s)
    scheduler.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        scheduler.shutdown(wait=False)


def scheduler_for(tick: Callable[[], None], *, every_s: float) -> AsyncIOScheduler:
    """The scheduler, not yet started, whose job `learning` calls `tick`."""
    scheduler = AsyncIOScheduler(timezone="UTC")
    # A tick is late after every sleep of the machine; without a grace it would be dropped instead of merged.
    kept = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    scheduler.add_job(_as_coroutine(tick), "interval", seconds=every_s, id="learning", **kept)
    return scheduler


def _as_coroutine(tick: Callable[[], None]) -> Callable[[], object]:
    # A coroutine job runs in the event loop; a plain function would run in a thread.
    async def call() -> None:
        tick()

    return call
