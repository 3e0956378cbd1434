"""The source `judgement`: reviews of tool selections, confidence, intents and world states from shipped material.

Reads `judgement.json` and `requests.json` in the curriculum's folder. Option `part` says which of the four:
`tool_review`, `confidence`, `intent` or `world_state`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gaiad.curriculum import Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, Message
from gaiad.learner.sources.judgements import WORLD_STATE, Judgements
from gaiad.learner.sources.requests import parse_material
from gaiad.learner.sources.source import Gathered, Ground, material_text

KIND = "judgement"


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Make the judgements of one part, the same ones for the same spec, seed and material.

    Raises:
        CurriculumError: the options are wrong, or material is missing or contradicts itself.
    """
    part = source.options.get("part")
    if set(source.options) != {"part"} or not isinstance(part, str):
        raise CurriculumError(f"sources: {KIND} takes one option, part", hint="name the part, for example tool_review")
    curriculum = ground.curriculum
    material = parse_material(material_text(ground.folder / "requests.json"))
    judgements = Judgements(material_text(ground.folder / "judgement.json"), material)
    # A report about the machine belongs to no stage: it is asked for in the midst of any.
    stage = None if part == WORLD_STATE else part
    schema: Mapping[str, Json] | None = curriculum.stage_schemas.get(part)
    origin = f"curriculum:{curriculum.adapter}@{curriculum.version}"
    return Gathered(
        tuple(
            Example(
                (*one.messages, Message("assistant", one.answer)),
                source=source.name,
                group=one.group,
                origin=f"{origin}#{one.place}",
                stage=stage,
                schema=schema,
                expected=one.expected,
            )
            for one in judgements.of(part, curriculum.seed)
        )
    )
