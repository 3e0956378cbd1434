"""Claims about GAIA's earlier specs: what they say stands in the curriculum, what is lost or assumed is named."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.curriculum import parse_curriculum
from gaiad.errors import CurriculumError
from gaiad.learner.earlier_spec import Imported, import_spec


def earlier(**changes: Any) -> dict[str, Any]:
    """A spec of the earlier form, as its keys and types are known."""
    spec = {
        "adapter_name": "json_architect",
        "version": "2.1",
        "display_name": "JSON",
        "description": "Machine-readable answers.",
        "tier": 1,
        "pillar": "cognition",
        "priority": "high",
        "training_config": {
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.1,
            "target_modules": ["q_proj", "k_proj"],
            "learning_rate": 0.0002,
            "batch_size": 2,
            "gradient_accumulation_steps": 4,
            "max_steps": 200,
            "warmup_steps": 10,
            "max_seq_length": 1024,
            "quantisation": "4bit",
        },
        "data_sources": {
            "Tool picks": {"description": "made from the registry", "target_samples": 700},
            "reviews": {"description": "", "target_samples": 300},
        },
        "total_target_samples": 1000,
        "train_split": 0.85,
        "validation_split": 0.15,
        "activation_triggers": ["tool"],
        "output_schemas": {"tool_selection": {"type": "object"}, "poem": {"type": "string"}},
        "minimum_corpus_size": 500,
    }
    return {key: value for key, value in {**spec, **changes}.items() if value is not None}


def imported(**changes: Any) -> Imported:
    return import_spec(json.dumps(earlier(**changes)))


def test_what_the_spec_says_stands_in_the_curriculum() -> None:
    found = parse_curriculum(json.dumps(imported().spec), "full")
    assert (found.adapter, found.version, found.purpose) == ("json-architect", "2.1", "Machine-readable answers.")
    assert found.stages == ("tool_selection", "tool_review", "confidence", "intent")
    assert (found.lora.rank, found.lora.alpha, found.lora.dropout) == (16, 32, 0.1)
    assert found.lora.target_modules == ("q_proj", "k_proj")
    training = found.training
    assert (training.max_sequence_tokens, training.max_steps, training.effective_batch) == (1024, 200, 8)
    assert (training.learning_rate, training.warmup_steps, training.quantisation) == (0.0002, 10, "nf4")
    assert (found.split.train, found.split.validation, found.split.heldout) == (850, 30, 120)
    assert [(one.name, one.kind, one.target) for one in found.sources] == [
        ("tool_picks", "jsonl", 595),
        ("reviews", "jsonl", 255),
    ]
    assert found.minimum_examples == 500
    assert dict(found.stage_schemas) == {"tool_selection": {"type": "object"}}


def test_what_is_lost_is_named_with_the_reason() -> None:
    lost = imported(training_config={**earlier()["training_config"], "optim": "adamw"}).lost
    for key in ("tier", "pillar", "priority", "display_name", "activation_triggers", "optim", "output_schemas.poem"):
        assert [one for one in lost if one.startswith(f"{key}: ")], key
    assert [one for one in lost if one.startswith("data_sources.Tool picks (made from the registry): ")]


def test_the_variant_with_hyperparameters_is_read_and_what_it_does_not_say_is_assumed_aloud() -> None:
    found = imported(
        training_config=None, hyperparameters={"rank": 8, "max_length": 256}, adapter_name="own voice", train_split=None
    )
    assert found.spec["adapter"] == "own-voice"
    assert found.spec["lora"]["rank"] == 8  # type: ignore[index,call-overload]
    told = "; ".join(found.assumed)
    for part in ("alpha = 16", "max_steps = 100", "effective_batch = 4", 'quantisation = "auto"', "train_split = 0.85"):
        assert part in told
    assert 'stages = ["generation"]' in told
    assert imported().assumed == ("weight_decay = 0.0", "max_grad_norm = 1.0")


@pytest.mark.parametrize(
    ("changes", "sources"),
    [
        ({"data_sources": ["a.md", {"name": "b", "target_samples": 9}]}, [("source_1", 85), ("b", 765)]),
        ({"data_sources": None}, [("rows", 850)]),
        ({"data_sources": {"A b": {}, "a-b": {}}}, [("a_b", 425), ("a_b_", 425)]),
    ],
)
def test_sources_of_every_form_get_names_and_targets_that_fit(changes: dict[str, Any], sources: Any) -> None:
    spec = imported(**changes).spec
    assert [(one["name"], one["target"]) for one in spec["sources"]] == sources  # type: ignore[union-attr,index,call-overload]


def test_the_number_of_samples_is_the_sources_together_where_no_total_is_given() -> None:
    assert imported(total_target_samples=None).spec["split"] == imported().spec["split"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "no earlier spec"),
        ('{"lora": {}}', "no earlier spec"),
        (json.dumps(earlier(adapter_name="")), "names no adapter"),
        (json.dumps(earlier(total_target_samples=None, data_sources={})), "no number of samples"),
        (json.dumps(earlier(train_split=1.5)), "train_split = 1.5"),
        (json.dumps(earlier(training_config={"lora_r": 9000})), r"makes no curriculum: lora\.rank: 9000"),
        (json.dumps(earlier(training_config={"max_steps": 5, "warmup_steps": 9})), "warmup_steps"),
        (json.dumps(earlier(training_config={"batch_size": "two"})), "effective_batch"),
        (json.dumps(earlier(training_config={"max_steps": "many"})), "max_steps"),
        (json.dumps(earlier(seed="x")), "seed"),
    ],
)
def test_what_makes_no_curriculum_is_said(text: str, told: str) -> None:
    with pytest.raises(CurriculumError, match=told):
        import_spec(text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2000) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted({*earlier(), *earlier()["training_config"]})), _VALUES)
def test_any_value_in_any_place_gives_a_curriculum_or_a_clear_error(key: str, value: Any) -> None:
    spec = earlier()
    (spec if key in spec else spec["training_config"])[key] = value
    with contextlib.suppress(CurriculumError):
        import_spec(json.dumps(spec))
