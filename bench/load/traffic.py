"""The requests that are sent, and one run of the load generator.

The request is the one gaia-core makes most: a system prompt and a user's turn, 1.4 KB in all. What it asks for is in
`max_tokens`, which the upstream takes for the number of chunks.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bench.load.errors import CannotMeasure

BODY_BYTES = 1400
FRAME_EVENTS = 3
"""Events of a stream besides its chunks: the opening one with the role, the one with the finish reason, `[DONE]`."""

_MARGIN_S = 30
_SYSTEM = (
    "You are the resident assistant of a small household server. You answer in the language of the question, keep to "
    "what you know, and say so where you do not. You have notes about the people who live here, a calendar and a list "
    "of errands; nothing in them leaves this machine. Prefer short answers. Where a step could lose something, ask "
    "before you take it, and name what would be lost. "
)
_USER = "What is left to do before the visitors come on Saturday, and which of it can wait until Sunday evening? "


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as bytes in a file."""

    path: Path
    streamed: bool


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of the load generator came to; times are -1 where nothing was timed.

    `unsent` are those of the aborted that were broken off before their last byte was written.
    """

    begun: int
    done: int
    streams_done: int
    failed: int
    aborted: int
    unsent: int
    unfinished: int
    first_failure: str
    elapsed_s: float
    cpu_us: float
    samples: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def trouble(self) -> str:
        """What went wrong, empty where nothing did."""
        if self.failed:
            return f"{self.failed} of {self.begun} requests failed, the first with: {self.first_failure}"
        if self.unfinished:
            return f"{self.unfinished} of {self.begun} requests were not answered in time"
        return "" if self.done or self.aborted else "no request was answered"


class Asks:
    """Writes requests into a folder, each into a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def write(
        self,
        *,
        model: str,
        chunks: int,
        streamed: bool,
        headers: Mapping[str, str] | None = None,
        body_bytes: int = BODY_BYTES,
    ) -> Ask:
        """One chat request, whole on the wire."""
        said = messages(body_bytes)
        body = {"model": model, "messages": said, "max_tokens": chunks, "temperature": 0.7, "stream": streamed}
        raw = json.dumps(body).encode()
        head = {
            "Host": "127.0.0.1",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "bench",
            "Content-Length": str(len(raw)),
            **(headers or {}),
        }
        lines = ["POST /v1/chat/completions HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        path = self._folder / f"ask-{next(self._numbers)}"
        path.write_bytes("\r\n".join(lines).encode() + raw)
        return Ask(path, streamed)


def messages(body_bytes: int) -> list[dict[str, str]]:
    """A system prompt and a user's turn for a body of about so many bytes."""
    room = body_bytes - 180 - len(_USER)
    system = (_SYSTEM * (room // len(_SYSTEM) + 1))[:room]
    return [{"role": "system", "content": system}, {"role": "user", "content": _USER}]


def send(program: Path, port: int, asks: Sequence[Ask], seconds: int, **options: int) -> Load:
    """Run the load generator against `port`; `options` are its own, with `_` for `-`.

    Raises:
        CannotMeasure: it did not run to its end.
    """
    command = [str(program), "--port", str(port), "--seconds", str(seconds)]
    for ask in asks:
        command += ["--stream" if ask.streamed else "--plain", str(ask.path)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _MARGIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CannotMeasure(f"the load generator did not end within {seconds + _MARGIN_S} s") from error
    if done.returncode != 0:
        raise CannotMeasure(f"the load generator ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    told = json.loads(done.stdout)
    return Load(**{field.name: told[field.name] for field in fields(Load)})
