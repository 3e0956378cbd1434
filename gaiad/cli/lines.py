"""Kept exchanges as lines of a file, in the forms that other programs read.

`jsonl` is everything as it is kept. `openai` is the fine-tuning form of chat completions, `sharegpt` the form with
`from` and `value` that most trainers read, as LLaMA-Factory has it: calls that were made together are one turn, and so
are their results; whoever asks and whoever answers take turns. Pure; what may be exported at all is decided where it is
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Line: TypeAlias = dict[str, Any]

FORMATS = ("jsonl", "sharegpt", "openai")
_FROM = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_ASKING, _ANSWERING = ("human", "observation"), ("gpt", "function_call")
_NEXT_RESULT = "\n</tool_response>\n<tool_response>\n"
_OF_A_MESSAGE = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")


def line_of(row: Mapping[str, Any], form: str) -> Line | str:
    """One exchange as a line, or why there is none for it in this form."""
    if form == "jsonl":
        return dict(row)
    told = _conversation(row)
    if isinstance(told, str):
        return told
    messages, tools = told
    if form == "sharegpt":
        return _as_sharegpt(row, messages, tools)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _conversation(row: Mapping[str, Any]) -> tuple[list[Line], object] | str:
    """The messages up to the right answer, and the tools: the correction, or a whole reply that nobody called bad."""
    request = row.get("request")
    messages = request.get("messages") if isinstance(request, Mapping) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        return "no chat"
    assert isinstance(request, Mapping)
    # Anthropic's form, whose messages are not all that was said.
    if "system" in request or (isinstance(row.get("response"), Mapping) and row["response"].get("type") == "message"):
        return "no chat"
    judged = (row.get("feedback") or [{}])[-1]
    if judged.get("correction"):
        answer: Line = {"role": "assistant", "content": judged["correction"]}
    elif judged.get("verdict") == "bad":
        return "judged bad, and not corrected"
    else:
        told = _reply(row)
        if told is None:
            return "no whole reply"
        if row.get("finish_reason") == "length":
            return "cut off at its length"
        answer = told
    return [*(_plain(one) for one in messages), _plain(answer)], request.get("tools")


def _reply(row: Mapping[str, Any]) -> Line | None:
    response = row.get("response")
    choices = response.get("choices") if isinstance(response, Mapping) else None
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    if row.get("status") != 200 or not row.get("complete") or not isinstance(message, dict):
        return None
    return message if message.get("content") or message.get("tool_calls") else None


def _plain(message: Mapping[str, Any]) -> Line:
    # An engine may tell of no calls in an empty list, which trainers refuse.
    return {key: message.get(key) for key in _OF_A_MESSAGE if message.get(key) not in (None, []) or key == "content"}


def _as_sharegpt(row: Mapping[str, Any], messages: list[Line], tools: object) -> Line | str:
    turns: list[Line] = []
    for message in messages:
        turn = _turn(message)
        if isinstance(turn, str):
            return turn
        if turn["from"] == "observation" and turns and turns[-1]["from"] == "observation":
            turns[-1]["value"] += _NEXT_RESULT + turn["value"]
        else:
            turns.append(turn)
    if not _take_turns([str(turn["from"]) for turn in turns]):
        return "turns that do not alternate"
    line: Line = {"id": row.get("request_id"), "conversations": turns}
    return {**line, "tools": json.dumps(tools, ensure_ascii=False)} if tools else line


def _turn(message: Mapping[str, Any]) -> Line | str:
    who, text = _FROM.get(str(message.get("role"))), _text(message.get("content"))
    if who is None or text is None:
        return "a message that is no text"
    calls = [_call(one) for one in message.get("tool_calls") or ()]
    if not calls:
        return {"from": who, "value": text}
    if text:
        return "a message with both text and calls"
    return {"from": "function_call", "value": json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)}


def _take_turns(names: list[str]) -> bool:
    """Whether, after a first system message, one asks and one answers, and the last word is an answer."""
    inner = names[1:] if names[:1] == ["system"] else names
    return len(inner) % 2 == 0 and all(
        name in (_ANSWERING if place % 2 else _ASKING) for place, name in enumerate(inner)
    )


def _call(call: Mapping[str, Any]) -> Line:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = function.get("arguments")
    return {"name": function.get("name"), "arguments": arguments}


def _text(content: object) -> str | None:
    """The text of a message, whether it stands alone or in parts; None where a part is something else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    return "".join(text for text in texts if text) if texts and all(isinstance(text, str) for text in texts) else None
