"""Whether a finished reply is of use (not empty, not cut short, in the shape its stage wants), and how one ended.

Judges one reply; what follows from several bad ones is decided in `rollout`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema
import msgspec

from gaiad.exchange import Outcome
from gaiad.proxy.reply import ReplyCopy
from gaiad.proxy.said import Said

CLIENT_GONE_STATUS = 499


class Validity(msgspec.Struct, frozen=True):
    """`schema_ok` is None where the stage has no schema or the reply calls tools instead of speaking."""

    schema_ok: bool | None
    empty: bool
    truncated: bool

    @property
    def valid(self) -> bool:
        """Nothing speaks against the reply."""
        return self.schema_ok is not False and not self.empty and not self.truncated


def judge(reply: ReplyCopy | Said, schema: Mapping[str, Any] | None) -> Validity:
    """Judge a complete reply against the schema of its stage, if that has one."""
    empty = not reply.text.strip() and not reply.calls_tools
    schema_ok = None if schema is None or reply.calls_tools else fits(reply.text, schema)
    return Validity(schema_ok, empty, truncated=reply.finish_reason == "length")


def outcome_of(*, complete: bool, broke: bool, status: int) -> Outcome:
    """How an exchange ended; `status` is 499 where its client left before there was one."""
    # 1. Even where it was whole for the client: an engine may say of its reply that it failed.
    if complete:
        return Outcome.WHOLE
    # 2. What nobody failed at ended because the client was gone, before its reply or in the middle of it.
    is_failure = broke or (status >= 400 and status != CLIENT_GONE_STATUS)
    return Outcome.FAILED if is_failure else Outcome.ABORTED


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Say whether `text` is JSON that satisfies `schema`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(_validator(json.dumps(schema, sort_keys=True)).is_valid(value))


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:  # noqa: ANN401 - jsonschema types its validators loosely
    return jsonschema.Draft202012Validator(json.loads(schema))
