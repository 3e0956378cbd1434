"""What a client asks: its bytes and headers, parsed once, trusted afterwards.

Decides whether a body can be understood at all, who asks, in which conversation, for which stage, and whether a person
is waiting. What the fields mean to the engine is the engine's to judge: a body without messages passes through.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import msgspec
from multidict import MultiMapping

from gaiad.config import Config
from gaiad.proxy.recognition import Rules
from gaiad.proxy.refusals import Rejection, bad_request, nested_too_deeply
from gaiad.proxy.stages import NamedStage, name_stage

STAGE_HEADER = "X-Gaia-Stage"
USER_HEADER = "X-Gaia-User"
CONVERSATION_HEADER = "X-Gaia-Conversation"
CONSENT_HEADER = "X-Gaia-Consent"


@dataclass(frozen=True, slots=True)
class Ask:
    """One understood request. `model` is what was asked for, None where nothing was; `is_user`: someone waits."""

    body: dict[str, Any]
    model: str | None
    stream: bool
    stage: NamedStage
    is_user: bool
    user: str | None
    conversation: str | None
    consent: str | None


def read_ask(raw: bytes, headers: MultiMapping[str], config: Config, rules: Rules) -> Ask | Rejection:
    """Understand a request to an inference path, or say what is wrong with it; `rules` name a stage nobody named."""
    body = read_object(raw)
    if isinstance(body, Rejection):
        return body
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        return bad_request(f"`model` must be a string, not {_kind(model)}.", param="model")
    metadata = body.get("metadata")
    stage = name_stage(
        header=headers.get(STAGE_HEADER),
        metadata=metadata,
        model=model,
        stages=config.stages,
        default_stage=config.proxy.default_stage,
        recognise=lambda: rules.recognise(raw_fields(body)),
    )
    if isinstance(stage, Rejection):
        return stage
    in_metadata = metadata.get("gaia_conversation") if isinstance(metadata, dict) else None
    return Ask(
        body=body,
        model=model or None,
        stream=body.get("stream") is True,
        stage=stage,
        is_user=stage.stage not in config.learning.background_stages,
        user=_first(headers.get(USER_HEADER), body.get("user"), config.consent.anonymous_user),
        conversation=_first(headers.get(CONVERSATION_HEADER), in_metadata),
        # Sent twice it is one list, so that no copy of it can hide another that narrows.
        consent=",".join(headers.getall(CONSENT_HEADER)) if CONSENT_HEADER in headers else None,
    )


def raw_fields(body: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """The top level of a body as recognition reads it; none where the body is nested too deeply to be written anew."""
    try:
        return {key: msgspec.Raw(json.dumps(value).encode()) for key, value in body.items()}
    except RecursionError:
        return {}


def read_object(raw: bytes) -> dict[str, Any] | Rejection:
    """Parse a JSON object, or say where it stops being one."""
    try:
        parsed = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        return bad_request(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            code="invalid_json",
        )
    except UnicodeDecodeError as error:
        return bad_request(f"The body is not valid UTF-8 at byte {error.start}.", code="invalid_json")
    except RecursionError:
        return nested_too_deeply()
    except ValueError as error:
        # Python's own words about a long integer name its settings.
        if str(error).startswith("Exceeds the limit"):
            return bad_request("A number in the body has too many digits.", code="invalid_json")
        return bad_request(f"The body is not valid JSON: {error}.", code="invalid_json")
    if not isinstance(parsed, dict):
        return bad_request(f"The body must be a JSON object, not {_kind(parsed)}.", code="invalid_json")
    return parsed


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _first(*names: object) -> str | None:
    """The first name that says something; anything but text says nothing."""
    return next((name.strip() for name in names if isinstance(name, str) and name.strip()), None)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")
