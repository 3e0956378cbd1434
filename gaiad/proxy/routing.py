"""Which adapter version serves a request: a name in `model` and a stage, against one registry snapshot.

Decides the version and the arm, or that the name does not exist. It knows nothing of loading or waiting; a version in
the snapshot is one that the engine has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gaiad.adapter import AdapterName, Arm, RegistrySnapshot, VersionName, version_parts
from gaiad.proxy.refusals import Rejection, unknown_model
from gaiad.proxy.stages import BASE_STAGE, stage_in_model

AUTO = "auto"
BASE = "base"


@dataclass(frozen=True, slots=True)
class Serve:
    """Serve with `version`, or with the bare base model where it is None."""

    version: VersionName | None
    arm: Arm = Arm.NONE

    @property
    def label(self) -> str:
        """What the reply header calls it."""
        return self.version or BASE


def route(
    *,
    model: str | None,
    stage: str,
    stages: Mapping[str, str],
    base_names: Sequence[str],
    served_name: str,
    snapshot: RegistrySnapshot,
) -> Serve | Rejection:
    """Choose the version for a request that asked for `model` in `stage`.

    An adapter or a version named outright fixes it, whatever the stage; a base name, `auto`, `gaia:<stage>` or
    nothing leaves it to the stage. A stage without an active version is served by the base; an alias never is.
    """
    # 1. Left to the stage.
    if not model or model in (AUTO, served_name, *base_names) or stage_in_model(model) is not None:
        return _by_stage(stage, stages, snapshot)
    # 2. A version named outright.
    if version_parts(model) is not None:
        if model in snapshot.servable:
            return Serve(VersionName(model))
        return unknown_model(model, f"Versions that are loaded: {_listed(snapshot.servable)}.")
    # 3. An adapter named outright.
    active = snapshot.active.get(AdapterName(model))
    if active is not None:
        return Serve(active)
    if model in snapshot.adapters or model in stages.values():
        return unknown_model(model, "No version of this adapter is active yet; use the base, or train it.")
    # 4. A name that means nothing.
    aliases = _listed(snapshot.active)
    return unknown_model(model, f"Use `{served_name or AUTO}`, `gaia:<stage>` or an active adapter ({aliases}).")


def _by_stage(stage: str, stages: Mapping[str, str], snapshot: RegistrySnapshot) -> Serve:
    if stage == BASE_STAGE:
        return Serve(None)
    return Serve(snapshot.active.get(AdapterName(stages.get(stage, ""))))


def _listed(names: Mapping[AdapterName, VersionName] | frozenset[VersionName]) -> str:
    return ", ".join(sorted(names)) or "none"
