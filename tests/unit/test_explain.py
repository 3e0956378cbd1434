"""What is told of one reply: from where it came, what was kept, and what was made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gaiad.cli.explain import explained
from gaiad.config import Config, StoreConfig
from gaiad.control.explain import explanation
from gaiad.db import Database
from gaiad.grants import Grants

SECRET = "the-attic-key-is-under-the-mat"
THEN: dict[str, Any] = {
    "granted": ["log", "train"],
    "revoked": [],
    "last": {"action": "grant", "purpose": "train", "source": "command"},
}
NOW: dict[str, Any] = {"granted": ["log"], "usable_for": ["log"]}


def kept(**more: Any) -> dict[str, Any]:
    row = {
        "request_id": "r1",
        "at": 41.0,
        "started": 40.0,
        "status": 200,
        "outcome": "whole",
        "complete": True,
        "streamed": False,
        "finish_reason": "stop",
        "valid": True,
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "first_byte_ms": 1.5,
        "total_ms": 3.0,
        "stage": "intent",
        "stage_reason": "header",
        "version": "a@v1-00000000",
        "arm": "none",
        "decision": "kept",
        "user": "ana",
        "conversation": "c1",
        "purposes": ["log", "train"],
        "sampling": {"temperature": 0.25, "seed": 12345678901},
        "engine": "e1",
        "template": "",
        "scrubbed": {"EMAIL": 2},
        "signals": ["regenerated"],
        "consent": "train",
        "feedback": [{"verdict": "bad", "score": 0.25, "correction": "so", "note": "half", "at": 50.0}],
        "request": {"messages": [{"role": "user", "content": SECRET}]},
        "response": {"choices": [{"message": {"content": SECRET}}]},
    }
    return {**row, **more}


def version(name: str, at: float, **lineage: Any) -> dict[str, Any]:
    return {"version": name, "stage": "active", "created_at": at, "lineage": {"cycle": f"c-{name}", **lineage}}


def test_versions_are_told_by_their_lineage_newest_first() -> None:
    versions = [
        version("a@v1", 1.0, exchange_ids=["r0"]),
        version("a@v2", 2.0, exchange_ids=["r0", "r1"]),
        version("a@v3", 3.0, exchange_ids=["r1"]),
        version("a@v4", 4.0, exchange_ids=[], left_out_exchange_ids=["r1"]),
        version("imported", 5.0),
    ]
    told = explanation(kept(), THEN, NOW, versions)
    assert told["trained_into"] == [
        {"version": "a@v3", "stage": "active", "cycle": "c-a@v3", "at": 3.0},
        {"version": "a@v2", "stage": "active", "cycle": "c-a@v2", "at": 2.0},
    ]
    assert told["left_out_of"] == [{"version": "a@v4", "stage": "active", "cycle": "c-a@v4", "at": 4.0}]
    assert told["consent_then"] == {**THEN, "header": "train"}
    assert told["consent_now"] == NOW


def test_what_was_asked_and_answered_is_not_told() -> None:
    told = explanation(kept(), THEN, NOW, [])
    assert told["kept"] == ["request", "response"]
    assert SECRET not in str(told)
    corrected = kept(feedback=[{"verdict": "bad", "score": None, "correction": SECRET, "note": None, "at": 50.0}])
    told = explanation(corrected, THEN, NOW, [])
    assert SECRET not in str(told)
    assert "with a correction" in explained(told, 100.0)


def test_words_of_a_clock_that_was_ahead_are_told_as_that() -> None:
    assert "(2 more by a clock that was ahead" in explained(explanation(kept(), {**THEN, "unclear": 2}, NOW, []), 100.0)


@pytest.mark.parametrize(
    ("decision", "says"), [("not_kept", "nobody had agreed to that"), ("erased", "was erased"), ("expired", "was over")]
)
def test_of_nobody_there_is_no_consent_to_tell(decision: str, says: str) -> None:
    nobodys = kept(
        **dict.fromkeys(("user", "conversation", "request", "response", "sampling", "engine", "consent")),
        purposes=[],
        feedback=[],
        decision=decision,
    )
    told = explanation(nobodys, None, None, [])
    assert (told["kept"], told["consent_then"], told["consent_now"]) == ([], None, None)
    text = explained(told, 100.0)
    assert "somebody who was not taken down" in text
    assert says in text
    assert "consent" not in text


def test_people_read_it_line_by_line() -> None:
    told = explanation(kept(outcome="aborted"), THEN, NOW, [version("a@v2", 50.0, exchange_ids=["r1"])])
    text = explained(told, 100.0)
    for line in (
        "60 s ago by ana",
        "intent, because of: header",
        "a@v1-00000000, arm none (engine e1)",
        "temperature 0.25, seed 12345678901",
        "status 200, aborted, ended by stop, valid",
        "the user allowed log, train (last word: grant train, by command); the request's header said train",
        "request and response, for log, train; replaced by placeholders: 2 EMAIL",
        "the user allows log; this exchange may be used for log",
        "bad, score 0.25, with a correction, note: half",
        "signals       regenerated",
        "a@v2     active  c-a@v2  50 s ago",
    ):
        assert line in text, text


async def test_consent_is_told_as_it_was_at_that_moment(tmp_path: Path, store_at: StoreConfig) -> None:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    grants = Grants(database)
    await grants.append("ana", "train", "grant", "command", 10.0)
    await grants.append("ana", "log", "grant", "http", 15.0, conversation="c2")
    await grants.append("ana", "train", "revoke", "command", 20.0)
    try:
        assert await grants.standing_at("ana", 5.0, None) == {"granted": [], "revoked": [], "last": None, "unclear": 0}
        then = await grants.standing_at("ana", 19.0, "c1")
        assert (then["granted"], then["revoked"]) == (["log", "train"], [])
        assert isinstance(then["last"], dict)
        assert then["last"]["at"] == 10.0, "what was said of another conversation is not the last word here"
        later = await grants.standing_at("ana", 25.0, "c2")
        assert (later["granted"], later["revoked"]) == (["log"], ["train"])
        # By a clock that was set back: at the same moment a revocation is the last word.
        await grants.append("bob", "train", "grant", "command", 30.0)
        await grants.append("bob", "train", "revoke", "command", 20.0)
        then = await grants.standing_at("bob", 30.0, None)
        assert isinstance(then["last"], dict)
        assert (then["granted"], then["last"]["action"]) == ([], "revoke")
    finally:
        await database.close()
