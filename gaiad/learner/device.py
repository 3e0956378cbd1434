"""The device as torch sees it: what is free, what it can do at most, and holding this process to its budget.

Measures and sets; what fits and what is chosen is `memory`. Part of the trainer, beside torch.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from gaiad.curriculum import LoraSpec
from gaiad.errors import Refuse, TrainingError
from gaiad.learner.base_shape import BaseShape, base_shape
from gaiad.learner.flops import peak_of
from gaiad.learner.lying import choices
from gaiad.learner.memory import ROOMS, Kind, Machine, Plan, after_out_of_memory, choose, share_of_device
from gaiad.learner.packing import TokenExample

T = TypeVar("T")

_SIDE = 1024
_MEASURE_S = 0.1


def machine(device: str, cap_bytes: int | None = None) -> Machine:
    """What a run on `device` (torch's name of it) may use: all that is free now, and no more than `cap_bytes`."""
    kind: Kind = "cuda" if device.startswith("cuda") else "cpu"
    if kind == "cuda":
        return Machine(kind, int(torch.cuda.mem_get_info()[0]), cap_bytes)
    # What Linux can give without swapping.
    return Machine(kind, _stated("/proc/meminfo", "MemAvailable", "3.14"), cap_bytes)


def _stated(file: str, key: str, since: str) -> int:
    """The bytes that one of Linux's files states after `key`, which it has since that version.

    Raises:
        TrainingError: it states none.
    """
    for line in Path(file).read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise TrainingError(f"{file} says nothing of {key}", hint=f"train on Linux {since} or newer")


def shape_of(folder: str) -> BaseShape | Refuse:
    """The shape of the base in `folder`."""
    return base_shape(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))


def planned(
    folder: str,
    lora: LoraSpec,
    quantisation: str,
    steps: Sequence[Sequence[TokenExample]],
    machine: Machine,
    *,
    shared: bool,
    room: int | None = None,
    checkpointing: bool | None = None,
    by_blocks: bool = False,
) -> Plan | Refuse:
    """Choose how a run over `steps` uses the machine, before its base in `folder` is loaded.

    `shared` says whether examples may share prefixes, and `by_blocks` whether attention then goes by blocks (`flex`);
    `room` and `checkpointing` are None where they are open. A base that nobody can count is refused as a value: then
    there is no promise, and nothing to choose by.

    Raises:
        TrainingError: no way of running it fits, with what would.
    """
    shape = shape_of(folder)
    if isinstance(shape, Refuse):
        return shape
    by_parts = machine.kind == "cpu" and not by_blocks
    rows = choices(steps, (room,) if room else ROOMS, shared=shared, by_parts=by_parts, by_blocks=by_blocks)
    plan = choose(shape, lora, quantisation, rows, machine, checkpointing=checkpointing)
    if isinstance(plan, Refuse):
        raise TrainingError(plan.reason, hint=plan.hint, of_data=False)
    return plan


def hold_to(plan: Plan, device: str) -> None:
    """On a GPU, let torch take no more than the plan's budget: going beyond it is out of memory, though more is there.

    On a CPU nothing holds a process to a number of bytes; there the plan is all there is.
    """
    if device.startswith("cuda"):
        total = int(torch.cuda.mem_get_info()[1])
        torch.cuda.set_per_process_memory_fraction(share_of_device(plan, total))


def resident(key: str = "RssAnon") -> int:
    """What this process holds in main memory now in bytes, apart from files that Linux takes back when it likes; or
    another of its figures (proc_pid_status).
    """
    return _stated("/proc/self/status", key, "4.5")


def let_go() -> None:
    """Give what is no longer used back to the system: malloc would keep hundreds of MB of it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def hold_down(plan: Plan, before: int, device: str) -> None:
    """On a CPU, let go of what malloc keeps in holes, where half of the estimate's margin is held between two steps.

    Each step leaves other holes, and the next one would come close to what was promised. `before` is what was resident
    before the base was loaded. Not after each step, for the next one has to ask for its memory anew, which takes a
    fifth of its time.
    """
    allowed = (plan.estimate.peak_bytes + plan.estimate.needed_bytes) // 2
    if device == "cpu" and resident() - before > allowed:
        let_go()


def within(plan: Plan, device: str, attempt: Callable[[Plan], T]) -> tuple[T, Plan]:
    """Attempt a step by the plan, and where memory runs out once more with rows half as long, all of it anew.

    Returns what the attempt gave and the plan to go on with, which is another one where memory ran out.

    Raises:
        TrainingError: rows cannot be made shorter, or were already.
    """
    while True:
        try:
            return attempt(plan), plan
        except torch.OutOfMemoryError as failure:
            shorter = after_out_of_memory(plan)
            if isinstance(shorter, Refuse):
                raise TrainingError(shorter.reason, hint=shorter.hint, of_data=False) from failure
        # Only here is the failure gone, and with it what its frames held.
        plan = shorter
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def peak_flops(device: str) -> float | None:
    """What the device can do at most in bf16, FLOP/s: of a GPU by its name, of a CPU by a short measurement.

    None where the table does not know the GPU.
    """
    if device.startswith("cuda"):
        return peak_of(torch.cuda.get_device_name())
    return _measured()


def _measured() -> float:
    """The best of some products of matrices, with the threads that torch has now."""
    left, right = (torch.ones(_SIDE, _SIDE, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    best, until = float("inf"), time.monotonic() + _MEASURE_S
    while time.monotonic() < until or best == float("inf"):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best


def peak_memory_bytes(device: str) -> int:
    """The most memory this run held: of the GPU where it ran there, else resident."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
