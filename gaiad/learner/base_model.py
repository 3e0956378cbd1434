"""Talks to the base model over an OpenAI-compatible URL, the proxy's as a rule: who it is, and what it says.

Tells a passing failure (away, busy, broken off, nonsense) from a lasting one (no such name, no key, no such path), and
tries the former again. Every request says that nothing of it is to be kept. What is asked, and what an answer is worth,
is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from gaiad.errors import EngineError, NotYet
from gaiad.learner.example import Message
from gaiad.learner.self_made import Base, Said

BARE = "gaia:base"
"""What the proxy calls the base without an adapter."""
_NOT_KEPT = {"X-Gaia-Stage": "base", "X-Gaia-Consent": "none"}
_MOST_ANSWER_BYTES = 4_000_000
_LONGEST_PAUSE_S = 30.0
_PASSING = frozenset({408, 425, 429, *range(500, 600)})


@dataclass(frozen=True, slots=True)
class Where:
    """The base's address without a path, the name to ask for, a key; how long an answer may take, how often to try."""

    url: str
    model: str = BARE
    key: str = ""
    timeout_s: float = 120.0
    attempts: int = 3
    pause_s: float = 1.0


@dataclass(frozen=True, slots=True)
class _Passing:
    """A failure that another try may not meet; `after_s` is how long the server asks to wait."""

    why: str
    after_s: float = 0.0


class BaseModel:
    """The base at one address, for as long as `reached` lasts."""

    def __init__(self, where: Where, session: aiohttp.ClientSession) -> None:
        self._where, self._session = where, session

    @property
    def url(self) -> str:
        """Its address."""
        return self._where.url

    async def identity(self) -> Base:
        """Who answers, as far as the server tells: a base, never an adapter on top of one.

        Raises:
            EngineError: nobody answers, or not in this form, or what is asked for is no base that is listed.
        """
        listed = await self._tried("GET", "/v1/models", None)
        if isinstance(listed, NotYet):
            raise away(self._where.url, listed)
        found = listed.get("data")
        cards = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        bases = [one["id"] for one in cards if isinstance(one.get("id"), str) and not one.get("parent")]
        if not bases:
            raise EngineError(f"{self._where.url} lists no base model", hint="see whether an engine serves behind it")
        if self._where.model not in (BARE, *bases):
            # Versions of adapters are served, too, and not all of them are listed.
            raise EngineError(
                f"{self._where.url} lists no base model {self._where.model!r}",
                hint=f"leave --model out where the proxy is asked, or name a base with it: {', '.join(bases)}",
            )
        try:
            told = await self._tried("GET", "/version", None)
        except EngineError:
            # Other servers need not have this path; the name alone tells the base then.
            told = {}
        served = self._where.model if self._where.model in bases else bases[0]
        return Base(served, "" if isinstance(told, NotYet) else str(told.get("version", "")))

    async def say(self, messages: Sequence[Message], sampling: Mapping[str, float]) -> Said | NotYet:
        """Ask once, and again where that may help; why not, where no usable answer came.

        Raises:
            EngineError: the server refuses, and would refuse any other question too.
        """
        chat = [{"role": one.role, "content": one.content} for one in messages]
        body = {"model": self._where.model, "messages": chat, **sampling}
        answer = await self._tried("POST", "/v1/chat/completions", body)
        if isinstance(answer, NotYet):
            return answer
        choice = answer["choices"][0]
        return Said(choice["message"]["content"], str(choice.get("finish_reason")))

    async def _tried(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any] | NotYet:
        found = await self._once(method, path, body)
        for attempt in range(1, self._where.attempts):
            if not isinstance(found, _Passing):
                break
            await asyncio.sleep(min(_LONGEST_PAUSE_S, max(found.after_s, self._where.pause_s * 2 ** (attempt - 1))))
            found = await self._once(method, path, body)
        return NotYet(found.why) if isinstance(found, _Passing) else found

    async def _once(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any] | _Passing:
        try:
            async with asyncio.timeout(self._where.timeout_s):
                async with self._session.request(method, self._where.url + path, json=body) as reply:
                    raw = bytearray()
                    while len(raw) <= _MOST_ANSWER_BYTES and (piece := await reply.content.readany()):
                        raw += piece
                    return self._read(reply, bytes(raw), is_chat=body is not None)
        except TimeoutError:
            return _Passing(f"no answer within {self._where.timeout_s:g} s")
        except aiohttp.ClientError as error:
            return _Passing(_plainly(error))

    def _read(self, reply: aiohttp.ClientResponse, raw: bytes, *, is_chat: bool) -> dict[str, Any] | _Passing:
        try:
            answer = json.loads(raw) if len(raw) <= _MOST_ANSWER_BYTES else None
        except (ValueError, RecursionError):
            answer = None
        if reply.status in _PASSING:
            after = reply.headers.get("Retry-After", "")
            return _Passing(_told(reply.status, answer), float(after) if after.isdecimal() else 0.0)
        if reply.status != HTTPStatus.OK:
            raise EngineError(f"{self._where.url} refuses: {_told(reply.status, answer)}", hint=_advice(reply.status))
        if not isinstance(answer, dict) or (is_chat and not _is_chat(answer)):
            return _Passing("its answer is none of a chat interface")
        return answer


def away(url: str, why: NotYet) -> EngineError:
    """No usable answer came, though it was tried several times."""
    return EngineError(
        f"no usable answer from {url}: {why.reason}", hint="see gaiadctl status, or name the right address with --url"
    )


def _plainly(error: aiohttp.ClientError) -> str:
    """What happened, without the addresses and numbers that would make each time another reason."""
    match error:
        case aiohttp.ClientConnectorError():
            return "nobody listens there"
        case aiohttp.InvalidURL():
            return "that is no address"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "the connection broke off"
        case _:
            return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def reached(where: Where, concurrency: int) -> AsyncIterator[BaseModel]:
    """A base to talk to, with so many connections at most."""
    headers = {**_NOT_KEPT, **({"Authorization": f"Bearer {where.key}"} if where.key else {})}
    connector = aiohttp.TCPConnector(limit=concurrency + 1)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield BaseModel(where, session)


def _is_chat(answer: Mapping[str, Any]) -> bool:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return isinstance(message, dict) and isinstance(message.get("content"), str)


def _told(status: int, answer: object) -> str:
    problem = answer.get("error") if isinstance(answer, dict) else None
    said = problem.get("message") if isinstance(problem, dict) else None
    return f"status {status}{f', {said[:300]}' if isinstance(said, str) else ''}"


def _advice(status: int) -> str:
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return "give a file with a key that opens the stage base: --key-file"
        case HTTPStatus.NOT_FOUND:
            return "name gaiad's proxy with --url, or what the server calls its base with --model"
        case _:
            return "see the server's log"
