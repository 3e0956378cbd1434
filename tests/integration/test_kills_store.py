"""A daemon killed in the middle of its work keeps what it acknowledged; and the proof of it sees what is lost.

The kills are a small sample of `make proof-kills`, with its own assertions.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench.load.kept import Acknowledged, as_left, wrong_with
from bench.proof_kills import Life, Proof, moments, prove, streamed_text, table
from gaiad.tables import exchange_contents, exchanges, metadata

SAID = (Acknowledged("one", "what is it?", "this"), Acknowledged("two", "and that?", "grüße 🙂"))


def test_what_was_acknowledged_outlives_every_kill(tmp_path: Path) -> None:
    proof = prove(tmp_path, kills=5, seed=3, clients=8)
    assert proof.wrong == ()
    assert proof.holds
    # 1. Something was at stake: exchanges were promised, and clients waited for commits at some of the kills.
    assert proof.acknowledged > 0
    assert any(life.waiting for life in proof.lives)
    assert len(table(proof)) == 6


def row(request_id: str, **changes: object) -> dict[str, object]:
    made = {column.name: 0 for column in exchanges.columns}
    texts = {"stage": "base", "stage_reason": "", "arm": "none", "finish_reason": "stop", "decision": "kept"}
    return {**made, **texts, "request_id": request_id, "complete": True, "status": 200, **changes}


def content(said: Acknowledged) -> dict[str, object]:
    request = {"messages": [{"role": "user", "content": said.asked}]}
    response = {"choices": [{"message": {"role": "assistant", "content": said.answered}}]}
    kept = {"request": json.dumps(request), "response": json.dumps(response)}
    return {"request_id": said.request_id, "user": "owner", "purposes": "log", **kept}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A database with both exchanges, as a daemon would have left it."""
    path = tmp_path / "gaiad.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(exchanges.insert(), [row(said.request_id) for said in SAID])
        connection.execute(exchange_contents.insert(), [content(said) for said in SAID])
    engine.dispose()
    return path


@contextlib.contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


def test_a_whole_database_has_nothing_wrong(store: Path) -> None:
    assert wrong_with(store, SAID) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            [
                "DELETE FROM exchanges WHERE request_id = 'one'",
                "DELETE FROM exchange_contents WHERE request_id = 'one'",
            ],
            ["acknowledged, but lost: one"],
        ),
        (
            ["UPDATE exchange_contents SET response = substr(response, 1, 20) WHERE request_id = 'two'"],
            ["content that is half-written: two", "acknowledged, but lost: two"],
        ),
        (
            ["UPDATE exchange_contents SET request = NULL WHERE request_id = 'two'"],
            ["content that is half-written: two", "acknowledged, but lost: two"],
        ),
        (
            ["UPDATE exchange_contents SET response = NULL WHERE request_id = 'two'"],
            ["a complete reply that is not there: two", "acknowledged, but its reply is another: two"],
        ),
        (
            ["UPDATE exchange_contents SET request = replace(request, 'that', 'those') WHERE request_id = 'two'"],
            ["acknowledged, but its request is another: two"],
        ),
        (["DELETE FROM exchanges WHERE request_id = 'one'"], ["content without its row: one"]),
        (
            ["DELETE FROM exchange_contents WHERE request_id = 'one'"],
            ["a row that says kept, without content: one", "acknowledged, but lost: one"],
        ),
        (
            ["UPDATE exchanges SET decision = 'not_kept' WHERE request_id = 'one'"],
            ["content with a row that does not say kept: one"],
        ),
    ],
)
def test_each_loss_and_each_half_is_reported(store: Path, damage: list[str], found: list[str]) -> None:
    with changed(store) as connection:
        for statement in damage:
            connection.execute(statement)
    assert wrong_with(store, SAID) == found


def test_a_file_that_is_damaged_is_reported(store: Path) -> None:
    raw = bytearray(store.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    store.write_bytes(raw)
    assert wrong_with(store, SAID) != []


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    assert "cannot be read" in wrong_with(tmp_path / "gaiad.db", SAID)[0]


def test_a_copy_holds_what_was_committed_to_the_log_and_not_what_was_not(store: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("UPDATE exchanges SET status = 201 WHERE request_id = 'one'")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM exchange_contents")
        with as_left(store, tmp_path / "left") as left:
            assert wrong_with(left, SAID) == []
            with contextlib.closing(sqlite3.connect(left)) as copy:
                assert copy.execute("SELECT status FROM exchanges WHERE request_id = 'one'").fetchone() == (201,)
        connection.execute("ROLLBACK")
    assert not (tmp_path / "left").exists()


def test_a_proof_without_a_promise_or_with_a_loss_does_not_hold() -> None:
    life = Life(1, moments(1, 1)[0])
    assert not Proof((life,), (), 1.0).holds
    life.acknowledged.append(SAID[0])
    assert Proof((life,), (), 1.0).holds
    assert not Proof((life,), ("kill 1: acknowledged, but lost: one",), 1.0).holds


def test_the_plan_follows_from_the_seed_and_half_of_it_aims_at_commits() -> None:
    assert moments(50, 1) == moments(50, 1) != moments(50, 2)
    assert sum(moment.asked > 0 for moment in moments(50, 1)) == 25


def test_the_text_of_a_stream_is_put_together() -> None:
    pieces = [{"role": "assistant", "content": ""}, {"content": "grüße"}, {"content": " 🙂"}, {}]
    events = [f"data: {json.dumps({'choices': [{'delta': piece}]})}\n\n" for piece in pieces]
    assert streamed_text("".join(events) + 'data: {"choices": []}\n\ndata: [DONE]\n\n') == "grüße 🙂"
