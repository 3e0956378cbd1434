"""The status page: one picture of the daemon, turned into the JSON of `GET /status`.

Pure: takes a `World` and returns plain values. Decides only how healthy the whole is called, by the GPU's phase and
what the engine has loaded; the proxy's `/health` says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gaiad.adapter import AdapterName, RegistrySnapshot, VersionName
from gaiad.config import Config

_STARTING = frozenset({"starting"})
_SERVING = frozenset({"serving", "probing"})
_BROKEN = frozenset({"restarting"})
_DOWN = frozenset({"down"})
_GATE_OPEN = frozenset({"serving", "lent"})


@dataclass(frozen=True, slots=True)
class World:
    """What stands in the daemon at one moment. Times are wall-clock seconds."""

    config: Config
    now: float
    started_at: float
    pid: int
    version: str
    gpu: Mapping[str, object]
    engine: Mapping[str, object]
    active_inference: int
    held: int
    last_user_end: float | None
    snapshot: RegistrySnapshot
    active_not_loaded: Mapping[AdapterName, VersionName]
    learning: Mapping[str, object]
    store: Mapping[str, object]
    first_start: bool = False

    @property
    def phase(self) -> str:
        """The GPU's phase."""
        return str(self.gpu.get("phase", "starting"))


def health_of(phase: str, *, anything_missing: bool = False, first_start: bool = False) -> str:
    """Name the health of the whole: starting, ok, training, degraded or down.

    `first_start`: no engine was ready yet since gaiad started, so that being probed is a part of starting.
    """
    if phase in _STARTING or (first_start and phase == "probing"):
        return "starting"
    if phase in _DOWN:
        return "down"
    if phase in _BROKEN:
        return "degraded"
    if phase in _SERVING:
        return "degraded" if anything_missing else "ok"
    return "training"


def health_page(health: str, phase: str, active_inference: int) -> dict[str, object]:
    """What `/health` answers. A model counts as loaded only while requests get to it."""
    is_open = phase in _GATE_OPEN
    return {
        "status": health,
        "model_loaded": is_open,
        "engine": "vllm",
        "mode": "active" if is_open else "standby",
        "active_inference": active_inference,
    }


def status_of(world: World) -> dict[str, object]:
    """The whole status page."""
    engine = world.config.engine
    return {
        "health": health_of(world.phase, anything_missing=bool(world.active_not_loaded), first_start=world.first_start),
        "pid": world.pid,
        "started_at": world.started_at,
        "uptime_s": max(0.0, world.now - world.started_at),
        "proxy": {"listen": world.config.proxy.listen},
        "engine": {"mode": engine.mode, "url": engine.url, **world.engine},
        "gpu": dict(world.gpu),
        "requests": {"active": world.active_inference, "held": world.held, "last_user_end": world.last_user_end},
        "stages": stage_table(world.config.stages, world.snapshot),
        "learning": {"enabled": world.config.learning.enabled, **world.learning},
        "store": dict(world.store),
        "versions": {"gaiad": world.version, "engine": world.engine.get("version")},
        "active_not_loaded": dict(world.active_not_loaded),
    }


def stage_table(stages: Mapping[str, str], snapshot: RegistrySnapshot) -> list[dict[str, str | None]]:
    """A row a stage: its adapter, the version that serves it now (None: the base), and the one before."""
    rows: list[dict[str, str | None]] = []
    for stage, name in stages.items():
        adapter = AdapterName(name)
        rows.append(
            {
                "stage": stage,
                "adapter": name or None,
                "version": snapshot.active.get(adapter),
                "previous": snapshot.previous.get(adapter),
            }
        )
    rows.append({"stage": "base", "adapter": None, "version": None, "previous": None})
    return rows
