"""One round: each way of asking, put to each target in turn, so that what is compared was measured side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.errors import CannotMeasure
from bench.load.targets import DIRECT, Target
from bench.load.traffic import BODY_BYTES, FRAME_EVENTS, Ask, Asks, Load, send
from bench.load.tree import cpu_us, rss_mb, settle

STEADY_CHUNKS = 100
ARRIVING_CHUNKS = 20
_SKIP_MS = 500
_WARM_UP_REQUESTS = 300


@dataclass(frozen=True, slots=True)
class Way:
    """One way of asking: its name and the load generator's options."""

    name: str
    options: Mapping[str, int]
    chunks: int = 0
    body_bytes: int = BODY_BYTES


WAYS = (
    Way("plain", {"connections": 32}),
    Way("paced", {"rate": 50, "skip_ms": _SKIP_MS}),
    Way("steady", {"connections": 64, "spread_ms": 1000}, STEADY_CHUNKS),
    Way("arriving", {"rate": 200, "skip_ms": _SKIP_MS}, ARRIVING_CHUNKS),
)
"""As fast as it goes; 50 requests/s; 64 streams of 100 chunks/s; 200 streams/s of 20 chunks, 10 ms apart."""


@dataclass(frozen=True, slots=True)
class Run:
    """One way put to one target, and the CPU that the target's tree spent on it until it was quiet again."""

    load: Load
    cpu_us: float


class Rounds:
    """Puts rounds to targets and counts what each was asked in all."""

    def __init__(self, program: Path, folder: Path, seconds: int) -> None:
        self._program = program
        self._asks = Asks(folder)
        self._seconds = seconds
        self._written: dict[tuple[str, int, int], Ask] = {}
        self._seed = 0
        self.asked: dict[str, int] = {}

    def warm_up(self, target: Target) -> None:
        """Let a target make its connections and caches; a target that does not answer fails here."""
        for way in (WAYS[0], WAYS[-1]):
            options = {"connections": 32, "requests": _WARM_UP_REQUESTS}
            self.put(target, dataclasses.replace(way, options=options))

    def round(self, targets: Sequence[Target], number: int) -> Iterator[tuple[str, str, dict[str, float]]]:
        """Measure every target in every way; yields target, way and figures as they come.

        Each round begins with another target, so that none always follows the same one.
        """
        turned = [*targets[number % len(targets) :], *targets[: number % len(targets)]]
        for way in WAYS:
            for target in turned:
                yield target.name, way.name, _figures(way, self.put(target, way), target)

    def put(self, target: Target, way: Way) -> Run:
        """Put one way to one target.

        Raises:
            CannotMeasure: not every request was answered.
        """
        self._seed += 1
        options = {**way.options, "seed": self._seed}
        if way.chunks:
            options["events"] = way.chunks + FRAME_EVENTS
        before = cpu_us(target.pid)
        load = send(self._program, target.port, [self.ask(target, way)], self._seconds, **options)
        settle(target.pid)
        spent_us = cpu_us(target.pid) - before
        if load.trouble:
            raise CannotMeasure(f"{target.name}, {way.name}: {load.trouble}")
        self.asked[target.name] = self.asked.get(target.name, 0) + load.done
        # The direct way has no proxy to charge: what is shown is what the measuring itself costs.
        return Run(load, spent_us + load.cpu_us if target.name == DIRECT else spent_us)

    def ask(self, target: Target, way: Way) -> Ask:
        """The request of a way, as this target gets it."""
        key = (target.name, way.chunks, way.body_bytes)
        if key not in self._written:
            streamed = way.chunks > 0
            self._written[key] = self._asks.write(
                model=target.model,
                chunks=way.chunks or 256,
                streamed=streamed,
                headers=target.headers,
                body_bytes=way.body_bytes,
            )
        return self._written[key]


def _figures(way: Way, run: Run, target: Target) -> dict[str, float]:
    load = run.load
    match way.name:
        case "plain":
            return {"request_cpu_us": run.cpu_us / load.done, "requests_per_s": load.done / load.elapsed_s}
        case "steady":
            chunks = load.streams_done * way.chunks
            times = {"steady_p50_ms": load.p50_ms, "steady_p99_ms": load.p99_ms}
            return {"chunk_cpu_us": run.cpu_us / chunks, "rss_mb": rss_mb(target.pid), **times}
        case _:
            return {f"{way.name}_p50_ms": load.p50_ms, f"{way.name}_p99_ms": load.p99_ms}
