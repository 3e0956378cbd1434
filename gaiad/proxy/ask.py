"""What a client asks: its bytes and headers, parsed once, trusted afterwards.

Decides whether a body can be understood at all, who asks, in which conversation, for which stage, and whether a person
is waiting. What the fields mean to the engine is the engine's to judge: a body without messages passes through.
"""

from __future__ import annotations

import msgspec
from multidict import MultiMapping, istr

from gaiad.config import Config
from gaiad.keys import Key
from gaiad.proxy.body import Fields, kind_of, read_request, value_of
from gaiad.proxy.credentials import closed_stage
from gaiad.proxy.limits import over_limits
from gaiad.proxy.recognition import Rules
from gaiad.proxy.refusals import Rejection, bad_request
from gaiad.proxy.stages import BASE_STAGE, NamedStage, name_stage
from gaiad.user import user_name

STAGE_HEADER = istr("X-Gaia-Stage")
USER_HEADER = istr("X-Gaia-User")
CONVERSATION_HEADER = istr("X-Gaia-Conversation")
CONSENT_HEADER = istr("X-Gaia-Consent")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One understood request. `model` is what was asked for, None where nothing was; `is_user`: someone waits."""

    fields: Fields
    model: str | None
    stream: bool
    stage: NamedStage
    is_user: bool
    user: str | None
    conversation: str | None
    consent: str | None
    key: Key | None


def read_ask(
    raw: bytes, headers: MultiMapping[str], config: Config, rules: Rules, key: Key | None, *, errand: bool = False
) -> Ask | Rejection:
    """Understand a request, or say what is wrong with it; `rules` name a stage nobody named.

    An errand has no stage, so a key that is held to stages may send it.
    """
    read = read_request(raw)
    if isinstance(read, Rejection):
        return read
    fields, plain = read
    over = over_limits(fields, config.proxy.limits, plain)
    if over is not None:
        return over
    named = _names_in(fields)
    if isinstance(named, Rejection):
        return named
    model, metadata, user = named
    stage = name_stage(
        header=headers.get(STAGE_HEADER),
        metadata=metadata,
        model=model,
        stages=config.stages,
        default_stage=config.proxy.default_stage,
        recognise=lambda: rules.recognise(fields, plain),
    )
    if isinstance(stage, Rejection):
        return stage
    closed = None if errand else closed_stage(key, stage.stage)
    if closed is not None:
        return closed
    in_metadata = metadata.get("gaia_conversation") if isinstance(metadata, dict) else None
    ask = Ask(
        fields=fields,
        model=model or None,
        stream="stream" in fields and bytes(fields["stream"]) == b"true",
        stage=stage,
        is_user=stage.stage not in config.learning.background_stages,
        user=caller(headers, user, config, key),
        conversation=_first(headers.get(CONVERSATION_HEADER), in_metadata),
        # Sent twice it is one list, so that no copy of it can hide another that narrows.
        consent=",".join(headers.getall(CONSENT_HEADER)) if CONSENT_HEADER in headers else None,
        key=key,
    )
    return _as_errand(ask) if errand else ask


def _names_in(fields: Fields) -> tuple[str | None, object, object] | Rejection:
    """What the body says of model, metadata and user."""
    try:
        model, metadata, user = value_of(fields, "model"), value_of(fields, "metadata"), value_of(fields, "user")
    except (ValueError, RecursionError):
        return bad_request("`model`, `metadata` or `user` holds a number or a depth that cannot be read.")
    if model is not None and not isinstance(model, str):
        return bad_request(f"`model` must be a string, not {kind_of(model)}.", param="model")
    return model, metadata, user


def _as_errand(ask: Ask) -> Ask:
    """The same request on a path where nothing is said: for the base, unless an adapter is named, and for nobody."""
    stage = msgspec.structs.replace(ask.stage, stage=BASE_STAGE)
    return msgspec.structs.replace(ask, stage=stage, is_user=False, user=None, conversation=None, consent=None)


def named_caller(headers: MultiMapping[str], in_body: object, key: Key | None) -> str | None:
    """Who the caller says it is, usable as a name or not; None where it says nothing. A key's name needs no saying."""
    if key is not None:
        return key.name
    return _first(headers.get(USER_HEADER), in_body)


def caller(headers: MultiMapping[str], in_body: object, config: Config, key: Key | None) -> str | None:
    """Who asks: key, header, body, then `[consent] anonymous_user`; a name that cannot be used is nobody's."""
    named = named_caller(headers, in_body, key) or config.consent.anonymous_user
    return user_name(named) if named else None


def _first(*names: object) -> str | None:
    """The first name that says something; anything but text says nothing."""
    for name in names:
        if isinstance(name, str) and (said := name.strip()):
            return said
    return None
