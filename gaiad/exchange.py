"""One exchange (a request and its reply) as it is offered to the recorder, and what somebody thought of it.

Nouns only: it says what may be kept, not whether. `consent` decides, `proxy.recorder` queues, `conversations`
writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

import msgspec

MAX_NOTE_CHARS = 4000
_VERDICT = re.compile(r"[a-z][a-z_]{0,31}")


def verdict_word(text: str) -> str | None:
    """A verdict as it is kept, one word in lower case; None where `text` is not one word."""
    word = text.strip().lower()
    return word if _VERDICT.fullmatch(word) else None


def is_score(value: object) -> TypeGuard[float]:
    """Whether a value is a number from 0 to 1; true and false are none, nor is what is not a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def storable(text: str) -> bool:
    """Whether any store can hold a text: JSON allows lone surrogates and zero bytes, not every database does."""
    return "\0" not in text and text == text.encode("utf-8", "ignore").decode("utf-8")


def scope_of(user: str | None, conversation: str | None, request_id: str) -> str:
    """Within what one value has one placeholder: a user's conversation, else the exchange alone."""
    return json.dumps([user, conversation or request_id])


@dataclass(frozen=True, slots=True)
class Judgement:
    """What somebody thought of a reply: one word, perhaps how good it was (0 to 1), the right answer, a remark."""

    verdict: str
    correction: str | None = None
    score: float | None = None
    note: str | None = None


class Outcome(StrEnum):
    """How an exchange ended: with a whole reply, left by the client before that, or by a failure or refusal."""

    WHOLE = "whole"
    ABORTED = "aborted"
    FAILED = "failed"


class ExchangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one request left behind. Times are wall-clock seconds, durations milliseconds.

    Without a purpose there is no user, conversation, request or response, nor anything else that the client said: see
    `content_free`, which the store applies again before it writes. `complete` is a whole reply of which the engine does
    not say that it failed; of one that is not, `response` holds what came of it. `consent_header` is the header in
    short, `sampling` the numbers that the engine got, `engine` and `template` digests; `is_user`: somebody waited.
    """

    request_id: str
    at: float
    user: str | None = None
    conversation: str | None = None
    purposes: frozenset[str] = frozenset()
    stage: str
    stage_reason: str
    version: str | None = None
    arm: str = "none"
    status: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    started: float
    first_byte_ms: float | None = None
    total_ms: float
    finish_reason: str | None = None
    streamed: bool = False
    complete: bool = True
    valid: bool | None = None
    request: Mapping[str, object] | None = None
    response: Mapping[str, object] | None = None
    outcome: Outcome = Outcome.WHOLE
    consent_header: str | None = None
    sampling: Mapping[str, float] | None = None
    engine: str = ""
    template: str = ""
    is_user: bool = False

    def content_free(self) -> ExchangeRecord:
        """The same exchange without anything that the client said or is."""
        return msgspec.structs.replace(
            self,
            user=None,
            conversation=None,
            purposes=frozenset(),
            request=None,
            response=None,
            consent_header=None,
            sampling=None,
        )

    def with_purposes(self, purposes: frozenset[str]) -> ExchangeRecord:
        """The same exchange kept for `purposes` only; content-free where none is left or nobody is named."""
        if not purposes or not self.user:
            return self.content_free()
        return msgspec.structs.replace(self, purposes=purposes)
