"""Grants on a real database: the last word stays the last, whatever the clock says; scopes and ends hold at once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gaiad import tables
from gaiad.config import Config, ConsentConfig, StoreConfig
from gaiad.consent import Action, Purpose
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.errors import Refuse, StoreError
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.grants import Grants


class Clock:
    """Wall-clock seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def db(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Database]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def grants(db: Database, clock: Clock) -> Grants:
    made = Grants(db, clock)
    await made.load()
    return made


async def say(
    grants: Grants, action: str, purpose: str, conversation: str | None = None, expires_at: float | None = None
) -> None:
    refused = await grants.append(
        "ana", purpose, action, "command", grants.clock(), conversation=conversation, expires_at=expires_at
    )
    assert refused is None


async def test_a_clock_that_was_set_back_neither_revives_what_was_revoked_nor_voids_a_later_grant(
    db: Database, grants: Grants, clock: Clock
) -> None:
    await say(grants, "grant", "train")
    clock.now = 10.0
    await say(grants, "revoke", "train")
    assert grants.purposes_for("ana") == frozenset()
    clock.now = 5.0
    await say(grants, "grant", "train")
    assert grants.purposes_for("ana") == {"log", "train"}
    granted, revoked, again = await grants.history("ana")
    assert granted.at == revoked.at == 1000.0 < again.at < 1000.001
    fresh = Grants(db, clock)
    await fresh.load()
    assert fresh.purposes_for("ana") == {"log", "train"}


async def test_what_was_revoked_while_the_order_of_writing_decided_stays_revoked(db: Database, clock: Clock) -> None:
    rows = [
        {"user": "ana", "purpose": "train", "action": action, "source": "gaiadctl", "at": at}
        for action, at in (("grant", 900.0), ("revoke", 100.0))
    ]
    async with db.write() as connection:
        await connection.execute(sa.insert(tables.grants), rows)
    grants = Grants(db, clock)
    await grants.load()
    assert grants.purposes_for("ana") == await grants.granted("ana") == frozenset()


async def test_a_grant_ends_by_itself_and_what_it_covered_holds_again(grants: Grants, clock: Clock) -> None:
    await say(grants, "grant", "log")
    await say(grants, "grant", "train", expires_at=1060.0)
    clock.now = 1059.0
    assert grants.purposes_for("ana") == {"log", "train"}
    clock.now = 1060.0
    assert grants.purposes_for("ana") == await grants.granted("ana") == {"log"}
    # Once over, it is over, whatever the clock says next.
    clock.now = 1059.0
    assert grants.purposes_for("ana") == {"log"}


async def test_a_grant_for_one_conversation_holds_there_only_and_so_does_a_revocation(grants: Grants) -> None:
    await say(grants, "grant", "train", "c1")
    assert grants.purposes_for("ana", None, "c1") == {"log", "train"}
    assert grants.purposes_for("ana", "log", "c1") == {"log"}
    assert grants.purposes_for("ana") == grants.purposes_for("ana", None, "c2") == frozenset()
    await say(grants, "grant", "log")
    await say(grants, "revoke", "log", "c1")
    assert grants.purposes_for("ana", None, "c1") == await grants.granted("ana", " c1 ") == frozenset()
    assert grants.purposes_for("ana", None, "c2") == await grants.granted("ana", "c2") == {"log"}
    assert grants.unrevoked("ana", frozenset({"log"}), "c1") == frozenset()
    assert grants.unrevoked("ana", frozenset({"log"}), None) == {"log"}


@pytest.mark.parametrize(
    ("action", "conversation", "expires_at"),
    [
        ("grant", " ", None),
        ("grant", "x" * 1001, None),
        ("revoke", "\ud800", None),
        ("grant", None, 1000.0),
        ("grant", None, float("nan")),
        ("grant", None, float("inf")),
        ("revoke", None, 2000.0),
    ],
)
async def test_a_scope_or_an_end_that_makes_no_sense_is_refused(
    grants: Grants, clock: Clock, action: str, conversation: str | None, expires_at: float | None
) -> None:
    refused = await grants.append(
        "ana", "log", action, "http", clock.now, conversation=conversation, expires_at=expires_at
    )
    assert isinstance(refused, Refuse)
    assert await grants.history("ana") == []


def exchange(grants: Grants, name: str, conversation: str | None) -> ExchangeRecord:
    """What the proxy offers of an exchange, for what holds now."""
    return ExchangeRecord(
        request_id=name,
        at=1000.0,
        user="ana",
        conversation=conversation,
        purposes=grants.purposes_for("ana", None, conversation),
        stage="generation",
        stage_reason="default",
        status=200,
        started=1000.0,
        total_ms=1.0,
        request={"messages": [{"role": "user", "content": "hi"}]},
        response={"choices": []},
    )


async def test_only_exchanges_of_a_conversation_that_was_agreed_to_are_kept_and_learned_from(
    db: Database, grants: Grants, clock: Clock
) -> None:
    store = Conversations(db, grants)
    for conversation in ("c1", "c2", "c3"):
        await say(grants, "grant", "train", conversation, expires_at=1060.0 if conversation == "c2" else None)
    records = [exchange(grants, f"r-{one}", one) for one in ("c1", "c2", "c3", "c4", None)]
    # Revoked while it waited.
    await say(grants, "revoke", "log", "c3")
    await store.keep(records)
    kept = [row["request_id"] for row in await store.exchanges(10) if row["user"] == "ana"]
    assert sorted(map(str, kept)) == ["r-c1", "r-c2"]
    for name in ("r-c1", "r-c2"):
        assert await store.feedback.add(name, Judgement("bad", "so"), clock.now) is None
    assert [row["exchange_id"] for row in await store.feedback.corrected(["generation"])] == ["r-c1", "r-c2"]
    clock.now = 1060.0
    assert [row["exchange_id"] for row in await store.feedback.corrected(["generation"])] == ["r-c1"]
    await say(grants, Action.REVOKE, "train", "c1")
    assert await store.feedback.corrected(["generation"]) == []
    assert isinstance(await store.feedback.add("r-c1", Judgement("good"), clock.now), Refuse)
    # It was kept for the log too, which is agreed to by itself again.
    await say(grants, Action.GRANT, "log", "c1")
    assert await store.feedback.add("r-c1", Judgement("good"), clock.now) is None
    await say(grants, Action.REVOKE, "log", "c1")
    assert isinstance(await store.feedback.add("r-c1", Judgement("good"), clock.now), Refuse)


async def test_what_the_settings_grant_holds_from_the_start_and_ends_with_them(
    tmp_path: Path, store_at: StoreConfig, clock: Clock
) -> None:
    for wanted, granted, in_vain in (
        (("ana=train", "bob=log"), {"ana": {"log", "train"}, "bob": {"log"}}, []),
        (("bob=log",), {"ana": set(), "bob": {"log"}}, []),
        (("ana=log",), {"ana": {"log"}, "bob": set()}, []),
    ):
        config = Config(tmp_path, tmp_path / "control.sock", consent=ConsentConfig(grants=wanted), store=store_at)
        database = await Database.open(config)
        grants = Grants(database, clock)
        await grants.load()
        assert await grants.follow_settings(clock.now) == in_vain
        assert await grants.follow_settings(clock.now) == in_vain, "again it changes nothing"
        found = {user: set(grants.purposes_for(user)) for user in granted}
        assert found == granted
        clock.now += 10
        await database.close()
    database = await Database.open(config)
    grants = Grants(database, clock)
    await grants.load()
    await say(grants, "revoke", "log")
    assert await grants.follow_settings(clock.now) == [("ana", "log")]
    assert {event.source for event in await grants.history("bob")} == {"config"}
    await database.close()


@pytest.mark.parametrize("header_may_grant", [False, True])
async def test_what_was_kept_is_usable_as_long_as_what_it_was_kept_by(
    tmp_path: Path, store_at: StoreConfig, clock: Clock, header_may_grant: bool
) -> None:
    consent = ConsentConfig(header_may_grant=header_may_grant)
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", consent=consent, store=store_at))
    grants = Grants(database, clock)
    assert not grants.still_usable(Purpose.TRAIN, "ana", None, 900.0)
    await grants.load()
    await say(grants, "grant", "train", "c1", expires_at=1060.0)

    def usable(began: float, conversation: str | None) -> bool:
        return grants.still_usable(Purpose.TRAIN, "ana", conversation, began)

    # 1. By a grant, for its conversation and its time. 2. By a header: before the grant, or elsewhere.
    assert usable(1010.0, "c1")
    assert usable(1010.0, "c2") is usable(990.0, None) is header_may_grant
    clock.now = 1060.0
    assert not usable(1010.0, "c1")
    assert usable(1010.0, "c2") is usable(1070.0, "c1") is header_may_grant
    await say(grants, "revoke", "train")
    assert not usable(1010.0, "c2")
    assert not usable(1070.0, "c1")
    await database.close()


@contextlib.contextmanager
def counted(db: Database) -> Iterator[list[str]]:
    """The statements that the database is asked meanwhile, but for those that begin and end."""
    asked: list[str] = []

    def note(*told: Any) -> None:
        asked.append(told[2])

    sa.event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    yield asked
    sa.event.remove(db.engine.sync_engine, "before_cursor_execute", note)


async def test_a_grant_more_reads_no_history_and_an_answer_holds_the_newest_of_it(db: Database, clock: Clock) -> None:
    rows = [
        {"user": "ana", "purpose": "train", "action": action, "source": "http", "at": float(n)}
        for n, action in enumerate(["grant", "revoke"] * 500)
    ]
    async with db.write() as connection:
        await connection.execute(sa.insert(tables.grants), rows)
    grants = Grants(db, clock)
    await grants.load()
    with counted(db) as asked:
        await say(grants, "grant", "train")
        told = await grants.consents("ana", limit=3)
        await grants.standing_at("ana", 500.0, None)
        assert not grants.still_usable(Purpose.EVALUATE, "ana", None, 500.0)
    # Which schema it is, a server is asked for each transaction.
    assert [text.split()[0] for text in asked if "grants" in text] == ["INSERT"]
    assert [event.at for event in told.history] == [998.0, 999.0, 1000.0]
    assert (told.total, len(await grants.history("ana"))) == (1001, 1001), "no event is dropped"


async def test_what_is_said_again_is_answered_and_not_written_down_again(db: Database, grants: Grants) -> None:
    for action in ("grant", "grant", "revoke", "revoke", "revoke"):
        await say(grants, action, "train")
    await say(grants, "grant", "log", expires_at=2000.0)
    await say(grants, "grant", "log", expires_at=1500.0)
    await say(grants, "grant", "log", expires_at=2500.0)
    fresh = Grants(db, grants.clock)
    await fresh.load()
    told = [(event.action, event.expires_at) for event in await fresh.history("ana")]
    assert told == [("grant", None), ("revoke", None), ("grant", 2000.0), ("grant", 2500.0)]


async def test_what_could_not_be_written_is_not_counted_once_the_table_can_be_asked_again(
    db: Database, grants: Grants
) -> None:
    await say(grants, "grant", "train")

    def no_room(_: sa.Connection) -> None:
        away = db.engine.dialect.name == "postgresql"
        raise ConnectionResetError("the server is gone") if away else sqlite3.OperationalError("the disk is full")

    sa.event.listen(db.engine.sync_engine, "commit", no_room)
    for action in ("grant", "revoke"):
        with pytest.raises(StoreError):
            await grants.append("ana", "log", action, "http", 1000.0)
    assert grants.purposes_for("ana") == frozenset(), "nobody knows yet whether the revocation was written"
    sa.event.remove(db.engine.sync_engine, "commit", no_room)
    await say(grants, "grant", "log")
    assert [event.purpose for event in await grants.history("ana")] == ["train", "log"]
    assert grants.purposes_for("ana") == {"log", "train"}


@pytest.mark.parametrize("name", ["x" * 1001, "a\0b", "\ud800", " "], ids=["too long", "zero byte", "half", "blank"])
@pytest.mark.parametrize("header", [None, "train"])
async def test_of_a_conversation_that_could_not_be_revoked_for_itself_nothing_is_kept(
    tmp_path: Path, clock: Clock, name: str, header: str | None
) -> None:
    database = await Database.open(
        Config(tmp_path, tmp_path / "control.sock", consent=ConsentConfig(header_may_grant=True))
    )
    grants = Grants(database, clock)
    await grants.load()
    await say(grants, "grant", "train")
    assert isinstance(await grants.append("ana", "log", "revoke", "http", 1000.0, conversation=name), Refuse)
    assert grants.purposes_for("ana", header, name) == frozenset()
    assert not grants.still_usable(Purpose.TRAIN, "ana", name, 1000.0), "what an older release kept of it stays unused"
    store = Conversations(database, grants)
    offered = msgspec.structs.replace(exchange(grants, "r1", name), purposes=frozenset({"log", "train"}))
    await store.keep([offered])
    kept = await store.exchange("r1")
    assert kept is not None
    assert (kept["user"], kept["conversation"], kept["request"], kept["decision"]) == (None, None, None, "not_kept")
    # The longest that can be named is kept, and revoked for itself.
    longest = "x" * 1000
    assert grants.purposes_for("ana", header, longest) == {"log", "train"}
    await say(grants, "revoke", "log", longest)
    assert grants.purposes_for("ana", header, longest) == frozenset()
    await database.close()
