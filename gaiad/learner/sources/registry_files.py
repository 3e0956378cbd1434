"""Where a registry of tools is read from: a JSON file, or an attribute of a module that a child process imports.

Somebody else's module never runs inside this process: a child imports it, prints the attribute as JSON, and is ended
with everything it started once its time is up. Decides nothing about the tools.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from gaiad.errors import CurriculumError
from gaiad.learner.sources.registry_forms import LONGEST_TEXT

IMPORT_S = 30.0
"""How long a module may take to be imported."""
_ATTRIBUTE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TMPDIR")
# What the module prints must not mix with the answer: descriptor 1 becomes descriptor 2 before anything is imported.
_CHILD = """
import importlib, json, os, sys
answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
module, _, attribute = sys.argv[1].partition(":")
try:
    found = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    said = json.dumps({"registry": found})
except BaseException as error:
    said = json.dumps({"error": f"{type(error).__name__}: {error}"[:300]})
if len(said) > int(sys.argv[2]):
    said = json.dumps({"error": f"the registry has {len(said)} characters, {sys.argv[2]} at most"})
answer.write(said)
answer.flush()
os._exit(0)
"""


def registry_text(name: str, folder: Path, *, import_s: float = IMPORT_S) -> str:
    """The JSON text of a registry; `name` is a file (below `folder` where it is relative) or `module:attribute`.

    Raises:
        CurriculumError: where it cannot be read or imported, is too big, or is not text.
    """
    path = folder / Path(name).expanduser()
    if path.exists() or not _ATTRIBUTE.fullmatch(name):
        return _file_text(path)
    return _imported(name, import_s)


def _file_text(path: Path) -> str:
    try:
        if not path.is_file():
            raise CurriculumError(f"{path} is no file", hint="name a JSON file of tools, or module:attribute")
        with path.open("rb") as file:
            content = file.read(LONGEST_TEXT + 1)
        if len(content) > LONGEST_TEXT:
            raise CurriculumError(
                f"{path} has {path.stat().st_size} bytes, a registry {LONGEST_TEXT} at most",
                hint="name a registry of tools",
            )
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CurriculumError(f"cannot read {path}: {error}", hint="name a JSON file of tools in UTF-8") from error


def _imported(name: str, import_s: float) -> str:
    command = [sys.executable, "-c", _CHILD, name, str(LONGEST_TEXT)]
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            said, _ = child.communicate(timeout=import_s)
        except subprocess.TimeoutExpired as error:
            raise CurriculumError(
                f"importing {name} took longer than {import_s:g} s", hint="write the registry to a JSON file instead"
            ) from error
        finally:
            # Whatever the module started goes with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    return _registry_in(said, name)


def _registry_in(said: bytes, name: str) -> str:
    # The child writes one object with one key, so what stands behind the key is the registry's own text.
    text = said.decode("utf-8", "replace")
    begin, error = '{"registry": ', '{"error": '
    if text.startswith(begin) and text.endswith("}"):
        return text.removeprefix(begin)[:-1]
    reason = text.removeprefix(error).rstrip("}").strip('"') or "it ended without an answer"
    raise CurriculumError(f"cannot import {name}: {reason}", hint="the module must be importable by gaiad's Python")
