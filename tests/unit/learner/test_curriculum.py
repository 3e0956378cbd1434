"""Claims about curriculum specs: every problem is named at once, and the shipped spec is the blueprint's."""

import json
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import SCHEMA, parse_curriculum
from gaiad.errors import CurriculumError
from gaiad.learner.sources.catalogue import curriculum_folders, load_curriculum, shipped_curricula

FOLDER = shipped_curricula() / "json-architect"


def spec() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "curriculum.json").read_text("utf-8"))
    return loaded


def refused(document: object, profile: str = "full") -> str:
    with pytest.raises(CurriculumError) as caught:
        parse_curriculum(json.dumps(document), profile)
    return caught.value.message


def test_published_schema_is_the_one_that_validates() -> None:
    assert json.loads((shipped_curricula() / "curriculum.schema.json").read_text("utf-8")) == SCHEMA


def test_full_profile_has_the_blueprints_hyper_parameters() -> None:
    full = load_curriculum(FOLDER, "full")
    assert (full.lora.rank, full.lora.target_modules) == (16, ("q_proj", "k_proj", "v_proj", "o_proj"))
    assert (full.training.max_sequence_tokens, full.training.max_steps) == (1024, 200)
    assert full.training.effective_batch == 4
    assert full.split.train >= 1000
    assert full.split.heldout >= 150


def test_demo_profile_overrides_parts_and_inherits_the_rest() -> None:
    full, demo = load_curriculum(FOLDER, "full"), load_curriculum(FOLDER, "demo")
    assert demo.training.max_sequence_tokens <= 320
    assert demo.split.train + demo.split.validation + demo.split.heldout <= 240
    assert demo.exam.items >= 100
    assert demo.lora == full.lora
    assert demo.gate.max_p_value == full.gate.max_p_value
    assert demo.digest != full.digest
    assert demo.profile == "demo"


@pytest.mark.parametrize("folder", curriculum_folders(shipped_curricula()), ids=lambda folder: folder.name)
def test_every_curriculum_has_the_blueprints_profile_and_a_recommended_one_with_its_reason(folder: Path) -> None:
    full, recommended = load_curriculum(folder, "full"), load_curriculum(folder, "recommended")
    assert full.reason == ""
    assert len(recommended.reason) > 80
    assert (recommended.training, recommended.lora) != (full.training, full.lora)
    # Their datasets are the same, and so are the exam and what it asks for.
    assert (recommended.sources, recommended.split) == (full.sources, full.split)
    assert (recommended.exam, recommended.gate, recommended.seed) == (full.exam, full.gate, full.seed)


def test_tool_selection_schema_has_exactly_the_runtimes_keys() -> None:
    schema = load_curriculum(FOLDER, "full").stage_schemas["tool_selection"]
    keys = ["selected_tool", "params", "reasoning", "confidence"]
    assert list(schema["properties"]) == schema["required"] == keys  # type: ignore[arg-type]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["params"] == {"type": "string"}  # type: ignore[index,call-overload]


def test_all_problems_are_reported_at_once_with_their_paths() -> None:
    broken = spec()
    broken["lora"]["rank"] = 0
    del broken["training"]["max_steps"]
    broken["gate"]["max_p_value"] = "small"
    broken["sources"][0]["knid"] = "x"
    broken["profiles"]["demo"]["split"]["trian"] = 3
    message = refused(broken)
    for part in ("lora.rank", "max_steps", "gate.max_p_value", "sources[0]", "profiles.demo.split", "trian"):
        assert part in message


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("exam", "items"), 261, "exam.items: 261 is more than split.heldout = 260"),
        (("gate", "min_items"), 200, "gate.min_items: 200 is more than exam.items"),
        (("minimum_examples",), 2000, "minimum_examples: 2000 is more than split.train"),
        (("training", "warmup_steps"), 200, "training.warmup_steps: 200 must be below max_steps"),
        (("exam", "stage"), "intent", "exam.stage: 'intent' has no schema"),
        (("stage_schemas", "tool_selection", "type"), "wobble", "stage_schemas.tool_selection: not a JSON Schema"),
        (("stages",), ["tool_review"], "stage_schemas.tool_selection: the stage is not among"),
        (("adapter",), "Json Architect", "adapter: "),
        (
            ("lora", "target_modules"),
            ["q_proj", "lm_head"],
            "lora.target_modules: no engine serves an adapter on lm_head",
        ),
        (("training", "quantisation"), "int2", "training.quantisation: "),
    ],
)
def test_contradictions_are_named(path: Any, value: Any, told: Any) -> None:
    broken = spec()
    part = broken
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert told in refused(broken)


def sources(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"kind": "tool_registry", **one} for one in given]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": sources({}, {})}, "sources: 2 of them are called 'tool_registry'"),
        ({"sources": sources({"target": 999})}, "sources: the targets are 999 together, and split.train = 1000"),
        ({"sources": sources({"target": 600}, {"name": "b", "target": 600})}, "the targets are 1200 together"),
        ({"replay_share": 0.1}, "replay_share: 0.1 of train, but no source is one of replay"),
        (
            {"replay_share": 0.1, "sources": sources({}, {"kind": "replay", "target": 80})},
            "replay_share: that is 100 of 1000, and the targets of the replay sources are 80 together",
        ),
        ({"split": {"train": 1000, "validation": 48, "heldout": 160, "repeat": 0}}, "split.repeat: "),
        ({"exchanges": {"max_share": 2}}, "exchanges.max_share: "),
    ],
)
def test_sources_that_do_not_fit_the_train_split_are_named(changes: dict[str, Any], told: str) -> None:
    assert told in refused({**spec(), **changes})


def test_sources_may_have_targets_names_weights_and_a_replay_share() -> None:
    given = sources(
        {"target": 700},
        {"name": "own", "target": 100, "weight": 2, "optional": True},
        {"kind": "replay", "target": 80},
        {"name": "rest"},
    )
    parsed = parse_curriculum(
        json.dumps({**spec(), "sources": given, "replay_share": 0.08, "profiles": {"full": {}}}), "full"
    )
    assert [one.name for one in parsed.sources] == ["tool_registry", "own", "replay", "rest"]
    assert (parsed.sources[1].weight, parsed.sources[1].optional) == (2, True)
    assert (parsed.replay_share, parsed.exchanges.max_share, parsed.split.repeat) == (0.08, 0.5, 0.8)


def test_a_mistake_in_another_profile_is_reported_too() -> None:
    broken = spec()
    broken["profiles"]["demo"]["exam"]["items"] = 150
    assert "under profile 'demo'" in refused(broken, "full")


def test_unknown_profile_names_the_known_ones() -> None:
    assert "none named 'fast' (known: demo, full, recommended)" in refused(spec(), "fast")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"seed": NaN}', "[" * 100_000])
def test_text_that_is_no_spec_gives_one_clear_error(text: Any) -> None:
    with pytest.raises(CurriculumError):
        parse_curriculum(text, "full")


def test_missing_folder_is_said_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CurriculumError, match=r"cannot read .*curriculum\.json"):
        load_curriculum(tmp_path / "gone", "full")
    assert curriculum_folders(tmp_path / "gone") == []
    assert FOLDER in curriculum_folders(shipped_curricula())
