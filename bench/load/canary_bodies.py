"""A planned request as it goes over the wire, with a canary in every place where a text can stand. Pure."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

from bench.load.canary import PEOPLE, SAID, Flock, as_json_escapes, as_percent, secret_text
from bench.load.canary_plan import CANARY, KEYED, How, Request
from gaiad.proxy.endpoints import Form
from gaiad.redact_doubts import PLACEHOLDER

Json: TypeAlias = Any


class Slot(IntEnum):
    """Where a canary stands. What comes from `HEADER` on is never kept; corrections and verdicts are feedback."""

    NAME = 0
    FIRST_CONVERSATION = 1
    SECOND_CONVERSATION = 2
    SYSTEM = 10
    HISTORY = 11
    USER = 12
    TOOL = 13
    CALL = 14
    DEFINED = 15
    DEFINED_KEY = 16
    UNKNOWN = 17
    UNKNOWN_KEY = 18
    METADATA = 19
    BODY_USER = 20
    PERCENT = 21
    MODEL = 22
    CORRECTION = 40
    VERDICT = 41
    NOTE = 42
    HEADER = 60
    AGENT = 61
    COOKIE = 62
    CREDENTIAL = 63
    QUERY = 64
    STAGE = 65
    CONSENT = 66
    PATH = 67
    MEDDLER = 68
    MEDDLING = 69
    NAMED = 70
    GARBLED = 71


IN_BODY = frozenset(slot for slot in Slot if Slot.SYSTEM <= slot < Slot.CORRECTION)
IN_FEEDBACK = frozenset({Slot.CORRECTION, Slot.VERDICT, Slot.NOTE})
IN_DATASET = frozenset({Slot.SYSTEM, Slot.HISTORY, Slot.USER, Slot.PERCENT, Slot.CORRECTION})
PATHS = {
    Form.CHAT: "/v1/chat/completions",
    Form.TEXT: "/v1/completions",
    Form.RESPONSES: "/v1/responses",
    Form.MESSAGES: "/v1/messages",
}
REPLIES = {Form.CHAT: "choices", Form.TEXT: "choices", Form.RESPONSES: "output", Form.MESSAGES: "content"}
"""Under which key a kept reply has what was answered."""
_WORDS = """
bridge meadow lantern copper harbour winter saddle orchard kettle granite feather thunder willow marble
"""
_BAD_PATHS = ("/v1/{}", "/v1/gaia/consent?user={}", "/v1/feedback", "/adapter/load?{}", "/v1/gaia/exchanges/{}")
_GONE = "\N{SECTION SIGN}"


@dataclass(frozen=True, slots=True)
class Wire:
    """What is sent: `body` is what of it may be kept, None where it is none that could be."""

    path: str
    headers: dict[str, str] = field(repr=False)
    raw: bytes = field(repr=False)
    body: Json = field(repr=False)


def name_of(flock: Flock, person: int) -> str:
    """A person's name."""
    return flock.said(PEOPLE + person, Slot.NAME)


def conversation_of(flock: Flock, person: int, conversation: int) -> str:
    """One of a person's conversations."""
    return flock.said(PEOPLE + person, Slot.FIRST_CONVERSATION + conversation - 1)


def broken(request: Request, flock: Flock, port: int) -> bytes:
    """A request that ends in its middle, or in which a header is none."""
    sent = wire(request, flock)
    lines = [f"POST {sent.path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(sent.raw)}"]
    lines += [f"{name}: {value}" for name, value in sent.headers.items()]
    if request.how is How.GARBLED:
        lines.append(f"X-Broken {flock.said(request.number, Slot.GARBLED)}")
    head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
    return head + sent.raw[: len(sent.raw) // 2 if request.how is How.HALF_SENT else None]


def secret_of(request: Request, flock: Flock) -> str | None:
    """The secret of a request, if it has one."""
    return None if request.secret is None else secret_text(flock, request.number, request.secret)


def correction_of(request: Request, flock: Flock) -> str:
    """What the client says is the right answer, as the stage wants it."""
    secret = secret_of(request, flock)
    note = f"Please note {secret} for later." if secret is not None else "It was asked for."
    canary = flock.said(request.number, Slot.CORRECTION)
    return json.dumps({"selected_tool": "web_search", "params": canary, "reasoning": note, "confidence": 0.9})


def wire(request: Request, flock: Flock) -> Wire:
    """The request in bytes."""
    body = _Body(request, flock).made()
    text = json.dumps(body, ensure_ascii=request.number % 2 == 0)
    if request.escaped:
        text = SAID.sub(lambda match: as_json_escapes(match[0]), text)
    path = f"{PATHS[request.form]}?trace={flock.said(request.number, Slot.QUERY)}"
    match request.how:
        case How.BAD_BODY:
            text = text[:-2]
        case How.ERRAND:
            path = ("/tokenize", "/v1/messages/count_tokens", "/v1/score")[request.number % 3]
        case How.BAD_PATH:
            path = _BAD_PATHS[request.number % len(_BAD_PATHS)].format(flock.said(request.number, Slot.PATH))
        case _:
            pass
    return Wire(path, _headers(request, flock), text.encode(), body)


def identity(request: Request, flock: Flock) -> dict[str, str]:
    """The headers that say who asks; where keys are wanted, the name in a header counts for nothing."""
    if request.life == KEYED:
        named = {"X-Gaia-User": flock.said(request.number, Slot.NAMED)}
        return named | ({} if request.nameless else key_header(request.person, flock))
    if request.nameless or request.name_in_body:
        return {}
    return {"X-Gaia-User": name_of(flock, request.person)}


def key_header(person: int, flock: Flock) -> dict[str, str]:
    """A person's key, in either way of presenting one."""
    key = flock.api_key(person)
    return {"Authorization": f"Bearer {key}"} if person % 2 else {"Authorization": "", "x-api-key": key}


def _headers(request: Request, flock: Flock) -> dict[str, str]:
    def said(slot: Slot) -> str:
        return flock.said(request.number, slot)

    headers = {
        "Content-Type": "application/json",
        "User-Agent": said(Slot.AGENT),
        "X-Client-Trace": said(Slot.HEADER),
        "Cookie": f"session={said(Slot.COOKIE)}",
        "Authorization": f"Bearer {said(Slot.CREDENTIAL)}",
    }
    headers |= identity(request, flock)
    if request.conversation and not request.in_metadata:
        headers["X-Gaia-Conversation"] = conversation_of(flock, request.person, request.conversation)
    if request.consent is not None:
        headers["X-Gaia-Consent"] = said(Slot.CONSENT) if request.consent == CANARY else request.consent
    if request.how is How.BAD_STAGE:
        headers["X-Gaia-Stage"] = said(Slot.STAGE)
    elif request.is_judged:
        headers["X-Gaia-Stage"] = "tool_selection"
    return headers


class _Body:
    """Builds one body."""

    def __init__(self, request: Request, flock: Flock) -> None:
        self._request, self._flock = request, flock
        self._chance = random.Random(request.number)

    def made(self) -> Json:
        """The whole of it."""
        match self._request.form:
            case Form.TEXT:
                form: Json = {"prompt": f"{self._system()} {self._last()}", "max_tokens": 400}
            case Form.RESPONSES:
                form = {"instructions": self._system(), "input": self._items(), "tools": [self._tool()]}
            case Form.MESSAGES:
                form = {"system": self._system(), "messages": self._turns(), "max_tokens": 400}
                form["tools"] = [
                    {"name": "look_up", "description": self._said(Slot.DEFINED), "input_schema": self._schema()}
                ]
            case _:
                form = self._chat()
        return {**form, **self._common()}

    def _said(self, slot: Slot) -> str:
        return self._flock.said(self._request.number, slot)

    def _words(self, count: int) -> str:
        return " ".join(self._chance.choices(_WORDS.split(), k=count))

    def _note(self, at: int) -> str:
        """A secret, where this is the place for it."""
        request = self._request
        secret = secret_of(request, self._flock) if request.number % 2 == at else None
        return f" Please note {secret} for later." if secret is not None else ""

    def _system(self) -> str:
        words = self._words(900 if self._request.long else 12)
        return f"Be kind to the {words}: {self._said(Slot.SYSTEM)}.{self._note(0)}"

    def _last(self) -> str:
        request = self._request
        percent = as_percent(self._said(Slot.PERCENT))
        return f"{self._words(14)} grün do={request.how.value}{self._note(1)} {percent} {self._said(Slot.USER)}"

    def _arguments(self) -> str:
        text = json.dumps({"what": self._said(Slot.CALL), "how many": 3})
        return SAID.sub(lambda match: as_json_escapes(match[0]), text) if self._request.number % 3 == 0 else text

    def _schema(self) -> Json:
        return {"type": "object", "properties": {self._said(Slot.DEFINED_KEY): {"type": "string"}}}

    def _tool(self) -> Json:
        return {
            "type": "function",
            "name": "look_up",
            "description": self._said(Slot.DEFINED),
            "parameters": self._schema(),
        }

    def _chat(self) -> Json:
        system = {"role": "system", "content": self._system()}
        last: Json = {"role": "user", "content": self._last()}
        if self._request.number % 5 == 0:
            last["content"] = [{"type": "text", "text": last["content"]}]
        history = {"role": "user", "content": f"{self._words(8)} {self._said(Slot.HISTORY)}"}
        if self._request.is_judged:
            return {"messages": [system, history, {"role": "assistant", "content": self._words(9)}, last]}
        function = {"name": "look_up", "arguments": self._arguments()}
        call = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
        told = {"role": "tool", "tool_call_id": "call_1", "content": f"{self._words(20)} {self._said(Slot.TOOL)}"}
        tool = self._tool()
        tools = [{"type": tool.pop("type"), "function": tool}]
        return {"messages": [system, history, call, told, last], "tools": tools}

    def _items(self) -> Json:
        called = {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": self._arguments()}
        told = {"type": "function_call_output", "call_id": "call_1", "output": self._said(Slot.TOOL)}
        return [
            {"role": "user", "content": self._said(Slot.HISTORY)},
            called,
            told,
            {"role": "user", "content": self._last()},
        ]

    def _turns(self) -> Json:
        called = {"type": "tool_use", "id": "tool_1", "name": "look_up", "input": {"what": self._said(Slot.CALL)}}
        told = {"type": "tool_result", "tool_use_id": "tool_1", "content": self._said(Slot.TOOL)}
        return [
            {"role": "user", "content": self._said(Slot.HISTORY)},
            {"role": "assistant", "content": [called]},
            {"role": "user", "content": [told, {"type": "text", "text": self._last()}]},
        ]

    def _common(self) -> Json:
        request = self._request
        metadata: Json = {"trace": self._said(Slot.METADATA)}
        if request.conversation and request.in_metadata:
            metadata["gaia_conversation"] = conversation_of(self._flock, request.person, request.conversation)
        common: Json = {
            "stream": request.stream,
            "metadata": metadata,
            "x_note": {"deep": [self._said(Slot.UNKNOWN), {self._said(Slot.UNKNOWN_KEY): 1}]},
        }
        # Whoever is named in a header counts, so that a name in the body is one text more.
        if request.name_in_body and not request.nameless and request.life != KEYED:
            common["user"] = name_of(self._flock, request.person)
        elif not request.nameless:
            common["user"] = self._said(Slot.BODY_USER)
        if request.how is How.BAD_NAME:
            common["model"] = self._said(Slot.MODEL)
        elif request.number % 4 == 0:
            common["model"] = "auto"
        return common


def as_kept(body: Json, secret: str | None) -> str:
    """A body in one form, whatever its order: secrets and the placeholders for them are the same sign."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    if secret is not None:
        text = text.replace(secret, _GONE)
    return PLACEHOLDER.sub(_GONE, text)
