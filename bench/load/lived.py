"""A state directory as a daemon leaves it after a while: many users' exchanges, and versions that learned from some.

Made through the real classes with the fake trainer. One user, `ERASED`, is about to be erased: each thing they said,
got or corrected holds a word of its own that stands nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaiad.adapter import VersionName
from gaiad.config import Config
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.exchange import ExchangeRecord, Judgement
from gaiad.learner.sources import catalogue
from gaiad.learner.sources.exchanges import CorrectedExchange
from tests.integration.learner_world import ARCHITECT, World, right_answers, settings, world

ERASED = "Zoë van der Berg"
TAUGHT = "user-0"
EXCHANGES = 5
LEARNED_FROM = 3
_AT_ONCE = 2000
_THINGS = ("lantern", "tram", "bridge", "kettle", "ladder", "violin", "compass")
_PLACES = ("mill", "harbour", "attic", "orchard", "station", "cellar", "tower", "market", "ferry", "chapel", "quarry")


@dataclass(frozen=True, slots=True)
class Lived:
    """What there is, and what should be left of it: stages by version, and what the alias serves (None: the base)."""

    folder: Path
    canaries: tuple[bytes, ...]
    others: tuple[bytes, ...]
    stained: frozenset[VersionName]
    stages: Mapping[str, str]
    serves: VersionName | None
    others_exchanges: int


def words(user: int, number: int, what: str) -> str:
    """A word that stands nowhere else; user -1 is the one who is erased."""
    letters = "".join(chr(ord("a") + int(digit)) for digit in f"{user + 1}")
    return f"zyrcanary{what}{letters}x{chr(ord('a') + number)}"


def name_of(user: int) -> str:
    """The user's name, by number."""
    return ERASED if user < 0 else f"user-{user}"


def said_by(user: int) -> Iterator[ExchangeRecord]:
    """All that one user said and got."""
    for number in range(EXCHANGES):
        thing, place = _THINGS[(user + number) % len(_THINGS)], _PLACES[(user * 3 + number) % len(_PLACES)]
        asked = f"USER REQUEST: who left the {thing} at the {place} of {words(user, number, 'asked')}?"
        answered = {"message": {"role": "assistant", "content": f"It was {words(user, number, 'answered')}."}}
        yield ExchangeRecord(
            request_id=f"exchange-{user}-{number}",
            at=10.0 + user + number / 10,
            user=name_of(user),
            conversation=f"conversation-{number % 2}",
            purposes=frozenset({"log", "train"}),
            stage="tool_selection",
            stage_reason="header",
            status=200,
            started=10.0 + user + number / 10,
            total_ms=1.0,
            request={"messages": [{"role": "user", "content": asked}]},
            response={"choices": [answered]},
        )


async def keep_all(conversations: Conversations, users: Sequence[int]) -> None:
    """Let all of these agree to be learned from, and keep what they said."""
    for user in users:
        await conversations.grants.append(name_of(user), "train", "grant", "test", 1.0)
    records = [record for user in users for record in said_by(user)]
    for at in range(0, len(records), _AT_ONCE):
        await conversations.keep(records[at : at + _AT_ONCE])


async def correct(conversations: Conversations, user: int, number: int) -> None:
    """Let a user correct a reply with words of their own."""
    answer = json.loads(next(iter(right_answers().values())))
    answer["reasoning"] = f"it is {words(user, number, 'corrected')}"
    refused = await conversations.feedback.add(
        f"exchange-{user}-{number}", Judgement("wrong", json.dumps(answer)), 3000.0
    )
    assert refused is None, refused


async def _versions(w: World, *, clean: bool) -> list[VersionName]:
    """Versions in their order; the last ones, `LEARNED_FROM` of them, learned from the user who is erased.

    With `clean`, two served before, of nobody and of another user. Without, the only other one never passed its exam.
    """
    if clean:
        await w.train()
    else:
        w.engine.is_good = lambda _: False
    await correct(w.conversations, 0, 0)
    await w.train()
    w.engine.is_good = lambda model: model != "prime"
    for number in range(LEARNED_FROM):
        await correct(w.conversations, -1, number)
        row = await w.train()
        assert row.verdict == "promoted", row.reason
    return [row.version for row in w.registry.versions()]


async def _lived(folder: Path, users: int, *, clean: bool) -> Lived:
    async with world(folder) as w:
        await keep_all(w.conversations, range(-1, users - 1))
        versions = await _versions(w, clean=clean)
    kept, stained = versions[:-LEARNED_FROM], versions[-LEARNED_FROM:]
    stages = dict.fromkeys(versions, "quarantined") | dict.fromkeys(kept, "retired")
    stages[kept[-1]] = "active" if clean else "rejected"
    return Lived(
        folder,
        tuple(_all_words(-1, LEARNED_FROM)),
        tuple(word for user in range(users - 1) for word in _all_words(user, 1 if user == 0 else 0)),
        frozenset(stained),
        {str(version): stage for version, stage in stages.items()},
        kept[-1] if clean else None,
        (users - 1) * EXCHANGES,
    )


def _all_words(user: int, corrected: int) -> Iterator[bytes]:
    for number in range(EXCHANGES):
        for what in ("asked", "answered", *(("corrected",) if number < corrected else ())):
            yield words(user, number, what).encode()


def lived(folder: Path, users: int, *, clean: bool) -> Lived:
    """Make a state directory in `folder`, in which `users` lived, one of them `ERASED`."""
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_lived(folder, users, clean=clean))


async def _digest(config: Config) -> str:
    database = await Database.open(config)
    try:
        conversations = Conversations(database)
        await conversations.load()
        folder = catalogue.shipped_curricula() / ARCHITECT
        curriculum = catalogue.load_curriculum(folder, "demo")
        said = conversations.feedback
        taught = [*await said.corrected(curriculum.stages), *await said.approved(curriculum.stages)]
        rows = [CorrectedExchange(**row) for row in taught]
        return catalogue.gather(curriculum, folder, rows).digest
    finally:
        await database.close()


def dataset_digest(folder: Path) -> str:
    """The digest of the dataset that the next cycle in this folder would have."""
    return asyncio.run(_digest(settings(folder)))


async def _without(folder: Path, users: int) -> None:
    database = await Database.open(settings(folder))
    try:
        conversations = Conversations(database)
        await conversations.load()
        await keep_all(conversations, range(users - 1))
        await correct(conversations, 0, 0)
    finally:
        await database.close()


def digest_without(folder: Path, users: int) -> str:
    """The digest of the dataset where all others lived and the user who is erased never did."""
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_without(folder, users))
    return dataset_digest(folder)
