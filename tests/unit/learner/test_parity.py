"""What is served against what was trained, on tables of figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest

from gaiad.learner.parity import DIFFERS, Parity, Served, decide, not_measured, points_of
from gaiad.learner.protocol import Measured

TOLERANCE = 0.25
PROMPT, ANSWER = 12, 8


def measured(number: int = 0, *, sure: float = 0.01, moved: float = 2.0) -> Measured:
    """Twelve tokens of a prompt, eight of an answer; the adapter is sure of those, and moves every fourth."""
    tokens = tuple(range(100 * number, 100 * number + PROMPT + ANSWER))
    adapter = tuple(-3.0 if at < PROMPT - 1 else -sure for at in range(len(tokens) - 1))
    base = tuple(one - (moved if at % 4 == 0 else 0.1) for at, one in enumerate(adapter))
    return Measured(f"{number:016x}", f"{number:064x}", tokens, PROMPT, adapter, base)


def served(one: Measured, *, off_telling: float = 0.0) -> Served:
    """An engine that gives what was trained, but for so much log-odds where the adapter tells."""
    figures = [moved(lp, off_telling) if at % 4 == 0 else lp for at, lp in enumerate(one.adapter)]
    return serving(one, figures)


def serving(one: Measured, figures: Sequence[float]) -> Served:
    """An engine that gives these figures wherever it is asked."""
    return Served(one.tokens[:PROMPT], tuple(figures[at] for at in points_of(one).places))


def judged(examples: list[Measured], answers: list[Served], tolerance: float = TOLERANCE) -> Parity:
    return decide(examples, answers, tolerance=tolerance)


THREE = [measured(number) for number in range(3)]


def moved(log_prob: float, odds: float) -> float:
    """The log-probability whose log-odds are so much higher."""
    logit = log_prob - math.log(-math.expm1(log_prob)) + odds
    return -math.log1p(math.exp(-logit))


@pytest.mark.parametrize("sure", [2.0, 0.5, 0.01, 0.001])
@pytest.mark.parametrize("odds", [0.0, 0.1, -0.1, 0.24, -0.24])
def test_an_engine_that_rounds_otherwise_serves_what_was_trained_however_sure_it_is(odds: float, sure: float) -> None:
    examples = [measured(number, sure=sure) for number in range(3)]
    verdict = judged(examples, [serving(one, [moved(lp, odds) for lp in one.adapter]) for one in examples])
    assert verdict.passed, verdict.reason
    assert verdict.answer_odds == pytest.approx(abs(odds), abs=1e-4)
    assert verdict.telling_odds == pytest.approx(abs(odds), abs=1e-4)
    assert (verdict.examples, verdict.tokens, verdict.measured) == (3, 3 * len(points_of(THREE[0]).places), True)
    assert verdict.effect_nats == pytest.approx(2.0)


@pytest.mark.parametrize("sure", [2.0, 0.5, 0.01, 0.001])
@pytest.mark.parametrize("odds", [0.26, -0.26, 0.6, -3.0])
def test_an_engine_that_is_off_beyond_the_tolerance_serves_something_else_however_sure_it_is(
    odds: float, sure: float
) -> None:
    examples = [measured(number, sure=sure) for number in range(3)]
    verdict = judged(examples, [serving(one, [moved(lp, odds) for lp in one.adapter]) for one in examples])
    assert not verdict.passed
    assert verdict.reason.startswith(DIFFERS)
    assert f"{abs(odds):.3f}" in verdict.reason
    assert "tolerance of 0.25" in verdict.reason


def test_what_both_sides_are_certain_of_is_equal() -> None:
    certain = [measured(number, sure=1e-6) for number in range(3)]
    answers = [serving(one, [min(0.0, lp + 5e-7) if lp > -0.1 else lp for lp in one.adapter]) for one in certain]
    assert judged(certain, answers).passed


def test_a_single_token_far_off_is_told_and_does_not_reject() -> None:
    first = THREE[0]
    figures = [*first.adapter]
    figures[points_of(first).answer[-1]] = -5.0
    verdict = judged(THREE, [serving(first, figures), *(served(one) for one in THREE[1:])])
    assert verdict.passed
    assert verdict.worst_nats == pytest.approx(4.99)


def test_the_points_are_answers_evenly_and_the_most_telling_wherever_they_stand() -> None:
    points = points_of(THREE[0])
    assert points.answer == (11, 13, 15, 17)
    assert points.telling == (0, 4, 8, 12)
    assert points.places == (0, 4, 8, 11, 12, 13, 15, 17)
    short = dataclasses.replace(THREE[0], answer_from=PROMPT + ANSWER - 1)
    assert points_of(short).answer == (PROMPT + ANSWER - 2,)


def test_another_version_that_is_as_sure_of_the_answers_is_told_by_the_tokens_that_the_adapter_moves() -> None:
    verdict = judged(THREE, [served(one, off_telling=0.7) for one in THREE])
    assert verdict.answer_odds is not None
    assert verdict.answer_odds <= TOLERANCE, "the answers alone would not tell"
    assert not verdict.passed
    assert verdict.telling_odds == pytest.approx(0.7, abs=1e-4)


def test_the_base_in_place_of_the_adapter_is_rejected() -> None:
    verdict = judged(THREE, [serving(one, one.base) for one in THREE])
    assert not verdict.passed
    assert verdict.telling_odds is not None
    assert verdict.telling_odds > 1.5


def test_one_prompt_rendered_otherwise_is_enough_to_reject_whatever_the_figures_say() -> None:
    answers = [served(one) for one in THREE]
    verdict = judged(THREE, [*answers[:2], dataclasses.replace(answers[2], prompt=THREE[2].tokens[: PROMPT - 1])])
    assert not verdict.passed
    assert "renders 1 of 3 prompts otherwise" in verdict.reason


@pytest.mark.parametrize(
    ("examples", "answers"),
    [
        ([], []),
        (THREE, [served(THREE[0])]),
        (THREE[:1], [Served(THREE[0].tokens[:PROMPT], served(THREE[0]).log_probs[1:])]),
        (THREE[:1], [serving(THREE[0], [math.nan] * len(THREE[0].adapter))]),
        (THREE[:1], [serving(THREE[0], [-math.inf] * len(THREE[0].adapter))]),
        ([dataclasses.replace(THREE[0], base=THREE[0].base[1:])], [served(THREE[0])]),
        ([dataclasses.replace(THREE[0], adapter=())], [served(THREE[0])]),
        ([dataclasses.replace(THREE[0], answer_from=PROMPT + ANSWER)], [Served(THREE[0].tokens, (0.0,) * 8)]),
        ([dataclasses.replace(THREE[0], answer_from=0)], [Served((), (0.0,) * 8)]),
    ],
)
def test_what_cannot_be_compared_does_not_pass(examples: list[Measured], answers: list[Served]) -> None:
    verdict = judged(examples, answers)
    assert not verdict.passed
    assert verdict.reason


def test_the_digest_of_what_was_rendered_follows_the_prompts() -> None:
    first = judged(THREE, [served(one) for one in THREE]).rendered
    assert first == judged(THREE, [served(one, off_telling=1.0) for one in THREE]).rendered
    other = [dataclasses.replace(THREE[0], rendered_sha256="f" * 64), *THREE[1:]]
    assert first != judged(other, [served(one) for one in other]).rendered


def test_what_was_not_measured_says_so_and_why() -> None:
    verdict = not_measured("there is no base model")
    assert (verdict.passed, verdict.measured, verdict.median_nats) == (True, False, None)
    assert "not measured: there is no base model" in verdict.reason
