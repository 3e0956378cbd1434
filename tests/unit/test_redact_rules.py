"""Where a rule is tried, and that nothing is missed where it is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gaiad.errors import ConfigError
from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules
from gaiad.redact_rules import Rule, parse_rules
from gaiad.redact_view import OVERLAP, PIECE, View, in_pieces, views

TABLE = Path(__file__).resolve().parents[1] / "tables" / "redact" / "table.jsonl"
ROWS = [json.loads(line)["text"] for line in TABLE.read_text(encoding="utf-8").splitlines()]
RULES = shipped_rules()
WORDS = sorted({word for rule in RULES.rules for word in (*rule.needs, *(one for one, _ in rule.near))})
PIECES = (
    *WORDS,
    *(":", " = ", "'", '"', "`", "@", "+49", "(030)", "::1", " -p ", "<", ">", "PASSWORD", "Bearer ", "\xa0", "\u2003"),
    *(
        "\n",
        " ",
        "ſ",
        "ı",
        "İ",
        "K",
        "ü",
        "é",
        "漢",
        "\ud83d",
        "٣٤٥٦",
        "[EMAIL_abcdef]",
        "%40",
        "\\u0040",
        "\\n",
        '\\"',
    ),
    *("0171 2345678", "4111 1111 1111 1111", "DE89370400440532013000", "192.168.7.9", "2001:db8::1", "12.5", "7"),
    *("2024-01-15 10:30:11", "1732528779.123", "aB3dE5gH7jK9mN1pQ3sT5vW7", "hunter2!x", "Tr0ub4dor"),
)
words = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
rows = st.tuples(st.sampled_from(ROWS), st.integers(0, 300), words).map(
    lambda it: it[0][: it[1]] + it[2] + it[0][it[1] :]
)
texts = st.lists(st.one_of(words, rows, st.text(max_size=20)), max_size=4).map(" ".join)


def everywhere(rule: Rule, text: str) -> list[tuple[int, int]]:
    """What the rule finds if its pattern is tried at each place of the text."""
    if rule.digits and not re.search(r"\d(?:[ ().,/-]{0,3}\d){3}", text):
        return []
    return [span for match in rule.pattern.finditer(text) if (span := rule.span(match))]


def tried(rule: Rule, view: View) -> list[tuple[int, int]]:
    """What the rule finds where it is tried."""
    if rule not in RULES.for_view(view):
        return []
    return [span for match in rule.matches(view) if (span := rule.span(match))]


@given(texts)
@example("puk  * square: EAAA4Fe1lhAZOl3x-6jod99T6agJzsJ5hZPoNVA42BrFD45mDkpc7dvhuzCmXXsL (token, production)")
@settings(max_examples=400, deadline=None)
def test_what_a_rule_finds_where_it_is_tried_is_all_that_it_would_find_anywhere(text: str) -> None:
    for view in views(text):
        for rule in RULES.rules:
            assert tried(rule, view) == everywhere(rule, view.text), rule.id


def test_of_the_table_nothing_is_missed_either() -> None:
    for text in ROWS:
        view = View(text)
        for rule in RULES.rules:
            assert tried(rule, view) == everywhere(rule, text), (rule.id, text)


@given(
    st.lists(st.sampled_from(["ab", "aab", " ", "-", "a", "bb", "\n"]), max_size=60).map("".join),
    st.sampled_from(["a{1,9}b", r"\ba+b?(?!\w)", "(?<=a)b", r"a[\s\S]{1,9}?b", r"[ab]+", r"(?m)^a+$"]),
    st.integers(1, 30),
)
@settings(max_examples=500)
def test_a_text_in_pieces_has_the_matches_of_the_whole(text: str, pattern: str, piece: int) -> None:
    compiled = re.compile(pattern)
    found = [match.span() for match in in_pieces(compiled, text, 0, len(text), piece, overlap=12)]
    assert found == [match.span() for match in compiled.finditer(text)]


KEY = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 500 + "-----END PRIVATE KEY-----"


@pytest.mark.parametrize("back", [0, 1, 9, 40, 700, 16_000])
@pytest.mark.parametrize("border", [PIECE, PIECE + OVERLAP])
@pytest.mark.parametrize(
    "secret", ["anna.berg@mail.example.org", "password: Tr0ub4dor&3", "sk-" + "aB3dE5gH" * 3000, KEY]
)
def test_what_lies_across_a_border_of_two_pieces_is_found(secret: str, border: int, back: int) -> None:
    before = "so it is " * (2 * PIECE // 9)
    text = f"{before[: border - back]} {secret} {before}"
    found = Scrubber(RULES, b"k" * 32).scrub(text, "c")
    assert sum(found.counts.values()) == 1
    assert secret[-20:] not in str(found.value)


@pytest.mark.parametrize(
    "wrong",
    [{"chars": "@"}, {"near": ["key"]}, {"near": {"Key": 0}}, {"needs": ["KEY"]}, {"before": [1]}, {"digits": "4"}],
)
def test_a_rule_that_says_wrongly_where_it_is_tried_is_named(wrong: dict[str, object]) -> None:
    row = {"id": "one", "type": "KEY", "pattern": "x", **wrong}
    with pytest.raises(ConfigError, match="rule one: "):
        parse_rules(json.dumps({"rules": [row], "secret_fields": "x"}))
