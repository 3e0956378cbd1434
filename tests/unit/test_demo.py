"""What the demo concludes from what it saw, without running it."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from examples import demo_world
from examples.demo import Seen, window_filled_at
from examples.demo_world import EPHEMERAL_PORTS, DemoFailed, World, engine_port
from gaiad.adapter import VersionName
from gaiad.config import parse_config
from gaiad.rollout import Guard, ReplyOutcome

BAD = VersionName("json-architect@v3-0123abcd")


def seen(*schema_ok: bool) -> list[Seen]:
    """Replies at 1, 2, 3, ... seconds."""
    outcomes = [ReplyOutcome(BAD, "tool_selection", "r", good, False, False) for good in schema_ok]
    return [Seen(float(at), outcome, complete=True) for at, outcome in enumerate(outcomes, start=1)]


@pytest.mark.parametrize(
    ("replies", "filled_at"),
    [
        ((False, False, False), 3.0),
        ((False, True, False, True, False, False), 5.0),
        # Each bad reply has left the window of six before the next but one comes.
        ((False, True, True, False, True, True) * 3, None),
        ((False, False), None),
        ((), None),
    ],
)
def test_the_window_is_filled_by_the_reply_that_the_guard_cannot_pass_over(
    replies: tuple[bool, ...], filled_at: float | None
) -> None:
    assert window_filled_at(seen(*replies), Guard(6, 3)) == filled_at


def test_the_engine_gets_no_port_that_an_outgoing_connection_may_have() -> None:
    low, high = map(int, EPHEMERAL_PORTS.read_text().split())
    port = engine_port()
    assert port > 1023
    assert not low <= port <= high
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_a_machine_without_such_a_port_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(demo_world, "EPHEMERAL_PORTS", tmp_path / "range")
    with pytest.raises(DemoFailed, match="no free port"):
        engine_port()


def test_extra_settings_reach_the_daemon(tmp_path: Path) -> None:
    world = World(tmp_path, proxy="hold_s = 420\n", learning="guard_window = 50\n", timeout_s=480)
    config = parse_config(world.config.read_text(), relative_to=tmp_path)
    assert (config.proxy.hold_s, config.learning.guard_window) == (420, 50)
    assert config.engine.url == f"http://127.0.0.1:{world.engine_port}"
    assert world.client.timeout == 480
    world.client.close()


@pytest.mark.parametrize("failure", [None, DemoFailed("a step does not hold")])
def test_however_it_ends_the_daemon_is_ended_and_the_client_holds_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: DemoFailed | None
) -> None:
    world, done = World(tmp_path), list[str]()
    monkeypatch.setattr(world, "start", lambda: done.append("started"))
    monkeypatch.setattr(world, "end", lambda: done.append("ended"))
    with contextlib.suppress(DemoFailed), world.running():
        assert not world.client.is_closed()
        if failure is not None:
            raise failure
    assert done == ["started", "ended"]
    assert world.client.is_closed()
