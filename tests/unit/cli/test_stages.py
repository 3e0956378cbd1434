"""`gaiadctl stages` and what `config check` says of the rules, all without a daemon."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gaiad.__main__ import main as gaiad
from gaiad.cli.main import main
from gaiad.cli.output import DONE, FAILED
from gaiad.config import DEFAULT_STAGES

SELECTION = {
    "messages": [
        {"role": "system", "content": "You are a precise tool selector."},
        {"role": "user", "content": "AVAILABLE TOOLS:\n- clock"},
    ]
}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


def written(folder: Path, *documents: object, name: str = "file") -> str:
    path = folder / name
    path.write_text("\n".join(json.dumps(document) for document in documents) + "\n")
    return str(path)


def settings(folder: Path, rules: object) -> str:
    (folder / "rules.json").write_text(json.dumps(rules))
    path = folder / "gaiad.toml"
    path.write_text(
        '[proxy]\nstage_rules = "rules.json"\n[engine]\nmode = "external"\n[learning]\nenabled = false\n'
        '[stages]\ntides = "tide-teller"\n'
    )
    return str(path)


def rule(stage: str, name: str, text: str) -> dict[str, Any]:
    feature = {"phrase": text, "in": "last_user", "place": "start", "weight": 1}
    return {"id": name, "stage": stage, "threshold": 1, "features": [feature]}


def test_a_body_is_explained_rule_by_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "test", written(tmp_path, SELECTION)]) == DONE
    shown = capsys.readouterr().out
    for part in (
        "rule:tool_selection",
        "10 of 10",
        '"You are a precise tool selector"',
        '"AVAILABLE TOOLS:"',
        "+6",
        "+4",
    ):
        assert part in shown
    assert "cognitive_audit" not in shown


def test_a_body_may_come_on_standard_input_and_name_its_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {**SELECTION, "metadata": {"gaia_stage": "reflection"}}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(body).encode())))
    assert main(["stages", "test", "-", "--json"]) == DONE
    (told,) = json.loads(capsys.readouterr().out)["requests"]
    assert (told["stage"], told["reason"], told["rule"]) == ("reflection", "metadata", None)
    assert told["rules"][0]["rule"] == "tool_selection"


def test_a_refused_request_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "test", written(tmp_path, {**CHAT, "model": "gaia:nonsense"})]) == DONE
    assert "refused with 404" in capsys.readouterr().out


def test_lines_that_expect_a_stage_are_scored_and_a_miss_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = (
        {"id": "a", "stage": "tool_selection", "body": SELECTION},
        {"id": "b", "stage": "intent", "body": CHAT},
    )
    assert main(["stages", "test", written(tmp_path, right, right)]) == DONE
    assert capsys.readouterr().out.strip() == "2 of 2 as expected"
    file = written(tmp_path, right, wrong, {"body": CHAT})
    assert main(["stages", "test", file]) == FAILED
    shown = capsys.readouterr().out
    assert "1 of 2 as expected" in shown
    assert [line.split()[:3] for line in shown.splitlines()[1:2]] == [["b", "intent", "generation"]]
    assert main(["stages", "test", file, "--json"]) == FAILED
    answer = json.loads(capsys.readouterr().out)
    assert (answer["right"], answer["expected"]) == (1, 2)
    assert [one["right"] for one in answer["requests"]] == [True, False, None]


def test_bodies_without_an_expectation_are_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "test", written(tmp_path, CHAT, SELECTION)]) == DONE
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [["1", "-", "generation"], ["2", "-", "tool_selection"]]


@pytest.mark.parametrize(("text", "says"), [("", "no request"), ('{"a": 1}\n{"b"', "line 2"), (None, "cannot read")])
def test_a_file_that_cannot_be_used_is_told(
    text: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    assert main(["stages", "test", str(path)]) == FAILED
    assert says in capsys.readouterr().err


def test_the_stages_are_listed_with_adapters_and_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "list", "--json"]) == DONE
    answer = json.loads(capsys.readouterr().out)
    adapters = {one["stage"]: one["adapter"] for one in answer["stages"]}
    assert adapters == {**DEFAULT_STAGES, "base": ""}
    assert all(one["rules"] for one in answer["stages"])
    assert [one["stage"] for one in answer["stages"] if one["default"]] == ["generation"]
    assert Path(answer["file"]).is_file()
    assert main(["stages", "list"]) == DONE
    assert "json-architect" in capsys.readouterr().out


def test_rules_of_ones_own_take_the_place_of_the_shipped_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, {"rules": [rule("tides", "tide", "hello"), rule("moons", "moon", "moon")]})
    assert main(["stages", "test", written(tmp_path, CHAT), "--config", config]) == DONE
    assert "rule:tide" in capsys.readouterr().out
    assert main(["stages", "list", "--config", config]) == DONE
    assert "moon (stage moons)" in capsys.readouterr().out
    assert main(["config", "check", config]) == DONE
    shown = capsys.readouterr().out
    assert "1 stage rules" in shown
    assert "moon (stage moons)" in shown
    assert main(["config", "check", config, "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["rules"]["skipped"] == [{"rule": "moon", "stage": "moons"}]


def test_config_check_tells_every_mistake_in_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{**rule("intent", "one", "x"), "threshold": 0}, {**rule("intent", "two", "x"), "colour": "red"}]
    config = settings(tmp_path, {"rules": bad})
    assert main(["config", "check", config]) == FAILED
    told = capsys.readouterr().err
    assert gaiad(["--config", config, "--check"]) == 1
    assert "rule 'two'" in capsys.readouterr().err
    for part in ("rules.json", "rule 'one' threshold", "rule 'two'", "colour"):
        assert part in told
    (tmp_path / "rules.json").unlink()
    assert main(["config", "check", config]) == FAILED
    assert "cannot read the stage rules" in capsys.readouterr().err
