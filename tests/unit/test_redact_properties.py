"""What holds of a scrubbed value, whatever it was, and however a writer of JSON wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gaiad.redact import Scrubber
from gaiad.redact_doubts import PLACEHOLDER
from gaiad.redact_file import shipped_rules

TABLE = Path(__file__).resolve().parents[1] / "tables" / "redact" / "table.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
SCRUBBER = Scrubber(shipped_rules(), b"k" * 32)
# What the rules find at all, in a text of its own; how much that is, is claimed elsewhere.
FOUND = [
    (row["text"], secret["value"])
    for row in ROWS
    for secret in row["secrets"]
    if secret["value"] not in SCRUBBER.scrub_text(row["text"], "c")
]
SPACED = [
    secret["value"]
    for row in ROWS
    for secret in row["secrets"]
    if secret["type"] in ("EMAIL", "IBAN", "CARD") and PLACEHOLDER.fullmatch(SCRUBBER.scrub_text(secret["value"], "c"))
]

rows = st.integers(0, len(ROWS) - 1).map(lambda at: str(ROWS[at]["text"]))
pieces = st.one_of(rows, st.text(max_size=12), st.just("anna@example.org"))
texts = st.lists(pieces, max_size=3).map("".join)
names = st.one_of(texts, st.sampled_from(["password", "api_key", "Anna@example.org", "anna@example.org", "note"]))
values = st.recursive(
    st.one_of(
        texts,
        st.integers(-(10**9), 10**9),
        st.just(4111111111111111),
        st.booleans(),
        st.none(),
        st.floats(allow_nan=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=8,
)
PLACES = ("{}", "[1, {}]", '{{"note": {}}}', '{{"a": 1, "content":{},"b": [2]}}', "{{{}: 1}}", '[[{{"x": {}}}], "y"]')


def written(text: str, random: Random, share: float) -> str:
    """A string of JSON, with as many of its characters escaped, in any of the ways there are."""
    found = []
    for char in text:
        units = char.encode("utf-16-be", "surrogatepass")
        if random.random() < share:
            halves = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
            found += [f"\\u{half.upper() if random.random() < 0.5 else half}" for half in halves]
        elif char == "/" and random.random() < share:
            found.append("\\/")
        else:
            found.append(json.dumps(char, ensure_ascii=random.random() < share)[1:-1])
    return f'"{"".join(found)}"'


def said(text: str) -> Iterator[str]:
    """A text, and every text in it if it is JSON, as deep as it goes."""
    yield text
    try:
        waiting = [json.loads(text)]
    except ValueError:
        return
    while waiting:
        match waiting.pop():
            case str(inner) if inner != text:
                yield from said(inner)
            case list(inner):
                waiting += inner
            case dict(inner):
                waiting += [*inner, *inner.values()]


@given(
    st.integers(0, len(FOUND) - 1).map(FOUND.__getitem__),
    st.lists(st.sampled_from(PLACES), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 2**32).map(Random),
)
@settings(max_examples=400, deadline=None)
def test_no_value_of_the_table_survives_in_any_place_of_json_however_it_is_escaped(
    found: tuple[str, str], places: list[str], share: float, random: Random
) -> None:
    text, value = found
    for place in places:
        text = place.format(written(text, random, share))
    as_text, as_value = SCRUBBER.scrub(text, "c").value, SCRUBBER.scrub(json.loads(text), "c").value
    json.loads(str(as_text))
    for kept in (*said(str(as_text)), *said(json.dumps(as_value)), *said(json.dumps(as_value, ensure_ascii=False))):
        assert value not in kept


@given(values)
@settings(max_examples=300, deadline=None)
@example({"anna@example.org": 1, "Anna@example.org": {"anna@example.org": [4111111111111111]}})
def test_types_lengths_and_the_number_of_fields_stay(value: object) -> None:
    def shape(one: object) -> object:
        match one:
            case list():
                return [shape(inner) for inner in one]
            case dict():
                return {"fields": [shape(inner) for inner in one.values()]}
            case int() if type(one) is int and one == 4111111111111111:
                return str
            case _:
                return type(one)

    assert shape(SCRUBBER.scrub(value, "c").value) == shape(value)


@given(values)
@settings(max_examples=300, deadline=None)
@example("password: Tr0ub\ud83d\ude00&3x")
def test_it_is_all_one_whether_a_value_is_scrubbed_before_it_is_dumped_or_after(value: object) -> None:
    dumped_after = json.loads(json.dumps(SCRUBBER.scrub(value, "c").value))
    assert SCRUBBER.scrub(json.loads(json.dumps(value)), "c").value == dumped_after


@given(st.sampled_from(SPACED), st.sampled_from(PLACES), st.sampled_from([0.0, 1.0]), st.integers(0, 2**32).map(Random))
@settings(max_examples=200, deadline=None)
def test_a_value_has_one_placeholder_in_a_scope_wherever_it_stands_and_another_in_another(
    value: str, place: str, share: float, random: Random
) -> None:
    def placeholders(scrubbed: Any) -> set[str]:
        return set(PLACEHOLDER.findall(json.dumps(scrubbed)))

    text = place.format(written(f"it is {value}, you see", random, share))
    (first,) = placeholders(SCRUBBER.scrub(value, "c").value)
    assert placeholders(SCRUBBER.scrub(text, "c").value) == {first}
    assert placeholders(SCRUBBER.scrub(json.loads(text), "c").value) == {first}
    assert first not in placeholders(SCRUBBER.scrub(text, "d").value)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_of_the_whole_table_nothing_survives_as_arguments_of_a_tool(share: float) -> None:
    random = Random(7)
    for text, value in FOUND:
        arguments = f'{{"path": "x.txt", "content": {written(text, random, share)}}}'
        body: Any = {"tool_calls": [{"function": {"name": "write", "arguments": arguments}}]}
        scrubbed: Any = SCRUBBER.scrub(body, "c").value
        content = json.loads(scrubbed["tool_calls"][0]["function"]["arguments"])["content"]
        assert value not in content
