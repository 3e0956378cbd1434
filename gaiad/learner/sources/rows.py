"""One row of somebody's training file as an example: an instruction with its output, messages, or a chosen answer.

Takes what is usual: `instruction` (with `input`) and `output`, `prompt` and `completion`, `messages`; `rejected` or
`chosen` and `rejected`; `category`, `weight`, `stage`, `expected`. An instruction that begins with "System:" is taken
apart into roles. Pure: what cannot be used is said, and what it is used for is the curriculum's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gaiad.curriculum import Curriculum, Json
from gaiad.errors import Refuse
from gaiad.learner.example import Example, Message
from gaiad.learner.exams.score import fits, parsed_object
from gaiad.learner.lengths import may_be_too_long

ROLES = frozenset({"system", "user", "assistant"})
_ASKING = ("instruction", "prompt", "question")
_ANSWERING = ("output", "completion", "response", "answer", "chosen")
_TURN = re.compile(r"^[ \t]*(System|User|Assistant):[ \t]*", re.MULTILINE)
_INNER = re.compile(r"\s(?=User:\s)")
_LABEL_CHARACTERS = 40
_MOST_WEIGHT = 100.0
_WRONG = frozenset({"bad", "incorrect", "negative", "rejected", "wrong"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: under which source's name, in which file, on which line; and at which stage it is used."""

    source: str
    file: str
    line: int
    stage: str

    @property
    def origin(self) -> str:
        """The row's provenance."""
        return f"{self.file}#{self.line}"


def example_of(raw: Json, place: Place, curriculum: Curriculum) -> Example | Refuse:
    """Read one row, or say why it cannot be used."""
    if not isinstance(raw, dict):
        return _refused("it is no object")
    messages = _messages(raw)
    if isinstance(messages, Refuse):
        return messages
    weight = raw.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= _MOST_WEIGHT:
        return _refused(f"its weight {weight!r} is no number above 0 and up to {_MOST_WEIGHT:g}")
    rejected = raw.get("rejected")
    if rejected is not None and (not isinstance(rejected, str) or rejected.strip() in ("", messages[-1].content)):
        return _refused("`rejected` is no other text than the right answer")
    if str(raw.get("pair_type", "")).casefold() in _WRONG:
        return _refused("it is marked as a wrong answer, and a wrong answer alone teaches nothing")
    stage = str(raw.get("stage") or place.stage)
    if stage not in curriculum.stages:
        return _refused(f"its stage {stage!r} is none of {', '.join(curriculum.stages)}")
    schema = curriculum.stage_schemas.get(stage)
    if schema is not None and not fits(schema, parsed_object(messages[-1].content)):
        return _refused(f"its answer does not fit the schema of {stage}")
    expected = raw.get("expected", _expected(messages[-1].content, stage))
    example = Example(
        messages,
        source=place.source,
        group=f"{_about(raw)}/{place.origin.replace('/', '-')}",
        origin=place.origin,
        stage=stage,
        schema=schema,
        expected=expected if isinstance(expected, dict) and expected else None,
        rejected=rejected.strip() if rejected is not None else None,
        weight=float(weight),
    )
    if may_be_too_long(example, curriculum.training.max_sequence_tokens):
        return _refused(f"it is too long for max_sequence_tokens = {curriculum.training.max_sequence_tokens}")
    return example


def _refused(reason: str) -> Refuse:
    return Refuse(reason, "mend the row, or leave it out")


def _messages(raw: Mapping[str, Json]) -> tuple[Message, ...] | Refuse:
    found = raw.get("messages", raw.get("conversations"))
    if found is not None:
        return _of_list(found)
    asked, answered = _text(raw, _ASKING), _text(raw, _ANSWERING)
    if asked is None or answered is None:
        return _refused(f"it has no text for {' or '.join(_ASKING if asked is None else _ANSWERING)}")
    if isinstance(more := raw.get("input"), str) and more.strip():
        asked = f"{asked}\n\n{more.strip()}"
    system = raw.get("system")
    turns = in_roles(asked)
    if isinstance(system, str) and system.strip():
        turns = (Message("system", system.strip()), *turns)
    return _checked((*turns, Message("assistant", answered)))


def _of_list(found: Json) -> tuple[Message, ...] | Refuse:
    if not isinstance(found, list):
        return _refused("its messages are no list")
    turns = []
    for one in found:
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            return _refused("a message of it has no role or no text")
        turns.append(Message(role, content.strip()))
    return _checked(tuple(turns))


def _checked(turns: Sequence[Message]) -> tuple[Message, ...] | Refuse:
    strange = sorted({one.role for one in turns} - ROLES)
    if strange:
        return _refused(f"a message has the role {strange[0]!r}, which is none of {', '.join(sorted(ROLES))}")
    if any(not one.content for one in turns):
        return _refused("a message of it is empty")
    if len(turns) < 2 or turns[-1].role != "assistant" or turns[-2].role != "user":
        return _refused("no answer of the assistant stands last, after a request")
    return tuple(turns)


def _text(raw: Mapping[str, Json], names: Sequence[str]) -> str | None:
    """The first of these fields that is there, as text; an object or list is its JSON."""
    for name in names:
        if (found := raw.get(name)) is not None:
            text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
            return text.strip() or None
    return None


def in_roles(instruction: str) -> tuple[Message, ...]:
    """An instruction as messages: "System: ... User: ..." taken apart, anything else one request of the user."""
    text = instruction.strip()
    if not re.match(r"(System|User):\s", text):
        return (Message("user", text),)
    # The roles may stand in one line, too.
    marked = text if len(_TURN.findall(text)) > 1 else _INNER.sub("\n", text, count=1)
    parts = _TURN.split(marked)[1:]
    turns = [Message(role.lower(), said.strip()) for role, said in zip(parts[::2], parts[1::2], strict=True)]
    if turns[-1].role == "assistant" and not turns[-1].content:
        turns.pop()
    return tuple(turns)


def _about(raw: Mapping[str, Json]) -> str:
    """What a row is about, as far as it says: what the splits share fairly."""
    skills = raw.get("skills")
    first = skills[0] if isinstance(skills, list) and skills else None
    said = raw.get("category") or raw.get("group") or first or raw.get("pair_type") or "row"
    return str(said).strip().replace("/", "-")[:80] or "row"


def _expected(answer: str, stage: str) -> dict[str, Json] | None:
    """What an exam may hold the answer to: an object's fields, or one short line. Longer text has many right forms."""
    found = parsed_object(answer)
    if found is not None and stage == "tool_selection" and "selected_tool" in found:
        params = found.get("params")
        given = parsed_object(params) if isinstance(params, str) else params
        return {"selected_tool": found["selected_tool"], "params": given or {}}
    if found:
        return {"fields": cast("Json", dict(found))}
    return {"label": answer} if len(answer) <= _LABEL_CHARACTERS and "\n" not in answer else None
