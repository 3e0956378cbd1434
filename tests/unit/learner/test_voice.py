"""Claims about the shipped gaia-voice material: real variety, answers in one voice, wrong ones that can be told."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest

from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Dataset, Example, check_no_leaks, masked, request_of
from gaiad.learner.exams.answers import holds, items
from gaiad.learner.likeness import alike
from gaiad.learner.sources.catalogue import load_curriculum, shipped_curricula
from gaiad.learner.sources.persona import check, parse_frame, parse_intents
from gaiad.learner.sources.source import Ground
from gaiad.learner.sources.voice import load_examples
from tests import shipped

Built: TypeAlias = tuple[Curriculum, Dataset]

FOLDER = shipped_curricula() / "gaia-voice"


@pytest.fixture(scope="module", params=["full", "recommended", "demo"])
def built(request: pytest.FixtureRequest) -> Built:
    return shipped.built(FOLDER.name, request.param)


def said(folder: Path = FOLDER, options: dict[str, Json] | None = None) -> tuple[Example, ...]:
    curriculum = load_curriculum(FOLDER, "full")
    return load_examples(SourceSpec("voice", options or {}, "voice"), Ground(curriculum, folder)).examples


def test_people_say_hundreds_of_different_things_in_dozens_of_ways_and_four_languages() -> None:
    frame = parse_frame((FOLDER / "voice.json").read_text("utf-8"))
    intents = [
        one for path in (FOLDER / "intents").glob("*.json") for one in parse_intents(path.read_text("utf-8"), "")
    ]
    asks = [ask for intent in intents for ask in intent.asks]
    assert len(intents) >= 25
    assert len({masked(ask.text) for ask in asks}) == len(asks) >= 500
    assert {ask.language for ask in asks} == {"en", "de", "fr", "es"}
    assert len(frame.contexts) >= 40


def test_each_profile_reaches_its_size_without_repetition_or_leak(built: Built) -> None:
    curriculum, dataset = built
    everything = [*dataset.train, *dataset.validation, *dataset.heldout]
    assert len(dataset.train) == curriculum.split.train
    assert len(dataset.heldout) == curriculum.split.heldout
    assert len({masked(request_of(one)) for one in everything}) == len(everything)
    assert [pair for pair in alike(everything, everything, 0.8) if pair[0] != pair[1]] == []
    check_no_leaks(dataset, curriculum.split.near_duplicate)


def test_the_full_profile_is_the_blueprints_and_the_recommended_one_says_why_it_differs() -> None:
    full, recommended = (load_curriculum(FOLDER, name) for name in ("full", "recommended"))
    assert (full.lora.rank, full.lora.target_modules) == (8, ("q_proj", "v_proj"))
    assert (full.training.max_sequence_tokens, full.training.max_steps, full.split.train) == (512, 100, 500)
    assert recommended.reason
    seen = recommended.training.max_steps * recommended.training.effective_batch
    assert seen >= 2 * recommended.split.train


def test_intents_are_balanced_and_no_template_leads(built: Built) -> None:
    for source in ("voice", "documents"):
        mine = [one for one in built[1].train if one.source == source]
        strata, groups = (Counter(map(key, mine)) for key in (lambda one: one.stratum, lambda one: one.group))
        assert max(strata.values()) <= 2 * min(strata.values())
        assert max(groups.values()) <= max(1, 0.05 * len(mine))


def test_every_example_is_short_enough(built: Built) -> None:
    curriculum, dataset = built
    longest = max(sum(len(m.content) for m in one.messages) for one in (*dataset.train, *dataset.heldout))
    assert longest <= curriculum.training.max_sequence_tokens * 3.2 * 0.9


def test_every_heldout_answer_passes_its_own_exam(built: Built) -> None:
    curriculum, dataset = built
    assert len(items(dataset.heldout, curriculum.exam)) == curriculum.exam.items
    # An item that only forbids would be passed by anything but the wrong voice, even by an answer to something else.
    assert [one.origin for one in dataset.heldout if not (one.expected or {}).get("contains")] == []
    for one in dataset.heldout:
        for wanted in cast("list[Json]", (one.expected or {})["contains"]):
            assert any(text.strip() for text in (wanted if isinstance(wanted, list) else [wanted]))  # type: ignore[union-attr]


def test_every_wrong_voice_fails_the_exam_that_the_right_one_passes() -> None:
    for one in said():
        assert one.expected is not None
        assert one.rejected is not None
        assert holds(one.expected, one.answer)
        assert not holds(one.expected, one.rejected)


def test_a_plain_answer_to_something_else_fails_and_so_does_the_right_one_at_length() -> None:
    """What only forbids the wrong voice marks nothing; the voice takes up what was said, and is short."""
    aside = "That depends, and somebody who knows the place would be the one to tell."
    passed = [one.group for one in said() if holds(one.expected or {}, aside)]
    assert passed == []
    padding = " So much for that, and a good deal more could be said in the same breath." * 5
    for one in said():
        assert not holds(one.expected or {}, one.answer + padding)


def test_wrong_voices_vary_and_half_of_them_say_the_right_thing() -> None:
    rejected = [one.rejected or "" for one in said()]
    assert len(set(rejected)) >= 0.98 * len(rejected)
    sentences = Counter(sentence for text in rejected for sentence in re.split(r"(?<=[.!?]) ", text))
    assert sentences.most_common(1)[0][1] <= 0.05 * len(rejected)
    dressed = sum(one.answer in (one.rejected or "") for one in said())
    assert 0.4 <= dressed / len(rejected) <= 0.6


def test_pairs_stand_in_train_only(built: Built) -> None:
    _, dataset = built
    assert all(one.rejected for one in dataset.train if one.source == "voice")
    assert not any(one.rejected for one in (*dataset.validation, *dataset.heldout))


def test_the_identity_is_always_named() -> None:
    for one in said(options={"intents": ["identity", "name", "beneath"]}):
        assert "GAIA" in one.answer


def test_some_conversations_have_several_turns_and_end_with_the_answer() -> None:
    several = [one for one in said() if sum(message.role == "user" for message in one.messages) > 1]
    assert len(several) >= 80
    for one in several:
        roles = [message.role for message in one.messages if message.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_requests_come_with_the_runtimes_frame_and_without_any() -> None:
    systems = Counter(one.messages[0].content if one.messages[0].role == "system" else "" for one in said())
    assert systems[""] > 0
    assert sum("Respond directly to the user's latest request" in text for text in systems) >= 2
    assert max(systems.values()) < 0.5 * systems.total()


def test_answers_vary_and_stay_short() -> None:
    answers = [one.answer for one in said()]
    assert Counter(answers).most_common(1)[0][1] <= 3
    assert len(set(answers)) >= 0.6 * len(answers)
    assert max(len(answer.split()) for answer in answers) <= 80


def test_generation_follows_from_the_seed_alone() -> None:
    curriculum = load_curriculum(FOLDER, "full")
    source = SourceSpec("voice", {}, "voice")
    first = load_examples(source, Ground(curriculum, FOLDER))
    assert first == load_examples(source, Ground(curriculum, FOLDER))
    other = load_examples(source, Ground(replace(curriculum, seed=1), FOLDER))
    assert [one.answer for one in first.examples] != [one.answer for one in other.examples]


INTENT: dict[str, Any] = {"asked": [["Who?", "GAIA."]], "answers": [], "wrong": {"en": ["Nobody."]}}
FRAME: dict[str, Any] = {
    "systems": [""],
    "contexts": ["Well."],
    "histories": [["Hm?", "Yes."]],
    "styles": {"en": [{"open": ["As an AI,"], "close": [""]}]},
    "marks": {"all": ["as an ai"]},
}


@pytest.mark.parametrize(
    ("intent", "frame", "named"),
    [
        ({"contains": {"en": ["gold"]}}, {}, r"lacks \['gold'\]"),
        ({"asked": [["Who?", "As an AI, nobody."]]}, {}, r"wrong voice's \['as an ai'\]"),
        ({"asked": ["Who?"]}, {}, "has no answer"),
        ({"asked": ["de: Wer?"], "answers": [["GAIA."]], "wrong": {"de": ["Niemand."]}}, {}, "no wrong voice in 'de'"),
        ({"asked": [{"ask": "Who?", "answer": "GAIA.", "before": ["Hm?"]}]}, {}, "unanswered turn"),
        ({}, {"styles": {"en": [{"open": ["Hello!"], "close": [""]}]}}, "no mark tells it"),
        ({"asked": ["Who?"], "answers": [["GAIA.", "Nobody."]], "contains": {"all": ["GAIA"]}}, {}, "'Nobody.' lacks"),
        ({"asked": [["Who?", "GAIA.", [["gold", "silver"]]]]}, {}, "lacks .'gold or silver'"),
        ({"asked": [["Who?", "GAIA, and nobody else."]]}, {"most_words": 3}, "more than 3 words"),
    ],
)
def test_material_that_contradicts_itself_is_named(intent: dict[str, Any], frame: dict[str, Any], named: str) -> None:
    intents = parse_intents(json.dumps({"who": {**INTENT, **intent}}), "x.json")
    with pytest.raises(CurriculumError, match=named):
        check(intents, parse_frame(json.dumps({**FRAME, **frame})))
    check(parse_intents(json.dumps({"who": INTENT}), "x.json"), parse_frame(json.dumps(FRAME)))


def test_an_intent_that_stands_there_twice_is_named() -> None:
    intents = parse_intents(json.dumps({"who": INTENT}), "x.json")
    with pytest.raises(CurriculumError, match="who stands there twice"):
        check([*intents, *intents], parse_frame(json.dumps(FRAME)))


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("voice.json", "{}", r"voice\.json cannot be read"),
        ("voice.json", None, r"voice\.json"),
        ("intents/self.json", "[1]", r"self\.json cannot be read"),
        ("intents/self.json", '{"x": {}}', r"self\.json cannot be read"),
    ],
)
def test_broken_material_is_named(tmp_path: Path, file: str, content: str | None, named: str) -> None:
    folder = tmp_path / "gaia-voice"
    shutil.copytree(FOLDER, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(CurriculumError, match=named):
        said(folder)


def test_absent_intents_and_wrong_options_are_named(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "voice.json", tmp_path)
    with pytest.raises(CurriculumError, match="holds no intents"):
        said(tmp_path)
    wrong: list[dict[str, Json]] = [
        {"intents": ["nonsense"]},
        {"intents": []},
        {"fills": 0},
        {"fills": "2"},
        {"tone": "warm"},
    ]
    for options in wrong:
        with pytest.raises(CurriculumError, match=f"{next(iter(options))}|unknown intents"):
            said(options=options)
