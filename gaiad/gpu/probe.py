"""What the machine itself says: which device there is, how much memory is free, which processes live.

Reads NVML (by its C library, where there is a driver) and `/proc`. Decides nothing and ends nothing.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gaiad.errors import EngineError
from gaiad.gpu.handoff import Device

_PROC = Path("/proc")


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True, slots=True)
class Memory:
    """A device's memory; on the CPU the machine's."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Living:
    """A process that is not a zombie; `started` counts the kernel's ticks since boot and tells reused ids apart."""

    pid: int
    group: int
    session: int
    state: str
    started: int


def device_of(setting: Literal["auto", "cpu", "gpu"]) -> Device:
    """Return the device that `engine.device` means on this machine."""
    if setting != "auto":
        return setting
    return "gpu" if gpu_memory() is not None else "cpu"


def gpu_memory() -> Memory | None:
    """Return the first GPU's memory as the driver measures it, or None where there is no GPU."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        gpu, memory = ctypes.c_void_p(), _NvmlMemory()
        if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) != 0:
            return None
        if nvml.nvmlDeviceGetMemoryInfo(gpu, ctypes.byref(memory)) != 0:
            return None
        return Memory(int(memory.total), int(memory.free))
    finally:
        nvml.nvmlShutdown()


def machine_memory() -> Memory:
    """Return the machine's memory: all of it, and what could be had without swapping."""
    rows: dict[str, int] = {}
    for line in (_PROC / "meminfo").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        rows[name] = int(rest.split()[0]) * 1024
    return Memory(rows["MemTotal"], rows["MemAvailable"])


def device_memory(device: Device) -> Memory:
    """Return the memory of the device that the engine runs on.

    Raises:
        EngineError: the GPU does not answer.
    """
    if device == "cpu":
        return machine_memory()
    memory = gpu_memory()
    if memory is None:
        raise EngineError("the GPU's memory cannot be measured", hint="check that nvidia-smi works for this user")
    return memory


def boot_id() -> str:
    """Return the id of this boot of the machine: process ids mean nothing across boots."""
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()


def living(pid: int) -> Living | None:
    """Return the process `pid`, or None where it is gone or only waits to be reaped."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name stands in brackets and may hold anything; the rest is columns, the process's state first.
    columns = text.rpartition(")")[2].split()
    if columns[0] in ("Z", "X"):
        return None
    return Living(pid, int(columns[2]), int(columns[3]), columns[0], int(columns[19]))


def group_members(group: int) -> list[Living]:
    """Return the living members of a process group."""
    found = (living(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [one for one in found if one is not None and one.group == group]
