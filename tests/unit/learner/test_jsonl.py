"""Claims about training rows from elsewhere: what can be used is used as it is meant, the rest refused by line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError, Refuse
from gaiad.learner.example import Example, Message
from gaiad.learner.sources import jsonl
from gaiad.learner.sources.jsonl import load_examples
from gaiad.learner.sources.rows import Place, example_of, in_roles
from gaiad.learner.sources.source import Gathered, Ground
from tests.unit.learner.test_dataset import curriculum

SCHEMA: dict[str, Json] = {"type": "object", "required": ["selected_tool"]}
SPEC = replace(
    curriculum(),
    stages=("generation", "tool_selection"),
    stage_schemas={"tool_selection": SCHEMA},
    exam=replace(curriculum().exam, stage="generation"),
)


def read(raw: Any, stage: str = "generation", spec: Curriculum = SPEC) -> Example:
    found = example_of(raw, Place("own", "rows.jsonl", 3, stage), spec)
    assert isinstance(found, Example), found
    return found


@pytest.mark.parametrize(
    ("raw", "turns"),
    [
        ({"instruction": " Who? ", "output": " Me.\n"}, ["user: Who?", "assistant: Me."]),
        ({"instruction": "Sum", "input": "1, 2", "output": "3"}, ["user: Sum\n\n1, 2", "assistant: 3"]),
        ({"prompt": "Who?", "completion": "Me."}, ["user: Who?", "assistant: Me."]),
        ({"system": "Be.", "instruction": "Who?", "output": "Me."}, ["system: Be.", "user: Who?", "assistant: Me."]),
        (
            {"instruction": "System: Be brief. User: Who are you?", "output": "GAIA."},
            ["system: Be brief.", "user: Who are you?", "assistant: GAIA."],
        ),
        (
            {"instruction": "System: Be.\nUser: Who?\nAssistant: Me.\nUser: So?\nAssistant:", "output": "Yes."},
            ["system: Be.", "user: Who?", "assistant: Me.", "user: So?", "assistant: Yes."],
        ),
        ({"instruction": "What is a User: line?", "output": "x"}, ["user: What is a User: line?", "assistant: x"]),
        (
            {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]},
            ["user: Who?", "assistant: Me."],
        ),
        ({"prompt": "Who?", "chosen": "Me.", "rejected": "An AI."}, ["user: Who?", "assistant: Me."]),
        ({"instruction": "Pick", "output": {"a": "ä"}}, ["user: Pick", 'assistant: {"a": "ä"}']),
    ],
)
def test_every_usual_form_becomes_messages(raw: Any, turns: list[str]) -> None:
    assert [f"{one.role}: {one.content}" for one in read(raw).messages] == turns


@pytest.mark.parametrize(
    ("answer", "stage", "expected"),
    [
        ("greeting", "generation", {"label": "greeting"}),
        ("A sentence that says much more than one word of it.", "generation", None),
        ("two\nlines", "generation", None),
        ('{"a": 1}', "generation", {"fields": {"a": 1}}),
        (
            '{"selected_tool": "file", "params": "{\\"path\\": \\"x\\"}"}',
            "tool_selection",
            {"selected_tool": "file", "params": {"path": "x"}},
        ),
    ],
)
def test_what_an_exam_may_hold_it_to_follows_from_the_answer(answer: str, stage: str, expected: Any) -> None:
    assert read({"instruction": "x", "output": answer}, stage).expected == expected


def test_what_a_row_says_of_itself_is_kept() -> None:
    one = read(
        {
            "instruction": "Who?",
            "output": "Me.",
            "category": "self/other",
            "weight": 2,
            "rejected": " An AI. ",
            "stage": "generation",
            "expected": {"contains": ["me"]},
        }
    )
    assert (one.stratum, one.weight, one.rejected, one.expected) == ("self-other", 2.0, "An AI.", {"contains": ["me"]})
    assert (one.source, one.origin, one.group) == ("own", "rows.jsonl#3", "self-other/rows.jsonl#3")
    assert [read({"instruction": "x", "output": "y", **more}).stratum for more in ({"skills": ["a", "b"]}, {})] == [
        "a",
        "row",
    ]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (5, "no object"),
        ({"output": "x"}, "no text for instruction or prompt"),
        ({"instruction": "x", "output": " "}, "no text for output or completion"),
        ({"messages": "x"}, "no list"),
        ({"messages": [{"role": "user"}]}, "no role or no text"),
        ({"messages": [{"role": "user", "content": "x"}]}, "stands last"),
        ({"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "y"}]}, "is empty"),
        ({"instruction": "System: only this", "output": "y"}, "after a request"),
        ({"instruction": "x", "output": "y", "weight": 0}, "its weight 0"),
        ({"instruction": "x", "output": "y", "weight": True}, "its weight True"),
        ({"instruction": "x", "output": "y", "rejected": "y"}, "`rejected`"),
        ({"instruction": "x", "output": "y", "pair_type": "Negative"}, "wrong answer"),
        ({"instruction": "x", "output": "y", "stage": "intent"}, "its stage 'intent'"),
        ({"instruction": "x", "output": "y", "stage": "tool_selection"}, "does not fit the schema"),
        ({"instruction": "x" * 200, "output": "y"}, "too long for max_sequence_tokens = 64"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_the_reason(raw: Any, told: str) -> None:
    found = example_of(raw, Place("own", "rows.jsonl", 3, "generation"), SPEC)
    assert isinstance(found, Refuse)
    assert told in found.reason


def test_a_system_text_alone_stays_a_system_text() -> None:
    assert in_roles("System: Be brief.") == (Message("system", "Be brief."),)


def load(folder: Path, options: dict[str, Json] | None = None, *, optional: bool = False) -> Gathered:
    source = SourceSpec("jsonl", {"file": "rows.jsonl", **(options or {})}, "own", optional=optional)
    return load_examples(source, Ground(SPEC, folder))


def row(words: str) -> str:
    return json.dumps({"instruction": words, "output": "yes"})


def test_bad_lines_are_refused_by_their_number_and_the_others_used(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{row('a')}\n\n{{\n{row('b')}\n7\n", "utf-8")
    found = load(tmp_path)
    assert [one.origin for one in found.examples] == ["rows.jsonl#1", "rows.jsonl#4"]
    assert [(one.origin, one.reason) for one in found.refused] == [
        ("rows.jsonl#3", "it is no JSON"),
        ("rows.jsonl#5", "it is no object"),
    ]


def test_a_list_is_read_like_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"\ufeff[{row('a')}, 7, {row('b')}]", "utf-8")
    found = load(tmp_path)
    assert [one.origin for one in found.examples] == ["rows.jsonl#1", "rows.jsonl#3"]
    assert [one.origin for one in found.refused] == ["rows.jsonl#2"]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\xff\xfe\x00", "not text in UTF-8"), (b"[" * 100_000, "no JSON"), (None, "no such file")],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "rows.jsonl").write_bytes(content)
    found = load(tmp_path)
    assert found.examples == ()
    assert told in found.refused[0].reason
    assert load(tmp_path, optional=True).refused == (() if content is None else found.refused)


def test_a_file_or_a_number_of_rows_beyond_all_measure_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MOST_ROWS", 2)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(row, "abcd")), "utf-8")
    found = load(tmp_path)
    assert len(found.examples) == 2
    assert [one.origin for one in found.refused] == ["rows.jsonl#3"]
    monkeypatch.setattr(jsonl, "MOST_BYTES", 10)
    assert "above the" in load(tmp_path).refused[0].reason


@pytest.mark.parametrize(
    "options", [{"file": ""}, {"colour": 1}, {"stage": "intent"}, {"file": "/etc/x"}, {"file": "../x"}]
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Json]) -> None:
    with pytest.raises(CurriculumError, match="jsonl 'own'"):
        load(tmp_path, options)
