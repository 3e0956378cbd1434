"""The source `packets`: questions about cognition packets and the pipeline, audits of plans and reflections on them.

Reads the files named in `packet_material.FILES` in the curriculum's folder. Option `part` says which: `audit`,
`reflection`, `diagnosis`, `reading`, `decision`, `next_step`, `annotation` or `lore`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path

from gaiad.curriculum import SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, Message
from gaiad.learner.sources import packet_tasks, plan_tasks
from gaiad.learner.sources.packet_flow import STEPS, drawn, get, packet
from gaiad.learner.sources.packet_material import FILES, Material, parse_material
from gaiad.learner.sources.source import Gathered, Ground, material_text

KIND = "packets"

PARTS: dict[str, packet_tasks.Task] = {
    "audit": plan_tasks.audits,
    "reflection": plan_tasks.reflections,
    "diagnosis": packet_tasks.diagnoses,
    "reading": packet_tasks.readings,
    "decision": packet_tasks.decisions,
    "next_step": packet_tasks.next_steps,
    "annotation": packet_tasks.annotated,
    "lore": packet_tasks.lore,
}


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Make the examples of one part, the same ones for the same spec, seed and material.

    Raises:
        CurriculumError: the options are wrong, or material is missing or contradicts itself.
    """
    part = source.options.get("part")
    if set(source.options) != {"part"} or not isinstance(part, str) or part not in PARTS:
        raise CurriculumError(
            f"sources: {KIND} takes one option, part, and was given {dict(source.options)}",
            hint=f"the parts are: {', '.join(PARTS)}",
        )
    curriculum = ground.curriculum
    origin = f"curriculum:{curriculum.adapter}@{curriculum.version}"
    return Gathered(
        tuple(
            Example(
                (
                    Message("system", one.system),
                    Message("user", one.request),
                    Message("assistant", one.answer),
                ),
                source=source.name,
                group=one.group,
                origin=f"{origin}#{one.place}",
                stage=one.stage,
                expected=one.expected,
                # Of one scenario several parts ask something, each with a packet of its own.
                kin=(f"scenario/{name}",) if (name := one.place.removeprefix("scenarios/")) != one.place else (),
            )
            for one in PARTS[part](read_material(ground.folder), curriculum.seed)
        )
    )


def read_material(folder: Path) -> Material:
    """Read and parse the material in `folder`.

    Raises:
        CurriculumError: naming every file that is missing or contradicts itself.
    """
    return _checked(tuple(material_text(folder / name) for name in FILES))


# Eight sources of a curriculum read the same files.
@functools.lru_cache(maxsize=1)
def _checked(texts: tuple[str, ...]) -> Material:
    material = parse_material(texts)
    problems = list(_disagreements(material))
    if problems:
        raise CurriculumError("; ".join(problems), hint="mend these places in the curriculum's folder")
    return material


def _disagreements(material: Material) -> Iterator[str]:
    """Where the material speaks of steps and fields that packets do not have."""
    named = tuple(step.name for step in material.steps)
    if named != STEPS:
        yield f"pipeline.json: the steps are not those of packets, {', '.join(STEPS)}"
    course = drawn(material.scenarios[0], random.Random(0))
    whole = packet(course, course.steps)
    for path in material.wordings.fields:
        if get(whole, path) is None:
            yield f"wordings.json: no packet has a field {path}"
