"""What is replaced before anything is written down, and what is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.redact_score import THIRD, is_open, lines, looks, score
from gaiad.errors import ConfigError
from gaiad.redact import Scrubber
from gaiad.redact_doubts import PLACEHOLDER
from gaiad.redact_file import shipped_rules
from gaiad.redact_rules import parse_rules

RULES = shipped_rules()
SCRUBBER = Scrubber(RULES, b"k" * 32)

PIECES = (
    *("anna.berg+news@mail.example.org", "+49 171 2345678", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"),
    *(
        "password: Tr0ub4dor&3",
        "postgres://app:s3cr3t-pw@db.example/x",
        "203.0.113.77",
        "sk-proj-Ab3dE5gH7jK9mN1pQ3sT5vW7",
    ),
    *(
        "[EMAIL_abcdef]",
        '{\\"token\\": \\"Zx81QwErTy77\\"}',
        "a\\u0040b.example.com",
        "x%40y.example.com",
        "2024-01-15 10:30",
    ),
    *("[", "]", "\\", "%", "_abcdef]", "password", ":", "=", " ", "\n", '"', "key", "é", "\ud800"),
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=8).map("".join)
values = st.recursive(
    st.one_of(texts, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ["table.jsonl", "second.jsonl"])
def test_the_tables_are_found_to_98_percent_and_replaced_rightly_to_95(name: str) -> None:
    found = score(looks(SCRUBBER, lines(name)))
    assert found.recall >= 0.98
    assert found.precision >= 0.95


def test_the_open_half_of_the_third_table_is_found_to_98_percent_and_replaced_rightly_to_95() -> None:
    found = score(looks(SCRUBBER, [line for line in lines(THIRD) if is_open(line)]))
    assert found.recall >= 0.98
    assert found.precision >= 0.95


def test_the_counted_half_of_the_third_table_is_found_as_far_as_rules_go_that_were_not_mended_by_it() -> None:
    """The figure that may be claimed: its lines were only ever counted, not looked at, and no rule was mended by them.

    Rules were mended by the other half, by what secrets of each family look like anywhere, and by texts made up for
    that. 94.8 % were found before that, 96.7 % after it: short of the 98 % that are wanted. See the folder's README.
    """
    found = score(looks(SCRUBBER, [line for line in lines(THIRD) if not is_open(line)]))
    assert found.recall >= 0.967
    assert found.precision >= 0.95


def test_the_fourth_table_is_found_to_98_percent_at_first_sight() -> None:
    """Written by somebody who had not seen the rules, when those were as they are: no rule was mended by it."""
    found = score(looks(SCRUBBER, lines("fourth.jsonl")))
    assert found.recall >= 0.98
    assert found.precision >= 0.95


@given(values)
@settings(max_examples=300)
def test_scrubbing_again_changes_nothing(value: object) -> None:
    once = SCRUBBER.scrub(value, "c").value
    assert SCRUBBER.scrub(once, "c").value == once


@given(texts)
@settings(max_examples=200)
def test_nothing_that_was_replaced_stands_in_a_placeholder(text: str) -> None:
    before = set(PLACEHOLDER.findall(text))
    for placeholder in set(PLACEHOLDER.findall(SCRUBBER.scrub_text(text, "c"))) - before:
        said = placeholder.rpartition("_")[2].strip("[]")
        assert said not in text
        assert not any(char.isdigit() for char in placeholder)


def test_one_value_has_one_placeholder_in_a_conversation_and_another_in_the_next() -> None:
    first = SCRUBBER.scrub_text("ask anna@example.org", "c1")
    again = SCRUBBER.scrub({"to": ["anna@example.org"]}, "c1").value
    other = SCRUBBER.scrub_text("ask anna@example.org", "c2")
    assert first.startswith("ask [EMAIL_")
    assert again == {"to": [first.removeprefix("ask ")]}
    assert other != first
    assert Scrubber(RULES, b"x" * 32).scrub_text("ask anna@example.org", "c1") != first


def test_a_card_is_the_same_however_it_is_spaced_and_even_as_a_number() -> None:
    spaced, plain = (SCRUBBER.scrub_text(text, "c") for text in ("4111 1111 1111 1111", "4111111111111111"))
    assert spaced == plain == SCRUBBER.scrub(4111111111111111, "c").value
    assert SCRUBBER.scrub(4111111111111112, "c").value == 4111111111111112


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_what_is_written_with_escapes_is_found_and_the_json_stays_json(levels: int) -> None:
    inner: Any = {"mail": "anna@example.org", "note": 'say "hi"/bye', "password": 'l"oder-R7'}
    text = json.dumps(inner).replace("@", "\\u0040").replace("/", "\\/")
    for _ in range(levels - 1):
        text = json.dumps(text)
    found = SCRUBBER.scrub_text(text, "c")
    for _ in range(levels - 1):
        found = json.loads(found)
    assert json.loads(found)["note"] == 'say "hi"/bye'
    assert PLACEHOLDER.fullmatch(json.loads(found)["mail"])
    assert PLACEHOLDER.fullmatch(json.loads(found)["password"])


def test_names_of_fields_are_scrubbed_and_fields_named_like_secrets_lose_their_text() -> None:
    found: Any = SCRUBBER.scrub(
        {"anna@example.org": 1, "api_key": "plainword", "max_tokens": 5, "token_type": "x"}, "c"
    )
    assert [type(key) for key in found.value] == [str] * 4
    assert "anna@example.org" not in found.value
    assert PLACEHOLDER.fullmatch(found.value["api_key"])
    assert (found.value["max_tokens"], found.counts["EMAIL"]) == (5, 1)


def test_fields_whose_names_become_the_same_are_all_kept_and_told_apart() -> None:
    name = SCRUBBER.scrub_text("anna@example.org", "c")
    value = {"anna@example.org": 1, "Anna@Example.org": 2, name: 3, f"{name} (2)": 4, 5: 5, "5": 6}
    found: Any = SCRUBBER.scrub(value, "c").value
    assert found == {f"{name} (3)": 1, f"{name} (4)": 2, name: 3, f"{name} (2)": 4, "5 (2)": 5, "5": 6}
    assert SCRUBBER.scrub(found, "c").value == found


def test_pictures_go_whole() -> None:
    found = SCRUBBER.scrub_text("data:image/png;base64," + "iVBOR" * 100, "c")
    assert PLACEHOLDER.fullmatch(found)
    assert found.startswith("[MEDIA_")


def test_the_owners_names_and_patterns_are_replaced_too() -> None:
    scrubber = Scrubber(RULES.with_own(["Azrael", "Azrael Berg"], ["ORDER=ORD-\\d{6}"]), b"k" * 32)
    found = scrubber.scrub_text("AZRAEL BERG ordered ORD-123456, Azraels cat did not", "c")
    assert [name[1:].partition("_")[0] for name in PLACEHOLDER.findall(found)] == ["NAME", "ORDER"]
    assert "Azraels cat" in found


@pytest.mark.parametrize("pattern", ["ORDER", "order=x", "ORDER=(", "=x", "ORDER=(a+)+b", "ORDER=a*", "ORDER=^"])
def test_a_pattern_that_cannot_be_used_is_named(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"redact\.patterns has " + re.escape(repr(pattern))):
        RULES.with_own([], ["FINE=x", pattern])


def test_every_pattern_that_cannot_be_used_is_named_with_what_to_try() -> None:
    with pytest.raises(ConfigError, match=r"'ONE=\(\?:\\\\w\*\)\+;'.*\+\+.*'TWO=x\*'.*\+ in place of \*"):
        RULES.with_own([], [r"ONE=(?:\w*)+;", "TWO=x*"])


def test_every_wrong_rule_is_named_at_once() -> None:
    rows = [
        {"id": "a", "type": "MAIL", "pattern": "("},
        {"id": "b", "type": "mail", "pattern": "x"},
        {"id": "c", "type": "MAIL", "pattern": "x", "check": "nothing"},
        {"id": "d", "type": "MAIL", "pattern": "x", "strange": 1},
    ]
    with pytest.raises(ConfigError, match=r"rule a: .*rule b: .*rule c: .*rule d: "):
        parse_rules(json.dumps({"rules": rows, "secret_fields": "x"}))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "a-" * 100_000,
        "1 " * 100_000,
        "password " * 20_000,
        "a@" * 100_000,
        "::" * 50_000,
        "\\u0041" * 20_000,
        "eyJ-" * 50_000,
        "password: hunter22 " * 10_000,
        "anna@example.org " * 10_000,
    ],
)
def test_hostile_texts_come_to_an_end(text: str) -> None:
    SCRUBBER.scrub_text(text, "c")


def test_an_iban_of_letters_that_are_no_digits_of_base_36_is_none_and_does_no_harm() -> None:
    assert SCRUBBER.scrub_text("DE89370400440532013İ 00 K", "c") == "DE89370400440532013İ 00 K"
