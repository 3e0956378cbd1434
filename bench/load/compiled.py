"""The two C programs, compiled when they are needed, with the machine's own compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.load.errors import CannotMeasure

_SOURCES = Path(__file__).resolve().parent
_FLAGS = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra")
_COMPILE_S = 120


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the compiled programs."""

    upstream: Path
    load: Path


def compile_into(folder: Path) -> Programs:
    """Compile upstream and load generator into `folder`.

    Raises:
        CannotMeasure: there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        raise CannotMeasure(
            "there is no C compiler here, and upstream and load generator are C: install one (on Debian: apt-get "
            "install gcc libc6-dev) or name it in CC"
        )
    programs = Programs(folder / "upstream", folder / "load")
    _compile(compiler, programs.upstream, "upstream.c", "common.c")
    _compile(compiler, programs.load, "load.c", "reply.c", "common.c")
    return programs


def _compile(compiler: list[str], program: Path, *sources: str) -> None:
    command = [*compiler, *_FLAGS, "-o", str(program), *(str(_SOURCES / source) for source in sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotMeasure(f"the C compiler {compiler[0]} does not run: {error}") from error
    if done.returncode != 0:
        raise CannotMeasure(f"{compiler[0]} cannot compile {sources[0]}: {done.stderr.strip()[-600:]}")
