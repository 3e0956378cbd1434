"""What the base is asked for its own training, what it says, and what becomes of it, line by line.

Nouns, and the form of a line in a file. Lines that were refused stand there too, with the
reason: what was asked need not be asked again. Who asks, and where files lie, is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

from gaiad.curriculum import Json
from gaiad.errors import Refuse
from gaiad.learner.example import Message

KEPT = "kept"
PARAPHRASES = "paraphrases.jsonl"
"""Proposals for one adapter's requests, in a folder of the adapter's name below the owner's."""
REPLIES = "replies.jsonl"
"""Replies to general requests, for all adapters, in the owner's folder."""
SELF_INSTRUCT, SELF_REPLAY = "self_instruct", "self_replay"
SELF_MADE = frozenset({SELF_INSTRUCT, SELF_REPLAY})
"""The kinds of sources that read such files."""


@dataclass(frozen=True, slots=True)
class Base:
    """Which base model spoke: the name it is served by, the engine's version, a digest of its files where seen."""

    served: str
    engine: str = ""
    digest: str = ""

    def is_same(self, other: Base) -> bool:
        """Whether both are the same base; what one of them does not know does not count."""
        known = self.digest and other.digest
        return self.served == other.served and (not known or self.digest == other.digest)


@dataclass(frozen=True, slots=True)
class Made:
    """One thing that the base said. `key` names what it was asked, `of` the example that was about ("" for none).

    `group` is what its example will belong to, `asked` the last message that the base read, `sampling` how it was to
    answer, its seed included, `at` when (ISO 8601, UTC), `verdict` KEPT or why it is not.
    """

    key: str
    of: str
    group: str
    request: str
    asked: str
    text: str
    finish_reason: str
    verdict: str
    sampling: Mapping[str, float]
    base: Base
    at: str

    @property
    def is_kept(self) -> bool:
        """Whether it passed when it was made."""
        return self.verdict == KEPT

    def line(self) -> str:
        """Its line in a file, the end included."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Question:
    """What the base is asked. `key` names it for good, `of` the example it is about, `seed` draws the answer."""

    key: str
    of: str
    group: str
    request: str
    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Said:
    """One answer: its text and why it ended."""

    text: str
    finish_reason: str


_TEXTS = ("key", "of", "group", "request", "asked", "text", "finish_reason", "verdict", "at")


def made_of(line: str) -> Made | Refuse:
    """Read a line, or say why it is none."""
    try:
        raw: Json = json.loads(line)
    except (ValueError, RecursionError):
        return Refuse("it is no JSON")
    if not isinstance(raw, dict):
        return Refuse("it is no object")
    texts = {name: raw.get(name) for name in _TEXTS}
    wrong = [name for name, value in texts.items() if not isinstance(value, str)]
    base, sampling = raw.get("base"), raw.get("sampling")
    if not isinstance(base, dict) or not all(
        isinstance(base.get(name), str) for name in ("served", "engine", "digest")
    ):
        wrong.append("base")
    if not isinstance(sampling, dict) or not all(isinstance(one, int | float) for one in sampling.values()):
        wrong.append("sampling")
    if wrong:
        return Refuse(f"it has no usable {', '.join(wrong)}")
    who = cast("dict[str, str]", base)
    return Made(
        **cast("dict[str, str]", texts),
        sampling=cast("dict[str, float]", sampling),
        base=Base(who["served"], who["engine"], who["digest"]),
    )
