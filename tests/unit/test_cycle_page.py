"""A cycle as a page: what is known of it is there, what is not is left out, and nothing is loaded."""

from __future__ import annotations

import re

from gaiad.curriculum import Json
from gaiad.cycle_page import cycle_page

METRIC: dict[str, Json] = {"hits": 9, "total": 10, "rate": 0.9, "low": 0.6, "high": 0.98}
REPORT: dict[str, Json] = {
    "profile": "demo",
    "version": "json-architect@v1-00000000",
    "dataset": {"digest": "ab12", "train": 320, "validation": 40, "heldout": 104},
    "loss": [
        {"step": 0, "loss": None, "validation_loss": 2.5},
        {"step": 1, "loss": 2.0, "validation_loss": None},
        {"step": 2, "loss": 1.0, "validation_loss": 0.75},
    ],
    "pace": {"tokens_per_s": 1234.0, "flops_per_s": 2.5e12, "peak_share": 0.41, "memory_bytes": 1, "resumed_from": 40},
    "training": {
        "steps": 2,
        "best_step": 1,
        "stopped_early": True,
        "tokens": 900,
        "wall_s": 61.5,
        "validation_loss": 0.75,
        "base_validation_loss": 2.5,
        "peak_memory_bytes": 5 << 30,
        "quantisation": "nf4",
        "layout": "prefix_shared",
        "device": "cpu",
    },
    "exams": {"base": {"tool": METRIC}, "candidate": {"tool": METRIC}},
    "gate": {"passed": True, "reasons": ["+40 points <of> 104"]},
    "parity": {"passed": True, "measured": False, "reason": "Not measured: <no> base."},
    "timings_s": {"training": 61.5},
}
ROW: dict[str, Json] = {
    "id": "c1",
    "adapter": "json-architect",
    "verdict": "promoted",
    "reason": "better",
    "phase": "done",
    "started": 1.75e9,
    "ended": 1.75e9 + 90,
    "report": REPORT,
}


def test_the_page_draws_the_losses_and_tells_what_training_took() -> None:
    page = cycle_page(ROW)
    for text in ("1234", "2.50 TFLOP/s", "41.0%", "5.00 GiB", "0.750 (base: 2.500)", "320 train", "9/10", "61.5 s"):
        assert text in page, text
    assert len(re.findall(r"<circle class='dot'", page)) == 2
    assert re.search(r"<polyline class='line' points='\S+ \S+'/>", page)
    assert "+40 points &lt;of&gt; 104" in page
    assert "Not measured: &lt;no&gt; base." in page
    assert not re.search(r"https?://|<script|url\(", page)


def test_what_a_cycle_never_came_to_is_left_out_of_its_page() -> None:
    page = cycle_page({**ROW, "verdict": None, "ended": None, "phase": "freezing", "report": None})
    assert "json-architect: still freezing" in page
    assert page.count("<section>") == 1
    assert "<svg" not in page


def test_a_run_that_was_broken_off_still_shows_how_far_it_came() -> None:
    broken = {**REPORT, "training": None, "exams": {}}
    page = cycle_page({**ROW, "verdict": "cancelled", "report": broken})
    assert "<polyline" in page
    assert "1234" in page
