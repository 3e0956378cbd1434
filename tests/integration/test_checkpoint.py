"""Checkpoints on a real disk: whole or absent, and never another run's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gaiad.errors import TrainingError

torch = pytest.importorskip("torch")

from gaiad.learner.checkpoint import KEPT, Saved, Shelf  # noqa: E402

MINE = {"spec": "a" * 64, "code": "b" * 64, "device": "CPU, 1 thread"}


def saved(step: int, *, good: bool = False) -> Saved:
    return Saved(step, good, {"weight.x": torch.full((4, 4), float(step))}, {"steps": step, "recent": [0.5, 0.25]})


def steps(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in shelf.folder.glob("step-*"))


def test_the_newest_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, MINE)
    assert shelf.newest() == (None, "")
    for step in (3, 12):
        shelf.save(saved(step))
    found, said = Shelf(tmp_path, MINE).newest()
    assert found is not None
    assert (found.step, found.account, said) == (12, {"steps": 12, "recent": [0.5, 0.25]}, "")
    assert torch.equal(found.tensors["weight.x"], torch.full((4, 4), 12.0))


def test_only_the_newest_stay_and_the_newest_good_one(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, MINE)
    for step in range(8):
        shelf.save(saved(step, good=step in (0, 2)))
    assert len(steps(shelf)) == KEPT + 1
    assert steps(shelf) == ["step-000002", "step-000006", "step-000007"]
    good, _ = shelf.newest(good=True)
    assert good is not None
    assert good.step == 2


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, file: str, how: str) -> None:
    shelf = Shelf(tmp_path, MINE)
    for step in (3, 12):
        shelf.save(saved(step))
    path = shelf.folder / "step-000012" / file
    whole = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "changed":
            path.write_bytes(whole[:-3] + bytes(3))
        case _:
            path.unlink()
    found, said = Shelf(tmp_path, MINE).newest()
    assert found is not None
    assert found.step == 3
    assert said == "the checkpoint of step 12 is damaged and was not used"


@pytest.mark.parametrize("changed", ["spec", "code", "device"])
def test_a_checkpoint_of_another_run_is_refused_with_the_reason_and_left_alone(tmp_path: Path, changed: str) -> None:
    Shelf(tmp_path, MINE).save(saved(5))
    other = Shelf(tmp_path, {**MINE, changed: "something else"})
    assert other.newest() == (None, "")
    assert other.strangers() == f"a checkpoint was not used: it was made with another {changed}"
    other.save(saved(1))
    mine, _ = Shelf(tmp_path, MINE).newest()
    assert mine is not None
    assert mine.step == 5


def test_a_step_that_is_saved_again_takes_the_place_of_nothing_until_it_is_there(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, MINE)
    shelf.save(saved(4, good=True))
    shelf.save(Saved(4, True, {"weight.x": torch.zeros(2)}, {"steps": 4, "returns": 1}))
    assert steps(shelf) == ["step-000004.1"]
    found, said = shelf.newest(good=True)
    assert found is not None
    assert (found.account["returns"], said) == (1, "")
    shelf.save(Saved(4, True, {"weight.x": torch.zeros(2)}, {"steps": 4, "returns": 2}))
    assert steps(shelf) == ["step-000004.2"]


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path, MINE)
    shelf.save(saved(3))

    def failing(_: Path) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("gaiad.learner.checkpoint._digest", failing)
        with pytest.raises(TrainingError, match="cannot be read: Input/output error"):
            shelf.newest()
    found, _ = shelf.newest()
    assert found is not None


def test_what_a_kill_left_half_written_is_never_read_and_soon_gone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, MINE)
    shelf.save(saved(3))
    shutil.copytree(shelf.folder / "step-000003", shelf.folder / "step-000009.partial")
    found, _ = shelf.newest()
    assert found is not None
    assert found.step == 3
    shelf.save(saved(4))
    assert steps(shelf) == ["step-000003", "step-000004"]


def test_a_full_disk_is_a_sentence_and_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path, MINE)
    shelf.save(saved(3))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gaiad.learner.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match=r"step 4 could not be written.*No space left") as caught:
        shelf.save(saved(4))
    assert not caught.value.of_data
    assert steps(shelf) == ["step-000003"]
    found, said = shelf.newest()
    assert found is not None
    assert (found.step, said) == (3, "")


def test_what_came_after_the_state_that_was_gone_back_to_is_forgotten(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, MINE)
    for step in (2, 5, 6):
        shelf.save(saved(step, good=step == 2))
    shelf.forget_after(2)
    assert steps(shelf) == ["step-000002"]
    assert os.listdir(tmp_path) == [shelf.folder.name]
