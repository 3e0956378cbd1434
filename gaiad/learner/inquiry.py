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

MOST_OF_REFUSED = 2_000
"""So many characters are written down of a text that is refused."""
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
    """How to ask: the sampling without its seed, how many at once, how many more to keep, and for how long."""

    sampling: Mapping[str, float]
    concurrency: int
    enough: int
    deadline_s: float


class Inquiry:
    """One run of questions, from the first to whatever ends it."""

    def __init__(
        self,
        base: BaseModel,
        who: Base,
        questions: Iterator[Question],
        file: MadeFile,
        judge: Judge,
        manner: Manner,
        on_progress: Callable[[Tally], None],
    ) -> None:
        self._base, self._who, self._questions, self._file = base, who, questions, file
        self._judge, self._manner, self._on_progress = judge, manner, on_progress
        self._tally = Tally()
        self._failures_in_a_row = 0

    async def run(self) -> Tally:
        """Ask until `Manner.enough` more rows are kept.

        Raises:
            EngineError: the base refuses, or is away. What was taken down until then is in the file.
            DatasetError: the file cannot be written.
        """
        self._on_progress(self._tally)
        try:
            async with asyncio.timeout(self._manner.deadline_s), asyncio.TaskGroup() as group:
                for number in range(self._manner.concurrency):
                    group.create_task(self._ask(), name=f"ask-{number}")
        except TimeoutError:
            self._tally.ended = Ended.TIME_IS_UP
        except BaseExceptionGroup as several:
            raise _first(several) from several
        else:
            self._tally.ended = Ended.ENOUGH if self._has_enough else Ended.ALL_ASKED
        return self._tally

    @property
    def _has_enough(self) -> bool:
        return self._tally.kept >= self._manner.enough

    async def _ask(self) -> None:
        # All askers draw from the same questions.
        while not self._has_enough and (question := next(self._questions, None)) is not None:
            sampling = {**self._manner.sampling, "seed": question.seed}
            said = await self._base.say(question.messages, sampling)
            if isinstance(said, NotYet):
                self._failed(said)
            else:
                self._take_down(question, said, sampling)
            self._on_progress(self._tally)

    def _failed(self, why: NotYet) -> None:
        self._tally.failed[why.reason] += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise away(self._base.url, why)

    def _take_down(self, question: Question, said: Said, sampling: Mapping[str, float]) -> None:
        self._failures_in_a_row = 0
        text, reason = self._judge(question, said)
        self._file.add(_row(question, said, text, reason, sampling, self._who))
        self._tally.proposed += 1
        if reason is None:
            self._tally.kept += 1
        else:
            self._tally.refused[reason] += 1


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
        text=text if reason is None else text[:MOST_OF_REFUSED],
        finish_reason=said.finish_reason,
        verdict=reason or KEPT,
        sampling=sampling,
        base=who,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
