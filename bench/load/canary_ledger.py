"""What must be kept of each request, what may be, and what may lie nowhere: from the plan and what its clients saw.

Pure. A request on the edge of a consent (in flight while it is revoked, just before a grant expires) counts by the
moments that its client noted; where they do not decide it, it may be kept and need not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from bench.load.canary import PEOPLE, Canary, Kind
from bench.load.canary_bodies import IN_BODY, IN_DATASET, IN_FEEDBACK, Slot
from bench.load.canary_plan import HEADERS_GRANT, KEYED, How, Person, Request, Stance, When

SLOW_S = 1.5
"""How long the engine takes for a slow request at least."""
MARGIN_S = 0.5
"""How long before the end of a grant a reply must have ended for its record to have been decided before it, too."""


class Verdict(Enum):
    """What of a request may lie in the store."""

    MUST = "must be kept"
    MAY = "may be kept"
    NEVER = "must not be kept"


class Place(StrEnum):
    """Kinds of places that bytes lie in."""

    DATABASE = "database"
    LOG_AHEAD = "write-ahead log"
    BACKUP = "backups"
    DATASETS = "datasets"
    RUNS = "runs and checkpoints"
    KEYS = "keys and locks"
    TOLD = "status and metrics"
    LOGS = "logs"


STORES = frozenset({Place.DATABASE, Place.LOG_AHEAD, Place.BACKUP})


@dataclass(slots=True)
class Outcome:
    """What the client of one request saw; times are wall-clock seconds, `status` 0 where there was no answer."""

    request_id: str | None = None
    status: int = 0
    began: float = 0.0
    ended: float = 0.0
    whole: bool = False
    answered: bool = False


@dataclass(slots=True)
class Said:
    """When somebody said something of their consent: sent and confirmed."""

    sent: float
    confirmed: float


@dataclass(slots=True)
class Record:
    """All that the clients of a run saw."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    ends: dict[int, Said] = field(default_factory=dict)
    revoked: dict[int, Said] = field(default_factory=dict)
    judged: dict[int, bool] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)


def verdict_of(request: Request, outcome: Outcome | None, record: Record) -> Verdict:
    """What of a request may be kept."""
    if not request.leaves_row or not request.keeps or outcome is None:
        return Verdict.NEVER
    match request.when:
        case When.IN_FLIGHT:
            # The engine was not done with it when the revocation held.
            sure = record.revoked[request.person].confirmed < outcome.began + SLOW_S
            return Verdict.NEVER if sure else Verdict.MAY
        case When.BEFORE_END if outcome.ended > record.ends[request.person].sent - MARGIN_S:
            return Verdict.MAY
        case _:
            # Whoever broke off before the headers came knows no id, nor whether the request was read.
            return Verdict.MUST if outcome.request_id else Verdict.MAY


def expected_status(request: Request) -> frozenset[int]:
    """What the client may be answered; empty where anything may come."""
    if request.nameless and request.life == KEYED:
        return frozenset({401})
    match request.how:
        case How.TELL | How.PIECES | How.CALL | How.SLOW:
            return frozenset({200})
        case How.FAIL:
            return frozenset({500})
        case How.REFUSE | How.BAD_BODY | How.BAD_STAGE:
            return frozenset({400})
        case How.BREAK:
            return frozenset({200, 502})
        case How.BAD_NAME:
            return frozenset({404})
        case How.BAD_PATH:
            return frozenset({400, 403, 404, 405})
        case _:
            return frozenset()


class Ledger:
    """What may lie where, asked for each canary that was found."""

    def __init__(self, people: Iterable[Person], record: Record) -> None:
        self.people = tuple(people)
        self.record = record
        self.requests: dict[int, Request] = {one.number: one for person in self.people for one in person.requests}
        self.verdicts: Mapping[int, Verdict] = {
            number: verdict_of(request, record.outcomes.get(number), record)
            for number, request in self.requests.items()
        }
        self._kept_conversations = {
            (request.person, request.conversation)
            for number, request in self.requests.items()
            if self.verdicts[number] is not Verdict.NEVER
        }
        self._kept_people = {person for person, _ in self._kept_conversations}
        self.learned = frozenset(
            number
            for number, taken in record.judged.items()
            if taken and self.requests[number].learns and self.verdicts[number] is Verdict.MUST
        )
        """The requests whose corrections are to be learned from."""

    def stance_of(self, canary: Canary) -> Stance | None:
        """Whose it is; None where it cannot be told."""
        if canary.number >= PEOPLE:
            index = canary.number - PEOPLE
            return self.people[index].stance if index < len(self.people) else None
        request = self.requests.get(canary.number)
        return self.people[request.person].stance if request else None

    def may_lie(self, canary: Canary, place: Place) -> bool:
        """Whether it may be found in such a place.

        Pages whose cells were moved keep pieces of what stands elsewhere on them. Of a piece that names nobody, cut
        before its number or grown together with another, nobody can tell whose it was; any that names somebody counts.
        """
        if canary.kind is Kind.SECRET:
            return False
        if place is Place.KEYS:
            return self._has_key(canary)
        if place not in STORES | {Place.DATASETS}:
            return False
        if canary.is_torn and self.stance_of(canary) is None:
            return place in STORES
        if canary.number >= PEOPLE:
            return place in STORES and self._person_may(canary)
        if place is Place.DATASETS:
            return canary.number in self.learned and (canary.is_torn or canary.slot in IN_DATASET)
        if self.verdicts.get(canary.number, Verdict.NEVER) is Verdict.NEVER:
            return False
        if canary.slot in IN_FEEDBACK:
            return self.record.judged.get(canary.number, False)
        return canary.is_torn or canary.slot in IN_BODY

    def _has_key(self, canary: Canary) -> bool:
        """Whether it is a name that the file of keys has."""
        index = canary.number - PEOPLE
        return 0 <= index < len(self.people) and self.people[index].life == KEYED and canary.slot == Slot.NAME

    def _person_may(self, canary: Canary) -> bool:
        index = canary.number - PEOPLE
        if index >= len(self.people):
            return False
        person = self.people[index]
        if canary.is_torn:
            return person.speaks or index in self._kept_people
        if canary.slot == Slot.NAME:
            return person.speaks or index in self._kept_people
        conversation = canary.slot - Slot.FIRST_CONVERSATION + 1
        return conversation in person.scopes or (index, conversation) in self._kept_conversations

    def learned_by(self, life: int) -> frozenset[int]:
        """The requests whose corrections must be in the dataset of a life's cycle, and no others.

        What a header granted is learned from only while headers may grant.
        """
        return frozenset(
            number
            for number in self.learned
            if (request := self.requests[number]).life <= life
            and (life == HEADERS_GRANT or self.people[request.person].stance is not Stance.WIDENED)
        )
