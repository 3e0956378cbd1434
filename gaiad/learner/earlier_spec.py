"""GAIA's earlier curriculum specs as curricula of ours: what they say is carried over, what they cannot say is named.

Such a spec has `adapter_name`, `training_config` (or `hyperparameters`), `data_sources` with `target_samples`, the
shares of its splits, perhaps `output_schemas`. It says what examples are about, never how they come to be: each source
becomes one of rows (`jsonl`) that are still to be put there. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gaiad.adapter import is_adapter_name
from gaiad.config import DEFAULT_STAGES
from gaiad.curriculum import Json, parse_curriculum
from gaiad.errors import CurriculumError
from gaiad.learner.shares import dealt

_LORA = {
    "rank": ("lora_r", "lora_rank", "rank", "r"),
    "alpha": ("lora_alpha", "alpha"),
    "dropout": ("lora_dropout", "dropout"),
    "target_modules": ("target_modules", "lora_target_modules"),
}
_TRAINING = {
    "max_sequence_tokens": ("max_seq_length", "max_sequence_length", "max_length"),
    "max_steps": ("max_steps",),
    "learning_rate": ("learning_rate", "lr"),
    "warmup_steps": ("warmup_steps",),
    "weight_decay": ("weight_decay",),
    "max_grad_norm": ("max_grad_norm",),
}
_BATCH = ("batch_size", "per_device_train_batch_size")
_ACCUMULATION = ("gradient_accumulation_steps", "gradient_accumulation")
_QUANTISATION = ("quantisation", "quantization")
_QUANTISED: Mapping[str, str] = {
    "nf4": "nf4",
    "4bit": "nf4",
    "4-bit": "nf4",
    "int4": "nf4",
    "qlora": "nf4",
    "true": "nf4",
    "none": "bf16",
    "false": "bf16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "16bit": "bf16",
    "auto": "auto",
}
_ASSUMED: Mapping[str, Json] = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.05,
    "target_modules": ["q_proj", "v_proj"],
    "max_sequence_tokens": 512,
    "max_steps": 100,
    "learning_rate": 2e-4,
    "warmup_steps": 10,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}
_READ = {
    *("adapter_name", "name", "version", "description", "purpose", "training_config", "hyperparameters", "lora_config"),
    *("data_sources", "total_target_samples", "train_split", "validation_split", "output_schemas", "seed"),
    *("minimum_corpus_size",),
}
_WHY_LOST: Mapping[str, str] = {
    "activation_triggers": "requests are routed by their stage",
    "routing_keywords": "requests are routed by their stage",
    "tier": "adapters have no tiers; every version lives in one place",
    "pillar": "adapters have no tiers; every version lives in one place",
    "priority": "the adapter with something new to learn is trained",
    "versioning": "versions number themselves",
    "display_name": "an adapter has one name",
}
_SEED = 20261
_VALIDATION_OF_REST = 5
"""One in so many of what is not trained on is for validation, the others are held out."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A curriculum made of an earlier spec. `lost` is what it has no place for, `assumed` what the spec did not say."""

    spec: Mapping[str, Json]
    lost: tuple[str, ...]
    assumed: tuple[str, ...]


class _Reading:
    """A spec while it is read, with what turned out to be lost or missing."""

    def __init__(self, raw: Mapping[str, Json]) -> None:
        self.raw = raw
        self.lost = [
            f"{key}: {_WHY_LOST.get(key, 'a curriculum has no such thing')}" for key in raw if key not in _READ
        ]
        self.assumed: list[str] = []
        parts = [raw.get(key) for key in ("training_config", "hyperparameters", "lora_config")]
        self.settings: dict[str, Json] = {}
        for part in parts:
            self.settings |= part if isinstance(part, dict) else {}
        known = {one for names in (*_LORA.values(), *_TRAINING.values()) for one in names}
        known |= {*_BATCH, *_ACCUMULATION, *_QUANTISATION}
        self.lost += [f"{key}: the trainer has no such setting" for key in self.settings if key not in known]

    def first(self, names: Sequence[str]) -> Json:
        """The first of these settings that is there."""
        return next((self.settings[name] for name in names if self.settings.get(name) is not None), None)

    def taken(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Json]:
        """Our settings from theirs; what is not there is assumed."""
        taken: dict[str, Json] = {}
        for ours, names in wanted.items():
            found = self.first(names)
            if found is None:
                found = _ASSUMED[ours]
                self.assumed.append(f"{ours} = {json.dumps(found)}")
            taken[ours] = found
        return taken


def import_spec(text: str) -> Imported:
    """Make a curriculum of GAIA's earlier spec.

    Raises:
        CurriculumError: where it is no such spec, or what it says makes no curriculum.
    """
    try:
        raw: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CurriculumError(f"the spec is not valid JSON: {error}", hint="mend the place it names") from error
    if not isinstance(raw, dict) or not ("training_config" in raw or "hyperparameters" in raw):
        raise CurriculumError(
            "this is no earlier spec: it has neither training_config nor hyperparameters",
            hint="what has `lora`, `training` and `sources` already is a curriculum",
        )
    reading = _Reading(raw)
    spec = _spec(reading)
    try:
        parse_curriculum(json.dumps(spec), "full")
    except CurriculumError as error:
        raise CurriculumError(
            f"what the spec says makes no curriculum: {error.message}", hint="mend it there and import it again"
        ) from error
    return Imported(spec, tuple(reading.lost), tuple(reading.assumed))


def _spec(reading: _Reading) -> dict[str, Json]:
    raw = reading.raw
    adapter = _adapter(raw)
    stages = [stage for stage, of in DEFAULT_STAGES.items() if of == adapter]
    if not stages:
        stages = ["generation"]
        reading.assumed.append('stages = ["generation"]; in the settings a stage must lead to the adapter')
    seed = raw.get("seed", _SEED)
    schemas = _schemas(reading, stages)
    split = _split(reading)
    lora, training = reading.taken(_LORA), reading.taken(_TRAINING)
    training |= {"effective_batch": _batch(reading), "quantisation": _quantisation(reading), "seed": seed}
    steps = training["max_steps"]
    training |= {"validate_every_steps": max(1, steps // 10) if isinstance(steps, int) else 1, "patience": 4}
    items = split["heldout"]
    least = raw.get("minimum_corpus_size")
    return {
        "$schema": "../curriculum.schema.json",
        "adapter": adapter,
        "version": str(raw.get("version", "1")),
        "purpose": str(raw.get("purpose") or raw.get("description") or raw.get("display_name") or adapter),
        "stages": cast("Json", stages),
        "seed": seed,
        "lora": lora,
        "training": training,
        "sources": cast("Json", [*_sources(reading, split["train"])]),
        "split": cast("Json", split),
        "exam": {"kind": "answers", "stage": stages[0], "items": items, "max_tokens": 160},
        "gate": {
            "min_items": items,
            "min_gain_over_base": 0.1,
            "max_p_value": 0.01,
            "max_loss_to_incumbent": 0.03,
        },
        "minimum_examples": min(least, split["train"]) if isinstance(least, int) and least > 0 else split["train"],
        "stage_schemas": schemas,
        "profiles": {"full": {}},
    }


def _adapter(raw: Mapping[str, Json]) -> str:
    name = str(raw.get("adapter_name") or raw.get("name") or "").strip().lower()
    name = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if not is_adapter_name(name):
        raise CurriculumError("the spec names no adapter", hint="give it an adapter_name of letters, digits and -")
    return name


def _batch(reading: _Reading) -> int:
    size, times = reading.first(_BATCH), reading.first(_ACCUMULATION)
    if size is None and times is None:
        reading.assumed.append("effective_batch = 4")
        return 4
    return cast(int, size or 1) * cast(int, times or 1) if all(isinstance(n, int | None) for n in (size, times)) else 0


def _quantisation(reading: _Reading) -> str:
    found = reading.first(_QUANTISATION)
    if isinstance(found, dict):
        found = found.get("bnb_4bit_quant_type") or found.get("type")
    ours = _QUANTISED.get(str(found).strip().lower()) if found is not None else None
    if ours is None:
        reading.assumed.append('quantisation = "auto"')
        if found is not None:
            reading.lost.append(f"quantisation = {found!r}: the trainer knows nf4, bf16 and auto")
    return ours or "auto"


def _split(reading: _Reading) -> dict[str, int]:
    """The sizes of the splits: what their split called validation is held out here, a fifth of it apart."""
    raw = reading.raw
    total, share = raw.get("total_target_samples"), raw.get("train_split", 0.85)
    if total is None:
        total = sum(_targets(raw).values())
    if isinstance(total, bool) or not isinstance(total, int) or total < 2:
        raise CurriculumError(
            "the spec names no number of samples", hint="give it total_target_samples, or each source target_samples"
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise CurriculumError(f"train_split = {share!r} is no share between 0 and 1", hint="for example 0.85")
    if "train_split" not in raw:
        reading.assumed.append("train_split = 0.85")
    train = min(total - 1, max(1, round(total * share)))
    validation = (total - train) // _VALIDATION_OF_REST
    return {"train": train, "validation": validation, "heldout": total - train - validation}


def _targets(raw: Mapping[str, Json]) -> dict[str, int]:
    """How many samples each source was to give, 1 where it does not say."""
    return {name: max(1, target) if isinstance(target, int) else 1 for name, _, target in _given_sources(raw)}


def _given_sources(raw: Mapping[str, Json]) -> Iterator[tuple[str, str, Json]]:
    """Name, description and target of each source, given as a map or as a list."""
    found = raw.get("data_sources")
    named = found.items() if isinstance(found, dict) else enumerate(found if isinstance(found, list) else (), 1)
    for name, one in named:
        inner = one if isinstance(one, dict) else {"description": one}
        said = str(inner.get("name", name))
        yield said, str(inner.get("description", "")), inner.get("target_samples")


def _sources(reading: _Reading, train: int) -> Iterator[dict[str, Json]]:
    targets = _targets(reading.raw) or {"rows": 1}
    reading.assumed += [] if reading.raw.get("data_sources") else ["one source, rows.jsonl"]
    told = {name: description for name, description, _ in _given_sources(reading.raw)}
    given = dealt(train, targets)
    names: dict[str, str] = {}
    for name in targets:
        plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
        plain = plain if re.match(r"[a-z]", plain) else f"source_{plain}"
        while plain in names.values():
            plain += "_"
        names[name] = plain
    for name, plain in names.items():
        if given[name]:
            yield {"kind": "jsonl", "name": plain, "target": given[name], "options": {"file": f"{plain}.jsonl"}}
        about = f" ({told[name]})" if told.get(name) else ""
        reading.lost.append(
            f"data_sources.{name}{about}: it does not say how its samples come to be; put rows into {plain}.jsonl, or"
            " give the source another kind"
        )


def _schemas(reading: _Reading, stages: Sequence[str]) -> dict[str, Json]:
    """Output schemas of the adapter's stages."""
    found = reading.raw.get("output_schemas")
    given = found if isinstance(found, dict) else {}
    for name in given:
        if name not in stages or not isinstance(given[name], dict):
            reading.lost.append(f"output_schemas.{name}: it is no schema of one of {', '.join(stages)}")
    return {name: schema for name, schema in given.items() if name in stages and isinstance(schema, dict)}
