"""One exchange (a request and its reply) as it is offered to the recorder, and the word that judges it.

Nouns only: it says what may be kept, not whether. `consent` decides, `proxy.recorder` queues, `conversations`
writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_VERDICT = re.compile(r"[a-z][a-z_]{0,31}")


def verdict_word(text: str) -> str | None:
    """A verdict as it is kept, one word in lower case; None where `text` is not one word."""
    word = text.strip().lower()
    return word if _VERDICT.fullmatch(word) else None


class ExchangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one request left behind. Times are wall-clock seconds, durations milliseconds.

    Without a purpose there is no user, conversation, request or response: see `content_free`, which the store applies
    again before it writes.
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

    def content_free(self) -> ExchangeRecord:
        """The same exchange without anything that the client said or is."""
        return msgspec.structs.replace(
            self, user=None, conversation=None, purposes=frozenset(), request=None, response=None
        )

    def with_purposes(self, purposes: frozenset[str]) -> ExchangeRecord:
        """The same exchange kept for `purposes` only; content-free where none is left or nobody is named."""
        if not purposes or not self.user:
            return self.content_free()
        return msgspec.structs.replace(self, purposes=purposes)
