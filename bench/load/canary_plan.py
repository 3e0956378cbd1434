"""Who agrees to what and asks what, in which order: all of it from a seed, with what may be kept of each request.

Pure. What may be kept is written down here a second time, by hand and for each stance, and not asked of
`gaiad.consent`: a proof that asks the code under proof proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, TypeVar

from bench.load.canary import MOST_REQUESTS, SecretSlot
from gaiad.proxy.endpoints import Form

_T = TypeVar("_T")
LIVES = 3
"""How often the daemon runs."""
HEADERS_GRANT, KEYED = 1, 2
"""The life in which a header may grant, and the one in which everybody needs a key, which is who they are."""
_UNTIL = (0.45, 0.9, 1.0)
"""Which share of all requests is sent by the end of each life."""
ENDS_AFTER_S = 3.0
"""How long a grant lasts that ends by itself."""
EVERYTHING = frozenset({"log", "train", "evaluate"})
LEARNED = frozenset({"log", "train"})
JUDGED_ALONE = frozenset({"log", "evaluate"})
NOTHING: frozenset[str] = frozenset()


class Stance(StrEnum):
    """How somebody stands to being recorded."""

    SILENT = "never said anything"
    NOBODY = "no identity"
    LOG = "log"
    TRAIN = "train"
    EVALUATE = "evaluate"
    SCOPED = "train, in one conversation"
    EXPIRED = "train, until it expires"
    REVOKED = "train, then revoked"
    NARROWED = "everything, narrowed by header"
    WIDENED = "nothing, widened by header"
    OVERRULED = "revoked, header tries to widen"
    MALFORMED = "train, malformed header"


class How(StrEnum):
    """What becomes of a request."""

    TELL = "tell"
    PIECES = "pieces"
    CALL = "call"
    FAIL = "fail"
    REFUSE = "refuse"
    BREAK = "break"
    ABORT = "abort"
    SLOW = "slow"
    BAD_NAME = "bad_name"
    BAD_BODY = "bad_body"
    BAD_STAGE = "bad_stage"
    ERRAND = "errand"
    BAD_PATH = "bad_path"
    HALF_SENT = "half_sent"
    GARBLED = "garbled"


WIRELESS = frozenset({How.HALF_SENT, How.GARBLED})
"""What breaks off before its own end, or is no proper HTTP: nobody waits for an answer to it."""
ROWLESS = frozenset({How.BAD_BODY, How.BAD_STAGE, How.ERRAND, How.BAD_PATH, *WIRELESS})
"""What is refused before it is understood, or says nothing that could be kept, leaves no row whoever agreed."""


class When(StrEnum):
    """What decides whether it counts as agreed to, where the plan alone cannot."""

    STEADY = "steady"
    IN_FLIGHT = "in flight while it is revoked"
    BEFORE_END = "before the grant expires"
    AFTER_END = "after the grant expired"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `keeps` is what it may be kept for; conversation 0 is none, the others are the person's own."""

    number: int
    person: int
    life: int
    form: Form
    stream: bool
    how: How
    keeps: frozenset[str]
    when: When = When.STEADY
    consent: str | None = None
    conversation: int = 0
    in_metadata: bool = False
    name_in_body: bool = False
    nameless: bool = False
    leaves_row: bool = True
    is_judged: bool = False
    learns: bool = False
    escaped: bool = False
    long: bool = False
    secret: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request and read the reply."""

    request: Request


@dataclass(frozen=True, slots=True)
class Agree:
    """Grant or revoke, over the proxy or the control socket."""

    purpose: str
    action: str = "grant"
    conversation: int = 0
    expires_in_s: float | None = None
    over_socket: bool = False


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until what was said is durable."""


@dataclass(frozen=True, slots=True)
class Flight:
    """Send these at once, and change the consent while the engine works on them."""

    requests: tuple[Request, ...]
    agree: Agree


@dataclass(frozen=True, slots=True)
class UntilExpired:
    """Wait for the end of the grant."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Correct the reply of an earlier request; whether that is taken."""

    request: Request
    taken: bool


@dataclass(frozen=True, slots=True)
class Meddle:
    """Have somebody else correct the reply, who may not."""

    request: Request


Step: TypeAlias = Ask | Agree | Settle | Flight | UntilExpired | Judge | Meddle


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, and all that they do. Whoever `speaks` has their name among the grants.

    `key_consent` is what their key is held to; None for all that they agree to.
    """

    index: int
    stance: Stance
    life: int
    steps: tuple[Step, ...]
    key_consent: frozenset[str] | None = None

    @property
    def speaks(self) -> bool:
        """Whether they ever said something about their consent."""
        return any(isinstance(step, Agree) for step in self.steps)

    @property
    def scopes(self) -> frozenset[int]:
        """The conversations that they said something about."""
        return frozenset(step.conversation for step in self.steps if isinstance(step, Agree) and step.conversation)

    @property
    def requests(self) -> Iterator[Request]:
        """All that they ask."""
        for step in self.steps:
            if isinstance(step, Ask):
                yield step.request
            elif isinstance(step, Flight):
                yield from step.requests


_SHARES = {
    Stance.SILENT: 20,
    Stance.NOBODY: 8,
    Stance.LOG: 12,
    Stance.TRAIN: 16,
    Stance.EVALUATE: 8,
    Stance.SCOPED: 8,
    Stance.EXPIRED: 3,
    Stance.REVOKED: 7,
    Stance.NARROWED: 6,
    Stance.WIDENED: 6,
    Stance.OVERRULED: 3,
    Stance.MALFORMED: 3,
}
_HOWS = {
    How.TELL: 42,
    How.PIECES: 25,
    How.CALL: 8,
    How.FAIL: 4,
    How.REFUSE: 4,
    How.BREAK: 3,
    How.ABORT: 6,
    How.BAD_NAME: 2,
    How.BAD_BODY: 2,
    How.BAD_STAGE: 1,
    How.ERRAND: 2,
    How.BAD_PATH: 1,
    How.HALF_SENT: 2,
    How.GARBLED: 1,
}
_FORMS = {Form.CHAT: 50, Form.TEXT: 16, Form.RESPONSES: 17, Form.MESSAGES: 17}
_NARROWING: tuple[tuple[str, frozenset[str]], ...] = (
    ("none", NOTHING),
    ("log", frozenset({"log"})),
    ("train", LEARNED),
    (" Evaluate ", JUDGED_ALONE),
    ("train, evaluate", EVERYTHING),
)
_WIDENING: tuple[tuple[str, frozenset[str]], ...] = (
    ("log", frozenset({"log"})),
    ("train", LEARNED),
    ("evaluate", JUDGED_ALONE),
    ("none", NOTHING),
)
CANARY = "canary"
"""As a header it stands for one: what is no purpose may still be a text that somebody typed there."""
_MALFORMED = ("yes", "", "train;log", "train,,log", "none, train", "all", "train log", CANARY)


class _Writer:
    """Writes one person's requests, numbered on from `first`."""

    def __init__(
        self, chance: random.Random, person: int, life: int, first: int, key_consent: frozenset[str] | None
    ) -> None:
        self._chance = chance
        self._key_consent = key_consent
        self._person, self.life = person, life
        self._next = first
        self.name_in_body = chance.random() < 0.4

    def request(self, keeps: frozenset[str], **more: object) -> Request:
        """One request that may be kept for `keeps` if it comes to that."""
        chance, number = self._chance, self._next
        self._next += 1
        keeps = keeps if self._key_consent is None else keeps & self._key_consent
        how, form = _pick(chance, _HOWS), _pick(chance, _FORMS)
        if how is How.CALL and form is Form.TEXT:
            form = Form.CHAT
        made = Request(
            number,
            self._person,
            self.life,
            form,
            stream=chance.random() < 0.5,
            how=how,
            keeps=keeps,
            in_metadata=chance.random() < 0.5,
            name_in_body=self.name_in_body,
            escaped=chance.random() < 0.2,
            long=chance.random() < 0.06,
            secret=chance.choice((SecretSlot.MAIL, SecretSlot.KEY, SecretSlot.CARD, SecretSlot.PHONE))
            if chance.random() < 0.5
            else None,
        )
        return _as_it_is(replace(made, **more))  # type: ignore[arg-type]

    def judged(self, keeps: frozenset[str], **more: object) -> Request:
        """One whose reply will be corrected: a short chat in plain text, as a dataset takes it."""
        how = self._chance.choice((How.TELL, How.PIECES))
        return self.request(keeps, form=Form.CHAT, how=how, is_judged=True, long=False, **more)

    def asks(self, count: int, keeps: frozenset[str], **more: object) -> list[Step]:
        """Several that are all alike in what may be kept."""
        return [Ask(self.request(keeps, **more)) for _ in range(count)]


def _as_it_is(request: Request) -> Request:
    """What leaves no row is kept for nothing, and only a whole reply to a chat can be streamed as a call."""
    if request.how in ROWLESS or (request.nameless and request.life == KEYED):
        return replace(request, keeps=NOTHING, leaves_row=False)
    request = replace(request, learns=request.learns and "train" in request.keeps)
    if request.how is How.CALL and request.form is not Form.CHAT:
        return replace(request, stream=False)
    return replace(request, stream=True) if request.how is How.ABORT and request.number % 3 else request


def _pick(chance: random.Random, shares: dict[_T, int]) -> _T:
    return chance.choices(list(shares), list(shares.values()))[0]


# --- one script for each stance ------------------------------------------------------------------------------------

_Script: TypeAlias = Callable[[_Writer, random.Random, int], list[Step]]


def _judged_last(write: _Writer, keeps: frozenset[str], *, learns: bool = False, **more: object) -> list[Step]:
    request = write.judged(keeps, learns=learns, **more)
    return [Ask(request), Meddle(request), Judge(request, taken=bool(keeps))]


def _silent(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    return [*write.asks(count, NOTHING), *_judged_last(write, NOTHING)]


def _nobody(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    asks: list[Step] = [
        Ask(write.request(NOTHING, nameless=True, consent=chance.choice((None, "train", "log,evaluate"))))
        for _ in range(count)
    ]
    return [*asks, *_judged_last(write, NOTHING, nameless=True)]


def _granted(purpose: str, keeps: frozenset[str]) -> _Script:
    def script(write: _Writer, chance: random.Random, count: int) -> list[Step]:
        agree = Agree(purpose, over_socket=chance.random() < 0.5)
        anywhere: list[Step] = [Ask(write.request(keeps, conversation=chance.randint(0, 2))) for _ in range(count)]
        return [agree, *anywhere, *_judged_last(write, keeps, learns="train" in keeps)]

    return script


def _scoped(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    steps: list[Step] = [Agree("train", conversation=1, over_socket=chance.random() < 0.5)]
    for at in range(count):
        conversation = (1, 2, 1, 0)[at % 4]
        steps.append(Ask(write.request(LEARNED if conversation == 1 else NOTHING, conversation=conversation)))
    elsewhere = _judged_last(write, NOTHING, conversation=2)
    return [*steps, *_judged_last(write, LEARNED, learns=True, conversation=1), *elsewhere]


def _expired(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    early = write.judged(LEARNED, when=When.BEFORE_END)
    before = write.asks(count // 2, LEARNED, when=When.BEFORE_END)
    after = write.asks(count - count // 2, NOTHING, when=When.AFTER_END)
    agree = Agree("train", expires_in_s=ENDS_AFTER_S, over_socket=chance.random() < 0.5)
    return [agree, Ask(early), Judge(early, taken=True), *before, UntilExpired(), *after, Judge(early, taken=False)]


def _revoked(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    purpose, before = chance.choice(("log", "train")), write.judged(LEARNED)
    steps: list[Step] = [
        Agree("train"),
        Ask(before),
        *write.asks(count // 2, LEARNED),
        Settle(),
        Judge(before, taken=True),
    ]
    flying = tuple(write.request(LEARNED, how=How.SLOW, when=When.IN_FLIGHT) for _ in range(2))
    steps.append(Flight(flying, Agree(purpose, "revoke", over_socket=chance.random() < 0.5)))
    steps += write.asks(count - count // 2, NOTHING, consent=chance.choice((None, "train")))
    # Whoever takes back `train` alone still lets what was kept be kept, but nothing grants what it might serve.
    return [*steps, Judge(before, taken=False)]


def _narrowed(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    steps: list[Step] = [Agree("train"), Agree("evaluate", over_socket=True)]
    for _ in range(count):
        header, keeps = chance.choice(_NARROWING)
        steps.append(Ask(write.request(keeps, consent=header)))
    header, keeps = chance.choice(_NARROWING)
    return [*steps, *_judged_last(write, keeps, learns="train" in keeps, consent=header)]


def _widened(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    steps: list[Step] = []
    for _ in range(count):
        header, keeps = chance.choice(_WIDENING)
        steps.append(Ask(write.request(keeps if write.life == HEADERS_GRANT else NOTHING, consent=header)))
    header, keeps = chance.choice(_WIDENING)
    keeps = keeps if write.life == HEADERS_GRANT else NOTHING
    return [*steps, *_judged_last(write, keeps, learns="train" in keeps, consent=header)]


def _overruled(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    asks: list[Step] = [
        Ask(write.request(NOTHING, consent=chance.choice(("train", "log", "evaluate, train")))) for _ in range(count)
    ]
    return [Agree("log", "revoke"), *asks, *_judged_last(write, NOTHING, consent="train")]


def _malformed(write: _Writer, chance: random.Random, count: int) -> list[Step]:
    asks: list[Step] = [Ask(write.request(NOTHING, consent=chance.choice(_MALFORMED))) for _ in range(count)]
    return [Agree("train"), *asks, *_judged_last(write, NOTHING, consent=CANARY)]


_SCRIPTS: dict[Stance, _Script] = {
    Stance.SILENT: _silent,
    Stance.NOBODY: _nobody,
    Stance.LOG: _granted("log", frozenset({"log"})),
    Stance.TRAIN: _granted("train", LEARNED),
    Stance.EVALUATE: _granted("evaluate", JUDGED_ALONE),
    Stance.SCOPED: _scoped,
    Stance.EXPIRED: _expired,
    Stance.REVOKED: _revoked,
    Stance.NARROWED: _narrowed,
    Stance.WIDENED: _widened,
    Stance.OVERRULED: _overruled,
    Stance.MALFORMED: _malformed,
}


def planned(requests: int, seed: int) -> tuple[Person, ...]:
    """People of every stance in each life, with `requests` requests in all or a few more."""
    if requests > MOST_REQUESTS:
        raise ValueError(f"a run has {MOST_REQUESTS:,} requests at most")
    chance, people, number = random.Random(seed), list[Person](), 0
    for life in range(LIVES):
        goal, first = round(requests * _UNTIL[life]), list(_SCRIPTS)
        while number < goal or first:
            stance = first.pop(0) if first else _pick(chance, _SHARES)
            person = _person(chance, len(people), stance, life, number)
            people.append(person)
            number += sum(1 for _ in person.requests)
    return tuple(people)


def _person(chance: random.Random, index: int, stance: Stance, life: int, first: int) -> Person:
    key_consent = frozenset({"log"}) if life == KEYED and chance.random() < 0.25 else None
    write = _Writer(chance, index, life, first, key_consent)
    steps: Sequence[Step] = _SCRIPTS[stance](write, chance, chance.randint(4, 11))
    return Person(index, stance, life, tuple(steps), key_consent)
