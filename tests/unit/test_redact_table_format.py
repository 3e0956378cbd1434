"""The redaction tables are well formed: their own format, not any rule, is checked here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tables" / "redact"
TABLES = ("table.jsonl", "second.jsonl", "third.jsonl", "fourth.jsonl")
PREFIXES = {"second.jsonl": "x2-", "third.jsonl": "x3-", "fourth.jsonl": "x4-"}
TYPES = {"EMAIL", "PHONE", "CARD", "IBAN", "IP", "KEY", "TOKEN", "PRIVATE_KEY", "PASSWORD"}


def _rows(name: str) -> list[dict[str, Any]]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


BY_TABLE = {name: _rows(name) for name in TABLES}
ROWS = [row for rows in BY_TABLE.values() for row in rows]
SECRETS = [(row["id"], secret) for row in ROWS for secret in row["secrets"]]


def _compact(value: str) -> str:
    return re.sub(r"[\s.-]", "", value)


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


def test_ids_are_unique_across_the_tables() -> None:
    ids = [row["id"] for row in ROWS]
    assert len(ids) == len(set(ids))


def test_texts_are_unique_across_the_tables() -> None:
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


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", sorted(TYPES))
def test_every_type_occurs_in_each_table(table: str, kind: str) -> None:
    kinds = [secret["type"] for row in BY_TABLE[table] for secret in row["secrets"]]
    assert kinds.count(kind) >= 8


@pytest.mark.parametrize("table", TABLES)
def test_near_misses_are_at_least_35_percent_of_each_table(table: str) -> None:
    rows = BY_TABLE[table]
    near = sum(not row["secrets"] for row in rows)
    assert near / len(rows) >= 0.35


def test_ids_tell_which_table_a_line_is_from() -> None:
    for table, rows in BY_TABLE.items():
        for row in rows:
            begun = [name for name, prefix in PREFIXES.items() if row["id"].startswith(prefix)]
            assert begun == ([table] if table in PREFIXES else []), row["id"]
