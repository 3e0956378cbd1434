"""A learner's loop on a real store, a real trainer process (the fake trainer) and a tiny engine and GPU in memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gaiad.adapter import AdapterName, VersionName
from gaiad.config import Config, StoreConfig, parse_config
from gaiad.conversations import Conversations
from gaiad.cycles import CycleRow, Cycles
from gaiad.db import Database
from gaiad.errors import EngineError, Refuse
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.learner.loop import LearnerLoop
from gaiad.learner.ports import Pausable
from gaiad.learner.runner import Programs
from gaiad.learner.sources import catalogue
from gaiad.registry import Registry
from gaiad.rollout import ReplyOutcome
from tests.fakes.log_probs import OTHER, log_probs_of, mark_of, prompt_tokens

ROOT = Path(__file__).resolve().parents[2]
ARCHITECT = AdapterName("json-architect")


@dataclass(frozen=True)
class TinyFacts:
    """An engine that can do everything needed."""

    version: str = "0.32.0"
    runtime_lora: bool = True


class TinyEngine:
    """Loads adapters by name, and answers exam items rightly for the versions that it is told are good."""

    served_name = "prime"

    def __init__(self, right: dict[str, str]) -> None:
        self.right = right
        self.adapters: dict[VersionName, Path] = {}
        self.unloaded: list[VersionName] = []
        self.is_good: Callable[[str], bool] = lambda model: model != "prime"
        self.broken = False
        self.refused: set[VersionName] = set()
        self.late: set[VersionName] = set()
        self.load_calls: list[VersionName] = []
        self.asked = self.waiting = 0
        self.swapped = self.renders_otherwise = False
        self.no_log_probs = 0
        self.exam_gate = asyncio.Event()
        self.exam_gate.set()

    async def facts(self) -> TinyFacts:
        return TinyFacts()

    async def load(self, version: VersionName, path: Path) -> None:
        self._answer()
        self.load_calls.append(version)
        if version in self.refused or not (path / "adapter_config.json").exists():
            raise EngineError(f"no adapter for {version}", hint="look")
        self.adapters[version] = path
        if version in self.late:
            raise EngineError("the engine gave no answer within 60 s", hint="look")

    async def unload(self, version: VersionName) -> None:
        self._answer()
        self.adapters.pop(version, None)
        self.unloaded.append(version)

    async def loaded(self) -> frozenset[VersionName]:
        self._answer()
        return frozenset(self.adapters)

    async def complete(self, body: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        self.waiting += 1
        await self.exam_gate.wait()
        self.waiting -= 1
        self._answer()
        self.asked += 1
        model = body["model"]
        if model != "prime" and model not in self.adapters:
            raise EngineError(f"{model} does not exist", hint="load it")
        text = self.right[body["messages"][-1]["content"]] if self.is_good(model) else '{"selected_tool": "nothing"}'
        return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}

    async def log_prob(self, model: str, before: Sequence[int], token: int, *, timeout_s: float | None = None) -> float:
        self._answer()
        if self.no_log_probs:
            self.no_log_probs -= 1
            raise EngineError("the engine answers without a log-probability", hint="look")
        mark = OTHER if self.swapped else mark_of(self.adapters[VersionName(model)])
        return log_probs_of(mark, [*before, token])[-1]

    async def rendered(self, model: str, messages: Sequence[Mapping[str, str]]) -> list[int]:
        self._answer()
        tokens = prompt_tokens(messages)
        return tokens[:-1] if self.renders_otherwise else tokens

    def _answer(self) -> None:
        if self.broken:
            raise EngineError("the engine does not answer", hint="wait")


class TinyHold:
    """A claim that notes whether it was given back."""

    def __init__(self, gpu: TinyGpu) -> None:
        self.lost = asyncio.Event()
        self.preempt = asyncio.Event()
        self.child: Pausable | None = None
        self._gpu = gpu

    def attach(self, child: Pausable) -> None:
        self.child = child
        self._gpu.training.set()

    async def release(self) -> None:
        self._gpu.phase = "serving"
        self._gpu.holds.remove(self)
        if self._gpu.fail_release:
            raise EngineError("the engine did not wake", hint="it is being restarted")


class TinyGpu:
    """Grants the claim at once; the test plays the users."""

    def __init__(self) -> None:
        self.phase = "serving"
        self.active_inference = 0
        self.last_user_end: float | None = None
        self.holds: list[TinyHold] = []
        self.training = asyncio.Event()
        self.leased: dict[str, int] = {}
        self.fail_release = False
        self.refuse = False

    async def acquire(self, reason: str) -> TinyHold | Refuse:
        if self.refuse:
            return Refuse("the engine is down")
        hold = TinyHold(self)
        self.holds.append(hold)
        self.phase = "held"
        return hold

    def leases(self, version: VersionName) -> int:
        return self.leased.get(version, 0)


@dataclass
class World:
    """Everything that a claim about the loop needs."""

    config: Config
    engine: TinyEngine
    gpu: TinyGpu
    registry: Registry
    cycles: Cycles
    conversations: Conversations
    database: Database
    loop: LearnerLoop
    trainer: list[str] = field(default_factory=list)
    measurer: list[str] = field(default_factory=list)

    async def train(self, **more: Any) -> CycleRow:
        """Run a cycle to its end."""
        name = await self.loop.start_cycle(ARCHITECT, **more)
        assert isinstance(name, str), name
        return await self.ended(name)

    async def ended(self, name: str) -> CycleRow:
        """Wait for a cycle's end."""
        await until(lambda: self.loop.status()["cycle"] is None)
        return next(row for row in await self.cycles.cycles(20) if row.id == name)

    @property
    def active(self) -> VersionName | None:
        """What the alias serves."""
        return self.registry.snapshot.active.get(ARCHITECT)

    def faults(self, name: str) -> None:
        """Let the next trainer misbehave."""
        self.trainer[-1] = name

    def reply(self, version: VersionName | None, *, bad: bool = True) -> None:
        """Let the proxy report one reply."""
        self.loop.observe_reply(ReplyOutcome(version, "tool_selection", "r", not bad, False, False))

    def phase(self) -> object:
        """What the current cycle is at."""
        running = self.loop.status()["cycle"]
        return running["phase"] if isinstance(running, dict) else None


async def until(held: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(within_s):
        while not held():  # noqa: ASYNC110  the condition is the loop's to change
            await asyncio.sleep(0.01)


def settings(folder: Path, *, header_may_grant: bool = False, **learning: Any) -> Config:
    """Settings with the demo profile below `folder`."""
    (folder / "base").mkdir(exist_ok=True)
    lines = {"profile": "demo", "idle_minutes": 1000.0, "trainer_silence_s": 20.0, **learning}
    text = 'state_dir = "state"\ncontrol_socket = "control.sock"\n[engine]\nbase_model = "base"\n[learning]\n'
    text = f"consent.header_may_grant = {json.dumps(header_may_grant)}\n{text}"
    return parse_config(text + "".join(f"{k} = {json.dumps(v)}\n" for k, v in lines.items()), relative_to=folder)


def right_answers(curricula: Path | None = None) -> dict[str, str]:
    """The right answer to each held-out request of the demo profile."""
    folder = (curricula or catalogue.shipped_curricula()) / ARCHITECT
    dataset = catalogue.gather(catalogue.load_curriculum(folder, "demo"), folder, [])
    return {example.messages[-2].content: example.answer for example in dataset.heldout}


@asynccontextmanager
async def world(
    folder: Path,
    *,
    clock: Callable[[], float] = time.time,
    max_rank: int = 16,
    store: StoreConfig | None = None,
    **learning: Any,
) -> AsyncIterator[World]:
    """A booted, running loop; ended and closed with the block."""
    config = replace(settings(folder, **learning), store=store or StoreConfig())
    database = await Database.open(config)
    engine, gpu = TinyEngine(right_answers()), TinyGpu()
    registry, cycles, conversations = (
        Registry(database, adapters=[ARCHITECT]),
        Cycles(database),
        Conversations(database),
    )
    trainer, measurer = ["-m", "tests.fakes.trainer", "normal"], ["-m", "tests.fakes.measurer", "normal"]
    await conversations.load()
    loop = LearnerLoop(
        config=config,
        engine=engine,
        gpu=gpu,
        registry=registry,
        cycles=cycles,
        conversations=conversations,
        max_rank=max_rank,
        programs=Programs(trainer, measurer),
        clock=clock,
    )
    try:
        await loop.boot()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(loop.run(), name="learner")
            await loop.reconcile()
            yield World(config, engine, gpu, registry, cycles, conversations, database, loop, trainer, measurer)
            running.cancel()
    finally:
        await database.close()


async def two_versions(w: World) -> tuple[VersionName, VersionName]:
    """Learn twice; the second version is active, the first is what a rollback flips to."""
    await w.train()
    first = w.active
    await w.train(force=True)
    second = w.active
    assert first is not None
    assert second is not None
    return first, second


UMBRELLA = "USER REQUEST: who repaired the violet umbrella on the parade?"


async def corrected_exchange(
    w: World,
    name: str = "r1",
    words: str = UMBRELLA,
    *,
    user: str = "ada",
    conversation: str | None = None,
    expires_at: float | None = None,
    correction: str | None = None,
    **request: object,
) -> None:
    """Let a user, `ada` where none is named, who agrees to be learned from, ask something and correct the reply."""
    answer = correction or next(iter(right_answers().values()))
    await w.conversations.grants.append(
        user, "train", "grant", "test", 1.0, conversation=conversation, expires_at=expires_at
    )
    record = ExchangeRecord(
        request_id=name,
        at=2.0,
        user=user,
        conversation=conversation,
        purposes=frozenset({"log", "train"}),
        stage="tool_selection",
        stage_reason="header",
        status=200,
        started=2.0,
        total_ms=1.0,
        request={"messages": [{"role": "user", "content": words}], **request},
        response={"choices": []},
    )
    await w.conversations.keep([record])
    assert await w.conversations.feedback.add(name, Judgement("wrong", answer), 3.0) is None
