"""The gate: may a candidate become active, given its exam and that of the base and the incumbent?

Decides, with figures for every reason; runs no exam and flips no alias. Every check must hold, so a report that
is broken, too short, unconstrained or merely equal to the base cannot pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gaiad.curriculum import GateSpec
from gaiad.learner.exams.score import ExamReport, ItemScore, Metric

_Mark: TypeAlias = Callable[[ItemScore], bool]
_MARKS: Mapping[str, _Mark] = {
    "right choices": lambda one: one.tool_ok,
    "exact answers": lambda one: one.params_ok,
    "valid answers": lambda one: one.json_ok,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision; `reasons` are sentences with figures, those that failed first where it did not pass."""

    passed: bool
    reasons: tuple[str, ...]
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Paired:
    """Two subjects on the same items: how often only the first, and only the second, was right."""

    only_first: int
    only_second: int
    total: int

    @property
    def gain(self) -> float:
        """The second's rate minus the first's."""
        return (self.only_second - self.only_first) / self.total if self.total else 0.0


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """One-sided exact McNemar: the chance of at least `only_second` of the discordant pairs if both were equal."""
    discordant = only_first + only_second
    favourable = sum(math.comb(discordant, k) for k in range(only_second, discordant + 1))
    return float(favourable / 2**discordant)


def decide(spec: GateSpec, *, base: ExamReport, candidate: ExamReport, incumbent: ExamReport | None) -> Verdict:
    """Judge `candidate` against the base, the best constant answer and the incumbent.

    It must gain on exact tool choice and on exact parameters over the base, beyond chance, and lose on nothing. The
    p-values stand in `numbers`, as do the rates.
    """
    numbers: dict[str, float] = {"items": float(candidate.tool.total), "candidate_rate": candidate.tool.rate}
    problem = _unusable(base, candidate, incumbent)
    if problem is not None:
        return Verdict(False, (problem,), numbers)
    checks = [
        _enough_items(spec, candidate),
        *_beats_base(spec, base, candidate, numbers),
        _gains_parameters(spec, base, candidate, numbers),
        _keeps(spec, base, candidate, "valid answers", numbers),
        _beats_constant(candidate, numbers),
    ]
    if incumbent is not None:
        checks.extend(_keeps(spec, incumbent, candidate, what, numbers) for what in _MARKS)
    failed = tuple(sentence for held, sentence in checks if not held)
    held = tuple(sentence for held, sentence in checks if held)
    return Verdict(not failed, failed + held, numbers)


def _unusable(base: ExamReport, candidate: ExamReport, incumbent: ExamReport | None) -> str | None:
    """Name the first reason why the reports cannot be compared at all."""
    reports = [base, candidate] + ([incumbent] if incumbent else [])
    asked = [one.id for one in candidate.per_item]
    for report in reports:
        if not report.constrained:
            return f"The exam of {report.subject} was not constrained by the stage's schema, so it cannot be compared."
        if [one.id for one in report.per_item] != asked:
            count = len(report.per_item)
            return f"{report.subject} was asked {count} items that are not the candidate's {len(asked)}."
        if report.tool.total != len(asked) or report.tool.hits != sum(one.tool_ok for one in report.per_item):
            return (
                f"The report of {report.subject} contradicts itself: {report.tool.hits} of {report.tool.total} hits, "
                f"{sum(one.tool_ok for one in report.per_item)} of {len(asked)} in its items."
            )
    if len(set(asked)) != len(asked):
        return f"The exam repeats items: {len(asked)} asked, {len(set(asked))} different."
    return None


def _paired(first: ExamReport, second: ExamReport, mark: _Mark) -> _Paired:
    pairs = [(mark(a), mark(b)) for a, b in zip(first.per_item, second.per_item, strict=True)]
    return _Paired(
        only_first=sum(a and not b for a, b in pairs),
        only_second=sum(b and not a for a, b in pairs),
        total=len(pairs),
    )


def _enough_items(spec: GateSpec, candidate: ExamReport) -> tuple[bool, str]:
    total, wanted = len(candidate.per_item), max(1, spec.min_items)
    if total >= wanted:
        return True, f"The exam had {total} items, at least the {wanted} that the gate asks for."
    return False, f"The exam had only {total} items, fewer than the {wanted} that the gate asks for."


def _beats_base(
    spec: GateSpec, base: ExamReport, candidate: ExamReport, numbers: dict[str, float]
) -> list[tuple[bool, str]]:
    pair = _paired(base, candidate, _MARKS["right choices"])
    p_value = mcnemar_p_value(pair.only_first, pair.only_second)
    numbers.update(base_rate=base.tool.rate, gain_over_base=pair.gain, p_value=p_value)
    enough = pair.gain >= spec.min_gain_over_base and pair.gain > 0
    certain = p_value <= spec.max_p_value
    return [
        (
            enough,
            f"{candidate.tool.hits} of {pair.total} right choices against the base's {base.tool.hits} "
            f"({pair.gain * 100:+.1f} points): {'at least' if enough else 'less than'} the gain of "
            f"{spec.min_gain_over_base * 100:.1f} points that is asked for.",
        ),
        (
            certain,
            f"The gain is {'' if certain else 'not '}beyond chance: {pair.only_second} items won and "
            f"{pair.only_first} lost, p = {p_value:.2g}, limit {spec.max_p_value:g}.",
        ),
    ]


def _gains_parameters(
    spec: GateSpec, base: ExamReport, candidate: ExamReport, numbers: dict[str, float]
) -> tuple[bool, str]:
    """Well-formed answers with wrong values are worth nothing: the values must have become better too."""
    pair = _paired(base, candidate, _MARKS["exact answers"])
    p_value = mcnemar_p_value(pair.only_first, pair.only_second)
    numbers.update(params_rate=candidate.params.rate, params_gain=pair.gain, params_p_value=p_value)
    gains = pair.gain > 0 and p_value <= spec.max_p_value
    return gains, (
        f"{candidate.params.hits} of {pair.total} answers are exact in every value against the base's "
        f"{base.params.hits}, {'a' if gains else 'no'} gain beyond chance (p = {p_value:.2g})."
    )


def _beats_constant(candidate: ExamReport, numbers: dict[str, float]) -> tuple[bool, str]:
    constant = candidate.constant
    if constant is None or constant.total != len(candidate.per_item):
        return False, f"The report of {candidate.subject} does not say what the best constant answer would score."
    low = Metric.of(sum(one.tool_ok for one in candidate.per_item), len(candidate.per_item)).low
    numbers.update(constant_rate=constant.rate, candidate_low=low)
    above = low > constant.rate
    return above, (
        f"The candidate's lower bound {low * 100:.1f}% is {'' if above else 'not '}above the "
        f"{constant.rate * 100:.1f}% of always giving the best single answer."
    )


def _keeps(
    spec: GateSpec, reference: ExamReport, candidate: ExamReport, what: str, numbers: dict[str, float]
) -> tuple[bool, str]:
    """Against the base or the incumbent, the candidate must not lose more than allowed, nor beyond chance."""
    pair = _paired(candidate, reference, _MARKS[what])
    p_value = mcnemar_p_value(pair.only_first, pair.only_second)
    if what == "right choices":
        numbers.update(incumbent_rate=reference.tool.rate, loss_to_incumbent=pair.gain, loss_p_value=p_value)
    # 1. A loss larger than allowed fails, whatever chance says. 2. So does a smaller one that chance does not explain.
    too_large = pair.gain > spec.max_loss_to_incumbent
    significant = pair.gain > 0 and p_value <= spec.max_p_value
    keeps = not (too_large or significant)
    return keeps, (
        f"Against {reference.subject} the candidate wins {pair.only_first} {what} and loses {pair.only_second} "
        f"({-pair.gain * 100:+.1f} points, p of a loss = {p_value:.2g}): {'within' if keeps else 'beyond'} the allowed "
        f"loss of {spec.max_loss_to_incumbent * 100:.1f} points."
    )
