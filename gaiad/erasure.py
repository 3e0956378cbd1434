"""What an erasure has to reach, and when it may be signed off.

Names the order of its phases, which adapter versions learned from what is erased, and what its report says. Touches
nothing: `erasures` has the rows, `eraser` goes through the phases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from gaiad.curriculum import Json

_Version = TypeVar("_Version", bound=str)


class Kind(StrEnum):
    """What can be named: all of a user, a conversation, or one exchange by its request id."""

    USER = "user"
    CONVERSATION = "conversation"
    EXCHANGE = "exchange"


class Phase(StrEnum):
    """How far an erasure is; each phase may be gone through again after a crash and changes nothing then."""

    ASKED = "asked"
    SET_ASIDE = "set_aside"
    PURGED = "purged"
    SCOURED = "scoured"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Selector:
    """What is to be erased, as it was at one moment."""

    kind: Kind
    name: str

    def covers(self, *, user: str | None, conversation: str | None, request_id: str) -> bool:
        """Whether an exchange is among what was named."""
        match self.kind:
            case Kind.USER:
                return user == self.name
            case Kind.CONVERSATION:
                return conversation == self.name
            case Kind.EXCHANGE:
                return request_id == self.name


def stained(lineages: Mapping[_Version, Mapping[str, Json]], erased: Iterable[str]) -> list[_Version]:
    """The versions that learned from an erased exchange; one that the trainer left out was not learned from."""
    gone = frozenset(erased)
    return [version for version, lineage in lineages.items() if not gone.isdisjoint(exchange_ids_of(lineage))]


def exchange_ids_of(named: Mapping[str, Json]) -> list[str]:
    """The exchanges that a version learned from, by its lineage, or that an erasure reached, by its report."""
    ids = named.get("exchange_ids")
    return [str(one) for one in ids] if isinstance(ids, list) else []


def signed_off(report: Mapping[str, Json]) -> dict[str, Json]:
    """The report with its sign-off: whether every check found nothing left, and a digest of what it says."""
    checks = report.get("checks")
    clean = isinstance(checks, dict) and bool(checks) and not any(checks.values())
    said: dict[str, Json] = {key: value for key, value in report.items() if key not in ("signed_off", "sha256")}
    said["signed_off"] = clean
    canonical = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {**said, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}
