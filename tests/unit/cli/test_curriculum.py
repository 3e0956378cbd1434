"""`gaiadctl curriculum`: what it lists, what it finds wrong, and what it shows of a dataset. No daemon runs."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gaiad.cli.main import main
from gaiad.cli.output import DONE, FAILED
from gaiad.learner.sources.catalogue import load_curriculum, shipped_curricula

SMALL = ["--profile", "demo"]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["curriculum", *words, "--json"]) == DONE
    return json.loads(capsys.readouterr().out)


def test_every_shipped_curriculum_is_listed_and_valid(capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.parent.name for path in shipped_curricula().glob("*/curriculum.json")}
    rows = said(capsys, "list")["curricula"]
    assert {row["adapter"] for row in rows} == names
    assert all(row["sources"] and row["profiles"] and "trouble" not in row for row in rows)
    assert all(row["valid"] for row in said(capsys, "validate")["curricula"])


def test_every_mistake_is_named_with_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped_curricula() / "json-architect", tmp_path / "json-architect")
    spec = tmp_path / "json-architect" / "curriculum.json"
    text = spec.read_text().replace('"rank": 16', '"rank": 0').replace('"max_steps": 200', '"max_steps": "many"')
    spec.write_text(text)
    assert main(["curriculum", "validate", "--curricula", str(tmp_path)]) == FAILED
    out = capsys.readouterr().out
    assert "2 mistakes" in out
    assert "lora.rank" in out
    assert "training.max_steps" in out
    assert main(["curriculum", "list", "--curricula", str(tmp_path)]) == DONE
    assert "lora.rank" in capsys.readouterr().out


def test_a_spec_that_cannot_be_read_is_a_mistake_of_this_curriculum_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shipped_curricula() / "json-architect", tmp_path / "json-architect")
    (tmp_path / "closed" / "curriculum.json").mkdir(parents=True)
    assert main(["curriculum", "validate", "--curricula", str(tmp_path)]) == FAILED
    out = capsys.readouterr().out
    assert "closed: 1 mistakes\n  cannot read" in out
    assert "json-architect: valid" in out
    rows = {row["adapter"]: row for row in said(capsys, "list", "--curricula", str(tmp_path))["curricula"]}
    assert "Is a directory" in rows["closed"]["trouble"]
    assert "trouble" not in rows["json-architect"]


def test_an_unknown_kind_of_source_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped_curricula() / "json-architect", tmp_path / "json-architect")
    spec = tmp_path / "json-architect" / "curriculum.json"
    text = spec.read_text().replace('"tool_registry"', '"rumour"').replace('"rank": 16', '"rank": 0')
    spec.write_text(text)
    assert main(["curriculum", "validate", "--curricula", str(tmp_path)]) == FAILED
    out = capsys.readouterr().out
    assert "3 mistakes" in out
    assert "lora.rank" in out
    assert "sources[0].kind: no kind 'rumour'" in out
    assert "profiles.demo.sources[0].kind: no kind 'rumour'" in out


def test_what_was_refused_of_an_owners_material_is_told_by_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "binary.md").write_bytes(b"a\0b")
    for at in range(25):
        (folder / f"empty{at:02d}.md").touch()
    words = ["build", "gaia-voice", *SMALL, "--documents", str(folder), "--out", str(tmp_path / "out")]
    assert main(["curriculum", *words]) == DONE
    out = capsys.readouterr().out
    assert "gaia-voice: refused: document:mine/binary.md: binary" in out
    assert out.count("gaia-voice: refused: document:") == 20
    assert "gaia-voice: refused: 6 more" in out


def test_a_built_dataset_is_shown_sampled_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = said(capsys, "build", "json-architect", *SMALL, "--out", str(tmp_path))
    again = said(capsys, "build", "json-architect", *SMALL, "--out", str(tmp_path))
    assert again == [row]
    assert {"adapter", "digest", "train", "held_out", "path"} <= set(row)
    assert (Path(row["path"]) / "card.html").read_text().startswith("<!doctype html>")
    card = said(capsys, "show", row["path"])
    assert card["digest"] == row["digest"]
    assert card["diversity"]["tool_registry"]["examples"] == row["train"]
    examples = said(capsys, "sample", row["path"], "-n", "2", "--split", "held_out", "--group", "web.")["examples"]
    assert [one["group"].partition("/")[0] for one in examples] == ["web.search", "web.search"]
    assert said(capsys, "diff", row["path"], "json-architect", *SMALL)["same"] is True


def test_what_differs_between_two_datasets_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped_curricula() / "json-architect", tmp_path / "json-architect")
    spec = tmp_path / "json-architect" / "curriculum.json"
    spec.write_text(spec.read_text().replace('"seed": 20261,\n  "lora"', '"seed": 7,\n  "lora"'))
    found = said(capsys, "diff", "json-architect", str(tmp_path / "json-architect"), *SMALL)
    train = found["splits"]["train"]
    assert found["same"] is False
    assert train["kept"] + train["changed"] + len(train["gone"]) == 122
    assert found["cards"]["seed"] == [20261, 7]


def test_nothing_to_build_and_nothing_to_show_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curriculum", "build"]) == FAILED
    assert "--all" in capsys.readouterr().err
    assert main(["curriculum", "list", "--curricula", str(tmp_path)]) == FAILED
    assert "there is no curriculum" in capsys.readouterr().err
    assert main(["curriculum", "sample", "json-architect", *SMALL, "--source", "none"]) == FAILED
    assert "tool_registry" in capsys.readouterr().err


def test_where_documents_are_too_few_to_be_kept_whole_the_build_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gaia-voice"
    shutil.copytree(shipped_curricula() / "gaia-voice", folder)
    for document in sorted((folder / "documents").iterdir())[2:]:
        document.unlink()
    text = (folder / "curriculum.json").read_text().replace('"kinds": ["gap", "recite"], "per_document": 12', "")
    (folder / "curriculum.json").write_text(text)
    words = ["build", "gaia-voice", *SMALL, "--curricula", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["curriculum", *words]) == DONE
    assert (
        "documents: what keeps to one split is the section, as there are too few documents" in capsys.readouterr().out
    )


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["curriculum", "build", "gaia-voice", *SMALL, "--out", str(tmp_path / "file" / "in")]) == FAILED
    assert f"cannot write the dataset below {tmp_path / 'file' / 'in'}" in capsys.readouterr().err


def test_one_that_cannot_be_built_does_not_keep_the_others_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shipped_curricula() / "json-architect", tmp_path / "json-architect")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "curriculum.json").write_text("{")
    words = ["build", "--all", *SMALL, "--curricula", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["curriculum", *words]) == FAILED
    told = capsys.readouterr()
    assert "json-architect" in told.out
    assert "1 of 2" in told.err
    assert "broken" in told.err


def test_an_earlier_spec_is_imported_once_with_what_is_lost_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "old.json"
    spec.write_text(json.dumps({"adapter_name": "a_b", "tier": 1, "training_config": {}, "total_target_samples": 20}))
    answer = said(capsys, "import", str(spec), "--curricula", str(tmp_path / "own"))
    path = tmp_path / "own" / "a-b" / "curriculum.json"
    assert (answer["path"], answer["lost"][0][:5]) == (str(path), "tier:")
    assert json.loads(path.read_text("utf-8")) == answer["spec"]
    assert load_curriculum(path.parent, "full").adapter == "a-b"
    assert main(["curriculum", "import", str(spec), "--curricula", str(tmp_path / "own")]) == FAILED
    assert "cannot write" in capsys.readouterr().err
    assert main(["curriculum", "import", str(spec)]) == DONE
    assert "assumed, as it does not say:" in capsys.readouterr().out
    assert main(["curriculum", "import", str(tmp_path / "gone.json")]) == FAILED


def test_what_is_asked_in_the_exam_of_another_adapter_fails_the_build_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("json-architect", "twin"):
        shutil.copytree(shipped_curricula() / "json-architect", tmp_path / name)
    spec = tmp_path / "twin" / "curriculum.json"
    # Another seed divides otherwise, so that each learns what the other one asks.
    spec.write_text(spec.read_text().replace('"json-architect"', '"twin"').replace('"seed": 20261', '"seed": 7'))
    words = ["--curricula", str(tmp_path), "--out", str(tmp_path / "out"), *SMALL]
    assert main(["curriculum", "build", "--all", *words]) == FAILED
    told = capsys.readouterr()
    assert "asked in another adapter's exam: json-architect: " in told.err
    assert " is 1.00 like twin: " in told.err
    assert "twin" in told.out
    assert main(["curriculum", "build", "twin", *words]) == DONE


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_build_shows_each_source_and_step_on_a_terminal_and_nothing_beside_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["curriculum", "build", "gaia-voice", *SMALL, "--out", str(tmp_path)]
    seen = {}
    for form in ([], ["--json"]):
        screen = _Screen()
        monkeypatch.setattr("sys.stderr", screen)
        assert main([*words, *form]) == DONE
        seen[bool(form)] = screen.getvalue()
    lines = [line.rstrip() for line in seen[False].split("\r") if line]
    assert [line.partition("gaia-voice: ")[2] for line in lines if "gaia-voice" in line] == [
        "reading voice",
        "reading documents",
        "dividing",
        "measuring",
    ]
    shares = [line.count("#") for line in lines]
    assert shares == sorted(shares)
    assert lines[-1].endswith("1/1 done")
    assert max(map(len, lines)) < 80
    assert seen[True] == ""


def test_what_is_uneven_is_told_beside_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curriculum", "build", "epistemic-guard", *SMALL, "--out", str(tmp_path)]) == DONE
    assert "epistemic-guard: uneven: replay: of 5 examples" in capsys.readouterr().out
    assert main(["curriculum", "show", "epistemic-guard", *SMALL]) == DONE
    shown = capsys.readouterr().out
    assert "uneven: replay: of 5 examples" in shown
    assert "kept whole in one split, of replay: unit template" in shown
