"""A curriculum: what one adapter is to learn, from what, how, and what it must then prove.

Parsed from `curricula/<adapter>/curriculum.json` and validated against `SCHEMA`, which is published as
`curricula/curriculum.schema.json`; all errors are reported at once, each with its path. A profile (`full`, `demo`)
overrides parts of the spec: objects are merged, everything else is replaced. Takes text, reads no file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import jsonschema

from gaiad.adapter import AdapterName
from gaiad.errors import CurriculumError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

REPLAY_KINDS = frozenset({"replay", "self_replay"})
"""The kinds of sources whose examples keep up what the base can do already."""


ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every projection of a Llama-like layer, which is where low ranks learn like whole weights."""
_TABLES = frozenset({"lm_head", "embed_tokens"})


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Shape of the adapter: rank, alpha (scaling numerator), dropout share, module names to adapt.

    `rslora` scales by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732); `plus_ratio` is how many times the
    learning rate of A the B matrices get (LoRA+, arXiv 2402.12354; 1: plain LoRA). `all_linear` as only module name is
    written out as the seven projections of a Llama-like layer.
    """

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    rslora: bool = False
    plus_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """How a run goes. `effective_batch` examples make one optimiser step; token counts are per example.

    `preference` says how examples with a rejected answer teach besides: `none`; `dpo` with the base without adapter as
    its reference (arXiv 2305.18290), `preference_beta` being its temperature; or `simpo`, which has no reference
    (arXiv 2405.14734) and aims at `preference_margin`. `preference_weight` is what it counts beside the answers' loss.
    """

    max_sequence_tokens: int
    max_steps: int
    effective_batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    quantisation: str
    validate_every_steps: int
    patience: int
    seed: int
    preference: str = "none"
    preference_beta: float = 0.1
    preference_margin: float = 0.0
    preference_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source of examples: `kind` names a module in `learner.sources`, `options` are its own.

    `name` tells sources of one kind apart and stands in each example; it is the kind where nothing else is said.
    `target` is how many examples of it the train split is to hold (None: its share of what the others leave), `weight`
    how much each of them counts in the loss. An `optional` source may hold fewer, or none where the owner gives it
    nothing to read; the others then make up for it.
    """

    kind: str
    options: Mapping[str, Json] = field(default_factory=dict)
    name: str = ""
    target: int | None = None
    weight: float = 1.0
    optional: bool = False

    @property
    def is_replay(self) -> bool:
        """Whether its examples keep up general skills rather than teach the adapter's own."""
        return self.kind in REPLAY_KINDS


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """How many examples each split holds, and what is too much alike (Jaccard of shingles, 0..1).

    Requests `near_duplicate` alike are never divided between splits; of those `repeat` alike one is kept.
    """

    train: int
    validation: int
    heldout: int
    near_duplicate: float = 0.7
    repeat: float = 0.8


@dataclass(frozen=True, slots=True)
class ExchangesSpec:
    """How many users' exchanges train may hold: `max_share` of `split.train`, so many of a user, of a conversation.

    An exchange counts half as much for every `half_life_days` that it is older than the newest one.
    """

    max_share: float = 0.5
    per_user: int = 400
    per_conversation: int = 40
    half_life_days: float = 180.0


@dataclass(frozen=True, slots=True)
class ExamSpec:
    """The exam a candidate takes: `kind` names a module in `learner.exams`, `stage` gives the schema."""

    kind: str
    stage: str
    items: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class GateSpec:
    """What a candidate must show: gains are differences of accuracy in 0..1, `max_p_value` is one-sided McNemar."""

    min_items: int
    min_gain_over_base: float
    max_p_value: float
    max_loss_to_incumbent: float


@dataclass(frozen=True, slots=True)
class Curriculum:
    """A validated spec under one profile (`full`, `demo`, ...). `digest` covers spec text and profile.

    `replay_share` is how much of train the sources of replay make up (0: what their targets say), `reason` why the
    profile's values are what they are.
    """

    adapter: AdapterName
    version: str
    profile: str
    purpose: str
    stages: tuple[str, ...]
    lora: LoraSpec
    training: TrainingSpec
    sources: tuple[SourceSpec, ...]
    split: SplitSpec
    exam: ExamSpec
    gate: GateSpec
    minimum_examples: int
    stage_schemas: Mapping[str, Mapping[str, Json]]
    seed: int
    digest: str
    replay_share: float = 0.0
    exchanges: ExchangesSpec = ExchangesSpec()
    reason: str = ""


def _object(required: str, **properties: Json) -> dict[str, Json]:
    """A closed object schema; `required` names its needed keys, separated by spaces."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*required.split()],
        "properties": dict(properties),
    }


def _whole(low: int, high: int) -> dict[str, Json]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float) -> dict[str, Json]:
    return {"type": "number", "minimum": low, "maximum": high}


_NAME: dict[str, Json] = {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"}
_NAMES: dict[str, Json] = {"type": "array", "minItems": 1, "uniqueItems": True, "items": _NAME}
_TEXT: dict[str, Json] = {"type": "string", "minLength": 1}

_PARTS: dict[str, Json] = {
    "seed": _whole(0, 2**31 - 1),
    "lora": _object(
        "rank alpha dropout target_modules",
        rank=_whole(1, 512),
        alpha=_whole(1, 2048),
        dropout=_number(0, 0.9),
        target_modules=_NAMES,
        rslora={"type": "boolean"},
        plus_ratio=_number(1, 64),
    ),
    "training": _object(
        "max_sequence_tokens max_steps effective_batch learning_rate warmup_steps weight_decay max_grad_norm"
        " quantisation validate_every_steps patience seed",
        max_sequence_tokens=_whole(16, 131072),
        max_steps=_whole(1, 1_000_000),
        effective_batch=_whole(1, 4096),
        learning_rate={"type": "number", "exclusiveMinimum": 0, "maximum": 0.1},
        warmup_steps=_whole(0, 1_000_000),
        weight_decay=_number(0, 1),
        max_grad_norm={"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        quantisation={"enum": ["nf4", "bf16", "auto"]},
        validate_every_steps=_whole(1, 1_000_000),
        patience=_whole(1, 1000),
        seed=_whole(0, 2**31 - 1),
        preference={"enum": ["none", "dpo", "simpo"]},
        preference_beta={"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        preference_margin=_number(0, 100),
        preference_weight={"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    ),
    "sources": {
        "type": "array",
        "minItems": 1,
        "items": _object(
            "kind",
            kind=_NAME,
            name=_NAME,
            target=_whole(1, 1_000_000),
            weight={"type": "number", "exclusiveMinimum": 0, "maximum": 100},
            optional={"type": "boolean"},
            options={"type": "object"},
        ),
    },
    "split": _object(
        "train validation heldout",
        train=_whole(1, 1_000_000),
        validation=_whole(0, 1_000_000),
        heldout=_whole(1, 1_000_000),
        near_duplicate={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        repeat={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    ),
    "replay_share": _number(0, 1),
    "exchanges": _object(
        "",
        max_share=_number(0, 1),
        per_user=_whole(1, 1_000_000),
        per_conversation=_whole(1, 1_000_000),
        half_life_days={"type": "number", "exclusiveMinimum": 0, "maximum": 36_500},
    ),
    "reason": _TEXT,
    "exam": _object(
        "kind stage items max_tokens",
        kind=_NAME,
        stage=_NAME,
        items=_whole(1, 100_000),
        max_tokens=_whole(1, 8192),
    ),
    "gate": _object(
        "min_items min_gain_over_base max_p_value max_loss_to_incumbent",
        min_items=_whole(1, 100_000),
        min_gain_over_base=_number(0, 1),
        max_p_value={"type": "number", "exclusiveMinimum": 0, "maximum": 0.2},
        max_loss_to_incumbent=_number(0, 1),
    ),
    "minimum_examples": _whole(1, 1_000_000),
}


def _partly(schema: Json) -> Json:
    """The same schema for a profile's overrides: nothing is required there, one level down included."""
    if not isinstance(schema, dict):
        return schema
    properties = cast("dict[str, Json]", schema.get("properties", {}))
    relaxed = {key: value for key, value in schema.items() if key != "required"}
    return (
        {**relaxed, "properties": {key: _partly(value) for key, value in properties.items()}} if properties else schema
    )


_PROFILES: dict[str, Json] = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": _NAME,
    "additionalProperties": _partly(_object("", **_PARTS)),
}
_KEYS: dict[str, Json] = {
    "$schema": _TEXT,
    "adapter": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$"},
    "version": _TEXT,
    "purpose": _TEXT,
    "stages": _NAMES,
    "stage_schemas": {"type": "object", "propertyNames": _NAME, "additionalProperties": {"type": "object"}},
    "profiles": _PROFILES,
    **_PARTS,
}
_OPTIONAL = frozenset({"$schema", "replay_share", "exchanges", "reason"})

SCHEMA: Mapping[str, Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "gaiad curriculum",
    "description": "What one adapter is to learn, from what, how, and what it must then prove.",
    **_object(" ".join(key for key in _KEYS if key not in _OPTIONAL), **_KEYS),
}
"""The published JSON Schema of a curriculum file."""


def parse_curriculum(text: str, profile: str) -> Curriculum:
    """Parse and validate a spec under one profile.

    Raises:
        CurriculumError: naming every problem at once, each with its path into the file.
    """
    try:
        document: Json = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CurriculumError(f"the curriculum is not valid JSON: {error}", hint="mend the place it names") from error
    problems = list(_schema_problems(document))
    if not problems:
        spec = cast("dict[str, Json]", document)
        problems = [problem for name in _profiles(spec) for problem in _meaning_problems(_under(spec, name), name)]
        if profile not in _profiles(spec):
            problems.append(f"profiles: there is none named {profile!r} (known: {', '.join(sorted(_profiles(spec)))})")
    if problems:
        raise CurriculumError(
            "; ".join(problems),
            hint="curricula/curriculum.schema.json describes every key; mend them all and try again",
        )
    return _built(_under(spec, profile), profile)


def profiles_of(text: str) -> list[str]:
    """The names of a spec's profiles in its order; none where the text is no spec."""
    try:
        return [*cast("dict[str, Json]", json.loads(text)["profiles"])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def kinds_of(text: str) -> list[tuple[str, str]]:
    """The kinds of all sources with their paths, those of profiles included, whatever else is wrong with the spec."""
    try:
        spec = cast("dict[str, Any]", json.loads(text))
        parts = {"": spec, **{f"profiles.{name}.": part for name, part in spec.get("profiles", {}).items()}}
    except (ValueError, AttributeError, RecursionError):
        return []
    return [
        (f"{place}sources[{at}].kind", str(source["kind"]))
        for place, part in parts.items()
        if isinstance(part, dict) and isinstance(part.get("sources"), list)
        for at, source in enumerate(part["sources"])
        if isinstance(source, dict) and "kind" in source
    ]


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not allowed")


def _schema_problems(document: Json) -> Iterator[str]:
    found = jsonschema.Draft202012Validator(dict(SCHEMA)).iter_errors(document)
    for error in sorted(found, key=lambda one: [str(step) for step in one.absolute_path]):
        yield f"{_path(error.absolute_path)}: {error.message}"


def _path(steps: Sequence[object]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "the whole file"


def _profiles(spec: Mapping[str, Json]) -> Mapping[str, Json]:
    return cast("dict[str, Json]", spec["profiles"])


def _under(spec: Mapping[str, Json], profile: str) -> dict[str, Json]:
    """The spec with one profile's overrides merged in."""
    plain = {key: value for key, value in spec.items() if key not in ("profiles", "$schema")}
    return cast("dict[str, Json]", _merged(plain, _profiles(spec).get(profile, {})))


def _merged(base: Json, over: Json) -> Json:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}


def _meaning_problems(spec: Mapping[str, Json], profile: str) -> Iterator[str]:
    """What the schema cannot say: how parts of one spec must agree."""
    curriculum = _built(spec, profile)
    split, exam, gate, training = curriculum.split, curriculum.exam, curriculum.gate, curriculum.training
    where = f"under profile {profile!r}"
    for stage, schema in curriculum.stage_schemas.items():
        try:
            jsonschema.Draft202012Validator.check_schema(dict(schema))
        except jsonschema.SchemaError as error:
            yield f"stage_schemas.{stage}: not a JSON Schema: {error.message}"
        if stage not in curriculum.stages:
            yield f"stage_schemas.{stage}: the stage is not among `stages`"
    if exam.stage not in curriculum.stages:
        yield f"exam.stage: {exam.stage!r} is not among `stages` ({where})"
    # The answers of other exams may be plain text.
    elif exam.kind == "tool_choice" and exam.stage not in curriculum.stage_schemas:
        yield f"exam.stage: {exam.stage!r} has no schema in stage_schemas ({where})"
    if exam.items > split.heldout:
        yield f"exam.items: {exam.items} is more than split.heldout = {split.heldout} ({where})"
    if gate.min_items > exam.items:
        yield f"gate.min_items: {gate.min_items} is more than exam.items = {exam.items}; it could never pass ({where})"
    if curriculum.minimum_examples > split.train:
        yield f"minimum_examples: {curriculum.minimum_examples} is more than split.train = {split.train} ({where})"
    if training.warmup_steps >= training.max_steps:
        yield f"training.warmup_steps: {training.warmup_steps} must be below max_steps = {training.max_steps} ({where})"
    tables = [name for name in curriculum.lora.target_modules if name in _TABLES]
    if tables:
        yield f"lora.target_modules: no engine serves an adapter on {', '.join(tables)}; name projections ({where})"
    for problem in _source_problems(curriculum):
        yield f"{problem} ({where})"


def _source_problems(curriculum: Curriculum) -> Iterator[str]:
    """How the sources' names and targets must agree with the train split and the replay share."""
    train, sources = curriculum.split.train, curriculum.sources
    for name, times in Counter(one.name for one in sources).items():
        if times > 1:
            yield f"sources: {times} of them are called {name!r}; give each a `name` of its own"
    targets = sum(one.target or 0 for one in sources)
    is_open = any(one.target is None for one in sources)
    if targets > train or (targets < train and not is_open):
        yield f"sources: the targets are {targets} together, and split.train = {train}"
    replay = [one for one in sources if one.is_replay]
    wanted = round(curriculum.replay_share * train)
    aimed = sum(one.target or 0 for one in replay)
    if wanted and not replay:
        yield f"replay_share: {curriculum.replay_share:g} of train, but no source is one of replay"
    elif wanted and (aimed > wanted or (aimed < wanted and all(one.target for one in replay))):
        yield f"replay_share: that is {wanted} of {train}, and the targets of the replay sources are {aimed} together"


def _built(spec: Mapping[str, Json], profile: str) -> Curriculum:
    """Build the dataclasses from a spec that has passed the schema."""
    lora, training = cast("dict[str, Json]", spec["lora"]), cast("dict[str, Json]", spec["training"])
    sources = cast("list[dict[str, Json]]", spec["sources"])
    canonical = json.dumps([profile, spec], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return Curriculum(
        adapter=AdapterName(str(spec["adapter"])),
        version=str(spec["version"]),
        profile=profile,
        purpose=str(spec["purpose"]),
        stages=tuple(cast("list[str]", spec["stages"])),
        lora=LoraSpec(**{**_keywords(lora), "target_modules": _modules(cast("list[str]", lora["target_modules"]))}),
        training=TrainingSpec(**_keywords(training)),
        sources=tuple(_source(one) for one in sources),
        split=SplitSpec(**_keywords(spec["split"])),
        exam=ExamSpec(**_keywords(spec["exam"])),
        gate=GateSpec(**_keywords(spec["gate"])),
        minimum_examples=cast(int, spec["minimum_examples"]),
        stage_schemas=cast("dict[str, dict[str, Json]]", spec["stage_schemas"]),
        seed=cast(int, spec["seed"]),
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
        replay_share=cast(float, spec.get("replay_share", 0.0)),
        exchanges=ExchangesSpec(**_keywords(spec.get("exchanges", {}))),
        reason=str(spec.get("reason", "")),
    )


def _modules(named: list[str]) -> tuple[str, ...]:
    return ALL_LINEAR if named == ["all_linear"] else tuple(named)


def _source(given: Mapping[str, Json]) -> SourceSpec:
    return SourceSpec(**_keywords({**given, "name": given.get("name", given["kind"])}))


def _keywords(part: Json) -> dict[str, Any]:
    """One validated object as keyword arguments; the schema has already checked names and types."""
    return cast("dict[str, Any]", part)
