"""What a reply's fate says by itself: pure readings, and what the store makes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gaiad.config import Config, StoreConfig
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.exchange import ExchangeRecord, Outcome
from gaiad.signals import (
    ASKED_AGAIN_WITHIN_S,
    Asked,
    asks_for_json,
    lately,
    of_reply,
    question_of,
    regenerated,
    said_in,
    timed,
)

WANTS_JSON = {"response_format": {"type": "json_object"}}


def chat(content: object, **more: object) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}}]}


@pytest.mark.parametrize(
    "request_body",
    [
        WANTS_JSON,
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"structured_outputs": {"json": {"type": "object"}}},
        {"structured_outputs": {"json_object": True}},
        {"guided_json": {"type": "object"}},
        {"text": {"format": {"type": "json_schema"}}},
        {"output_config": {"format": {"type": "json_schema"}}},
    ],
)
def test_a_reply_that_should_be_json_and_is_none_says_so(request_body: dict[str, Any]) -> None:
    assert asks_for_json(request_body)
    for text, signals in (("{", ["invalid_json"]), ('{"a": 1}', []), ("", ["invalid_json"])):
        assert of_reply(request_body, chat(text), outcome=Outcome.WHOLE, streamed=False) == signals
    assert of_reply(request_body, chat(None, tool_calls=[{}]), outcome=Outcome.WHOLE, streamed=False) == []
    assert of_reply(request_body, chat("{"), outcome=Outcome.FAILED, streamed=False) == []


@pytest.mark.parametrize(
    "request_body", [{}, None, {"response_format": {"type": "text"}}, {"response_format": 5}, {"text": []}]
)
def test_where_no_json_was_asked_for_none_is_missed(request_body: object) -> None:
    assert not asks_for_json(request_body)
    assert of_reply(request_body, chat("{"), outcome=Outcome.WHOLE, streamed=True) == []


def test_a_stream_is_abandoned_where_its_client_left_after_something_was_said() -> None:
    for outcome, streamed, text, signals in (
        (Outcome.ABORTED, True, "wel", ["abandoned"]),
        (Outcome.ABORTED, True, "", []),
        (Outcome.ABORTED, False, "wel", []),
        (Outcome.FAILED, True, "wel", []),
        (Outcome.WHOLE, True, "well", []),
    ):
        assert of_reply({}, chat(text), outcome=outcome, streamed=streamed) == signals


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (chat("yes"), ("yes", False)),
        (chat(None, tool_calls=[{}]), ("", True)),
        ({"choices": [{"text": "yes"}]}, ("yes", False)),
        ({"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}, ("yes", False)),
        ({"content": [{"type": "tool_use"}]}, ("", True)),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]}, ("yes", False)),
        ({"output": [{"type": "function_call"}]}, ("", True)),
        ({"output": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "no"}]}]}, ("", False)),
        ({"choices": 5}, ("", False)),
        (None, ("", False)),
    ],
)
def test_what_was_said_is_found_in_every_form(response: object, said: tuple[str, bool]) -> None:
    assert said_in(response) == said


def test_a_question_is_what_was_asked_of_whom_and_not_how() -> None:
    asked = {"messages": [{"role": "user", "content": "well?"}]}
    same = question_of(asked, "ana")
    assert same is not None
    assert question_of({**asked, "temperature": 1, "model": "gaia:intent", "stream": True}, "ana") == same
    assert question_of(asked, "bob") != same
    assert question_of({"messages": [*asked["messages"], {"role": "assistant", "content": "so"}]}, "ana") != same
    assert question_of({"system": "be brief", **asked}, "ana") != same
    nothings: list[Any] = [{}, {"messages": []}, {"system": "be brief"}, None]
    for nothing in nothings:
        assert question_of(nothing, "ana") is None


def test_only_a_whole_reply_that_was_asked_for_again_soon_is_regenerated() -> None:
    asked = [
        Asked("c", "q", 30.0, 31.0, "whole"),
        Asked("a", "q", 10.0, 11.0, "whole"),
        Asked("b", "q", 20.0, 21.0, "failed"),
        Asked("d", "q", 30.0 + ASKED_AGAIN_WITHIN_S + 1, 1e9, "whole"),
        Asked("x", "other", 11.0, 12.0, "whole"),
    ]
    assert list(regenerated(asked)) == ["a"]


def test_samples_taken_at_once_were_not_asked_for_again() -> None:
    at_once = [Asked(name, "q", at, 15.0, "whole") for name, at in (("a", 10.0), ("b", 10.0), ("c", 12.0))]
    assert list(regenerated(at_once)) == []
    # One that came once they were over was asked after each of them.
    assert list(regenerated([*at_once, Asked("d", "q", 16.0, 17.0, "whole")])) == ["a", "b", "c"]


@pytest.fixture
async def store(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Conversations]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    conversations = Conversations(database)
    await conversations.load()
    await conversations.grants.append("ana", "log", "grant", "test", 1.0)
    yield conversations
    await database.close()


def record(request_id: str, at: float, text: str = "so", **more: Any) -> ExchangeRecord:
    fields: dict[str, Any] = {
        "user": "ana",
        "purposes": frozenset({"log"}),
        "stage": "generation",
        "stage_reason": "header",
        "status": 200,
        "started": at,
        "total_ms": 1.0,
        "request": {**WANTS_JSON, "messages": [{"role": "user", "content": "well?"}]},
        "response": chat(text),
        "is_user": True,
    }
    return ExchangeRecord(request_id=request_id, at=at, **{**fields, **more})


async def signals_of(store: Conversations) -> dict[str, object]:
    return {str(row["request_id"]): row["signals"] for row in await store.exchanges(20)}


async def test_signals_are_kept_with_what_was_kept_and_with_nothing_else(store: Conversations) -> None:
    nobody: dict[str, Any] = {"user": None, "purposes": frozenset(), "request": None, "response": None}
    await store.keep([record("r1", 10.0, "{"), record("r2", 11.0, "[]"), record("r3", 12.0, **nobody)])
    # A later batch says it of an earlier one; writing twice changes nothing.
    again = [record("r4", 12.5, "[]"), record("r5", 5000.0, "[]"), record("r6", 13.0, "[]", conversation="c1")]
    await store.keep(again)
    await store.keep(again)
    assert await signals_of(store) == {
        "r1": ["invalid_json", "regenerated"],
        "r2": ["regenerated"],
        "r3": [],
        "r4": [],
        "r5": [],
        "r6": [],
    }
    found = await store.exchange("r1")
    assert found is not None
    assert found["signals"] == ["invalid_json", "regenerated"]


async def test_stages_that_ask_the_same_do_not_ask_again(store: Conversations) -> None:
    await store.keep([record("r1", 1.0, "[]", stage="intent"), record("r2", 2.0, "[]")])
    assert await signals_of(store) == {"r1": [], "r2": []}


async def test_a_question_is_looked_for_among_those_of_the_last_half_hour_alone(store: Conversations) -> None:
    for number in range(4):
        await store.keep(
            [record(f"r{number}", 890.0 + 10.0 * number, "[]"), record(f"s{number}", 4000.0 * (number + 1), "[]")]
        )
    assert {name for name, said in (await signals_of(store)).items() if said} == {"r0", "r1", "r2"}
    assert len({timed("q", at) for at in (0.0, 899.0, 900.0, 1799.0)}) == 2
    assert set(lately("q", 900.0)) == {timed("q", 0.0), timed("q", 900.0)}


async def test_a_question_that_comes_again_and_again_is_told_each_time_and_looked_for_among_the_newest_alone(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.conversations._ALIKE", 3)
    for number in range(1, 9):
        await store.keep([record(f"r{number}", 2.0 * number, "[]")])
    said = await signals_of(store)
    assert [name for name, what in sorted(said.items()) if what] == [f"r{number}" for number in range(1, 8)]


async def test_what_nobody_waits_for_asks_nothing_again(store: Conversations) -> None:
    await store.keep([record(f"r{at}", at, "[]", is_user=False) for at in (1.0, 2.0)])
    assert set(map(str, (await signals_of(store)).values())) == {"[]"}
