"""What the learner's loop asks of the engine and of whoever grants the GPU; `daemon` injects the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gaiad.adapter import VersionName
from gaiad.errors import Refuse


class Pausable(Protocol):
    """A child that can stand still while a user is answered."""

    def pause(self) -> None:
        """Stand still at once."""

    def resume(self) -> None:
        """Go on."""


class Hold(Protocol):
    """The trainer's claim on the GPU. `lost` is set where it ended without us, `preempt` where a user waits for it."""

    @property
    def lost(self) -> asyncio.Event:
        """Set once the claim is gone."""

    @property
    def preempt(self) -> asyncio.Event:
        """Set once the claim must be given back for a user."""

    def attach(self, child: Pausable) -> None:
        """Name the child that must stand still when a user comes."""

    async def release(self) -> None:
        """Give the GPU back; returns once requests are served, or raises EngineError."""


class Gpu(Protocol):
    """The GPU's loop as the learner sees it. Times are wall-clock seconds."""

    @property
    def phase(self) -> str:
        """`serving`, or what it is at instead."""

    @property
    def active_inference(self) -> int:
        """How many requests are being answered."""

    @property
    def last_user_end(self) -> float | None:
        """When the last user request ended."""

    async def acquire(self, reason: str) -> Hold | Refuse:
        """Quiet the engine and claim the GPU."""

    def leases(self, version: VersionName) -> int:
        """How many requests hold this version."""


class Facts(Protocol):
    """What the engine turned out to be able to do."""

    @property
    def version(self) -> str:
        """vLLM's version."""

    @property
    def runtime_lora(self) -> bool:
        """Whether adapters can be loaded while it serves."""


class Completions(Protocol):
    """The engine's own chat completions, past the proxy."""

    async def complete(self, body: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """One chat completion within `timeout_s` (None: the engine's own limit); raises EngineError."""


class ServingEngine(Completions, Protocol):
    """The engine as the learner sees it."""

    @property
    def served_name(self) -> str:
        """The base model's name at the engine."""

    async def facts(self) -> Facts:
        """What it can do."""

    async def load(self, version: VersionName, path: Path) -> None:
        """Load an adapter version; already loaded is fine."""

    async def unload(self, version: VersionName) -> None:
        """Unload an adapter version; not loaded is fine."""

    async def log_prob(self, model: str, before: Sequence[int], token: int, *, timeout_s: float | None = None) -> float:
        """The log-probability in nats that the base or a version gives `token` after the tokens `before`."""

    async def rendered(self, model: str, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """The tokens that it makes of a chat's messages, an answer's beginning included."""

    async def loaded(self) -> frozenset[VersionName]:
        """What it has loaded."""
