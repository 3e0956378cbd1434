"""Which adapters the engine has: loaded, let go, and refused, while the learner's loop runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gaiad.adapter import VersionName, VersionStage
from gaiad.learner.slots import Slots
from tests.integration.learner_world import ARCHITECT, two_versions, until, world


async def test_the_engine_holds_active_and_previous_only_and_unloads_what_no_request_holds(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        w.gpu.leased[first] = 1
        await w.train(force=True)
        third = w.active
        assert third is not None
        assert set(w.engine.adapters) == {first, second, third}
        assert first not in w.registry.snapshot.servable
        w.gpu.leased.clear()
        await until(lambda: set(w.engine.adapters) == {second, third})
        # Back twice: what a rollback makes wanted again is loaded.
        await w.loop.rollback(ARCHITECT, "back")
        assert w.active == second
        await until(lambda: set(w.engine.adapters) == {first, second})


async def test_after_an_engine_restart_the_active_and_previous_versions_are_loaded_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        w.engine.adapters.clear()
        await w.loop.reconcile()
        assert set(w.engine.adapters) == {first, second}
        assert w.active == second


async def test_what_an_engine_has_but_should_not_is_unloaded_once_it_serves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        left = VersionName("json-architect@v9-0123abcd")
        w.engine.adapters[left] = tmp_path
        w.gpu.phase = "probing"
        await w.loop.reconcile()
        # The learner has heard of it before the gate opens.
        for _ in range(5):
            await asyncio.sleep(0)
        assert left in w.engine.adapters
        w.gpu.phase = "serving"
        await until(lambda: left not in w.engine.adapters)


async def test_until_the_engine_was_asked_nobody_says_that_it_has_not_what_an_earlier_daemon_gave_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first, _ = await two_versions(w)

        async def set_aside(version: VersionName, reason: str) -> None:
            raise AssertionError(reason)

        # A daemon that starts again, over an engine that went on.
        slots = Slots(w.engine, w.gpu, w.registry, set_aside=set_aside, patience_s=0.1)
        assert await slots.wait_until_gone([]) == []
        assert await slots.wait_until_gone([first]) == [first]
        await w.registry.set_stage(first, VersionStage.QUARANTINED, "it learned from what is erased", 9.0)
        w.engine.adapters.pop(first)
        await slots.reconcile()
        assert await slots.wait_until_gone([first]) == []


async def test_a_version_with_changed_bytes_is_quarantined_and_the_one_before_serves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        row = w.registry.version(second)
        assert row is not None
        weights = row.path / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        w.engine.adapters.clear()
        await w.loop.reconcile()
        assert w.active == first
        fallen = w.registry.version(second)
        assert fallen is not None
        assert fallen.stage is VersionStage.QUARANTINED
        assert "not what was published" in fallen.reason


async def test_a_version_that_the_engine_refuses_stays_active_is_told_and_is_loaded_once_it_takes_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        w.engine.adapters.clear()
        w.engine.refused, w.engine.load_calls = {first, second}, []
        await w.loop.reconcile()
        # Both are tried by the reconciliation, and once more when it is over.
        await until(lambda: len(w.engine.load_calls) == 4 and not w.loop._settling)
        stages = {row.version: row.stage for row in w.registry.versions(ARCHITECT)}
        assert stages == {first: VersionStage.RETIRED, second: VersionStage.ACTIVE}
        assert w.registry.active_not_loaded == {ARCHITECT: second}
        assert w.active is None
        trouble = str(w.loop.status()["trouble"])
        assert f"no adapter for {first}" in trouble
        assert f"no adapter for {second}" in trouble
        w.engine.refused = set()
        w.loop.tick()
        await until(lambda: w.active == second)
        assert set(w.engine.adapters) == {first, second}
        await until(lambda: w.loop.status()["trouble"] is None)


async def test_a_refused_version_is_tried_once_a_pass_and_holds_up_no_other(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        w.engine.adapters.clear()
        w.engine.refused, w.engine.load_calls = {second}, []
        w.gpu.phase = "probing"
        await w.loop.reconcile()
        assert w.engine.load_calls == [second, first]
        assert set(w.engine.adapters) == {first}
        # The events that follow a start try once more, and no loop of tries begins.
        w.gpu.phase = "serving"
        await until(lambda: len(w.engine.load_calls) == 3)
        await asyncio.sleep(0.2)
        assert w.engine.load_calls == [second, first, second]


async def test_an_answer_to_a_load_that_came_too_late_is_believed_where_the_engine_has_the_version(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        _, second = await two_versions(w)
        w.engine.adapters.clear()
        w.engine.late = {second}
        await w.loop.reconcile()
        assert w.active == second
        assert w.loop.status()["trouble"] is None


async def test_a_dead_engine_says_nothing_against_any_version(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        _, second = await two_versions(w)
        w.engine.adapters.clear()
        w.engine.broken = True
        with pytest.raises(Exception, match="does not answer"):
            await w.loop.reconcile()
        w.engine.broken = False
        await w.loop.reconcile()
        assert w.active == second


@pytest.mark.parametrize("patience_s", [0.0, 60.0])
async def test_a_version_that_was_leaving_serves_at_once_when_rollbacks_make_it_wanted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr("gaiad.learner.loop.UNLOAD_PATIENCE_S", patience_s)
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        w.gpu.leased[first] = 1
        await w.train(force=True)
        await until(lambda: first not in w.registry.loaded)
        await w.loop.rollback(ARCHITECT, "worse")
        assert w.active == second
        assert w.registry.snapshot.previous[ARCHITECT] == first
        assert first in w.registry.snapshot.servable
        await w.loop.rollback(ARCHITECT, "worse too")
        assert w.active == first
        w.gpu.leased.clear()
        await until(lambda: set(w.engine.adapters) == {first})
        assert w.active == first
