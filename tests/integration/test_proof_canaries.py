"""Nothing unconsented lies anywhere, all that is consented lies where it belongs, and the proof sees what does not.

A small sample of `make proof-canaries`, with its own assertions.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench.load.canary import Canary, Flock, Kind, answered
from bench.load.canary_bodies import Slot, conversation_of, correction_of, name_of, secret_of, wire
from bench.load.canary_ledger import Ledger, Outcome, Place, Record, Verdict
from bench.load.canary_places import looked, place_of, planted
from bench.load.canary_plan import How, Person, Request, Stance, planned
from bench.load.canary_rows import learned_in, looked_through, unanswered
from bench.load.canary_table import Proof, as_json, table
from bench.proof_canaries import prove
from gaiad.proxy.endpoints import Form
from gaiad.tables import exchange_contents, exchanges, feedback, grants, metadata

FLOCK = Flock(5)


def test_what_was_agreed_to_is_kept_and_nothing_else_lies_anywhere(tmp_path: Path) -> None:
    proof = prove(tmp_path, requests=300, seed=3, at_once=48)
    assert proof.wrong == []
    assert proof.holds
    # 1. Everybody's consent was at stake, and so was every place.
    for person in proof.ledger.people:
        verdicts = {proof.ledger.verdicts[one.number] for one in person.requests}
        nobody = person.stance in (Stance.SILENT, Stance.NOBODY, Stance.OVERRULED, Stance.MALFORMED)
        assert not nobody or verdicts == {Verdict.NEVER}
    for look in proof.looks:
        assert {Place.DATABASE, Place.BACKUP, Place.DATASETS} <= {
            place for place, seen in look.places.items() if seen.canaries
        }
        assert set(look.places) >= {*Place} - {Place.LOG_AHEAD}
    assert proof.looks[0].places[Place.LOG_AHEAD].size > 0
    assert as_json(proof)["holds"] is True
    assert len(table(proof)) > len(Stance)


# --- a small store, as a daemon would have left it, and what may become of it --------------------------------------

PEOPLE = planned(300, 5)


def one_of(stance: Stance, **wanted: object) -> Request:
    return next(
        request
        for person in PEOPLE
        if person.stance is stance and person.life == 0
        for request in person.requests
        if request.how in (How.TELL, How.PIECES)
        and all(getattr(request, name) == value for name, value in wanted.items())
    )


KEPT = one_of(Stance.TRAIN, is_judged=True)
SILENT = one_of(Stance.SILENT)


def scrubbed(text: str, request: Request) -> str:
    secret = secret_of(request, FLOCK)
    return text if secret is None else text.replace(secret, "[EMAIL_abcdef]")


def reply_to(request: Request) -> dict[str, object]:
    text = f"It is {answered(FLOCK.said(request.number, Slot.USER))}. Please note [EMAIL_abcdef] for later."
    match request.form:
        case Form.MESSAGES:
            return {"content": [{"type": "text", "text": text}]}
        case Form.RESPONSES:
            return {"output": [{"content": [{"type": "output_text", "text": text}]}]}
        case _:
            return {"choices": [{"text": text}]}


def content(request: Request) -> dict[str, object]:
    conversation = conversation_of(FLOCK, request.person, request.conversation) if request.conversation else None
    return {
        "request_id": f"id-{request.number}",
        "user": name_of(FLOCK, request.person),
        "conversation": conversation,
        "purposes": ",".join(sorted(request.keeps)) or "log",
        "request": scrubbed(json.dumps(wire(request, FLOCK).body), request),
        "response": json.dumps(reply_to(request)),
    }


def row(request: Request, decision: str) -> dict[str, object]:
    made = {column.name: 0 for column in exchanges.columns}
    texts = {"stage": "base", "stage_reason": "", "arm": "none", "finish_reason": "stop", "version": "", "outcome": ""}
    known = {name: value for name, value in texts.items() if name in made}
    return {**made, **known, "request_id": f"id-{request.number}", "decision": decision}


@pytest.fixture
def ledger() -> Ledger:
    """Two people only: one who agreed and corrected, one who never said anything; each asked once."""
    record = Record(judged={KEPT.number: True})
    for request in (KEPT, SILENT):
        record.outcomes[request.number] = Outcome(f"id-{request.number}", 200, 1.0, 2.0, whole=True, answered=True)
    people = tuple(one if one.index in (KEPT.person, SILENT.person) else without_steps(one) for one in PEOPLE)
    return Ledger(people, record)


def without_steps(person: Person) -> Person:
    return Person(person.index, person.stance, person.life, ())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "gaiad.db"
    path.parent.mkdir()
    engine = sa.create_engine(f"sqlite:///{path}")
    said = {"request_id": f"id-{KEPT.number}", "verdict": FLOCK.said(KEPT.number, Slot.VERDICT), "at": 1.0}
    said["note"] = FLOCK.said(KEPT.number, Slot.NOTE)
    grant = {"user": name_of(FLOCK, KEPT.person), "purpose": "train", "action": "grant", "source": "http", "at": 1.0}
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(exchanges.insert(), [row(KEPT, "kept"), row(SILENT, "not_kept")])
        connection.execute(exchange_contents.insert(), [content(KEPT)])
        connection.execute(feedback.insert(), [{**said, "correction": scrubbed(correction_of(KEPT, FLOCK), KEPT)}])
        connection.execute(grants.insert(), [grant])
    engine.dispose()
    return path


@contextlib.contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


def test_a_store_as_it_must_be_has_nothing_wrong(store: Path, ledger: Ledger) -> None:
    rows = looked_through(store, ledger, FLOCK)
    assert rows.wrong == []
    assert (rows.kept, rows.bare, rows.corrections) == ({KEPT.number}, 1, 1)


DAMAGES = {
    "it must be kept, and is not": "DELETE FROM exchange_contents",
    "the kept request is another": "UPDATE exchange_contents SET request = replace(request, 'kind', 'mean')",
    "the kept reply does not say what was answered": "UPDATE exchange_contents SET response = '{}'",
    "its reply is not there": "UPDATE exchange_contents SET response = NULL",
    "kept under another name": "UPDATE exchange_contents SET user = 'somebody'",
    "kept in another conversation": "UPDATE exchange_contents SET conversation = 'another'",
    "kept for evaluate": "UPDATE exchange_contents SET purposes = 'evaluate'",
    "its row says not_kept": "UPDATE exchanges SET decision = 'not_kept'",
    "its row says None": f"DELETE FROM exchanges WHERE request_id = 'id-{SILENT.number}'",
    "the kept correction is another": "UPDATE feedback SET correction = 'another'",
    "its correction is not there": "DELETE FROM feedback",
    "grants: 1 of nobody who said so": "UPDATE grants SET user = 'somebody'",
    "grants: 1 that were said are not there": "DELETE FROM grants",
    "content of nobody's request": "UPDATE exchange_contents SET request_id = 'x', request = '{}'",
    "the table exchanges: 1 canaries": f"UPDATE exchanges SET finish_reason = '{FLOCK.said(9, Slot.SYSTEM)}'",
}


@pytest.mark.parametrize("found", DAMAGES)
def test_each_thing_that_is_not_as_it_must_be_is_reported(store: Path, ledger: Ledger, found: str) -> None:
    with changed(store) as connection:
        connection.execute(DAMAGES[found])
    assert found in "\n".join(looked_through(store, ledger, FLOCK).wrong)


def test_content_of_somebody_who_never_agreed_is_reported(store: Path, ledger: Ledger) -> None:
    kept = content(SILENT)
    with changed(store) as connection:
        marks = ", ".join("?" * len(kept))
        connection.execute(f"INSERT INTO exchange_contents ({', '.join(kept)}) VALUES ({marks})", tuple(kept.values()))
    assert "kept, and it must not be" in "\n".join(looked_through(store, ledger, FLOCK).wrong)


def frozen(folder: Path, *requests: Request) -> str:
    (folder / "d1").mkdir()
    lines = []
    for request in requests:
        texts = [FLOCK.said(request.number, slot) for slot in (Slot.SYSTEM, Slot.USER, Slot.CORRECTION)]
        example = {"origin": f"exchange:id-{request.number}", "messages": [{"content": text} for text in texts]}
        lines.append(json.dumps(example))
    (folder / "d1" / "train.jsonl").write_text("\n".join([*lines, json.dumps({"origin": "tool_registry"})]))
    return "d1"


def test_a_dataset_has_the_corrections_that_it_must_have_and_no_others(tmp_path: Path, ledger: Ledger) -> None:
    digest = frozen(tmp_path, KEPT)
    assert learned_in(tmp_path, digest, ledger.learned_by(0), ledger, FLOCK) == []
    assert "may not be there" in learned_in(tmp_path, digest, frozenset(), ledger, FLOCK)[0]
    both = frozenset({KEPT.number, SILENT.number})
    assert "1 examples are missing" in learned_in(tmp_path, digest, both, ledger, FLOCK)[0]
    # No more than the curriculum lets it hold, and no fewer.
    assert learned_in(tmp_path, digest, both, ledger, FLOCK, 1) == []
    assert "1 examples are missing" in learned_in(tmp_path, digest, both, ledger, FLOCK, 2)[0]
    path = tmp_path / digest / "train.jsonl"
    path.write_text(path.read_text().replace(FLOCK.said(KEPT.number, Slot.CORRECTION), "another"))
    assert "is another" in learned_in(tmp_path, digest, ledger.learned_by(0), ledger, FLOCK)[0]


def test_a_client_that_got_another_reply_is_reported() -> None:
    assert unanswered([KEPT], {KEPT.number: Outcome("id", 200, whole=True, answered=True)}) == []
    assert len(unanswered([KEPT], {KEPT.number: Outcome("id", 200, whole=True)})) == 1


def test_a_stray_canary_is_named_with_its_place_and_never_repeated(tmp_path: Path, store: Path, ledger: Ledger) -> None:
    (tmp_path / "life-0").mkdir()
    log = tmp_path / "life-0" / "log"
    log.write_text(f"it said {FLOCK.said(KEPT.number, Slot.SYSTEM)}\n")
    look = looked("now", tmp_path, ledger, FLOCK)
    assert look.stray == [(Place.LOGS, "life-0/log", Canary(Kind.SAID, KEPT.number, Slot.SYSTEM))]
    assert look.wrong == [f"now: life-0/log has system (said) of {KEPT.number}"]
    assert not Proof(ledger, [look], wrong=look.wrong).holds


def test_what_is_planted_is_found_and_where_the_search_is_blind_the_proof_says_so(
    tmp_path: Path, store: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "metrics-0.txt").write_text("")
    (store.parent / "redact.key").write_bytes(b"k" * 32)
    look = looked("now", tmp_path, ledger, FLOCK)
    assert look.stray == []
    ledger.verdicts = {KEPT.number: Verdict.MUST, **dict.fromkeys(range(1000, 1040), Verdict.NEVER)}
    found, missed = planted(tmp_path, ledger, FLOCK, known=look)
    assert (found > 12, missed) == (True, [])
    monkeypatch.setattr("bench.load.canary_search.decoded", lambda data: data)
    _, missed = planted(tmp_path, ledger, FLOCK, known=look)
    assert len(missed) >= 5


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("state/gaiad.db", Place.DATABASE),
        ("state/gaiad.db-wal", Place.LOG_AHEAD),
        ("state/redact.key", Place.KEYS),
        ("state/datasets/d/train.jsonl", Place.DATASETS),
        ("state/runs/r/trainer.log", Place.RUNS),
        ("state/adapters/a/v1/x", Place.RUNS),
        ("backups/life-0.db", Place.BACKUP),
        ("told/status-0.json", Place.TOLD),
        ("life-0/log", Place.LOGS),
    ],
)
def test_each_file_has_its_place(path: str, place: Place) -> None:
    assert place_of(Path(path)) is place
