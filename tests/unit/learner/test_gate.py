"""Claims about the gate: only a real gain passes, and every verdict says why in figures."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.curriculum import GateSpec
from gaiad.learner.exams.score import ExamReport, Item, ItemScore, report_of, score
from gaiad.learner.gate import decide, mcnemar_p_value

SPEC = GateSpec(min_items=100, min_gain_over_base=0.1, max_p_value=0.01, max_loss_to_incumbent=0.02)
TOOLS = ("file", "web", "audio", "")


def items(total: int) -> list[Item]:
    return [Item(f"i{n}", (), None, {"selected_tool": TOOLS[n % 4], "params": {}}) for n in range(total)]


def report(subject: str, right: range, total: int = 120, params: range | None = None) -> ExamReport:
    values = right if params is None else params
    scores = [
        ItemScore(f"i{n}", tool_ok=n in right, params_ok=n in right and n in values, json_ok=True) for n in range(total)
    ]
    return report_of(subject, constrained=True, items=items(total), scores=scores, judge=score)


BASE = report("base", range(5))
GOOD = report("a@v2-00000000", range(80))


def test_a_clear_gain_passes_and_every_reason_has_figures() -> None:
    verdict = decide(SPEC, base=BASE, candidate=GOOD, incumbent=None)
    assert verdict.passed, verdict.reasons
    assert all(any(letter.isdigit() for letter in reason) and reason.endswith(".") for reason in verdict.reasons)
    assert verdict.numbers["gain_over_base"] == pytest.approx(75 / 120)
    assert verdict.numbers["p_value"] < 1e-9


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (report("c", range(5)), "less than the gain"),
        (report("c", range(0)), "less than the gain"),
        (report("c", range(12)), "less than the gain"),
        (report("c", range(5, 21)), "less than the gain"),
        (report("c", range(28)), "always giving the best single answer"),
        (report("c", range(80), params=range(0)), "exact in every value"),
        (replace(GOOD, constrained=False), "not constrained"),
        (replace(GOOD, constant=None), "best constant answer"),
        (replace(GOOD, per_item=GOOD.per_item[::-1]), "not the candidate's"),
        (replace(GOOD, per_item=GOOD.per_item[:40]), "not the candidate's"),
        (replace(report("c", range(0)), tool=GOOD.tool), "contradicts itself"),
    ],
)
def test_what_may_not_pass(candidate: Any, why: Any) -> None:
    verdict = decide(SPEC, base=BASE, candidate=candidate, incumbent=None)
    assert not verdict.passed
    assert any(why in reason for reason in verdict.reasons), verdict.reasons


def test_too_few_items_fail_however_good_the_candidate_is() -> None:
    verdict = decide(SPEC, base=report("base", range(0), 99), candidate=report("c", range(99), 99), incumbent=None)
    assert not verdict.passed
    assert "only 99 items, fewer than the 100" in verdict.reasons[0]


def test_no_items_at_all_fail() -> None:
    assert not decide(SPEC, base=report("base", range(0), 0), candidate=report("c", range(0), 0), incumbent=None).passed


def test_a_gain_that_chance_explains_fails() -> None:
    spec = replace(SPEC, min_gain_over_base=0.0)
    verdict = decide(spec, base=report("base", range(60)), candidate=report("c", range(1, 63)), incumbent=None)
    assert not verdict.passed
    assert any("not beyond chance" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("incumbent", "passes"),
    [(range(80), True), (range(82), True), (range(84), False), (range(110), False), (range(40), True)],
)
def test_a_candidate_may_not_lose_to_the_incumbent(incumbent: Any, passes: Any) -> None:
    verdict = decide(SPEC, base=BASE, candidate=GOOD, incumbent=report("a@v1-00000000", incumbent))
    assert verdict.passed is passes, verdict.reasons


def test_a_loss_of_parameters_or_of_validity_to_the_incumbent_fails_too() -> None:
    worse = report("c", range(80), params=range(50))
    assert not decide(SPEC, base=BASE, candidate=worse, incumbent=GOOD).passed
    broken = [replace(one, json_ok=one.tool_ok) for one in GOOD.per_item]
    torn = report_of("c", constrained=True, items=items(120), scores=broken, judge=score)
    assert not decide(SPEC, base=BASE, candidate=torn, incumbent=GOOD).passed


@given(st.lists(st.booleans(), min_size=1, max_size=150))
def test_identical_reports_never_pass(right: Any) -> None:
    scores = [ItemScore(f"i{n}", tool_ok=ok, params_ok=ok, json_ok=True) for n, ok in enumerate(right)]
    same = report_of("x", constrained=True, items=items(len(right)), scores=scores, judge=score)
    spec = GateSpec(1, 0.0, 0.2, 1.0)
    assert not decide(spec, base=same, candidate=replace(same, subject="c"), incumbent=None).passed


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=150))
def test_all_wrong_values_never_pass(rows: Any) -> None:
    scores = [ItemScore(f"i{n}", tool_ok=tool, params_ok=False, json_ok=ok) for n, (tool, ok) in enumerate(rows)]
    base = report("base", range(0), len(rows))
    candidate = report_of("c", constrained=True, items=items(len(rows)), scores=scores, judge=score)
    assert not decide(GateSpec(1, 0.0, 0.2, 1.0), base=base, candidate=candidate, incumbent=None).passed


@pytest.mark.parametrize(
    ("lost", "won", "expected"), [(0, 0, 1.0), (0, 5, 1 / 32), (1, 1, 0.75), (5, 0, 1.0), (2, 8, 56 / 1024)]
)
def test_mcnemar_is_exact(lost: Any, won: Any, expected: Any) -> None:
    assert mcnemar_p_value(lost, won) == pytest.approx(expected)


@given(st.integers(0, 200), st.integers(0, 200))
def test_p_value_is_a_chance_and_falls_with_more_wins(lost: Any, won: Any) -> None:
    assert 0 < mcnemar_p_value(lost, won + 1) <= mcnemar_p_value(lost, won) <= 1
