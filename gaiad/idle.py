"""May a cycle start by itself now? Go, or not yet with the reason in words and figures.

Decides from one `Situation`; reads no clock and touches nothing. A cycle that a person asked for does not pass
through here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from gaiad.errors import NotYet


@dataclass(frozen=True, slots=True)
class Go:
    """A cycle may start."""


Answer: TypeAlias = "Go | NotYet"


@dataclass(frozen=True, slots=True)
class Situation:
    """What counts when deciding. All times are on one clock, in seconds.

    `up_since` stands in for the end of the last user request where none came since the start. `something_new` is None
    while unknown: only a frozen dataset can tell. `retry_at` is set after failures, `last_failure` says which.
    """

    now: float
    enabled: bool
    idle_minutes: float
    up_since: float
    last_user_end: float | None = None
    active_inference: int = 0
    phase: str = "serving"
    cycle_running: str | None = None
    something_new: bool | None = None
    retry_at: float | None = None
    last_failure: str = ""


def may_start(situation: Situation) -> Answer:
    """Say whether a cycle may start by itself, or why not yet."""
    s = situation
    # 1. What a person decided, and what is already under way.
    if not s.enabled:
        return NotYet("learning is switched off ([learning] enabled = false)")
    if s.cycle_running is not None:
        return NotYet(f"{s.cycle_running} is running")
    # 2. The engine and its users.
    if s.phase != "serving":
        return NotYet(f"the engine is {s.phase}, not serving")
    if s.active_inference:
        return NotYet(f"{counted(s.active_inference, 'request')} being answered")
    # 3. Quiet for long enough.
    quiet_s = s.now - (s.up_since if s.last_user_end is None else s.last_user_end)
    wanted_s = s.idle_minutes * 60
    if quiet_s < wanted_s:
        since = "the start" if s.last_user_end is None else "the last user request"
        return NotYet(f"{_span(max(0.0, quiet_s))} since {since}, {_span(wanted_s)} wanted")
    # 4. Something to gain from it.
    if s.something_new is False:
        return NotYet("nothing new to learn since the last finished cycle")
    if s.retry_at is not None and s.now < s.retry_at:
        return NotYet(f"the last cycle came to nothing ({s.last_failure}); next try in {_span(s.retry_at - s.now)}")
    return Go()


def retry_delay_s(failures: int, idle_minutes: float) -> float:
    """Seconds to wait after the n-th failure in a row: the idle time doubled each time, six hours at most."""
    return float(min(idle_minutes * 60 * 2 ** min(failures, 32), 6 * 3600))


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: `1 request`, `2 requests`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min"
