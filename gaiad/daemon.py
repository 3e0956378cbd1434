"""Builds the daemon from its parts, keeps it up, and takes it down in order.

One TaskGroup owns every loop: one that ends unexpectedly takes the daemon down, and the supervisor starts it again.
Proxy and control socket are up before the engine is: requests are held until it serves. Decides nothing about
requests, cycles or versions. Imports none of the training libraries, nor `learner.train`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog

from gaiad import logs
from gaiad.adapter import AdapterName, lora_rank_slot
from gaiad.config import Config
from gaiad.control.app import serve
from gaiad.control.commands import DaemonCommands
from gaiad.control.status import World, health_of, health_page
from gaiad.conversations import Conversations
from gaiad.curriculum import Curriculum, Json
from gaiad.cycles import Cycles
from gaiad.db import Database, lock_state_dir
from gaiad.eraser import Eraser
from gaiad.erasures import Erasures
from gaiad.errors import ConfigError, CurriculumError, GaiadError, Refuse, StoreError
from gaiad.exchange import Judgement
from gaiad.gpu.engine import Engine, EngineFacts
from gaiad.gpu.loop import GpuLoop
from gaiad.housekeeper import Housekeeper
from gaiad.keyfile import WatchedKeys
from gaiad.learner.loop import LearnerLoop
from gaiad.learner.sources import catalogue
from gaiad.notify import Notifier
from gaiad.proxy.app import listen
from gaiad.proxy.ports import ProxyDeps
from gaiad.proxy.recorder import Recorder
from gaiad.proxy.rulebook import load_rules, rules_file, skipped_text
from gaiad.registry import Registry
from gaiad.schedule import run_schedule

log = structlog.get_logger()

SWITCH_INTERVAL_S = 0.0005
"""How long a thread that looks through what is kept may hold the interpreter while the loop wants it: Python's own 5 ms
would stand in the way of replies."""
_STATUS_S = 5.0
_ENGINE_GRACE_S = 10.0


async def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        GaiadError: the daemon could not start, or a part of it failed for good.
    """
    logs.configure(config.log)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        with lock_state_dir(config.state_dir), Notifier.from_environment() as notifier:
            await _Daemon(config, notifier, stop).live()
    except ExceptionGroup as group:
        # 1. Only expected failures: one sentence. 2. Anything else is a bug, and keeps its traceback.
        if group.split(GaiadError)[1] is None:
            raise _first(group) from group
        raise
    log.info("stopped")
    return 0


class _Daemon:
    """The parts and their life. Built by `live`, which returns after an orderly stop."""

    def __init__(self, config: Config, notifier: Notifier, stop: asyncio.Event) -> None:
        self.config = config
        self.notifier = notifier
        self.stop = stop
        self.started_at = time.time()
        self.version = own_version()
        self.facts: EngineFacts | None = None
        self.first_start = True
        self.engine_starts: list[float] = []

    async def live(self) -> None:
        """Build, open the doors, run until told to stop, then close everything in order."""
        curricula = load_curricula(self.config)
        self.preludes = load_preludes(self.config)
        check_base_model(self.config)
        self._load_rules()
        async with contextlib.AsyncExitStack() as stack:
            await self._open_store(stack)
            self._build(curricula)
            await self.learner.boot()
            stack.push_async_callback(self.engine.stop, _ENGINE_GRACE_S)
            commands = self._commands()
            proxy = await listen(self._proxy_deps(curricula, commands), *self.config.listen_address)
            doors = await stack.enter_async_context(contextlib.AsyncExitStack())
            doors.push_async_callback(proxy.cleanup)
            await stack.enter_async_context(serve(self.config.control_socket, commands))
            log.info("listening", proxy=self.config.proxy.listen, control=str(self.config.control_socket))
            self.notifier.ready(self._line())
            _settle_memory()
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            async with asyncio.TaskGroup() as group:
                tasks = {name: group.create_task(self._lasting(name, task), name=name) for name, task in self._loops()}
                await self.stop.wait()
                log.info("stopping")
                self.notifier.stopping()
                # 1. Who waits for the engine is told at once. 2. No new requests, and a bounded time for those that
                # run. 3. No more learning; the trainer ends. 4. What was recorded reaches the disk. 5. The rest; the
                # engine, the store and the lock follow.
                self.gpu.refuse_all()
                await doors.aclose()
                await _end(tasks, "schedule", "eraser", "learner")
                await self.recorder.flush()
                await _end(tasks, *tasks)

    def _load_rules(self) -> None:
        self.rules = load_rules(self.config)
        log.info("stage_rules", file=str(rules_file(self.config)), rules=len(self.rules.rules))
        if self.rules.skipped:
            log.warning("stage_rules_skipped", rules=skipped_text(self.rules), hint="their stages are not in [stages]")

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> None:
        self.database = database = await Database.open(self.config)
        for one in database.set_aside:
            log.error(
                "database_set_aside", path=one.path, lost=one.lost, hint="see Damaged store in docs/operations.md"
            )
        stack.push_async_callback(database.close)
        self.registry = Registry(database)
        self.cycles = Cycles(database)
        self.conversations = Conversations(database)
        await self.conversations.load()
        await self._follow_settings()
        self.erasures = Erasures(database)
        self.recorder = Recorder(self.conversations, self.config.store.queue_size)
        # On every way out: after the doors are shut, before the database is.
        stack.push_async_callback(self.recorder.end)

    async def _follow_settings(self) -> None:
        try:
            in_vain = await self.conversations.grants.follow_settings(time.time())
        except StoreError as error:
            # Serving begins all the same; what the settings grant holds from a start on that can write it down.
            log.error("settings_not_followed", error=error.message, hint=error.hint)
            return
        if in_vain:
            lost = self.database.grants_lost
            hint = (
                "see Damaged store in docs/operations.md"
                if lost
                else "revoked since: see gaiadctl consent history USER"
            )
            log.warning("settings_grant_in_vain", count=len(in_vain), hint=hint)

    def _build(self, curricula: list[Curriculum]) -> None:
        config = self.config
        self.keys = WatchedKeys(config.keys_file) if config.keys_file else None
        named = {AdapterName(name) for name in config.stages.values() if name}
        self.registry.know_adapters(named | {curriculum.adapter for curriculum in curricula})
        max_rank = config.engine.max_lora_rank or lora_rank_slot(max((c.lora.rank for c in curricula), default=16))
        self.engine = Engine(config, max_lora_rank=max_rank)
        self.gpu = GpuLoop(self.engine, config, self._reconcile, expected=lambda: self.registry.loaded)
        self.learner = LearnerLoop(
            config=config,
            engine=self.engine,
            gpu=self.gpu,
            registry=self.registry,
            cycles=self.cycles,
            conversations=self.conversations,
            max_rank=max_rank,
        )
        self.eraser = Eraser(
            config=config,
            erasures=self.erasures,
            conversations=self.conversations,
            registry=self.registry,
            cycles=self.cycles,
            learner=self.learner,
            flush=self.recorder.flush,
        )
        self.housekeeper = Housekeeper(
            config=config,
            conversations=self.conversations,
            erasures=self.erasures,
            is_learning=lambda: self.learner.status()["cycle"] is not None,
        )

    def _loops(self) -> list[tuple[str, Coroutine[object, object, None]]]:
        loops = [
            ("recorder", self.recorder.run()),
            ("gpu", self.gpu.run()),
            ("learner", self.learner.run()),
            ("eraser", self.eraser.run()),
            ("supervisor", self._tell_supervisor()),
            ("housekeeping", self.housekeeper.run()),
        ]
        if self.config.learning.enabled:
            loops.append(("schedule", run_schedule(self.learner.tick, every_s=self.config.learning.tick_s)))
        return loops

    async def _lasting(self, name: str, task: Coroutine[object, object, None]) -> None:
        await task
        if not self.stop.is_set():
            raise RuntimeError(f"the {name} loop ended by itself")

    # --- edges between the parts --------------------------------------------------------------------------------------

    def _proxy_deps(self, curricula: list[Curriculum], commands: DaemonCommands) -> ProxyDeps:
        schemas: dict[str, Mapping[str, Json]] = {}
        for curriculum in curricula:
            mine = {stage for stage, adapter in self.config.stages.items() if adapter == curriculum.adapter}
            schemas |= {stage: schema for stage, schema in curriculum.stage_schemas.items() if stage in mine}
        return ProxyDeps(
            config=self.config,
            admission=self.gpu,
            snapshot=lambda: self.registry.snapshot,
            facts=lambda: self.facts,
            consent=self.conversations.grants.purposes_for,
            change_consent=partial(commands.consent, source="http"),
            consents=commands.consents,
            offer=self.recorder.offer,
            on_reply=self.learner.observe_reply,
            health=self._health,
            feedback=self._feedback,
            flush=self.recorder.flush,
            exchange=self.conversations.exchange,
            stage_schemas=lambda: schemas,
            preludes=self.preludes,
            api_key=self.engine.api_key,
            rules=self.rules,
            keys=self.keys.current if self.keys else lambda: None,
        )

    def _commands(self) -> DaemonCommands:
        return DaemonCommands(
            config=self.config,
            registry=self.registry,
            cycles=self.cycles,
            conversations=self.conversations,
            learner=self.learner,
            eraser=self.eraser,
            observe=self._observe,
            flush=self.recorder.flush,
            backup=self.database.backup,
        )

    async def _feedback(self, request_id: str, given: Judgement) -> Refuse | None:
        return await self.conversations.feedback.add(request_id, given, time.time())

    async def _reconcile(self) -> None:
        """Before the gate opens: see what the engine is, then give it what the registry wants."""
        self.first_start = self.facts is None
        facts = await self.engine.facts()
        # 1. A wake comes by here too, and is no start.
        if len(self.engine_starts) < self.engine.starts:
            self.engine_starts.append(time.time())
        await self.learner.reconcile()
        # 2. Only now: before, the proxy would take names that are about to be loaded for names of nothing.
        self.facts = facts

    # --- what is told -------------------------------------------------------------------------------------------------

    def _observe(self) -> World:
        recorder = self.recorder
        store = {"state": recorder.state, "waiting": recorder.waiting, "written": recorder.written}
        return World(
            config=self.config,
            now=time.time(),
            started_at=self.started_at,
            pid=os.getpid(),
            version=self.version,
            gpu=self.gpu.status(),
            engine=self._engine_status(),
            active_inference=self.gpu.active_inference,
            held=self.gpu.held,
            last_user_end=self.gpu.last_user_end,
            snapshot=self.registry.snapshot,
            active_not_loaded=self.registry.active_not_loaded,
            learning=self.learner.status(),
            store={
                **store,
                "dropped": recorder.dropped,
                "failed": recorder.failed,
                "held_back": self.housekeeper.held_back,
                "set_aside": [{"path": one.path, "at": one.at, "lost": one.lost} for one in self.database.set_aside],
            },
            first_start=self.first_start,
        )

    def _engine_status(self) -> dict[str, object]:
        facts, starts = self.facts, self.engine_starts
        if facts is None:
            return {}
        return {
            "version": facts.version,
            "served_name": facts.served_name,
            "missing": list(facts.missing),
            "pid": self.engine.pid,
            "uptime_s": time.time() - starts[-1] if starts else None,
            "restarts": max(0, len(starts) - 1),
        }

    def _health(self) -> dict[str, object]:
        phase = str(self.gpu.phase)
        missing = bool(self.registry.active_not_loaded)
        health = health_of(phase, anything_missing=missing, first_start=self.first_start)
        return health_page(health, phase, self.gpu.active_inference)

    def _line(self) -> str:
        reason = f": {self.gpu.reason}" if self.gpu.reason else ""
        return f"listening on {self.config.proxy.listen}; engine {self.gpu.phase}{reason}"

    async def _tell_supervisor(self) -> None:
        told = ""
        while True:
            self.notifier.watchdog()
            line = self._line()
            if line != told:
                self.notifier.status(line)
                told = line
            await asyncio.sleep(min(_STATUS_S, self.notifier.watchdog_interval_s or _STATUS_S))


def load_curricula(config: Config) -> list[Curriculum]:
    """Load every curriculum under the configured profile.

    Raises:
        CurriculumError: one cannot be used, or learning is on and there is none.
    """
    root = Path(config.learning.curricula) if config.learning.curricula else catalogue.shipped_curricula()
    folders = catalogue.curriculum_folders(root) if root.is_dir() else []
    if not folders and (config.learning.enabled or config.learning.curricula):
        raise CurriculumError(
            f"there is no curriculum below {root}", hint="set learning.curricula to a folder that holds one an adapter"
        )
    return [catalogue.load_curriculum(folder, config.learning.profile) for folder in folders]


def load_preludes(config: Config) -> dict[str, str]:
    """Read the prelude of each stage that has one.

    Raises:
        ConfigError: a file cannot be read.
    """
    preludes = {}
    for stage, option in config.options.items():
        if not option.prelude_file:
            continue
        try:
            preludes[stage] = Path(option.prelude_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the prelude of {stage} at {option.prelude_file} cannot be read: {error}",
                hint=f"set proxy.options.{stage}.prelude_file to a text file in UTF-8",
            ) from error
    return preludes


def check_base_model(config: Config) -> None:
    """Say early that the base model is missing, rather than late from a failed engine or trainer.

    Raises:
        ConfigError: it is needed and its folder holds no model.
    """
    if config.engine.mode == "external" and not config.learning.enabled:
        return
    folder = Path(config.engine.base_model)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"there is no base model at {folder}",
            hint="put a model's folder (config.json, *.safetensors, tokenizer) there, or set engine.base_model",
        )


def _settle_memory() -> None:
    """What was built lasts: the collector need not look at it again and again, nor after every few requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def own_version() -> str:
    """The installed version, or `unknown` in a bare checkout."""
    try:
        return version("gaiad")
    except PackageNotFoundError:
        return "unknown"


async def _end(tasks: Mapping[str, asyncio.Task[None]], *names: str) -> None:
    """Cancel the named tasks and wait until they are over; what fails while ending is the group's to report."""
    ending = [tasks[name] for name in names if name in tasks]
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)


def _first(group: BaseException) -> GaiadError:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    assert isinstance(group, GaiadError)
    return group
