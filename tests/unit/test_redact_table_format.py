"""The redaction table is well formed: its own format, not any rule, is checked here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).resolve().parents[1] / "tables" / "redact" / "table.jsonl"
TYPES = {"EMAIL", "PHONE", "CARD", "IBAN", "IP", "KEY", "TOKEN", "PRIVATE_KEY", "PASSWORD"}


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TABLE.read_text(encoding="utf-8").split("\n") if line]


ROWS = _rows()
SECRETS = [(row["id"], secret) for row in ROWS for secret in row["secrets"]]


def _compact(value: str) -> str:
    return re.sub(r"[\s-]", "", value)


def _luhn(digits: str) -> bool:
    total = 0
    for place, char in enumerate(reversed(digits)):
        number = int(char)
        if place % 2:
            number = number * 2 - 9 if number > 4 else number * 2
        total += number
    return total % 10 == 0


def _mod97(iban: str) -> bool:
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def test_every_line_has_the_three_fields() -> None:
    for row in ROWS:
        assert set(row) == {"id", "text", "secrets"}, row.get("id")
        assert row["text"].strip(), row["id"]
        for secret in row["secrets"]:
            assert set(secret) == {"type", "value"}, row["id"]
            assert secret["type"] in TYPES, row["id"]
            assert secret["value"], row["id"]


def test_ids_are_unique() -> None:
    ids = [row["id"] for row in ROWS]
    assert len(ids) == len(set(ids))


def test_texts_are_unique() -> None:
    texts = [row["text"] for row in ROWS]
    assert len(texts) == len(set(texts))


def test_each_value_stands_in_its_text() -> None:
    for row in ROWS:
        for secret in row["secrets"]:
            assert secret["value"] in row["text"], row["id"]


def test_card_values_pass_luhn() -> None:
    for row_id, secret in SECRETS:
        if secret["type"] == "CARD":
            digits = _compact(secret["value"])
            assert digits.isdigit(), row_id
            assert 13 <= len(digits) <= 19, row_id
            assert _luhn(digits), row_id


def test_iban_values_pass_mod_97() -> None:
    for row_id, secret in SECRETS:
        if secret["type"] == "IBAN":
            assert _mod97(_compact(secret["value"])), row_id


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_every_type_occurs(kind: str) -> None:
    assert sum(secret["type"] == kind for _, secret in SECRETS) >= 8


def test_near_misses_are_at_least_35_percent() -> None:
    near = sum(not row["secrets"] for row in ROWS)
    assert near / len(ROWS) >= 0.35
