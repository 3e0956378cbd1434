"""Asks the base one question after the other, several at once, until enough is kept, time is up, or it is away.

Takes down each answer with its verdict. Which questions there are, and what an answer is worth, come from the caller.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from gaiad.errors import EngineError, NotYet
from gaiad.learner.base_model import BaseModel, away
from gaiad.learner.made_file import MadeFile
from gaiad.learner.self_made import KEPT, Base, Made, Question, Said

FAILURES_IN_A_ROW = 5
"""After so many questions without a usable answer, one after the other, the base counts as away."""


class Ended(StrEnum):
    """Why asking ended."""

    ENOUGH = "enough is kept"
    ALL_ASKED = "everything was asked"
    TIME_IS_UP = "time is up"


@dataclass(slots=True)
class Tally:
    """What became of the questions of one run."""

    proposed: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    ended: Ended = Ended.ALL_ASKED


Judge = Callable[[Question, Said], tuple[str, str | None]]
"""The text to be kept of an answer, and why it is refused; None where it is not."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to ask: the sampling without its seed, how many at once, how many may be kept in all, and for how long."""

    sampling: Mapping[str, float]
    concurrency: int
    enough: int
    deadline_s: float


async def inquire(
    base: BaseModel,
    who: Base,
    questions: Iterator[Question],
    file: MadeFile,
    judge: Judge,
    manner: Manner,
    on_progress: Callable[[Tally], None],
) -> Tally:
    """Ask until `manner.enough` rows of the file are kept; rows of earlier runs count.

    Raises:
        EngineError: the base refuses, or is away. What was taken down until then is in the file.
        DatasetError: the file cannot be written.
    """
    tally = Tally()
    kept = sum(row.is_kept for row in file.rows)
    in_a_row = 0

    async def ask() -> None:
        nonlocal in_a_row
        # All askers draw from the same questions.
        while kept + tally.kept < manner.enough:
            question = next(questions, None)
            if question is None:
                return
            sampling = {**manner.sampling, "seed": question.seed}
            said = await base.say(question.messages, sampling)
            if isinstance(said, NotYet):
                tally.failed[said.reason] += 1
                on_progress(tally)
                in_a_row += 1
                if in_a_row >= FAILURES_IN_A_ROW:
                    raise away(base.url, said)
                continue
            in_a_row = 0
            text, reason = judge(question, said)
            file.add(_row(question, said, text, reason, sampling, who))
            tally.proposed += 1
            if reason is None:
                tally.kept += 1
            else:
                tally.refused[reason] += 1
            on_progress(tally)

    on_progress(tally)
    try:
        async with asyncio.timeout(manner.deadline_s), asyncio.TaskGroup() as group:
            for number in range(manner.concurrency):
                group.create_task(ask(), name=f"ask-{number}")
    except TimeoutError:
        tally.ended = Ended.TIME_IS_UP
    except BaseExceptionGroup as several:
        raise _first(several) from several
    else:
        tally.ended = Ended.ENOUGH if kept + tally.kept >= manner.enough else Ended.ALL_ASKED
    return tally


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to be told of: a refusal by the base before all that follows from it."""
    return next((one for one in several.exceptions if isinstance(one, EngineError)), several.exceptions[0])


def _row(
    question: Question, said: Said, text: str, reason: str | None, sampling: Mapping[str, float], who: Base
) -> Made:
    return Made(
        key=question.key,
        of=question.of,
        group=question.group,
        request=question.request,
        asked=question.messages[-1].content,
        text=text,
        finish_reason=said.finish_reason,
        verdict=reason or KEPT,
        sampling=sampling,
        base=who,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
