"""Plays people against a running daemon: what they ask, agree to and correct, many of them at once.

Each person does one thing after the other, so that it is known what they agreed to when they asked; `at_once` people
are under way. Notes what their clients saw; what must follow from it is `canary_ledger`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import aiohttp

from bench.load.canary import Flock, answered
from bench.load.canary_bodies import Slot, broken, conversation_of, correction_of, key_header, name_of, wire
from bench.load.canary_ledger import Outcome, Record, Said, Verdict, expected_status, verdict_of
from bench.load.canary_plan import (
    KEYED,
    WIRELESS,
    Agree,
    Ask,
    Flight,
    How,
    Judge,
    Meddle,
    Person,
    Request,
    Settle,
    Step,
    UntilExpired,
)

Json: TypeAlias = Any

REVOKED_AFTER_S = 0.3
"""How long requests are in flight before they lose their consent."""
GIVEN_UP_AFTER_S = 0.06
TELL_EVERY_S = 5.0
MOST_TROUBLE = 40


class Drive:
    """One life's people."""

    def __init__(self, flock: Flock, port: int, control: Path, record: Record) -> None:
        self._flock, self._record = flock, record
        self._port, self._url = port, f"http://127.0.0.1:{port}"
        self._control_path = control
        self._proxy: aiohttp.ClientSession
        self._control: aiohttp.ClientSession

    async def run(self, people: Iterable[Person], at_once: int, total: int) -> None:
        """Have everybody do what they are planned to."""
        waiting, timeout = iter(people), aiohttp.ClientTimeout(total=120)
        async with AsyncExitStack() as stack:
            self._proxy = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
                )
            )
            connector = aiohttp.UnixConnector(str(self._control_path), limit=8)
            self._control = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
            async with asyncio.TaskGroup() as group:
                teller = group.create_task(self._tell(total), name="teller")
                async with asyncio.TaskGroup() as workers:
                    for number in range(at_once):
                        workers.create_task(self._play(waiting), name=f"worker-{number}")
                teller.cancel()
            await self._settle()

    async def _tell(self, total: int) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            done, spent_s = len(self._record.outcomes), time.monotonic() - began
            print(f"canaries: {done:,} of {total:,} requests, {spent_s:.0f} s in this life", file=sys.stderr)

    async def _play(self, waiting: Iterator[Person]) -> None:
        for person in waiting:
            for step in person.steps:
                await self._do(person, step)

    async def _do(self, person: Person, step: Step) -> None:
        match step:
            case Ask(request) if request.how in WIRELESS:
                await self._break_off(request)
            case Ask(request):
                await self._ask(request)
            case Agree():
                await self._agree(person, step)
            case Settle():
                await self._settle()
            case Flight(requests, agree):
                async with asyncio.TaskGroup() as group:
                    for request in requests:
                        group.create_task(self._ask(request), name=f"request-{request.number}")
                    await asyncio.sleep(REVOKED_AFTER_S)
                    await self._agree(person, agree)
            case UntilExpired():
                await asyncio.sleep(max(0.0, self._record.ends[person.index].confirmed - time.time()))
            case Judge(request, taken):
                await self._judge(request, taken)
            case Meddle(request):
                await self._meddle(request)
            case _:
                assert_never(step)

    async def _ask(self, request: Request) -> None:
        sent = wire(request, self._flock)
        outcome = self._record.outcomes[request.number] = Outcome(began=time.time())
        late = GIVEN_UP_AFTER_S if request.how is How.ABORT and not request.stream else None
        try:
            async with (
                asyncio.timeout(late),
                self._proxy.post(self._url + sent.path, data=sent.raw, headers=sent.headers) as reply,
            ):
                outcome.request_id, outcome.status = reply.headers.get("X-Gaia-Request-Id"), reply.status
                if request.how is How.ABORT and request.stream:
                    await reply.content.readany()
                    reply.close()
                    return
                raw = await reply.text()
                outcome.whole = True
                outcome.answered = answered(self._flock.said(request.number, Slot.USER)) in said_in(raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if request.how not in (How.BREAK, How.ABORT):
                self._trouble(f"request {request.number} ({request.how}): {type(error).__name__}")
        finally:
            outcome.ended = time.time()
        statuses = expected_status(request)
        if outcome.status and statuses and outcome.status not in statuses:
            self._trouble(f"request {request.number} ({request.form}, {request.how}): status {outcome.status}")

    async def _break_off(self, request: Request) -> None:
        outcome = self._record.outcomes[request.number] = Outcome(began=time.time())
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(broken(request, self._flock, self._port))
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()
        outcome.ended = time.time()

    async def _agree(self, person: Person, agree: Agree) -> None:
        name = name_of(self._flock, person.index)
        body: Json = {"purpose": agree.purpose, "action": agree.action}
        if agree.conversation:
            body["conversation"] = conversation_of(self._flock, person.index, agree.conversation)
        sent, lasts_s = time.time(), agree.expires_in_s
        if agree.over_socket:
            body |= {"user": name} | ({} if lasts_s is None else {"expires_at": sent + lasts_s})
            call = self._control.post("http://control/consent", json=body)
        else:
            body |= {} if lasts_s is None else {"expires_in_s": lasts_s}
            call = self._proxy.post(
                f"{self._url}/v1/gaia/consent", json=body, headers=self._as(person.index, person.life)
            )
        async with call as reply:
            if reply.status != 200:
                self._trouble(f"person {person.index}: consent is answered with {reply.status}")
        confirmed = time.time()
        if agree.action == "revoke":
            self._record.revoked[person.index] = Said(sent, confirmed)
        if lasts_s is not None:
            self._record.ends[person.index] = Said(sent + lasts_s, confirmed + lasts_s)

    async def _settle(self) -> None:
        """Asking for an exchange has the daemon commit what it holds."""
        async with self._control.get("http://control/exchanges/none") as reply:
            await reply.read()

    def _as(self, person: int, life: int) -> dict[str, str]:
        return key_header(person, self._flock) if life == KEYED else {"X-Gaia-User": name_of(self._flock, person)}

    async def _judge(self, request: Request, taken: bool) -> None:
        outcome, number = self._record.outcomes[request.number], request.number
        if outcome.request_id is None:
            return
        body = {
            "request_id": outcome.request_id,
            "verdict": self._flock.said(number, Slot.VERDICT),
            "correction": correction_of(request, self._flock),
            "note": self._flock.said(number, Slot.NOTE),
        }
        headers = {} if request.nameless else self._as(request.person, request.life)
        async with self._proxy.post(f"{self._url}/v1/feedback", json=body, headers=headers) as reply:
            was_taken = reply.status == 200
            await reply.read()
        self._record.judged[number] = was_taken or self._record.judged.get(number, False)
        if was_taken != taken and verdict_of(request, outcome, self._record) is not Verdict.MAY:
            self._trouble(f"request {number}: its correction is answered with {reply.status}")

    async def _meddle(self, request: Request) -> None:
        said = self._flock.said
        body = {
            "request_id": self._record.outcomes[request.number].request_id or "none",
            "verdict": "good",
            "correction": said(request.number, Slot.MEDDLING),
        }
        headers = {"X-Gaia-User": said(request.number, Slot.MEDDLER)}
        async with self._proxy.post(f"{self._url}/v1/feedback", json=body, headers=headers) as reply:
            if reply.status < 400:
                self._trouble(f"request {request.number}: somebody else's correction is answered with {reply.status}")
            await reply.read()

    def _trouble(self, line: str) -> None:
        if len(self._record.trouble) < MOST_TROUBLE:
            self._record.trouble.append(line)


def said_in(raw: str) -> str:
    """All the texts of a reply, whole or in events, put together in their order."""
    payloads = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: {")]
    parts: list[str] = []
    for payload in payloads or [raw]:
        try:
            _gather(json.loads(payload), parts)
        except ValueError:
            parts.append(payload)
    return "".join(parts)


def _gather(node: Json, parts: list[str]) -> None:
    """Texts under the names that replies have for them; the rest of a reply only repeats the request."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str) and key in ("content", "text", "delta", "arguments", "partial_json", "what"):
                parts.append(value)
            elif key not in ("response", "tools", "metadata"):
                _gather(value, parts)
    elif isinstance(node, list):
        for one in node:
            _gather(one, parts)
