"""What a stage rule looks at in a request: phrases, schemas, sampling, counts; and the view of a request they share.

Each feature answers how much of it a request has, 0 to 1. Phrases and schemas are strong: they can name a stage. Field
values and message counts are weak: clients clamp and defaults coincide, so they only support. Values are decoded once,
and only when a feature asks; whatever cannot be decoded is as good as absent. Nothing here raises on any JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec

from gaiad.proxy.body import PlainMessage
from gaiad.proxy.passages import (
    Documents,
    Passage,
    Place,
    Texts,
    Where,
    texts_of_chat,
    texts_of_plain,
    texts_of_prompt,
)

Fields: TypeAlias = Mapping[str, msgspec.Raw]

ABSENT = object()
SCHEMA_FIELDS = ("guided_json", "structured_outputs", "response_format")
_SCHEMAS = frozenset(SCHEMA_FIELDS)
_EXACT = 1 << 53


@dataclass(slots=True)
class RequestView:
    """One request as the features see it."""

    fields: Fields
    documents: Documents
    texts: Texts
    _values: dict[str, object] = field(default_factory=dict, init=False)
    _passages: dict[Where, list[Passage]] = field(default_factory=dict, init=False)
    _schemas: list[frozenset[str]] | None = field(default=None, init=False)

    def value(self, name: str) -> object:
        """A top-level value, decoded; `ABSENT` where there is none, or null, or nothing that can be read."""
        if name not in self._values:
            self._values[name] = _value(self.fields, name)
        return self._values[name]

    def has(self, name: str) -> bool:
        """Whether the request gives this value; null gives none."""
        raw = self.fields.get(name)
        return raw is not None and bytes(raw) != b"null"

    def passages(self, where: Where) -> list[Passage]:
        """The texts that `where` means, ready to be searched."""
        if where not in self._passages:
            self._passages[where] = self.texts.passages(where, self.documents)
        return self._passages[where]

    def message_count(self) -> int:
        """How many messages there are; a prompt is one."""
        messages = self.value("messages")
        if messages is ABSENT:
            return int("prompt" in self.fields)
        return len(messages) if isinstance(messages, list) else 0

    def schemas(self) -> list[frozenset[str]]:
        """The property names of each JSON schema that the reply is asked to fit."""
        if self._schemas is None:
            self._schemas = schemas_of(self.fields)
        return self._schemas


def texts_of(fields: Fields, plain: Sequence[PlainMessage] | None = None) -> Texts:
    """The texts of a request by who wrote them; `plain` are its messages, where somebody found them to be plain."""
    if plain is not None:
        return texts_of_plain([(one.role, one.content) for one in plain])
    if "messages" in fields:
        return texts_of_chat(_value(fields, "messages"))
    return texts_of_prompt(_value(fields, "prompt"))


def schemas_of(fields: Fields) -> list[frozenset[str]]:
    """The property names of each JSON schema that a reply is asked to fit."""
    if _SCHEMAS.isdisjoint(fields):
        return []
    return [_properties(_schema_in(name, _value(fields, name))) for name in SCHEMA_FIELDS if name in fields]


def _value(fields: Fields, name: str) -> object:
    raw = fields.get(name)
    found = ABSENT if raw is None else decoded(raw)
    return ABSENT if found is None else found


def decoded(raw: msgspec.Raw | str) -> object:
    """The value of a piece of JSON, or `ABSENT` where it cannot be read."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        # 1. Lone surrogates and huge numbers are JSON to Python and not to msgspec.
        text = raw if isinstance(raw, str) else bytes(raw)
        value: object = json.loads(text)
        return value
    except (ValueError, RecursionError):
        return ABSENT


def _schema_in(name: str, value: object) -> object:
    """The JSON schema inside one field, in each dialect's own place; a schema may come as JSON text."""
    if name == "structured_outputs":
        value = _inner(value, "json")
    elif name == "response_format":
        value = _inner(_inner(value, "json_schema"), "schema")
    return decoded(value) if isinstance(value, str) else value


def _inner(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _properties(schema: object) -> frozenset[str]:
    properties = _inner(schema, "properties")
    return frozenset(properties) if isinstance(properties, dict) else frozenset()


class Feature(Protocol):
    """One thing to look at."""

    @property
    def weight(self) -> float:
        """What the whole feature counts; below 0 it speaks against."""

    @property
    def strong(self) -> bool:
        """Whether it may name a stage; weak ones only support."""

    @property
    def shown(self) -> str:
        """The feature in words, for people."""

    def share(self, view: RequestView) -> float:
        """How much of it the request has, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase in somebody's text, at a place where it is an instruction."""

    weight: float
    text: str
    where: Where
    place: Place
    strong = True

    @property
    def shown(self) -> str:
        """The feature in words."""
        return f'{self.where} {self.place}: "{self.text}"'

    def share(self, view: RequestView) -> float:
        """The best of the texts meant."""
        best = 0.0
        for passage in view.passages(self.where):
            if self.text in passage.text:
                best = max(best, passage.share(self.text, self.place))
        return best


@dataclass(frozen=True, slots=True)
class SchemaNames:
    """A JSON schema for the reply whose property names are exactly these."""

    weight: float
    names: frozenset[str]
    strong = True

    @property
    def shown(self) -> str:
        """The feature in words."""
        return f"schema of {', '.join(sorted(self.names))}"

    def share(self, view: RequestView) -> float:
        """All or nothing."""
        return float(self.names in view.schemas())


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A top-level value: there at all (or not), equal, near a number, or not above one."""

    weight: float
    name: str
    present: bool | None = None
    equals: str | float | bool | None = None
    near: float | None = None
    within: float = 0.0
    at_most: float | None = None
    strong = False

    @property
    def shown(self) -> str:
        """The feature in words."""
        if self.present is not None:
            return self.name if self.present else f"no {self.name}"
        if self.equals is not None:
            return f"{self.name} {json.dumps(self.equals)}"
        return f"{self.name} about {self.near:g}" if self.near is not None else f"{self.name} up to {self.at_most:g}"

    def share(self, view: RequestView) -> float:
        """All or nothing."""
        if self.present is not None:
            return float(view.has(self.name) == self.present)
        value = view.value(self.name)
        if self.equals is not None:
            return float(type(value) is type(self.equals) and value == self.equals)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _EXACT:
            return 0.0
        if self.near is not None:
            return float(abs(value - self.near) <= self.within)
        return float(self.at_most is not None and value <= self.at_most)


@dataclass(frozen=True, slots=True)
class MessageCount:
    """No more messages than this."""

    weight: float
    at_most: int
    strong = False

    @property
    def shown(self) -> str:
        """The feature in words."""
        return f"up to {self.at_most} message{'' if self.at_most == 1 else 's'}"

    def share(self, view: RequestView) -> float:
        """All or nothing; no messages at all are not few."""
        return float(1 <= view.message_count() <= self.at_most)
