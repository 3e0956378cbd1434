"""The exam `tool_choice`: held-out requests, and whether the right tool comes back with the right parameters.

Decides which held-out examples become items. Scoring stands in `exams.score`; asking the engine, elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from gaiad.curriculum import ExamSpec
from gaiad.errors import DatasetError
from gaiad.learner.dataset import Example, fair_choice
from gaiad.learner.exams.score import Item


def items(heldout: Sequence[Example], exam: ExamSpec) -> tuple[Item, ...]:
    """Turn held-out examples of the exam's stage into items, at most `exam.items`, spread fairly over the strata.

    Raises:
        DatasetError: where an example has no expectation, or there is nothing to ask.
    """
    asked = [example for example in heldout if example.stage == exam.stage]
    without = sum(1 for example in asked if not example.expected or "selected_tool" not in example.expected)
    if without or not asked:
        raise DatasetError(
            f"{len(asked)} held-out examples of stage {exam.stage!r}, {without} of them without an expected answer",
            hint="a source of this curriculum must give `expected` with every held-out example",
        )
    chosen = fair_choice(asked, exam.items)
    return tuple(Item(one.key(), one.messages[:-1], one.schema, one.expected or {}, one.answer) for one in chosen)
