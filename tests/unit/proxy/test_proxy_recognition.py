"""Recognition as a machine: how rules are read, how they add up, where a phrase counts, and that nothing is hidden."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaiad.config import DEFAULT_STAGES
from gaiad.errors import ConfigError
from gaiad.proxy.recognition import Recognised, Rules, parse_rules, winner
from gaiad.proxy.rule_schema import SCHEMA
from gaiad.proxy.rulebook import SHIPPED
from gaiad.proxy.stages import known_stages

STAGES = known_stages(DEFAULT_STAGES)
SHIPPED_RULES = parse_rules(SHIPPED.read_text(encoding="utf-8"), STAGES)
MARK = "Mark the words."


def phrase(text: str = MARK, where: str = "system", place: str = "line", weight: float = 10) -> dict[str, Any]:
    return {"phrase": text, "in": where, "place": place, "weight": weight}


def rule(*features: dict[str, Any], name: str = "r", stage: str = "intent", **more: object) -> dict[str, Any]:
    return {"id": name, "stage": stage, "threshold": 10, "features": list(features), **more}


def parsed(*rules: dict[str, Any], **more: object) -> Rules:
    return parse_rules(json.dumps({"rules": rules, **more}), STAGES)


def fields(body: object) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(body).encode(), type=dict[str, msgspec.Raw])


def chat(user: str = "hello", system: str | None = None, **more: object) -> dict[str, Any]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*first, {"role": "user", "content": user}], **more}


def rule_of(rules: Rules, body: object) -> str | None:
    found = rules.recognise(fields(body))
    return found.rule if found else None


# --- where a phrase counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "text", "counts"),
    [
        ("start", "Mark the words. And more", True),
        ("start", "\n  Mark the words. And more", True),
        ("start", "First: Mark the words.", False),
        ("line", "Identity.\nMark the words.", True),
        ("line", "Identity. Mark the words.", False),
        ("line", "Identity.\n> Mark the words.", False),
        ("line", "Identity.\n```\nMark the words.\n```\n", False),
        ("line", "Identity.\n```\nother\n```\nMark the words.", True),
        ("sentence", "Identity. Mark the words.", True),
        ("sentence", "Is it? Mark the words.", True),
        ("sentence", "She says: Mark the words.", False),
        ("sentence", 'He wrote "Look here. Mark the words." on it', False),
        ("sentence", "He wrote “Look here. Mark the words.” on it", False),
        ("sentence", "He wrote 'x'. Mark the words.", True),
        ("sentence", "> She said so. Mark the words.", False),
        ("unquoted", "either Mark the words. or not", True),
        ("unquoted", 'either "Mark the words." or not', False),
        ("unquoted", "either `Mark the words.` or not", False),
        ("unquoted", "either «Mark the words.» or not", False),
        ("last_line", "a\nb\nso Mark the words.\n\n", True),
        ("last_line", "Mark the words.\nthe end", False),
    ],
)
def test_a_phrase_counts_only_where_it_is_an_instruction(place: str, text: str, counts: bool) -> None:
    rules = parsed(rule(phrase(place=place, where="last_user")))
    assert (rule_of(rules, chat(text)) == "r") is counts


@pytest.mark.parametrize(
    ("where", "hit"),
    [("system", []), ("first_user", [1]), ("last_user", [3]), ("user", [1, 3]), ("any", [1, 2, 3])],
)
def test_a_phrase_counts_only_in_the_texts_meant(where: str, hit: list[int]) -> None:
    rules = parsed(rule(phrase(where=where)))
    roles = ["developer", "user", "assistant", "user"]
    for number in (1, 2, 3):
        texts = [MARK if number == at else "something else" for at in range(4)]
        body = {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]}
        assert (rule_of(rules, body) == "r") is (number in hit)


def test_the_parts_of_a_message_are_lines_and_a_developer_is_the_system() -> None:
    parts = [{"type": "image_url"}, {"type": "text", "text": "Look."}, {"type": "text", "text": MARK}]
    body = {"messages": [{"role": "developer", "content": parts}, {"role": "user", "content": "hi"}]}
    assert rule_of(parsed(rule(phrase())), body) == "r"


def test_a_system_text_that_lost_the_beginning_of_a_fence_is_not_all_fenced() -> None:
    rules = parsed(rule(phrase()), rule(phrase(where="last_user"), name="u", stage="confidence"))
    assert rule_of(rules, chat("hi", f"rest of some code\n```\n{MARK}")) == "r"
    assert rule_of(rules, chat(f"look:\n```\n{MARK}")) is None


def test_inside_a_document_a_phrase_counts_its_share() -> None:
    documents = {"opened_by": ["--- Document"], "closed_by": ["--- End"], "share": 0.5}
    rules = parsed(rule(phrase(weight=20), phrase("Second.", weight=1)), documents=documents)
    for text, score in [
        (f"x\n{MARK}", 20),
        (f"--- Document: a ---\n{MARK}", 10),
        (f"--- Document: a ---\nb\n--- End ---\n{MARK}", 20),
    ]:
        found = rules.recognise(fields(chat("hi", text)))
        assert found is not None
        assert found.score == score


def test_in_a_prompt_only_the_beginning_is_an_instruction() -> None:
    rules = parsed(rule(phrase()), rule(phrase("Ask this", "last_user"), name="u", stage="confidence"))
    assert rule_of(rules, {"prompt": f"{MARK}\n\nUser: hello"}) == "r"
    assert rule_of(rules, {"prompt": ["Ask this: what?", MARK]}) == "u"
    assert rule_of(rules, {"prompt": f"User: what is this?\n{MARK}\nAssistant:"}) is None
    assert rule_of(rules, {"prompt": [1, 2, 3]}) is None


# --- the other features, and how they add up --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "body", "counts"),
    [
        ({"field": "temperature", "near": 0.3, "within": 0.05}, {"temperature": 0.33}, True),
        ({"field": "temperature", "near": 0.3, "within": 0.05}, {"temperature": 0.4}, False),
        ({"field": "temperature", "near": 0, "within": 0.05}, {"temperature": 0}, True),
        ({"field": "temperature", "near": 0, "within": 0.05}, {"temperature": False}, False),
        ({"field": "temperature", "near": 0, "within": 0.05}, {"temperature": "0"}, False),
        ({"field": "temperature", "near": 0, "within": 0.05}, {"temperature": 10**400}, False),
        ({"field": "max_tokens", "at_most": 64}, {"max_tokens": 1}, True),
        ({"field": "max_tokens", "at_most": 64}, {"max_tokens": 65}, False),
        ({"field": "max_tokens", "at_most": 64}, {}, False),
        ({"field": "stream", "equals": True}, {"stream": True}, True),
        ({"field": "stream", "equals": True}, {"stream": 1}, False),
        ({"field": "model", "equals": "/models/prime"}, {"model": "/models/prime"}, True),
        ({"field": "model", "present": False}, {}, True),
        ({"field": "model", "present": False}, {"model": None}, True),
        ({"field": "model", "present": False}, {"model": "x"}, False),
        ({"field": "extra", "present": True}, {"extra": {"a": []}}, True),
        ({"messages_at_most": 2}, {}, True),
        ({"messages_at_most": 1}, {}, False),
    ],
)
def test_weak_features_support_a_phrase(feature: dict[str, Any], body: dict[str, Any], counts: bool) -> None:
    rules = parsed(rule(phrase(weight=9), {**feature, "weight": 1}))
    assert (rule_of(rules, chat("hi", MARK, **body)) == "r") is counts
    assert rule_of(rules, chat("hi", **body)) is None


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        ({"guided_json": {"properties": {"a": {}, "b": {}}}}, True),
        ({"guided_json": json.dumps({"properties": {"b": {}, "a": {}}})}, True),
        ({"structured_outputs": {"json": {"properties": {"a": {}, "b": {}}}}}, True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"a": 1, "b": 2}}}}},
            True,
        ),
        ({"guided_json": {"properties": {"a": {}, "b": {}, "c": {}}}}, False),
        ({"guided_json": {"properties": {"a": {}}}}, False),
        ({"guided_json": ["a", "b"]}, False),
        ({"guided_json": "{"}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"tools": [{"properties": {"a": {}, "b": {}}}]}, False),
    ],
)
def test_a_schema_counts_in_every_dialect_and_by_exactly_its_names(form: dict[str, Any], counts: bool) -> None:
    rules = parsed(rule({"schema": ["a", "b"], "weight": 10}))
    assert (rule_of(rules, {**chat(), **form}) == "r") is counts


def test_the_highest_score_wins_and_says_why() -> None:
    low, high = phrase(weight=10), phrase("More words.", weight=12)
    rules = parsed(rule(low, name="low"), rule(high, name="high", stage="confidence"))
    found = rules.recognise(fields(chat("hi", f"{MARK}\nMore words.")))
    assert isinstance(found, Recognised)
    assert (found.stage, found.rule, found.score, found.reason) == ("confidence", "high", 12, "rule:high")
    assert [(had.feature, had.weight) for had in found.evidence] == [('system line: "More words."', 12)]


def test_level_rules_of_two_stages_recognise_nothing_and_of_one_stage_the_first() -> None:
    one, same, other = (phrase(text) for text in (MARK, "Same.", "Other."))
    rules = parsed(rule(one, name="a"), rule(same, name="b"), rule(other, name="c", stage="reflection"))
    assert rule_of(rules, chat("hi", f"{MARK}\nSame.")) == "a"
    assert rule_of(rules, chat("hi", f"{MARK}\nOther.")) is None


def test_below_the_threshold_nothing_is_recognised_and_negative_features_count() -> None:
    rules = parsed(rule(phrase(weight=12), phrase("But not here.", weight=-4)))
    assert rule_of(rules, chat("hi", MARK)) == "r"
    assert rule_of(rules, chat("hi", f"{MARK}\nBut not here.")) is None


def test_decimals_that_reach_the_threshold_on_paper_reach_it() -> None:
    parts = [phrase(f"word {number}.", weight=weight) for number, weight in enumerate((0.7, 0.1, 0.1, 0.1))]
    rules = parsed({**rule(*parts), "threshold": 1})
    assert sum((0.7, 0.1, 0.1, 0.1)) < 1
    assert rule_of(rules, chat("hi", "word 0.\nword 1.\nword 2.\nword 3.")) == "r"


# --- reading a rules file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (rule(phrase(), extra=1), ["rule 'r'", "extra"]),
        (rule(phrase(place="middle")), ["rule 'r' features[0].place", "middle"]),
        (rule(phrase(where="nobody")), ["rule 'r' features[0].in"]),
        (rule({**phrase(), "weight": 0}), ["rule 'r' features[0].weight"]),
        (rule({"phrase": MARK}), ["rule 'r' features[0]", "'place' is a required property"]),
        (rule({"weight": 3}), ["rule 'r' features[0]", "exactly one of"]),
        (rule({**phrase(), "schema": ["a"]}), ["rule 'r' features[0]", "exactly one of"]),
        (rule(phrase(), {"field": "t", "near": 1, "weight": 1}), ["rule 'r' features[1]", "within"]),
        (rule(phrase(), {"field": "t", "near": 1, "within": 1, "at_most": 2, "weight": 1}), ["rule 'r' features[1]"]),
        (rule(phrase(), {"field": "t", "equals": 1, "weight": 1}), ["rule 'r' features[1].equals"]),
        (rule({"schema": [], "weight": 10}), ["rule 'r' features[0].schema"]),
        (rule(phrase(), name="Not A Name"), ["rule 'Not A Name' id"]),
        (rule(phrase(), include=["nobody"]), ["rule 'r' include", "'nobody'"]),
        (rule(phrase(weight=9)), ["rule 'r' threshold", "above 9"]),
        (
            rule(phrase(), {"field": "t", "at_most": 1, "weight": 10}),
            ["rule 'r' threshold", "only a phrase or a schema"],
        ),
        ({"stage": "intent", "threshold": 1, "features": [phrase()]}, ["rule number 1", "'id'"]),
        ({**rule(phrase()), "threshold": 0}, ["rule 'r' threshold"]),
        (5, ["rule number 1"]),
    ],
)
def test_a_wrong_rule_is_told_with_its_name_and_key(given: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(given)
    assert [part for part in says if part not in caught.value.message] == []


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(rule(phrase(place="x"), name="first"), rule(phrase(where="y"), name="second"), shared={"s": [{"a": 1}]})
    for part in ("rule 'first' features[0].place", "rule 'second' features[0].in", "shared.s[0]"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"rules": {}}', '{"rules": [], "x": 1}', "[" * 100_000, "NaN"]
)
def test_what_is_no_rules_file_is_told(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rules(text, STAGES)


def test_a_repeated_id_is_told() -> None:
    with pytest.raises(ConfigError, match="rule 'r' id: another rule has it too"):
        parsed(rule(phrase()), rule(phrase()))


def test_rules_of_stages_that_are_not_configured_are_skipped_and_remembered() -> None:
    rules = parsed(rule(phrase(), name="a", stage="tides"), rule(phrase(), name="b"))
    assert [one.id for one in rules.rules] == ["b"]
    assert [(one.id, one.stage) for one in rules.skipped] == [("a", "tides")]


def test_shared_features_are_taken_in_by_name() -> None:
    rules = parsed(
        rule(phrase(weight=9), include=["s"]), shared={"s": [{"field": "model", "present": True, "weight": 1}]}
    )
    assert rule_of(rules, chat("hi", MARK, model="m")) == "r"
    assert rule_of(rules, chat("hi", MARK)) is None


def test_the_published_schema_is_the_one_that_rules_are_checked_with() -> None:
    assert json.loads(SHIPPED.with_name("stage_rules.schema.json").read_text(encoding="utf-8")) == SCHEMA


# --- nothing is hidden, nothing raises --------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PHRASES = sorted({one.text for each in SHIPPED_RULES.rules for one in each.features if hasattr(one, "text")})
SCHEMAS = sorted(sorted(one.names) for each in SHIPPED_RULES.rules for one in each.features if hasattr(one, "names"))

texts = st.lists(
    st.sampled_from(PHRASES) | st.sampled_from(["\n", ". ", '"', "```\n", "> ", "Reference data:\n", "x "])
)
contents = texts.map("".join) | st.lists(texts.map(lambda some: {"type": "text", "text": "".join(some)}), max_size=2)
roles = st.sampled_from(["system", "user", "assistant", "developer", "tool"])
messages = st.fixed_dictionaries({"role": roles | json_values, "content": contents | json_values})
schemas = st.sampled_from(SCHEMAS).map(lambda names: {"type": "object", "properties": {key: {} for key in names}})
values = {
    "messages": st.lists(messages | json_values, max_size=4) | json_values,
    "prompt": texts.map("".join) | json_values,
    "model": st.just("/models/prime") | json_values,
    "temperature": st.sampled_from([0, 0.1, 0.15, 0.3, 0.7]) | json_values,
    "top_p": st.just(0.7) | json_values,
    "max_tokens": st.sampled_from([1, 8, 24, 64, 256]) | json_values,
    "stream": json_values,
    "chat_template_kwargs": st.just({"enable_thinking": True}) | json_values,
    "guided_json": schemas | schemas.map(json.dumps) | json_values,
    "structured_outputs": schemas.map(lambda one: {"json": one}) | json_values,
    "response_format": schemas.map(lambda one: {"type": "json_schema", "json_schema": {"schema": one}}) | json_values,
}
bodies = st.fixed_dictionaries({}, optional=values)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_any_body_gets_a_stage_or_none_and_what_is_searched_first_hides_no_rule(body: dict[str, Any]) -> None:
    found = SHIPPED_RULES.recognise(fields(body))
    best = winner(SHIPPED_RULES.explain(fields(body)))
    assert (found.rule if found else None, found.score if found else None) == (
        best.rule.id if best else None,
        best.score if best else None,
    )


@given(st.dictionaries(st.sampled_from([*values]), st.binary(max_size=30)))
def test_what_is_no_json_at_all_recognises_nothing(raw: dict[str, bytes]) -> None:
    SHIPPED_RULES.recognise({key: msgspec.Raw(value) for key, value in raw.items()})


@pytest.mark.parametrize("key", [*values])
def test_nesting_without_end_recognises_nothing(key: str) -> None:
    deep = msgspec.Raw(b"[" * 50_000 + b"]" * 50_000)
    assert SHIPPED_RULES.recognise({key: deep}) is None
    inner = msgspec.Raw(b'[{"role": "user", "content": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]")
    assert SHIPPED_RULES.recognise({"messages": inner, key: deep}) is None


def escaped(value: object) -> str:
    """JSON in which every letter of every text is written as an escape."""
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(letter):04X}" for letter in value) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{escaped(key)}:{escaped(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(escaped(inner) for inner in value) + "]"
    return json.dumps(value)


@pytest.mark.parametrize("text", [MARK, 'say "HALT" or "CONTINUE" / \\', "über — «eins»", "a\tb"])
def test_however_json_writes_a_phrase_it_is_found(text: str) -> None:
    rules = parsed(
        rule(phrase(text)), rule({"schema": ["selected", "parameters"], "weight": 10}, name="s", stage="base")
    )
    body, form = (
        chat("hi", f"first\n{text}"),
        {**chat(), "guided_json": {"properties": {"parameters": 1, "selected": 1}}},
    )
    for write in (json.dumps, lambda value: json.dumps(value, ensure_ascii=False).replace("/", "\\/"), escaped):
        for sent, expected in ((body, "r"), (form, "s")):
            found = rules.recognise(msgspec.json.decode(write(sent).encode(), type=dict[str, msgspec.Raw]))
            assert found is not None
            assert found.rule == expected


def test_a_text_with_half_a_surrogate_is_still_read() -> None:
    raw = {"messages": msgspec.Raw(json.dumps(chat("\ud800", MARK)["messages"]).encode())}
    assert parsed(rule(phrase())).recognise(raw) is not None


def test_a_text_made_of_one_phrase_is_searched_to_a_bound() -> None:
    body = chat('x. "You are a careful reviewer ' * 50_000, 'x. "You are a careful reviewer ' * 50_000)
    assert SHIPPED_RULES.recognise(fields(body)) is None
