"""Claims about general requests: many skills, each line usable or refused by its number."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.likeness import alike
from gaiad.learner.sources.catalogue import curriculum_folders, load_curriculum, shipped_curricula
from gaiad.learner.sources.replay import GENERAL, load_examples
from gaiad.learner.sources.source import Gathered, Ground

SHIPPED = shipped_curricula()
CURRICULUM = load_curriculum(SHIPPED / "epistemic-guard", "full")
GOOD = {"skill": "list", "request": "Name two colours.", "answer": "Red and blue."}


def read(folder: Path = SHIPPED, options: dict[str, Json] | None = None) -> Gathered:
    return load_examples(SourceSpec("replay", options or {}, "replay"), Ground(CURRICULUM, folder))


def lines(tmp_path: Path, *rows: Any) -> Gathered:
    (tmp_path / "own.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read(tmp_path, {"file": "own.jsonl"})


def test_the_shipped_requests_are_many_short_and_of_many_skills_in_balance() -> None:
    found = read()
    skills = Counter(one.stratum for one in found.examples)
    assert found.refused == ()
    assert len(found.examples) >= 160
    assert len(skills) >= 12
    assert max(skills.values()) <= 2 * min(skills.values())
    assert max(len(one.answer) for one in found.examples) <= 400
    assert [pair for pair in alike(found.examples, found.examples, 0.5) if pair[0] != pair[1]] == []


def test_general_requests_belong_to_no_stage_so_no_exam_asks_them() -> None:
    assert {(one.stage, one.expected) for one in read().examples} == {(None, None)}


def test_each_example_names_its_line_and_stands_in_a_group_of_its_own() -> None:
    found = read().examples
    rows = (SHIPPED / GENERAL).read_text("utf-8").splitlines()
    for one in found:
        row = json.loads(rows[int(one.origin.rpartition("/")[2]) - 1])
        assert (one.stratum, one.messages[0].content, one.answer) == (row["skill"], row["request"], row["answer"])
    assert len({one.group for one in found}) == len(found)


def test_the_folder_of_general_requests_is_no_curriculum() -> None:
    assert (SHIPPED / GENERAL).is_file()
    assert GENERAL.parent.name not in [folder.name for folder in curriculum_folders(SHIPPED)]


def test_skills_can_be_chosen_and_unknown_ones_are_named() -> None:
    found = read(options={"skills": ["code", "plan"]})
    assert {one.stratum for one in found.examples} == {"code", "plan"}
    with pytest.raises(CurriculumError, match="no request has the skill juggling"):
        read(options={"skills": ["code", "juggling"]})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an object with answer, request, skill"),
        ({**GOOD, "more": 1}, "not an object with"),
        ({"skill": "list", "request": "Name two."}, "not an object with"),
        ({**GOOD, "answer": 3}, "must be text"),
        ({**GOOD, "request": " "}, "is empty"),
        ({**GOOD, "skill": "a/b"}, "has a slash"),
        ({**GOOD, "answer": "x" * 2000}, "longer than 1474 characters"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_by_its_number(tmp_path: Path, line: Any, reason: str) -> None:
    found = lines(tmp_path, GOOD, line, {**GOOD, "request": "Name two more."})
    assert [one.messages[0].content for one in found.examples] == ["Name two colours.", "Name two more."]
    assert [(one.origin.rpartition("/")[2], reason in one.reason) for one in found.refused] == [("2", True)]


def test_a_separator_within_a_text_divides_no_line(tmp_path: Path) -> None:
    row = json.dumps({**GOOD, "answer": "Red\u2028and blue."}, ensure_ascii=False)
    assert lines(tmp_path, row).examples[0].answer == "Red\u2028and blue."


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b" " * (8 * 1024 * 1024 + 1))
    for name, told in (("absent", "cannot read"), (".", "cannot read"), ("binary", "cannot read"), ("large", "larger")):
        with pytest.raises(CurriculumError, match=told):
            read(tmp_path, {"file": name})


@pytest.mark.parametrize("options", [{"skills": "code"}, {"skills": [1]}, {"file": 3}, {"count": 3}])
def test_wrong_options_are_named(options: dict[str, Json]) -> None:
    with pytest.raises(CurriculumError, match=next(iter(options))):
        read(options=options)


def test_the_budget_follows_the_sequence_length() -> None:
    training = replace(CURRICULUM.training, max_sequence_tokens=40)
    ground = Ground(replace(CURRICULUM, training=training), SHIPPED)
    found = load_examples(SourceSpec("replay", {}, "replay"), ground)
    assert found.refused
    assert all("longer than 115 characters" in one.reason for one in found.refused)
