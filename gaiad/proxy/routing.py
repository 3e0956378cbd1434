"""Which adapter version serves a request: a name in `model` and a stage, against one registry snapshot.

Decides the version and the arm, or that the name does not exist, and whether that is so for good. It loads nothing and
waits for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gaiad.adapter import AdapterName, Arm, RegistrySnapshot, VersionName, version_parts
from gaiad.proxy.refusals import Rejection, unknown_model
from gaiad.proxy.stages import BASE_STAGE, stage_in_model

AUTO = "auto"
BASE = "base"
_NOT_LOADED = "The engine does not have it loaded now; gaiadctl status tells more."


@dataclass(frozen=True, slots=True)
class Serve:
    """Serve with `version`, or with the bare base model where it is None."""

    version: VersionName | None
    arm: Arm = Arm.NONE

    @property
    def label(self) -> str:
        """What the reply header calls it."""
        return self.version or BASE

    def answers_for(self, stage: str, stages: Mapping[str, str]) -> bool:
        """Whether it is what `stage` is served by: its own adapter, or the base.

        An adapter that was named outright, whatever the stage, is not held to the shape of another's replies.
        """
        parts = version_parts(self.version) if self.version is not None else None
        return parts is None or stages.get(stage) == parts.adapter


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
        if model in snapshot.servable_unloaded:
            return unknown_model(model, _NOT_LOADED)
        return unknown_model(model, f"Versions that are loaded: {_listed(snapshot.servable)}.")
    # 3. An adapter named outright.
    active = snapshot.active.get(AdapterName(model))
    if active is not None:
        return Serve(active)
    if AdapterName(model) in snapshot.active_unloaded:
        return unknown_model(
            model, f"Its active version is {snapshot.active_unloaded[AdapterName(model)]}. {_NOT_LOADED}"
        )
    if model in snapshot.adapters or model in stages.values():
        return unknown_model(model, "No version of this adapter is active yet; use the base, or train it.")
    # 4. A name that means nothing.
    aliases = _listed(snapshot.active)
    return unknown_model(model, f"Use `{served_name or AUTO}`, `gaia:<stage>` or an active adapter ({aliases}).")


def may_come_to_serve(model: str | None, snapshot: RegistrySnapshot) -> bool:
    """Whether a name that cannot serve now is that of a version, or of an adapter with one, that only is not loaded."""
    return model in snapshot.active_unloaded or model in snapshot.servable_unloaded


def _by_stage(stage: str, stages: Mapping[str, str], snapshot: RegistrySnapshot) -> Serve:
    if stage == BASE_STAGE:
        return Serve(None)
    return Serve(snapshot.active.get(AdapterName(stages.get(stage, ""))))


def _listed(names: Mapping[AdapterName, VersionName] | frozenset[VersionName]) -> str:
    return ", ".join(sorted(names)) or "none"
