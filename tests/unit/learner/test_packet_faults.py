"""Cognition packets: every one that the pipeline fills is valid, and a broken one has exactly the fault brought in."""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.sources.catalogue import shipped_curricula
from gaiad.learner.sources.packet_faults import PLAIN_KINDS, TOOL_KINDS, broken, faults
from gaiad.learner.sources.packet_flow import STEPS, Course, drawn, get, packet, put, remove, written
from gaiad.learner.sources.packet_material import Scenario
from gaiad.learner.sources.packet_text import STYLES, leaves, said, shown
from gaiad.learner.sources.packets import read_material

MATERIAL = read_material(shipped_curricula() / "packet-protocol")
VALIDATOR = jsonschema.Draft202012Validator(cast("dict[str, Any]", MATERIAL.schema))
PLAIN = next(one for one in MATERIAL.scenarios if not one.tool)
TOOLED = next(one for one in MATERIAL.scenarios if one.tool)

courses = st.builds(
    lambda scenario, seed, fate: drawn(scenario, random.Random(seed), fate),
    st.sampled_from(MATERIAL.scenarios),
    st.integers(0, 2**32),
    st.sampled_from(("any", "reviewed", "unreviewed", "skipped")),
)


@cache
def finished(tool: bool, seed: int = 7) -> Course:
    return drawn(TOOLED if tool else PLAIN, random.Random(seed), "reviewed")


@given(courses)
def test_a_packet_is_valid_after_every_step(course: Course) -> None:
    for count in range(1, len(course.steps) + 1):
        whole = packet(course, course.steps[:count])
        assert list(VALIDATOR.iter_errors(whole)) == []
        assert faults(whole, MATERIAL.schema) == ()


@given(courses)
def test_a_tool_runs_where_selection_or_review_is_sure_enough(course: Course) -> None:
    ran = "tool_execution" in course.steps
    sure = course.selection_confidence >= 0.9 or course.review_confidence >= 0.7
    assert ran is (bool(course.scenario.tool) and sure)
    assert ("tool_review" in course.steps) is (bool(course.scenario.tool) and course.selection_confidence < 0.9)


def test_the_pipeline_in_words_names_the_steps_and_just_what_each_of_them_writes() -> None:
    assert [step.name for step in MATERIAL.steps] == list(STEPS)
    for scenario in (PLAIN, TOOLED):
        course = drawn(scenario, random.Random(1), "reviewed")
        for step in MATERIAL.steps:
            if step.name in course.steps[1:]:
                assert set(written(course, step.name)) == set(step.writes)
    # What the intake leaves empty for later steps is none of its own.
    opened = written(course, STEPS[0])
    for field in MATERIAL.steps[0].writes:
        assert any(path == field or path.startswith(f"{field}.") for path in opened)


@pytest.mark.parametrize("kind", [*PLAIN_KINDS, *TOOL_KINDS])
@pytest.mark.parametrize("turn", range(12))
def test_a_broken_packet_has_exactly_the_fault_that_was_brought_in(kind: str, turn: int) -> None:
    sound = packet(finished(kind in TOOL_KINDS), finished(kind in TOOL_KINDS).steps)
    before = copy.deepcopy(sound)
    spoilt, field = broken(sound, kind, turn, random.Random(turn))
    found = faults(spoilt, MATERIAL.schema)
    assert [(one.field, one.kind) for one in found] == [(field, kind)]
    assert found[0].why.endswith(".")
    assert sound == before


def test_there_are_a_dozen_kinds_of_faults_and_more_and_no_others() -> None:
    assert len({*PLAIN_KINDS, *TOOL_KINDS}) >= 12
    with pytest.raises(ValueError, match="no fault is called 'sour'"):
        broken(packet(finished(False), finished(False).steps), "sour", 0, random.Random(1))


@pytest.mark.parametrize("kind", [*PLAIN_KINDS, *TOOL_KINDS])
def test_the_schema_refuses_every_fault_that_a_schema_can_see(kind: str) -> None:
    beyond = {"run_below_threshold", "execution_forbidden", "wrong_sum", "own_parent"}
    course = finished(kind in TOOL_KINDS)
    spoilt, _ = broken(packet(course, course.steps), kind, 0, random.Random(1))
    assert VALIDATOR.is_valid(spoilt) is (kind in beyond)


def test_two_faults_are_both_found() -> None:
    course = finished(False)
    spoilt, _ = broken(packet(course, course.steps), "wrong_sum", 0, random.Random(1))
    spoilt, _ = broken(spoilt, "own_parent", 0, random.Random(1))
    assert {one.kind for one in faults(spoilt, MATERIAL.schema)} == {"wrong_sum", "own_parent"}


def test_a_path_reaches_puts_and_removes_a_field() -> None:
    whole: dict[str, Any] = {}
    put(whole, "a.b.c", 1)
    assert whole == {"a": {"b": {"c": 1}}}
    assert get(whole, "a.b.c") == 1
    assert get(whole, "a.x.c") is None
    remove(whole, "a.b.c")
    assert whole == {"a": {"b": {}}}
    with pytest.raises(ValueError, match="no step 'sorting'"):
        written(finished(False), "sorting")


@pytest.mark.parametrize("style", STYLES)
def test_every_field_of_a_section_is_shown_with_its_value_and_without_quotation_marks(style: Any) -> None:
    course = finished(True)
    whole = packet(course, course.steps)
    text = shown(whole, ["intent", "tool_routing"], style)
    for section in ("intent", "tool_routing"):
        for path, value in leaves(section, whole[section]):
            assert path.rpartition(".")[2] in text
            assert said(value) in text
    assert '"' not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (0.5, "0.5"),
        ("", "empty"),
        ([], "empty"),
        (["a", "b"], "a; b"),
        ({"a": 1}, "a 1"),
    ],
)
def test_values_are_said_in_words(value: Any, text: str) -> None:
    assert said(value) == text


def test_a_scenario_without_a_tool_never_meets_the_tool_steps() -> None:
    plain = Scenario("x", "house", "x", "chat", "ask", "note", "reply")
    steps = drawn(plain, random.Random(1)).steps
    assert not {"tool_selection", "tool_review", "tool_execution", "reinjection"} & set(steps)
