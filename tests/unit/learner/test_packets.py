"""Claims about the shipped packet-protocol material: valid packets, one fault each, and answers that are right."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import jsonschema
import msgspec
import pytest

from gaiad.config import DEFAULT_STAGES
from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Dataset, Example, check_no_leaks, masked, request_of
from gaiad.learner.diversity import by_source
from gaiad.learner.exams.answers import holds, items
from gaiad.learner.likeness import alike
from gaiad.learner.sources.catalogue import load_curriculum, shipped_curricula
from gaiad.learner.sources.packets import KIND, PARTS, load_examples, read_material
from gaiad.learner.sources.source import Ground
from gaiad.proxy.recognition import parse_rules
from gaiad.proxy.rulebook import SHIPPED
from gaiad.proxy.stages import known_stages
from tests import shipped

Built: TypeAlias = tuple[Curriculum, Dataset]

FOLDER = shipped_curricula() / "packet-protocol"
CURRICULUM = load_curriculum(FOLDER, "full")
MATERIAL = read_material(FOLDER)
CHARACTERS_A_TOKEN = 3.2

# What the runtime takes an audit's and a reflection's lines for.
EVAL = re.compile(r"^EVAL (\w+): (pass|fail) ([01]\.\d) (.+)$", re.MULTILINE)
SKETCH = re.compile(r"^SKETCH (\w+): (.+)$", re.MULTILINE)
NEXT = re.compile(r"^NEXT: (.+)$", re.MULTILINE)
CONFIDENCE = re.compile(r"^Confidence: (0\.\d)$", re.MULTILINE)


@pytest.fixture(scope="module", params=["full", "recommended", "demo"])
def built(request: pytest.FixtureRequest) -> Built:
    return shipped.built(FOLDER.name, request.param)


def made(part: str, seed: int = CURRICULUM.seed, folder: Path = FOLDER) -> tuple[Example, ...]:
    spec = SourceSpec(KIND, {"part": part}, part)
    return load_examples(spec, Ground(replace(CURRICULUM, seed=seed), folder)).examples


def lines(example: Example) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in example.answer.splitlines() if ": " in line)


def test_each_profile_reaches_its_size_without_repetition_or_leak(built: Built) -> None:
    curriculum, dataset = built
    everything = [*dataset.train, *dataset.validation, *dataset.heldout]
    assert len(dataset.train) == curriculum.split.train
    assert len(dataset.validation) == curriculum.split.validation
    assert len(dataset.heldout) == curriculum.split.heldout
    assert len({masked(request_of(one)) for one in everything}) == len(everything)
    assert [pair for pair in alike(everything, everything, 0.8) if pair[0] != pair[1]] == []
    check_no_leaks(dataset, curriculum.split.near_duplicate)


def test_every_source_gives_its_target_with_balanced_strata_and_no_leading_template(built: Built) -> None:
    curriculum, dataset = built
    # Without what the base itself made, for which one of them gives way.
    sources = [one for one in curriculum.sources if not one.optional]
    targets = {one.name: one.target for one in sources if one.target is not None}
    open_to = curriculum.split.train - sum(targets.values())
    assert len(targets) >= len(sources) - 1
    for source in sources:
        mine = [one for one in dataset.train if one.source == source.name]
        assert len(mine) == targets.get(source.name, open_to)
        figures = by_source(mine)[source.name]
        assert figures.balance <= 2
        assert max(Counter(one.group for one in mine).values()) <= max(2, 0.05 * len(mine))


def test_no_plan_stands_in_two_splits_whichever_task_uses_it(built: Built) -> None:
    _, dataset = built
    parts = [{one.group for one in part} for part in (dataset.train, dataset.validation, dataset.heldout)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_the_exam_has_items_enough_and_a_constant_answer_fails_it(built: Built) -> None:
    curriculum, dataset = built
    asked = items(dataset.heldout, curriculum.exam)
    assert len(asked) >= curriculum.gate.min_items
    answers = {item.answer for item in asked}
    assert max(sum(holds(item.expected, answer) for item in asked) for answer in answers) <= 0.2 * len(asked)


def test_every_example_is_short_enough_for_its_profile(built: Built) -> None:
    curriculum, dataset = built
    everything = (*dataset.train, *dataset.validation, *dataset.heldout)
    longest = max(sum(len(m.content) for m in one.messages) for one in everything)
    assert longest / CHARACTERS_A_TOKEN <= 0.9 * curriculum.training.max_sequence_tokens
    assert max(len(one.answer) for one in everything) / CHARACTERS_A_TOKEN <= 0.9 * curriculum.exam.max_tokens


def test_the_full_profile_is_the_blueprints_and_the_recommended_one_says_why_it_differs() -> None:
    full, recommended = (load_curriculum(FOLDER, name) for name in ("full", "recommended"))
    assert (full.lora.rank, full.lora.target_modules) == (16, ("q_proj", "v_proj", "gate_proj", "up_proj"))
    assert (full.training.max_sequence_tokens, full.training.max_steps, full.split.train) == (1024, 150, 500)
    assert recommended.reason
    assert recommended.training.max_steps * recommended.training.effective_batch >= 2 * recommended.split.train


def test_the_material_is_as_rich_as_it_has_to_be() -> None:
    assert len(MATERIAL.scenarios) >= 120
    assert len({one.domain for one in MATERIAL.scenarios}) >= 12
    assert len(MATERIAL.plans) >= 60
    per_kind = Counter(plan.kind.name for plan in MATERIAL.plans)
    assert len(per_kind) >= 12
    assert max(per_kind.values()) <= 2 * min(per_kind.values())
    texts = [text for plan in MATERIAL.plans for text in (plan.ask, plan.again, plan.gap, plan.merit, plan.fix)]
    texts += [text for one in MATERIAL.scenarios for text in (one.ask, one.note, one.reply)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("part", PARTS)
def test_every_answer_meets_what_is_expected_of_it(part: str) -> None:
    rows = made(part)
    assert rows
    assert all(one.expected and holds(one.expected, one.answer) for one in rows)
    assert {one.stage for one in rows} == {"reflection" if part == "reflection" else "cognitive_audit"}
    assert all(one.origin.startswith("curriculum:packet-protocol@1#") for one in rows)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "lore"])
def test_the_same_seed_gives_the_same_and_another_one_others(part: str) -> None:
    assert made(part) == made(part)
    assert made(part) != made(part, seed=1)


def test_an_audit_reads_as_the_runtime_reads_it() -> None:
    for one in made("audit"):
        assert [name for name, *_ in EVAL.findall(one.answer)] == [
            "knowledge_sufficiency",
            "plan_completeness",
            "rag_quality",
        ]
        assert [name for name, _ in SKETCH.findall(one.answer)] == ["working_hypothesis", "gaps"]
        assert len(NEXT.findall(one.answer)) == 1
        assert len(one.answer.splitlines()) == 6


def test_audits_pass_and_fail_about_as_often_and_what_they_say_varies() -> None:
    rows = made("audit")
    for name, least in (("knowledge_sufficiency", 0.25), ("plan_completeness", 0.45), ("rag_quality", 0.25)):
        failed = sum(lines(one)[f"EVAL {name}"].startswith("fail") for one in rows)
        assert least <= failed / len(rows) <= 1 - least
    assert len({lines(one)["NEXT"] for one in rows}) > 60
    assert len({lines(one)["EVAL knowledge_sufficiency"] for one in rows}) >= 6


def test_a_plan_is_audited_in_both_forms_and_the_verdict_follows_the_form() -> None:
    by_plan: dict[str, list[Example]] = {}
    for one in made("audit"):
        by_plan.setdefault(one.group, []).append(one)
    for rows in by_plan.values():
        shown = {request_of(one).partition("[STATE]")[0]: lines(one)["EVAL plan_completeness"][:4] for one in rows}
        assert sorted(shown.values()) == ["fail", "pass"]


def test_a_reflection_gives_back_the_sound_plan_and_is_sure_of_sound_ones_only() -> None:
    plans = {f"plans/{plan.kind.name}/{plan.id}": plan for plan in MATERIAL.plans}
    verdicts = Counter()  # type: Counter[str]
    for one in made("reflection"):
        plan, told = plans[one.group], lines(one)
        verdicts[told["VERDICT"]] += 1
        mended = one.answer.partition("PLAN:\n")[2].splitlines()
        assert [line.partition(". ")[2] for line in mended] == list(plan.steps)
        sure = float(CONFIDENCE.findall(one.answer)[0])
        assert (sure >= 0.9) is (told["VERDICT"] == "sound") is (told["FLAW"] == "none")
    assert verdicts["sound"] == verdicts["revise"]


@pytest.mark.parametrize(("part", "stage"), [("audit", "cognitive_audit"), ("reflection", "reflection")])
def test_requests_are_recognised_as_the_runtimes(part: str, stage: str) -> None:
    rules = parse_rules(SHIPPED.read_text("utf-8"), known_stages(DEFAULT_STAGES))
    for one in made(part):
        body = {
            "model": "/models/prime",
            "messages": [{"role": m.role, "content": m.content} for m in one.messages[:-1]],
            "max_tokens": 256,
            "temperature": 0.3,
            "chat_template_kwargs": {"enable_thinking": True},
        }
        found = rules.recognise(msgspec.json.decode(json.dumps(body).encode(), type=dict[str, msgspec.Raw]))
        assert found is not None
        assert found.stage == stage


def test_no_decision_can_be_read_off_a_word() -> None:
    rows = made("decision")
    runs = Counter(lines(one)["RUN"] for one in rows)
    assert max(runs.values()) <= 1.2 * min(runs.values())
    for one in rows:
        assert not re.search(r"approved|skipped|executed", request_of(one))


def test_a_decision_follows_from_the_numbers_shown() -> None:
    for one in made("decision"):
        text, told = request_of(one), lines(one)
        chosen = float(re.search(r"selection_confidence(?::| =) ([\d.]+)", text)[1])  # type: ignore[index]
        review = float(re.search(r"review_confidence(?::| =) ([\d.]+)", text)[1])  # type: ignore[index]
        assert told["REVIEW"] == ("skipped" if chosen >= 0.9 else "given" if review else "missing")
        assert told["RUN"] == ("yes" if chosen >= 0.9 or review >= 0.7 else "no")


def test_what_a_reading_quotes_stands_in_the_packet_beside_its_field() -> None:
    for one in made("reading"):
        told = lines(one)
        leaf = told["FIELD"].rpartition(".")[2]
        assert re.search(rf"{leaf}(?::| =) {re.escape(told['VALUE'])}", request_of(one))


def test_a_diagnosed_field_is_shown_unless_it_is_the_missing_one() -> None:
    for one in made("diagnosis"):
        told = lines(one)
        section, _, rest = told["FIELD"].partition(".")
        if told["FAULT"] == "none":
            continue
        assert section in request_of(one)
        shown = re.search(rf"\b{rest.rpartition('.')[2]}\b", request_of(one)) is not None
        assert shown or told["FAULT"] == "missing_field"


def test_next_steps_name_fields_of_the_pipeline_and_every_step_comes_up() -> None:
    steps = {step.name: step for step in MATERIAL.steps}
    rows = made("next_step")
    assert {lines(one)["NEXT"] for one in rows} == steps.keys() - {"intake"}
    for one in rows:
        name = lines(one)["NEXT"]
        assert lines(one)["WRITES"] == ", ".join(steps[name].writes)
        assert f"\n{name}:" not in request_of(one)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "packet-protocol"))


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("plans.json", '"id": "piano"', '"id": "lease"', "plans: more than one is called lease"),
        ("plans.json", '"edit": {"drop": 2}', '"edit": {"drop": 9}', "edit of lease does not fit"),
        ("plans.json", '"edit": {"drop": 2}', '"edit": {"drop": 0}', "edit of lease does not fit"),
        ("plans.json", '"edit": {"drop": 2}', '"edit": {"burn": 2}', "edit of lease does not fit"),
        ("plans.json", '"edit": {"drop": 2}', '"edit": {"move": [2, 2]}', "edit of lease changes nothing"),
        ("plans.json", '"needs": "own"', '"needs": "luck"', "lease needs 'luck'"),
        ("plans.json", '"kind": "missing_step"', '"kind": "missing_stop"', "plans.json cannot be read.*missing_stop"),
        ("plans.json", '"goal":', '"gaol":', "plans.json cannot be read.*goal"),
        ("plans.json", "{", "[", "plans.json is not valid JSON"),
        ("scenarios.json", '"tool": "manage", "why"', '"why"', "thermostat names a tool without a reason"),
        ("scenarios.json", '"reply":', '"rely":', "scenarios.json cannot be read.*reply"),
        ("pipeline.json", '"name": "planning"', '"name": "pondering"', "the steps are not those of packets"),
        ("pipeline.json", '"purpose":', '"porpoise":', "pipeline.json cannot be read.*purpose"),
        ("wordings.json", '"audit":', '"adit":', "wordings.json cannot be read.*audit"),
        ("wordings.json", '"intent.confidence":', '"intent.confidant":', "no packet has a field intent.confidant"),
        ("packet.schema.json", '"type": "object"', '"type": "thing"', "packet.schema.json is no JSON Schema"),
    ],
)
def test_broken_material_is_named(folder: Path, file: str, old: str, new: str, told: str) -> None:
    text = (folder / file).read_text("utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(CurriculumError, match=told):
        made("lore", folder=folder)


def test_missing_material_and_unknown_parts_are_named(folder: Path) -> None:
    for options in ({}, {"part": "rumour"}, {"part": "audit", "colour": 1}, {"part": ["audit"]}):
        source = SourceSpec(KIND, cast("dict[str, Json]", options), "x")
        with pytest.raises(CurriculumError, match="takes one option, part"):
            load_examples(source, Ground(CURRICULUM, folder))
    (folder / "plans.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CurriculumError, match=r"cannot read .*plans\.json"):
        made("audit", folder=folder)
    (folder / "plans.json").unlink()
    with pytest.raises(CurriculumError, match=r"cannot read .*plans\.json"):
        made("audit", folder=folder)


def test_the_published_schema_is_a_schema_and_describes_every_part_of_a_packet() -> None:
    schema = cast("dict[str, Any]", MATERIAL.schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = {*schema["required"], "tool_routing"} - {"version"}
    assert len(parts) == 10
    assert all(schema["properties"][part]["description"] for part in parts)
