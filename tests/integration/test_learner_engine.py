"""The learner's loop with the real engine client and GPU loop, over a fake vLLM process and the fake trainer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gaiad.config import Config, parse_config
from gaiad.conversations import Conversations
from gaiad.cycles import CycleRow, Cycles
from gaiad.db import Database
from gaiad.gpu.admission import Lease
from gaiad.gpu.engine import Engine
from gaiad.gpu.loop import GpuLoop
from gaiad.learner.loop import LearnerLoop
from gaiad.learner.runner import Programs
from gaiad.registry import Registry
from tests.fakes.trainer import write_adapter
from tests.fakes.vllm_process import RunningVllm, running_vllm
from tests.integration.learner_world import ARCHITECT, ROOT, until


@dataclass
class Parts:
    """What a daemon has, without its doors."""

    vllm: RunningVllm
    engine: Engine
    gpu: GpuLoop
    registry: Registry
    cycles: Cycles
    learner: LearnerLoop

    async def ended(self, name: object) -> CycleRow:
        await until(lambda: self.learner.status()["cycle"] is None, within_s=60)
        return next(row for row in await self.cycles.cycles(5) if row.id == name)


def settings(folder: Path, url: str) -> Config:
    (folder / "base").mkdir(exist_ok=True)
    text = f'''
        state_dir = "state"
        control_socket = "control.sock"
        [engine]
        mode = "external"
        url = "{url}"
        base_model = "base"
        device = "cpu"
        [learning]
        profile = "demo"
        idle_minutes = 1000
        resume_after_s = 0
        drain_s = 5
    '''
    return parse_config(text, relative_to=folder)


@asynccontextmanager
async def parts(folder: Path, fault: str, *, measures: str = "normal") -> AsyncIterator[Parts]:
    with running_vllm() as vllm:
        config = settings(folder, vllm.url)
        database = await Database.open(config)
        registry, cycles = Registry(database, adapters=[ARCHITECT]), Cycles(database)
        engine = Engine(config, max_lora_rank=16)
        gpu = GpuLoop(engine, config, lambda: learner.reconcile())
        learner = LearnerLoop(
            config=config,
            engine=engine,
            gpu=gpu,
            registry=registry,
            cycles=cycles,
            conversations=Conversations(database),
            max_rank=16,
            programs=Programs(
                (str(ROOT / "tests" / "fakes" / "trainer.py"), fault), ("-m", "tests.fakes.measurer", measures)
            ),
        )
        await learner.boot()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(gpu.run(), name="gpu"),
                    tasks.create_task(learner.run(), name="learner"),
                ]
                await until(lambda: str(gpu.phase) == "serving")
                yield Parts(vllm, engine, gpu, registry, cycles, learner)
                for task in running:
                    task.cancel()
        finally:
            await engine.stop()
            await database.close()


async def test_a_whole_cycle_quiets_the_engine_trains_examines_and_serves_again(tmp_path: Path) -> None:
    async with parts(tmp_path, "normal") as p:
        row = await p.ended(await p.learner.start_cycle(ARCHITECT))
        # The fake engine answers every model alike, so the gate must say no.
        assert row.verdict == "rejected", row.reason
        assert str(p.gpu.phase) == "serving"
        assert await p.engine.loaded() == frozenset()
        assert "right choices" in str(row.reason), "it came as far as the exam"
        paths = {one["path"] for one in await p.vllm.seen("")}
        assert {"/pause", "/resume", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"} <= paths


async def test_a_forced_import_serves_and_goes_back_to_the_base_when_it_answers_badly(tmp_path: Path) -> None:
    async with parts(tmp_path, "normal") as p:
        write_adapter(tmp_path / "foreign")
        answer = await p.learner.import_adapter(tmp_path / "foreign", ARCHITECT, True, "to watch it fall")
        assert isinstance(answer, dict)
        version = p.registry.snapshot.active[ARCHITECT]
        assert answer["version"] == version
        body = {"model": version, "messages": [{"role": "user", "content": "hello"}]}
        assert (await p.engine.complete(body))["model"] == version
        await p.learner.rollback(ARCHITECT, "worse")
        assert ARCHITECT not in p.registry.snapshot.active
        async with asyncio.timeout(10):
            while await p.engine.loaded():  # noqa: ASYNC110  the engine is a process of its own
                await asyncio.sleep(0.02)


async def test_a_killed_trainer_ends_the_cycle_and_the_engine_serves(tmp_path: Path) -> None:
    async with parts(tmp_path, "hang") as p:
        name = await p.learner.start_cycle(ARCHITECT)
        await until(lambda: "'step': 1" in str(p.learner.status()["cycle"]))
        log_path = next((tmp_path / "state" / "runs").glob("*/trainer.log"))
        assert log_path.exists()
        os.kill(trainer_pid(), signal.SIGKILL)
        row = await p.ended(name)
        assert row.verdict == "failed"
        assert "SIGKILL" in str(row.reason)
        assert str(p.gpu.phase) == "serving"


async def test_other_weights_under_the_version_s_name_are_found_out_over_http(tmp_path: Path) -> None:
    async with parts(tmp_path, "normal") as p:
        await p.vllm.fault(swapped=True)
        row = await p.ended(await p.learner.start_cycle(ARCHITECT))
        assert row.verdict == "rejected"
        assert str(row.reason).startswith("served differs from trained")
        assert await p.engine.loaded() == frozenset()


async def test_an_engine_that_gives_no_log_probabilities_fails_the_cycle_with_what_to_set(tmp_path: Path) -> None:
    async with parts(tmp_path, "normal") as p:
        await p.vllm.fault(no_log_probs=True)
        row = await p.ended(await p.learner.start_cycle(ARCHITECT))
        assert row.verdict == "failed"
        assert "parity_examples" in str(row.reason)


def stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "T"


def trainer_pid() -> int:
    """The fake trainer that is a child of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    named = [int(pid) for pid in children if b"trainer.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(named) == 1
    return named[0]


async def test_a_user_is_let_in_within_a_second_while_the_trainer_stands_still(tmp_path: Path) -> None:
    async with parts(tmp_path, "slow") as p:
        name = await p.learner.start_cycle(ARCHITECT)
        await until(lambda: "'step': 1" in str(p.learner.status()["cycle"]))
        lease = await p.gpu.admit(is_user=True, timeout_s=1.0)
        assert isinstance(lease, Lease)
        before = str(p.learner.status()["cycle"])
        assert "training" in before
        await until(lambda: stands_still(trainer_pid()))
        lease.release()
        row = await p.ended(name)
        assert row.verdict == "rejected", row.reason
