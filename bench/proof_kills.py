"""No exchange that was acknowledged is lost, and none is there by halves, however often the daemon is killed.

    python -m bench.proof_kills [--kills 50] [--seed 1] [--clients 12] [--json]

A daemon before a fake engine that goes on running is killed with SIGKILL while clients ask, streamed and not, each
text unique, all of a user who granted everything. After a burst of requests each client asks for their exchanges, in
turns over the proxy and over the control socket: what answers `durable: true` with its content is acknowledged. Each
such question makes the daemon commit at once, so every second kill comes within a few ms of one; the others come at any
moment of the first 0.6 s of load. The moments follow from the seed.

After each kill a copy of the file and its write-ahead log is recovered and read, then the daemon is started anew on
the originals. A killed process is no power cut: what the kernel had taken over survives either way.

Progress goes to stderr. Exit code 1: something is lost or half there, which is named, or it did not run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from bench.load import targets as kinds
from bench.load.command import concluded
from bench.load.kept import Acknowledged, as_left, said_in, wrong_with
from bench.load.targets import Target
from tests.fakes.vllm_process import running_vllm

LOAD_S = 0.6
AIMED_S = 0.008
AIMED_WITHIN_S = 5.0
MOST_IN_A_BURST = 8
QUEUE = 2000


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: `delay_s` after the load began, or after so many clients asked for their exchanges."""

    delay_s: float
    asked: int

    def line(self) -> str:
        """In words."""
        after = f"question {self.asked}" if self.asked else "the load began"
        return f"{self.delay_s * 1000:.1f} ms after {after}"


def moments(kills: int, seed: int) -> list[Moment]:
    """The plan: every second one aimed at a commit."""
    chance = random.Random(seed)
    return [
        Moment(chance.uniform(0, AIMED_S), chance.randint(1, 40))
        if number % 2
        else Moment(chance.uniform(0, LOAD_S), 0)
        for number in range(kills)
    ]


@dataclass(slots=True)
class Life:
    """One daemon from its start to its kill, as its clients saw it. `waiting` questions were open at the kill."""

    number: int
    moment: Moment
    acknowledged: list[Acknowledged] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    answered: int = 0
    asked: int = 0
    waiting: int = 0
    start_s: float = 0.0
    killed: bool = False
    questions: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Proof:
    """All lives, and what was wrong after each and at the end."""

    lives: tuple[Life, ...]
    wrong: tuple[str, ...]
    elapsed_s: float

    @property
    def acknowledged(self) -> int:
        """How many exchanges were promised."""
        return sum(len(life.acknowledged) for life in self.lives)

    @property
    def holds(self) -> bool:
        """Whether nothing is lost, and there was something to lose."""
        return not self.wrong and self.acknowledged > 0


class Client:
    """Asks in bursts, then for the exchanges of the burst, until the daemon is gone."""

    def __init__(self, life: Life, target: Target, number: int, seed: int) -> None:
        self._life, self._number = life, number
        self._proxy = f"http://127.0.0.1:{target.port}"
        self._headers = dict(target.headers)
        assert target.control is not None
        self._control = target.control.path
        self._chance = random.Random(f"{seed} {life.number} {number}")

    async def run(self) -> None:
        """Ask until the kill; what fails before it is trouble."""
        try:
            async with (
                aiohttp.ClientSession() as proxy,
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._control))) as control,
            ):
                for burst in range(sys.maxsize):
                    said = [
                        await self._ask(proxy, burst, turn) for turn in range(self._chance.randint(1, MOST_IN_A_BURST))
                    ]
                    url = f"{self._proxy}/v1/gaia/exchanges" if burst % 2 else "http://control/exchanges"
                    for each in said:
                        await self._acknowledged(proxy if burst % 2 else control, f"{url}/{each.request_id}", each)
        except (aiohttp.ClientError, OSError) as error:
            if not self._life.killed:
                self._life.trouble.append(f"a client met {type(error).__name__} before the kill")

    async def _ask(self, session: aiohttp.ClientSession, burst: int, turn: int) -> Acknowledged:
        text = f"life {self._life.number}, client {self._number}, burst {burst}, turn {turn}: "
        text += f"{self._chance.getrandbits(64):x} ü " * self._chance.randint(1, 60)
        body = {"messages": [{"role": "user", "content": text}], "stream": self._chance.random() < 0.5}
        url = f"{self._proxy}/v1/chat/completions"
        async with session.post(url, json=body, headers=self._headers) as reply:
            raw = await reply.text()
            if reply.status != 200:
                raise aiohttp.ClientError(f"status {reply.status}")
            self._life.answered += 1
            answer = streamed_text(raw) if body["stream"] else said_in(None, json.loads(raw))[1]
            return Acknowledged(reply.headers["X-Gaia-Request-Id"], text, answer or "")

    async def _acknowledged(self, session: aiohttp.ClientSession, url: str, said: Acknowledged) -> None:
        life = self._life
        life.asked += 1
        life.waiting += 1
        life.questions.set()
        try:
            async with session.get(url, headers=self._headers) as reply:
                found: dict[str, Any] = await reply.json()
        finally:
            life.waiting -= not life.killed
        # A question that outlasts the moment that the proxy waits for the store has no answer yet; it is no promise.
        if reply.status == 404:
            return
        if found.get("durable") is True and said_in(found["request"], found["response"]) == (said.asked, said.answered):
            life.acknowledged.append(said)
        else:
            life.trouble.append(f"{said.request_id} is answered, but not with what was said")


def streamed_text(raw: str) -> str:
    """The text of a stream of events."""
    events = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def killed(life: Life, target: Target, clients: int, seed: int) -> None:
    """Let clients ask, and kill the daemon at the planned moment."""
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(Client(life, target, number, seed).run())
        with suppress(TimeoutError):
            async with asyncio.timeout(AIMED_WITHIN_S):
                while life.asked < life.moment.asked:
                    life.questions.clear()
                    await life.questions.wait()
        await asyncio.sleep(life.moment.delay_s)
        life.killed = True
        os.kill(target.pid, signal.SIGKILL)


def prove(folder: Path, kills: int, seed: int, clients: int) -> Proof:
    """Live and die so often, and read what is left each time, and at the end after a stop in good order."""
    began, lives, wrong, promised = time.monotonic(), [], [], list[Acknowledged]()
    store = folder / "gaiad" / "state" / "gaiad.db"
    with running_vllm() as engine:
        for number, moment in enumerate(moments(kills, seed), 1):
            life, asked_at = Life(number, moment), time.monotonic()
            with kinds.gaiad(folder / "gaiad", engine.port, None, consented=True, queue=QUEUE) as target:
                life.start_s = time.monotonic() - asked_at
                asyncio.run(killed(life, target, clients, seed))
            promised += life.acknowledged
            with as_left(store, folder / "left") as left:
                found = wrong_with(left, promised) + life.trouble
            lives.append(life)
            wrong += [f"kill {number}: {line}" for line in found]
            tell(life, kills, len(found))
        with kinds.gaiad(folder / "gaiad", engine.port, None, consented=True, queue=QUEUE):
            pass
    wrong += [f"at the end: {line}" for line in wrong_with(store, promised)]
    return Proof(tuple(lives), tuple(wrong), time.monotonic() - began)


def tell(life: Life, kills: int, wrong: int) -> None:
    """One line of progress."""
    told = f"{life.answered} answered, {len(life.acknowledged)} acknowledged, {life.waiting} about to be"
    verdict = f"{wrong} WRONG" if wrong else "all there"
    print(f"kills: {life.number} of {kills}, {life.moment.line()}: {told}; {verdict}", file=sys.stderr)


def table(proof: Proof) -> list[str]:
    """The figures, then all that is wrong."""
    lives = proof.lives
    caught = sum(1 for life in lives if life.waiting)
    rows = [
        ("kills", f"{len(lives)} in {proof.elapsed_s:.0f} s"),
        ("kills while somebody waited for a commit", f"{caught}"),
        ("start of the daemon, median s", f"{statistics.median(life.start_s for life in lives):.2f}"),
        ("requests answered", f"{sum(life.answered for life in lives):,}"),
        ("exchanges acknowledged", f"{proof.acknowledged:,}"),
        ("lost, changed or half there", f"{len(proof.wrong)}"),
    ]
    return [f"{title:44}{value}" for title, value in rows] + list(proof.wrong)


def as_json(proof: Proof) -> dict[str, object]:
    """All of it for machines."""
    lives = [
        {
            "kill": asdict(life.moment),
            "answered": life.answered,
            "acknowledged": len(life.acknowledged),
            "waiting": life.waiting,
            "start_s": life.start_s,
        }
        for life in proof.lives
    ]
    told = {"lives": lives, "acknowledged": proof.acknowledged, "wrong": proof.wrong}
    return {**told, "elapsed_s": proof.elapsed_s, "holds": proof.holds}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.kills < 1 or options.clients < 1:
        parser.error("--kills and --clients must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill so often and print one table; 1 where something is lost or half there."""
    options = parsed(arguments)
    print(f"kills: the seed is {options.seed}", file=sys.stderr)

    def proved() -> bool:
        with tempfile.TemporaryDirectory(prefix="proof-kills-") as folder:
            proof = prove(Path(folder), options.kills, options.seed, options.clients)
        print(json.dumps(as_json(proof)) if options.json else "\n".join(table(proof)))
        return proof.holds

    return concluded("kills", proved)


if __name__ == "__main__":
    sys.exit(main())
