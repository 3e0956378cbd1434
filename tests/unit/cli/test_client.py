"""Which socket `gaiadctl` talks to, and what it makes of silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaiad.cli import client as client_module
from gaiad.cli.client import Client, find_socket
from gaiad.errors import ConfigError, ControlError, GaiadError


@pytest.fixture
def no_system_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client_module, "SYSTEM_SOCKET", tmp_path / "absent" / "control.sock")


def settings(tmp_path: Path) -> Path:
    path = tmp_path / "gaiad.toml"
    path.write_text('control_socket = "run/c.sock"\n[learning]\nenabled = false\n[engine]\nmode = "external"\n')
    return path


def test_the_more_explicit_name_of_the_socket_wins(tmp_path: Path, no_system_socket: None) -> None:
    config = str(settings(tmp_path))
    environment = {"GAIAD_SOCKET": "/e.sock"}
    assert find_socket("/o.sock", config, environment, tmp_path) == (Path("/o.sock"), "--socket")
    assert find_socket(None, config, environment, tmp_path) == (Path("/e.sock"), "GAIAD_SOCKET")
    assert find_socket(None, config, {}, tmp_path) == (tmp_path / "run" / "c.sock", "--config")


def test_without_a_name_the_socket_below_the_working_directory_is_found(tmp_path: Path, no_system_socket: None) -> None:
    assert find_socket(None, None, {}, tmp_path)[1] == "the default"
    local = tmp_path / "var" / "control.sock"
    local.parent.mkdir()
    local.touch()
    assert find_socket(None, None, {}, tmp_path) == (local, "found in ./var")


def test_an_unreadable_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        find_socket(None, str(tmp_path / "none.toml"), {}, tmp_path)


def test_a_name_that_is_no_text_is_said(tmp_path: Path) -> None:
    client = Client(tmp_path / "c.sock")
    with pytest.raises(GaiadError, match="not UTF-8"):
        client.get("adapters", "\udcff")
    with pytest.raises(GaiadError, match="not UTF-8"):
        client.get("exchanges", user="\udcff")


def test_no_daemon_is_said_with_the_socket_and_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no gaiad answers") as caught:
        Client(tmp_path / "c.sock").get("status")
    assert str(tmp_path / "c.sock") in caught.value.message
    assert "start it" in caught.value.hint
