"""What Prometheus is told of the store: each counter under its name, and nothing of anybody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gaiad.control.metrics import RECORDER_STATES, metrics_of

ROOT = Path(__file__).parents[2]
STORE = {
    "state": "failing",
    "waiting": 4,
    "written": 3,
    "dropped": 2,
    "failed": 1,
    "set_aside": [{"path": "/home/ada/gaiad.db.damaged", "lost": ["grants"]}],
}
SAMPLE = re.compile(r'[a-z_]+(\{state="[a-z]+"\})? \d+')


def samples(text: str) -> dict[str, int]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in lines)
    return {name: int(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_each_counter_of_the_store_is_told_and_no_path() -> None:
    text = metrics_of(STORE)
    assert "ada" not in text
    found = samples(text)
    assert found["gaiad_store_written_total"] == 3
    assert found["gaiad_store_dropped_total"] == 2
    assert found["gaiad_store_failed_total"] == 1
    assert found["gaiad_store_waiting"] == 4
    assert found["gaiad_store_set_aside"] == 1
    assert text.endswith("\n")


@pytest.mark.parametrize("state", RECORDER_STATES)
def test_exactly_one_state_holds_and_only_ok_is_up(state: str) -> None:
    found = samples(metrics_of({**STORE, "state": state}))
    assert [name for name in RECORDER_STATES if found[f'gaiad_store_state{{state="{name}"}}']] == [state]
    assert found["gaiad_store_up"] == (state == "ok")


def test_every_metric_has_a_type_and_is_on_the_page_of_the_socket() -> None:
    text = metrics_of({})
    page = (ROOT / "docs/control.md").read_text(encoding="utf-8")
    names = {re.split(r"[ {]", line)[0] for line in text.splitlines() if not line.startswith("#")}
    for name in names:
        assert f"# TYPE {name} " in text
        assert f"`{name}" in page
