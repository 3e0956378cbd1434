"""Parity: is what the engine serves what was trained? Decided from what both sides give the same tokens.

Decides which tokens are asked for, and what the figures are worth; measures nothing. Two sides never agree to the last
digit, since they add up bf16 numbers in another order, so they are compared by medians, and by log-odds: how far two
sides are apart in log-probabilities follows from how sure they are. A trained adapter is sure of nearly every token
of its answer, and so is the version before it; an untrained one is sure of none. In log-odds rounding makes the same
difference to all, and another version a larger one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from gaiad.learner.protocol import Measured

DIFFERS = "served differs from trained"

_CERTAIN = 1e-4

POINTS = 4
"""How many tokens of an answer are asked for in each example, and how many that tell most."""


@dataclass(frozen=True, slots=True)
class Points:
    """Which tokens of an example are asked for, by their places in its figures: of its answer, and the most telling."""

    answer: tuple[int, ...]
    telling: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """Each place once, in order, so that an engine can go on from what it has computed."""
        return tuple(sorted({*self.answer, *self.telling}))


@dataclass(frozen=True, slots=True)
class Served:
    """The engine's side of one example: its prompt as it renders it, and a log-probability for each of the places."""

    prompt: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Parity:
    """The decision and its figures, in nats.

    `answer_odds` and `telling_odds` decide: the median difference of log-odds over tokens of the answers, and over
    those that the adapter moves most, by `effect_nats` in the median. `median_nats` and `worst_nats` are the
    difference of log-probabilities over tokens of the answers. `rendered` is the digest of all prompts as rendered.
    """

    passed: bool
    reason: str
    measured: bool = True
    examples: int = 0
    tokens: int = 0
    tolerance: float = 0.0
    answer_odds: float | None = None
    telling_odds: float | None = None
    effect_nats: float | None = None
    median_nats: float | None = None
    worst_nats: float | None = None
    rendered: str = ""


def is_whole(one: Measured) -> bool:
    """Whether an example has a prompt, an answer, and a figure for each token but the first."""
    return 0 < one.answer_from < len(one.tokens) == len(one.adapter) + 1 == len(one.base) + 1


def points_of(one: Measured) -> Points:
    """Which tokens to ask for: answer tokens evenly, and those that the adapter moves most from what the base gives."""
    first, total = one.answer_from - 1, len(one.tokens) - 1
    count = min(POINTS, max(0, total - first))
    by_effect = sorted(range(total), key=lambda at: (-abs(one.adapter[at] - one.base[at]), at))
    return Points(
        answer=tuple(first + step * (total - first) // count for step in range(count)),
        telling=tuple(sorted(by_effect[:POINTS])),
    )


def not_measured(why: str) -> Parity:
    """Nothing was compared: not a pass, but no reason to reject either."""
    return Parity(True, f"Whether it is served as trained was not measured: {why}.", measured=False)


def decide(measured: Sequence[Measured], served: Sequence[Served], *, tolerance: float) -> Parity:
    """Compare the two sides, example by example; anything but the same prompts and nearly the same figures fails."""
    examples, rendered = len(measured), _digest(measured)
    problem = next(_problems(measured, served), None)
    if problem is not None:
        return Parity(False, problem, examples=examples, tolerance=tolerance, rendered=rendered)
    answers: list[_Pair] = []
    telling: list[_Pair] = []
    for one, other in zip(measured, served, strict=True):
        points = points_of(one)
        figures = dict(zip(points.places, other.log_probs, strict=True))
        answers += [_Pair(one.adapter[at], figures[at], one.base[at]) for at in points.answer]
        telling += [_Pair(one.adapter[at], figures[at], one.base[at]) for at in points.telling]
    answer_odds, telling_odds = (median(pair.off_odds for pair in pairs) for pairs in (answers, telling))
    passed = answer_odds <= tolerance and telling_odds <= tolerance
    figures_told = (
        f"over {examples} held-out answers the engine is off by {answer_odds:.3f} nats of log-odds a token in the "
        f"median, and by {telling_odds:.3f} where the adapter tells most, {'within' if passed else 'beyond'} the "
        f"tolerance of {tolerance:g} ({median(pair.off for pair in answers):.4f} nats of log-probability, at worst "
        f"{max(pair.off for pair in answers):.2f})"
    )
    return Parity(
        passed,
        f"{'Served as trained' if passed else DIFFERS}: {figures_told}.",
        examples=examples,
        tokens=sum(len(other.log_probs) for other in served),
        tolerance=tolerance,
        answer_odds=round(answer_odds, 5),
        telling_odds=round(telling_odds, 5),
        effect_nats=round(median(pair.effect for pair in telling), 5),
        median_nats=round(median(pair.off for pair in answers), 5),
        worst_nats=round(max(pair.off for pair in answers), 5),
        rendered=rendered,
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """One token's log-probabilities: as trained, as served, and without the adapter."""

    trained: float
    served: float
    base: float

    @property
    def off(self) -> float:
        """How far the two sides are apart."""
        return abs(self.trained - self.served)

    @property
    def off_odds(self) -> float:
        """The same in log-odds."""
        return abs(_log_odds(self.trained) - _log_odds(self.served))

    @property
    def effect(self) -> float:
        """How far the adapter moves it."""
        return abs(self.trained - self.base)


def _log_odds(log_prob: float) -> float:
    # Beyond this both sides are certain, and their digits are used up.
    below = min(log_prob, -_CERTAIN)
    return below - math.log(-math.expm1(below))


def _problems(measured: Sequence[Measured], served: Sequence[Served]) -> Iterator[str]:
    """Reasons why the figures need not even be looked at."""
    if not measured or len(measured) != len(served):
        yield f"{DIFFERS}: {len(measured)} answers were measured, and the engine was asked for {len(served)}."
        return
    unlike = sum(other.prompt != one.tokens[: one.answer_from] for one, other in zip(measured, served, strict=True))
    if unlike:
        yield f"{DIFFERS}: the engine renders {unlike} of {len(measured)} prompts otherwise than training did."
    for one, other in zip(measured, served, strict=True):
        if not is_whole(one):
            yield f"{DIFFERS}: what was measured is no answer with a figure for each token."
        elif len(points_of(one).places) != len(other.log_probs):
            yield f"{DIFFERS}: the engine did not give a figure for each token that was asked for."
        elif not all(math.isfinite(figure) for figure in (*one.adapter, *one.base, *other.log_probs)):
            yield f"{DIFFERS}: some of the log-probabilities are no numbers."


def _digest(measured: Sequence[Measured]) -> str:
    return hashlib.sha256("\n".join(one.rendered_sha256 for one in measured).encode()).hexdigest()
