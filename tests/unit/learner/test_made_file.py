"""Claims about the file of what the base made: taken up where a run ended, shown whole only, written by one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.errors import DatasetError, Refuse
from gaiad.learner import made_file
from gaiad.learner.made_file import MadeFile, opened, rows_in
from gaiad.learner.self_made import KEPT, Base, Made, made_of

ROW = Made(
    "k/0", "k", "g/0", "ask", "asked", "said", "stop", KEPT, {"seed": 7}, Base("small", "0.32.0", "d"), "2026-01-02"
)


def add(path: Path, *keys: str, anew: bool = False, publish: bool = True) -> list[str]:
    with opened(path, anew=anew) as file:
        assert isinstance(file, MadeFile)
        for key in keys:
            file.add(replace(ROW, key=key))
        if publish:
            file.publish()
        return [row.key for row in file.rows]


def keys(path: Path) -> list[str]:
    return [row.key for _, row in rows_in(path)[0] if isinstance(row, Made)]


def test_what_is_published_is_read_back_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "made.jsonl"
    add(path, "a", "b")
    assert add(path, "c") == ["a", "b", "c"]
    assert keys(path) == ["a", "b", "c"]
    assert rows_in(path)[0][0] == (1, replace(ROW, key="a"))


def test_nobody_sees_a_row_before_all_are_published_and_a_killed_run_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    add(path, "a")
    add(path, "b", publish=False)
    assert keys(path) == ["a"]
    assert add(path, "c") == ["a", "b", "c"]
    assert keys(path) == ["a", "b", "c"]


def test_the_line_at_which_a_run_was_killed_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    add(path, "a", publish=False)
    part = next(one for one in tmp_path.iterdir() if one.name.endswith(".part"))
    with part.open("ab") as file:
        file.write(ROW.line().encode()[:40])
    assert add(path, "b") == ["a", "b"]
    assert all(isinstance(row, Made) for _, row in rows_in(path)[0])


def test_two_do_not_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    with opened(path) as first, opened(path) as second:
        assert isinstance(first, MadeFile)
        assert isinstance(second, Refuse)
        assert "another command" in second.reason
    assert add(path, "a") == ["a"]


def test_a_run_that_made_nothing_leaves_nothing_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    add(path)
    assert [one.name for one in tmp_path.iterdir()] == [".made.jsonl.lock"]
    add(path, "a")
    add(path)
    assert keys(path) == ["a"]


def test_anew_begins_without_what_there_was_and_replaces_it_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    add(path, "a")
    add(path, "b", anew=True, publish=False)
    assert keys(path) == ["a"]
    assert add(path, "c", anew=True) == ["c"]
    assert keys(path) == ["c"]


def test_lines_that_are_no_rows_are_counted_and_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    path.write_text("no json\n" + replace(ROW, key="a").line())
    with opened(path) as file:
        assert isinstance(file, MadeFile)
        assert (file.unusable, [row.key for row in file.rows]) == (1, ["a"])
        file.publish()
    assert path.read_text().startswith("no json\n")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write below"), opened(tmp_path / "file" / "made.jsonl"):
        pass
    (tmp_path / ".made.jsonl.part").mkdir()
    with pytest.raises(DatasetError, match="cannot write"), opened(tmp_path / "made.jsonl"):
        pass


def test_a_file_that_is_no_text_is_told_and_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    assert rows_in(path) == ([], "it is not text in UTF-8")
    with pytest.raises(DatasetError, match="not text"), opened(path):
        pass
    assert "cannot be read" in str(rows_in(tmp_path / "gone.jsonl")[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_what_root_writes_belongs_to_whom_the_folder_belongs(tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 4321)
    add(tmp_path / "made.jsonl", "a")
    assert (tmp_path / "made.jsonl").stat().st_uid == 4321


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
@pytest.mark.parametrize("publish", [True, False])
def test_folders_that_root_makes_and_all_in_them_belong_to_whom_the_folder_above_belongs(
    tmp_path: Path, publish: bool
) -> None:
    os.chown(tmp_path, 4321, 4321)
    add(tmp_path / "new" / "deep" / "made.jsonl", "a", publish=publish)
    found = {str(one.relative_to(tmp_path)): one.stat().st_uid for one in tmp_path.rglob("*")}
    made = "made.jsonl" if publish else ".made.jsonl.part"
    assert found == dict.fromkeys(("new", "new/deep", f"new/deep/{made}", "new/deep/.made.jsonl.lock"), 4321)


@pytest.mark.parametrize("name", [".made.jsonl.lock", ".made.jsonl.part"])
def test_a_link_in_its_place_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_text("theirs")
    (tmp_path / name).symlink_to(tmp_path / "other")
    with pytest.raises(DatasetError, match="cannot write"), opened(tmp_path / "made.jsonl"):
        pass
    assert (tmp_path / "other").read_text() == "theirs"


def test_what_would_replace_kept_rows_waits_until_it_is_whole_and_holds_one(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    add(path, "a", "b")
    with opened(path, anew=True) as file:
        assert isinstance(file, MadeFile)
        file.add(replace(ROW, key="c", verdict="it is empty"))
        assert (file.replaces, file.publish(whole=True)) == (True, False)
    with opened(path) as file:
        assert isinstance(file, MadeFile)
        file.add(replace(ROW, key="d"))
        assert (file.replaces, file.publish(whole=False)) == (True, False)
    assert keys(path) == ["a", "b"]
    assert add(path) == keys(path) == ["c", "d"]
    with opened(path) as file:
        assert isinstance(file, MadeFile)
        file.add(replace(ROW, key="e"))
        assert (file.replaces, file.publish(whole=False)) == (False, True)


def test_a_full_file_takes_no_row_and_stays_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.jsonl"
    monkeypatch.setattr(made_file, "MOST_BYTES", 2 * len(ROW.line()))
    with opened(path) as file:
        assert isinstance(file, MadeFile)
        file.add(ROW)
        file.add(ROW)
        with pytest.raises(DatasetError, match=r"is full: it is larger than"):
            file.add(ROW)
        file.publish()
    assert keys(path) == [ROW.key] * 2
    path.write_text(ROW.line() * 3)
    monkeypatch.delattr(Path, "read_bytes")
    with pytest.raises(DatasetError, match="cannot be added to: it is larger than"), opened(path):
        pass


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "no JSON"),
        ("[" * 90_000, "no JSON"),
        ("[1]", "no object"),
        ("{}", "no usable key, of, group"),
        (ROW.line().replace('"said"', "3"), "no usable text"),
        (ROW.line().replace('"small"', "null"), "no usable base"),
        (ROW.line().replace('"seed": 7', '"seed": "x"'), "no usable sampling"),
    ],
)
def test_a_line_that_is_no_row_says_what_it_lacks(line: str, reason: str) -> None:
    found = made_of(line)
    assert isinstance(found, Refuse)
    assert reason in found.reason


@given(st.text(), st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)))
def test_every_row_comes_back_from_its_line(text: str, request: str, sampling: dict[str, float]) -> None:
    row = replace(ROW, text=text, request=request, sampling=sampling)
    assert row.line().count("\n") == 1
    assert made_of(row.line()) == row
    assert set(json.loads(row.line())) >= {"asked", "sampling", "base", "verdict", "at"}


def test_a_base_is_another_by_its_name_or_by_its_files() -> None:
    assert ROW.base.is_same(Base("small"))
    assert ROW.base.is_same(Base("small", "0.33.0", "d"))
    assert not ROW.base.is_same(Base("small", "0.32.0", "e"))
    assert not ROW.base.is_same(Base("other", "0.32.0", "d"))
