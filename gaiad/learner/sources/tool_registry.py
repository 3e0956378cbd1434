"""The source `tool_registry`: a registry of tools made into examples, the shipped one with its request templates.

With the option `registry` (a JSON file, or `module:attribute`) it is that registry, with the options and the grammar of
`own_tools`. Without it, it reads `tools.json`, `prompt.json` and `requests.json` in the curriculum's folder. Options:
`prompt` (style), `tools` (names; all where absent), `intents` (names; all where absent; where given, the catalogue
shows only what they need), `fills` (forms of each template), `catalogue_variants` (other catalogues, with tools
missing, shuffled and mixed with strange ones; at most so many as are used often enough) and `runtime_share` (how often
the runtime's own catalogue is used).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jsonschema

from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, Message, catalogue_of
from gaiad.learner.sources import own_tools
from gaiad.learner.sources.requests import NO_TOOL, Intent, Material, Spoken, parse_material, spoken
from gaiad.learner.sources.source import Gathered, Ground, material_text
from gaiad.learner.sources.tool_prompt import Prompt, Tool, answer, parse_prompt, parse_tools, request

STAGE = "tool_selection"
KIND = "tool_registry"

_OPTIONS = {"prompt", "tools", "intents", "fills", "catalogue_variants", "runtime_share"}
_DROPPED, _ADDED = 2, 2
_MISSING_CONFIDENCE = 0.85


@dataclass(frozen=True, slots=True)
class _Registry:
    """The source read and narrowed to its options; `catalogues[0]` is the runtime's own."""

    prompt: Prompt
    material: Material
    intents: tuple[Intent, ...]
    tools: dict[str, Tool]
    catalogues: tuple[tuple[Tool, ...], ...]
    runtime_share: float
    fills: int


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Generate the source's examples, the same ones for the same spec, seed and material.

    Raises:
        CurriculumError: where material is missing or contradicts itself.
    """
    named = _named(source)
    if named is not None:
        return own_tools.from_registries(source, ground, (named,))
    curriculum = ground.curriculum
    registry = _read(source, ground)
    schema = curriculum.stage_schemas.get(STAGE)
    origin = f"curriculum:{curriculum.adapter}@{curriculum.version}"
    examples = []
    for one in spoken(registry.material, registry.intents, fills=registry.fills, seed=curriculum.seed):
        catalogue = _catalogue_for(registry, one, curriculum.seed)
        tool, params, line = _answered(one, catalogue)
        examples.append(
            Example(
                (*request(registry.prompt, catalogue, one.text), line),
                source=source.name,
                group=one.group,
                origin=origin,
                stage=STAGE,
                schema=schema,
                expected={"selected_tool": tool, "params": params},
            )
        )
    own = Example((*request(registry.prompt, registry.catalogues[0], ""), Message("assistant", "")), "", "", "")
    return Gathered(tuple(examples), own_catalogues=frozenset({str(catalogue_of(own))}))


def runtime_request(curriculum: Curriculum, folder: Path, words: str) -> tuple[Message, ...]:
    """The messages that the runtime sends for `words`, with its own catalogue, under the curriculum's profile."""
    for source in curriculum.sources:
        if source.kind == KIND:
            named = _named(source)
            if named is not None:
                return own_tools.first_request(source, Ground(curriculum, folder), (named,), words)
            registry = _read(source, Ground(curriculum, folder))
            return request(registry.prompt, registry.catalogues[0], words)
    raise CurriculumError(f"{curriculum.adapter} has no source of kind {KIND}", hint="only such a source has requests")


def _named(source: SourceSpec) -> str | None:
    """The registry that the source names, None where it is the shipped one."""
    options = source.options
    if "registry" not in options:
        return None
    unknown = sorted(set(options) - own_tools.OPTIONS - {"registry"})
    if unknown or not isinstance(options["registry"], str):
        raise CurriculumError(
            f"sources: {KIND} with a registry of its own has no options {', '.join(unknown) or 'but a named registry'}",
            hint=f"known: registry (a text), {', '.join(sorted(own_tools.OPTIONS))}",
        )
    return options["registry"]


def _read(source: SourceSpec, ground: Ground) -> _Registry:
    options, curriculum, folder = source.options, ground.curriculum, ground.folder
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise CurriculumError(
            f"sources: {KIND} has no options {', '.join(unknown)}", hint=f"known: {', '.join(sorted(_OPTIONS))}"
        )
    prompt = parse_prompt(material_text(folder / "prompt.json"), str(options.get("prompt", "runtime")))
    known, distractors = parse_tools(material_text(folder / "tools.json"))
    material = parse_material(material_text(folder / "requests.json"))
    intents = _chosen_intents(options.get("intents"), options.get("tools"), material)
    tools = _chosen_tools(options.get("tools"), intents, known, narrow="intents" in options)
    _check_params(intents, tools)
    variants = options.get("catalogue_variants", max(0, curriculum.split.train // 32 - 1))
    share, fills = options.get("runtime_share", 0.66), options.get("fills", 8)
    if not isinstance(variants, int) or not isinstance(fills, int) or not isinstance(share, int | float):
        raise CurriculumError(
            "sources: fills, catalogue_variants and runtime_share must be numbers", hint="mend the options"
        )
    # A variant that is hardly ever used shares no prefix with anything.
    variants = min(variants, int((1 - share) * own_tools.aim(source, ground) / own_tools.VARIANT_USES))
    own = tuple(tools.values())
    others = [_variant(own, tuple(distractors.values()), curriculum.seed, number) for number in range(variants)]
    return _Registry(prompt, material, intents, tools, (own, *others), float(share) if variants else 1.0, fills)


def _names(given: Json, what: str, known: Sequence[str]) -> list[str]:
    names = cast("list[str]", given) if isinstance(given, list) else list(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise CurriculumError(f"sources: unknown {what} {', '.join(unknown)}", hint=f"known: {', '.join(known)}")
    return names


def _chosen_intents(given: Json, tools: Json, material: Material) -> tuple[Intent, ...]:
    names = _names(given, "intents", [intent.name for intent in material.intents])
    wanted = set(cast("list[str]", tools)) | {NO_TOOL} if isinstance(tools, list) else None
    return tuple(
        intent for intent in material.intents if intent.name in names and (wanted is None or intent.tool in wanted)
    )


def _chosen_tools(given: Json, intents: Sequence[Intent], known: dict[str, Tool], *, narrow: bool) -> dict[str, Tool]:
    chosen = {name: known[name] for name in _names(given, "tools", list(known))}
    missing = sorted({intent.tool for intent in intents} - set(chosen) - {NO_TOOL})
    if missing:
        raise CurriculumError(f"requests.json asks for tools that are not there: {', '.join(missing)}", hint="add them")
    if not narrow:
        return chosen
    used = {name: [intent for intent in intents if intent.tool == name] for name in chosen}
    return {
        name: tool.narrowed([one.action for one in used[name]], [key for one in used[name] for key in one.params])
        for name, tool in chosen.items()
        if used[name]
    }


def _check_params(intents: Sequence[Intent], tools: dict[str, Tool]) -> None:
    """Every intent must name an action and parameters that its tool has."""
    problems = []
    for intent in intents:
        if intent.tool == NO_TOOL:
            continue
        properties = tools[intent.tool].properties
        actions = cast("list[str]", properties.get("action", {}).get("enum", []))
        strange = sorted(set(intent.params) - set(properties))
        if intent.action not in actions or strange:
            problems.append(f"{intent.name}: action not in {actions}, or unknown parameters {strange}")
    if problems:
        raise CurriculumError(f"requests.json and tools.json disagree: {'; '.join(problems)}", hint="mend either")


def _variant(own: tuple[Tool, ...], strange: tuple[Tool, ...], seed: int, number: int) -> tuple[Tool, ...]:
    """Another catalogue: some of the runtime's tools missing, some strange ones among them, in another order.

    The variants leave out all tools in turn, so that none is missing oftener than another.
    """
    turns = random.Random(f"{seed}/missing").sample(own, len(own))
    missing = {turns[(number * _DROPPED + at) % len(turns)].name for at in range(min(_DROPPED, len(own) - 1))}
    draw = random.Random(f"{seed}/catalogue/{number}")
    kept = [tool for tool in own if tool.name not in missing]
    mixed = [*kept, *draw.sample(strange, min(_ADDED, len(strange)))]
    draw.shuffle(mixed)
    return tuple(mixed)


def _catalogue_for(registry: _Registry, one: Spoken, seed: int) -> tuple[Tool, ...]:
    """The runtime's catalogue mostly; which of the others follows from the request itself."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed}/{one.group}/{one.text}".encode()).digest()[:8]) / 2**64
    if drawn < registry.runtime_share:
        return registry.catalogues[0]
    others = registry.catalogues[1:]
    place = (drawn - registry.runtime_share) / (1 - registry.runtime_share)
    return others[min(int(place * len(others)), len(others) - 1)]


def _answered(one: Spoken, catalogue: Sequence[Tool]) -> tuple[str, dict[str, Json], Message]:
    """The right tool, its parameters and the answer's line, given what the catalogue offers."""
    name = one.intent.tool
    if name == NO_TOOL:
        return "", {}, answer("", {}, f"'{one.deciding}' needs no tool", one.confidence)
    tool = next((tool for tool in catalogue if tool.name == name), None)
    if tool is None:
        reason = f"nothing here serves '{one.deciding}'"
        return "", {}, answer("", {}, reason, min(one.confidence, _MISSING_CONFIDENCE))
    params: dict[str, Json] = {"action": one.intent.action, **one.params}
    if not jsonschema.Draft202012Validator(dict(tool.parameters)).is_valid(params):
        raise CurriculumError(
            f"{one.group} gives {name} parameters that it does not take: {params}", hint="mend either"
        )
    return name, params, answer(name, params, f"'{one.deciding}' asks {name} {one.intent.action}", one.confidence)
