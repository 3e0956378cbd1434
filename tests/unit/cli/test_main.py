"""The command line as a whole: usage, exit codes, what it imports."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gaiad.cli.config import read_settings
from gaiad.cli.main import build_parser, main
from gaiad.cli.output import DONE, FAILED, NO_DAEMON, USAGE


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["consent", "grant", "azrael"],
        ["consent", "grant", "azrael", "--purpose", "sell"],
        ["consent", "grant", "azrael", "--purpose", "log", "--for", "soon"],
        ["consent", "grant", "azrael", "--purpose", "log", "--for", "0d"],
        ["consent", "revoke", "azrael", "--purpose", "log", "--for", "1d"],
        ["adapters", "import", "/tmp/x", "--activate"],
        ["train"],
        ["stat"],
    ],
)
def test_wrong_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--socket", "/nowhere", *words])
    assert caught.value.code == USAGE
    assert "usage: gaiadctl" in capsys.readouterr().err


def test_without_a_daemon_every_online_command_exits_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["cycles"], ["train", "json-architect"], ["consent", "show", "azrael"], ["cancel"]):
        assert main([*words, "--socket", str(tmp_path / "none.sock")]) == NO_DAEMON
        assert "Try:" in capsys.readouterr().err


def test_common_options_may_stand_before_and_after_the_command() -> None:
    before = build_parser().parse_args(["--socket", "/a", "--json", "status"])
    after = build_parser().parse_args(["status", "--socket", "/a", "--json"])
    assert (before.socket, before.json) == (after.socket, after.json) == ("/a", True)
    assert build_parser().parse_args(["status"]).json is False


def test_config_check_names_every_mistake_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gaiad.toml"
    path.write_text('[proxy]\nlisten = "here"\n[engine]\nmode = "magic"\n')
    assert main(["config", "check", str(path)]) == FAILED
    complaint = capsys.readouterr().err
    assert "proxy.listen" in complaint
    assert "engine.mode" in complaint


def test_config_check_accepts_a_good_file_and_shows_the_whole_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gaiad.toml"
    path.write_text('state_dir = "var"\n[engine]\nmode = "external"\n[learning]\nenabled = false\n')
    assert main(["config", "check", str(path), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["state_dir"] == str(tmp_path / "var")


@pytest.mark.parametrize("password", ["sesame", "ses@me/?#"])
def test_config_check_shows_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str], password: str) -> None:
    path = tmp_path / "gaiad.toml"
    url = f"postgresql+asyncpg://gaiad:{password}@db.lan/gaiad?ssl=require"
    path.write_text(f'[engine]\nmode = "external"\n[learning]\nenabled = false\n[store]\nurl = "{url}"\n')
    assert main(["config", "check", str(path), "--json"]) == DONE
    shown = capsys.readouterr().out
    assert json.loads(shown)["store"]["url"] == "postgresql+asyncpg://db.lan/gaiad"
    assert "ses" not in shown
    assert password not in repr(read_settings(path))
    path.write_text(f'[store]\nurl = ["postgresql+asyncpg://gaiad:{password}@db.lan/gaiad"]\n')
    assert main(["config", "check", str(path)]) == FAILED
    complaint = capsys.readouterr().err
    assert "store.url must be a string" in complaint
    assert "ses" not in complaint


def test_the_command_line_starts_without_the_daemons_libraries() -> None:
    script = (
        "import sys, gaiad.cli.main\n"
        "heavy = {'aiohttp', 'sqlalchemy', 'structlog', 'alembic', 'torch', 'jsonschema'} & set(sys.modules)\n"
        "raise SystemExit(', '.join(sorted(heavy)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_command_stands_on_its_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    for words in _commands(build_parser(), ("gaiadctl",)):
        assert f"`{' '.join(words)}" in page, words


def _commands(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> list[tuple[str, ...]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        return [words]
    return [found for name, inner in groups[0].choices.items() for found in _commands(inner, (*words, name))]


def test_a_shipped_curriculum_is_built_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["curriculum", "build", "json-architect", "--profile", "demo", "--out", str(tmp_path), "--json"]
    assert main(words) == DONE
    (answer,) = json.loads(capsys.readouterr().out)
    assert Path(answer["path"]).name == answer["digest"]
    assert answer["train"] == len((tmp_path / answer["digest"] / "train.jsonl").read_text().splitlines())


def test_an_unknown_curriculum_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curriculum", "build", "nope"]) == FAILED
    assert "json-architect" in capsys.readouterr().err


def test_the_published_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curriculum", "schema"]) == DONE
    assert json.loads(capsys.readouterr().out)["type"] == "object"


@pytest.mark.parametrize(
    ("words", "code"),
    [(["status"], NO_DAEMON), (["adapters", "import", "x"], FAILED), (["--config", "c", "status"], FAILED)],
)
def test_a_working_directory_that_is_gone_is_no_bug_of_ours(tmp_path: Path, words: list[str], code: int) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f'rmdir "{gone}"; exec "{sys.executable}" -m gaiad.cli "$@"'
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    environment.pop("GAIAD_SOCKET", None)
    ended = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *words], cwd=gone, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ended.stderr
    assert "Try:" in ended.stderr
    assert ended.returncode == code
