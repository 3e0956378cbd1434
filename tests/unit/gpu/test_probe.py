"""What the machine says about itself, read from the machine that runs the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from gaiad.gpu import probe


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as child:
        yield child
        child.kill()


def test_memory_is_measured_and_free_is_not_above_total() -> None:
    memory = probe.machine_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
    assert probe.device_memory("cpu").total_bytes == memory.total_bytes


def test_device_that_is_set_is_believed_and_auto_looks() -> None:
    assert probe.device_of("cpu") == "cpu"
    assert probe.device_of("gpu") == "gpu"
    assert probe.device_of("auto") == ("cpu" if probe.gpu_memory() is None else "gpu")


def test_process_is_known_by_id_group_and_start(sleeper: subprocess.Popen[bytes]) -> None:
    one = probe.living(sleeper.pid)
    own = probe.living(os.getpid())
    assert one is not None
    assert own is not None
    assert (one.group, one.session) == (sleeper.pid, sleeper.pid)
    assert one.started >= own.started
    assert [member.pid for member in probe.group_members(sleeper.pid)] == [sleeper.pid]


def test_process_that_only_waits_to_be_reaped_does_not_live(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert probe.living(sleeper.pid) is None
    assert probe.group_members(sleeper.pid) == []


def test_boot_id_is_the_same_twice() -> None:
    assert probe.boot_id() == probe.boot_id() != ""
