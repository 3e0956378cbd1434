"""The exam `answers`: held-out requests whose right answer is known by construction, in whatever form it has.

Decides which held-out examples become items, and whether an answer holds what an example expects:

- `{"label": text}`: the answer is that text and nothing else;
- `{"fields": {name: value}}`: the answer is one JSON object with these values;
- `{"lines": {NAME: value}}`: the answer has these labelled lines, `NAME: value`;
- `{"contains": [text, ...], "lacks": [text, ...]}`: these occur in the answer, and those do not; a list of texts in
  place of one asks for any of them;
- `{"most_words": number}`: the answer has no more words than that.

Case counts in fields only. Asks no engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gaiad.curriculum import ExamSpec, Json
from gaiad.errors import DatasetError
from gaiad.learner.dataset import Example, fair_choice
from gaiad.learner.exams.score import Item, ItemScore, fits, normalised, parsed_object, same

_FORMS = ("label", "fields", "lines", "contains", "lacks", "most_words")


def items(heldout: Sequence[Example], exam: ExamSpec) -> tuple[Item, ...]:
    """Turn held-out examples of the exam's stage into items, at most `exam.items`, spread fairly over the strata.

    Raises:
        DatasetError: where an example has no expectation of a known form, does not meet its own, or there is none.
    """
    asked = [example for example in heldout if example.stage == exam.stage]
    found = [
        Item(one.key(), one.messages[:-1], one.schema, one.expected or {}, one.answer)
        for one in fair_choice(asked, exam.items)
    ]
    wrong = [item.id for item in found if not _usable(item.expected) or not holds(item.expected, item.answer)]
    if wrong or not found:
        raise DatasetError(
            f"{len(found)} held-out examples of stage {exam.stage!r}, {len(wrong)} of them without an expectation that "
            "their own answer meets",
            hint=f"a source of this curriculum must give `expected` with one of: {', '.join(_FORMS)}",
        )
    return tuple(found)


def score(item: Item, answer: str) -> ItemScore:
    """Judge one answer: right where it holds what is expected and, where the stage has a schema, fits it."""
    valid = bool(answer.strip()) if item.schema is None else fits(item.schema, parsed_object(answer))
    right = valid and holds(item.expected, answer)
    return ItemScore(item.id, tool_ok=right, params_ok=right, json_ok=valid)


def holds(expected: Mapping[str, Json], answer: str) -> bool:
    """Say whether `answer` holds all that is expected of it."""
    checks = [_CHECKS[form](wanted, answer) for form, wanted in expected.items() if form in _CHECKS]
    return bool(checks) and all(checks)


def _usable(expected: Mapping[str, Json]) -> bool:
    return bool(expected) and set(expected) <= set(_FORMS) and all(bool(wanted) for wanted in expected.values())


def _same_text(wanted: Json, given: str) -> bool:
    return isinstance(wanted, str) and _plain(wanted) == _plain(given)


def _same_fields(wanted: Json, answer: str) -> bool:
    given = parsed_object(answer)
    if given is None or not isinstance(wanted, dict):
        return False
    return all(name in given and same(given[name], value) for name, value in wanted.items())


def _same_lines(wanted: Json, answer: str) -> bool:
    """Each wanted line stands in the answer once; a name given twice with different values is no answer."""
    given: dict[str, set[str]] = {}
    for name, value in re.findall(r"^[ \t*]*([A-Za-z][A-Za-z _]*?)[ \t*]*:[ \t*]*(.*)$", answer, re.MULTILINE):
        given.setdefault(_plain(name), set()).add(_plain(value))
    lines = wanted if isinstance(wanted, dict) else {}
    return bool(lines) and all(given.get(_plain(name)) == {_plain(str(value))} for name, value in lines.items())


def _contains(wanted: Json, answer: str) -> bool:
    given = _plain(answer)
    return isinstance(wanted, list) and all(
        any(_plain(str(text)) in given for text in (one if isinstance(one, list) else [one])) for one in wanted
    )


def _most_words(wanted: Json, answer: str) -> bool:
    return isinstance(wanted, int) and len(answer.split()) <= wanted


def _lacks(wanted: Json, answer: str) -> bool:
    return isinstance(wanted, list) and not any(_plain(str(one)) in _plain(answer) for one in wanted)


def _plain(text: str) -> str:
    """Case-folded, with single spaces, and in Unicode's composed form."""
    return str(normalised(text)).casefold()


_CHECKS = {
    "label": _same_text,
    "fields": _same_fields,
    "lines": _same_lines,
    "contains": _contains,
    "lacks": _lacks,
    "most_words": _most_words,
}
