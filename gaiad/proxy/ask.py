"""What a client asks: its bytes and headers, parsed once, trusted afterwards.

Decides whether a body can be understood at all, who asks, in which conversation, for which stage, and whether a person
is waiting. What the fields mean to the engine is the engine's to judge: a body without messages passes through.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from multidict import MultiMapping

from gaiad.config import Config
from gaiad.proxy.body import Fields, kind_of, read_fields, value_of
from gaiad.proxy.refusals import Rejection, bad_request
from gaiad.proxy.stages import BASE_STAGE, NamedStage, name_stage
from gaiad.user import user_name

STAGE_HEADER = "X-Gaia-Stage"
USER_HEADER = "X-Gaia-User"
CONVERSATION_HEADER = "X-Gaia-Conversation"
CONSENT_HEADER = "X-Gaia-Consent"


@dataclass(frozen=True, slots=True)
class Ask:
    """One understood request. `model` is what was asked for, None where nothing was; `is_user`: someone waits."""

    fields: Fields
    model: str | None
    stream: bool
    stage: NamedStage
    is_user: bool
    user: str | None
    conversation: str | None
    consent: str | None


def read_ask(raw: bytes, headers: MultiMapping[str], config: Config) -> Ask | Rejection:
    """Understand a request to an inference path, or say what is wrong with it."""
    fields = read_fields(raw)
    if isinstance(fields, Rejection):
        return fields
    try:
        model, metadata, user = (value_of(fields, key) for key in ("model", "metadata", "user"))
    except (ValueError, RecursionError):
        return bad_request("`model`, `metadata` or `user` holds a number or a depth that cannot be read.")
    if model is not None and not isinstance(model, str):
        return bad_request(f"`model` must be a string, not {kind_of(model)}.", param="model")
    stage = name_stage(
        header=headers.get(STAGE_HEADER),
        metadata=metadata,
        model=model,
        stages=config.stages,
        default_stage=config.proxy.default_stage,
    )
    if isinstance(stage, Rejection):
        return stage
    in_metadata = metadata.get("gaia_conversation") if isinstance(metadata, dict) else None
    return Ask(
        fields=fields,
        model=model or None,
        stream="stream" in fields and bytes(fields["stream"]) == b"true",
        stage=stage,
        is_user=stage.stage not in config.learning.background_stages,
        user=caller(headers, user, config),
        conversation=_first(headers.get(CONVERSATION_HEADER), in_metadata),
        # Sent twice it is one list, so that no copy of it can hide another that narrows.
        consent=",".join(headers.getall(CONSENT_HEADER)) if CONSENT_HEADER in headers else None,
    )


def as_errand(ask: Ask) -> Ask:
    """The same request on a path where nothing is said: for the base, unless an adapter is named, and for nobody."""
    stage = dataclasses.replace(ask.stage, stage=BASE_STAGE)
    return dataclasses.replace(ask, stage=stage, is_user=False, user=None, conversation=None, consent=None)


def named_caller(headers: MultiMapping[str], in_body: object = None) -> str | None:
    """Who the caller says it is, usable as a name or not; None where it says nothing."""
    return _first(headers.get(USER_HEADER), in_body)


def caller(headers: MultiMapping[str], in_body: object, config: Config) -> str | None:
    """Who asks: header, then body, then `[consent] anonymous_user`; a name that cannot be used is nobody's."""
    return user_name(named_caller(headers, in_body) or config.consent.anonymous_user)


def _first(*names: object) -> str | None:
    """The first name that says something; anything but text says nothing."""
    return next((name.strip() for name in names if isinstance(name, str) and name.strip()), None)
