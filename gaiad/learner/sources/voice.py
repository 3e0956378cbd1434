"""The source `voice`: conversations in the assistant's own voice, each with the wrong voice's answer beside it.

Reads `voice.json` and `intents/*.json` in the curriculum's folder. Options of the source: `intents` (names; all where
absent) and `fills` (forms of each English question, the others with a sentence before it).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from gaiad.curriculum import Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, Message
from gaiad.learner.sources.persona import Intent, Spoken, check, parse_frame, parse_intents, spoken
from gaiad.learner.sources.source import Gathered, Ground, material_text

KIND = "voice"
STAGE = "generation"

_OPTIONS = {"intents", "fills"}
_CHARACTERS_A_TOKEN, _MARGIN = 3.2, 0.9


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Say everything that the material holds, the same for the same spec, seed and material.

    Raises:
        CurriculumError: where an option is wrong, or material is missing or contradicts itself.
    """
    curriculum = ground.curriculum
    wanted, fills = _options(source)
    frame = parse_frame(material_text(ground.folder / "voice.json"))
    intents = _intents(ground.folder / "intents")
    check(intents, frame)
    chosen = _chosen(intents, wanted)
    origin = f"curriculum:{curriculum.adapter}@{curriculum.version}"
    said = spoken(chosen, frame, fills=fills, seed=curriculum.seed)
    examples = tuple(_example(one, source, origin) for one in said)
    budget = int(curriculum.training.max_sequence_tokens * _CHARACTERS_A_TOKEN * _MARGIN)
    long = sorted({one.origin for one in examples if sum(len(message.content) for message in one.messages) > budget})
    if long:
        raise CurriculumError(
            f"sources: {KIND}: longer than {budget} characters: {', '.join(long)}", hint="shorten these places"
        )
    return Gathered(examples)


def _options(source: SourceSpec) -> tuple[list[str] | None, int]:
    wanted, fills = source.options.get("intents"), source.options.get("fills", 2)
    problems = [f"no option {name!r}" for name in sorted(set(source.options) - _OPTIONS)]
    if wanted is not None and (not isinstance(wanted, list) or not wanted):
        problems.append("intents must be a list of names")
    if not isinstance(fills, int) or isinstance(fills, bool) or fills < 1:
        problems.append("fills must be a number of 1 or more")
    if problems:
        raise CurriculumError(f"sources: {KIND}: {'; '.join(problems)}", hint=f"known: {', '.join(sorted(_OPTIONS))}")
    return cast("list[str] | None", wanted), cast(int, fills)


def _intents(folder: Path) -> tuple[Intent, ...]:
    files = sorted(folder.glob("*.json"), key=lambda path: path.name)
    if not files:
        raise CurriculumError(f"{folder} holds no intents", hint="restore the curriculum's folder")
    return tuple(intent for path in files for intent in parse_intents(material_text(path), path.name))


def _chosen(intents: Sequence[Intent], wanted: Sequence[str] | None) -> list[Intent]:
    if wanted is None:
        return [*intents]
    known = [intent.name for intent in intents]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise CurriculumError(f"sources: unknown intents {', '.join(unknown)}", hint=f"known: {', '.join(known)}")
    return [intent for intent in intents if intent.name in wanted]


def _example(one: Spoken, source: SourceSpec, origin: str) -> Example:
    roles = ["user" if at % 2 == 0 else "assistant" for at in range(len(one.turns))]
    said = [Message(role, text) for role, text in zip(roles, one.turns, strict=True)]
    system = [Message("system", one.system)] if one.system else []
    return Example(
        (*system, *said, Message("assistant", one.answer)),
        source=source.name,
        group=one.group,
        origin=f"{origin}#{one.group}",
        stage=STAGE,
        expected=_expected(one),
        rejected=one.rejected,
    )


def _expected(one: Spoken) -> dict[str, Json]:
    """What an exam demands: something of what was asked for, nothing of the wrong voice, and no more than it takes."""
    contains: list[Json] = [texts[0] if len(texts) == 1 else [*texts] for texts in one.contains]
    demands: dict[str, Json] = {"contains": contains, "lacks": [*one.lacks], "most_words": one.most_words}
    return {form: wanted for form, wanted in demands.items() if wanted}
