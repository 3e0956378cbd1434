"""What is kept of a run, and how long the rest of it is said to take."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.course import MOST_CHECKS, MOST_LOSSES, SHOWN, Course, Series
from gaiad.learner.protocol import Progress


def at(step: int, *, loss: float | None = 1.0, check: float | None = None, elapsed_s: float = 0.0) -> Progress:
    return Progress(step, 1000, loss, check, 10 * step, 50.0, elapsed_s)


def course(*told: Progress) -> Course:
    made = Course()
    for progress in told:
        made.note(progress)
    return made


@given(st.lists(st.integers(0, 400)), st.integers(2, 9))
def test_a_series_is_bounded_in_order_and_ends_with_what_came_last(steps: list[int], most: int) -> None:
    series = Series(most)
    for number, step in enumerate(steps):
        series.add(step, float(number))
        assert series.points[-1] == (step, float(number))
        assert len(series.points) <= most
        kept = [point[0] for point in series.points]
        assert kept == sorted(set(kept))


def test_a_short_run_keeps_each_step_and_a_long_one_its_shape() -> None:
    short = course(*(at(step, loss=float(step)) for step in range(MOST_LOSSES)))
    assert [row["loss"] for row in short.rows()] == [float(step) for step in range(MOST_LOSSES)]
    long = course(*(at(step, loss=float(step), check=0.5 if step % 5 == 0 else None) for step in range(20_001)))
    steps = [row["step"] for row in long.rows() if row["loss"] is not None]
    checks = [row["step"] for row in long.rows() if row["validation_loss"] is not None]
    assert (steps[0], steps[-1], checks[0], checks[-1]) == (0, 20_000, 0, 20_000)
    assert MOST_LOSSES / 3 < len(steps) <= MOST_LOSSES
    assert MOST_CHECKS / 3 < len(checks) <= MOST_CHECKS
    status = long.status()
    assert status is not None
    curve = status["curve"]
    assert isinstance(curve, dict)
    assert SHOWN / 3 < len(curve["loss"]) <= SHOWN
    assert curve["loss"][-1] == [20_000, 20_000.0]


def test_a_run_that_went_back_shows_what_it_goes_on_with() -> None:
    went_back = course(at(1), at(2, check=0.9), at(3, loss=9.0), at(2, loss=0.8))
    assert went_back.rows() == [
        {"step": 1, "loss": 1.0, "validation_loss": None},
        {"step": 2, "loss": 0.8, "validation_loss": None},
    ]
    assert went_back.left_s is None


def test_what_is_left_follows_the_pace_of_the_last_steps_alone() -> None:
    # 1. Loading takes a minute, then a step takes two seconds; a run that went on from step 900 has few left.
    assert course(at(0, loss=None, elapsed_s=60)).left_s is None
    slow = [at(step, elapsed_s=60 + 2 * step) for step in range(11)]
    assert course(*slow).left_s == pytest.approx(2 * 990)
    resumed = [at(900 + step, elapsed_s=60 + 2 * step) for step in range(11)]
    assert course(*resumed).left_s == pytest.approx(2 * 90)
    # 2. An hour of standing still counts until twenty steps are done after it.
    stood = [at(step, elapsed_s=(3600 if step > 10 else 0) + 2 * step) for step in range(40)]
    assert course(*stood).left_s == pytest.approx(2 * 961)


def test_what_a_later_line_does_not_say_stays_known() -> None:
    told = dataclasses.replace(at(4), memory_bytes=7, flops_per_s=2e12, peak_share=0.25, resumed_from=0)
    status = course(told, at(4, loss=None, check=0.5)).status()
    assert status is not None
    assert (status["memory_bytes"], status["flops_per_s"], status["peak_share"]) == (7, 2e12, 0.25)
    assert (status["loss"], status["validation_loss"]) == (1.0, 0.5)
    assert status["note"] == "went on from step 0"
    unknown = course(at(4)).figures()
    assert unknown is not None
    assert (unknown["peak_share"], unknown["memory_bytes"]) == (None, None)


def test_before_the_trainer_has_spoken_nothing_is_known() -> None:
    assert (Course().status(), Course().figures(), Course().rows(), Course().left_s) == (None, None, [], None)
