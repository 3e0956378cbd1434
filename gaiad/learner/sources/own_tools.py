"""The source `own_tools`: the owner's registries of tools, as the settings name them, made into examples.

Gives nothing where no registry is configured. Requests come from the grammar of `tool_requests`; the wording lies in
the curriculum's folder (`prompt.json`, `frames.json`, `requests.json` for what needs no tool, `tools.json` for strange
tools). Options: `prompt` (style), `per_tool` (requests for each tool), `catalogue_variants` (at most so many) and
`none_share` (how many of the requests need no tool). `tool_registry` uses the same for a registry that it names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import cast

from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, Message, catalogue_of
from gaiad.learner.sources.registry_files import registry_text
from gaiad.learner.sources.registry_forms import read_registry
from gaiad.learner.sources.requests import NO_TOOL, Material, Spoken, parse_material, spoken
from gaiad.learner.sources.self_made_files import is_absent
from gaiad.learner.sources.source import Gathered, Ground, Refused, material_text
from gaiad.learner.sources.tool_catalogues import Variant, divided, variants
from gaiad.learner.sources.tool_frames import Frames, parse_frames
from gaiad.learner.sources.tool_prompt import Prompt, Tool, answer, parse_prompt, parse_tools, request
from gaiad.learner.sources.tool_requests import Asked, asked, confidence_among
from gaiad.learner.wholes import TEMPLATE

KIND = "own_tools"
STAGE = "tool_selection"
OPTIONS = frozenset({"prompt", "per_tool", "catalogue_variants", "none_share"})

_CHARACTERS_A_TOKEN = 2.6
_REQUEST_ROOM = 620
"""Characters left for request and answer beside the catalogue."""
_LEAST_ROOM = 120
_USES, VARIANT_USES = 40, 28
"""How many examples a part of the registry is planned for at least, and a variant; a dataset wants 16 of each."""
_OTHER_SHARE, _MOST_OTHER_SHARE = 0.3, 0.5
"""How many requests see a variant of their part of the registry; the second where only some parts have one."""
_ELSEWHERE = 0.05
"""How often a tool is asked for under another part of the registry, where it does not stand."""
_ABSENT_STRATA = 0.05
"""Strata of requests whose tool is missing, for each tool that can be asked for."""
_GOLDEN = 0.6180339887498949
_FEWEST, _MOST_REQUESTS, _DISTINCT_REQUESTS = 12, 240, 120
_MISSING_CONFIDENCE = 0.85


@dataclass(frozen=True, slots=True)
class _Shown:
    """What requests are made from: wording, catalogues (the registry's own parts) and their variants."""

    curriculum: Curriculum
    source: SourceSpec
    prompt: Prompt
    frames: Frames
    material: Material
    catalogues: tuple[tuple[Tool, ...], ...]
    variants: tuple[Variant, ...]
    variant_share: float
    most_characters: int


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Make the examples of every registry that the settings name, as if they were one.

    Raises:
        CurriculumError: where a registry cannot be read or the options are wrong.
    """
    if not ground.registries:
        return Gathered(())
    return from_registries(source, ground, ground.registries)


def from_registries(source: SourceSpec, ground: Ground, names: Sequence[str]) -> Gathered:
    """Make the examples of the named registries; what cannot be used of them is refused by name.

    Raises:
        CurriculumError: where a registry cannot be read, nothing of it can be used, or the options are wrong.
    """
    tools, refused = _tools(names, ground.folder)
    shown, without_room = _shown(source, ground, tools)
    refused += [Refused(f"tool:{tool.name}", "there is no room for it in the catalogues") for tool in without_room]
    examples: list[Example] = []
    own: set[str] = set()
    counter = count()
    placed = [(part, tool) for part, catalogue in enumerate(shown.catalogues) for tool in catalogue]
    wanted = _wanted(source, ground, len(placed))
    for place, (part, tool) in enumerate(placed):
        try:
            found = list(_examples_of(shown, tool, part, place, wanted, counter, own))
        except ValueError as error:
            found = []
            refused.append(Refused(f"tool:{tool.name}", str(error)))
        else:
            if not found:
                refused.append(Refused(f"tool:{tool.name}", "its requests are longer than the sequence length"))
        examples += found
    if not examples:
        raise CurriculumError(
            f"no tool of {', '.join(names)} can be asked for: {refused[0].reason}", hint="mend the registry's schemas"
        )
    examples += _without_tool(shown, len(examples), counter, own)
    return Gathered(tuple(examples), tuple(refused), frozenset(own))


def first_request(source: SourceSpec, ground: Ground, names: Sequence[str], words: str) -> tuple[Message, ...]:
    """The messages for `words` under the first catalogue of the registries."""
    shown, _ = _shown(source, ground, _tools(names, ground.folder)[0])
    return request(shown.prompt, shown.catalogues[0], words)


def _tools(names: Sequence[str], folder: Path) -> tuple[list[Tool], list[Refused]]:
    tools: dict[str, Tool] = {}
    refused = []
    for name in names:
        read = read_registry(registry_text(name, folder), name)
        refused += [Refused(f"registry:{name}#{one.name}", one.reason) for one in read.unusable]
        for tool in read.tools:
            if tool.name in tools:
                refused.append(Refused(f"registry:{name}#{tool.name}", "another registry has a tool of this name"))
            tools.setdefault(tool.name, tool)
    return list(tools.values()), refused


def _shown(source: SourceSpec, ground: Ground, tools: Sequence[Tool]) -> tuple[_Shown, list[Tool]]:
    options, curriculum, folder = source.options, ground.curriculum, ground.folder
    prompt = parse_prompt(material_text(folder / "prompt.json"), str(options.get("prompt", "runtime")))
    frames = parse_frames(material_text(folder / "frames.json"))
    material = replace(
        parse_material(material_text(folder / "requests.json")),
        openers=frames.openers,
        closers=frames.closers,
        contexts=frames.contexts,
    )
    most = int(curriculum.training.max_sequence_tokens * _CHARACTERS_A_TOKEN)
    frame = sum(len(one.content) for one in request(prompt, [], ""))
    room = max(_LEAST_ROOM, most - frame - _REQUEST_ROOM)
    catalogues, left = divided(tools, room, max(1, aim(source, ground) // _USES))
    if not catalogues:
        raise CurriculumError(
            "no tool fits the sequence length", hint="raise max_sequence_tokens, or shorten the tools"
        )
    own = {tool.name for tool in tools}
    both = parse_tools(material_text(folder / "tools.json"))
    strange = [tool for kind in both for tool in kind.values() if tool.name not in own]
    # What few tools can be asked in is soon too much alike, and a dataset then takes less than it aims at.
    given = min(aim(source, ground), _DISTINCT_REQUESTS * len(tools))
    number, share = _planned(given, len(catalogues))
    number = min(number, int(_number(source, "catalogue_variants", number)))
    others = variants(catalogues, strange, number, room, curriculum.seed)
    return _Shown(curriculum, source, prompt, frames, material, tuple(catalogues), tuple(others), share, most), left


def aim(source: SourceSpec, ground: Ground) -> int:
    """About how many train examples the source will give: its target, else its part of what the targets leave."""
    if source.target is not None:
        return source.target
    sources = ground.curriculum.sources
    # What the owner has not configured gives nothing, so that its target is left to others.
    there = [one for one in sources if (one.kind != KIND or ground.registries) and not is_absent(one, ground)]
    left = ground.curriculum.split.train - sum(one.target or 0 for one in there)
    return max(1, left // max(1, sum(one.target is None for one in there)))


def _planned(aim: int, parts: int) -> tuple[int, float]:
    """How many variants there may be, and how many of a part's requests see them, so that each is used often enough."""
    each = aim / parts
    # 1. Several for each part, where they are used often. 2. One for some parts. 3. None.
    every = min(int(_OTHER_SHARE * each / VARIANT_USES), int(each // _USES))
    if every:
        return every * parts, _OTHER_SHARE
    if _MOST_OTHER_SHARE * each >= VARIANT_USES:
        return int(_OTHER_SHARE / _MOST_OTHER_SHARE * parts), _MOST_OTHER_SHARE
    return 0, 0.0


def _number(source: SourceSpec, key: str, default: float) -> float:
    value: Json = source.options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise CurriculumError(f"sources: {key} must be a number of 0 or more", hint="mend the options")
    return value


def _wanted(source: SourceSpec, ground: Ground, tools: int) -> int:
    """Requests for each tool: half as many again as the splits together want, since some come out too much alike."""
    split = ground.curriculum.split
    whole = aim(source, ground) * (split.train + split.validation + split.heldout) / split.train
    enough = math.ceil(1.5 * whole / tools)
    return int(_number(source, "per_tool", min(_MOST_REQUESTS, max(_FEWEST, enough))))


def _examples_of(
    shown: _Shown, tool: Tool, part: int, place: int, wanted: int, counter: Iterator[int], own: set[str]
) -> Iterator[Example]:
    for one in asked(tool, place, wanted, shown.frames, shown.material, shown.curriculum.seed):
        catalogue, is_own = _catalogue_for(shown, part, next(counter) * _GOLDEN % 1)
        example = _example(shown, one, catalogue, place)
        if sum(len(message.content) for message in example.messages) > shown.most_characters:
            continue
        if is_own:
            own.add(str(catalogue_of(example)))
        yield example


def _catalogue_for(shown: _Shown, part: int, drawn: float) -> tuple[tuple[Tool, ...], bool]:
    """The part of the registry that holds the tool, mostly; `drawn` in 0..1 is spread evenly over all requests.

    1. A variant of that part. 2. Another part, so that the tool is missing. 3. The part itself.
    """
    others = [variant for variant in shown.variants if variant.of == part]
    beyond = shown.variant_share if others else 0.0
    if drawn < beyond:
        return others[int(drawn / beyond * len(others))].tools, False
    if drawn < beyond + _ELSEWHERE and len(shown.catalogues) > 1:
        return shown.catalogues[(part + 1) % len(shown.catalogues)], True
    return shown.catalogues[part], True


def _example(shown: _Shown, one: Asked, catalogue: Sequence[Tool], place: int) -> Example:
    name, params = one.tool.name, dict(one.params)
    confidence = confidence_among(one, catalogue)
    template = f"{shown.source.name}.{name}/{one.frame}"
    group = template
    if name in {tool.name for tool in catalogue}:
        reasons = shown.frames.reasons
        reason = reasons[len(one.text) % len(reasons)].replace("{deciding}", one.deciding).replace("{tool}", name)
    else:
        # What is missing here is no example of its tool, so it takes nothing of the tool's share.
        strata = max(1, round(_ABSENT_STRATA * sum(map(len, shown.catalogues))))
        group = f"{shown.source.name}.absent{place % strata}/{name}.{one.frame}"
        name, params, reason = "", {}, f"nothing here serves '{one.deciding}'"
        confidence = round(min(_MISSING_CONFIDENCE, confidence), 2)
    made = _built(shown, catalogue, one.text, group, answer(name, params, reason, confidence), name, params)
    return replace(made, kin=(f"{TEMPLATE}/{template}",))


def _built(
    shown: _Shown, catalogue: Sequence[Tool], text: str, group: str, line: Message, name: str, params: dict[str, Json]
) -> Example:
    curriculum = shown.curriculum
    return Example(
        (*request(shown.prompt, catalogue, text), line),
        source=shown.source.name,
        group=group,
        origin=f"registry:{shown.source.name}@{curriculum.version}#{group.rpartition('/')[0]}",
        stage=STAGE,
        schema=curriculum.stage_schemas.get(STAGE),
        expected={"selected_tool": name, "params": cast("Json", params)},
    )


def _without_tool(shown: _Shown, made: int, counter: Iterator[int], own: set[str]) -> Iterator[Example]:
    """Requests that need no tool at all, under each catalogue in turn."""
    wanted = int(min(0.5, _number(shown.source, "none_share", 0.08)) * made)
    intents = [intent for intent in shown.material.intents if intent.tool == NO_TOOL]
    forms = math.ceil(wanted / max(1, sum(len(intent.templates) for intent in intents)))
    said: list[Spoken] = list(spoken(shown.material, intents, fills=forms, seed=shown.curriculum.seed + 1))
    wanted = min(wanted, len(said))
    for one in (said[at * len(said) // wanted] for at in range(wanted)):
        catalogue = shown.catalogues[next(counter) % len(shown.catalogues)]
        line = answer("", {}, f"'{one.deciding}' needs no tool", one.confidence)
        example = _built(shown, catalogue, one.text, one.group, line, "", {})
        if sum(len(message.content) for message in example.messages) <= shown.most_characters:
            own.add(str(catalogue_of(example)))
            yield example
