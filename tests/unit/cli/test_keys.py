"""Keys on the command line: shown once, listed without secrets, revoked by name, and no daemon is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gaiad.cli.main import main
from gaiad.cli.output import DONE, FAILED, REFUSED, USAGE
from gaiad.keyfile import read_keys


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "gaiad.toml"
    path.write_text('state_dir = "state"\n[engine]\nmode = "external"\n[learning]\nenabled = false\n')
    return path


def told(settings: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["--config", str(settings), "keys", *words, "--json"]) == DONE
    return json.loads(capsys.readouterr().out)


def test_a_key_is_shown_once_and_opens(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added = told(settings, capsys, "add", "ada", "--stages", "intent,base", "--consent", "train")
    path = settings.parent / "state/keys.json"
    assert added["file"] == str(path)
    ring = read_keys(path)
    assert ring is not None
    key = ring.find(added["key"])
    assert key is not None
    assert key.name == "ada"
    assert key.stages == frozenset({"intent", "base"})
    assert key.consent == frozenset({"log", "train"})
    listed = told(settings, capsys, "list")
    assert listed["wanted"] is True
    assert [row["name"] for row in listed["keys"]] == ["ada"]
    assert added["key"].rsplit("-", 1)[1] not in json.dumps(listed) + path.read_text()
    assert key.digest not in json.dumps(listed)


def test_people_read_the_key_and_a_table(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(settings), "keys", "list"]) == DONE
    assert "asks for none" in capsys.readouterr().out
    assert main(["--config", str(settings), "keys", "add", "ada"]) == DONE
    assert capsys.readouterr().out.startswith("gaia-")
    assert main(["--config", str(settings), "keys", "list"]) == DONE
    assert "as granted" in capsys.readouterr().out


def test_a_name_has_one_key_until_it_is_revoked(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = told(settings, capsys, "add", "ada")["key"]
    assert main(["--config", str(settings), "keys", "add", "ada"]) == REFUSED
    assert "gaia-" not in capsys.readouterr().out
    told(settings, capsys, "revoke", "ada")
    assert main(["--config", str(settings), "keys", "revoke", "ada"]) == REFUSED
    capsys.readouterr()
    second = told(settings, capsys, "add", "ada")["key"]
    ring = read_keys(settings.parent / "state/keys.json")
    assert ring is not None
    assert (ring.find(first), bool(ring.find(second))) == (None, True)


@pytest.mark.parametrize("words", [["add", ""], ["add", " ada"], ["add", "a\nb"], ["add", "ada", "--consent", "sell"]])
def test_what_can_be_no_key_is_wrong_usage(settings: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--config", str(settings), "keys", *words])
    assert caught.value.code == USAGE
    assert not (settings.parent / "state/keys.json").exists()


def test_an_unknown_stage_is_told_with_the_known_ones(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(settings), "keys", "add", "ada", "--stages", "poetry"]) == FAILED
    assert "tool_selection" in capsys.readouterr().err


def test_without_settings_or_a_file_for_keys_it_says_so(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(settings.parent / "none.toml"), "keys", "list"]) == FAILED
    settings.write_text(settings.read_text() + '[keys]\nfile = ""\n')
    assert main(["--config", str(settings), "keys", "add", "ada"]) == FAILED
    assert "keys.file" in capsys.readouterr().err


def test_the_file_may_lie_elsewhere(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write_text(settings.read_text() + f'[keys]\nfile = "{settings.parent / "mine.json"}"\n')
    told(settings, capsys, "add", "ada")
    assert (settings.parent / "mine.json").exists()
