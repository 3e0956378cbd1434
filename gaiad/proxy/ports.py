"""What the proxy needs from the rest: its ports, and the bundle that `daemon` fills.

Protocols only, so that the proxy knows neither the loop that owns the accelerator nor the store behind consent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gaiad.adapter import RegistrySnapshot, VersionName
from gaiad.config import Config
from gaiad.errors import Refuse
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.keys import Keyring
from gaiad.proxy.recognition import Rules
from gaiad.rollout import ReplyOutcome


class Lease(Protocol):
    """One request's claim on the engine; it must be released exactly when the engine is done with the request."""

    def pin(self, version: VersionName | None) -> None:
        """Say which version the request runs on, so that it stays loaded."""

    def release(self) -> None:
        """Give the claim back; a second call changes nothing."""


class Admission(Protocol):
    """The gate before the engine."""

    def admit_now(self, *, is_user: bool) -> Lease | None:
        """Let a request in if the gate is open; None where it would have to wait."""

    async def admit(self, *, is_user: bool, timeout_s: float) -> Lease | Refuse:
        """Wait until the engine serves, in order of arrival, at most `timeout_s`."""


class EngineKnowledge(Protocol):
    """What was found out about the engine; either text is empty while unknown."""

    @property
    def version(self) -> str:
        """The engine's version, such as `0.32.0`."""

    @property
    def served_name(self) -> str:
        """The name under which it serves the base model."""

    @property
    def max_model_len(self) -> int | None:
        """The window of the base model in tokens, if it told."""

    @property
    def digest(self) -> str:
        """What tells this engine from another."""

    @property
    def template(self) -> str:
        """What tells its chat template from another; empty where it cannot be seen."""


@dataclass(frozen=True, slots=True)
class ProxyDeps:
    """Everything that the proxy builds on.

    `facts` is None until the engine was asked. `consent` says what an exchange of a user may be kept for now, under a
    consent header, in a conversation; it is asked twice a request, so it answers from memory. `change_consent` takes a
    user's purpose and action, for one conversation or all, until a moment or for good; `consents` tells what holds, and
    so many of the newest events. `stage_schemas` maps a stage to the JSON schema of its replies, `preludes` to the text
    of its prelude; `rules` recognise the stage of a request that names none. `flush` returns once what was offered is
    durable. `exchange` gives one kept exchange, its `user` included; whose eyes it is for is the proxy's to check.
    `keys` is None where no key is wanted; it is asked on each request.
    """

    config: Config
    admission: Admission
    snapshot: Callable[[], RegistrySnapshot]
    facts: Callable[[], EngineKnowledge | None]
    consent: Callable[[str, str | None, str | None], frozenset[str]]
    change_consent: Callable[[str, str, str, str | None, float | None], Awaitable[Mapping[str, Any] | Refuse]]
    consents: Callable[[str, str | None, int], Awaitable[Mapping[str, Any]]]
    offer: Callable[[ExchangeRecord], bool]
    on_reply: Callable[[ReplyOutcome], None]
    health: Callable[[], Mapping[str, Any]]
    feedback: Callable[[str, Judgement], Awaitable[Refuse | None]]
    flush: Callable[[], Awaitable[None]]
    exchange: Callable[[str], Awaitable[Mapping[str, Any] | None]]
    stage_schemas: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    preludes: Mapping[str, str] = field(default_factory=dict)
    api_key: str = ""
    rules: Rules = field(default_factory=Rules)
    keys: Callable[[], Keyring | None] = lambda: None
