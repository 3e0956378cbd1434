"""Which key a request comes with, and what it may be used for.

Where no key is wanted, everybody may. Health is everybody's always: who watches over the daemon needs no key.
"""

from __future__ import annotations

from collections.abc import Mapping

from gaiad.adapter import version_parts
from gaiad.keys import Key, Keyring
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.routing import Serve

OPEN_PATHS = frozenset({"/health", "/ping"})
_SCHEME = "bearer "


def key_of(path: str, headers: Mapping[str, str], ring: Keyring | None) -> Key | Rejection | None:
    """The key of a request, None where none is wanted, or why it may not go on."""
    if ring is None or path in OPEN_PATHS:
        return None
    authorization = headers.get("Authorization", "")
    if authorization[: len(_SCHEME)].lower() == _SCHEME:
        presented = authorization[len(_SCHEME) :].strip()
    else:
        presented = headers.get("x-api-key", "").strip()
    return ring.find(presented) or _unknown_key(given=bool(presented))


def closed_stage(key: Key | None, stage: str) -> Rejection | None:
    """Why a key may not be used for a stage."""
    if key is None or key.opens(stage):
        return None
    message = f"This key may not be used for the stage `{stage}`. {_stages(key)}"
    return Rejection(403, message, "permission_error", "stage_not_allowed")


def reachable(key: Key | None, found: Serve | Rejection, stages: Mapping[str, str]) -> Serve | Rejection:
    """What a key may be served by: an adapter that was named outright must be that of one of its stages."""
    if key is None or key.stages is None or isinstance(found, Rejection) or found.version is None:
        return found
    parts = version_parts(found.version)
    if parts is None or any(stages.get(stage) == parts.adapter for stage in key.stages):
        return found
    message = f"This key may not be used for `{parts.adapter}`, which serves none of its stages. {_stages(key)}"
    return Rejection(403, message, "permission_error", "stage_not_allowed", param="model")


def _stages(key: Key) -> str:
    return f"Its stages are: {', '.join(sorted(key.stages or ())) or 'none'}."


def _unknown_key(*, given: bool) -> Rejection:
    what = "This API key is not known here." if given else "An API key is wanted."
    message = f"{what} Send one that gaiadctl keys add gave out, as `Authorization: Bearer KEY` or `x-api-key: KEY`."
    return Rejection(401, message, code="invalid_api_key")
