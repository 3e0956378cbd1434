"""What is written down of an exchange that somebody agreed to: scrubbed, as rows, with the signals it gives.

Pure but for the scrubber's memory of texts that it found clean. May run in any thread, and should not run on the loop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from gaiad.exchange import ExchangeRecord, scope_of, storable
from gaiad.redact import Scrubber
from gaiad.signals import Signal, of_reply, question_of, timed


@dataclass(frozen=True, slots=True)
class Content:
    """A row of `exchange_contents`, and what the exchange says of its reply by itself."""

    row: dict[str, object]
    signals: tuple[Signal, ...]


def content_of(record: ExchangeRecord, scrubber: Scrubber) -> Content:
    """A record as it may be written down."""
    scope = scope_of(record.user, record.conversation, record.request_id)
    request, response = scrubber.scrub(record.request, scope), scrubber.scrub(record.response, scope)
    counts = request.counts + response.counts
    # What nobody waits for is asked again and again by itself, and stages may ask the same for ends of their own.
    asked_in = json.dumps([scope_of(record.user, record.conversation, ""), record.stage])
    question = question_of(request.value, asked_in) if record.is_user else None
    said = _dumped(request.value), _dumped(response.value)
    row: dict[str, object] = {
        "request_id": record.request_id,
        "user": record.user,
        "conversation": record.conversation if storable(record.conversation or "") else None,
        "purposes": ",".join(sorted(record.purposes)),
        "request": said[0],
        "response": said[1],
        "size": sum(len(text) for text in said if text),
        "consent": record.consent_header,
        "scrubbed": json.dumps(counts, sort_keys=True) if counts else None,
        "question": timed(question, record.started) if question else None,
        "sampling": _dumped(record.sampling) if record.sampling else None,
        "engine": record.engine or None,
        "template": record.template or None,
    }
    signals = of_reply(record.request, record.response, outcome=record.outcome, streamed=record.streamed)
    return Content(row, tuple(signals))


def _dumped(body: object) -> str | None:
    return None if body is None else json.dumps(body, separators=(",", ":"))
