"""The source `replay`: general requests with short, right answers, so that an adapter forgets no skill of its base.

Reads JSON lines of skill, request and answer: `replay/general.jsonl` among the curricula that come with gaiad, or the
file in the curriculum's folder that the option `file` names. Option `skills` says which skills; all where absent. A
line that cannot be used is refused by its number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from gaiad.curriculum import Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.example import Example, Message
from gaiad.learner.sources.source import Gathered, Ground, Refused, shipped_curricula

KIND = "replay"
GENERAL = Path("replay") / "general.jsonl"
"""Where the shipped requests lie, below the shipped curricula."""

_OPTIONS = {"skills", "file"}
_KEYS = {"skill", "request", "answer"}
_MOST_BYTES = 8 * 1024 * 1024
_CHARACTERS_A_TOKEN, _MARGIN = 3.2, 0.9


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Read the requests, in the file's order, and name the lines that cannot be used.

    Raises:
        CurriculumError: an option is wrong, no request has a skill that was asked for, or the file cannot be read.
    """
    curriculum = ground.curriculum
    skills, path = _options(source, ground.folder)
    budget = int(curriculum.training.max_sequence_tokens * _CHARACTERS_A_TOKEN * _MARGIN)
    examples: list[Example] = []
    refused: list[Refused] = []
    known: set[str] = set()
    for number, line in enumerate(_lines(path), start=1):
        origin = f"curriculum:{curriculum.adapter}@{curriculum.version}#{path.parent.name}/{path.name}/{number}"
        row = _row(line, budget)
        if isinstance(row, str):
            refused.append(Refused(origin, row))
            continue
        skill, request, answer = row
        known.add(skill)
        if skills is None or skill in skills:
            messages = (Message("user", request), Message("assistant", answer))
            examples.append(Example(messages, source=source.name, group=f"{skill}/{number:04d}", origin=origin))
    if unknown := sorted(set(skills or ()) - known):
        raise CurriculumError(
            f"sources: {KIND}: no request has the skill {', '.join(unknown)}", hint=f"known: {', '.join(sorted(known))}"
        )
    return Gathered(tuple(examples), tuple(refused))


def _options(source: SourceSpec, folder: Path) -> tuple[list[str] | None, Path]:
    skills, file = source.options.get("skills"), source.options.get("file")
    problems = [f"no option {name!r}" for name in sorted(set(source.options) - _OPTIONS)]
    if skills is not None and (not isinstance(skills, list) or not all(isinstance(one, str) for one in skills)):
        problems.append("skills must be a list of names")
    if file is not None and not isinstance(file, str):
        problems.append("file must be a file's name")
    if problems:
        raise CurriculumError(f"sources: {KIND}: {'; '.join(problems)}", hint=f"known: {', '.join(sorted(_OPTIONS))}")
    path = folder / file if isinstance(file, str) else shipped_curricula() / GENERAL
    return cast("list[str] | None", skills), path


def _lines(path: Path) -> list[str]:
    hint = "name a file of JSON lines with skill, request and answer"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CurriculumError(f"cannot read {path}: {error}", hint=hint) from error
    if len(content) > _MOST_BYTES:
        raise CurriculumError(f"{path} is larger than {_MOST_BYTES} bytes", hint=hint)
    # Not by splitlines, which would divide at separators inside a text as well.
    return text.removesuffix("\n").split("\n")


def _row(line: str, budget: int) -> tuple[str, str, str] | str:
    """Skill, request and answer of a line, or what is wrong with it."""
    try:
        found: Json = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(found, dict) or set(found) != _KEYS:
        return f"not an object with {', '.join(sorted(_KEYS))} and nothing else"
    skill, request, answer = found["skill"], found["request"], found["answer"]
    if not (isinstance(skill, str) and isinstance(request, str) and isinstance(answer, str)):
        return "skill, request and answer must be text"
    if not (skill.strip() and request.strip() and answer.strip()) or "/" in skill:
        return "skill, request or answer is empty, or the skill has a slash"
    if len(request) + len(answer) > budget:
        return f"longer than {budget} characters"
    return skill, request.strip(), answer.strip()
