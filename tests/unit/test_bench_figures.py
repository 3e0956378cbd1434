"""The proxy's figures: medians over rounds, what is added to the direct way, bars, and what counts as recorded."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bench.load.figures import BARS, FIGURES, as_json, over_rounds, spread, table, verdicts
from bench.load.targets import CONSENTED, DIRECT, PLAIN, VLLM_ROUTER
from bench.proxy import Recorded

BY_KEY = {figure.key: figure for figure in FIGURES}
Figures = dict[str, float]


def round_of(**targets: Figures) -> dict[str, Figures]:
    names = {"direct": DIRECT, "plain": PLAIN, "consented": CONSENTED, "router": VLLM_ROUTER}
    return {names[name]: figures for name, figures in targets.items()}


def test_a_spread_is_the_median_and_the_range() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, (3.0, 1.0, 2.0))
    assert found.said(1) == "2.0 (1.0..3.0)"
    assert spread([2.0]).said(1, "+") == "+2.0"


def test_a_latency_is_what_is_added_to_the_direct_way_of_the_same_round() -> None:
    rounds = [
        round_of(direct={"paced_p50_ms": 1.0}, plain={"paced_p50_ms": 1.5}),
        round_of(direct={"paced_p50_ms": 9.0}, plain={"paced_p50_ms": 9.7}),
    ]
    added = over_rounds(rounds, PLAIN, BY_KEY["paced_p50_ms"])
    assert added is not None
    assert added.rounds == pytest.approx((0.5, 0.7))
    itself = over_rounds(rounds, DIRECT, BY_KEY["paced_p50_ms"])
    assert itself is not None
    assert itself.rounds == (1.0, 9.0)


def test_what_was_not_measured_has_no_cell_and_no_verdict() -> None:
    rounds = [round_of(direct={"request_cpu_us": 5.0})]
    assert over_rounds(rounds, PLAIN, BY_KEY["request_cpu_us"]) is None
    assert [verdict.holds for verdict in verdicts(rounds)] == [None] * len(BARS)
    assert all("not measured: it needs" in verdict.line() for verdict in verdicts(rounds))


def test_a_ratio_is_taken_within_a_round() -> None:
    rounds = [
        round_of(plain={"request_cpu_us": 100.0}, router={"request_cpu_us": 50.0}),
        round_of(plain={"request_cpu_us": 300.0}, router={"request_cpu_us": 300.0}),
        round_of(plain={"request_cpu_us": 120.0}, router={"request_cpu_us": 100.0}),
    ]
    ratio = verdicts(rounds)[0].found
    assert ratio is not None
    assert ratio.rounds == pytest.approx((2.0, 1.0, 1.2))


@pytest.mark.parametrize(("cpu_us", "holds"), [(300.0, True), (300.1, False)])
def test_a_bar_holds_up_to_its_limit_and_no_further(cpu_us: float, holds: bool) -> None:
    verdict = next(each for each in verdicts([round_of(consented={"request_cpu_us": cpu_us})]) if each.found)
    assert verdict.bar.limit == 300
    assert verdict.holds is holds
    assert ("holds" in verdict.line()) is holds
    assert ("missed by" in verdict.line()) is not holds


def test_the_table_has_a_row_a_figure_and_a_column_a_target() -> None:
    lines = table([round_of(direct={"rss_mb": 4.0}, plain={"rss_mb": 100.0})], [DIRECT, PLAIN])
    assert lines[0].split() == [DIRECT, PLAIN]
    assert len(lines) == 1 + len(FIGURES)
    assert lines[-1].split() == ["memory", "MB", "4", "100"]
    assert lines[1].split()[-2:] == ["-", "-"]
    assert len({len(line) for line in lines}) == 1


def test_the_json_says_which_figures_are_added() -> None:
    rounds = [round_of(direct={"paced_p50_ms": 1.0}, plain={"paced_p50_ms": 1.5, "rss_mb": 100.0})]
    told = json.loads(json.dumps(as_json(rounds, [DIRECT, PLAIN])))
    assert set(told["targets"][DIRECT]) == {"paced_p50_ms"}
    assert set(told["targets"][PLAIN]) == {"added_paced_p50_ms", "rss_mb"}
    assert [bar["limit"] for bar in told["bars"]] == [bar.limit for bar in BARS]


FULL = Recorded(consented=True, asked=1000, written=1000, dropped=0, failed=0, newest=1000, with_content=1000)
BARE = dataclasses.replace(FULL, consented=False, with_content=0)


@pytest.mark.parametrize("kept", [FULL, BARE], ids=["consented", "nothing consented"])
def test_figures_count_where_each_request_left_its_record(kept: Recorded) -> None:
    assert kept.whole
    assert "do not count" not in kept.line()


@pytest.mark.parametrize("kept", [FULL, BARE], ids=["consented", "nothing consented"])
@pytest.mark.parametrize(
    "changes",
    [
        {"written": 999},
        {"dropped": 1},
        {"failed": 1},
        {"with_content": 500},
        {"asked": 0, "written": 0},
        {"newest": 0, "with_content": 0},
    ],
)
def test_figures_of_a_daemon_that_does_not_record_as_it_should_do_not_count(
    kept: Recorded, changes: dict[str, Any]
) -> None:
    lacking = dataclasses.replace(kept, **changes)
    assert not lacking.whole
    assert "do not count" in lacking.line()
