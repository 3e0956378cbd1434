"""The names of adapters and their versions, and the routing snapshot the registry publishes.

A version is immutable weights: `json-architect@v3-1a2b3c4d`, where the suffix is the first 8 hex digits of the
SHA-256 of the safetensors file. The engine knows a version by exactly this name; people use the alias (the
adapter's name), which resolves to the active version and never to the base model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from gaiad.errors import ConfigError

AdapterName = NewType("AdapterName", str)
VersionName = NewType("VersionName", str)

_ADAPTER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_VERSION = re.compile(r"(?P<adapter>[a-z0-9][a-z0-9-]*)@v(?P<number>[1-9][0-9]*)-(?P<digest>[0-9a-f]{8})")

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts for `--max-lora-rank`."""


class VersionStage(StrEnum):
    """Where a version stands in its life; the registry is the only writer."""

    CANDIDATE = "candidate"
    CANARY = "canary"
    ACTIVE = "active"
    RETIRED = "retired"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"


class Arm(StrEnum):
    """The side of a live comparison that a request was assigned to."""

    CONTROL = "control"
    TREATMENT = "treatment"
    NONE = "none"


def is_adapter_name(text: str) -> bool:
    """Say whether `text` may name an adapter (lower-case letters, digits, inner hyphens, at most 48)."""
    return _ADAPTER.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class VersionParts:
    """A version's name taken apart; `digest8` is 8 lower-case hex digits."""

    adapter: AdapterName
    number: int
    digest8: str

    @property
    def name(self) -> VersionName:
        """The version's full name, as the engine knows it."""
        return VersionName(f"{self.adapter}@v{self.number}-{self.digest8}")

    @property
    def folder(self) -> str:
        """The version's directory below `adapters/<adapter>/`."""
        return f"v{self.number}-{self.digest8}"


def version_parts(text: str) -> VersionParts | None:
    """Take a full version name apart, or return None when `text` is not one."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    return VersionParts(AdapterName(match["adapter"]), int(match["number"]), match["digest"])


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """What routing may rely on for one request.

    `adapters` are all names an alias may have (with or without an active version); `active` maps an alias to the
    version it serves; `previous` to the version a rollback would flip to; `servable` holds every full version name
    that a request may ask for outright (active and still-loaded former ones). `active_unloaded` and
    `servable_unloaded` are the same of versions that the engine does not have now: they may serve once it does.
    """

    adapters: frozenset[AdapterName] = frozenset()
    active: Mapping[AdapterName, VersionName] = field(default_factory=dict)
    previous: Mapping[AdapterName, VersionName] = field(default_factory=dict)
    servable: frozenset[VersionName] = frozenset()
    active_unloaded: Mapping[AdapterName, VersionName] = field(default_factory=dict)
    servable_unloaded: frozenset[VersionName] = frozenset()


def lora_rank_slot(needed: int) -> int:
    """Round a LoRA rank up to what vLLM accepts for `--max-lora-rank`.

    Raises:
        ConfigError: above 512.
    """
    for rank in SERVED_RANKS:
        if needed <= rank:
            return rank
    raise ConfigError(f"rank {needed} is above the largest that vLLM accepts (512)", hint="lower the curriculum's rank")
