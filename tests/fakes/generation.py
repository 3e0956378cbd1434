"""What the fake engine answers: its words, its chunks, and a small value for any JSON schema."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

Json = Any


def instance_of(schema: Json) -> Json:
    """Return a small value that satisfies `schema` (as far as tests need)."""
    if not isinstance(schema, dict):
        return {}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return instance_of(schema[key][0])
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            names = schema.get("required") or list(schema.get("properties", {}))
            return {name: instance_of(schema.get("properties", {}).get(name, {"type": "string"})) for name in names}
        case "array":
            return [instance_of(schema.get("items", {}))] * int(schema.get("minItems", 0))
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "x" * int(schema.get("minLength", 1))


def _constrained(body: Json, release: tuple[int, ...]) -> str | None:
    wanted = body.get("structured_outputs") if release >= (0, 11) else None
    if release < (0, 12):
        guided = {key.removeprefix("guided_"): value for key, value in body.items() if key.startswith("guided_")}
        wanted = guided or wanted
    if isinstance(wanted, dict):
        if wanted.get("json") is not None:
            schema = wanted["json"]
            return json.dumps(instance_of(json.loads(schema) if isinstance(schema, str) else schema))
        if wanted.get("choice"):
            return str(wanted["choice"][0])
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        return json.dumps(instance_of(form["json_schema"]["schema"]))
    return None


def _reply_text(faults: Mapping[str, Json], served: str, body: Json, release: tuple[int, ...]) -> str:
    replies = faults.get("replies") or {}
    if body.get("model") in replies:
        return str(replies[body["model"]])
    if faults.get("reply") is not None:
        return str(faults.get("reply")) * int(faults.get("reply_times", 1))
    if faults.get("reworded") is not None:
        return str(faults["reworded"]) + str(body["messages"][-1]["content"]).rpartition("It is: ")[2]
    constrained = _constrained(body, release)
    if constrained is not None:
        return constrained
    asked = str(body["prompt"]) if "prompt" in body else str(body["messages"][-1].get("content", ""))
    return f"[{body.get('model') or served}] grüße 🙂 {asked}"


class Generation:
    """One request's answer: its tokens (words), how it ends, what it cost."""

    def __init__(
        self, faults: Mapping[str, Json], served: str, body: Json, chat: bool, release: tuple[int, ...]
    ) -> None:
        self.chat = chat
        self.model = body.get("model") or served
        self.tool_calls = faults.get("tool_calls")
        text, size = "" if self.tool_calls else _reply_text(faults, served, body, release), faults.get("piece_chars")
        tokens = [word if at == 0 else " " + word for at, word in enumerate(text.split(" "))]
        if size:
            tokens = [text[at : at + int(size)] for at in range(0, len(text), int(size))]
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or len(tokens)
        self.tokens = [token for token in tokens[:limit] if token]
        ending = "length" if limit < len(tokens) else "tool_calls" if self.tool_calls else "stop"
        self.finish_reason = str(faults.get("finish_reason") or ending)
        self.created = int(time.time())
        self.id = ("chatcmpl-" if chat else "cmpl-") + os.urandom(8).hex()

    @property
    def usage(self) -> Json:
        made = len(self.tokens)
        return {"prompt_tokens": 7, "completion_tokens": made, "total_tokens": 7 + made}

    def whole(self) -> Json:
        text = "".join(self.tokens)
        if self.chat:
            message: Json = {"role": "assistant", "content": None if self.tool_calls else text}
            if self.tool_calls:
                message["tool_calls"] = self.tool_calls
            choice: Json = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        else:
            choice = {"index": 0, "text": text, "finish_reason": self.finish_reason}
        return self._frame("chat.completion", choices=[choice], usage=self.usage)

    def chunk(self, text: str, ending: str | None = None) -> Json:
        choice: Json = {"index": 0, "finish_reason": ending}
        choice |= {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        return self._frame("chat.completion.chunk", choices=[choice])

    def first_chunk(self) -> Json:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._frame("chat.completion.chunk", choices=[choice])

    def tool_chunks(self) -> list[Json]:
        chunks = []
        for at, call in enumerate(self.tool_calls or []):
            function = call["function"]
            half = len(function["arguments"]) // 2
            opening = call | {"index": at, "function": function | {"arguments": function["arguments"][:half]}}
            rest = {"index": at, "function": {"arguments": function["arguments"][half:]}}
            for piece in (opening, rest):
                choice = {"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}
                chunks.append(self._frame("chat.completion.chunk", choices=[choice]))
        return chunks

    def usage_chunk(self) -> Json:
        return self._frame("chat.completion.chunk", choices=[], usage=self.usage)

    def _frame(self, kind: str, **rest: Json) -> Json:
        kind = kind if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, **rest}
