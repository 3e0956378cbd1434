"""Replies in the forms of `/v1/responses` and `/v1/messages`: `model` inside them, and what they came to.

Pure. These forms put `model` into an object of their own in streams, and say in other words how a reply ended. What
chat and completions look like is `rename`'s and `said`'s to know, which are quicker and on the way of every request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gaiad.proxy.body import Fields, given, value_of
from gaiad.proxy.dialect import GUIDED, engine_release
from gaiad.proxy.endpoints import COMPLETIONS, Form
from gaiad.proxy.refusals import Rejection, bad_request
from gaiad.proxy.rename import encoded, read_reply
from gaiad.proxy.said import Said, copy_of
from gaiad.proxy.splice import Path, replaced, spans
from gaiad.proxy.sse import DONE, Event, EventParser

_MODEL = b'"model"'
_PLACES: Mapping[Form, tuple[Path, ...]] = {
    Form.RESPONSES: (("model",), ("response", "model")),
    Form.MESSAGES: (("model",), ("message", "model")),
    Form.PLAIN: (("model",),),
}
_STRUCTURED_RESPONSES_SINCE = (0, 32)
_ENDINGS = {"max_tokens": "length", "max_output_tokens": "length", "tool_use": "tool_calls"}


def refusal(form: Form, fields: Fields, engine_version: str | None) -> Rejection | None:
    """What these forms cannot do: constraints that the engine would drop, and work that goes on without a request."""
    if form in COMPLETIONS:
        return None
    # 1. The engine would work on it after the reply, while nobody holds a lease.
    if form is Form.RESPONSES and value_of(fields, "background") not in (None, False):
        message = "`background` is not served here: wait for the reply, or stream it."
        return bad_request(message, param="background", code="unsupported_background")
    # 2. Constraints: these forms have their own.
    for field in (*GUIDED, "structured_outputs"):
        if given(fields, field) and not _understood(form, field, engine_version):
            own = "text.format" if form is Form.RESPONSES else "output_config.format"
            message = f"`{field}` cannot be honoured on this path. Use `{own}`, or /v1/chat/completions."
            return bad_request(message, param=field, code="unsupported_constraint")
    return None


def _understood(form: Form, field: str, engine_version: str | None) -> bool:
    # Engines before this one may drop it without a word.
    release = engine_release(engine_version)
    is_new = release is not None and release >= _STRUCTURED_RESPONSES_SINCE
    return form is Form.PLAIN or (form is Form.RESPONSES and field == "structured_outputs" and is_new)


def with_model(payload: bytes, form: Form, asked: str) -> bytes:
    """A reply or an event's payload under the name that the client asked for, all else as the engine wrote it."""
    if _MODEL not in payload:
        return payload
    for place in _PLACES[form]:
        found = [span for span in spans(payload, place) if payload[span[0]] == b'"'[0]]
        if found:
            payload = replaced(payload, found, encoded(asked))
    return payload


def event_of(error: bytes, form: Form) -> bytes:
    """An error's body as one event of a stream."""
    name = b""
    if form is Form.MESSAGES and b'"error"' in error and b'"type":"error"' not in error:
        name, error = b"event: error\n", b'{"type":"error",' + error.lstrip()[1:]
    return name + b"".join(b"data: " + line + b"\n" for line in error.splitlines()) + b"\n"


class EventRenamer:
    """A stream of named events on its way, fed like a `ChunkRenamer`; `payloads` are those that tell the reply."""

    def __init__(self, form: Form, *, asked: str) -> None:
        self._form = form
        self._asked = asked
        self._parser = EventParser()
        self.payloads: list[bytes] = []
        self.error_event: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return what the client is to get for them."""
        return b"".join([self._passed(event) for event in self._parser.feed(data)])

    def close(self) -> bytes:
        """What remains at the end: an event that was never finished, as it came."""
        rest = self._parser.close()
        return b"" if self.error_event is not None else rest

    def _passed(self, event: Event) -> bytes:
        # 1. After a failure; and what says nothing.
        if self.error_event is not None:
            return b""
        if event.payload is None or event.payload == DONE:
            return event.raw
        # 2. The engine says that it failed.
        if b'"error"' in event.payload and _is_failure(event.payload):
            self.error_event = event.raw
            return b""
        # 3. A part of the reply. What `response` sums up later need not be kept in pieces.
        if self._form is not Form.RESPONSES or b'"response":' in event.payload:
            self.payloads.append(event.payload)
        renamed = with_model(event.payload, self._form, self._asked)
        return event.raw if renamed is event.payload else event.with_payload(renamed)


def _is_failure(payload: bytes) -> bool:
    told = read_reply(payload)
    return told is not None and told.get("type", "error") == "error" and "choices" not in told


def whole_reply(form: Form, payloads: Sequence[bytes]) -> dict[str, Any]:
    """The reply as if it had not been streamed; empty where it cannot be made out."""
    told = [reply for reply in map(read_reply, payloads) if reply is not None]
    # 1. Each event of a response that has one holds the whole so far: the last is the one.
    if form is Form.RESPONSES:
        held = [_object(reply.get("response")) or reply for reply in told]
        return next((reply for reply in reversed(held) if "output" in reply), {})
    # 2. A message is put together from its pieces.
    message: dict[str, Any] = {}
    for event in told:
        _take_in(message, event)
    return message


def is_said_to_the_end(form: Form, payloads: Sequence[bytes]) -> bool:
    """Whether a stream has said why it ends, in each of its choices; what may follow are token counts."""
    if form in COMPLETIONS:
        choices = _objects(copy_of(payloads).body("").get("choices"))
        return bool(choices) and all(choice.get("finish_reason") is not None for choice in choices)
    reply = whole_reply(form, payloads)
    if form is Form.RESPONSES:
        return reply.get("status") in ("completed", "incomplete")
    return reply.get("stop_reason") is not None


def _take_in(message: dict[str, Any], event: Mapping[str, Any]) -> None:
    kind = event.get("type")
    if kind == "message":
        message.update(event)
    elif kind == "message_start":
        message.update(_object(event.get("message")))
        message["content"] = []
    elif kind == "content_block_start":
        _list(message, "content").append(dict(_object(event.get("content_block"))))
    elif kind == "content_block_delta" and _list(message, "content"):
        _grow(_list(message, "content")[-1], _object(event.get("delta")))
    elif kind == "message_delta":
        message.update(_object(event.get("delta")))
        usage = {key: count for key, count in _object(event.get("usage")).items() if count is not None}
        message["usage"] = {**_object(message.get("usage")), **usage}


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key in ("text", "thinking", "partial_json"):
        if isinstance(delta.get(key), str):
            block[key] = _text(block.get(key)) + delta[key]


def said_by(form: Form, payloads: Sequence[bytes]) -> Said:
    """What a reply came to, in the words of chat completions."""
    reply = whole_reply(form, payloads)
    usage = _object(reply.get("usage"))
    counts = (_count(usage.get("input_tokens")), _count(usage.get("output_tokens")))
    if form is Form.RESPONSES:
        output = _objects(reply.get("output"))
        texts = [part for item in output for part in _objects(item.get("content")) if part.get("type") == "output_text"]
        calls = any(str(item.get("type", "")).endswith("_call") for item in output)
        reason = _object(reply.get("incomplete_details")).get("reason")
        return Said("".join(_text(part.get("text")) for part in texts), calls, _ending(reason, calls), *counts)
    blocks = _objects(reply.get("content"))
    calls = any(block.get("type") == "tool_use" for block in blocks)
    text = "".join(_text(block.get("text")) for block in blocks if block.get("type") == "text")
    return Said(text, calls, _ending(reply.get("stop_reason"), calls), *counts)


def _ending(reason: object, calls: bool) -> str:
    return _ENDINGS.get(str(reason), "tool_calls" if calls else "stop")


def _object(item: object) -> dict[str, Any]:
    return item if isinstance(item, dict) else {}


def _objects(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _list(message: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if not isinstance(message.get(key), list):
        message[key] = []
    items: list[dict[str, Any]] = message[key]
    return items


def _text(item: object) -> str:
    return item if isinstance(item, str) else ""


def _count(item: object) -> int | None:
    return item if isinstance(item, int) else None
