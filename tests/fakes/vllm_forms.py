"""The fake engine's other paths: responses, messages, and what only counts or measures text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.fakes.generation import Generation

Json = Any


def chat_body(body: Json, path: str) -> Json:
    """A request to `/v1/responses` or `/v1/messages` as the chat request that it means."""
    if path == "/v1/messages":
        return {**body, "messages": [{"role": "user", "content": _plain(body["messages"][-1]["content"])}]}
    asked = body["input"] if isinstance(body["input"], str) else _plain(body["input"][-1]["content"])
    form = (body.get("text") or {}).get("format") or {}
    rest = (
        {"response_format": {"type": "json_schema", "json_schema": form}} if form.get("type") == "json_schema" else {}
    )
    return {
        **{key: value for key, value in body.items() if key != "text"},
        "messages": [{"role": "user", "content": asked}],
        "max_tokens": body.get("max_output_tokens"),
        **rest,
    }


def _plain(content: Json) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def response_of(made: Generation, body: Json) -> Json:
    """The whole reply of `/v1/responses`."""
    text = "".join(made.tokens)
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
    output: list[Json] = [
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    ]
    for call in made.tool_calls or []:
        output = [{"type": "function_call", "id": "fc_1", "call_id": call["id"], **call["function"]}]
    cut = made.finish_reason == "length"
    return {
        "id": "resp_" + made.id.rpartition("-")[2],
        "created_at": made.created,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "model": made.model,
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": 100,
        "service_tier": "auto",
        "status": "incomplete" if cut else "completed",
        "truncation": "disabled",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": len(made.tokens),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7 + len(made.tokens),
        },
        "user": body.get("user"),
    }


def response_events(made: Generation, body: Json) -> Iterator[Json]:
    """The events of `/v1/responses`."""
    whole = response_of(made, body)
    begun = {**whole, "output": [], "status": "in_progress", "usage": None}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[Json] = [{"response": begun, "type": "response.created"}]
    events += [{"response": begun, "type": "response.in_progress"}]
    for token in made.tokens:
        events.append({**place, "delta": token, "logprobs": [], "type": "response.output_text.delta"})
    events.append({"response": whole, "type": f"response.{whole['status']}"})
    for number, event in enumerate(events):
        yield {"sequence_number": number, **event}


def message_of(made: Generation) -> Json:
    """The whole reply of `/v1/messages`."""
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    content: list[Json] = [{"type": "text", "text": "".join(made.tokens)}]
    for call in made.tool_calls or []:
        arguments = json.loads(call["function"]["arguments"])
        content = [{"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": arguments}]
    return {
        "id": made.id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": made.model,
        "stop_reason": reasons.get(made.finish_reason, "end_turn"),
        "usage": {"input_tokens": 7, "output_tokens": len(made.tokens)},
    }


def message_events(made: Generation) -> Iterator[Json]:
    """The events of `/v1/messages`."""
    whole = message_of(made)
    usage = {"input_tokens": 7, "output_tokens": 0}
    yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None, "usage": usage}}
    yield {"index": 0, "type": "content_block_start", "content_block": {"type": "text", "text": ""}}
    for token in made.tokens:
        yield {"index": 0, "type": "content_block_delta", "delta": {"type": "text_delta", "text": token}}
    yield {"index": 0, "type": "content_block_stop"}
    yield {"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"]}, "usage": whole["usage"]}
    yield {"type": "message_stop"}


def counted(path: str, body: Json, model: str) -> Json | None:
    """The reply of a path that only counts or measures; None where the request is wrong."""
    match path:
        case "/tokenize":
            text = body.get("prompt") or json.dumps(body.get("messages"))
            tokens = [len(word) for word in re.findall(r"\S+", str(text))]
            return {"count": len(tokens), "max_model_len": 4096, "tokens": tokens, "token_strs": None}
        case "/detokenize":
            return {"prompt": " ".join("x" * token for token in body["tokens"])} if "tokens" in body else None
        case "/v1/messages/count_tokens":
            return {"input_tokens": len(json.dumps(body.get("messages")))}
        case "/v1/score":
            return {"id": "score-1", "object": "list", "model": model, "data": [{"index": 0, "score": 0.5}]}
        case "/v1/rerank":
            return {"id": "rerank-1", "model": model, "results": [{"index": 0, "relevance_score": 0.5}]}
        case _:
            embedding = {"index": 0, "object": "embedding", "embedding": [0.5, 0.25]}
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            return {"id": "embd-1", "object": "list", "model": model, "data": [embedding], "usage": usage}
