"""What the learner's loop is told: the events on its queue, each a fact or a wish with whoever waits for the answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

from gaiad.adapter import AdapterName, VersionName
from gaiad.errors import Refuse
from gaiad.learner import cycle
from gaiad.learner.attempt import Order
from gaiad.rollout import ReplyOutcome

Answer: TypeAlias = "asyncio.Future[dict[str, object] | Refuse]"


@dataclass(frozen=True, slots=True)
class Ordered:
    """A cycle or an import is wanted."""

    order: Order
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step of the cycle `attempt` has answered."""

    attempt: str
    event: cycle.Event


@dataclass(frozen=True, slots=True)
class RollbackAsked:
    """A person wants the version before."""

    adapter: AdapterName
    reason: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Broken:
    """A version cannot be loaded and must be set aside."""

    version: VersionName
    reason: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The cycle `attempt` is to end."""

    attempt: str
    reason: str


@dataclass(frozen=True, slots=True)
class ForgetAsked:
    """Exchanges are erased: nothing may go on learning from them, nor serve what did."""

    exchange_ids: frozenset[str]
    reason: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Ticked:
    """The idle clock went."""


@dataclass(frozen=True, slots=True)
class Looked:
    """The look for something new is over."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What the engine has may differ from what is wanted."""


Event: TypeAlias = (
    "Ordered | StepEnded | RollbackAsked | Broken | CancelAsked | ForgetAsked | Ticked | Looked | Unsettled"
    " | ReplyOutcome"
)


def give(answer: Answer | None, value: dict[str, object] | Refuse) -> None:
    """Answer whoever asked, unless nobody did, or is gone, or has an answer already."""
    if answer is not None and not answer.done():
        answer.set_result(value)
