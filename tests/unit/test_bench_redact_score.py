"""What is counted of the tables of secrets, and that half of the third is never shown."""

from __future__ import annotations

import json

import pytest

from bench.redact_score import THIRD, is_open, lines, looks, main, score
from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules


def _line(text: str, *values: str) -> str:
    return json.dumps({"id": "x", "text": text, "secrets": [{"type": "EMAIL", "value": value} for value in values]})


def test_what_is_left_counts_as_missed_and_what_no_line_asks_for_as_wrong() -> None:
    rows = [_line("ask anna@mail.example", "anna@mail.example"), _line("not you", "you"), _line("bo@mail.example")]
    found = score(looks(Scrubber(shipped_rules(), b"k" * 32), rows))
    assert (found.secrets, found.found, found.replaced, found.right) == (2, 1, 2, 1)
    assert (found.recall, found.precision) == (0.5, 0.5)


def test_the_halves_of_the_third_table_are_about_as_large() -> None:
    third = lines(THIRD)
    assert 0.4 < sum(map(is_open, third)) / len(third) < 0.6


def test_no_line_of_the_counted_half_is_ever_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--misses"]) == 0
    printed = capsys.readouterr().out
    assert "third, counted half" in printed
    for line in lines(THIRD):
        if not is_open(line):
            row = json.loads(line)
            assert not any(secret["value"] in printed for secret in row["secrets"])
            assert repr(row["text"]) not in printed
