"""What a caller says about their own consent: a grant or a revocation, understood once.

Decides whose consent a caller may speak about, which is their own alone, and whether what is asked can be read at all.
What it comes to is `consent`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gaiad.proxy.refusals import Rejection, bad_request, not_your_consent, without_identity
from gaiad.user import conversation_name, user_name

MAX_EXPIRES_IN_S = 100 * 366 * 86400
DEFAULT_EVENTS, MAX_EVENTS = 100, 1000
_PURPOSES = ("log", "train", "evaluate")
_ACTIONS = ("grant", "revoke")
_KNOWN = ("purpose", "action", "conversation", "expires_in_s", "user")


@dataclass(frozen=True, slots=True)
class Said:
    """One understood grant or revocation of `user`."""

    user: str
    purpose: str
    action: str
    conversation: str | None
    expires_in_s: float | None


def read_said(body: Mapping[str, object], caller: str | None) -> Said | Rejection:
    """Understand what `caller` says, or say what is wrong with it."""
    user = own_consent(caller, body.get("user"))
    if isinstance(user, Rejection):
        return user
    strange = sorted(set(body) - set(_KNOWN))
    if strange:
        return bad_request(f"`{strange[0][:100]}` is not known here: use {', '.join(_KNOWN)}.", param=strange[0][:100])
    purpose, action = body.get("purpose"), body.get("action")
    if not isinstance(purpose, str) or purpose not in _PURPOSES:
        return bad_request(f"`purpose` must be one of {', '.join(_PURPOSES)}.", param="purpose")
    if not isinstance(action, str) or action not in _ACTIONS:
        return bad_request(f"`action` must be one of {', '.join(_ACTIONS)}.", param="action")
    conversation = read_conversation(body.get("conversation"))
    if isinstance(conversation, Rejection):
        return conversation
    expires_in_s = _read_end(body.get("expires_in_s"), action)
    if isinstance(expires_in_s, Rejection):
        return expires_in_s
    return Said(user, purpose, action, conversation, expires_in_s)


def own_consent(caller: str | None, named: object = None) -> str | Rejection:
    """Whose consent it is about: the caller's, who may name nobody else."""
    if caller is None:
        return without_identity()
    if named is not None and (not isinstance(named, str) or user_name(named) != caller):
        return not_your_consent()
    return caller


def read_conversation(value: object) -> str | Rejection | None:
    """The conversation that is meant, None for all of them where none is named."""
    if value is None:
        return None
    name = conversation_name(value) if isinstance(value, str) else None
    return name or bad_request("`conversation` must be the name of one, as text.", param="conversation")


def read_limit(value: str | None) -> int | Rejection:
    """How many of the newest events are wanted."""
    if value is None:
        return DEFAULT_EVENTS
    if not value.isascii() or not value.isdecimal() or len(value) > 4 or not 1 <= int(value) <= MAX_EVENTS:
        return bad_request(f"`limit` must be 1 to {MAX_EVENTS}.", param="limit")
    return int(value)


def _read_end(value: object, action: str) -> float | Rejection | None:
    if value is None:
        return None
    if action == "revoke":
        return bad_request("A revocation does not expire: leave out `expires_in_s`.", param="expires_in_s")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_EXPIRES_IN_S:
        message = f"`expires_in_s` must be a number of seconds above 0, {MAX_EXPIRES_IN_S} at most."
        return bad_request(message, param="expires_in_s")
    return float(value)
