"""The live guard: may a version that was just activated go on serving?

Decides from the last replies of the active version alone, and says why in words with figures. Touches nothing:
the learner's loop feeds it replies and flips the alias. Arms and live comparisons are not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import msgspec

from gaiad.adapter import VersionName


class Fault(StrEnum):
    """What was wrong with a reply; its first fault counts."""

    SCHEMA = "failed the stage's schema"
    EMPTY = "was empty"
    TRUNCATED = "ended at the token limit"


class ReplyOutcome(msgspec.Struct, frozen=True):
    """What the proxy saw of one reply: `version` is None for the base, `schema_ok` None without a schema."""

    version: VersionName | None
    stage: str
    request_id: str
    schema_ok: bool | None
    empty: bool
    truncated: bool


def fault_of(outcome: ReplyOutcome) -> Fault | None:
    """Name what is wrong with a reply, or None for a good one."""
    if outcome.empty:
        return Fault.EMPTY
    if outcome.truncated:
        return Fault.TRUNCATED
    if outcome.schema_ok is False:
        return Fault.SCHEMA
    return None


@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing speaks against the version yet."""


@dataclass(frozen=True, slots=True)
class RollBack:
    """The version must stop serving; `reason` is one sentence with the counts."""

    version: VersionName
    reason: str


Decision: TypeAlias = "Continue | RollBack"


@dataclass(frozen=True, slots=True)
class GuardState:
    """The window of one version since its activation: a fault or None for each of its last replies, oldest first."""

    version: VersionName
    seen: int = 0
    faults: tuple[Fault | None, ...] = ()

    @property
    def failures(self) -> int:
        """How many replies inside the window were faulty."""
        return sum(fault is not None for fault in self.faults)


@dataclass(frozen=True, slots=True)
class Guard:
    """Flip back once `max_failures` of the last `window` replies were faulty."""

    window: int
    max_failures: int

    def observe(self, state: GuardState, outcome: ReplyOutcome) -> tuple[GuardState, Decision]:
        """Take one reply into the window and decide.

        A reply of any other version (or of the base) changes nothing: replies that were under way when the alias
        flipped say nothing about the version that serves now.
        """
        if outcome.version != state.version:
            return state, Continue()
        faults = (*state.faults, fault_of(outcome))[-self.window :]
        after = GuardState(state.version, state.seen + 1, faults)
        if after.failures < self.max_failures:
            return after, Continue()
        return after, RollBack(state.version, _reason(after))


def _reason(state: GuardState) -> str:
    counts = [(fault, state.faults.count(fault)) for fault in Fault]
    details = ", ".join(f"{count} {fault.value}" for fault, count in counts if count)
    return f"the live guard saw {state.failures} bad replies among the last {len(state.faults)}: {details}"
