"""The kinds of exam that a curriculum may name: how each picks its items and judges an answer.

Decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gaiad.curriculum import ExamSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example
from gaiad.learner.exams import answers, tool_choice
from gaiad.learner.exams.score import Item, ItemScore, score


@dataclass(frozen=True, slots=True)
class ExamKind:
    """`items` picks the items of an exam from the held-out split, `score` judges one answer."""

    items: Callable[[Sequence[Example], ExamSpec], tuple[Item, ...]]
    score: Callable[[Item, str], ItemScore]


EXAMS: Mapping[str, ExamKind] = {
    "tool_choice": ExamKind(tool_choice.items, score),
    "answers": ExamKind(answers.items, answers.score),
}


def exam_kind(name: str) -> ExamKind:
    """Find an exam by its name in a curriculum.

    Raises:
        CurriculumError: there is none of that name.
    """
    if name not in EXAMS:
        raise CurriculumError(f"exam.kind: there is no exam {name!r}", hint=f"known: {', '.join(EXAMS)}")
    return EXAMS[name]
