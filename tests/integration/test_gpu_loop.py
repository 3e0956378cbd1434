"""The GPU's loop over a real process that speaks vLLM, with a real child that computes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from gaiad.adapter import VersionName
from gaiad.errors import EngineError, Refuse
from gaiad.gpu import probe
from gaiad.gpu.admission import Lease
from gaiad.gpu.engine import Engine
from gaiad.gpu.handoff import Phase
from gaiad.gpu.loop import Hold
from tests.fakes.vllm_process import running_vllm
from tests.integration.gpu_world import BusyChild, GpuWorld, managed_config, running_gpu, until

VERSION = VersionName("json-architect@v1-0123abcd")


@pytest.fixture
def child() -> Iterator[BusyChild]:
    busy = BusyChild()
    try:
        yield busy
    finally:
        busy.end()


def at(world: GpuWorld) -> str:
    return str(world.loop.phase)


async def held(world: GpuWorld, child: BusyChild) -> Hold:
    await world.serving()
    hold = await world.loop.acquire("training json-architect")
    assert isinstance(hold, Hold)
    hold.attach(child)
    assert world.loop.phase is Phase.HELD
    return hold


async def test_requests_that_come_before_the_engine_is_up_are_served_once_it_is(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path, "--start-delay-s 0.5")) as world:
        asked = [asyncio.ensure_future(world.ask()) for _ in range(3)]
        await until(lambda: world.loop.held == 3)
        assert at(world) == "starting"
        assert await asyncio.gather(*asked) == ["served"] * 3
        assert world.loop.phase is Phase.SERVING
        assert world.reconciled == [world.engine.pid]
        assert "starting for" not in world.loop.reason
        assert world.loop.last_user_end is not None


async def test_start_shows_its_progress_in_status(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path, "--start-delay-s 1")) as world:
        await until(lambda: "starting for" in world.loop.reason)
        assert world.loop.status()["phase"] == "starting"
        await world.serving()


async def test_no_request_is_served_while_trainer_holds_gpu_and_all_are_after_release_in_order(
    tmp_path: Path, child: BusyChild
) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        hold = await held(world, child)
        served: list[int] = []

        async def ask(number: int) -> None:
            lease = await world.loop.admit(is_user=False, timeout_s=20)
            assert isinstance(lease, Lease)
            served.append(number)
            lease.release()

        asked = []
        for number in range(4):
            asked.append(asyncio.ensure_future(ask(number)))
            await until(lambda n=number: world.loop.held == n + 1)  # type: ignore[misc]
        assert (served, world.loop.phase, child.state) == ([], Phase.HELD, "R")
        assert await world.engine.paused()
        await hold.release()
        await asyncio.gather(*asked)
        assert served == [0, 1, 2, 3]
        assert world.loop.phase is Phase.SERVING
        assert len(world.reconciled) == 2


async def test_user_request_is_forwarded_within_a_second_while_the_trainer_stands_still(
    tmp_path: Path, child: BusyChild
) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        hold = await held(world, child)
        await until(lambda: child.state == "R")
        began = time.monotonic()
        lease = await world.loop.admit(is_user=True, timeout_s=20)
        assert time.monotonic() - began < 1.0
        assert isinstance(lease, Lease)
        assert at(world) == "lent"
        await until(lambda: child.state == "T", 0.5)
        assert not await world.engine.paused()
        lease.release()
        await until(lambda: child.state == "R")
        assert world.loop.phase is Phase.HELD
        assert await world.engine.paused()
        assert not hold.lost.is_set()
        await hold.release()


async def test_trainer_stands_still_as_long_as_users_keep_asking(tmp_path: Path, child: BusyChild) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        hold = await held(world, child)
        for _ in range(8):
            assert await world.ask() == "served"
            # A signal takes effect when the kernel next runs the child, not when it is sent.
            await until(lambda: child.state == "T", 0.2)
            await asyncio.sleep(0.05)
        await until(lambda: child.state == "R")
        await hold.release()


async def test_child_attached_while_a_user_is_served_stands_still_at_once(tmp_path: Path, child: BusyChild) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        await world.serving()
        hold = await world.loop.acquire("training")
        assert isinstance(hold, Hold)
        lease = await world.loop.admit(is_user=True, timeout_s=20)
        assert isinstance(lease, Lease)
        hold.attach(child)
        await until(lambda: child.state == "T")
        lease.release()
        await until(lambda: child.state == "R")
        await hold.release()


async def test_killed_engine_is_started_again_reconciled_and_serves_who_waited(tmp_path: Path) -> None:
    async def load(engine: Engine) -> None:
        await engine.load(VERSION, tmp_path)

    async with running_gpu(managed_config(tmp_path), load) as world:
        await world.serving()
        first = world.engine.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: world.loop.phase is Phase.RESTARTING)
        assert "signal 9" in world.loop.reason
        assert await world.ask() == "served"
        assert world.engine.pid not in (None, first)
        assert world.reconciled == [first, world.engine.pid]
        assert await world.engine.loaded() == {VERSION}
        assert world.loop.reason == ""


async def test_engine_that_dies_under_the_trainer_loses_the_hold_and_serves_after_release(
    tmp_path: Path, child: BusyChild
) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        hold = await held(world, child)
        assert world.engine.pid is not None
        os.kill(world.engine.pid, signal.SIGKILL)
        await asyncio.wait_for(hold.lost.wait(), 5)
        asked = asyncio.ensure_future(world.ask())
        await until(lambda: world.loop.held == 1)
        assert at(world) == "restarting"
        assert not asked.done()
        child.end()
        await hold.release()
        assert await asked == "served"
        assert world.loop.phase is Phase.SERVING


async def test_managed_engine_that_answers_no_more_is_replaced(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        await world.serving()
        first = world.engine.pid
        await world.fault(unhealthy=True)
        await until(lambda: world.loop.phase is Phase.RESTARTING)
        assert "health check" in world.loop.reason
        await world.serving()
        assert world.engine.pid != first


async def test_engine_that_cannot_start_is_tried_again_and_requests_are_refused_in_the_end(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path, "--exit-at-start 1")) as world:
        waiting = asyncio.ensure_future(world.ask(timeout_s=30))
        answer = await asyncio.wait_for(waiting, 20)
        assert "told not to start" in answer
        assert world.loop.phase is Phase.DOWN
        assert "told not to start" in world.loop.reason
        refused = await world.loop.acquire("training")
        assert isinstance(refused, Refuse)


async def test_hold_waits_for_running_requests_and_is_refused_when_they_do_not_end(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        await world.serving()
        lease = await world.loop.admit(is_user=True, timeout_s=1)
        assert isinstance(lease, Lease)
        refused = await world.loop.acquire("training")
        assert isinstance(refused, Refuse)
        assert "still ran" in refused.reason
        assert world.loop.phase is Phase.SERVING
        lease.release()
        hold = await world.loop.acquire("training")
        assert isinstance(hold, Hold)
        await hold.release()


async def test_hold_on_an_engine_that_cannot_pause_is_refused_with_the_flag_and_serving_goes_on(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path, "--no-dev-mode")) as world:
        await world.serving()
        pid = world.engine.pid
        refused = await world.loop.acquire("training")
        assert isinstance(refused, Refuse)
        assert "VLLM_SERVER_DEV_MODE=1" in refused.reason
        assert await world.ask() == "served"
        assert world.engine.pid == pid


async def test_reconcile_that_fails_once_restarts_the_engine_and_serves_then(tmp_path: Path) -> None:
    failures = [EngineError("the adapter does not load", hint="look at it")]

    async def reconcile(engine: Engine) -> None:
        if failures:
            raise failures.pop()

    async with running_gpu(managed_config(tmp_path), reconcile) as world:
        await until(lambda: world.loop.phase is Phase.RESTARTING)
        assert "does not load" in world.loop.reason
        await world.serving()
        assert len(world.reconciled) == 2


async def test_second_hold_is_refused_and_a_cancelled_wish_leaves_the_machine_serving(tmp_path: Path) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        await world.serving()
        lease = await world.loop.admit(is_user=True, timeout_s=1)
        assert isinstance(lease, Lease)
        wish = asyncio.ensure_future(world.loop.acquire("first"))
        await until(lambda: world.loop.phase is Phase.DRAINING)
        assert isinstance(await world.loop.acquire("second"), Refuse)
        wish.cancel()
        await world.serving()
        lease.release()
        hold = await world.loop.acquire("third")
        assert isinstance(hold, Hold)
        await hold.release()


async def test_full_line_and_too_long_a_wait_are_refusals(tmp_path: Path, child: BusyChild) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        hold = await held(world, child)
        waiting = [asyncio.ensure_future(world.loop.admit(is_user=False, timeout_s=0.5)) for _ in range(8)]
        await until(lambda: world.loop.held == 8)
        full = await world.loop.admit(is_user=False, timeout_s=5)
        assert isinstance(full, Refuse)
        assert "wait already" in full.reason
        for answer in await asyncio.gather(*waiting):
            assert isinstance(answer, Refuse)
        assert world.loop.held == 0
        await hold.release()


async def test_shutdown_in_any_phase_leaves_no_process_and_nobody_waiting(tmp_path: Path, child: BusyChild) -> None:
    async with running_gpu(managed_config(tmp_path)) as world:
        hold = await held(world, child)
        waiting = asyncio.ensure_future(world.loop.admit(is_user=False, timeout_s=60))
        await until(lambda: world.loop.held == 1)
        pid = world.engine.pid
        assert pid is not None
    assert isinstance(await waiting, Refuse)
    assert probe.group_members(pid) == []
    with pytest.raises(EngineError, match="stopping"):
        await hold.release()


async def test_external_engine_that_goes_away_is_waited_for_and_never_ended(tmp_path: Path) -> None:
    with running_vllm() as first:
        config = managed_config(tmp_path, port=first.port, mode="external")
        async with running_gpu(config) as world:
            await world.serving()
            first.child.kill()
            first.child.wait()
            await until(lambda: world.loop.phase is Phase.RESTARTING)
            with running_vllm(port=first.port) as second:
                await world.serving()
                assert await world.ask() == "served"
                assert second.child.poll() is None
        assert len(world.reconciled) == 2


async def test_external_engine_that_is_missing_at_the_start_is_waited_for_and_requests_are_held(tmp_path: Path) -> None:
    config = managed_config(tmp_path, mode="external")
    async with running_gpu(config) as world:
        asked = asyncio.ensure_future(world.ask())
        await until(lambda: world.loop.held == 1 and f"asking {world.engine.url}" in world.loop.reason)
        assert at(world) == "starting"
        with running_vllm(port=int(config.engine.url.rpartition(":")[2])):
            assert await asked == "served"
            assert world.engine.starts == 1


async def test_external_engine_that_a_killed_daemon_left_quiet_is_woken_at_the_start(tmp_path: Path) -> None:
    with running_vllm() as engine:
        await engine.call("POST", "/pause?mode=wait", {})
        async with running_gpu(managed_config(tmp_path, port=engine.port, mode="external")) as world:
            await world.serving(5.0)
            assert await world.ask() == "served"


async def test_external_engine_is_not_left_quiet_by_a_daemon_that_stops(tmp_path: Path, child: BusyChild) -> None:
    with running_vllm() as engine:
        async with running_gpu(managed_config(tmp_path, port=engine.port, mode="external")) as world:
            await held(world, child)
            assert await world.engine.paused()
        assert await engine.call("GET", "/is_paused") == {"is_paused": False}


async def test_an_external_engine_started_anew_between_two_looks_gets_its_adapters_back(tmp_path: Path) -> None:
    version = VersionName("json-architect@v1-00000000")
    with running_vllm() as engine:

        async def bring(gpu_engine: Engine) -> None:
            await gpu_engine.load(version, tmp_path)

        config = managed_config(tmp_path, port=engine.port, mode="external")
        async with running_gpu(config, bring, expected=lambda: frozenset({version})) as world:
            await world.serving()
            await world.engine.unload(version)
            await until(lambda: len(world.reconciled) == 2)
            await world.serving()
            assert version in await world.engine.loaded()
            assert engine.child.poll() is None


async def tell(engine: Engine, **faults: object) -> None:
    """Set the faults of a fake engine."""
    async with aiohttp.ClientSession() as session, session.post(f"{engine.url}/_fault", json=faults):
        pass


async def test_one_probe_without_an_answer_does_not_cost_a_healthy_engine_its_life(tmp_path: Path) -> None:
    async def stumble(engine: Engine) -> None:
        # The first probe after this fails, the next one does not.
        await tell(engine, fail_next=1)

    async with running_gpu(managed_config(tmp_path), stumble) as world:
        await world.serving()
        assert len(world.reconciled) == 1
        assert world.loop.reason == ""


async def test_an_engine_that_answers_no_probe_at_all_is_started_again(tmp_path: Path) -> None:
    async def stumble(engine: Engine) -> None:
        await tell(engine, fail_next=0 if pids else 1000)
        pids.append(engine.pid)

    pids: list[int | None] = []
    async with running_gpu(managed_config(tmp_path), stumble) as world:
        await world.serving()
        assert len(set(pids)) == 2
