"""The clock of learning."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gaiad.schedule import run_schedule, scheduler_for


async def test_a_tick_calls_inside_the_event_loop_until_cancelled() -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    twice = asyncio.Event()

    def tick() -> None:
        loops.append(asyncio.get_running_loop())
        if len(loops) == 2:
            twice.set()

    async with asyncio.TaskGroup() as group:
        schedule = group.create_task(run_schedule(tick, every_s=0.01), name="schedule")
        await asyncio.wait_for(twice.wait(), 10)
        schedule.cancel()
        with pytest.raises(asyncio.CancelledError):
            await schedule
    assert set(loops) == {asyncio.get_running_loop()}


async def test_a_tick_that_comes_late_is_not_dropped() -> None:
    ticked = asyncio.Event()
    scheduler = scheduler_for(ticked.set, every_s=3600)
    # As after a sleep of the machine: the time of the next tick lies a minute back.
    scheduler.start()
    try:
        scheduler.modify_job("learning", next_run_time=datetime.now(UTC) - timedelta(minutes=1))
        await asyncio.wait_for(ticked.wait(), 5)
    finally:
        scheduler.shutdown(wait=False)
