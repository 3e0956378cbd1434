"""The nouns every exam shares: items, scores of one answer, and a report with Wilson intervals.

Decides what an answer is worth given what was expected. Asks no engine and reads no file; the examiner brings
the answers.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import jsonschema

from gaiad.curriculum import Json
from gaiad.errors import DatasetError
from gaiad.learner.dataset import Message

_Z95 = 1.959963984540054
"""The two-sided 95% point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Item:
    """One exam question: the request as it is sent, the stage's schema, and what a right answer holds.

    `answer` is a right answer in full.
    """

    id: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Json] | None
    expected: Mapping[str, Json]
    answer: str = ""

    def request_messages(self) -> list[dict[str, str]]:
        """The messages in OpenAI's form, ready for a request body."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """What one answer got. `params_ok` implies `tool_ok`; `json_ok` means it parses and fits the schema.

    An exam without tools has one mark for both: whether the answer is right. Where its stage has no schema, any text
    is a valid answer.
    """

    id: str
    tool_ok: bool
    params_ok: bool
    json_ok: bool


@dataclass(frozen=True, slots=True)
class Metric:
    """Hits out of a total with the 95% Wilson interval of the rate."""

    hits: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, total: int) -> Metric:
        """Build the metric and its interval from counts; no items give the interval 0..1."""
        low, high = wilson(hits, total)
        return cls(hits, total, low, high)

    @property
    def rate(self) -> float:
        """The share of hits, 0 where there is nothing to count."""
        return self.hits / self.total if self.total else 0.0

    def to_json(self) -> dict[str, Json]:
        """The metric as JSON, the rate included for readers."""
        return {"hits": self.hits, "total": self.total, "rate": self.rate, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> Metric:
        """Read what `to_json` wrote; the interval is computed anew."""
        return cls.of(int(cast(int, raw["hits"])), int(cast(int, raw["total"])))


@dataclass(frozen=True, slots=True)
class ExamReport:
    """How one subject (`base` or a version) did on every item, in the items' order.

    `constant` is what the best single answer, given every time, would have got on the same items.
    """

    subject: str
    constrained: bool
    tool: Metric
    params: Metric
    valid_json: Metric
    per_item: tuple[ItemScore, ...]
    constant: Metric | None = None

    def to_json(self) -> dict[str, Json]:
        """The report as JSON; `from_json` reads it back."""
        return {
            "subject": self.subject,
            "constrained": self.constrained,
            "tool": self.tool.to_json(),
            "params": self.params.to_json(),
            "valid_json": self.valid_json.to_json(),
            "constant": self.constant.to_json() if self.constant else None,
            "per_item": [
                {"id": one.id, "tool_ok": one.tool_ok, "params_ok": one.params_ok, "json_ok": one.json_ok}
                for one in self.per_item
            ],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> ExamReport:
        """Read a report back, or raise DatasetError when `raw` is not one."""
        try:
            rows = cast("list[dict[str, Json]]", raw["per_item"])
            scores = tuple(
                ItemScore(str(row["id"]), row["tool_ok"] is True, row["params_ok"] is True, row["json_ok"] is True)
                for row in rows
            )
            constant = raw.get("constant")
            return _counted(
                str(raw["subject"]),
                raw["constrained"] is True,
                scores,
                Metric.from_json(cast("dict[str, Json]", constant)) if constant else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"not an exam report: {error!r}", hint="run the exam again") from error


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95% Wilson score interval of `hits` out of `total`."""
    if total <= 0:
        return 0.0, 1.0
    share, z2 = hits / total, _Z95 * _Z95
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == total else min(1.0, centre + half)
    return low, high


def report_of(
    subject: str,
    *,
    constrained: bool,
    items: Sequence[Item],
    scores: Sequence[ItemScore],
    judge: Callable[[Item, str], ItemScore],
) -> ExamReport:
    """Put an exam's scores into a report, with the best constant answer on the same items beside them.

    `judge` is how this exam scores an answer.

    Raises:
        DatasetError: where the scores are not exactly those of the items, in order.
    """
    if [item.id for item in items] != [one.id for one in scores]:
        raise DatasetError(
            f"the exam of {subject} scored {len(scores)} answers for {len(items)} items, or others than asked",
            hint="run the exam again",
        )
    return _counted(subject, constrained, tuple(scores), best_constant(items, judge))


def _counted(subject: str, constrained: bool, scores: tuple[ItemScore, ...], constant: Metric | None) -> ExamReport:
    total = len(scores)
    return ExamReport(
        subject=subject,
        constrained=constrained,
        tool=Metric.of(sum(one.tool_ok for one in scores), total),
        params=Metric.of(sum(one.params_ok for one in scores), total),
        valid_json=Metric.of(sum(one.json_ok for one in scores), total),
        per_item=scores,
        constant=constant,
    )


def best_constant(items: Sequence[Item], judge: Callable[[Item, str], ItemScore]) -> Metric:
    """What the best single answer would score if it were given to every item.

    Where tools are chosen that is the commonest tool; elsewhere each item's own right answer is tried on all.
    """
    tools = Counter(str(item.expected["selected_tool"]) for item in items if "selected_tool" in item.expected)
    if tools.total() == len(items):
        return Metric.of(max(tools.values(), default=0), len(items))
    answers = dict.fromkeys(item.answer for item in items)
    # A schema says nothing about which of the right answers is the best, and costs most of the time.
    plain = [replace(item, schema=None) for item in items]
    hits = (sum(judge(item, answer).tool_ok for item in plain) for answer in answers)
    return Metric.of(max(hits, default=0), len(items))


def score(item: Item, answer_text: str) -> ItemScore:
    """Judge one answer. Text that is not exactly one JSON object scores nothing at all."""
    answer = parsed_object(answer_text)
    if answer is None:
        return ItemScore(item.id, tool_ok=False, params_ok=False, json_ok=False)
    tool_ok = answer.get("selected_tool") == item.expected.get("selected_tool")
    wanted = item.expected.get("params", {})
    params_ok = tool_ok and same(_params(answer.get("params")), wanted)
    return ItemScore(item.id, tool_ok=tool_ok, params_ok=params_ok, json_ok=fits(item.schema, answer))


def parsed_object(text: str) -> dict[str, Json] | None:
    """Parse `text` as exactly one strict JSON object, or return None."""
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def _no_repeats(pairs: Iterable[tuple[str, Json]]) -> dict[str, Json]:
    result: dict[str, Json] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def fits(schema: Mapping[str, Json] | None, value: Json) -> bool:
    """Say whether `value` obeys `schema` (anything does where there is none)."""
    if schema is None:
        return True
    return bool(jsonschema.Draft202012Validator(dict(schema)).is_valid(value))


def same(given: Json, wanted: Json) -> bool:
    """Say whether two JSON values are the same after normalising; a boolean is never a number."""
    try:
        return _written(given) == _written(wanted)
    except RecursionError:  # nested beyond all sense, so not what was wanted
        return False


def _written(value: Json) -> str:
    # As text, because Python takes True for 1.
    return json.dumps(normalised(value), sort_keys=True)


def _params(value: Json) -> Json:
    """The parameters inside the answer's string; no text at all means none."""
    if not isinstance(value, str):
        return None
    return {} if not value.strip() else parsed_object(value)


def normalised(value: Json) -> Json:
    """Reduce a JSON value to what counts: Unicode NFC, single spaces, 3.0 as 3. Case and booleans stay."""
    match value:
        case bool() | None:
            return value
        case float():
            return int(value) if value.is_integer() else value
        case str():
            return " ".join(unicodedata.normalize("NFC", value).split())
        case list():
            return [normalised(one) for one in value]
        case dict():
            return {key: normalised(one) for key, one in value.items()}
        case _:
            return value
