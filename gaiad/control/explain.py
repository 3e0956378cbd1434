"""Why a reply was what it was, and what came of it: an exchange joined with consent then and now, and versions since.

Takes what store and registry hold and returns plain values, without what was asked and answered. Decides only which
versions an exchange belongs to, by their lineage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from gaiad.curriculum import Json

_AS_KEPT = (
    *("request_id", "at", "started", "status", "outcome", "complete", "streamed", "finish_reason", "valid"),
    *("prompt_tokens", "completion_tokens", "first_byte_ms", "total_ms", "stage", "stage_reason", "version", "arm"),
    *("decision", "user", "conversation", "purposes", "sampling", "engine", "template", "scrubbed", "signals"),
)


def explanation(
    kept: Mapping[str, Json],
    then: Mapping[str, Json] | None,
    now: Mapping[str, Json] | None,
    versions: Iterable[Mapping[str, Json]],
) -> dict[str, object]:
    """Join one exchange as the store has it with its user's consent `then` and `now`, and all versions there are."""
    request_id, newest_first = kept["request_id"], sorted(versions, key=_created, reverse=True)
    told: dict[str, object] = {name: kept[name] for name in _AS_KEPT}
    judged = cast("Sequence[Mapping[str, Json]]", kept["feedback"])
    # A right answer is as much content as the wrong one.
    told["feedback"] = [{**one, "correction": one["correction"] is not None} for one in judged]
    told["kept"] = [name for name in ("request", "response") if kept.get(name) is not None]
    told["consent_then"] = None if then is None else {**then, "header": kept["consent"]}
    told["consent_now"] = now
    told["trained_into"] = [_named(row) for row in newest_first if _is_in(request_id, row, "exchange_ids")]
    told["left_out_of"] = [_named(row) for row in newest_first if _is_in(request_id, row, "left_out_exchange_ids")]
    return told


def _is_in(request_id: Json, version: Mapping[str, Json], field: str) -> bool:
    lineage = version["lineage"]
    ids = lineage.get(field) if isinstance(lineage, Mapping) else None
    return isinstance(ids, list) and request_id in ids


def _named(version: Mapping[str, Json]) -> dict[str, Json]:
    lineage = version["lineage"]
    cycle = lineage.get("cycle") if isinstance(lineage, Mapping) else None
    return {"version": version["version"], "stage": version["stage"], "cycle": cycle, "at": version["created_at"]}


def _created(version: Mapping[str, Json]) -> float:
    at = version["created_at"]
    return float(at) if isinstance(at, int | float) else 0.0
