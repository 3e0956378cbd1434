"""Which stage of the assistant's work a request belongs to, and how that is known.

The header wins over `metadata.gaia_stage`, that over `gaia:<stage>` in `model`, that over what `recognition` makes of
the request, that over the default stage. Which adapter serves a stage is decided in `routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from gaiad.proxy.recognition import Recognised
from gaiad.proxy.refusals import Rejection, bad_request, unknown_model

BASE_STAGE = "base"
STAGE_PREFIX = "gaia:"


class StageReason(StrEnum):
    """How the stage was named; where it was recognised, the reason is `rule:<id>` instead."""

    HEADER = "header"
    METADATA = "metadata"
    MODEL = "model"
    DEFAULT = "default"


class NamedStage(msgspec.Struct, frozen=True):
    """A stage and where its name came from: a `StageReason`, or the rule that recognised it."""

    stage: str
    reason: str


def known_stages(stages: Mapping[str, str]) -> tuple[str, ...]:
    """All stages of a configuration, the base's included, sorted."""
    return tuple(sorted({*stages, BASE_STAGE}))


def name_stage(
    *,
    header: str | None,
    metadata: object,
    model: str | None,
    stages: Mapping[str, str],
    default_stage: str,
    recognise: Callable[[], Recognised | None],
) -> NamedStage | Rejection:
    """Name the stage of a request, or say why the name given is none.

    `metadata` is the request's field as it came; anything but an object holds no stage. A `gaia:<x>` in `model` must
    be a stage even where the header already named one. `recognise` is asked only where nobody names the stage.
    """
    in_model = stage_in_model(model)
    if in_model is not None and not _is_stage(in_model, stages):
        return unknown_model(f"{STAGE_PREFIX}{in_model}", f"Stages are: {', '.join(known_stages(stages))}.")
    # 1. The header, where it says anything.
    if header is not None and header.strip():
        return _checked(header.strip(), StageReason.HEADER, "header X-Gaia-Stage", stages)
    # 2. The body's metadata.
    in_metadata = metadata.get("gaia_stage") if isinstance(metadata, dict) else None
    if in_metadata is not None:
        return _checked(in_metadata, StageReason.METADATA, "metadata.gaia_stage", stages)
    # 3. The alias in `model`.
    if in_model is not None:
        return NamedStage(in_model, StageReason.MODEL)
    # 4. What the request looks like.
    recognised = recognise()
    if recognised is not None:
        return NamedStage(recognised.stage, recognised.reason)
    # 5. Nothing said so.
    return NamedStage(default_stage, StageReason.DEFAULT)


def stage_in_model(model: str | None) -> str | None:
    """The stage that `gaia:<stage>` names, or None for any other model name."""
    if model is None or not model.startswith(STAGE_PREFIX):
        return None
    return model.removeprefix(STAGE_PREFIX)


def _is_stage(name: str, stages: Mapping[str, str]) -> bool:
    return name in stages or name == BASE_STAGE


def _checked(name: object, reason: StageReason, place: str, stages: Mapping[str, str]) -> NamedStage | Rejection:
    if not isinstance(name, str) or not _is_stage(name, stages):
        shown = name if isinstance(name, str) else repr(name)
        message = f"Unknown stage `{shown}` in {place}. Stages are: {', '.join(known_stages(stages))}."
        return bad_request(message, param=place, code="unknown_stage")
    return NamedStage(name, reason)
