"""What a run is made of, as digests: base, chat template, splits, spec and code, with the versions that compute it.

Two runs of which all of this is the same, on one machine, give the same bytes. Reads files; decides nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from gaiad.learner.protocol import Job

CODE = (
    *("answer_loss", "attention", "base", "base_shape", "checkpoint", "dataset", "device", "dropout", "example"),
    *("flex", "flex_check", "fused", "likeness", "losses", "packing", "ranks", "rendering", "scripted", "snapshot"),
    *("steadiness", "train", "usage"),
)
"""The modules that decide what a run computes."""

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")
_WEIGHTS = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})


def digests(job: Job, template: str) -> dict[str, str]:
    """SHA-256 in hex of everything that the run is made of; `template` is the chat template's text."""
    spec = json.dumps([dataclasses.asdict(job.lora), dataclasses.asdict(job.training)], sort_keys=True)
    here = Path(__file__).parent
    return {
        "base": _of_files(path for path in sorted(Path(job.base_model).iterdir()) if path.suffix in _WEIGHTS),
        "template": hashlib.sha256(template.encode()).hexdigest(),
        "train": _of_files([Path(job.train_path)]),
        "validation": _of_files([Path(job.validation_path)] if job.validation_path else []),
        "spec": hashlib.sha256(spec.encode()).hexdigest(),
        "code": _of_files(here / f"{name}.py" for name in CODE),
    }


def packages() -> dict[str, str]:
    """Versions that decide what a run computes."""
    present = [name for name in _PACKAGES if importlib.util.find_spec(name)]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in present}


def device_name(device: str) -> str:
    """What the device calls itself; a CPU's threads belong to it, since they decide the order of its sums."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _of_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as content:
            whole.update(f"{path.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
