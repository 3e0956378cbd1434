"""When a step is not taken: tables over the pure decision."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.steadiness import trouble

CALM = (2.0, 1.9, 1.8, 1.7, 1.6)


@pytest.mark.parametrize(
    ("loss", "norm", "recent", "first", "said"),
    [
        (1.5, 1.0, CALM, 2.0, None),
        (math.nan, 1.0, CALM, 2.0, "the loss is no longer a number"),
        (math.inf, 1.0, (), None, "the loss is no longer a number"),
        (1.5, math.nan, CALM, 2.0, "the gradients are no longer numbers"),
        (1.5, math.inf, (), None, "the gradients are no longer numbers"),
        (6.0, 1.0, CALM, 2.0, "the loss jumped from about 1.80 to 6.00"),
        # A hard step after easy ones: three times what it lately was, and less than an untrained adapter has.
        (0.9, 1.0, (0.2,) * 10, 2.0, None),
        # Too few steps to know what is usual.
        (9.0, 1.0, (2.0,), 2.0, None),
    ],
)
def test_a_step_that_lost_its_way_is_named(
    loss: float, norm: float, recent: tuple[float, ...], first: float | None, said: str | None
) -> None:
    assert trouble(loss, norm, recent, first) == said


@given(st.lists(st.floats(0.01, 10), max_size=10), st.floats(0.01, 10), st.floats(0, 100))
def test_a_loss_at_or_below_that_of_the_first_step_never_stops_a_run(
    recent: list[float], first: float, norm: float
) -> None:
    assert trouble(first, norm, recent, first) is None
