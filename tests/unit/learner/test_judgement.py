"""The source `judgement`: what is said to be right is right, and what is wrong differs in one thing that is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gaiad.curriculum import SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, alike, request_of, shingles
from gaiad.learner.exams.answers import holds
from gaiad.learner.exams.score import fits, parsed_object
from gaiad.learner.sources.catalogue import load_curriculum, shipped_curricula
from gaiad.learner.sources.judgement import KIND, load_examples
from gaiad.learner.sources.judgements import CONFIDENCE, INTENT, REVIEW, WORLD_STATE, Judgements
from gaiad.learner.sources.requests import NO_TOOL, parse_material, spoken
from gaiad.learner.sources.source import Ground

FOLDER = shipped_curricula() / "json-architect"
CURRICULUM = load_curriculum(FOLDER, "full")
PARTS = (REVIEW, CONFIDENCE, INTENT, WORLD_STATE)


def made(part: str, seed: int = CURRICULUM.seed) -> tuple[Example, ...]:
    spec = SourceSpec(KIND, {"part": part}, part)
    return load_examples(spec, Ground(replace(CURRICULUM, seed=seed), FOLDER)).examples


@pytest.mark.parametrize("part", PARTS)
def test_every_answer_meets_what_is_expected_and_its_stage_s_schema(part: str) -> None:
    rows = made(part)
    assert rows
    for one in rows:
        assert one.expected
        assert holds(one.expected, one.answer)
        assert one.schema is None or fits(one.schema, parsed_object(one.answer))
    assert {one.stage for one in rows} == {None if part == WORLD_STATE else part}


@pytest.mark.parametrize("part", PARTS)
def test_no_two_requests_are_the_same_or_nearly_so(part: str) -> None:
    rows = made(part)
    assert len({shingles(request_of(one)) for one in rows}) == len(rows)
    assert [pair for pair in alike(rows, rows, 0.8) if pair[0] < pair[1]] == []


@pytest.mark.parametrize("part", PARTS)
def test_the_same_seed_gives_the_same_and_another_one_others(part: str) -> None:
    assert made(part) == made(part)
    assert made(part) != made(part, seed=1)


def test_right_and_wrong_selections_are_about_as_many() -> None:
    approved = [json.loads(one.answer)["approved"] for one in made(REVIEW)]
    assert 0.5 <= sum(approved) / (len(approved) - sum(approved)) <= 2


def test_a_review_names_what_decides_it_and_its_certainty_varies() -> None:
    rows = made(REVIEW)
    faults = {one.origin.split("/")[1] for one in rows}
    assert faults == {
        "approved",
        "declined",
        "wrong_tool",
        "wrong_action",
        "wrong_value",
        "missing_value",
        "needless",
        "missed",
    }
    assert len({json.loads(one.answer)["confidence"] for one in rows}) > 5


def test_a_selection_is_approved_exactly_where_it_is_what_the_request_asks_for() -> None:
    material = parse_material((FOLDER / "requests.json").read_text())
    right = {one.group: one for one in list(spoken(material, material.intents, fills=2, seed=CURRICULUM.seed))[1::2]}
    for one in made(REVIEW):
        asked, _, chosen = request_of(one).rpartition("\nSelected: ")
        meant = right[one.group]
        wanted = "no tool" if meant.intent.tool == NO_TOOL else f"{meant.intent.tool} {meant.intent.action}"
        values = "; ".join(f"{name} = {value}" for name, value in meant.params.items()) or "none"
        assert asked.endswith(f"Request: {meant.text}")
        assert json.loads(one.answer)["approved"] is (chosen == f"{wanted}\nValues: {values}")


def test_confidence_follows_from_what_is_at_hand() -> None:
    ranges = {"yes": (0.8, 1.0), "partly": (0.4, 0.6), "no": (0.0, 0.2)}
    seen = set()
    for one in made(CONFIDENCE):
        lines = dict(line.split(": ", 1) for line in one.answer.splitlines())
        low, high = ranges[lines["CAN_ATTEMPT"]]
        assert low <= float(lines["CONFIDENCE"]) <= high
        assert (lines["ALTERNATIVE"] == "none needed") == (lines["CAN_ATTEMPT"] == "yes")
        seen.add(lines["CAN_ATTEMPT"])
    assert seen == set(ranges)


def test_every_intent_has_as_many_sayings() -> None:
    rows = made(INTENT)
    counts = {label: sum(one.answer == label for one in rows) for label in {one.answer for one in rows}}
    assert len(counts) == 20
    assert set(counts.values()) == {10}


def test_a_world_state_answers_with_what_the_report_says_and_nothing_else() -> None:
    for one in made(WORLD_STATE):
        answer = json.loads(one.answer)
        assert answer
        report = request_of(one).partition("Report: ")[2]
        for value in answer.values():
            for word in value if isinstance(value, list) else [value]:
                assert word in report


@pytest.mark.parametrize("options", [{}, {"part": 3}, {"part": "gossip"}, {"part": INTENT, "more": 1}])
def test_wrong_options_are_refused_with_what_would_be_right(options: dict[str, object]) -> None:
    with pytest.raises(CurriculumError, match="sources:"):
        load_examples(SourceSpec(KIND, options, "x"), Ground(CURRICULUM, FOLDER))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["{", "[]", '{"review": {}}', "3"])
def test_broken_material_is_named(text: str) -> None:
    with pytest.raises(CurriculumError, match=r"judgement\.json"):
        Judgements(text, parse_material((FOLDER / "requests.json").read_text()))


def test_material_without_a_word_it_needs_is_named() -> None:
    words = json.loads((FOLDER / "judgement.json").read_text())
    del words["review"]["opening"]
    judgements = Judgements(json.dumps(words), parse_material((FOLDER / "requests.json").read_text()))
    with pytest.raises(CurriculumError, match="opening"):
        list(judgements.of(REVIEW, 1))
