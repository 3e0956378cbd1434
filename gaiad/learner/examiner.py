"""Runs an exam against the engine's own API, so that what is scored is what is served.

Touches the engine and the files that keep finished reports. What an answer is worth stands in `exams.score`, whether
a score suffices in `gate`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gaiad.errors import DatasetError, EngineError, GaiadError
from gaiad.learner.exams.score import ExamReport, Item, ItemScore, report_of
from gaiad.learner.ports import Completions


async def _at_once() -> None:
    return None


def _unheard(done: int, total: int) -> None:
    return None


async def examine(
    engine: Completions,
    items: Sequence[Item],
    *,
    subject: str,
    model: str,
    constrained: bool,
    max_tokens: int,
    judge: Callable[[Item, str], ItemScore],
    concurrency: int,
    timeout_s: float,
    on_progress: Callable[[int, int], None] = _unheard,
    make_way: Callable[[], Awaitable[None]] = _at_once,
) -> ExamReport:
    """Ask `model` every item, greedily, `concurrency` at once, each at most `timeout_s`.

    `judge` scores each answer; `make_way` is awaited before each question, so that users can be let past.

    Raises:
        EngineError: the engine failed to answer an item; an exam with holes is worth nothing.
    """
    scores: dict[str, ItemScore] = {}
    waiting = iter(items)

    async def ask() -> None:
        # All askers draw from the same iterator.
        for item in waiting:
            await make_way()
            answer = await _answered(engine, _question(item, model, constrained, max_tokens), timeout_s)
            scores[item.id] = judge(item, _text(answer))
            on_progress(len(scores), len(items))

    on_progress(0, len(items))
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(min(concurrency, len(items))):
                group.create_task(ask(), name=f"exam-{number}")
    except BaseExceptionGroup as several:
        raise _first_failure(several) from several
    given = [scores[item.id] for item in items]
    return await asyncio.to_thread(report_of, subject, constrained=constrained, items=items, scores=given, judge=judge)


async def _answered(engine: Completions, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    # Once more, and no more: one answer that came too late must not cost a whole cycle, a dead engine should.
    try:
        return await engine.complete(question, timeout_s=timeout_s)
    except EngineError:
        return await engine.complete(question, timeout_s=timeout_s)


def _first_failure(several: BaseExceptionGroup[BaseException]) -> BaseException:
    failures = list(_leaves(several))
    return next((one for one in failures if isinstance(one, GaiadError)), failures[0])


def _leaves(several: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in several.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def _question(item: Item, model: str, constrained: bool, max_tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": item.request_messages(),
        "temperature": 0,
        "seed": 0,
        "max_tokens": max_tokens,
    }
    if constrained and item.schema is not None:
        body["structured_outputs"] = {"json": dict(item.schema)}
    return body


def _text(answer: dict[str, Any]) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise EngineError("the engine answered an exam item without a message", hint="see the engine's log") from error
    return content if isinstance(content, str) else ""


def exam_key(items: Sequence[Item], *, subject: str, constrained: bool, max_tokens: int, engine: str) -> str:
    """Name an exam by everything that its outcome depends on; `engine` is the engine's version and base model."""
    canonical = json.dumps(
        [subject, constrained, max_tokens, engine, [asdict(item) for item in items]],
        sort_keys=True,
        default=dict,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


class KeptReports:
    """Reports of finished exams: greedy answers do not change, so no exam is taken twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, ExamReport] = {}

    def find(self, key: str) -> ExamReport | None:
        """The report kept under `key`, from memory or disk; a torn file counts as none."""
        if key not in self._known:
            try:
                self._known[key] = ExamReport.from_json(json.loads(self._path(key).read_text("utf-8")))
            except (OSError, ValueError, DatasetError):
                return None
        return self._known[key]

    def keep(self, key: str, report: ExamReport) -> None:
        """Keep a report in memory and on disk."""
        self._known[key] = report
        self._folder.mkdir(parents=True, exist_ok=True)
        torn = self._path(key).with_suffix(f".{os.getpid()}.tmp")
        torn.write_text(json.dumps(report.to_json()), "utf-8")
        torn.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
