"""What the engine gets in place of what the client sent, and what the client reads in place of what it said.

Rewrites `model`, takes `metadata.gaia_*` out, asks for token counts in streams, and translates constraints between
`guided_*` and `structured_outputs` for the engine's version. A constraint is translated or refused, never dropped:
newer engines ignore `guided_*` with HTTP 200, older ones `structured_outputs`. Everything else passes untouched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gaiad.proxy.refusals import Rejection, bad_request

Body = dict[str, Any]

GUIDED: Mapping[str, str] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_NO_CONSTRAINT = ("guided_decoding_backend", "guided_whitespace_pattern")
_MODERN_SINCE = (0, 11)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A body for the engine. `hide_usage`: token counts in the stream were our wish, not the client's."""

    body: Body
    hide_usage: bool = False


def engine_release(version: str | None) -> tuple[int, int] | None:
    """Take major and minor out of a version text such as `0.12.1rc2+cpu`, or None when it has none."""
    match = re.match(r"v?(\d+)\.(\d+)", version or "")
    return (int(match[1]), int(match[2])) if match else None


def for_engine(body: Body, *, model: str, engine_version: str | None) -> Rewritten | Rejection:
    """Rewrite a client's body for the engine; the client's own dict stays as it is."""
    constrained = _with_constraint(body, engine_release(engine_version))
    if isinstance(constrained, Rejection):
        return constrained
    sent = {**constrained, "model": model}
    metadata = sent.get("metadata")
    if isinstance(metadata, dict):
        kept = {key: value for key, value in metadata.items() if not key.startswith("gaia_")}
        if kept:
            sent["metadata"] = kept
        elif metadata:
            del sent["metadata"]
    return _counting_tokens(sent)


def _counting_tokens(sent: Body) -> Rewritten:
    options = sent.get("stream_options")
    if sent.get("stream") is not True or not (options is None or isinstance(options, dict)):
        return Rewritten(sent)
    options = options or {}
    if options.get("include_usage"):
        return Rewritten(sent)
    return Rewritten({**sent, "stream_options": {**options, "include_usage": True}}, hide_usage=True)


def _with_constraint(body: Body, release: tuple[int, int] | None) -> Body | Rejection:
    conflict = conflicting(body)
    if conflict is not None:
        return conflict
    guided = _guided(body)
    # 1. Constrained in the old way: as the engine understands it.
    if guided:
        return _from_guided(body, guided[0], release)
    # 2. Constrained in the new way, and the engine is too old for it.
    if body.get("structured_outputs") is not None and release is not None and release < _MODERN_SINCE:
        return _to_guided(body)
    # 3. Not constrained in the old way: its empty fields say nothing.
    if release is not None and release < _MODERN_SINCE:
        return body
    return _without_guided(body)


def _guided(body: Body) -> list[str]:
    return [key for key in GUIDED if body.get(key) is not None]


def conflicting(body: Body) -> Rejection | None:
    """What no engine can honour, whatever its version: two constraints at once."""
    guided = _guided(body)
    if not guided:
        return None
    form = body.get("response_format")
    others = guided[1:]
    if body.get("structured_outputs") is not None:
        others.append("structured_outputs")
    if isinstance(form, dict) and form.get("type") not in (None, "text"):
        others.append(f"response_format {form.get('type')}")
    if not others:
        return None
    message = f"`{guided[0]}` cannot be combined with `{others[0]}`: give one constraint."
    return bad_request(message, param=guided[0], code="conflicting_constraints")


def _from_guided(body: Body, field: str, release: tuple[int, int] | None) -> Body | Rejection:
    if release is None:
        message = f"`{field}` cannot be honoured: the engine's version is unknown. Send `structured_outputs` instead."
        return bad_request(message, param=field, code="unsupported_constraint")
    if release < _MODERN_SINCE:
        return body
    constraint: dict[str, Any] = {GUIDED[field]: body[field]}
    if body.get("guided_whitespace_pattern") is not None:
        constraint["whitespace_pattern"] = body["guided_whitespace_pattern"]
    return {**_without_guided(body), "structured_outputs": constraint}


def _to_guided(body: Body) -> Body | Rejection:
    wanted = body["structured_outputs"]
    old_name = {new: old for old, new in GUIDED.items()}
    given = {key: value for key, value in wanted.items() if value is not None} if isinstance(wanted, dict) else {}
    field = next(iter(given), None)
    if len(given) != 1 or field not in old_name:
        message = "This engine is older than structured_outputs; give exactly one of json, regex, choice, grammar."
        return bad_request(message, param="structured_outputs", code="unsupported_constraint")
    rest = {key: value for key, value in body.items() if key != "structured_outputs"}
    return {**rest, old_name[field]: given[field]}


def _without_guided(body: Body) -> Body:
    dropped = (*GUIDED, *_NO_CONSTRAINT)
    return {key: value for key, value in body.items() if key not in dropped}


def with_model(raw: bytes, parsed: Body, model: str) -> bytes:
    """Replace the top-level `model` of a JSON reply and leave every other byte as the engine wrote it."""
    told = parsed.get("model")
    if told is None or told == model:
        return raw
    # A key inside a string has its quotes escaped, so one hit is the real one; else write the object anew.
    pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(_encoded(told)))
    if len(pattern.findall(raw)) == 1:
        return pattern.sub(lambda match: match[1] + _encoded(model), raw)
    return json.dumps({**parsed, "model": model}, ensure_ascii=False, separators=(",", ":")).encode()


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
