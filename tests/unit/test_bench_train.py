"""What the benchmark of training says of its windows, without training."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from bench.train import parsed
from bench.training.figures import (
    OURS,
    PLAIN,
    TRL,
    TRL_PACKED,
    Learnt,
    Window,
    as_json,
    as_table,
    learn_alike,
    mean_of,
    ratios,
)
from bench.training.pace import Pace


def learnt(way: str, *speeds: float, heldout: tuple[float, ...] = (1.0, 1.2, 0.8, 1.1)) -> Learnt:
    return Learnt(way, tuple(Window(2.0, int(2 * speed), int(speed)) for speed in speeds), 31, heldout, 10**9)


def all_ways() -> dict[str, Learnt]:
    found = (learnt(PLAIN, 100, 90, 400), learnt(TRL, 150), learnt(TRL_PACKED, 60), learnt(OURS, 450, 500, 20))
    return {one.way: one for one in found}


def test_the_median_window_counts_and_trl_counts_by_its_faster_way() -> None:
    assert ratios(all_ways()) == {"ratio_plain": 4.5, "ratio_trl": 3.0}


def test_a_way_that_was_not_measured_has_no_ratio() -> None:
    ways = {name: one for name, one in all_ways().items() if name in (PLAIN, OURS)}
    assert ratios(ways) == {"ratio_plain": 4.5, "ratio_trl": None}
    table = as_table("bf16", ways, 400.0, "trl is not there")
    assert "ratio_trl: not measured" in table
    assert "TRL: refused: trl is not there" in table


def test_the_table_says_whether_the_bars_hold() -> None:
    table = as_table("bf16", all_ways(), 400.0, "")
    assert "ratio_plain: 4.50x; bar 4x: holds" in table
    slower = {**all_ways(), OURS: learnt(OURS, 290)}
    assert "ratio_trl: 1.93x; bar 2x: missed" in as_table("bf16", slower, 400.0, "")


def test_what_was_not_run_is_called_extrapolated() -> None:
    assert "1000, extrapolated" in as_table("bf16", all_ways(), 400.0, "")
    (told,) = [row for row in as_json({"bf16": all_ways()}, 400.0, "", "")["rows"] if row["way"] == PLAIN]  # type: ignore[union-attr,index,call-overload]
    assert told["extrapolated_s"] == 4000.0  # type: ignore[index,call-overload]


def test_the_json_has_rows_and_ratios_of_bf16_at_the_top_and_of_nf4_below() -> None:
    told = json.loads(json.dumps(as_json({"bf16": all_ways(), "nf4": all_ways()}, 400.0, "", "here")))
    assert {"rows", "ratio_plain", "ratio_trl"} <= told.keys()
    assert {"rows", "ratio_plain", "ratio_trl"} <= told["nf4"].keys()
    assert [row["way"] for row in told["rows"]] == [PLAIN, TRL, TRL_PACKED, OURS]
    assert told["refused"] is None


def test_ways_learn_alike_only_within_their_intervals() -> None:
    assert learn_alike(all_ways())
    worse = {**all_ways(), TRL: learnt(TRL, 1, heldout=(1.5, 1.7, 1.3, 1.6))}
    assert not learn_alike(worse)
    assert "NOT equal" in as_table("bf16", worse, 400.0, "")


def test_a_way_that_learnt_for_fewer_steps_is_not_held_to_the_others_loss() -> None:
    worse = learnt(TRL_PACKED, 1, heldout=(1.5, 1.7, 1.3, 1.6))
    assert not learn_alike({**all_ways(), TRL_PACKED: worse})
    assert learn_alike({**all_ways(), TRL_PACKED: dataclasses.replace(worse, steps=4)})


def test_the_interval_is_that_of_a_mean() -> None:
    found = mean_of([1.0, 3.0])
    assert found.value == 2.0
    assert found.within == pytest.approx(1.96)


def test_a_way_stands_still_between_windows_and_ends_when_told() -> None:
    said = io.StringIO()
    pace = Pace(io.StringIO("run 1\nrun 2\nend\n"), said)
    assert pace.wait()
    assert [pace.stepped(10, 20) for _ in range(3)] == [True, True, False]
    windows = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [(one["tokens"], one["computed_tokens"]) for one in windows] == [(10, 20), (20, 40)]


def test_the_command_line_refuses_what_makes_no_window() -> None:
    with pytest.raises(SystemExit):
        parsed(["--steps", "0"])
