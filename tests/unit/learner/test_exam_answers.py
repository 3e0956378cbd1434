"""The exam `answers`: what an answer must hold, and which examples may be asked at all."""

from __future__ import annotations

import pytest

from gaiad.curriculum import ExamSpec, Json
from gaiad.errors import CurriculumError, DatasetError
from gaiad.learner.dataset import Example, Message
from gaiad.learner.exams.answers import holds, items, score
from gaiad.learner.exams.kinds import EXAMS, exam_kind
from gaiad.learner.exams.score import Item, best_constant

EXAM = ExamSpec("answers", "epistemic_guard", 10, 64)


def example(number: int, answer: str, expected: dict[str, Json] | None, stage: str = EXAM.stage) -> Example:
    asked = (Message("user", f"question {number}"), Message("assistant", answer))
    return Example(asked, "s", f"kind/{number}", "here", stage=stage, expected=expected)


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ({"label": "clean"}, " Clean\n", True),
        ({"label": "clean"}, "clean enough", False),
        ({"fields": {"action": "INTERRUPT"}}, '{"action": "INTERRUPT", "reason": "wrong year"}', True),
        ({"fields": {"action": "INTERRUPT"}}, '{"action": "CONTINUE", "reason": "INTERRUPT"}', False),
        ({"fields": {"n": 3}}, '{"n": 3.0}', True),
        ({"fields": {"n": 1}}, '{"n": true}', False),
        ({"fields": {"a": None}}, "{}", False),
        ({"fields": {"a": 1}}, 'Sure: {"a": 1}', False),
        ({"lines": {"EVAL": "enough"}}, "EVAL: enough\nNEXT: answer", True),
        ({"lines": {"EVAL": "enough"}}, "**EVAL:** Enough", True),
        ({"lines": {"EVAL": "enough"}}, "EVAL: enough\nEVAL: lacking", False),
        ({"lines": {"EVAL": "enough"}}, "EVAL: not enough", False),
        ({"contains": ["GAIA"], "lacks": ["language model"]}, "I am gaia.", True),
        ({"contains": ["GAIA"], "lacks": ["language model"]}, "I am GAIA, a language  model.", False),
        ({"contains": ["GAIA"], "lacks": ["language model"]}, "", False),
        ({"contains": ["GAIA", ["tea", "coffee"]]}, "GAIA would take Coffee.", True),
        ({"contains": ["GAIA", ["tea", "coffee"]]}, "GAIA would take water.", False),
        ({"contains": ["GAIA", ["tea", "coffee"]]}, "Tea, please.", False),
        ({"contains": [[]]}, "Tea, please.", False),
        ({"most_words": 3}, "Three words only.", True),
        ({"most_words": 3}, "These are four words.", False),
    ],
)
def test_an_answer_holds_what_is_expected_or_it_does_not(expected: dict[str, Json], answer: str, right: bool) -> None:
    assert holds(expected, answer) is right
    assert score(Item("i", (), None, expected), answer).tool_ok is right


def test_an_answer_that_does_not_fit_its_schema_is_not_right() -> None:
    schema: dict[str, Json] = {"type": "object", "required": ["reason"]}
    got = score(Item("i", (), schema, {"fields": {"a": 1}}), '{"a": 1}')
    assert (got.tool_ok, got.json_ok) == (False, False)


def test_no_text_is_no_valid_answer() -> None:
    assert not score(Item("i", (), None, {"lacks": ["sorry"]}), "  ").tool_ok


def test_the_best_constant_answer_is_found_among_the_right_ones() -> None:
    rows: list[tuple[str, dict[str, Json]]] = [
        ("I am GAIA", {"contains": ["gaia"]}),
        ("GAIA, who else", {"contains": ["gaia"], "lacks": ["am"]}),
        ("no", {"label": "no"}),
    ]
    asked = [Item(str(n), (), None, expected, answer) for n, (answer, expected) in enumerate(rows)]
    assert best_constant(asked, score).hits == 2


@pytest.mark.parametrize(
    "expected",
    [None, {}, {"mood": "good"}, {"label": "other"}, {"label": ""}, {"label": "yes", "selected_tool": "web"}],
)
def test_an_example_that_cannot_be_judged_is_no_item(expected: dict[str, Json] | None) -> None:
    with pytest.raises(DatasetError, match="1 of them without"):
        items([example(0, "yes", {"label": "yes"}), example(1, "yes", expected)], EXAM)


def test_only_examples_of_the_stage_are_asked() -> None:
    rows = [example(0, "yes", {"label": "yes"}), example(1, "yes", None, stage="reflection")]
    assert [item.answer for item in items(rows, EXAM)] == ["yes"]
    with pytest.raises(DatasetError, match="0 held-out examples"):
        items(rows[1:], EXAM)


def test_an_unknown_exam_is_named() -> None:
    assert exam_kind("answers") is EXAMS["answers"]
    with pytest.raises(CurriculumError, match="'riddles'"):
        exam_kind("riddles")
