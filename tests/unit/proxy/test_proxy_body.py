"""A body read fast is the body that was sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.body import decoded, joined, nests_deeper_than, raw, raw_fields, value_of
from gaiad.proxy.refusals import Rejection
from tests.fakes.bodies import read_fields

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(raw: bytes) -> dict[str, Any]:
    fields = read_fields(raw)
    assert not isinstance(fields, Rejection), fields
    return decoded(fields)


@given(body=st.dictionaries(st.text(), JSON, max_size=6), plain=st.booleans(), indent=st.sampled_from([None, 2]))
def test_any_object_is_read_and_joined_to_the_same_object(
    body: dict[str, Any], plain: bool, indent: int | None
) -> None:
    raw = json.dumps(body, ensure_ascii=plain, indent=indent).encode("utf-8", "surrogatepass")
    fields = read_fields(raw)
    if isinstance(fields, Rejection):
        assert "UTF-8" in fields.message, "only a lone surrogate outside an escape is no text"
        return
    assert decoded(fields) == body
    assert json.loads(joined(fields)) == body


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": "\\ud800", "b": 1}', {"a": "\ud800", "b": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "ü"}'.encode("utf-16"), {"a": "ü"}),
        (b'{"\\ud800": 1}', {"\ud800": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_strange_but_valid_bodies_are_read_too(raw: bytes, expected: dict[str, Any]) -> None:
    assert read(raw) == expected
    fields = read_fields(raw)
    assert not isinstance(fields, Rejection)
    assert json.loads(joined(fields)) == expected


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "line 1"),
        (b'{"a": ', "line 1"),
        (b"[]", "an array"),
        (b"null", "null"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\xff"}', "UTF-8 at byte"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"x}", "too many digits"),
    ],
)
def test_what_is_no_object_is_refused_with_the_place(raw: bytes, words: str) -> None:
    found = read_fields(raw)
    assert isinstance(found, Rejection)
    assert found.status == 400
    assert words in found.message


def test_a_missing_key_and_a_null_say_nothing() -> None:
    fields = raw_fields({"a": None})
    assert value_of(fields, "a") is value_of(fields, "b") is None


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (1 if isinstance(value, dict | list) else 0) + max(map(depth_of, inner), default=0)


@given(value=JSON, more=st.lists(st.sampled_from(['"', "\\", "{", "[", "]", "}"])), limit=st.integers(0, 6))
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any, more: list[str], limit: int) -> None:
    value = [value, "".join(more), {"".join(more): value}]
    assert nests_deeper_than(json.dumps(value).encode(), limit) == (depth_of(value) > limit)


@pytest.mark.parametrize("inner", ["[%s]", '{"a":-%s}'])
def test_a_number_inside_that_python_does_not_read_is_carried_along(inner: str) -> None:
    digits = "7" * 5000
    body = ('{"x":' + inner % digits + "}").encode()
    fields = read_fields(body)
    assert not isinstance(fields, Rejection)
    assert joined({"x": raw(value_of(fields, "x"))}) == body
    assert digits in str(decoded(fields))
