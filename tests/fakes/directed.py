"""What a request's own words make of the fake engine: its reply is derived from the canary that it was told.

With the fault `directed` the last text that a client says may hold `do=WORD`, which sets faults for this request alone.
"""

from __future__ import annotations

import json
import re
from typing import Any

Json = Any

_DIRECTIVE = re.compile(r"do=(\w+)")
_TOKEN = re.compile(r"zyrquk[a-p]{16}")
_NOTE = re.compile(r"Please note .{5,60}? for later\.")
PIECE = 5


def last_text(body: Json) -> str:
    """The text that the engine answers, on whichever path."""
    if "prompt" in body:
        return str(body["prompt"])
    said = body.get("input") or body.get("messages") or ""
    content = said if isinstance(said, str) else said[-1].get("content", "")
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def directed(body: Json) -> dict[str, Json]:
    """The faults of one request; none where its text asks for none."""
    text = last_text(body) if isinstance(body, dict) else ""
    directive, tokens = _DIRECTIVE.search(text), _TOKEN.findall(text)
    if directive is None or not tokens:
        return {}
    derived = tokens[-1].replace("zyrquk", "zyrqum", 1)
    note = _NOTE.search(text)
    reply = f"It is {derived} indeed.{' ' + note[0] if note else ''} So much for that grüße 🙂"
    match directive[1]:
        case "pieces":
            return {"reply": reply, "piece_chars": PIECE}
        case "call":
            function = {"name": "look_up", "arguments": json.dumps({"what": derived})}
            return {"tool_calls": [{"id": "call_9", "type": "function", "function": function}]}
        case "fail":
            return {"status": 500, "message": f"it failed on {derived} of {tokens[-1]}"}
        case "refuse":
            return {"status": 400, "message": f"[{{'msg': 'Input should be {derived}', 'input': '{tokens[-1]}'}}]"}
        case "break":
            return {"reply": reply, "piece_chars": PIECE, "die_after": 4}
        case "abort":
            return {"reply": reply, "piece_chars": PIECE, "token_delay_s": 0.03, "delay_s": 0.02}
        case "slow":
            return {"reply": reply, "delay_s": 1.5}
        case _:
            return {"reply": reply}
