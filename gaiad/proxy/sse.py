"""Event streams, taken apart as the bytes arrive.

A stream is cut into events whose raw bytes add up to exactly what came in, however the network split them. Nothing is
decoded before it is whole, so that a character cut in two does no harm. What an event means is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Event:
    """One event, or one comment line: its exact bytes, and the joined payload of its `data:` lines if it has any."""

    raw: bytes
    payload: bytes | None = None

    def with_payload(self, payload: bytes) -> bytes:
        """The event's bytes with another payload; an event without one, or with several data lines, gets one line."""
        if self.payload is not None and self.raw.count(self.payload) == 1:
            return self.raw.replace(self.payload, payload)
        return b"data: " + payload + b"\n\n"


class EventParser:
    """Feed bytes, get the events they complete. Line ends are LF, CRLF or CR, as the standard has it."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._raw = bytearray()
        self._payload: list[bytes] = []
        self._after_cr = False

    @property
    def in_event(self) -> bool:
        """Whether bytes are held that belong to an event, or an end of line, that is not yet whole."""
        return bool(self._line or self._raw or self._after_cr)

    def feed(self, chunk: bytes) -> list[Event]:
        """Take in the next bytes and return the events that are now whole."""
        events: list[Event] = []
        for piece in chunk.splitlines(keepends=True):
            self._take(piece, events)
        return events

    def close(self) -> bytes:
        """What remains at the end of the stream: an event that was never finished, as it came."""
        rest = bytes(self._raw + self._line)
        self._raw.clear()
        self._line.clear()
        self._payload.clear()
        return rest

    def _take(self, piece: bytes, events: list[Event]) -> None:
        # 1. The second half of a CRLF that arrived in two pieces belongs to the line before.
        if self._after_cr:
            self._after_cr = False
            if piece == b"\n":
                self._raw += piece
                if len(self._raw) == 1:
                    events.append(Event(self._flush_raw()))
                return
        self._line += piece
        if not piece.endswith((b"\n", b"\r")):
            return
        self._after_cr = piece.endswith(b"\r")
        self._raw += self._line
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        # 2. A blank line ends the event; a comment between events stands alone.
        if not line or (line.startswith(b":") and len(self._raw) == len(line) + _ending(self._raw)):
            payload = b"\n".join(self._payload) if self._payload else None
            self._payload.clear()
            events.append(Event(self._flush_raw(), payload))
        elif line == b"data" or line.startswith(b"data:"):
            self._payload.append(line[5:].removeprefix(b" "))

    def _flush_raw(self) -> bytes:
        raw = bytes(self._raw)
        self._raw.clear()
        return raw


def _ending(raw: bytearray) -> int:
    return 2 if raw.endswith(b"\r\n") else 1
