"""Claims about the owner's material seen from outside: every change is noticed, nothing is imported."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaiad.learner.sources import material
from gaiad.learner.sources.material import signature


def grown(folder: Path) -> None:
    (folder / "inner" / "b.md").write_text("more words", "utf-8")


def added(folder: Path) -> None:
    (folder / "inner" / "c.md").touch()


def renamed(folder: Path) -> None:
    (folder / "a.md").rename(folder / "z.md")


def rewritten(folder: Path) -> None:
    os.utime(folder / "a.md", ns=(1, 1))


def removed(folder: Path) -> None:
    (folder / "a.md").unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    for name in ("a.md", "inner/b.md"):
        (tmp_path / name).write_text("words", "utf-8")
    return tmp_path


@pytest.mark.parametrize("change", [grown, added, renamed, rewritten, removed])
def test_every_change_in_a_folder_is_noticed(folder: Path, change: Callable[[Path], None]) -> None:
    before = signature([str(folder)])
    assert signature([str(folder)]) == before
    change(folder)
    assert signature([str(folder)]) != before


def test_a_place_that_comes_into_being_is_noticed(tmp_path: Path) -> None:
    before = signature([str(tmp_path / "tools.json")])
    (tmp_path / "tools.json").write_text("[]", "utf-8")
    assert signature([str(tmp_path / "tools.json")]) != before


def test_a_loop_of_links_and_a_folder_of_very_many_files_come_to_an_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "inner" / "loop").symlink_to(folder)
    monkeypatch.setattr(material, "MAX_FILES", 1)
    assert len(list(material._looks(folder))) == 1
    assert signature([str(folder)]) == signature([str(folder)])


def test_a_change_in_a_module_is_noticed_and_the_module_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownerpackage").mkdir()
    (tmp_path / "ownerpackage" / "__init__.py").write_text("raise SystemExit", "utf-8")
    tools = tmp_path / "ownerpackage" / "tools.py"
    tools.write_text("TOOLS = {}", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = signature(["ownerpackage.tools:TOOLS"])
    tools.write_text("TOOLS = {'a': {}}", "utf-8")
    assert signature(["ownerpackage.tools:TOOLS"]) != before
    assert "ownerpackage" not in sys.modules
    assert signature(["nowhere.tools:TOOLS"]) == signature(["nowhere.tools:TOOLS"])
