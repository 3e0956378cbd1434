"""Checkpoints of a run on the disk: each whole or not there at all, and used by the very run that it belongs to.

`<folder>/<identity>/step-000040/` (saved again: `step-000040.1/`) holds `state.safetensors` (weights, the optimiser's
moments, random states, the best adapter so far) and `state.json` (position, losses, the digest of the former), written
beside, synced, then renamed into place. What a run is (`Identity`) names its folder, so that a run with another spec,
dataset, base or code finds nothing to go on from and says why; no pickle is ever read. When to save, and what to go
back for, is the recipe's to say.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gaiad.curriculum import Json
from gaiad.errors import TrainingError

Identity: TypeAlias = Mapping[str, str]
"""What must be the same for a run to go on exactly: digests of spec, splits, base, template, code; versions; device."""

KEPT = 2
"""How many of the newest checkpoints stay, beside the newest good one."""

_STATE, _ABOUT, _IDENTITY = "state.safetensors", "state.json", "identity.json"
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint: what was learnt up to `step`, the account of it, and whether it was just validated (`good`)."""

    step: int
    good: bool
    tensors: Mapping[str, torch.Tensor]
    account: Mapping[str, Json]


class Shelf:
    """The checkpoints of one run. Only one process writes here."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._root = folder
        self._identity = dict(sorted(identity.items()))
        digest = hashlib.sha256(json.dumps(self._identity).encode()).hexdigest()
        self.folder = folder / digest[:16]

    def strangers(self) -> str:
        """Say of which other run there are checkpoints that were not used, or nothing."""
        said: list[str] = []
        for path in sorted(self._root.glob(f"*/{_IDENTITY}")):
            if path.parent != self.folder:
                theirs = _object(path) or {}
                differing = [name for name, value in self._identity.items() if theirs.get(name) != value]
                said.append(f"a checkpoint was not used: it was made with another {', '.join(differing)}")
        return "; ".join(said)

    def newest(self, *, good: bool = False) -> tuple[Saved | None, str]:
        """Return the newest checkpoint that is whole (`good`: and was validated), and why newer ones were not used."""
        said: list[str] = []
        for path in reversed(self._steps()):
            about = _object(path / _ABOUT)
            if good and about is not None and not about.get("good"):
                continue
            saved = None if about is None else _read(path, about)
            if saved is not None:
                return saved, "; ".join(said)
            said.append(f"the checkpoint of step {_numbers(path)[0]} is damaged and was not used")
            shutil.rmtree(path, ignore_errors=True)
        return None, "; ".join(said)

    def save(self, saved: Saved) -> Path:
        """Write a checkpoint, whole or not at all, and let go of old ones.

        Raises:
            TrainingError: the disk refuses; earlier checkpoints are as they were.
        """
        target = self._free_name(saved.step)
        partial = target.with_name(f"{target.name}{_PARTIAL}")
        try:
            self._begin()
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            tensors = {name: tensor.detach().contiguous() for name, tensor in saved.tensors.items()}
            save_file(tensors, partial / _STATE)
            about = {
                "step": saved.step,
                "good": saved.good,
                "account": saved.account,
                "sha256": _digest(partial / _STATE),
            }
            (partial / _ABOUT).write_text(json.dumps(about, allow_nan=False), encoding="utf-8")
            for path in (partial / _STATE, partial / _ABOUT, partial):
                _sync(path)
            partial.rename(target)
            _sync(self.folder)
            self._prune()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"the checkpoint of step {saved.step} could not be written: {error}",
                hint=f"make room at {self._root}; the next run goes on from the last one that was",
                of_data=False,
            ) from error
        return target

    def forget_after(self, step: int) -> None:
        """Remove what was saved after `step`: the run went back to there."""
        for path in self._steps():
            if _numbers(path)[0] > step:
                shutil.rmtree(path, ignore_errors=True)

    def _begin(self) -> None:
        if not (self.folder / _IDENTITY).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{_IDENTITY}{_PARTIAL}"
            partial.write_text(json.dumps(self._identity, indent=2), encoding="utf-8")
            os.replace(partial, self.folder / _IDENTITY)

    def _steps(self) -> list[Path]:
        found = [path for path in self.folder.glob("step-*") if not path.name.endswith(_PARTIAL)]
        return sorted(found, key=_numbers)

    def _free_name(self, step: int) -> Path:
        """Where to save a step: never in the place of what is there, so that at no moment neither is."""
        there = [_numbers(path)[1] for path in self._steps() if _numbers(path)[0] == step]
        again = f".{max(there) + 1}" if there else ""
        return self.folder / f"step-{step:06d}{again}"

    def _prune(self) -> None:
        steps = self._steps()
        validated = [path for path in steps if (_object(path / _ABOUT) or {}).get("good")]
        newest = {_numbers(path)[0]: path for path in steps}
        outdone = {path for path in steps if newest[_numbers(path)[0]] != path}
        for path in outdone | set(steps[:-KEPT]) - set(validated[-1:]):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f"step-*{_PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)


def _numbers(path: Path) -> tuple[int, int]:
    """The step of a checkpoint, and how often it had been saved before."""
    step, _, again = path.name.removeprefix("step-").partition(".")
    return int(step), int(again or 0)


def _read(path: Path, about: Mapping[str, Json]) -> Saved | None:
    try:
        if _digest(path / _STATE) != about.get("sha256"):
            return None
        step, account = about["step"], about["account"]
        if not isinstance(step, int) or not isinstance(account, dict):
            return None
        return Saved(step, bool(about["good"]), load_file(path / _STATE), account)
    except (FileNotFoundError, KeyError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _object(path: Path) -> dict[str, Json] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    return cast("dict[str, Json]", found) if isinstance(found, dict) else None


def _unreadable(path: Path, error: OSError) -> TrainingError:
    # Not damaged: it may be read later.
    return TrainingError(f"{path} cannot be read: {error.strerror}", hint="look at the disk, then start the run again")


def _sync(path: Path) -> None:
    """Push a file's bytes, or a folder's names, out to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
