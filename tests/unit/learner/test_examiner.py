"""Exams against a tiny engine that answers from a table."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import Json
from gaiad.errors import EngineError
from gaiad.learner.dataset import Message
from gaiad.learner.examiner import KeptReports, exam_key, examine
from gaiad.learner.exams.score import Item, score

SCHEMA: dict[str, Json] = {"type": "object", "required": ["selected_tool", "params"]}


def item(number: int) -> Item:
    expected: dict[str, Json] = {"selected_tool": f"tool{number % 3}", "params": {"n": number}}
    return Item(f"i{number}", (Message("user", f"request {number}"),), SCHEMA, expected)


ITEMS = tuple(item(number) for number in range(9))


def right_answer(one: Item) -> str:
    return json.dumps({"selected_tool": one.expected["selected_tool"], "params": json.dumps(one.expected["params"])})


class TinyEngine:
    """Answers each request rightly, but for those it is told to get wrong; counts how many it has at once."""

    def __init__(self, wrong: frozenset[str] = frozenset(), dies_at: str | None = None) -> None:
        self.answers = {one.messages[0].content: right_answer(one) for one in ITEMS}
        self.wrong, self.dies_at = wrong, dies_at
        self.bodies: list[dict[str, Any]] = []
        self.now = self.most = 0

    async def complete(self, body: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        self.bodies.append(body)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        asked = body["messages"][-1]["content"]
        if asked == self.dies_at:
            raise EngineError("the engine is gone", hint="wait")
        text = "no idea" if asked in self.wrong else self.answers[asked]
        return {"choices": [{"message": {"content": text}}]}


async def taken(engine: TinyEngine, *, constrained: bool = True, concurrency: int = 4, **more: Any) -> Any:
    return await examine(
        engine,
        ITEMS,
        subject="base",
        judge=score,
        model="prime",
        constrained=constrained,
        max_tokens=32,
        concurrency=concurrency,
        timeout_s=60.0,
        **more,
    )


async def test_every_item_is_asked_once_greedily_and_scored_in_order() -> None:
    engine = TinyEngine(wrong=frozenset({"request 2", "request 5"}))
    report = await taken(engine)
    assert [one.id for one in report.per_item] == [one.id for one in ITEMS]
    assert (report.tool.hits, report.params.hits, report.valid_json.hits, report.tool.total) == (7, 7, 7, 9)
    assert sorted(body["messages"][0]["content"] for body in engine.bodies) == [f"request {n}" for n in range(9)]
    assert all(body["temperature"] == 0 and body["model"] == "prime" for body in engine.bodies)


async def test_only_a_constrained_exam_sends_the_schema() -> None:
    bound, free = TinyEngine(), TinyEngine()
    await taken(bound)
    report = await taken(free, constrained=False)
    assert all(body["structured_outputs"] == {"json": SCHEMA} for body in bound.bodies)
    assert not any("structured_outputs" in body for body in free.bodies)
    assert report.constrained is False


async def test_no_more_items_than_allowed_are_under_way_at_once() -> None:
    engine = TinyEngine()
    await taken(engine, concurrency=3)
    assert engine.most == 3


async def test_an_exam_with_a_hole_is_no_exam() -> None:
    with pytest.raises(EngineError, match="the engine is gone"):
        await taken(TinyEngine(dies_at="request 4"))


async def test_progress_counts_up_to_the_end_and_users_are_let_past_before_each_item() -> None:
    seen: list[tuple[int, int]] = []
    ways = 0

    async def make_way() -> None:
        nonlocal ways
        ways += 1

    await taken(TinyEngine(), on_progress=lambda done, total: seen.append((done, total)), make_way=make_way)
    assert seen == [(done, 9) for done in range(10)]
    assert ways == 9


async def test_a_kept_report_comes_back_whole_and_a_torn_file_counts_as_none(tmp_path: Path) -> None:
    report = await taken(TinyEngine(wrong=frozenset({"request 1"})))
    KeptReports(tmp_path).keep("k", report)
    assert KeptReports(tmp_path).find("k") == report
    (tmp_path / "torn.json").write_text('{"subject": "ba')
    assert KeptReports(tmp_path).find("torn") is None
    assert KeptReports(tmp_path).find("absent") is None


def test_an_exam_is_named_by_everything_that_its_outcome_depends_on() -> None:
    def key(**changed: Any) -> str:
        given: dict[str, Any] = {"subject": "base", "constrained": True, "max_tokens": 32, "engine": "0.32.0 x"}
        items = changed.pop("items", ITEMS)
        return exam_key(items, **{**given, **changed})

    variants = [
        key(),
        key(subject="json-architect@v1-00000001"),
        key(constrained=False),
        key(max_tokens=33),
        key(engine="0.33.0 x"),
        key(items=ITEMS[:-1]),
    ]
    assert len(set(variants)) == len(variants)
    assert key() == key()


async def test_one_late_answer_does_not_cost_the_exam() -> None:
    class LateOnce(TinyEngine):
        late = False

        async def complete(self, body: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
            if not self.late:
                self.late = True
                raise EngineError("no answer within 60 s", hint="wait")
            return await super().complete(body)

    assert (await taken(LateOnce())).tool.hits == 9
