"""Claims about which exchanges are learned from: corrections first, a share for each, the new above the old."""

from dataclasses import replace
from typing import Any

import pytest

from gaiad.curriculum import ExchangesSpec
from gaiad.learner.sources.exchanges import CorrectedExchange, chosen, from_corrections

DAY_S = 86_400.0
SPEC = ExchangesSpec(max_share=1.0, per_user=100, per_conversation=100, half_life_days=10)


def row(number: int, **changes: Any) -> CorrectedExchange:
    asked = [{"role": "user", "content": f"question {number}"}]
    one = CorrectedExchange(f"e{number}", "ana", "generation", asked, "right", number * DAY_S)
    return replace(one, **changes)


def taken(rows: list[CorrectedExchange], spec: ExchangesSpec = SPEC, most: int = 100) -> list[str]:
    return [one.origin.removeprefix("exchange:") for one in chosen(from_corrections(rows), rows, spec, most=most)]


def test_what_goes_before_comes_back_last_so_that_it_speaks_last() -> None:
    rows = [row(1), row(2, approved=True), row(3), row(4, approved=True)]
    assert taken(rows) == ["e2", "e4", "e1", "e3"]


@pytest.mark.parametrize(
    ("spec", "most", "told"),
    [
        (SPEC, 3, ["e6", "e1", "e3"]),
        (SPEC, 1, ["e3"]),
        (SPEC, 0, []),
        (replace(SPEC, per_user=1), 9, ["e5", "e3"]),
        (replace(SPEC, per_conversation=1), 9, ["e4", "e5", "e6", "e3"]),
    ],
)
def test_corrections_go_before_approved_replies_and_the_new_before_the_old(
    spec: ExchangesSpec, most: int, told: list[str]
) -> None:
    rows = [row(1, conversation="c"), row(3, conversation="c"), row(2, conversation="c", approved=True)]
    # Another user's conversation of the same name, and exchanges without one.
    rows += [row(5, user="ben", conversation="c", approved=True), row(4, approved=True), row(6, approved=True)]
    if spec.per_user == 1:
        rows = [one for one in rows if one.exchange_id != "e6"]
    assert taken(rows, spec, most) == told


def test_an_exchange_counts_half_as_much_for_every_half_life_before_the_newest_and_never_nothing() -> None:
    rows = [row(0), row(980), row(990), row(995), row(1000)]
    weights = [one.weight for one in chosen(from_corrections(rows), rows, SPEC, most=9)]
    assert weights == [0.05, 0.25, 0.5, 0.707, 1.0]
