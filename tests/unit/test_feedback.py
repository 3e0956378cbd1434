"""What is kept of people's judgements, and what of it a learner is given; on real database files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.config import Config, ConsentConfig, StoreConfig
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.errors import Refuse
from gaiad.exchange import ExchangeRecord, Judgement, is_score
from gaiad.feedback import answer_text


@pytest.fixture
async def conversations(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Conversations]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    store = Conversations(database)
    await store.load()
    await store.grants.append("ana", "train", "grant", "test", 1.0)
    yield store
    await database.close()


def said(content: object, **more: object) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}}]}


def record(request_id: str, response: dict[str, object] | None, **more: Any) -> ExchangeRecord:
    fields = {"stage": "intent", "stage_reason": "header", "status": 200, "started": 1.0, "total_ms": 1.0}
    purposes = frozenset({"log", "train"})
    return ExchangeRecord(
        request_id=request_id,
        at=1.0,
        user="ana",
        request={"messages": [{"role": "user", "content": "well?"}]},
        response=response,
        **{**fields, "purposes": purposes, **more},
    )


async def test_a_score_and_a_note_come_back_as_they_were_given(conversations: Conversations) -> None:
    await conversations.keep([record("r1", said("so"))])
    assert await conversations.feedback.add("r1", Judgement("bad", score=0.25, note="half of it"), 2.0) is None
    row = await conversations.exchange("r1")
    assert row is not None
    assert row["feedback"] == [{"verdict": "bad", "correction": None, "score": 0.25, "note": "half of it", "at": 2.0}]
    listed = (await conversations.exchanges(1))[0]["feedback"]
    assert listed == {"verdict": "bad", "correction": False, "score": 0.25, "at": 2.0}


async def test_what_is_said_again_in_the_same_words_is_there_once_and_other_words_count(
    conversations: Conversations,
) -> None:
    await conversations.keep([record("r1", said("so"))])
    for at, verdict in enumerate((Judgement("bad", "right"), Judgement("bad", "right"), Judgement("good")), 2):
        assert await conversations.feedback.add("r1", verdict, float(at)) is None
    assert await conversations.feedback.add("r1", Judgement("bad", "right"), 5.0) is None
    row: Any = await conversations.exchange("r1")
    assert [(one["verdict"], one["at"]) for one in row["feedback"]] == [("bad", 2.0), ("good", 4.0), ("bad", 5.0)]


@pytest.mark.parametrize(
    "wrong", [{"score": 1.5}, {"score": float("nan")}, {"note": " "}, {"note": "n" * 4001}, {"note": "a\0b"}]
)
async def test_a_score_or_note_that_is_none_is_refused_and_leaves_nothing(
    conversations: Conversations, wrong: dict[str, Any]
) -> None:
    await conversations.keep([record("r1", said("so"))])
    assert isinstance(await conversations.feedback.add("r1", Judgement("bad", **wrong), 2.0), Refuse)
    row = await conversations.exchange("r1")
    assert row is not None
    assert row["feedback"] == []


@pytest.mark.parametrize(
    ("record", "reply"),
    [
        (record("r", said("Rain.")), "Rain."),
        (record("r", said(" right ")), None),
        (record("r", said("Ra"), complete=False), None),
        (record("r", said("Ra"), status=500), None),
        (record("r", said("Rain.", tool_calls=[{"id": "1"}])), None),
        (record("r", None), None),
    ],
    ids=["a whole text", "the correction itself", "cut off", "failed", "calls a tool", "none"],
)
async def test_the_reply_that_was_corrected_comes_along_where_it_is_a_whole_other_text(
    conversations: Conversations, record: ExchangeRecord, reply: str | None
) -> None:
    await conversations.keep([record])
    await conversations.feedback.add("r", Judgement("bad", "right"), 2.0)
    assert [row["reply"] for row in await conversations.feedback.corrected(["intent"])] == [reply]


@pytest.mark.parametrize(
    ("record", "judgements", "answers"),
    [
        (record("r", said(" Rain. ")), [Judgement("good")], [" Rain. "]),
        (record("r", said("Rain.")), [Judgement("bad"), Judgement("good")], ["Rain."]),
        (record("r", said("Rain.")), [Judgement("good"), Judgement("bad")], []),
        (record("r", said("Rain.")), [Judgement("good", "Sun.")], []),
        (record("r", said("Rain.")), [Judgement("fine")], []),
        (record("r", said("Ra"), complete=False), [Judgement("good")], []),
        (record("r", said("Ra"), finish_reason="length"), [Judgement("good")], []),
        (record("r", said("Ra"), status=500), [Judgement("good")], []),
        (record("r", said("Rain.", tool_calls=[{"id": "1"}])), [Judgement("good")], []),
        (record("r", said("Rain."), purposes=frozenset({"log"})), [Judgement("good")], []),
        (record("r", said("Rain."), stage="generation"), [Judgement("good")], []),
    ],
)
async def test_a_whole_reply_that_its_user_calls_good_at_last_is_a_right_answer(
    conversations: Conversations, record: ExchangeRecord, judgements: list[Judgement], answers: list[str]
) -> None:
    await conversations.keep([record])
    for at, judgement in enumerate(judgements):
        assert await conversations.feedback.add("r", judgement, 2.0 + at) is None
    rows = await conversations.feedback.approved(["intent"])
    assert [(row["correction"], row["reply"], row["approved"]) for row in rows] == [
        (one, None, True) for one in answers
    ]
    await conversations.grants.append("ana", "train", "revoke", "test", 9.0)
    assert await conversations.feedback.approved(["intent"]) == []


@pytest.mark.parametrize("header_may_grant", [False, True])
async def test_what_a_grant_for_a_time_let_be_kept_is_learned_from_no_longer_than_that(
    tmp_path: Path, store_at: StoreConfig, header_may_grant: bool
) -> None:
    consent = ConsentConfig(header_may_grant=header_may_grant)
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", consent=consent, store=store_at))
    store = Conversations(database)
    await store.load()
    store.grants.clock = lambda: 1000.0
    await store.grants.append("ana", "train", "grant", "test", 1000.0, expires_at=1060.0)
    await store.keep([record("r1", said("so"), started=1010.0)])
    await store.feedback.add("r1", Judgement("bad", "right"), 1011.0)
    assert [row["exchange_id"] for row in await store.feedback.corrected(["intent"])] == ["r1"]
    store.grants.clock = lambda: 1060.0
    assert await store.feedback.corrected(["intent"]) == []
    # What came by a header after that is kept by the header.
    await store.keep([record("r2", said("so"), started=1070.0)])
    await store.feedback.add("r2", Judgement("bad", "right"), 1071.0)
    found = [row["exchange_id"] for row in await store.feedback.corrected(["intent"])]
    assert found == (["r2"] if header_may_grant else [])
    await database.close()


@pytest.mark.parametrize("header_may_grant", [False, True])
async def test_feedback_is_taken_for_as_long_as_the_exchange_may_be_used_for_something(
    tmp_path: Path, header_may_grant: bool
) -> None:
    consent = ConsentConfig(header_may_grant=header_may_grant)
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", consent=consent))
    store = Conversations(database)
    await store.load()
    now = 1000.0
    store.grants.clock = lambda: now
    await store.grants.append("ana", "train", "grant", "test", now, expires_at=1060.0)
    await store.keep([record("granted", said("so"), started=1010.0)])
    assert await store.feedback.add("granted", Judgement("bad"), now) is None
    now = 1060.0
    await store.keep([record("by-header", said("so"), started=1070.0)])
    refused = await store.feedback.add("granted", Judgement("bad", "right"), now)
    assert isinstance(refused, Refuse)
    assert refused.hint
    assert (await store.feedback.add("by-header", Judgement("bad"), now) is None) is header_may_grant
    # A new grant opens it again.
    await store.grants.append("ana", "log", "grant", "test", now)
    assert await store.feedback.add("granted", Judgement("good"), now) is None
    kept = await store.exchange("granted")
    assert kept is not None
    assert [one["verdict"] for one in kept["feedback"]] == ["bad", "good"]  # type: ignore[index, union-attr, call-overload]
    await database.close()


@given(st.one_of(st.floats(), st.integers(), st.booleans(), st.text(), st.none()))
def test_a_score_is_a_number_from_0_to_1(value: object) -> None:
    assert is_score(value) is (type(value) in (int, float) and 0 <= float(value) <= 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "response", ["{}", '{"choices": 5}', '{"choices": [5]}', '{"choices": [{"message": "x"}]}', ""]
)
def test_a_reply_of_another_shape_says_nothing(response: str) -> None:
    assert answer_text(response) is None
