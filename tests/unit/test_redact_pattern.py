"""Which patterns of the owner's are refused, and which are not."""

from __future__ import annotations

import pytest

from gaiad.redact_pattern import why_not


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+b",
        r"(?:a*)*b",
        r"(?:\w+\s?)+x",
        r"(?:a|aa)+b",
        r"(?:a?b?)*c",
        r"(.*,)*x",
        r"(?i)(?:a\d?|A1)+b",
        r"(?>(?:a+)+b)",
        r"x(?=(?:a+)+b)",
        r"(?i:(?:a\d?|A1)+b)",
        r"(x)?(?(1)(?:a+)+|b)c",
        r"(?:a|ab?)+c",
        r"(?:x(?:a?)?)+y",
        r"(?:(?:a|ab?)+c)++",
        r"(?:[a-z]{1,50}){1,50}x",
        r"ORD-(?:(?:\d+)*-)+x",
        r"(?:x+x+)+y",
        r"(?:ab|abab)+c",
        r"(?:\s*\w*)*;",
        r"(?:é+|[^a])+b",
        r"(?:漢+)+b",
    ],
)
def test_a_part_that_can_share_a_text_out_in_many_ways_is_refused(pattern: str) -> None:
    assert "in many ways" in (why_not(pattern) or "")


@pytest.mark.parametrize(
    "pattern",
    [
        r"ORD-\d{6}",
        r"(?i)\bcustomer[ _-]?(?:no|number)\b\W{1,3}(?P<v>[A-Z]{2}\d{4,12})",
        r"(?:\d+,)+\d+",
        r"(?:[A-Z]{2}|\d)+-",
        r"(?:\d{1,3}\.){3}\d{1,3}",
        r"(?:\d{1,4} ?){2,5}",
        r"(?:[ -]?[A-Z0-9]){11,40}",
        r"(?:\w++ ?+)+x",
        r"(?>\w+)+x",
        r"(?:foo|bar)+",
        r"(?i)(?:(?-i:a\d?|A1))+b",
        r"(x)?(?(1)a+|b+)c",
        r"(?:/[^/\s]+)+",
        r"(?<!\d)\d{4}(?!\d)",
        r"(?:Muster(?:mann|frau) ?){1,3}",
        r"(['\"])[^'\"]+\1",
        r"Straße \d+[a-z]?",
    ],
)
def test_a_pattern_with_one_way_for_each_text_is_not_refused(pattern: str) -> None:
    assert why_not(pattern) is None


@pytest.mark.parametrize("pattern", [r"\d*", r"(?:ORD)?", r"a*|b", r"\b", r"(?=ORD-)", r"^$", r"()"])
def test_a_pattern_that_matches_nothing_at_all_is_refused(pattern: str) -> None:
    assert "without any character" in (why_not(pattern) or "")


def test_a_pattern_that_repeats_a_whole_dictionary_is_refused_with_what_to_do() -> None:
    words = "|".join(f"{number:09}"[::-1] for number in range(100))
    assert why_not(words) is None
    assert "write several" in (why_not(f"(?:{words})+") or "")
