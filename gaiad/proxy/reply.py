"""A copy of the reply, put together again from the chunks of a stream or taken whole.

Collects content, tool calls, finish reason and token counts as they pass; holds nothing back and judges nothing. What
it cannot make sense of it leaves out: an odd reply is the client's to judge, and must not fail for the copy's sake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_JOINED = ("content", "reasoning", "reasoning_content", "refusal")


class ReplyCopy:
    """Feed it every chunk, or the whole reply; `body` is the reply as if it had not been streamed."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Mapping[str, Any] | None = None

    def chunk(self, chunk: Mapping[str, Any]) -> None:
        """Take in one chunk of a stream."""
        self._about(chunk)
        for choice in _objects(chunk.get("choices")):
            kept = self._choice(choice)
            if "delta" in choice:
                delta = choice["delta"]
                _merge(kept.setdefault("message", {"role": "assistant", "content": None}), delta)
            elif isinstance(choice.get("text"), str):
                kept["text"] = kept.get("text", "") + choice["text"]

    def whole(self, reply: Mapping[str, Any]) -> None:
        """Take in a reply that was not streamed."""
        self._about(reply)
        for choice in _objects(reply.get("choices")):
            kept = self._choice(choice)
            for field in ("message", "text"):
                if field in choice:
                    kept[field] = choice[field]

    @property
    def text(self) -> str:
        """What the first choice says; empty where it says nothing or calls tools."""
        first = self._first()
        text = first["text"] if "text" in first else _message(first).get("content")
        return text if isinstance(text, str) else ""

    @property
    def calls_tools(self) -> bool:
        """Whether the first choice calls tools."""
        return bool(_message(self._first()).get("tool_calls"))

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended, None while it has not."""
        reason = self._first().get("finish_reason")
        return reason if isinstance(reason, str) else None

    def tokens(self, side: str) -> int | None:
        """How many `prompt` or `completion` tokens the engine counted, if it told."""
        count = self._usage.get(f"{side}_tokens") if self._usage else None
        return count if isinstance(count, int) else None

    def body(self, model: str) -> dict[str, Any]:
        """The reply in its unstreamed form, naming `model`."""
        choices = [_without_call_indices(self._choices[index]) for index in sorted(self._choices)]
        kind = str(self._top.get("object", "")).removesuffix(".chunk")
        body = {**self._top, "object": kind, "model": model, "choices": choices}
        return body if self._usage is None else {**body, "usage": dict(self._usage)}

    def _about(self, reply: Mapping[str, Any]) -> None:
        for field in ("id", "object", "created"):
            if field in reply:
                self._top.setdefault(field, reply[field])
        if isinstance(reply.get("usage"), dict):
            self._usage = reply["usage"]

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        index = choice.get("index", 0)
        kept = self._choices.setdefault(index if isinstance(index, int) else 0, {"index": index})
        if choice.get("finish_reason") is not None:
            kept["finish_reason"] = choice["finish_reason"]
        return kept

    def _first(self) -> Mapping[str, Any]:
        return self._choices[min(self._choices)] if self._choices else {}


def _message(choice: Mapping[str, Any]) -> dict[str, Any]:
    return _object(choice.get("message"))


def _without_call_indices(choice: dict[str, Any]) -> dict[str, Any]:
    message = _message(choice)
    if not message.get("tool_calls"):
        return choice
    calls = [{key: value for key, value in call.items() if key != "index"} for call in _objects(message["tool_calls"])]
    return {**choice, "message": {**message, "tool_calls": calls}}


def _object(item: object) -> dict[str, Any]:
    return item if isinstance(item, dict) else {}


def _text(item: object) -> str:
    return item if isinstance(item, str) else ""


def _objects(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _merge(message: dict[str, Any], delta: object) -> None:
    if not isinstance(delta, dict):
        return
    for field, value in delta.items():
        if field == "tool_calls":
            _merge_calls(message.setdefault("tool_calls", []), value)
        elif field in _JOINED and isinstance(value, str):
            message[field] = _text(message.get(field)) + value
        elif value is not None:
            message[field] = value


def _merge_calls(calls: list[dict[str, Any]], pieces: object) -> None:
    for piece in _objects(pieces):
        index = piece.get("index", len(calls))
        known = next((call for call in calls if call.get("index") == index), None)
        if known is None:
            calls.append({**piece, "index": index, "function": dict(_object(piece.get("function")))})
            continue
        known.update({key: value for key, value in piece.items() if key != "function" and value is not None})
        for field, value in _object(piece.get("function")).items():
            if field == "arguments" and isinstance(value, str):
                known["function"]["arguments"] = _text(known["function"].get("arguments")) + value
            elif value is not None:
                known["function"][field] = value
