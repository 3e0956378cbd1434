"""The canaries, who gets which, what may be kept of them, and the search that has to find every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import canary_search
from bench.load.canary import (
    FORMS,
    LENGTH,
    PEOPLE,
    Canary,
    Flock,
    Kind,
    SecretSlot,
    answered,
    as_json_escapes,
    as_percent,
    secret_text,
)
from bench.load.canary_bodies import Slot, as_kept, broken, secret_of, wire
from bench.load.canary_drive import said_in
from bench.load.canary_ledger import SLOW_S, Ledger, Outcome, Place, Record, Said, Verdict, verdict_of
from bench.load.canary_plan import (
    HEADERS_GRANT,
    KEYED,
    LIVES,
    WIRELESS,
    Agree,
    Ask,
    Flight,
    How,
    Person,
    Request,
    Stance,
    UntilExpired,
    When,
    planned,
)
from bench.load.canary_search import Search, decoded
from gaiad.consent import Action, GrantEvent, Purpose, decide, fold
from gaiad.proxy.endpoints import Form
from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules
from tests.fakes.directed import directed

FLOCK = Flock(7)
SEARCH = Search(FLOCK)
MINE = Canary(Kind.SAID, 99_999, Slot.USER)
TEXT = FLOCK.said(MINE.number, MINE.slot)
PLAN = planned(600, 3)
SECRETS = (SecretSlot.MAIL, SecretSlot.KEY, SecretSlot.CARD, SecretSlot.PHONE)


# --- what a canary is ----------------------------------------------------------------------------------------------


@given(st.sampled_from(Kind), st.integers(0, 1 << 28), st.integers(0, 255))
def test_a_canary_says_whose_it_is(kind: Kind, number: int, slot: int) -> None:
    text = FLOCK.text(kind, number % (1 << 28), slot)
    assert len(text) == LENGTH
    assert FLOCK.read(text) == Canary(kind, number % (1 << 28), slot)
    assert Flock(8).read(text) is None


def test_what_was_answered_is_told_from_what_was_said() -> None:
    assert FLOCK.read(answered(TEXT)) == Canary(Kind.ANSWERED, MINE.number, MINE.slot)


def test_of_a_torn_one_the_number_is_known_as_long_as_it_is_there() -> None:
    assert SEARCH.in_bytes(f"{TEXT[:-3]} ".encode()) == {Canary(Kind.SAID, MINE.number, -1)}
    assert SEARCH.in_bytes(f"{TEXT[:9]} ".encode()) == {Canary(Kind.SAID, -1, -1)}


# --- the search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", [b"", b" ", b"\\", b"%", b"0", b"\xff\0", b'{"a":"'])
def test_a_canary_is_found_in_each_form_whatever_stands_around_it(form: str, around: bytes) -> None:
    for number in (0, 1, 12_345, PEOPLE + 9):
        planted = FORMS[form](FLOCK.said(number, Slot.SYSTEM))
        # Letters beside base64 are base64 too, and would be another text.
        around = b" " if form.startswith("base64") else around
        assert SEARCH.in_bytes(around + planted + around) == {Canary(Kind.SAID, number, Slot.SYSTEM)}


@pytest.mark.parametrize("slot", SECRETS)
@pytest.mark.parametrize("form", [str, as_json_escapes, as_percent])
def test_a_secret_is_found(slot: int, form: type[str]) -> None:
    for number in (1, 2, 9_999_999):
        found = SEARCH.in_bytes(f"x {form(secret_text(FLOCK, number, slot))} x".encode())
        assert found == {Canary(Kind.SECRET, number, slot)}


def test_a_key_of_the_proxy_is_found() -> None:
    found = SEARCH.in_bytes(f"Bearer {FLOCK.api_key(12)}".encode())
    assert found == {Canary(Kind.SECRET, PEOPLE + 12, SecretSlot.API_KEY)}


@pytest.mark.parametrize("data", [b"", b"zyrq", b"zyrquka" * 0, b"4929123412341234 +49 157 123456789", b"\\u00zz %zz"])
def test_what_is_no_canary_is_none(data: bytes) -> None:
    assert SEARCH.in_bytes(data) == set()


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_decoding_never_harms_a_canary_that_is_not_escaped(before: bytes, after: bytes) -> None:
    assert TEXT.encode() in decoded(before + TEXT.encode() + after)


def test_a_file_is_looked_through_as_a_whole_wherever_its_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_search, "CHUNK", 1000)
    monkeypatch.setattr(canary_search, "OVERLAP", 400)
    text = as_json_escapes(TEXT).encode()
    for at in range(900, 1010):
        path = tmp_path / "file"
        path.write_bytes(b"." * at + text + b" " * 700 + TEXT.encode())
        seen = SEARCH.in_file(path)
        assert seen.canaries == {MINE}
        assert seen.size == path.stat().st_size


def test_a_name_of_a_file_counts_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / TEXT).mkdir()
    (tmp_path / TEXT / "file").write_bytes(b"")
    assert [seen.canaries for _, seen in SEARCH.in_tree(tmp_path)] == [{MINE}]


def test_redaction_takes_every_secret_and_no_canary() -> None:
    scrubber = Scrubber(shipped_rules(), b"k" * 32)
    for number in range(200):
        for slot in SECRETS:
            text = f"Please note {secret_text(FLOCK, number, slot)} for later."
            assert as_kept(scrubber.scrub_text(text, "s"), None) == as_kept(text, secret_text(FLOCK, number, slot))
        assert scrubber.scrub_text(f"a {FLOCK.said(number, 3)} b", "s") == f"a {FLOCK.said(number, 3)} b"


# --- the plan ------------------------------------------------------------------------------------------------------


def test_the_plan_follows_from_the_seed_and_has_every_stance_in_each_life() -> None:
    assert PLAN == planned(600, 3) != planned(600, 4)
    for life in range(LIVES):
        assert {person.stance for person in PLAN if person.life == life} == set(Stance)
    numbers = [request.number for person in PLAN for request in person.requests]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len(numbers) >= 600
    requests = [request for person in PLAN for request in person.requests]
    assert {request.how for request in requests} == set(How)
    assert {request.form for request in requests} == set(PATH_FORMS)


PATH_FORMS = (Form.CHAT, Form.TEXT, Form.RESPONSES, Form.MESSAGES)


def steps_with_time(person: Person) -> Iterator[tuple[float, Agree | Request]]:
    """Requests and words about consent in order, a second each; what was in flight counts as of its end."""
    now = 0.0
    for step in person.steps:
        now += 1.0
        match step:
            case Ask(request):
                yield now, request
            case Agree():
                yield now, step
            case Flight(_, agree):
                yield now, agree
            case UntilExpired():
                now += 1000.0
            case _:
                pass


def test_what_may_be_kept_by_the_plan_is_what_consent_decides() -> None:
    for person in PLAN:
        events: list[GrantEvent] = []
        for now, step in steps_with_time(person):
            if isinstance(step, Agree):
                end = None if step.expires_in_s is None else now + 500.0
                scope = str(step.conversation) if step.conversation else None
                action, purpose = Action(step.action), Purpose(step.purpose)
                events.append(GrantEvent("x", purpose, action, "http", now, scope, end))
                continue
            standing = fold(events, now=now, conversation=str(step.conversation) if step.conversation else None)
            allowed = decide(standing.granted, standing.revoked, step.consent, person.life == HEADERS_GRANT)
            decided = {purpose.value for purpose in allowed} if not step.nameless else set()
            decided &= decided if person.key_consent is None else person.key_consent
            assert step.keeps == (decided if step.leaves_row else set()), (person.stance, step)


def test_a_broken_request_breaks_off_in_its_body_or_has_a_header_that_is_none() -> None:
    for how in WIRELESS:
        raw = broken(a_request(how=how), FLOCK, 80)
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")[1:]
        assert all(b": " in line for line in lines) is (how is How.HALF_SENT)
        length = int(next(line for line in lines if line.startswith(b"Content-Length")).split()[1])
        assert (len(body) == length) is (how is How.GARBLED)


def test_every_text_of_a_request_is_its_own() -> None:
    for person in PLAN[:60]:
        for request in person.requests:
            sent = wire(request, FLOCK)
            found = SEARCH.in_bytes(sent.raw)
            found |= SEARCH.in_bytes("\n".join([sent.path, *sent.headers.values()]).encode())
            assert {one.number for one in found} <= {request.number, PEOPLE + request.person}
            assert Slot.USER in {one.slot for one in found}
            assert (secret_of(request, FLOCK) is None) == (
                not any(one.kind is Kind.SECRET and one.number == request.number for one in found)
            )


# --- what may lie where --------------------------------------------------------------------------------------------


def a_request(**changes: object) -> Request:
    fields: dict[str, object] = {"number": 0, "person": 0, "life": 0, "form": Form.CHAT, "stream": False}
    fields |= {"how": How.TELL, "keeps": frozenset({"log", "train"}), **changes}
    return Request(**fields)  # type: ignore[arg-type]


def a_ledger(request: Request, *, judged: bool = False, stance: Stance = Stance.TRAIN, speaks: bool = True) -> Ledger:
    steps = (Agree("train"), Ask(request)) if speaks else (Ask(request),)
    record = Record({0: Outcome("gaia-1", 200, 10.0, 11.0, whole=True)}, judged={0: True} if judged else {})
    return Ledger([Person(0, stance, request.life, steps)], record)


@pytest.mark.parametrize(
    ("changes", "request_id", "ended", "verdict"),
    [
        ({}, "gaia-1", 11.0, Verdict.MUST),
        ({"keeps": frozenset()}, "gaia-1", 11.0, Verdict.NEVER),
        ({"leaves_row": False}, "gaia-1", 11.0, Verdict.NEVER),
        # Left before it was known whether it was read.
        ({"how": How.ABORT}, None, 11.0, Verdict.MAY),
        ({"how": How.ABORT}, "gaia-1", 11.0, Verdict.MUST),
        # The grant ends at 20: well before, just before, after.
        ({"when": When.BEFORE_END}, "gaia-1", 19.0, Verdict.MUST),
        ({"when": When.BEFORE_END}, "gaia-1", 19.8, Verdict.MAY),
        ({"when": When.BEFORE_END}, "gaia-1", 21.0, Verdict.MAY),
    ],
)
def test_what_must_be_kept_follows_from_what_the_client_saw(
    changes: dict[str, object], request_id: str | None, ended: float, verdict: Verdict
) -> None:
    record = Record(ends={0: Said(20.0, 20.1)})
    assert verdict_of(a_request(**changes), Outcome(request_id, 200, 10.0, ended), record) is verdict


@pytest.mark.parametrize(("confirmed", "verdict"), [(10.0 + SLOW_S - 0.1, Verdict.NEVER), (12.0, Verdict.MAY)])
def test_in_flight_counts_as_revoked_where_the_engine_cannot_have_been_done(confirmed: float, verdict: Verdict) -> None:
    record = Record(revoked={0: Said(10.2, confirmed)})
    request = a_request(when=When.IN_FLIGHT, how=How.SLOW)
    assert verdict_of(request, Outcome("gaia-1", 200, 10.0, 13.0), record) is verdict


KEPT, DATASET = Place.DATABASE, Place.DATASETS
SAID_BY_0 = Canary(Kind.SAID, 0, Slot.SYSTEM)


@pytest.mark.parametrize(
    ("canary", "place", "may"),
    [
        (SAID_BY_0, KEPT, True),
        (SAID_BY_0, Place.LOG_AHEAD, True),
        (SAID_BY_0, Place.BACKUP, True),
        *[(SAID_BY_0, place, False) for place in (Place.RUNS, Place.KEYS, Place.TOLD, Place.LOGS)],
        (Canary(Kind.SAID, 0, -1), KEPT, True),
        (Canary(Kind.SECRET, 0, -1), KEPT, False),
        # It names nobody: cut too early, or two that grew together.
        (Canary(Kind.SAID, -1, -1), KEPT, True),
        (Canary(Kind.SAID, 33_564_615, -1), KEPT, True),
        (Canary(Kind.SAID, -1, -1), Place.LOGS, False),
        (Canary(Kind.SAID, -1, -1), DATASET, False),
        (Canary(Kind.SAID, 0, Slot.HEADER), KEPT, False),
        (Canary(Kind.SAID, 0, Slot.MEDDLING), KEPT, False),
        (Canary(Kind.SAID, 1, Slot.SYSTEM), KEPT, False),
        (Canary(Kind.SECRET, 0, SecretSlot.MAIL), KEPT, False),
        (Canary(Kind.SECRET, PEOPLE, SecretSlot.API_KEY), Place.KEYS, False),
        (Canary(Kind.SAID, PEOPLE, Slot.NAME), KEPT, True),
        (Canary(Kind.SAID, PEOPLE, Slot.NAME), DATASET, False),
        (Canary(Kind.SAID, PEOPLE, Slot.FIRST_CONVERSATION), KEPT, False),
        (Canary(Kind.SAID, PEOPLE + 1, Slot.NAME), KEPT, False),
        (Canary(Kind.SAID, 0, Slot.CORRECTION), KEPT, False),
        (SAID_BY_0, DATASET, False),
    ],
)
def test_what_may_lie_where(canary: Canary, place: Place, may: bool) -> None:
    assert a_ledger(a_request()).may_lie(canary, place) is may


def test_what_is_learned_from_may_lie_in_a_dataset_but_for_what_a_dataset_has_no_place_for() -> None:
    ledger = a_ledger(a_request(is_judged=True, learns=True), judged=True)
    for slot in (Slot.SYSTEM, Slot.USER, Slot.CORRECTION):
        assert ledger.may_lie(Canary(Kind.SAID, 0, slot), DATASET)
    assert not ledger.may_lie(Canary(Kind.SAID, 0, Slot.METADATA), DATASET)
    assert ledger.may_lie(Canary(Kind.SAID, 0, Slot.CORRECTION), KEPT)
    assert ledger.learned_by(0) == {0}


def test_what_a_header_granted_is_learned_from_only_while_headers_may_grant() -> None:
    request = a_request(is_judged=True, learns=True, life=HEADERS_GRANT)
    ledger = a_ledger(request, judged=True, stance=Stance.WIDENED, speaks=False)
    assert [ledger.learned_by(life) for life in range(LIVES)] == [frozenset(), {0}, frozenset()]


def test_a_piece_that_names_somebody_who_did_not_agree_may_lie_nowhere() -> None:
    ledger = a_ledger(a_request(keeps=frozenset()), stance=Stance.SILENT, speaks=False)
    for number in (0, PEOPLE):
        assert [place for place in Place if ledger.may_lie(Canary(Kind.SAID, number, -1), place)] == []


def test_who_never_spoke_and_of_whom_nothing_is_kept_is_nowhere_but_in_a_file_of_keys() -> None:
    name = Canary(Kind.SAID, PEOPLE, Slot.NAME)
    for life in (0, KEYED):
        ledger = a_ledger(a_request(keeps=frozenset(), life=life), stance=Stance.SILENT, speaks=False)
        assert {place for place in Place if ledger.may_lie(name, place)} == ({Place.KEYS} if life == KEYED else set())


# --- what clients and engine make of it ----------------------------------------------------------------------------


def test_a_reply_in_pieces_is_read_as_one_text() -> None:
    chunks = [f'data: {{"choices": [{{"delta": {{"content": "{piece}"}}}}]}}' for piece in ("zyr", "qu", "m")]
    assert said_in("\n\n".join([*chunks, "data: [DONE]"])) == "zyrqum"
    assert said_in('{"content": [{"type": "text", "text": "a"}], "metadata": {"text": "no"}}') == "a"


@pytest.mark.parametrize("form", PATH_FORMS)
@pytest.mark.parametrize("how", [How.TELL, How.PIECES, How.CALL, How.FAIL, How.REFUSE, How.BREAK, How.ABORT, How.SLOW])
def test_the_engine_answers_with_what_it_derives_from_the_last_text(form: Form, how: How) -> None:
    request = a_request(form=form, how=how, escaped=True, secret=SecretSlot.CARD, number=5)
    faults = directed(wire(request, FLOCK).body)
    assert answered(FLOCK.said(5, Slot.USER)) in str(faults)


def test_the_engine_answers_others_as_ever() -> None:
    assert directed({"messages": [{"role": "user", "content": "do=fail"}]}) == {}
    assert directed(["no object"]) == {}
