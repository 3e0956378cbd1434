"""What gaia-core and its neighbours ask of an engine of their own, answered by the proxy.

Pure. They load, unload and set adapters, move models and drop caches; here versions are the registry's, so nothing of
that is done: what holds already is confirmed, what does not exist is said not to. The engine never hears of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gaiad.adapter import AdapterName, RegistrySnapshot
from gaiad.proxy.refusals import Rejection, bad_request, unknown_model

NOTHING_TO_DO = (
    "/adapter/set",
    "/cache/invalidate",
    "/cache/update",
    "/inference/cancel",
    "/inference/drain",
    "/inference/resume",
)
"""POSTs that are confirmed and change nothing."""

_ELSEWHERE = "Adapters come from gaiad's registry: gaiadctl adapters import, then they serve by their name."


@dataclass(frozen=True, slots=True)
class Scene:
    """What stands when somebody asks. `served_name` and `version` are the engine's, empty while unknown."""

    health: Mapping[str, Any]
    snapshot: RegistrySnapshot
    served_name: str = ""
    version: str = ""
    max_model_len: int | None = None

    @property
    def model_loaded(self) -> bool:
        """Whether requests get to a model now."""
        return bool(self.health.get("model_loaded"))


def status(scene: Scene) -> dict[str, Any]:
    """`GET /status`."""
    return {**scene.health, **_engine(scene), "adapters": _adapters(scene.snapshot)}


def model_info(scene: Scene) -> dict[str, Any]:
    """`GET /model/info`."""
    loaded = {"model_loaded": scene.model_loaded, "max_model_len": scene.max_model_len}
    return {**_engine(scene), **loaded, "adapters": _adapters(scene.snapshot)}


def adapter_status(scene: Scene) -> dict[str, Any]:
    """`GET /adapter/status`: none is set for all, each request names its own."""
    return {"ok": True, "active": None, "loaded": sorted(scene.snapshot.active), "adapters": _adapters(scene.snapshot)}


def adapter_list(scene: Scene) -> dict[str, Any]:
    """`GET /adapter/list`."""
    return {"adapters": _adapters(scene.snapshot)}


def load_model(scene: Scene) -> tuple[int, dict[str, Any]]:
    """`POST /model/load`: the model is gaiad's to start, so it is there or on its way."""
    if scene.model_loaded:
        return 409, {"ok": False, "error": "already loaded", "model": scene.served_name}
    return 200, {"ok": True, "model": scene.served_name, "message": "gaiad starts it"}


def named_adapter(body: Mapping[str, Any]) -> str | Rejection:
    """Which adapter a request to load or unload means: its name, or the folder that it would come from."""
    for key in ("lora_name", "name"):
        if isinstance(body.get(key), str) and body[key]:
            return str(body[key])
    for key in ("adapter_path", "path"):
        if isinstance(body.get(key), str) and body[key].strip("/"):
            return str(body[key].rstrip("/").rpartition("/")[2])
    return bad_request("`lora_name` or `name` must be the name of an adapter.", param="name")


def loading(name: str, snapshot: RegistrySnapshot) -> Rejection | None:
    """None where an adapter or version serves already, else why it cannot be loaded."""
    if name in snapshot.active or name in snapshot.servable:
        return None
    if _is_registered(name, snapshot):
        return unknown_model(name, "It is known here, but no version of it serves now; gaiadctl status tells more.")
    return unknown_model(name, _ELSEWHERE)


def unloading(name: str, snapshot: RegistrySnapshot) -> Rejection | None:
    """None for an adapter or version that is known here, and stays as it is; else that there is none."""
    return None if _is_registered(name, snapshot) else unknown_model(name, _ELSEWHERE)


def _is_registered(name: str, snapshot: RegistrySnapshot) -> bool:
    known = (snapshot.adapters, snapshot.active, snapshot.servable, snapshot.servable_unloaded)
    return any(name in names for names in known)


def _engine(scene: Scene) -> dict[str, Any]:
    return {"engine": "vllm", "backend": "vllm", "model": scene.served_name, "version": scene.version}


def _adapters(snapshot: RegistrySnapshot) -> list[dict[str, Any]]:
    names = sorted({*snapshot.adapters, *snapshot.active})
    return [
        {
            "name": name,
            "version": snapshot.active.get(AdapterName(name)) or snapshot.active_unloaded.get(AdapterName(name)),
            "loaded": name in snapshot.active,
        }
        for name in names
    ]
