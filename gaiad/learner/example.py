"""One example: a request with its right answer, as every source gives it and every dataset file holds it.

Nouns only: it knows its line in a file and its short id, not where it belongs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from gaiad.curriculum import Json
from gaiad.errors import DatasetError

EXCHANGE_ORIGIN = "exchange:"
"""An example that came from a user's exchange has this and the exchange's id as its origin and its group."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message in OpenAI's form, text content only."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One request with its right answer last.

    `group` is never divided between splits; what precedes its last "/" is the stratum that the splits share fairly.
    `origin` says where it came from, `expected` what an exam compares with. `kin` names the larger wholes that it is a
    part of, the largest first and each as a group is named: a document, a section, a set of contrasts. The splits keep
    them whole where they can; no file holds them. Nor does one hold `of`: the key of the example that this one says in
    other words, empty where it is none's.
    """

    messages: tuple[Message, ...]
    source: str
    group: str
    origin: str
    stage: str | None = None
    schema: Mapping[str, Json] | None = None
    expected: Mapping[str, Json] | None = None
    rejected: str | None = None
    weight: float = 1.0
    kin: tuple[str, ...] = field(default=(), compare=False)
    of: str = field(default="", compare=False)

    @property
    def answer(self) -> str:
        """The assistant's text, which training learns to give."""
        return self.messages[-1].content

    @property
    def stratum(self) -> str:
        """What the example is about, as far as fair shares go."""
        return kind_of(self.group)

    def key(self) -> str:
        """A short stable id of the request (16 hex digits); two examples with the same messages share it."""
        return sha_of([[one.role, one.content] for one in self.messages[:-1]])[:16]

    def to_json(self) -> dict[str, Json]:
        """The example as one line of a dataset file; absent options are left out."""
        line: dict[str, Json] = {
            "messages": [{"role": one.role, "content": one.content} for one in self.messages],
            "source": self.source,
            "group": self.group,
            "origin": self.origin,
        }
        optional: dict[str, Json] = {
            "stage": self.stage,
            "schema": dict(self.schema) if self.schema is not None else None,
            "expected": dict(self.expected) if self.expected is not None else None,
            "rejected": self.rejected,
            "weight": self.weight if self.weight != 1.0 else None,
        }
        line.update({key: value for key, value in optional.items() if value is not None})
        return line

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> Example:
        """Read a dataset line, or raise DatasetError naming what is wrong with it."""
        try:
            rows = cast("list[dict[str, Json]]", raw["messages"])
            messages = tuple(Message(_text(row["role"]), _text(row["content"])) for row in rows)
            if len(messages) < 2 or messages[-1].role != "assistant":
                raise ValueError("the assistant's answer must stand last, after a request")
            return cls(
                messages,
                source=_text(raw["source"]),
                group=_text(raw["group"]),
                origin=_text(raw["origin"]),
                stage=_optional_text(raw.get("stage")),
                schema=cast("dict[str, Json] | None", raw.get("schema")),
                expected=cast("dict[str, Json] | None", raw.get("expected")),
                rejected=_optional_text(raw.get("rejected")),
                weight=float(cast(float, raw.get("weight", 1.0))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"not an example: {error!r}", hint="rebuild the dataset") from error


def kind_of(name: str) -> str:
    """What kind of thing a group's or a whole's name is one of: all before its last "/"."""
    return name.rpartition("/")[0] or name


def _text(value: Json) -> str:
    if not isinstance(value, str):
        # Not what stands there: it may be what somebody said.
        raise TypeError(f"a {type(value).__name__} stands where a text belongs")
    return value


def _optional_text(value: Json) -> str | None:
    return None if value is None else _text(value)


def canonical(value: object) -> str:
    """The one JSON text of a value: keys sorted, no blanks."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha_of(value: object) -> str:
    """SHA-256 in hex of a value's one JSON text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
