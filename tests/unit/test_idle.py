"""Why a cycle may not start by itself yet, in words with figures."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.errors import NotYet
from gaiad.idle import Go, Situation, may_start, retry_delay_s

READY = Situation(now=1000.0, enabled=True, idle_minutes=5.0, up_since=0.0, last_user_end=600.0)


def test_a_quiet_engine_with_something_new_may_learn() -> None:
    assert may_start(READY) == Go()
    assert may_start(dataclasses.replace(READY, something_new=True)) == Go()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"enabled": False}, "learning is switched off ([learning] enabled = false)"),
        ({"cycle_running": "the cycle of json-architect"}, "the cycle of json-architect is running"),
        ({"phase": "restarting"}, "the engine is restarting, not serving"),
        ({"active_inference": 1}, "1 request being answered"),
        ({"active_inference": 3}, "3 requests being answered"),
        ({"last_user_end": 958.0}, "42 s since the last user request, 5.0 min wanted"),
        ({"last_user_end": None, "up_since": 820.0}, "3.0 min since the start, 5.0 min wanted"),
        ({"something_new": False}, "nothing new to learn since the last finished cycle"),
        (
            {"retry_at": 1500.0, "last_failure": "the trainer died"},
            "the last cycle came to nothing (the trainer died); next try in 8.3 min",
        ),
    ],
)
def test_each_obstacle_is_named(change: dict[str, object], words: str) -> None:
    assert may_start(dataclasses.replace(READY, **change)) == NotYet(words)  # type: ignore[arg-type]


def test_a_past_retry_time_is_no_obstacle() -> None:
    assert may_start(dataclasses.replace(READY, retry_at=999.0)) == Go()


@given(st.integers(1, 1000), st.floats(0, 600))
def test_each_failure_waits_at_least_as_long_as_the_one_before_and_never_above_six_hours(n: int, idle: float) -> None:
    assert retry_delay_s(n, idle) <= retry_delay_s(n + 1, idle) <= 6 * 3600
