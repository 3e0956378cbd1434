"""How a benchmark's command ends: its exit code, and that its place goes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
from bench.load.command import Place, carried_out
from bench.load.errors import CannotMeasure

def work(place: Place) -> bool:
    print(place.folder, place.programs.load.is_file(), flush=True)
    match sys.argv[1]:
        case "well":
            return True
        case "ill":
            return False
        case "cannot":
            raise CannotMeasure("nothing to measure")
    while True:
        time.sleep(60)

sys.exit(carried_out("it", work))
"""
# A compiler that only makes the file it was asked for: what is compiled is not at issue here.
COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
touch "$2"
"""


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    made = tmp_path / "cc"
    made.write_text(COMPILER)
    made.chmod(0o755)
    return str(made)


def begun(how: str, compiler: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        cwd=ROOT,
        env={**os.environ, "CC": compiler},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "code", "told"), [("well", 0, ""), ("ill", 1, ""), ("cannot", 1, "it: nothing to measure\n")]
)
def test_the_exit_code_says_whether_all_was_well(how: str, code: int, told: str, compiler: str) -> None:
    with begun(how, compiler) as child:
        out, err = child.communicate()
    folder, compiled = out.split()
    assert (child.returncode, err, compiled) == (code, told, "True")
    assert not Path(folder).exists()


def test_sigterm_ends_it_and_takes_its_place_along(compiler: str) -> None:
    with begun("wait", compiler) as child:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().split()[0])
        assert folder.exists()
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate()
    assert (child.returncode, err) == (1, "it: it was ended\n")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("compiler", "told"), [("no-such-compiler", "there is no C compiler here"), ("false", "cannot compile upstream.c")]
)
def test_without_a_compiler_it_says_what_to_do(compiler: str, told: str) -> None:
    with begun("well", compiler) as child:
        out, err = child.communicate()
    assert (child.returncode, out) == (1, "")
    assert err.startswith("it: ")
    assert told in err
