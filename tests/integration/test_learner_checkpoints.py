"""A run's checkpoints between cycles: there for the next try of the same dataset, gone once it has learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaiad.dataset_files import datasets_with, remove
from gaiad.learner.cycle import Verdict
from tests.integration.learner_world import ARCHITECT, World, corrected_exchange, until, world


def kept(w: World) -> list[str]:
    """The steps of the checkpoints of this adapter, with all that lies between a dataset and them."""
    return [path.name for path in w.config.datasets_dir.glob(f"*/checkpoints/{ARCHITECT}/*")]


def resumed_from(w: World) -> object:
    """What the active version's manifest says."""
    (path,) = (row.path for row in w.registry.versions() if row.version == w.active)
    return json.loads((path / "manifest.json").read_text())["lineage"]["resumed_from"]


async def broken_off(w: World) -> None:
    """Begin a cycle and let a user's request end its run after a step or two."""
    w.faults("slow")
    name = await w.loop.start_cycle(ARCHITECT)
    assert isinstance(name, str)
    await until(lambda: bool(w.gpu.holds) and w.gpu.holds[-1].child is not None and bool(kept(w)))
    w.gpu.holds[-1].preempt.set()
    row = await w.ended(name)
    assert row.verdict == Verdict.FAILED
    assert "the next cycle goes on from its checkpoint" in str(row.reason)
    w.faults("normal")


async def test_a_run_that_a_user_ended_is_gone_on_with_and_says_so_in_its_lineage(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await broken_off(w)
        before = [int(step) for step in kept(w)]
        assert before
        await w.train()
        assert w.active is not None
        assert resumed_from(w) == max(before)


async def test_checkpoints_go_once_the_dataset_has_been_learnt(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await broken_off(w)
        assert kept(w)
        await w.train()
        assert kept(w) == []


@pytest.mark.parametrize("fault", ["die", "torn", "garbage", "exit_0_without_result", "result_then_exit_3"])
async def test_a_trainer_that_was_killed_or_broke_says_nothing_of_its_dataset(tmp_path: Path, fault: str) -> None:
    async with world(tmp_path) as w:
        w.faults(fault)
        row = await w.train()
        assert (row.verdict, row.dataset_digest) == (Verdict.FAILED, None)
        before = [int(step) for step in kept(w)]
        assert before
        w.faults("normal")
        # Nobody has to insist: the dataset is as new as it was, and the run goes on.
        await w.train()
        assert resumed_from(w) == max(before)


async def test_checkpoints_of_an_earlier_dataset_go_where_another_begins_to_be_learnt(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await broken_off(w)
        (earlier,) = {path.parents[2] for path in w.config.datasets_dir.glob(f"*/checkpoints/{ARCHITECT}/*")}
        await corrected_exchange(w, "r1")
        await broken_off(w)
        assert kept(w)
        assert not (earlier / "checkpoints" / ARCHITECT).exists()


async def test_a_killed_daemon_leaves_them_for_the_next_cycle(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.faults("slow")
        assert isinstance(await w.loop.start_cycle(ARCHITECT), str)
        await until(lambda: bool(kept(w)))
    # The loop was cut off in the midst of the cycle.
    async with world(tmp_path) as w:
        assert kept(w)
        before = max(int(step) for step in kept(w))
        await w.train()
        assert w.active is not None
        assert resumed_from(w) == before
        assert kept(w) == []


async def test_they_go_with_their_dataset_so_that_no_erasure_leaves_them(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "r1")
        await broken_off(w)
        assert kept(w)
        remove(datasets_with(w.config.datasets_dir, frozenset({"r1"})))
        assert kept(w) == []
