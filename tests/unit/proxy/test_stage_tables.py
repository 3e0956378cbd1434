"""The shipped rules against the tables of requests, and against what clients and people do to such requests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaiad.config import DEFAULT_STAGES
from gaiad.proxy.body import read_request
from gaiad.proxy.features import Phrase
from gaiad.proxy.recognition import parse_rules, winner
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.rulebook import SHIPPED
from gaiad.proxy.stages import known_stages

TABLES = Path(__file__).parents[2] / "tables" / "stages"
HELD_BACK_FLOOR = 1.0
DEFAULT = "generation"
RULES = parse_rules(SHIPPED.read_text(encoding="utf-8"), known_stages(DEFAULT_STAGES))

Line = dict[str, Any]
Body = dict[str, Any]


@cache
def lines(name: str) -> list[Line]:
    return [json.loads(line) for line in (TABLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def fields(body: Body) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(body).encode(), type=dict[str, msgspec.Raw])


def stage_of(body: Body) -> str:
    read = read_request(json.dumps(body).encode())
    assert not isinstance(read, Rejection)
    found = RULES.recognise(*read)
    return found.stage if found else DEFAULT


def missed(table: list[Line]) -> dict[str, str]:
    """The lines that got another stage than expected, with the one they got."""
    told = {line["id"]: (line["stage"], stage_of(line["body"])) for line in table}
    return {name: got for name, (expected, got) in told.items() if got != expected}


def test_every_request_of_the_open_table_gets_its_stage() -> None:
    assert missed(lines("open")) == {}


def test_the_table_that_was_kept_back_scores_no_less_than_its_floor() -> None:
    if not (TABLES / "held_back.jsonl").exists():
        pytest.skip("the table is not here")
    table = lines("held_back")
    wrong = missed(table)
    assert 1 - len(wrong) / len(table) >= HELD_BACK_FLOOR, wrong


def test_every_rule_is_hit_by_a_line_of_the_open_table() -> None:
    hit = {found.rule for line in lines("open") if (found := RULES.recognise(fields(line["body"])))}
    assert {rule.id for rule in RULES.rules} - hit == set()


def test_what_is_searched_first_hides_no_rule_from_any_line() -> None:
    for line in lines("open"):
        found, best = RULES.recognise(fields(line["body"])), winner(RULES.explain(fields(line["body"])))
        assert (found.rule if found else None) == (best.rule.id if best else None), line["id"]


def test_messages_that_were_found_to_be_plain_are_recognised_like_any_others() -> None:
    told = [line["body"] for name in ("open", "held_back") for line in lines(name)]
    assert [stage_of(body) for body in told] == [
        found.stage if (found := RULES.recognise(fields(body))) else DEFAULT for body in told
    ]
    plain = [read_request(json.dumps(body).encode())[1] is not None for body in told]  # type: ignore[index]
    assert set(plain) == {True, False}


def test_what_a_person_says_names_a_stage_only_where_system_text_schema_or_sender_agree() -> None:
    """A prompt that is pasted whole, with its sampling, stays below every threshold but the voice's."""
    sender = {"chat_template_kwargs", "model"}
    for rule in RULES.rules:
        said = [one for one in rule.features if isinstance(one, Phrase) and one.where != "system"]
        habits = [one for one in rule.features if not one.strong and getattr(one, "name", "") not in sender]
        most = sum(one.weight for one in [*said, *habits] if one.weight > 0)
        assert most < rule.threshold or rule.stage == DEFAULT, rule.id


def test_no_stage_is_named_without_the_default_in_front_of_it_and_none_is_left_out() -> None:
    assert {rule.stage for rule in RULES.rules} == {*DEFAULT_STAGES, "base"}
    assert RULES.skipped == ()


# --- what clients do --------------------------------------------------------------------------------------------------

any_line = st.sampled_from(lines("open"))
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(any_line, st.integers(1, 4096))
def test_a_clamped_limit_changes_no_stage(line: Line, limit: int) -> None:
    body = line["body"]
    if "max_tokens" in body:
        body = {**body, "max_tokens": min(limit, body["max_tokens"])}
    assert stage_of(body) == line["stage"]


@patient
@given(any_line, st.randoms(use_true_random=False), st.dictionaries(st.sampled_from(["seed", "n", "user"]), st.just(1)))
def test_neither_the_order_of_keys_nor_unrelated_ones_change_a_stage(line: Line, random: Any, more: Body) -> None:
    pairs = [*{**more, **line["body"]}.items()]
    random.shuffle(pairs)
    assert stage_of(dict(pairs)) == line["stage"]


@patient
@given(any_line, st.integers(0, 20))
def test_dropping_old_messages_changes_no_stage(line: Line, count: int) -> None:
    """The client keeps the system text and the newest messages."""
    messages = line["body"].get("messages")
    if messages is None:
        return
    last = max(at for at, message in enumerate(messages) if message["role"] == "user")
    kept = [m for at, m in enumerate(messages) if m["role"] in ("system", "developer") or at >= min(count, last)]
    assert stage_of({**line["body"], "messages": kept}) == line["stage"]


def with_system(body: Body, text: str) -> Body:
    messages = [dict(message) for message in body["messages"]]
    for message in messages:
        if message["role"] == "system":
            message["content"] = text
    return {**body, "messages": messages}


@patient
@given(any_line, st.integers(0, 8000), st.sampled_from(["front", "back"]), st.integers(1, 2048))
def test_a_system_text_that_was_cut_leaves_the_stage_or_none_and_never_makes_another(
    line: Line, size: int, end: str, limit: int
) -> None:
    body = line["body"]
    for message in body.get("messages", ()):
        if message["role"] == "system":
            text = message["content"]
            cut = text[size:] if end == "front" else text[:size]
            limited = {**with_system(body, cut), "max_tokens": min(limit, body.get("max_tokens", limit))}
            assert stage_of(limited) in (line["stage"], DEFAULT)


@patient
@given(any_line, st.text("abc .\n", max_size=600))
def test_a_system_text_that_grew_in_front_keeps_its_stage(line: Line, more: str) -> None:
    body = line["body"]
    for message in body.get("messages", ()):
        if message["role"] == "system":
            grown = with_system(body, f"You are GAIA. {more}\n\n{message['content']}")
            assert stage_of(grown) == line["stage"]


# --- what people do ---------------------------------------------------------------------------------------------------


def mentions() -> list[str]:
    """What people may quote: each phrase that a rule knows, and each text that a call site sends."""
    found = {one.text for rule in RULES.rules for one in rule.features if isinstance(one, Phrase)}
    for line in lines("open"):
        if line["kind"] == "call_site" and line["stage"] != DEFAULT:
            found |= {message["content"] for message in line["body"]["messages"] if len(message["content"]) < 3000}
    return sorted(found)


FIRST_WORDS = ", said the sign at the brook. Write a poem that begins like that."
QUOTATIONS = [
    'What does "{}" mean?',
    "I keep seeing '{}' in a log. Why?",
    "Translate “{}” into French.",
    "```\n{}\n```\nwhat is wrong here",
    "Sort these:\n```text\n{}\n```",
    "> {}\n\nWho wrote that?",
    "12:01 core> {}\nexplain this line",
    "Improve this prompt for me:\n\n{}",
    "- {}\n- buy milk\nwhich comes first?",
    "system: {}\nuser: hello\nIs that right?",
    f"{{}}{FIRST_WORDS}",
]

ordinary = st.sampled_from(
    [line["body"] for line in lines("open") if line["kind"] == "chat" and "messages" in line["body"]]
)
main_replies = st.sampled_from(
    [
        line["body"]
        for line in lines("open")
        if line["kind"] == "call_site" and line["stage"] == DEFAULT and "chat_template_kwargs" in line["body"]
    ]
)
calls = st.sampled_from([line["body"] for line in lines("open") if line["kind"] == "call_site"])
quoted = st.tuples(st.sampled_from(QUOTATIONS), st.lists(st.sampled_from(mentions()), min_size=1, max_size=3)).map(
    lambda both: both[0].format("\n".join(both[1]))
)


def saying(body: Body, text: str, place: int) -> Body:
    """The chat with `text` as the last question, or as an earlier turn."""
    messages = [*body["messages"]]
    if place == 0:
        last = max(at for at, message in enumerate(messages) if message["role"] == "user")
        return {**body, "messages": [*messages[:last], {"role": "user", "content": text}]}
    first = next(at for at, message in enumerate(messages) if message["role"] not in ("system", "developer"))
    turn = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    return {**body, "messages": [*messages[:first], *turn, *messages[first:]]}


@settings(patient, max_examples=400)
@given(ordinary, quoted, st.integers(0, 1), calls)
def test_a_quoted_marker_never_makes_an_ordinary_chat_anything_else(
    body: Body, text: str, place: int, call: Body
) -> None:
    """Not even with the sampling of the call that is quoted; without a model, as long as it does not come first."""
    sampling: Body = {key: call[key] for key in ("temperature", "top_p", "max_tokens") if key in call}
    said = {**saying(body, text, place), **sampling}
    assert stage_of({**said, "model": "/models/prime"}) == DEFAULT
    if not text.endswith(FIRST_WORDS):
        assert stage_of({key: value for key, value in said.items() if key != "model"}) == DEFAULT


@settings(patient, max_examples=400)
@given(main_replies, quoted, st.integers(0, 1))
def test_a_quoted_marker_never_takes_a_reply_away_from_the_voice(body: Body, text: str, place: int) -> None:
    """The same from gaia-core's own client, which tells its habits but streams, or says what is asked of the voice."""
    if body.get("stream") or any("Respond directly" in str(message["content"]) for message in body["messages"]):
        assert stage_of(saying(body, text, place)) == DEFAULT
