"""The proxy with tiny real surroundings: a gate one can open and close, lists for what it offers and tells."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaiad.adapter import AdapterName, RegistrySnapshot, VersionName
from gaiad.config import Config, EngineConfig, ProxyConfig
from gaiad.errors import Refuse
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.keys import Keyring
from gaiad.proxy.app import listen
from gaiad.proxy.ports import ProxyDeps
from gaiad.proxy.recognition import Rules
from gaiad.rollout import ReplyOutcome

ACTIVE = VersionName("json-architect@v1-0a1b2c3d")
FORMER = VersionName("json-architect@v2-11111111")


class Gate:
    """An admission that serves while open, else holds in order of arrival; counts leases and their versions."""

    def __init__(self) -> None:
        self.is_open = True
        self.asked: list[bool] = []
        self.held: deque[asyncio.Future[None]] = deque()
        self.leases: list[GateLease] = []
        self._arrived = asyncio.Event()

    def admit_now(self, *, is_user: bool) -> GateLease | None:
        if not self.is_open:
            return None
        self.asked.append(is_user)
        return self._lease()

    async def admit(self, *, is_user: bool, timeout_s: float) -> GateLease | Refuse:
        self.asked.append(is_user)
        if not self.is_open:
            turn = asyncio.get_running_loop().create_future()
            self.held.append(turn)
            self._arrived.set()
            try:
                await asyncio.wait_for(turn, timeout_s)
            except TimeoutError:
                return Refuse("the engine did not serve in time", "see gaiadctl status")
            finally:
                if turn in self.held:
                    self.held.remove(turn)
        return self._lease()

    def _lease(self) -> GateLease:
        lease = GateLease()
        self.leases.append(lease)
        return lease

    def open(self) -> None:
        self.is_open = True
        for turn in self.held:
            if not turn.done():
                turn.set_result(None)

    async def until_held(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.held) < count:
                self._arrived.clear()
                await self._arrived.wait()

    @property
    def running(self) -> int:
        return sum(not lease.released for lease in self.leases)


class GateLease:
    """Remembers what it was pinned to and whether it was given back."""

    def __init__(self) -> None:
        self.version: VersionName | None = None
        self.pinned = False
        self.released = False

    def pin(self, version: VersionName | None) -> None:
        self.version, self.pinned = version, True

    def release(self) -> None:
        self.released = True


@dataclass(frozen=True)
class Facts:
    """What the engine would have told."""

    version: str = "0.32.0"
    served_name: str = "fake-base"
    max_model_len: int | None = 4096
    digest: str = "engine-digest"
    template: str = "template-digest"


@dataclass
class World:
    """Everything around the proxy, and where it listens."""

    config: Config
    gate: Gate = field(default_factory=Gate)
    snapshot: RegistrySnapshot = field(default_factory=RegistrySnapshot)
    facts: Facts | None = Facts()
    grants: dict[str, frozenset[str]] = field(default_factory=dict)
    consent_failure: Exception | None = None
    consent_refusal: Refuse | None = None
    conversations: list[str | None] = field(default_factory=list)
    said: list[tuple[str, str, str, str | None, float | None]] = field(default_factory=list)
    schemas: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    preludes: dict[str, str] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    records: list[ExchangeRecord] = field(default_factory=list)
    outcomes: list[ReplyOutcome] = field(default_factory=list)
    feedback: list[tuple[str, Judgement]] = field(default_factory=list)
    feedback_refusal: Refuse | None = None
    on_reply_failure: Exception | None = None
    offer_failure: Exception | None = None
    store_failure: Exception | None = None
    api_key: str = ""
    rules: Rules = field(default_factory=Rules)
    keys: Callable[[], Keyring | None] = lambda: None
    url: str = ""
    recorded: asyncio.Event = field(default_factory=asyncio.Event)

    async def record(self, count: int = 1) -> ExchangeRecord:
        """Wait until so many records were offered and return the newest."""
        async with asyncio.timeout(5):
            while len(self.records) < count:
                self.recorded.clear()
                await self.recorded.wait()
        return self.records[-1]

    def deps(self) -> ProxyDeps:
        return ProxyDeps(
            config=self.config,
            admission=self.gate,
            snapshot=lambda: self.snapshot,
            facts=lambda: self.facts,
            consent=self._consent,
            change_consent=self._change_consent,
            consents=self._consents,
            offer=self._offer,
            on_reply=self._on_reply,
            health=lambda: self.health,
            feedback=self._feedback,
            flush=self._flush,
            exchange=self._exchange,
            stage_schemas=lambda: self.schemas,
            preludes=self.preludes,
            api_key=self.api_key,
            rules=self.rules,
            keys=self.keys,
        )

    def _consent(self, user: str, header: str | None, conversation: str | None) -> frozenset[str]:
        if self.consent_failure is not None:
            raise self.consent_failure
        self.conversations.append(conversation)
        return self.grants.get(user, frozenset())

    async def _change_consent(
        self, user: str, purpose: str, action: str, conversation: str | None, expires_at: float | None
    ) -> Mapping[str, Any] | Refuse:
        if self.consent_refusal is not None:
            return self.consent_refusal
        self.said.append((user, purpose, action, conversation, expires_at))
        return await self._consents(user, conversation, 100)

    async def _consents(self, user: str, conversation: str | None, limit: int) -> Mapping[str, Any]:
        return {"user": user, "conversation": conversation, "granted": sorted(self.grants.get(user, ())), "history": []}

    def _on_reply(self, outcome: ReplyOutcome) -> None:
        if self.on_reply_failure is not None:
            raise self.on_reply_failure
        self.outcomes.append(outcome)

    def _offer(self, record: ExchangeRecord) -> bool:
        if self.offer_failure is not None:
            raise self.offer_failure
        self.records.append(record)
        self.recorded.set()
        return True

    async def _feedback(self, request_id: str, given: Judgement) -> Refuse | None:
        if self.feedback_refusal is None:
            self.feedback.append((request_id, given))
        return self.feedback_refusal

    async def _flush(self) -> None:
        if self.store_failure is not None:
            raise self.store_failure

    async def _exchange(self, request_id: str) -> Mapping[str, Any] | None:
        found = next((record for record in self.records if record.request_id == request_id), None)
        return None if found is None else {"request_id": request_id, "user": found.user, "durable": True}


def world_of(engine_url: str, **proxy: Any) -> World:
    """Surroundings with one active adapter, before an engine at `engine_url`."""
    config = Config(
        Path("/nonexistent"),
        Path("/nonexistent/control.sock"),
        engine=EngineConfig(url=engine_url),
        proxy=dataclasses.replace(ProxyConfig(hold_s=5), **proxy),
    )
    name = AdapterName("json-architect")
    snapshot = RegistrySnapshot(
        adapters=frozenset({name, AdapterName("gaia-voice")}),
        active={name: ACTIVE},
        servable=frozenset({ACTIVE, FORMER}),
    )
    return World(config, snapshot=snapshot)


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[World]:
    """Let the proxy listen until the block ends."""
    runner = await listen(world.deps(), "127.0.0.1", 0)
    try:
        host, port = runner.addresses[0][:2]
        world.url = f"http://{host}:{port}"
        yield world
    finally:
        await runner.cleanup()
