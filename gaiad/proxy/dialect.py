"""What the engine gets in place of what the client sent.

Rewrites `model`, takes `metadata.gaia_*` out, asks for token counts in streams, and translates constraints between
`guided_*` and `structured_outputs` for the engine's version. A constraint is translated or refused, never dropped:
newer engines ignore `guided_*` with HTTP 200, older ones `structured_outputs`. Everything else passes untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gaiad.proxy.body import Fields, given, joined, raw, value_of
from gaiad.proxy.endpoints import COMPLETIONS, Form
from gaiad.proxy.refusals import Rejection, bad_request

GUIDED: Mapping[str, str] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_NO_CONSTRAINT = ("guided_decoding_backend", "guided_whitespace_pattern")
_MODERN_SINCE = (0, 11)


_GUIDED_KEYS = frozenset({*GUIDED, *_NO_CONSTRAINT})
_TRUE = b"true"


class Rewritten(msgspec.Struct, frozen=True):
    """A body for the engine, encoded. `hide_usage`: token counts in the stream were our wish, not the client's."""

    body: bytes
    hide_usage: bool = False


def engine_release(version: str | None) -> tuple[int, int] | None:
    """Take major and minor out of a version text such as `0.12.1rc2+cpu`, or None when it has none."""
    match = re.match(r"v?(\d+)\.(\d+)", version or "")
    return (int(match[1]), int(match[2])) if match else None


def for_engine(
    fields: Fields, *, model: msgspec.Raw, engine_version: str | None, form: Form = Form.CHAT
) -> Rewritten | Rejection:
    """Rewrite a client's body for the engine; what is not meant to change is copied byte for byte.

    `model` is the engine's name for what is to serve, as JSON.
    """
    is_ours = form in COMPLETIONS
    constrained = _with_constraint(fields, engine_version) if is_ours else fields
    if isinstance(constrained, Rejection):
        return constrained
    sent = dict(constrained)
    sent["model"] = model
    if "metadata" in sent:
        _take_out_ours(sent)
    hide_usage = _count_tokens(sent) if is_ours and "stream" in sent else False
    return Rewritten(joined(sent), hide_usage)


def _take_out_ours(sent: dict[str, msgspec.Raw]) -> None:
    metadata = value_of(sent, "metadata")
    if not isinstance(metadata, dict) or not any(key.startswith("gaia_") for key in metadata):
        return
    kept = {key: value for key, value in metadata.items() if not key.startswith("gaia_")}
    if kept:
        sent["metadata"] = raw(kept)
    else:
        del sent["metadata"]


def _count_tokens(sent: dict[str, msgspec.Raw]) -> bool:
    """Ask for token counts in a stream; say whether that is our wish alone."""
    if bytes(sent["stream"]) != _TRUE:
        return False
    options = value_of(sent, "stream_options")
    if not (options is None or isinstance(options, dict)):
        return False
    options = options or {}
    if options.get("include_usage"):
        return False
    sent["stream_options"] = raw({**options, "include_usage": True})
    return True


def _with_constraint(fields: Fields, engine_version: str | None) -> Fields | Rejection:
    # 1. Not constrained in either way: most requests.
    if _GUIDED_KEYS.isdisjoint(fields) and "structured_outputs" not in fields:
        return fields
    conflict = conflicting(fields)
    if conflict is not None:
        return conflict
    release, guided = engine_release(engine_version), _guided(fields)
    # 2. Constrained in the old way: as the engine understands it.
    if guided:
        return _from_guided(fields, guided[0], release)
    # 3. Constrained in the new way, and the engine is too old for it.
    if given(fields, "structured_outputs") and release is not None and release < _MODERN_SINCE:
        return _to_guided(fields)
    # 4. Not constrained in the old way: its empty fields say nothing.
    if release is not None and release < _MODERN_SINCE:
        return fields
    return _without_guided(fields)


def _guided(fields: Fields) -> list[str]:
    return [key for key in GUIDED if given(fields, key)]


def conflicting(fields: Fields) -> Rejection | None:
    """What no engine can honour, whatever its version: two constraints at once."""
    guided = [] if GUIDED.keys().isdisjoint(fields) else _guided(fields)
    if not guided:
        return None
    form = value_of(fields, "response_format")
    others = guided[1:]
    if given(fields, "structured_outputs"):
        others.append("structured_outputs")
    if isinstance(form, dict) and form.get("type") not in (None, "text"):
        others.append(f"response_format {form.get('type')}")
    if not others:
        return None
    message = f"`{guided[0]}` cannot be combined with `{others[0]}`: give one constraint."
    return bad_request(message, param=guided[0], code="conflicting_constraints")


def _from_guided(fields: Fields, field: str, release: tuple[int, int] | None) -> Fields | Rejection:
    if release is None:
        message = f"`{field}` cannot be honoured: the engine's version is unknown. Send `structured_outputs` instead."
        return bad_request(message, param=field, code="unsupported_constraint")
    if release < _MODERN_SINCE:
        return fields
    constraint = {GUIDED[field]: fields[field]}
    if given(fields, "guided_whitespace_pattern"):
        constraint["whitespace_pattern"] = fields["guided_whitespace_pattern"]
    return {**_without_guided(fields), "structured_outputs": msgspec.Raw(joined(constraint))}


def _to_guided(fields: Fields) -> Fields | Rejection:
    wanted = value_of(fields, "structured_outputs")
    old_name = {new: old for old, new in GUIDED.items()}
    asked = {key: value for key, value in wanted.items() if value is not None} if isinstance(wanted, dict) else {}
    field = next(iter(asked), None)
    if len(asked) != 1 or field not in old_name:
        message = "This engine is older than structured_outputs; give exactly one of json, regex, choice, grammar."
        return bad_request(message, param="structured_outputs", code="unsupported_constraint")
    rest = {key: value for key, value in fields.items() if key != "structured_outputs"}
    return {**rest, old_name[field]: raw(asked[field])}


def _without_guided(fields: Fields) -> Fields:
    return {key: value for key, value in fields.items() if key not in _GUIDED_KEYS}
