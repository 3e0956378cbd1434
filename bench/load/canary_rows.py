"""Whether a store and its datasets hold all that was agreed to, each text in its own row and field, and nothing else.

Reads one database and the frozen datasets beside it; changes none. The search for stray bytes is `canary_search`'s.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from bench.load.canary import PEOPLE, Canary, Flock, Kind
from bench.load.canary_bodies import REPLIES, Slot, as_kept, conversation_of, correction_of, name_of, secret_of, wire
from bench.load.canary_ledger import Ledger, Outcome, Verdict
from bench.load.canary_plan import LEARNED, How, Request, When
from bench.load.canary_search import Search
from gaiad.learner.dataset import EXCHANGE_ORIGIN

Json: TypeAlias = Any

_WORDS = (Slot.VERDICT, Slot.NOTE)
_CONTENTS = "SELECT request_id, user, conversation, purposes, request, response FROM exchange_contents"
_ELSEWHERE = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('exchange_contents', 'feedback', 'grants')"
)


@dataclass(slots=True)
class Rows:
    """What a store was found to hold, and a line for each thing that is not as it must be."""

    kept: set[int] = field(default_factory=set)
    bare: int = 0
    corrections: int = 0
    wrong: list[str] = field(default_factory=list)


def looked_through(path: Path, ledger: Ledger, flock: Flock) -> Rows:
    """Compare the whole store with the ledger."""
    rows = Rows()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as link:
        rows.wrong += [f"the file: {line}" for (line,) in link.execute("PRAGMA integrity_check") if line != "ok"]
        decisions = dict(link.execute("SELECT request_id, decision FROM exchanges").fetchall())
        numbers = {one.request_id: number for number, one in ledger.record.outcomes.items() if one.request_id}
        reader = _Contents(ledger, flock, numbers)
        for found in link.execute(_CONTENTS):
            rows.wrong += reader.wrong_with(*found)
        rows.kept = reader.kept
        rows.bare = sum(1 for decision in decisions.values() if decision != "kept")
        rows.wrong += _missing(ledger, decisions, rows.kept)
        rows.corrections, problems = _feedback(link, ledger, flock, numbers)
        rows.wrong += problems + _grants(link, ledger, flock) + _elsewhere(link, flock)
    return rows


class _Contents:
    """Judges one kept row after the other."""

    def __init__(self, ledger: Ledger, flock: Flock, numbers: dict[str, int]) -> None:
        self._ledger, self._flock, self._numbers = ledger, flock, numbers
        self._search = Search(flock)
        self.kept: set[int] = set()

    def wrong_with(
        self, request_id: str, user: str, conversation: str | None, purposes: str, request: str, response: str | None
    ) -> Iterator[str]:
        """All that is wrong with a row."""
        number = self._numbers.get(request_id)
        number = self._owner(request or "") if number is None else number
        asked = self._ledger.requests.get(-1 if number is None else number)
        if asked is None:
            yield f"{request_id}: content of nobody's request"
            return
        self.kept.add(asked.number)
        if self._ledger.verdicts[asked.number] is Verdict.NEVER:
            yield f"{told(self._ledger, asked)}: kept, and it must not be"
            return
        if user != name_of(self._flock, asked.person):
            yield f"{told(self._ledger, asked)}: kept under another name"
        if conversation != (
            conversation_of(self._flock, asked.person, asked.conversation) if asked.conversation else None
        ):
            yield f"{told(self._ledger, asked)}: kept in another conversation"
        if not _purposes_fit(asked, frozenset(purposes.split(","))):
            yield f"{told(self._ledger, asked)}: kept for {purposes}"
        if as_kept(json.loads(request), None) != as_kept(wire(asked, self._flock).body, secret_of(asked, self._flock)):
            yield f"{told(self._ledger, asked)}: the kept request is another"
        yield from self._wrong_reply(asked, json.loads(response or "null"))

    def _owner(self, request: str) -> int | None:
        """Whose request it is, by what it says; for those whose client left before it knew the id."""
        numbers = {one.number for one in self._search.in_bytes(request.encode()) if 0 <= one.number < PEOPLE}
        return numbers.pop() if len(numbers) == 1 else None

    def _wrong_reply(self, asked: Request, response: Json) -> Iterator[str]:
        outcome = self._ledger.record.outcomes[asked.number]
        mine = Canary(Kind.ANSWERED, asked.number, Slot.USER)
        if response is None:
            if outcome.whole and outcome.status == 200 and asked.how is not How.BREAK:
                yield f"{told(self._ledger, asked)}: its reply is not there"
            return
        said = json.dumps(response.get(REPLIES[asked.form])).encode()
        if asked.how in (How.ABORT, How.BREAK):
            # What came of it before it was broken off, whatever that is; the search has looked through it.
            return
        if mine not in self._search.in_bytes(said):
            yield f"{told(self._ledger, asked)}: the kept reply does not say what was answered"
        elif (
            asked.secret is not None and asked.number % 2 and asked.how is not How.CALL and b"Please note [" not in said
        ):
            yield f"{told(self._ledger, asked)}: the kept reply has no placeholder for the secret"


def _purposes_fit(asked: Request, purposes: frozenset[str]) -> bool:
    # What was revoked in the middle may have taken one purpose along and left the other.
    return purposes == asked.keeps or (asked.when is When.IN_FLIGHT and purposes <= LEARNED)


def _missing(ledger: Ledger, decisions: dict[str, str], kept: set[int]) -> Iterator[str]:
    for number, outcome in ledger.record.outcomes.items():
        asked, verdict = ledger.requests[number], ledger.verdicts[number]
        decision = decisions.get(outcome.request_id or "")
        if verdict is Verdict.MUST and number not in kept:
            yield f"{told(ledger, asked)}: it must be kept, and is not"
        elif not asked.leaves_row and decision is not None:
            yield f"{told(ledger, asked)}: it leaves a row"
        elif asked.leaves_row and outcome.request_id and decision != ("kept" if number in kept else "not_kept"):
            yield f"{told(ledger, asked)}: its row says {decision}"


def _feedback(link: sqlite3.Connection, ledger: Ledger, flock: Flock, numbers: dict[str, int]) -> tuple[int, list[str]]:
    wrong, seen = [], set()
    for request_id, text, *words in link.execute("SELECT request_id, correction, verdict, note FROM feedback"):
        asked = ledger.requests.get(numbers.get(request_id, -1))
        if asked is None or not ledger.record.judged.get(asked.number):
            wrong.append(f"{request_id}: a correction that was not taken is there")
            continue
        seen.add(asked.number)
        expected = as_kept(correction_of(asked, flock), secret_of(asked, flock))
        if as_kept(text, None) != expected or words != [flock.said(asked.number, slot) for slot in _WORDS]:
            wrong.append(f"{told(ledger, asked)}: the kept correction is another")
    taken = {number for number, was_taken in ledger.record.judged.items() if was_taken}
    wrong += [
        f"{told(ledger, ledger.requests[number])}: its correction is not there" for number in sorted(taken - seen)
    ]
    return len(seen), wrong


def _grants(link: sqlite3.Connection, ledger: Ledger, flock: Flock) -> list[str]:
    expected: set[tuple[str, str | None]] = {
        (name_of(flock, one.index), None) for one in ledger.people if one.speaks and not one.scopes
    }
    expected |= {
        (name_of(flock, one.index), conversation_of(flock, one.index, scope))
        for one in ledger.people
        for scope in one.scopes
    }
    found = set(link.execute("SELECT DISTINCT user, conversation FROM grants"))
    return [f"grants: {len(found - expected)} of nobody who said so"] * bool(found - expected) + [
        f"grants: {len(expected - found)} that were said are not there"
    ] * bool(expected - found)


def _elsewhere(link: sqlite3.Connection, flock: Flock) -> list[str]:
    """No other table has a canary in any column."""
    wrong, search = [], Search(flock)
    for (table,) in link.execute(_ELSEWHERE).fetchall():
        texts = (str(value).encode() for row in link.execute(f'SELECT * FROM "{table}"') for value in row if value)
        found = search.in_bytes(b"\n".join(texts))
        wrong += [f"the table {table}: {len(found)} canaries"] if found else []
    return wrong


def learned_in(
    folder: Path, digest: str, expected: frozenset[int], ledger: Ledger, flock: Flock, most: int | None = None
) -> list[str]:
    """What is wrong with the exchanges in a frozen dataset, which has to have these and no others.

    Where there are more than `most`, which is what the curriculum lets train hold, it has to have so many of them.
    """
    numbers = {one.request_id: number for number, one in ledger.record.outcomes.items() if one.request_id}
    found, wrong = set(), []
    for line in (folder / digest / "train.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        if not example["origin"].startswith(EXCHANGE_ORIGIN):
            continue
        number = numbers.get(example["origin"].removeprefix(EXCHANGE_ORIGIN), -1)
        found.add(number)
        if number in expected and not _is_learned_right(example["messages"], number, flock):
            wrong.append(f"{told(ledger, ledger.requests[number])}: the example in the dataset is another")
    wrong += [f"dataset {digest[:12]}: {len(found - expected)} examples that may not be there"] * bool(found - expected)
    wanted = len(expected) if most is None else min(most, len(expected))
    missing = wanted - len(found & expected)
    return wrong + [f"dataset {digest[:12]}: {missing} examples are missing"] * (missing > 0)


def _is_learned_right(messages: Json, number: int, flock: Flock) -> bool:
    texts = [str(message["content"]) for message in messages]
    return (
        flock.said(number, Slot.SYSTEM) in texts[0]
        and flock.said(number, Slot.USER) in texts[-2]
        and flock.said(number, Slot.CORRECTION) in texts[-1]
    )


def unanswered(requests: Iterable[Request], outcomes: dict[int, Outcome]) -> list[str]:
    """Whole replies whose clients did not get the canary that was meant for them."""
    return [
        f"request {one.number} ({one.form}, {one.how}): the client got another reply"
        for one in requests
        if (outcome := outcomes.get(one.number)) is not None
        and outcome.whole
        and outcome.status == 200
        and one.how in (How.TELL, How.PIECES, How.CALL, How.SLOW)
        and not outcome.answered
    ]


def told(ledger: Ledger, asked: Request) -> str:
    """Which request it is, for whoever looks into it."""
    stance = ledger.people[asked.person].stance
    return f"request {asked.number} ({stance.value}; {asked.form}, {asked.how}, {asked.when})"
