"""Kept exchanges in the forms that other programs read, and which of them may be exported for what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gaiad.cli.lines import FORMATS, line_of
from gaiad.config import Config, ConsentConfig, StoreConfig
from gaiad.consent import Purpose
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.grants import Grants

USER = {"role": "user", "content": "who repaired the roof?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "the roof"}'}}
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def row(answer: object = "Ada did.", **more: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "request_id": "r1",
        "status": 200,
        "complete": True,
        "request": {"messages": [USER], "temperature": 0.5},
        "response": {"choices": [{"message": {"role": "assistant", "content": answer, "reasoning": "hm"}}]},
        "feedback": [],
    }
    return {**kept, **more}


def line(kept: dict[str, Any], form: str) -> Any:
    return line_of(kept, form)


def test_everything_is_a_line_as_it_is_kept() -> None:
    assert line(row(), "jsonl") == row()
    assert line(row(request=None, response=None), "jsonl")["request"] is None


def test_a_chat_ends_with_what_was_answered_in_each_form() -> None:
    assert line(row(), "openai") == {"messages": [USER, {"role": "assistant", "content": "Ada did."}]}
    turns = [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": "Ada did."}]
    assert line(row(), "sharegpt") == {"id": "r1", "conversations": turns}


def test_a_correction_stands_in_the_place_of_the_reply() -> None:
    corrected = row(feedback=[{"verdict": "good", "correction": None}, {"verdict": "bad", "correction": "Bob did."}])
    assert line(corrected, "openai")["messages"][-1] == {"role": "assistant", "content": "Bob did."}
    # Of a reply that never came there may be a right answer too.
    cut = {**corrected, "complete": False, "response": None}
    assert line(cut, "sharegpt")["conversations"][-1] == {"from": "gpt", "value": "Bob did."}


def test_tools_and_their_calls_come_along() -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "a ladder"},
    ]
    kept = row(request={"messages": messages, "tools": TOOLS})
    openai = line(kept, "openai")
    assert openai["tools"] == TOOLS
    assert openai["messages"][:4] == messages
    sharegpt = line(kept, "sharegpt")
    assert json.loads(sharegpt["tools"]) == TOOLS
    assert [turn["from"] for turn in sharegpt["conversations"]] == [
        *("system", "human", "function_call", "observation", "gpt")
    ]
    assert sharegpt["conversations"][0]["value"] == "be brief"
    assert json.loads(sharegpt["conversations"][2]["value"]) == {"name": "look", "arguments": {"at": "the roof"}}
    calls = row(response={"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [CALL]}}]})
    assert line(calls, "sharegpt")["conversations"][-1]["from"] == "function_call"


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (row(request={"prompt": "eins"}), "no chat"),
        (row(request=None), "no chat"),
        (row(request={"messages": []}), "no chat"),
        (row(request={"messages": ["odd"]}), "no chat"),
        (row(complete=False), "no whole reply"),
        (row(status=400), "no whole reply"),
        (row(""), "no whole reply"),
        (row(response={"choices": "odd"}), "no whole reply"),
        (row(feedback=[{"verdict": "bad", "correction": None}]), "judged bad, and not corrected"),
        (row(finish_reason="length"), "cut off at its length"),
        # Anthropic's form: what its system said stands elsewhere, so that a correction makes no whole chat of it.
        (row(request={"messages": [USER], "system": "be brief"}, feedback=[{"correction": "so"}]), "no chat"),
        (row(response={"type": "message", "content": []}, feedback=[{"correction": "so"}]), "no chat"),
    ],
)
def test_what_is_no_good_conversation_is_left_out_and_says_why(kept: dict[str, Any], why: str) -> None:
    for form in FORMATS[1:]:
        assert line(kept, form) == why


def test_no_calls_are_not_told_as_an_empty_list_of_them() -> None:
    kept = row(response={"choices": [{"message": {"role": "assistant", "content": "Ada did.", "tool_calls": []}}]})
    assert line(kept, "openai")["messages"][-1] == {"role": "assistant", "content": "Ada did."}
    assert line(kept, "sharegpt")["conversations"][-1] == {"from": "gpt", "value": "Ada did."}


def test_calls_made_together_and_their_results_are_one_turn_each() -> None:
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("c1", "c2")]
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}, *results]
    turns = line(row(request={"messages": messages}), "sharegpt")["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(turns[1]["value"]) == [{"name": "look", "arguments": {"at": "the roof"}}] * 2
    assert turns[2]["value"] == "c1\n</tool_response>\n<tool_response>\nc2"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([USER, USER], "turns that do not alternate"),
        ([USER, {"role": "assistant", "content": "so"}], "turns that do not alternate"),
        ([{"role": "assistant", "content": "so"}, USER], "turns that do not alternate"),
        ([USER, {"role": "system", "content": "be brief"}], "turns that do not alternate"),
        ([USER, {"role": "assistant", "content": "so", "tool_calls": [CALL]}], "a message with both text and calls"),
    ],
)
def test_what_sharegpt_has_no_form_for_is_left_out_of_it_alone(messages: list[Any], why: str) -> None:
    kept = row(request={"messages": messages})
    assert line(kept, "sharegpt") == why
    assert line(kept, "openai")["messages"][:-1] == messages


def test_pictures_are_no_text() -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    kept = row(request={"messages": [picture]})
    assert line(kept, "sharegpt") == "a message that is no text"
    assert line(kept, "openai")["messages"][0] == picture


@pytest.fixture
async def store(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Conversations]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    conversations = Conversations(database)
    await conversations.load()
    yield conversations
    await database.close()


def record(number: int, user: str, *purposes: str, stage: str = "intent") -> ExchangeRecord:
    return ExchangeRecord(
        request_id=f"r{number}",
        at=float(number // 2),
        user=user,
        purposes=frozenset(purposes),
        stage=stage,
        stage_reason="header",
        status=200,
        started=1.0,
        total_ms=1.0,
        request={"messages": [USER]},
        response={"choices": [{"message": {"role": "assistant", "content": "so"}}]},
    )


async def ids(store: Conversations, purpose: str, limit: int, **more: Any) -> list[Any]:
    """Page by page, as whoever exports them asks."""
    found: list[Any] = []
    after = None
    while True:
        options = {"user": None, "stage": None, **more}
        rows, after = await store.exported(Purpose(purpose), after=after, limit=limit, **options)
        found += [one["request_id"] for one in rows]
        if after is None:
            return found


async def test_only_what_was_kept_for_a_purpose_and_may_still_be_used_for_it_is_exported(store: Conversations) -> None:
    for user in ("ana", "bob"):
        for purpose in ("train", "evaluate"):
            await store.grants.append(user, purpose, "grant", "test", 1.0)
    await store.keep([record(number, "ana", "log", "train") for number in range(5)])
    await store.keep([record(5, "bob", "log", "train"), record(6, "ana", "log"), record(7, "ana", "log", "evaluate")])
    await store.keep([record(8, "ana", "log", "train", stage="generation")])
    await store.feedback.add("r3", Judgement("bad", "right"), 2.0)
    for limit in (1, 2, 50):
        assert await ids(store, "train", limit) == ["r0", "r1", "r2", "r3", "r4", "r5", "r8"]
        assert await ids(store, "evaluate", limit) == ["r7"]
    assert await ids(store, "log", 3) == [f"r{number}" for number in range(9)]
    assert await ids(store, "train", 2, user="bob") == ["r5"]
    assert await ids(store, "train", 2, stage="generation") == ["r8"]
    await store.grants.append("ana", "train", "revoke", "test", 3.0)
    assert await ids(store, "train", 2) == ["r5"]
    rows, _ = await store.exported(Purpose.LOG, after=(1.0, "r2"), limit=1, user=None, stage=None)
    assert rows[0] == await store.exchange("r3")


async def test_large_exchanges_come_in_small_pages(store: Conversations) -> None:
    await store.grants.append("ana", "train", "grant", "test", 1.0)
    long = {"messages": [{"role": "user", "content": "x" * 700_000}]}
    for number in range(4):
        given = record(number, "ana", "log", "train")
        await store.keep([msgspec.structs.replace(given, request=long) if number in (1, 2) else given])
    pages: list[list[Any]] = []
    after = None
    while not pages or after is not None:
        rows, after = await store.exported(Purpose.TRAIN, after=after, limit=50, user="ana", stage=None)
        pages.append([row["request_id"] for row in rows])
    assert pages == [["r0", "r1"], ["r2", "r3"]]


async def test_what_was_kept_by_a_grant_that_ended_is_not_exported_even_where_headers_may_grant(
    tmp_path: Path, store_at: StoreConfig
) -> None:
    consent = ConsentConfig(header_may_grant=True)
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", consent=consent, store=store_at))
    now = [1000.0]
    store = Conversations(database, Grants(database, lambda: now[0]))
    await store.load()
    await store.grants.append("ana", "train", "grant", "test", 1000.0, expires_at=1010.0)
    began = (1005.0, 1020.0)
    await store.keep(
        [msgspec.structs.replace(record(n, "ana", "log", "train"), started=at) for n, at in enumerate(began)]
    )
    assert await ids(store, "train", 5) == ["r0", "r1"]
    now[0] = 1030.0
    # The second began when no grant held any more: only a header can have been the one that it was kept by.
    assert await ids(store, "train", 5) == await ids(store, "log", 5) == ["r1"]
    assert not store.grants.still_usable(Purpose.TRAIN, "ana", None, 1005.0)
    await database.close()
