"""The clock of learning."""

from __future__ import annotations

import asyncio

import pytest

from gaiad.schedule import run_schedule


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
