"""A request's body: its top level parsed once, every value left as the client wrote it until somebody needs it.

What is not changed is copied to the engine byte for byte. Decides only whether the bytes are a JSON object; a plain
parser takes over for the few bodies that the fast one refuses, and for the words about what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import msgspec

from gaiad.proxy.refusals import Rejection, bad_request, nested_too_deeply

Fields = Mapping[str, msgspec.Raw]
"""The top level of a JSON object, values undecoded."""

NULL = b"null"
OPENING = frozenset(b"[{")
"""How arrays and objects begin."""
MAX_DEPTH = 128
"""How deep arrays and objects may stand in each other."""
_CERTAIN = 16
"""A number of more characters than this, or with an exponent, may be too large to be one."""
_INT_DIGITS = 4300
"""More digits than this in one integer Python refuses to read."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_NUMERIC = frozenset(b"-0123456789")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE = msgspec.json.Decoder()


class PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message that has a role and a text and nothing else."""

    role: str
    content: str


_PLAIN = msgspec.json.Decoder(list[PlainMessage])


def read_request(raw: bytes) -> tuple[Fields, list[PlainMessage] | None] | Rejection:
    """Parse the top level of a JSON object, and its messages where they are plain; or say where it stops being one."""
    try:
        if not raw.isascii():
            raw.decode()
        fields = _FIELDS.decode(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return _read_strange(raw, None)
    plain = None
    for key, value in fields.items():
        text = bytes(value)
        if text[0] in OPENING:
            found = _plain(value) if key == "messages" else None
            # What is short cannot be deep, and plain messages are not.
            if found is not None:
                plain = found
            elif len(text) > MAX_DEPTH and nests_deeper_than(text, MAX_DEPTH - 1):
                return nested_too_deeply()
        elif text[0] in _NUMERIC and (len(text) > _CERTAIN or b"e" in text or b"E" in text):
            return _read_strange(raw, fields)
    return fields, plain


def _read_strange(raw: bytes, fields: Fields | None) -> tuple[Fields, list[PlainMessage] | None] | Rejection:
    if nests_deeper_than(raw, MAX_DEPTH):
        return nested_too_deeply()
    # 1. Wrong, and this says how. 2. Right, but strange: UTF-16, a byte-order mark, half a surrogate pair, 1e5.
    parsed = read_object(raw)
    if isinstance(parsed, Rejection):
        return parsed
    return (raw_fields(parsed) if fields is None else fields), None


def _plain(messages: msgspec.Raw) -> list[PlainMessage] | None:
    """The messages of a chat that are nothing but text, which most are; None where one holds anything else."""
    try:
        return _PLAIN.decode(messages)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


def nests_deeper_than(raw: bytes, limit: int) -> bool:
    """Whether arrays and objects stand in each other more than `limit` deep; brackets in strings do not count."""
    # Most bodies have fewer brackets than may stand in each other. Splitting looks for the next, counting at each byte.
    if len(raw.split(b"[", limit + 1)) + len(raw.split(b"{", limit + 1)) - 2 <= limit:
        return False
    # 1. Without escapes every quote opens or closes a string. 2. What is between strings is every second piece.
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = b"".join(raw.split(b'"')[::2]).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def raw_fields(body: Mapping[str, Any]) -> Fields:
    """Encode the values of a parsed object, so that it can be used like one that was read."""
    return {key: raw(value) for key, value in body.items()}


def raw(value: object) -> msgspec.Raw:
    """Encode one value."""
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except UnicodeEncodeError:
        # Half a surrogate pair, which only escapes can carry.
        return msgspec.Raw(json.dumps(value, separators=(",", ":"), default=_digits).encode())


def value_of(fields: Fields, key: str) -> Any:  # noqa: ANN401  a parser's edge
    """Decode one value; None where there is none."""
    found = fields.get(key)
    return None if found is None else _decoded(found, _verbatim)


def given(fields: Fields, key: str) -> bool:
    """Whether a key is there and says something."""
    found = fields.get(key)
    return found is not None and bytes(found) != NULL


def decoded(fields: Fields) -> dict[str, Any]:
    """Decode the whole object."""
    return {key: _decoded(value, _spelt_out) for key, value in fields.items()}


def joined(fields: Fields) -> bytes:
    """Put the object together again, each value as it stands."""
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        # Half a surrogate pair in a key.
        pairs = (json.dumps(key).encode() + b":" + bytes(value) for key, value in fields.items())
        return b"{" + b",".join(pairs) + b"}"


def _decoded(value: msgspec.Raw, long_int: Callable[[str], object]) -> Any:  # noqa: ANN401  a parser's edge
    try:
        return _VALUE.decode(value)
    except (ValueError, msgspec.MsgspecError):
        return json.loads(bytes(value), parse_int=long_int)


def _verbatim(digits: str) -> object:
    """An integer; one with more digits than Python reads stays as it stands, and is copied so."""
    return int(digits) if len(digits) <= _INT_DIGITS else msgspec.Raw(digits.encode())


def _spelt_out(digits: str) -> object:
    """An integer, or its digits where there are more than Python reads."""
    return int(digits) if len(digits) <= _INT_DIGITS else digits


def _digits(item: object) -> str:
    return bytes(item).decode() if isinstance(item, msgspec.Raw) else str(item)


def read_object(raw: bytes) -> dict[str, Any] | Rejection:
    """Parse a JSON object whole, or say where it stops being one."""
    try:
        parsed = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        return bad_request(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            code="invalid_json",
        )
    except UnicodeDecodeError as error:
        return bad_request(f"The body is not valid UTF-8 at byte {error.start}.", code="invalid_json")
    except RecursionError:
        return nested_too_deeply()
    except ValueError as error:
        # Python's own words about a long integer name its settings.
        if str(error).startswith("Exceeds the limit"):
            return bad_request("A number in the body has too many digits.", code="invalid_json")
        return bad_request(f"The body is not valid JSON: {error}.", code="invalid_json")
    if not isinstance(parsed, dict):
        return bad_request(f"The body must be a JSON object, not {kind_of(parsed)}.", code="invalid_json")
    return parsed


def kind_of(value: object) -> str:
    """Name a JSON value's type for people."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number
