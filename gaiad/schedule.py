"""The clock of learning: an APScheduler job that calls one function every `tick_s` seconds.

Decides nothing: whether a tick leads anywhere is for `idle` to say and for the learner's loop to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]


async def run_schedule(tick: Callable[[], None], *, every_s: float) -> None:
    """Call `tick` every `every_s` seconds until cancelled; missed ticks are merged into one."""
    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_job(_as_coroutine(tick), "interval", seconds=every_s, coalesce=True, max_instances=1, id="learning")
    scheduler.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        scheduler.shutdown(wait=False)


def _as_coroutine(tick: Callable[[], None]) -> Callable[[], object]:
    # A coroutine job runs in the event loop; a plain function would run in a thread.
    async def call() -> None:
        tick()

    return call
