"""Values are found by their path in any JSON text, and replacing one changes no other byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.splice import Path, spans, with_value

TEXT = b' {"a" : {"b": [1, {"c":"\\"x\\""}, []], "model":"in a"}, "model" : "top", "z":{} , "mod\\u0065l2":null}'


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (("model",), [b'"top"']),
        (("a", "model"), [b'"in a"']),
        (("a", "b"), [b'[1, {"c":"\\"x\\""}, []]']),
        (("a", "b", 0), [b"1"]),
        (("a", "b", 1, "c"), [b'"\\"x\\""']),
        (("a", "b", 2), [b"[]"]),
        (("a", "b", 3), []),
        (("z",), [b"{}"]),
        (("model2",), [b"null"]),
        (("c",), []),
        (("model", "model"), []),
        ((), [TEXT[1:]]),
    ],
)
def test_a_value_is_found_by_its_path(path: Path, found: list[bytes]) -> None:
    assert [TEXT[start:end] for start, end in spans(TEXT, path)] == found


def test_a_key_written_twice_is_found_twice() -> None:
    text = b'{"model":"a","model":"b"}'
    assert with_value(text, ("model",), b'"c"') == b'{"model":"c","model":"c"}'


def test_what_is_nowhere_changes_nothing() -> None:
    assert with_value(b'{"a":1}', ("b",), b"2") == b'{"a":1}'


@given(st.binary(max_size=60))
def test_no_bytes_are_a_fault(raw: bytes) -> None:
    spans(raw, ("a",))
    spans(b'{"a":' + raw, ("a", 0, "b"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "model", "b\n", '"', "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def places(value: Any, path: Path = ()) -> list[Path]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {key: put(item, path[1:], new) if key == path[0] else item for key, item in value.items()}
    return [put(item, path[1:], new) if at == path[0] else item for at, item in enumerate(value)]


@given(VALUES, st.data(), st.sampled_from([None, 2]), st.booleans())
def test_every_value_can_be_replaced_and_nothing_else_changes(
    value: Any, data: st.DataObject, indent: int | None, ascii_only: bool
) -> None:
    path = data.draw(st.sampled_from(places(value)))
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    ((start, end),) = spans(text, path)
    new = with_value(text, path, b'"new"')
    assert new == text[:start] + b'"new"' + text[end:]
    assert json.loads(new) == put(value, path, "new")
