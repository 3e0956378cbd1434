"""What the owner has done to the requests and replies of a stage: a prelude, a fence, upper bounds.

Pure. Only what an option is about is changed; every other byte stays as the client or the engine wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gaiad.options import StageOptions
from gaiad.proxy.body import Fields, raw, value_of
from gaiad.proxy.endpoints import Form
from gaiad.proxy.rename import Renamer, encoded, read_reply
from gaiad.proxy.splice import Path, spans, with_value
from gaiad.proxy.sse import DONE, Event, EventParser

ANNOUNCEMENT = "[System identity and rules loaded from KV cache prefix]"
"""What gaia-core writes in place of the identity that it believes to be in the engine's memory."""

_ANNOUNCED = ANNOUNCEMENT.encode()
_OPENING, _CLOSING = "```json\n", "\n```"
_LIMITS: Mapping[Form, tuple[str, ...]] = {
    Form.CHAT: ("max_tokens", "max_completion_tokens"),
    Form.TEXT: ("max_tokens",),
    Form.RESPONSES: ("max_output_tokens",),
    Form.MESSAGES: ("max_tokens",),
    Form.PLAIN: (),
}
_TEXT_DEFAULT = 16
"""What an engine allows a completion that says nothing; elsewhere that is the rest of the window."""


# --- requests ---------------------------------------------------------------------------------------------------------


def optioned(fields: Fields, option: StageOptions, form: Form, prelude: str) -> Fields:
    """A request as the owner has it for its stage."""
    changed = dict(fields)
    if prelude and form is Form.CHAT and "messages" in changed:
        changed["messages"] = msgspec.Raw(with_prelude(bytes(changed["messages"]), prelude))
    if option.max_tokens:
        _bound_tokens(changed, option.max_tokens, form)
    if option.temperature >= 0 and form is not Form.PLAIN:
        _lower(changed, "temperature", option.temperature)
    return changed


def with_prelude(messages: bytes, prelude: str) -> bytes:
    """The prelude before the text of the first system message that announces a cached prefix."""
    if _ANNOUNCED not in messages:
        return messages
    place = _announcement(value_of({"messages": msgspec.Raw(messages)}, "messages"))
    if place is None:
        return messages
    path, text = place
    return with_value(messages, path, bytes(raw(f"{prelude}\n\n{text}")))


def _announcement(messages: object) -> tuple[Path, str] | None:
    for at, message in enumerate(messages if isinstance(messages, list) else []):
        if not isinstance(message, dict) or message.get("role") != "system":
            continue
        content = message.get("content")
        if isinstance(content, str) and ANNOUNCEMENT in content:
            return (at, "content"), content
        for number, part in enumerate(content if isinstance(content, list) else []):
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str) and ANNOUNCEMENT in text:
                return (at, "content", number, "text"), text
    return None


def _bound_tokens(changed: dict[str, msgspec.Raw], most: int, form: Form) -> None:
    for field in (*_LIMITS[form], "min_tokens"):
        _lower(changed, field, most)
    # 1. Bounded already, or somebody else's to refuse.
    if form in (Form.PLAIN, Form.MESSAGES) or any(value_of(changed, field) is not None for field in _LIMITS[form]):
        return
    # 2. Nothing said is bounded by the engine, and lower.
    if form is Form.TEXT and "max_tokens" not in changed and most >= _TEXT_DEFAULT:
        return
    # 3. Nothing said means the rest of the window.
    changed[_LIMITS[form][0]] = raw(most)


def _lower(changed: dict[str, msgspec.Raw], field: str, most: float) -> None:
    number = _number(value_of(changed, field))
    if number is not None and number > most:
        changed[field] = raw(most)


def _number(value: object) -> float | None:
    """A number, also one in a string, which engines accept; None for what they refuse."""
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None if isinstance(value, str) else float("inf")


# --- replies ----------------------------------------------------------------------------------------------------------


def fenced_reply(reply: bytes) -> bytes:
    """A whole chat reply, with a fence around each text that is a bare JSON object."""
    told = read_reply(reply) or {}
    for at, choice in enumerate(_objects(told.get("choices"))):
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if isinstance(text, str) and _is_bare_object(text):
            path = ("choices", at, "message", "content")
            reply = with_value(reply, path, encoded(f"{_OPENING}{text}{_CLOSING}"))
    return reply


def _is_bare_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class FencedStream:
    """A chat stream whose text gets a fence where it begins as a JSON object does; nothing is held back for that."""

    def __init__(self, inner: Renamer) -> None:
        self._inner = inner
        self._parser = EventParser()
        self._is_fenced: dict[int, bool] = {}

    @property
    def payloads(self) -> list[bytes]:
        """What the engine told so far, without a fence."""
        return self._inner.payloads

    @property
    def error_event(self) -> bytes | None:
        """The engine's own event that it failed, held back."""
        return self._inner.error_event

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return what the client is to get for them."""
        return b"".join([self._passed(event) for event in self._parser.feed(self._inner.feed(data))])

    def close(self) -> bytes:
        """What remains at the end."""
        return self._parser.close() + self._inner.close()

    def _passed(self, event: Event) -> bytes:
        if event.payload is None or event.payload == DONE:
            return event.raw
        payload = event.payload
        for at, choice in enumerate(_objects((read_reply(payload) or {}).get("choices"))):
            payload = self._fenced(payload, at, choice)
        return event.raw if payload is event.payload else event.with_payload(payload)

    def _fenced(self, payload: bytes, at: int, choice: Mapping[str, Any]) -> bytes:
        delta, number = choice.get("delta"), choice.get("index", 0)
        if not isinstance(delta, dict) or not isinstance(number, int):
            return payload
        text = delta.get("content")
        text = told = text if isinstance(text, str) else ""
        # 1. The first that is said decides.
        if number not in self._is_fenced and text.strip():
            self._is_fenced[number] = text.lstrip().startswith("{")
            text = _OPENING + text if self._is_fenced[number] else text
        # 2. The last that is said closes.
        if choice.get("finish_reason") is not None and self._is_fenced.get(number):
            self._is_fenced[number] = False
            text += _CLOSING
        return payload if text == told else _with_content(payload, at, text)


def _with_content(payload: bytes, at: int, text: str) -> bytes:
    delta: Path = ("choices", at, "delta")
    if spans(payload, (*delta, "content")):
        return with_value(payload, (*delta, "content"), encoded(text))
    ((start, end),) = spans(payload, delta)[:1]
    rest = payload[start + 1 : end]
    comma = b"" if rest.strip() == b"}" else b","
    return payload[: start + 1] + b'"content":' + encoded(text) + comma + rest + payload[end:]


def _objects(items: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(items, list):
        return []
    return [item if isinstance(item, dict) else {} for item in items]
