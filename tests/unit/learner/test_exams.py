"""Claims about exams: an answer is worth what it says, exactly, and rates come with honest intervals."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.curriculum import ExamSpec, Json
from gaiad.errors import DatasetError
from gaiad.learner.dataset import Example, Message
from gaiad.learner.exams.score import (
    ExamReport,
    Item,
    ItemScore,
    Metric,
    best_constant,
    normalised,
    report_of,
    score,
    wilson,
)
from gaiad.learner.exams.tool_choice import items

SCHEMA: dict[str, Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selected_tool", "params", "reasoning", "confidence"],
    "properties": {
        "selected_tool": {"type": "string"},
        "params": {"type": "string"},
        "reasoning": {"type": "string"},
        "confidence": {"type": "number"},
    },
}
ITEM = Item("i", (), SCHEMA, {"selected_tool": "file", "params": {"action": "read", "lines": 3, "path": "a b"}})
NOTHING = Item("n", (), SCHEMA, {"selected_tool": "", "params": {}})


def answer(tool: object, params: object, **more: object) -> str:
    return json.dumps({"selected_tool": tool, "params": params, "reasoning": "r", "confidence": 0.9, **more})


RIGHT = '{"path":"a b","action":"read","lines":3}'


@pytest.mark.parametrize(
    ("item", "text", "tool", "params", "valid"),
    [
        (ITEM, answer("file", RIGHT), True, True, True),
        (ITEM, answer("file", ' {"action": "read", "lines": 3.0, "path": " a  b "} '), True, True, True),
        (ITEM, answer("file", '{"action":"read","lines":4,"path":"a b"}'), True, False, True),
        (ITEM, answer("file", '{"action":"read","lines":true,"path":"a b"}'), True, False, True),
        (ITEM, answer("file", '{"action":"read","lines":3,"path":"A b"}'), True, False, True),
        (ITEM, answer("file", RIGHT[:-3]), True, False, True),
        (ITEM, answer("file", {"action": "read", "lines": 3, "path": "a b"}), True, False, False),
        (ITEM, answer("web", RIGHT), False, False, True),
        (ITEM, answer("file", RIGHT, extra=1), True, True, False),
        (ITEM, answer("File", RIGHT), False, False, True),
        (ITEM, answer(None, RIGHT), False, False, False),
        (NOTHING, answer("", "{}"), True, True, True),
        (NOTHING, answer("", ""), True, True, True),
        (NOTHING, answer("", '{"a":1}'), True, False, True),
        (NOTHING, answer("none", "{}"), False, False, True),
        (ITEM, "I would read the file.", False, False, False),
        (ITEM, f"Sure: {answer('file', RIGHT)}", False, False, False),
        (ITEM, answer("file", RIGHT)[:-1], False, False, False),
        (ITEM, '{"selected_tool":"web","selected_tool":"file"}', False, False, False),
        (ITEM, '{"confidence":NaN,"selected_tool":"file"}', False, False, False),
        (ITEM, "[]", False, False, False),
        (ITEM, "", False, False, False),
        (ITEM, "[" * 100_000, False, False, False),
        (ITEM, answer("file", '{"a":' * 900 + "1" + "}" * 900), True, False, True),
    ],
)
def test_what_an_answer_is_worth(item: Any, text: Any, tool: Any, params: Any, valid: Any) -> None:
    assert score(item, text) == ItemScore(item.id, tool_ok=tool, params_ok=params, json_ok=valid)


@given(st.text(max_size=80))
def test_any_text_can_be_scored_and_parameters_never_count_without_the_tool(text: Any) -> None:
    got = score(ITEM, text)
    assert got.tool_ok or not got.params_ok


def test_booleans_are_no_numbers() -> None:
    assert normalised(True) is True
    assert normalised({"a": [1.0, " x  y "]}) == {"a": [1, "x y"]}


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (35, 80, 0.3341, 0.5466),
    ],
)
def test_wilson_interval_has_the_known_bounds(hits: Any, total: Any, low: Any, high: Any) -> None:
    assert wilson(hits, total) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_interval_holds_the_rate(hits: Any, total: Any) -> None:
    hits = min(hits, total)
    low, high = wilson(hits, total)
    assert 0 <= low <= hits / total <= high <= 1


def test_best_constant_answer_is_the_commonest_tool() -> None:
    asked = [Item(str(n), (), None, {"selected_tool": tool}) for n, tool in enumerate(["a", "b", "b", "", ""])]
    assert (best_constant(asked, score).hits, best_constant(asked, score).total) == (2, 5)
    assert best_constant([], score) == Metric.of(0, 0)


def test_report_survives_json_and_refuses_scores_of_other_items() -> None:
    scores = [score(ITEM, answer("file", RIGHT)), score(NOTHING, "no")]
    report = report_of("base", constrained=True, items=[ITEM, NOTHING], scores=scores, judge=score)
    assert (report.tool.hits, report.params.hits, report.valid_json.hits) == (1, 1, 1)
    assert ExamReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    with pytest.raises(DatasetError, match="scored 1 answers for 2 items"):
        report_of("base", constrained=True, items=[ITEM, NOTHING], scores=scores[:1], judge=score)
    with pytest.raises(DatasetError, match="not an exam report"):
        ExamReport.from_json({"subject": "x"})


def heldout(expected: dict[str, object] | None, stage: str = "tool_selection", n: int = 0) -> Example:
    messages = (Message("user", f"request {n}"), Message("assistant", "{}"))
    return Example(messages, "s", f"g{n % 2}/{n}", "o", stage=stage, expected=expected)  # type: ignore[arg-type]


def test_items_are_of_the_exams_stage_hide_the_answer_and_have_ids_of_their_own() -> None:
    rows = [heldout({"selected_tool": "a"}, n=n) for n in range(6)] + [heldout({}, "intent", 9)]
    chosen = items(rows, ExamSpec("tool_choice", "tool_selection", 4, 16))
    assert len(chosen) == len({item.id for item in chosen}) == 4
    assert all(item.messages[-1].role == "user" for item in chosen)
    assert chosen[0].request_messages() == [{"role": "user", "content": "request 0"}]


@pytest.mark.parametrize("rows", [[], [heldout(None)], [heldout({"selected_tool": "a"}, "intent")]])
def test_an_exam_without_expectations_is_refused(rows: Any) -> None:
    with pytest.raises(DatasetError):
        items(rows, ExamSpec("tool_choice", "tool_selection", 4, 16))
