"""What a reply's fate says without anybody saying it: JSON that is none, a question asked again, a stream left.

Reads bodies in the forms of chat, completions, responses and messages. Judges no content, and touches nothing.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from gaiad.exchange import Outcome

ASKED_AGAIN_WITHIN_S = 900.0
"""A question that comes again later than this is a new one."""

_JSON_FORMATS = ("json_object", "json_schema")


class Signal(StrEnum):
    """What may be said of a reply."""

    INVALID_JSON = "invalid_json"
    REGENERATED = "regenerated"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Asked:
    """One asking of a question; `question` is a digest; `at` and when its reply was over in wall-clock seconds."""

    request_id: str
    question: str
    at: float
    over: float
    outcome: str | None


def of_reply(request: object, response: object, *, outcome: Outcome, streamed: bool) -> list[Signal]:
    """What one exchange says by itself."""
    text, calls = said_in(response)
    found = []
    if outcome is Outcome.WHOLE and not calls and asks_for_json(request) and not _is_json(text):
        found.append(Signal.INVALID_JSON)
    if outcome is Outcome.ABORTED and streamed and (text or calls):
        found.append(Signal.ABANDONED)
    return found


def regenerated(asked: Iterable[Asked]) -> Iterator[str]:
    """The exchanges whose question was asked again soon after a whole reply: that reply was not what was wanted.

    What was asked meanwhile, as by one who takes several samples at once, did not wait for that reply.
    """
    inner = sorted(asked, key=lambda one: (one.question, one.at, one.request_id))
    for _, alike in groupby(inner, key=lambda one: one.question):
        same = list(alike)
        begun = [one.at for one in same]
        for place, one in enumerate(same, 1):
            after = bisect_left(begun, one.over, place)
            if one.outcome == "whole" and after < len(same) and begun[after] - one.at <= ASKED_AGAIN_WITHIN_S:
                yield one.request_id


def question_of(request: object, scope: str) -> str | None:
    """A digest of what was asked within `scope`; None where nothing was. Sampling and model are not the question."""
    body = _object(request)
    asked = {key: body[key] for key in ("messages", "prompt", "input", "system", "instructions") if body.get(key)}
    if not asked.keys() & {"messages", "prompt", "input"}:
        return None
    text = json.dumps([scope, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def timed(question: str, at: float) -> str:
    """A question as it is written down: with the quarter of an hour in which it was asked.

    So however often it is asked, it is looked for among a few of its askings.
    """
    return f"{question}-{int(at // ASKED_AGAIN_WITHIN_S):x}"


def untimed(written: str) -> str:
    """The question that was written down, whenever it was asked."""
    return written.partition("-")[0]


def lately(question: str, at: float) -> tuple[str, str]:
    """Under what it may have been written down where it was asked soon before `at`, too."""
    return timed(question, at), timed(question, at - ASKED_AGAIN_WITHIN_S)


def asks_for_json(request: object) -> bool:
    """Whether a request says that the reply has to be JSON, in any of the ways there are."""
    body = _object(request)
    formats = (
        body.get("response_format"),
        _object(body.get("text")).get("format"),
        _object(body.get("output_config")).get("format"),
    )
    if any(_object(one).get("type") in _JSON_FORMATS for one in formats):
        return True
    structured = _object(body.get("structured_outputs"))
    return bool(structured.get("json") or structured.get("json_object") or body.get("guided_json"))


def said_in(response: object) -> tuple[str, bool]:
    """What a kept reply says (of several choices the first), and whether it calls tools."""
    body = _object(response)
    choices = _objects(body.get("choices"))
    if choices:
        message = _object(choices[0].get("message"))
        calls = bool(message.get("tool_calls") or message.get("function_call"))
        return _text(message.get("content")) or _text(choices[0].get("text")), calls
    blocks = _objects(body.get("content")) + [
        part for item in _objects(body.get("output")) for part in (_objects(item.get("content")) or [item])
    ]
    calls = any(str(block.get("type", "")).endswith(("_call", "tool_use")) for block in blocks)
    texts = (_text(block.get("text")) for block in blocks if block.get("type") in ("text", "output_text"))
    return "".join(texts), calls


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _object(item: object) -> Mapping[str, Any]:
    return item if isinstance(item, Mapping) else {}


def _objects(items: object) -> list[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _text(item: object) -> str:
    return item if isinstance(item, str) else ""
