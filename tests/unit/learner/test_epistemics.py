"""Claims about the shipped epistemic-guard material: truth by construction, no shortcut to a verdict, nothing twice."""

import json
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest

from gaiad.config import DEFAULT_STAGES
from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Dataset, Example, check_no_leaks
from gaiad.learner.diversity import diversity
from gaiad.learner.exams.answers import holds, items
from gaiad.learner.exams.score import fits, parsed_object
from gaiad.learner.likeness import alike, masked, request_of
from gaiad.learner.sources.catalogue import load_curriculum, shipped_curricula
from gaiad.learner.sources.epistemic_material import FILES, Material, parse_material
from gaiad.learner.sources.epistemics import load_examples
from gaiad.learner.sources.source import Ground
from gaiad.proxy.recognition import parse_rules
from gaiad.proxy.rulebook import SHIPPED
from gaiad.proxy.stages import known_stages
from tests import shipped

Built: TypeAlias = tuple[Curriculum, Dataset]

FOLDER = shipped_curricula() / "epistemic-guard"
REVIEWS = ("stream", "audit", "conflict")


@pytest.fixture(scope="module", params=["full", "recommended", "demo"])
def built(request: pytest.FixtureRequest) -> Built:
    return shipped.built(FOLDER.name, request.param)


def made(folder: Path = FOLDER, options: dict[str, Json] | None = None, **changes: Any) -> tuple[Example, ...]:
    curriculum = replace(load_curriculum(FOLDER, "full"), **changes)
    return load_examples(SourceSpec("epistemics", options or {}, "epistemics"), Ground(curriculum, folder)).examples


@cache
def examples() -> tuple[Example, ...]:
    return made()


def of(form: str) -> list[Example]:
    found = [one for one in examples() if one.stratum.startswith(form)]
    assert found
    return found


def material() -> Material:
    return parse_material({name: (FOLDER / f"{name}.json").read_text("utf-8") for name in FILES})


def test_the_world_is_told_in_well_over_a_hundred_facts_each_with_several_wrong_values() -> None:
    facts = [fact for topic in material().topics.values() for fact in topic]
    assert len({fact.question for fact in facts}) == len(facts) >= 120
    assert all(len(set(fact.wrong)) >= 2 for fact in facts)


def test_each_profile_reaches_its_size_without_repetition_or_leak(built: Built) -> None:
    curriculum, dataset = built
    everything = [*dataset.train, *dataset.validation, *dataset.heldout]
    assert len(dataset.train) == curriculum.split.train
    assert len(dataset.heldout) == curriculum.split.heldout
    assert len({masked(request_of(one)) for one in everything}) == len(everything)
    assert [pair for pair in alike(everything, everything, 0.8) if pair[0] != pair[1]] == []
    check_no_leaks(dataset, curriculum.split.near_duplicate)


def test_verdicts_and_kinds_are_balanced_and_no_template_leads(built: Built) -> None:
    mine = [one for one in built[1].train if one.source == "epistemics"]
    figures = diversity(mine)
    assert figures.balance <= 2
    assert figures.answer_balance <= 2
    assert figures.template_share <= 0.05


def test_general_requests_make_up_their_share_and_are_never_asked_in_the_exam(built: Built) -> None:
    curriculum, dataset = built
    share = sum(one.source == "replay" for one in dataset.train) / len(dataset.train)
    assert share == pytest.approx(0.08, abs=0.01)
    assert {one.source for one in dataset.heldout} == {"epistemics"}
    assert len(items(dataset.heldout, curriculum.exam)) == curriculum.exam.items


def test_the_full_profile_is_the_blueprints_and_the_recommended_one_says_why_it_differs() -> None:
    full, recommended = (load_curriculum(FOLDER, name) for name in ("full", "recommended"))
    assert (full.lora.rank, full.lora.target_modules) == (8, ("q_proj", "v_proj"))
    assert (full.training.max_sequence_tokens, full.training.max_steps, full.split.train) == (512, 100, 500)
    assert recommended.reason


def test_every_right_answer_passes_the_exam_and_every_rejected_one_fails_it() -> None:
    for one in examples():
        assert one.expected is not None
        assert holds(one.expected, one.answer), one.origin
        if one.rejected is not None:
            assert not holds(one.expected, one.rejected), (one.origin, one.rejected)
    for form in ("known", "plain", "basis", "wording"):
        assert all(one.rejected for one in of(form))


def test_certainty_without_ground_and_doubt_without_need_are_both_rejected() -> None:
    known = Counter((one.answer.split("\n")[0], (one.rejected or "").split("\n")[0]) for one in of("known"))
    assert known["KNOWN: yes", "KNOWN: no"] >= 10
    assert known["KNOWN: no", "KNOWN: yes"] >= 10
    assert known["KNOWN: yes", "KNOWN: yes"] >= 10


def test_verdicts_fit_the_observers_form() -> None:
    for one in of("stream"):
        assert fits(one.schema, parsed_object(one.answer)), one.answer
    assert not fits(of("stream")[0].schema, {"action": "HALT", "reason": "x"})


def test_a_reply_is_interrupted_exactly_where_it_holds_a_lure_or_was_written_so() -> None:
    facts = [fact for topic in material().topics.values() for fact in topic]
    facts += [fact for passage in material().passages for fact in passage.asks]
    lures = [fact.statement.format(wrong) for fact in facts for wrong in fact.wrong]
    lures += [lure for passage in material().passages for _, lure in passage.silent]
    lures += [lure for _, _, lure, _ in material().unknowable]
    seen = 0
    for one in of("stream"):
        if re.search(r"#(facts|passages|questions/unknowable)/", one.origin):
            output = request_of(one).partition("OUTPUT TO REVIEW:")[2]
            is_wrong = any(lure in output for lure in lures)
            assert is_wrong == ("INTERRUPT" in one.answer), one.origin
            seen += 1
    assert seen >= 60


def test_the_memory_that_is_kept_is_the_true_one() -> None:
    truths = {fact.statement.format(fact.right).casefold() for topic in material().topics.values() for fact in topic}
    checked = 0
    for one in of("conflict"):
        if "#facts/" in one.origin:
            said = {
                label: text.strip().casefold() in truths for label, text in re.findall(r"([AB]): (.*)", request_of(one))
            }
            assert said == {"A": one.answer in ("A", "BOTH"), "B": one.answer in ("B", "BOTH")}
            checked += 1
    assert checked >= 40


def test_confidence_is_the_share_that_the_evidence_gives() -> None:
    shares = {one.name: one.share for one in material().evidence}
    for one in of("basis.partial"):
        stated = re.search(r"CONFIDENCE: (\S+)", one.answer)
        assert stated
        assert float(stated[1]) == pytest.approx(shares[one.group.rpartition("/")[2]], abs=0.005)
    assert len({one.answer.split("\n")[1] for one in of("basis")}) >= 6


def test_answers_from_a_text_stand_in_it_and_admissions_name_nothing_from_the_lure() -> None:
    texts = {passage.name: passage for passage in material().passages}
    told = [one for one in (*of("known"), *of("plain")) if "#passages/" in one.origin]
    assert len(told) >= 12
    for one in told:
        assert texts[one.group.rpartition("/")[2]].text in request_of(one)
        wanted = (one.expected or {}).get("contains")
        if isinstance(wanted, list) and "/silent/" not in one.origin:
            assert str(wanted[0]).casefold() in request_of(one).casefold()


def test_no_fact_passage_or_template_serves_two_uses() -> None:
    """So nothing that an exam is made of was taught under another form."""
    uses: dict[str, set[str]] = defaultdict(set)
    for one in examples():
        _, _, place = one.origin.partition("#")
        parts = place.split("/")
        if parts[0] in ("facts", "passages") or parts[1] in ("computed", "invented", "unknowable", "missing"):
            uses["/".join(parts[:2] if parts[0] == "passages" else parts)].add(one.stratum)
    assert len(uses) >= 250
    assert {place: strata for place, strata in uses.items() if len(strata) > 1} == {}


def test_how_sure_or_how_hasty_it_sounds_tells_no_verdict() -> None:
    words = material().words
    for name, form in (("boasts", "stream"), ("leads", "stream"), ("hasty", "audit"), ("notes", "stream")):
        marks = [text.partition("{")[0].strip() for text in words[name] if text.partition("{")[0].strip()]
        verdicts = Counter(
            re.findall(r"CONTINUE|INTERRUPT|clean|flagged", one.answer)[0]
            for one in of(form)
            if any(mark in request_of(one) for mark in marks)
        )
        assert len(verdicts) == 2
        assert min(verdicts.values()) >= 0.25 * verdicts.total(), (name, verdicts)


def test_people_admit_not_knowing_in_many_ways() -> None:
    admitted = [one.answer for one in (*of("known.no"), *of("plain.admission"))]
    assert len(set(admitted)) == len(admitted)
    openings = Counter(" ".join(answer.removeprefix("KNOWN: no\nANSWER: ").split()[:3]) for answer in admitted)
    assert len(openings) >= 25
    assert openings.most_common(1)[0][1] <= 0.3 * len(admitted)


def test_requests_have_the_marks_that_a_runtime_is_recognised_by() -> None:
    rules = parse_rules(SHIPPED.read_text("utf-8"), known_stages(DEFAULT_STAGES))
    limits = {"stream": (64, 0.0), "audit": (350, 0.3), "conflict": (64, 0.0)}
    for one in examples():
        form = one.stratum.partition(".")[0]
        if form in REVIEWS:
            tokens, temperature = limits[form]
            body = {
                "messages": [{"role": m.role, "content": m.content} for m in one.messages[:-1]],
                "max_tokens": tokens,
                "temperature": temperature,
                "top_p": 0.9,
                "chat_template_kwargs": {"enable_thinking": True},
            }
            found = rules.recognise(msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw]))
            assert found is not None, one.origin
            assert found.stage == "epistemic_guard"


def test_every_example_is_short_enough_and_what_is_not_is_named(built: Built) -> None:
    curriculum, dataset = built
    longest = max(sum(len(m.content) for m in one.messages) for one in (*dataset.train, *dataset.heldout))
    assert longest <= curriculum.training.max_sequence_tokens * 3.2 * 0.9
    training = replace(curriculum.training, max_sequence_tokens=200)
    with pytest.raises(CurriculumError, match=r"longer than 576 characters: curriculum:epistemic-guard@1#"):
        made(training=training)


def test_pairs_stand_in_train_only(built: Built) -> None:
    assert not any(one.rejected for one in (*built[1].validation, *built[1].heldout))


def test_generation_follows_from_the_seed_alone() -> None:
    assert made() == examples()
    assert {one.key() for one in made(seed=1)} != {one.key() for one in examples()}


def test_other_seeds_give_as_much_and_as_right() -> None:
    for seed in (1, 2, 3):
        found = made(seed=seed)
        assert len(found) >= 0.97 * len(examples())
        for one in found:
            assert holds(one.expected or {}, one.answer), one.origin
            assert not one.rejected or not holds(one.expected or {}, one.rejected), one.origin


def test_forms_and_how_many_of_each_can_be_chosen() -> None:
    few = made(options={"forms": ["conflict"], "each": 5})
    assert Counter(one.stratum for one in few) == {"conflict.first": 5, "conflict.second": 5, "conflict.both": 5}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"forms": ["nonsense"]}, "no forms nonsense"),
        ({"forms": []}, "forms must be a list"),
        ({"forms": "stream"}, "forms must be a list"),
        ({"each": 0}, "each must be a number"),
        ({"each": True}, "each must be a number"),
        ({"tone": "warm"}, "no option 'tone'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Json], named: str) -> None:
    with pytest.raises(CurriculumError, match=named):
        made(options=options)


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("facts.json", '"A spider has {} legs."', '"A spider has eight legs."', r"animals: .* needs \{\} once"),
        ("facts.json", '"eight", "six", "ten"]', '"six", "sixteen"]', "wrong 'sixteen' holds the right 'six'"),
        ("facts.json", '"eight", "six", "ten"]', '"eight"]', "has no wrong value"),
        ("facts.json", '"topics"', '"themes"', "another form than expected: KeyError"),
        ("passages.json", "Its doors are green", "Its doors are grey", "boathouse: the text does not hold 'green'"),
        ("questions.json", '"sum"', '"total"', "no operation 'total'"),
        ("questions.json", "The blue shelf holds {a} books", "The blue shelf holds {x} books", "needs the slots"),
        ("questions.json", '"Velmarrow", ', '"Velmarrow" ', r"questions\.json cannot be read"),
        ("questions.json", "How many people live in {name}?", "How many people live in {town}?", "town: .*{town}"),
        ("grounds.json", "hall table.\", 2,", "hall table.\", 1,", "key: a share of 1 leaves nothing open"),
        ("turns.json", '"action": "CONTINUE"', '"action": "HALT"', "no action 'HALT'"),
        ("turns.json", '"category": "evasion"', '"category": "escape"', "no flag_summaries for 'escape'"),
        ("frames.json", '"boasts"', '"brags"', "boasts is missing or empty"),
        ("frames.json", "I don't know. {why}", "I don't know. {reason}", r"admissions: .* needs the slots \['why'\]"),
        ("frames.json", "{user}", "{person}", "streams needs frames"),
    ],
)  # fmt: skip
def test_material_that_contradicts_itself_is_named(tmp_path: Path, file: str, old: str, new: str, named: str) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "epistemic-guard"))
    text = (folder / file).read_text("utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(CurriculumError, match=named):
        made(folder)


def test_absent_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(CurriculumError, match=r"cannot read .*facts\.json"):
        made(tmp_path)
    folder = Path(shutil.copytree(FOLDER, tmp_path / "epistemic-guard"))
    (folder / "turns.json").write_text(json.dumps({"audits": []}))
    with pytest.raises(CurriculumError, match="another form than expected"):
        made(folder)
