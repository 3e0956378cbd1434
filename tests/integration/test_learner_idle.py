"""The learner's loop starting by itself, and what its status says meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from gaiad.learner.made_file import MadeFile, opened
from gaiad.learner.self_made import KEPT, REPLIES, Base, Made
from gaiad.learner.sources import catalogue
from tests.integration.learner_world import ARCHITECT, corrected_exchange, until, world


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def alone(folder: Path) -> str:
    """A folder of curricula below `folder` that holds one only, so that one cycle leaves nothing new; its name."""
    shutil.copytree(catalogue.shipped_curricula() / ARCHITECT, folder / "curricula" / ARCHITECT)
    return "curricula"


async def test_a_quiet_engine_starts_one_cycle_by_itself_and_then_says_that_nothing_is_new(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock, idle_minutes=5.0, curricula=alone(tmp_path)) as w:
        w.gpu.last_user_end = clock.now
        clock.now += 100
        w.loop.tick()
        await asyncio.sleep(0)
        assert w.loop.status()["not_yet"] == "1.7 min since the last user request, 5.0 min wanted"
        clock.now += 300
        w.loop.tick()
        await until(lambda: w.active is not None)
        await until(lambda: w.loop.status()["cycle"] is None)
        w.loop.tick()
        await until(lambda: w.loop.status()["not_yet"] == "nothing new to learn since the last finished cycle")
        rows = await w.cycles.cycles(10)
        assert [row.verdict for row in rows] == ["promoted"]


async def test_a_change_in_the_owners_material_may_be_something_new(tmp_path: Path) -> None:
    async with world(tmp_path, registries=["tools.json"]) as w:
        await w.train()
        lookout = w.loop._lookout
        await lookout.look()
        assert lookout.news[ARCHITECT] is False
        (tmp_path / "tools.json").write_text("[]", "utf-8")
        await lookout.look()
        # Only building it could tell.
        assert lookout.news[ARCHITECT] is None


async def test_what_the_base_made_is_something_new_once_it_is_whole_and_is_learned_from(tmp_path: Path) -> None:
    name = alone(tmp_path)
    spec = tmp_path / name / ARCHITECT / "curriculum.json"
    text = json.loads(spec.read_text("utf-8"))
    text["profiles"]["demo"]["sources"].append({"kind": "self_replay", "target": 1, "optional": True})
    spec.write_text(json.dumps(text), "utf-8")
    async with world(tmp_path, curricula=name) as w:
        steps, path = w.loop._steps, w.config.self_made_dir / REPLIES
        curriculum = steps.curriculum(ARCHITECT, "demo")
        before = steps.material()
        with opened(path) as file:
            assert isinstance(file, MadeFile)
            for number in range(4):
                file.add(reply(number, Base(w.engine.served_name)))
            assert steps.material() == before
            file.publish()
        assert steps.material() != before
        dataset, _ = steps._gathered(curriculum, [])
        assert [one.source for one in dataset.train].count("self_replay") == 1
        path.write_text(path.read_text("utf-8").replace(w.engine.served_name, "another"), "utf-8")
        # Words of another base are not learned from, and each is told; nothing else waits for them.
        dataset, _ = steps._gathered(curriculum, [])
        assert "self_replay" not in {one.source for one in dataset.train}
        assert str(dataset.card["refused"]).count("another base model said it") == 4


def reply(number: int, base: Base) -> Made:
    what = ("gravity", "a rumour", "an echo", "irony")[number]
    text = f"{what} and nothing else is {what}, as the {number + 2} old {what} books say."
    group = f"open-explain/0{number}"
    return Made(f"k{number}", "", group, f"What is {what}?", "", text, "stop", KEPT, {"seed": 1}, base, "2026-01-02")


async def test_after_a_failure_the_next_try_waits(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock, idle_minutes=1.0, curricula=alone(tmp_path)) as w:
        w.faults("slow")
        clock.now += 61
        w.loop.tick()
        await w.gpu.training.wait()
        w.gpu.holds[0].lost.set()
        await until(lambda: w.loop.status()["cycle"] is None)
        w.loop.tick()
        await until(lambda: "next try in 2.0 min" in str(w.loop.status()["not_yet"]))
        w.faults("normal")
        clock.now += 121
        w.loop.tick()
        await until(lambda: w.active is not None)


async def test_a_dataset_on_which_the_trainer_broke_does_not_start_again_by_itself_until_something_is_new(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock, idle_minutes=1.0, curricula=alone(tmp_path)) as w:
        w.faults("error")
        clock.now += 61
        w.loop.tick()
        await until(lambda: w.loop.status()["last"] is not None)
        w.faults("normal")
        clock.now += 24 * 3600
        w.loop.tick()
        await until(lambda: w.loop.status()["not_yet"] == "nothing new to learn since the last finished cycle")
        await corrected_exchange(w)
        await until(lambda: not w.loop._looking)
        w.loop.tick()
        await until(lambda: w.active is not None)


async def test_a_broken_curriculum_is_told_and_does_not_keep_the_others_from_being_learned(tmp_path: Path) -> None:
    clock = Clock()
    curricula = tmp_path / "curricula"
    shutil.copytree(catalogue.shipped_curricula() / ARCHITECT, curricula / ARCHITECT)
    for name, text in (("a-broken-one", "{"), ("another", (curricula / ARCHITECT / "curriculum.json").read_text())):
        (curricula / name).mkdir()
        (curricula / name / "curriculum.json").write_text(text)
    async with world(tmp_path, clock=clock, idle_minutes=1.0, curricula="curricula") as w:
        clock.now += 61
        w.loop.tick()
        await until(lambda: w.active is not None)
        trouble = str(w.loop.status()["trouble"])
        assert "not valid JSON" in trouble
        assert "'json-architect', and its folder is called 'another'" in trouble


async def test_a_cancelled_cycle_does_not_start_again_at_the_next_tick(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock, idle_minutes=1.0, curricula=alone(tmp_path)) as w:
        w.faults("slow")
        clock.now += 61
        w.loop.tick()
        await w.gpu.training.wait()
        w.loop.cancel("not tonight")
        await until(lambda: w.loop.status()["cycle"] is None)
        w.loop.tick()
        await until(lambda: "(not tonight); next try in 2.0 min" in str(w.loop.status()["not_yet"]))
        assert w.loop.status()["cycle"] is None


async def test_status_is_json_at_every_phase(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.faults("slow")
        w.engine.exam_gate.clear()
        seen: set[object] = set()
        name = await w.loop.start_cycle(ARCHITECT)
        while w.engine.waiting == 0:
            json.dumps(w.loop.status())
            seen.add(w.phase())
            await asyncio.sleep(0.005)
        running = json.loads(json.dumps(w.loop.status()))["cycle"]
        assert running["progress"] == {"step": 0, "total": 104, "note": "exam of base", "subject": "base"}
        assert "training" in seen
        w.engine.exam_gate.set()
        await w.ended(str(name))
