"""A stream on its way to the client: `model` renamed, token counts hidden that only we asked for, all else as it came.

Pure: bytes in, bytes out, and a copy of every payload for later. An event is passed on as soon as it is whole, in the
same call that completed it. What the copies mean is `reply`'s to say, how a stream ends the caller's.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from gaiad.proxy.sse import DONE, Event, EventParser

_DATA = b"data: "
_END = b"\n\n"
_MODEL = b'"model"'
_CHOICE = b'"choices":[{'
_NO_CHOICES = b'"choices":[]'


class Renamer(Protocol):
    """What a stream passes through on its way."""

    @property
    def payloads(self) -> list[bytes]:
        """What the engine told so far."""

    @property
    def error_event(self) -> bytes | None:
        """The engine's own event that it failed, held back."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return what the client is to get for them."""

    def close(self) -> bytes:
        """What remains at the end."""


class ChunkRenamer:
    """Feed it the engine's bytes. `payloads` are the chunks so far; `error_event` is the engine's own, held back."""

    def __init__(self, *, told: str, asked: str, hide_usage: bool) -> None:
        self._told = _pair(told)
        self._asked = _pair(asked)
        self._asked_name = asked
        self._hide_usage = hide_usage
        self._parser = EventParser()
        self._torn = False
        self._begin, self._beginning, self._renamed_beginning = 0, b"", b""
        self.payloads: list[bytes] = []
        self.error_event: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return what the client is to get for them."""
        begin = self._begin
        # 1. What vLLM sends nearly always: one event of one line, which begins like the one before it.
        if begin and data.startswith(self._beginning) and data.find(_MODEL, begin) < 0:
            lines = data.splitlines()
            if len(lines) == 2 and data.endswith(_END):
                self.payloads.append(lines[0][6:])
                return self._renamed_beginning + data[begin:]
        # 2. Whole events of one line each, `model` standing in each just once.
        if not self._torn and data.endswith(_END) and data.startswith(_DATA) and self.error_event is None:
            out = self._quickly(data)
            if out is not None:
                return out
        # 3. Anything else, however it was cut.
        events = self._parser.feed(data)
        self._torn = self._parser.in_event
        self._begin = 0
        return b"".join([self._carefully(event) for event in events])

    def close(self) -> bytes:
        """What remains at the end: an event that was never finished, as it came."""
        rest = self._parser.close()
        return b"" if self.error_event is not None else rest

    def _quickly(self, data: bytes) -> bytes | None:
        out, payloads = [], []
        for event in data[:-2].split(_END):
            payload = event[6:]
            if event[:6] != _DATA or b"\n" in payload or b"\r" in payload:
                return None
            if payload == DONE:
                out.append(event)
                continue
            if _CHOICE in payload:
                renamed = quickly_renamed(payload, self._told, self._asked)
            else:
                renamed = b"" if self._hide_usage and _only_counts(payload) else None
            if renamed is None:
                return None
            payloads.append(payload)
            if renamed:
                out.append(_DATA + renamed)
        self.payloads += payloads
        if payloads and _CHOICE in payloads[-1]:
            self._remember(payloads[-1])
        out.append(b"")
        return _END.join(out)

    def _remember(self, payload: bytes) -> None:
        """Keep how an event begins, up to its first choice: the next one mostly begins so too."""
        end = payload.find(_CHOICE) + len(_CHOICE)
        place = payload.find(self._told, 0, end)
        if place < 0:
            # The name stands behind what was said, and so at another place each time.
            return
        self._beginning = _DATA + payload[:end]
        self._renamed_beginning = _DATA + payload[:place] + self._asked + payload[place + len(self._told) : end]
        self._begin = len(self._beginning)

    def _carefully(self, event: Event) -> bytes:
        # 1. Comments, blank lines, the end mark, and whatever follows a failure.
        if self.error_event is not None:
            return b""
        if event.payload is None or event.payload == DONE:
            return event.raw
        chunk = read_reply(event.payload)
        # 2. No object: nothing that we know how to rename.
        if chunk is None:
            return event.raw
        # 3. The engine says that it failed: whether the client hears it is the caller's choice.
        if "error" in chunk and "choices" not in chunk:
            self.error_event = event.raw
            return b""
        self.payloads.append(event.payload)
        # 4. Token counts that only we asked for.
        if self._hide_usage and chunk.get("choices") == [] and chunk.get("usage") is not None:
            return b""
        # 5. A chunk of the reply.
        renamed = with_model(event.payload, chunk, self._asked_name)
        return event.raw if renamed is event.payload else event.with_payload(renamed)


class _Counts(msgspec.Struct, gc=False):
    choices: list[msgspec.Raw]
    usage: msgspec.Raw = msgspec.Raw(b"null")


_COUNTS = msgspec.json.Decoder(_Counts)


def _only_counts(payload: bytes) -> bool:
    """Whether a chunk holds token counts and nothing of the reply."""
    if _NO_CHOICES not in payload:
        return False
    try:
        counts = _COUNTS.decode(payload)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return not counts.choices and bytes(counts.usage) != b"null"


def renamed_reply(raw: bytes, *, told: str, asked: str) -> bytes:
    """A whole reply under the name that the client asked for."""
    quick = quickly_renamed(raw, _pair(told), _pair(asked))
    if quick is not None:
        return quick
    parsed = read_reply(raw)
    return raw if parsed is None else with_model(raw, parsed, asked)


def quickly_renamed(payload: bytes, told: bytes, asked: bytes) -> bytes | None:
    """Replace the pair `told` without parsing, or None where it is not certain that it is the top level's."""
    # Quotes inside a string are escaped, so a key spelt out is a key; with one brace before it, it is the top level's.
    place = payload.find(told)
    if place < 0 or payload[:1] != b"{" or payload.find(b"{", 1, place) >= 0:
        return None
    if payload.find(_MODEL) != place or payload.find(_MODEL, place + 1) >= 0:
        return None
    return payload[:place] + asked + payload[place + len(told) :]


def read_reply(raw: bytes) -> dict[str, Any] | None:
    """Parse a reply or chunk; None for anything but a JSON object."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def with_model(raw: bytes, parsed: dict[str, Any], model: str) -> bytes:
    """Replace the top-level `model` of a JSON reply and leave every other byte as the engine wrote it."""
    told = parsed.get("model")
    if told is None or told == model:
        return raw
    # A key inside a string has its quotes escaped, so one hit is the real one; else write the object anew.
    pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(encoded(told)))
    if len(pattern.findall(raw)) == 1:
        return pattern.sub(lambda match: match[1] + encoded(model), raw)
    return json.dumps({**parsed, "model": model}, ensure_ascii=False, separators=(",", ":")).encode()


def encoded(value: object) -> bytes:
    """A value as vLLM writes it: JSON without escapes for what UTF-8 can hold."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)
def _pair(model: str) -> bytes:
    """`model` with its value, as it stands in a reply."""
    return b'"model":' + encoded(model)
