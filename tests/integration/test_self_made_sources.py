"""Claims about datasets with what the base itself made: judged anew, never parted from its original."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from gaiad.curriculum import Curriculum, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner import paraphrase
from gaiad.learner.dataset import Dataset, catalogue_of, request_of
from gaiad.learner.example import Example
from gaiad.learner.self_made import KEPT, Base, Made
from gaiad.learner.sources import self_instruct, self_replay
from gaiad.learner.sources.catalogue import gather, load_curriculum, shipped_curricula, without_self_made
from gaiad.learner.sources.open_prompts import PROMPTS, open_prompts, parse_grammar
from gaiad.learner.sources.self_instruct import NO_ORIGINAL, originals_among
from gaiad.learner.sources.source import Ground

FOLDER = shipped_curricula() / "json-architect"
SPEC = load_curriculum(FOLDER, "full")
BASE = Base("small", "0.32.0", "d1")
WANTED = 90


def row(key: str, of: str, group: str, request: str, text: str, verdict: str = KEPT) -> Made:
    sampling = {"temperature": 0.8, "seed": 1}
    return Made(
        f"{key}/0", of, group, request, request, text, "stop", verdict, sampling, BASE, "2026-01-02T03:04:05+00:00"
    )


@cache
def given() -> tuple[tuple[Example, ...], frozenset[str]]:
    return without_self_made(SPEC, FOLDER)


@cache
def proposals() -> tuple[Made, ...]:
    """Rows as `propose` writes them, of a base that only puts small words between those of a request."""
    examples, own = given()
    known = paraphrase.known_of(examples, SPEC.split.near_duplicate)
    found: list[Made] = []
    for _, one in paraphrase.in_turn([original for original, _ in originals_among(examples, own)], 1, 1):
        text = with_small_words(one)
        reason = paraphrase.verdict(one, text, "stop", known)
        found.append(row(one.key, one.key, one.group, one.request, text, reason or KEPT))
        if reason is None:
            known.requests.add(text)
        if sum(made.is_kept for made in found) == WANTED:
            break
    return tuple(found)


def with_small_words(one: paraphrase.Original) -> str:
    values = "|".join(map(re.escape, sorted(one.kept, key=len, reverse=True)))
    pieces = re.split(f"({values})", one.request) if values else [one.request]
    return "".join(piece if piece in one.kept else re.sub(r"(?<=\w) (?=\w)", " so ", piece) for piece in pieces)


@cache
def replies() -> tuple[Made, ...]:
    prompts = open_prompts(parse_grammar((shipped_curricula() / PROMPTS).read_text("utf-8")), 1, 120)
    said = [(one, f"Well then: {' '.join(reversed(one.text.split()))} indeed.") for one in prompts]
    return tuple(row(one.key, "", one.group, one.text, text) for one, text in said)


def written(folder: Path, proposed: Sequence[Made] = (), replied: Sequence[Made] = ()) -> Path:
    for path, rows in (
        (folder / "json-architect" / "paraphrases.jsonl", proposed),
        (folder / "replies.jsonl", replied),
    ):
        if rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(one.line() for one in rows), "utf-8")
    return folder


def built(folder: Path | None, curriculum: Curriculum = SPEC, base: str = "") -> Dataset:
    return gather(curriculum, FOLDER, [], self_made=folder, base=base)


def of(source: str, examples: Sequence[Example]) -> list[Example]:
    return [one for one in examples if one.source == source]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("made"), proposals(), replies())


@pytest.fixture(scope="module")
def dataset(made: Path) -> Dataset:
    return built(made)


def test_without_files_the_optional_sources_change_nothing(tmp_path: Path) -> None:
    plain = replace(
        SPEC, sources=tuple(one for one in SPEC.sources if one.kind not in ("self_instruct", "self_replay"))
    )
    assert {built(None).digest, built(tmp_path).digest} == {built(None, plain).digest}


def test_what_the_base_made_stands_in_train_under_its_origin_and_the_sizes_stay(dataset: Dataset) -> None:
    counts = Counter(one.source for one in dataset.train)
    assert sum(counts.values()) == SPEC.split.train
    assert 40 <= counts["self_instruct"] <= 60
    assert counts["self_replay"] == 40
    assert {one.origin.partition("#")[0] for one in of("self_instruct", dataset.train)} == {"base:small"}
    assert {one.origin.partition("#")[2].partition("/")[0] for one in of("self_replay", dataset.train)} == {
        "replies.jsonl"
    }
    assert dataset.card["refused_count"] == 0


def test_a_paraphrase_never_stands_in_another_split_than_its_original(dataset: Dataset) -> None:
    splits = {"train": dataset.train, "validation": dataset.validation, "heldout": dataset.heldout}
    places = {one.key(): name for name, part in splits.items() for one in part}
    groups = {name: {one.group for one in part} for name, part in splits.items()}
    group_of = {one.key(): one.group for one in given()[0]}
    original_of = {made.text: made.of for made in proposals()}
    met = 0
    for name, part in splits.items():
        for one in of("self_instruct", part):
            assert one.of == original_of[request_of(one)]
            # An original may be left out, but neither it nor what never parts from it stands in another split.
            assert places.get(one.of, name) == name
            assert [other for other in groups if group_of[one.of] in groups[other]] == [name]
            met += one.of in places
    assert met >= 5


def test_no_exam_asks_what_the_base_made(dataset: Dataset) -> None:
    assert {one.source for one in dataset.heldout} & {"self_instruct", "self_replay"} == set()


def test_a_paraphrase_has_answer_and_catalogue_of_its_original_and_other_words(dataset: Dataset) -> None:
    examples, own = given()
    by_group: dict[str, set[str]] = {}
    for one in examples:
        by_group.setdefault(one.group, set()).add(one.answer)
    requests = {request_of(one) for one in examples}
    for one in of("self_instruct", dataset.train):
        assert one.answer in by_group[one.group]
        assert catalogue_of(one) in own
        assert request_of(one) not in requests


def test_the_dataset_is_the_same_to_the_byte_each_time(made: Path, dataset: Dataset) -> None:
    assert built(made).digest == dataset.digest
    assert built(None).digest != dataset.digest


def test_only_rows_that_were_kept_are_read_and_a_kept_one_is_judged_anew(tmp_path: Path) -> None:
    kept = [one for one in proposals() if one.is_kept]
    original = next(one for one, _ in originals_among(*given()) if one.kept)
    lost = row(original.key, original.key, original.group, original.request, "")
    rows = [
        kept[0],
        replace(kept[1], verdict="it is empty"),
        replace(lost, text=f"{' '.join(original.deciding)} it for me"),
        replace(kept[2], of="gone"),
        replace(kept[0], text=kept[0].text.upper()),
        replace(kept[3], finish_reason="length"),
    ]
    examples, own = given()
    ground = Ground(SPEC, FOLDER, self_made=written(tmp_path, rows), before=examples, own_catalogues=own)
    found = self_instruct.load_examples(SourceSpec("self_instruct", name="s", optional=True), ground)
    assert [request_of(one) for one in found.examples] == [kept[0].text]
    reasons = [one.reason for one in found.refused]
    assert reasons[1] == NO_ORIGINAL
    assert paraphrase.NOT_WHOLE in reasons
    assert len(reasons) == 4
    assert [one.origin.rpartition("/")[2] for one in found.refused] == ["3", "4", "5", "6"]


def test_what_another_base_said_is_refused_and_what_this_one_said_is_not(tmp_path: Path) -> None:
    ground = Ground(SPEC, FOLDER, self_made=written(tmp_path, replied=replies()[:3]), base="small")
    source = SourceSpec("self_replay", name="s", optional=True)
    assert len(self_replay.load_examples(source, ground).examples) == 3
    found = self_replay.load_examples(source, replace(ground, base="large"))
    assert (len(found.examples), len(found.refused)) == (0, 3)
    assert "another base model said it, small" in found.refused[0].reason


def test_optional_files_of_which_nothing_can_be_used_are_named_on_the_card_and_keep_nobody_from_learning(
    tmp_path: Path,
) -> None:
    stale = [replace(one, of=f"former {one.of}") for one in proposals() if one.is_kept][:5]
    folder = written(tmp_path, stale, replies()[:3])
    found = built(folder, base="large")
    assert len(found.train) == SPEC.split.train
    assert not {one.source for one in found.train} & {"self_instruct", "self_replay"}
    assert found.card["refused_count"] == 8
    assert "another base model said it" in str(found.card["refused"])
    assert NO_ORIGINAL in str(built(folder).card["refused"])
    needed = tuple(replace(one, optional=one.optional and one.kind != "self_replay") for one in SPEC.sources)
    with pytest.raises(CurriculumError, match=r"self_replay.*another base model"):
        built(folder, replace(SPEC, sources=needed), base="large")


def test_replies_are_general_skills_in_groups_of_their_templates_without_a_stage(tmp_path: Path) -> None:
    ground = Ground(SPEC, FOLDER, self_made=written(tmp_path, replied=replies()[:80]))
    found = self_replay.load_examples(SourceSpec("self_replay", name="s"), ground).examples
    assert {(one.stage, one.expected) for one in found} == {(None, None)}
    assert {one.stratum for one in found} >= {"open-explain", "open-write"}
    assert found[0].messages[0].content == replies()[0].request


def test_a_reply_to_what_the_curriculum_asks_now_and_one_that_is_too_long_are_refused(tmp_path: Path) -> None:
    asked = request_of(given()[0][0])
    rows = [
        replies()[0],
        replace(replies()[1], request=asked),
        replace(replies()[2], text=" ".join(f"word{n}" for n in range(250)) + "."),
    ]
    short = replace(SPEC, training=replace(SPEC.training, max_sequence_tokens=400))
    ground = Ground(short, FOLDER, self_made=written(tmp_path, replied=rows), before=given()[0])
    found = self_replay.load_examples(SourceSpec("self_replay", name="s"), ground)
    assert len(found.examples) == 1
    assert "a curriculum has a request like it" in found.refused[0].reason
    assert "too long for max_sequence_tokens = 400" in found.refused[1].reason


@pytest.mark.parametrize("kind", ["self_instruct", "self_replay"])
def test_a_file_in_the_curriculums_folder_may_be_named_and_one_that_must_be_there_is_missed(
    kind: str, tmp_path: Path
) -> None:
    module = {"self_instruct": self_instruct, "self_replay": self_replay}[kind]
    rows = [one for one in proposals() if one.is_kept] if kind == "self_instruct" else replies()
    (tmp_path / "own.jsonl").write_text("".join(one.line() for one in rows[:2]) + "no json\n", "utf-8")
    examples, own = given()
    ground = Ground(SPEC, tmp_path, before=examples, own_catalogues=own)
    found = module.load_examples(SourceSpec(kind, {"file": "own.jsonl"}, name="s"), ground)
    assert (len(found.examples), [one.reason for one in found.refused]) == (2, ["it is no JSON"])
    unlookable = module.load_examples(SourceSpec(kind, {"file": "n" * 300}, name="s", optional=True), ground)
    assert [one.reason for one in unlookable.refused] == ["it cannot be read: File name too long"]
    for options in ({}, {"file": "gone.jsonl"}):
        missed = module.load_examples(SourceSpec(kind, dict(options), name="s"), ground)
        assert "gaiadctl curriculum" in missed.refused[0].reason
        assert module.load_examples(SourceSpec(kind, dict(options), name="s", optional=True), ground).refused == ()
    for wrong in ({"file": 3}, {"file": ""}, {"files": "x"}):
        with pytest.raises(CurriculumError, match="it may have `file`"):
            module.load_examples(SourceSpec(kind, wrong, name="s"), ground)


def test_few_proposals_that_all_hang_on_few_templates_do_not_break_the_build(tmp_path: Path) -> None:
    kept = [one for one in proposals() if one.is_kept]
    groups = sorted({one.group for one in kept})[:3]
    found = built(written(tmp_path, [one for one in kept if one.group in groups]))
    assert len(found.train) == SPEC.split.train
    assert len(found.heldout) == SPEC.split.heldout
