"""What is kept of an exchange, of whom, and what may be learned from it; on real database files."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gaiad import tables
from gaiad.adapter import Arm
from gaiad.config import Config, ConsentConfig, StoreConfig
from gaiad.conversations import Conversations
from gaiad.cycles import CycleRow, Cycles
from gaiad.db import Database
from gaiad.errors import Refuse, StoreError
from gaiad.exchange import ExchangeRecord, Judgement

SECRET = "the-attic-key-is-under-the-mat"


def config_at(path: Path, store: StoreConfig, header_may_grant: bool = False) -> Config:
    consent = ConsentConfig(header_may_grant=header_may_grant)
    return Config(path, path / "control.sock", consent=consent, store=store)


@pytest.fixture
async def db(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Database]:
    database = await Database.open(config_at(tmp_path, store_at))
    yield database
    await database.close()


@pytest.fixture
async def conversations(db: Database) -> Conversations:
    store = Conversations(db)
    await store.load()
    return store


def record(request_id: str, *purposes: str, user: str | None = "ana", at: float = 100.0, **more: Any) -> ExchangeRecord:
    fields = {
        "stage": "tool_selection",
        "stage_reason": "header",
        "version": "json-architect@v1-00000000",
        "status": 200,
        "started": at,
        "total_ms": 12.5,
        "prompt_tokens": 7,
        "finish_reason": "stop",
        "valid": True,
        "conversation": "c1",
        "request": {"messages": [{"role": "user", "content": SECRET}]},
        "response": {"choices": [{"message": {"content": SECRET}}]},
    }
    return ExchangeRecord(request_id=request_id, at=at, user=user, purposes=frozenset(purposes), **{**fields, **more})


async def corrected_ids(conversations: Conversations) -> list[str]:
    return [row["exchange_id"] for row in await conversations.feedback.corrected(["tool_selection"])]


async def test_without_a_purpose_not_a_byte_of_content_or_identity_reaches_the_disk(
    conversations: Conversations, on_disk: Callable[[], bytes]
) -> None:
    careless = record("r1", user="mallory-the-user", conversation="conversation-77")
    nobody = record("r2", "log", user=None, conversation="conversation-77")
    await conversations.keep([careless, nobody])
    for request_id in ("r1", "r2"):
        row = await conversations.exchange(request_id)
        assert row is not None
        assert row["decision"] == "not_kept"
        assert (row["status"], row["prompt_tokens"], row["valid"], row["durable"]) == (200, 7, True, True)
        assert [row[key] for key in ("user", "conversation", "request", "response")] == [None] * 4
        assert row["purposes"] == []
    raw = on_disk()
    for text in (SECRET, "mallory-the-user", "conversation-77"):
        assert text.encode() not in raw


async def test_a_consented_exchange_comes_back_whole_and_durable(
    conversations: Conversations, on_disk: Callable[[], bytes]
) -> None:
    await conversations.grants.append("ana", "train", "grant", "test", 1.0)
    await conversations.keep([record("r1", *conversations.grants.purposes_for("ana"))])
    row = await conversations.exchange("r1")
    assert row is not None
    assert (row["user"], row["conversation"], row["purposes"]) == ("ana", "c1", ["log", "train"])
    assert row["request"] == {"messages": [{"role": "user", "content": SECRET}]}
    assert row["durable"] is True
    assert SECRET.encode() in on_disk()
    assert await conversations.exchange("nothing") is None


async def test_each_column_of_a_row_holds_what_the_record_says_of_it(conversations: Conversations) -> None:
    told = record(
        "r1", at=1.5, stage_reason="rule:x", arm=Arm.CONTROL, completion_tokens=8, first_byte_ms=2.5, streamed=True
    )
    told = msgspec.structs.replace(told, complete=False, valid=False, started=0.5)
    await conversations.keep([told])
    row = await conversations.exchange("r1")
    assert row is not None
    columns = [column.name for column in tables.exchanges.columns if column.name != "decision"]
    assert {name: row[name] for name in columns} == {name: getattr(told, name) for name in columns}
    assert row["decision"] == "not_kept"


async def test_purposes_need_no_database_once_loaded_and_follow_each_change_at_once(
    db: Database, tmp_path: Path
) -> None:
    conversations = Conversations(db)
    await conversations.grants.append("ana", "train", "grant", "test", 1.0)
    await conversations.grants.append("ben", "log", "grant", "test", 1.0)
    fresh = Conversations(db)
    assert fresh.grants.purposes_for("ana") == frozenset()
    await fresh.load()
    assert fresh.grants.purposes_for("ana") == {"train", "log"}
    assert fresh.grants.purposes_for("ana", "log") == {"log"}
    assert fresh.grants.purposes_for("ben") == {"log"}
    assert fresh.grants.purposes_for("carla") == frozenset()
    assert fresh.grants.purposes_for(None) == frozenset()
    await fresh.grants.append("ana", "log", "revoke", "test", 2.0)
    assert fresh.grants.purposes_for("ana") == frozenset()
    assert await fresh.grants.granted("ana") == frozenset()
    assert [event.action for event in await fresh.grants.history("ana")] == ["grant", "revoke"]


async def test_the_history_of_grants_is_only_ever_added_to(db: Database, conversations: Conversations) -> None:
    for action in ("grant", "revoke", "grant"):
        await conversations.grants.append("ana", "train", action, "test", 1.0)
    events = await conversations.grants.history("ana")
    assert [(event.purpose, event.action, event.source) for event in events] == [
        ("train", "grant", "test"),
        ("train", "revoke", "test"),
        ("train", "grant", "test"),
    ]


async def test_grants_that_arrive_together_end_as_the_database_has_them(
    db: Database, conversations: Conversations
) -> None:
    actions = ["grant", "revoke"] * 10
    await asyncio.gather(*(conversations.grants.append("ana", "train", one, "test", 1.0) for one in actions))
    fresh = Conversations(db)
    await fresh.load()
    assert conversations.grants.purposes_for("ana") == fresh.grants.purposes_for("ana")


@pytest.mark.parametrize(
    ("user", "purpose", "action"),
    [
        ("", "train", "grant"),
        ("x" * 201, "train", "grant"),
        ("\ud800", "log", "grant"),
        ("a\0b", "log", "grant"),
        ("ana", "sell", "grant"),
        ("ana", "train", "forget"),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(
    conversations: Conversations, user: str, purpose: str, action: str
) -> None:
    assert isinstance(await conversations.grants.append(user, purpose, action, "test", 1.0), Refuse)
    assert await conversations.grants.history(user) == await conversations.grants.history("ana") == []


async def test_what_was_revoked_while_a_record_waited_is_not_kept(db: Database, conversations: Conversations) -> None:
    await conversations.grants.append("ana", "train", "grant", "test", 1.0)
    await conversations.grants.append("ben", "train", "grant", "test", 1.0)
    await conversations.grants.append("ben", "evaluate", "grant", "test", 1.0)
    waiting = [record("r1", "log", "train"), record("r2", "evaluate", "log", "train", user="ben")]
    await conversations.grants.append("ana", "log", "revoke", "test", 2.0)
    await conversations.grants.append("ben", "train", "revoke", "test", 2.0)
    await conversations.keep(waiting)
    first, second = await conversations.exchange("r1"), await conversations.exchange("r2")
    assert first is not None
    assert second is not None
    assert (first["decision"], first["user"], first["request"]) == ("not_kept", None, None)
    assert second["purposes"] == ["evaluate", "log"]


async def test_names_that_the_file_cannot_hold_cost_no_record(conversations: Conversations) -> None:
    await conversations.keep([record("r1", "log", user="\ud800"), record("r2", "log", conversation="\ud800")])
    first, second = await conversations.exchange("r1"), await conversations.exchange("r2")
    assert first is not None
    assert second is not None
    assert (first["decision"], first["user"], first["request"]) == ("not_kept", None, None)
    assert (second["decision"], second["user"], second["conversation"]) == ("not_kept", None, None)


async def test_the_same_record_twice_is_kept_once(conversations: Conversations) -> None:
    await conversations.keep([record("r1", "log"), record("r1", "log")])
    await conversations.keep([record("r1", "log")])
    assert [row["request_id"] for row in await conversations.exchanges(10)] == ["r1"]


async def test_the_list_is_newest_first_without_content_and_by_user_where_named(conversations: Conversations) -> None:
    await conversations.grants.append("ana", "log", "grant", "test", 0.5)
    await conversations.keep(
        [record("r1", "log", at=1.0), record("r2", at=2.0), record("r3", "log", user="ben", at=3.0)]
    )
    await conversations.feedback.add("r1", Judgement("bad", "better"), 4.0)
    rows = await conversations.exchanges(10)
    assert [row["request_id"] for row in rows] == ["r3", "r2", "r1"]
    assert rows[2]["feedback"] == {"verdict": "bad", "correction": True, "score": None, "at": 4.0}
    assert SECRET not in json.dumps(rows)
    assert [row["request_id"] for row in await conversations.exchanges(10, user="ana")] == ["r1"]
    assert [row["request_id"] for row in await conversations.exchanges(1)] == ["r3"]
    assert await conversations.exchanges(-5) == []


@pytest.mark.parametrize(("most", "sorts"), [(2, False), (4, True)], ids=["many", "few"])
async def test_the_newest_of_a_user_are_found_without_sorting_many(
    db: Database, conversations: Conversations, monkeypatch: pytest.MonkeyPatch, most: int, sorts: bool
) -> None:
    monkeypatch.setattr("gaiad.conversations._SORTED_AT_MOST", most)
    users = ("ana", "ben", "ana", "ana", "ana", "ben")
    await conversations.keep([record(f"r{n}", "log", user=user, at=float(n)) for n, user in enumerate(users)])
    await conversations.keep([record("bare", at=9.0)])
    asked: list[tuple[Any, ...]] = []
    sa.event.listen(db.engine.sync_engine, "before_cursor_execute", lambda *told: asked.append(told[2:4]))
    found = [row["request_id"] for row in await conversations.exchanges(3, user="ana")]
    assert found == ["r4", "r3", "r2"]
    ((text, values),) = [one for one in asked if "ORDER BY exchanges.at" in one[0]]
    # What a server makes of it depends on the rows it has seen.
    if db.engine.dialect.name == "sqlite":
        async with db.read() as connection:
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)).all()
        assert ("contents_by_user" in str(plan)) is sorts
        assert ("exchanges_by_time" in str(plan)) is not sorts
    assert await conversations.exchanges(3, user=" ") == []


async def test_feedback_is_refused_with_a_reason_where_there_is_nothing_to_attach_it_to(
    conversations: Conversations,
) -> None:
    await conversations.grants.append("ana", "log", "grant", "test", 1.0)
    await conversations.keep([record("kept", "log"), record("unkept")])
    unknown = await conversations.feedback.add("none", Judgement("good"), 1.0)
    assert await conversations.feedback.add("\ud800", Judgement("good"), 1.0) == unknown
    assert await conversations.exchange("\ud800") is None
    unkept = await conversations.feedback.add("unkept", Judgement("bad", "this instead"), 1.0)
    assert isinstance(unknown, Refuse)
    assert "no exchange" in unknown.reason
    assert isinstance(unkept, Refuse)
    assert "not kept" in unkept.reason
    for verdict, correction in (
        ("", None),
        ("👍", None),
        ("a b", None),
        ("bad", "  "),
        ("bad", "\udcff"),
        ("bad", "x" * 200_001),
    ):
        assert isinstance(await conversations.feedback.add("kept", Judgement(verdict, correction), 1.0), Refuse)
    assert await conversations.feedback.add("kept", Judgement(" Good"), 1.0) is None
    await conversations.grants.append("ana", "log", "revoke", "test", 2.0)
    revoked = await conversations.feedback.add("kept", Judgement("bad", "this instead"), 3.0)
    assert isinstance(revoked, Refuse)
    assert "revoked" in revoked.reason
    row = await conversations.exchange("kept")
    assert row is not None
    assert row["feedback"] == [{"verdict": "good", "correction": None, "score": None, "note": None, "at": 1.0}]


async def test_only_what_train_covered_then_and_covers_now_may_be_learned_from(conversations: Conversations) -> None:
    for user in ("ana", "ben"):
        await conversations.grants.append(user, "train", "grant", "test", 1.0)
    await conversations.keep(
        [
            record("trained", "log", "train", at=2.0),
            record("logged", "log", at=3.0),
            record("of-ben", "log", "train", user="ben", at=4.0),
            record("uncorrected", "log", "train", at=5.0),
            record("other-stage", "log", "train", at=6.0, stage="generation"),
            record("no-messages", "log", "train", at=7.0, request={"prompt": "x"}),
        ]
    )
    for request_id in ("trained", "logged", "of-ben", "other-stage", "no-messages"):
        assert await conversations.feedback.add(request_id, Judgement("bad", f"right for {request_id}"), 8.0) is None
    assert await conversations.feedback.corrected([]) == []
    assert await corrected_ids(conversations) == ["trained", "of-ben"]
    await conversations.grants.append("ben", "train", "revoke", "test", 9.0)
    rows = await conversations.feedback.corrected(["tool_selection"])
    assert rows == [
        {
            "exchange_id": "trained",
            "user": "ana",
            "stage": "tool_selection",
            "request_messages": [{"role": "user", "content": SECRET}],
            "correction": "right for trained",
            "created_at": 2.0,
            "conversation": "c1",
            "reply": SECRET,
            "began": 2.0,
            "approved": False,
        }
    ]
    await conversations.grants.append("ana", "log", "revoke", "test", 9.0)
    assert await corrected_ids(conversations) == []


async def test_the_newest_feedback_is_the_correction(conversations: Conversations) -> None:
    await conversations.grants.append("ana", "train", "grant", "test", 1.0)
    await conversations.keep([record("r1", "log", "train")])
    await conversations.feedback.add("r1", Judgement("bad", "first"), 2.0)
    await conversations.feedback.add("r1", Judgement("bad", "second"), 3.0)
    assert [row["correction"] for row in await conversations.feedback.corrected(["tool_selection"])] == ["second"]
    await conversations.feedback.add("r1", Judgement("good"), 4.0)
    assert await corrected_ids(conversations) == []


async def test_what_a_header_granted_may_be_learned_from_until_it_is_revoked_or_headers_may_not_grant(
    tmp_path: Path, store_at: StoreConfig
) -> None:
    for header_may_grant, expected in ((True, ["r1"]), (False, []), (True, ["r1"])):
        database = await Database.open(config_at(tmp_path, store_at, header_may_grant))
        conversations = Conversations(database)
        await conversations.load()
        assert bool(conversations.grants.purposes_for("dana", "train")) is header_may_grant
        await conversations.keep([record("r1", "log", "train", user="dana")])
        await conversations.feedback.add("r1", Judgement("bad", "right"), 2.0)
        assert await corrected_ids(conversations) == expected
        await database.close()
    database = await Database.open(config_at(tmp_path, store_at, header_may_grant=True))
    conversations = Conversations(database)
    await conversations.load()
    await conversations.grants.append("dana", "train", "revoke", "test", 3.0)
    assert await corrected_ids(conversations) == []
    assert conversations.grants.purposes_for("dana", "train") == frozenset()
    await database.close()


async def test_only_old_rows_without_content_are_deleted(conversations: Conversations) -> None:
    await conversations.keep(
        [record("old", at=1.0), record("old-kept", "log", at=1.0), record("new", at=10.0), record("edge", at=5.0)]
    )
    assert await conversations.delete_old_metadata(5.0, 10) == 1
    assert {row["request_id"] for row in await conversations.exchanges(10)} == {"old-kept", "new", "edge"}


async def test_of_many_old_rows_no_more_go_at_once_than_asked_for(conversations: Conversations) -> None:
    await conversations.keep([record(f"old{number}", at=1.0) for number in range(5)])
    assert [await conversations.delete_old_metadata(5.0, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert await conversations.exchanges(10) == []


async def test_the_size_of_an_exchange_counts_the_bytes_of_its_feedback(conversations: Conversations) -> None:
    await conversations.grants.append("ana", "log", "grant", "test", 1.0)
    await conversations.keep([record("r1", "log"), record("r2", "log")])
    (_, before), _ = await conversations.held(None, 10)
    for given in (Judgement("bad", "snö" * 1000, note="☃" * 10), Judgement("bad", "x"), Judgement("good")):
        assert await conversations.feedback.add("r1", given, 101.0) is None
    found, _ = await conversations.held(None, 10)
    sizes = {held.request_id: held.size for held in found}
    assert sizes == {"r1": before.size + 4000 + 30 + 1, "r2": before.size}


async def test_a_batch_that_cannot_be_written_raises_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = await Database.open(config_at(tmp_path, StoreConfig()))
    conversations = Conversations(db)
    monkeypatch.setattr("gaiad.sqlite_file.BUSY_TIMEOUT_MS", 20)
    await db.engine.dispose()
    other = sqlite3.connect(db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError):
        await conversations.keep([record("r1", "log")])
    other.execute("ROLLBACK")
    other.close()
    assert await conversations.exchanges(10) == []
    await db.close()


async def test_a_cycle_is_one_row_whose_dataset_counts_as_learned_once_it_gave_an_answer(db: Database) -> None:
    cycles = Cycles(db)
    running = CycleRow("c1", "json-architect", started=1.0, phase="training", dataset_digest="d1")
    await cycles.record_cycle(running)
    assert await cycles.unfinished() == [running]
    assert await cycles.finished_digests("json-architect") == set()
    done = CycleRow("c1", "json-architect", 1.0, "done", 2.0, "d1", "rejected", "no gain", {"p": 0.4})
    await cycles.record_cycle(done)
    for number, verdict in ((2, "cancelled"), (3, "interrupted"), (4, None), (5, "failed")):
        await cycles.record_cycle(
            CycleRow(f"c{number}", "json-architect", float(number), "done", 9.0, f"d{number}", verdict)
        )
    await cycles.record_cycle(CycleRow("c6", "gaia-voice", 6.0, "done", 9.0, "d6", "promoted"))
    assert await cycles.unfinished() == []
    assert await cycles.finished_digests("json-architect") == {"d1", "d5"}
    assert [row.id for row in await cycles.cycles(3)] == ["c6", "c5", "c4"]
    assert (await cycles.cycles(10))[-1] == done
    assert json.dumps(done.to_json())


@pytest.mark.parametrize("user", ["x" * 201, "a\0b", "\ud800", "  "])
async def test_nothing_is_kept_of_a_name_that_could_not_revoke_it(
    tmp_path: Path, store_at: StoreConfig, user: str
) -> None:
    database = await Database.open(config_at(tmp_path, store_at, header_may_grant=True))
    conversations = Conversations(database)
    await conversations.load()
    assert conversations.grants.purposes_for(user, "train") == frozenset()
    await conversations.keep([record("r1", "log", "train", user=user)])
    row = await conversations.exchange("r1")
    assert row is not None
    assert (row["decision"], row["user"], row["request"]) == ("not_kept", None, None)
    assert await conversations.exchanges(10, user=user) == []
    await database.close()


async def test_blanks_around_a_name_make_no_other_person(conversations: Conversations) -> None:
    await conversations.grants.append(" ana\t", "train", "grant", "test", 1.0)
    assert conversations.grants.purposes_for("ana") == conversations.grants.purposes_for(" ana ") == {"log", "train"}
    await conversations.keep([record("r1", "log", "train", user="ana"), record("r2", "log", "train", user=" ana")])
    assert {row["request_id"] for row in await conversations.exchanges(10, user="ana ")} == {"r1", "r2"}
    await conversations.grants.append("ana ", "log", "revoke", "test", 2.0)
    assert conversations.grants.purposes_for("ana") == await conversations.grants.granted("\nana") == frozenset()
    assert [event.user for event in await conversations.grants.history(" ana ")] == ["ana", "ana"]


async def test_secrets_and_addresses_reach_the_disk_neither_in_what_was_said_nor_in_feedback(
    conversations: Conversations, on_disk: Callable[[], bytes]
) -> None:
    await conversations.grants.append("ana", "train", "grant", "test", 1.0)
    arguments = '{"to": "anna.berg\\u0040mail.example", "password": "Tr0ub4dor-3"}'
    call = {"function": {"name": "send", "arguments": arguments}}
    request = {"messages": [{"role": "user", "content": "mail anna.berg@mail.example"}], "x_own": ["203.0.113.77"]}
    response = {"choices": [{"message": {"content": "done, anna.berg@mail.example", "tool_calls": [call]}}]}
    kept = msgspec.structs.replace(record("r1", "log", "train"), request=request, response=response)
    await conversations.keep([kept])
    said = Judgement("bad", "write to anna.berg@mail.example", note="203.0.113.77, and to anna.berg@mail.example")
    assert await conversations.feedback.add("r1", said, 2.0) is None
    found = await conversations.exchange("r1")
    assert found is not None
    raw = on_disk()
    for secret in (b"anna.berg", b"Tr0ub4dor-3", b"203.0.113.77"):
        assert secret not in raw
    mails = set(re.findall(r"\[EMAIL_[a-z]{6}\]", json.dumps(found)))
    assert len(mails) == 1, "one address has one placeholder in the request, the reply, the correction and the note"
