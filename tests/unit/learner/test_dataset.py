"""Claims about datasets: nothing repeats, nothing leaks, nothing depends on chance."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.adapter import AdapterName
from gaiad.curriculum import Curriculum, ExamSpec, GateSpec, Json, LoraSpec, SourceSpec, SplitSpec, TrainingSpec
from gaiad.errors import DatasetError
from gaiad.learner.controls import scrambled_answers, shuffled_labels
from gaiad.learner.dataset import (
    Dataset,
    Example,
    Message,
    build_dataset,
    check_no_leaks,
    fair_choice,
    jaccard,
    leaks,
    masked,
    request_of,
    shingles,
)
from gaiad.learner.exams.score import parsed_object

_WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge")


def curriculum(train: int = 12, validation: int = 2, heldout: int = 4, minimum: int = 1) -> Curriculum:
    return Curriculum(
        adapter=AdapterName("a"),
        version="1",
        profile="full",
        purpose="p",
        stages=("tool_selection",),
        lora=LoraSpec(8, 16, 0.0, ("q_proj",)),
        training=TrainingSpec(64, 10, 2, 1e-4, 1, 0.0, 1.0, "nf4", 5, 2, 1),
        sources=(),
        split=SplitSpec(train, validation, heldout, 0.7),
        exam=ExamSpec("tool_choice", "tool_selection", 4, 16),
        gate=GateSpec(1, 0.1, 0.05, 0.0),
        minimum_examples=minimum,
        stage_schemas={},
        seed=3,
        digest="d",
    )


def example(request: str, group: str = "", answer: str = '{"selected_tool":"x"}', origin: str = "made") -> Example:
    return Example(
        (Message("user", request), Message("assistant", answer)),
        source="s",
        group=group or f"{request[:3]}/{request}",
        origin=origin,
        stage="tool_selection",
        expected={"selected_tool": "x", "params": {}},
    )


def correction(request: str, number: str, answer: str = "{}") -> Example:
    return example(request, f"exchange:{number}", answer, f"exchange:{number}")


def pool(count: int = 30) -> list[Example]:
    return [
        example(
            f"{_WORDS[n % 12]} {_WORDS[(n // 12 + n) % 12]} {_WORDS[(3 * n + 1) % 12]} {_WORDS[(n * n) % 12]} "
            f"{'so ' * (n % 3)}{_WORDS[n // 12]}",
            f"s{n % 3}/{n:02d}",
        )
        for n in range(count)
    ]


def dropped(dataset: Dataset, reason: str) -> Json:
    counts = dataset.card["dropped"]
    assert isinstance(counts, dict)
    return counts.get(reason, 0)


def splits(dataset: Dataset) -> list[tuple[Example, ...]]:
    return [dataset.train, dataset.validation, dataset.heldout]


def test_example_survives_its_json_line() -> None:
    one = replace(example("read it"), rejected="no", weight=2.0, schema={"type": "object"})
    assert Example.from_json(one.to_json()) == one
    assert set(example("read it").to_json()) == {"messages", "source", "group", "origin", "stage", "expected"}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"messages": [], "source": "s", "group": "g", "origin": "o"},
        {"messages": [{"role": "user", "content": "x"}], "source": "s", "group": "g", "origin": "o"},
        {"messages": [{"role": "user", "content": 3}] * 2, "source": "s", "group": "g", "origin": "o"},
    ],
)
def test_line_that_is_no_example_is_refused(broken: Any) -> None:
    with pytest.raises(DatasetError, match="not an example"):
        Example.from_json(broken)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('Say "good night" twice', "say 'bye' twice"),
        ("Read /etc/hosts now", "READ notes.txt now!"),
        ("Set it to 40 percent", "set it to 7.5 percent"),
        ("Open https://example.org/x?y=1 please", "open src/main.py, please"),
        ("It's Tom's turn", "it's tom's turn"),
    ],
)
def test_requests_that_differ_only_in_values_are_the_same_request(first: Any, second: Any) -> None:
    assert masked(first) == masked(second)
    assert jaccard(shingles(first), shingles(second)) == 1.0


def test_masking_leaves_an_apostrophe_alone() -> None:
    assert "tom" in masked("It's Tom's turn")


def test_request_is_what_follows_the_mark_and_not_the_catalogue() -> None:
    text = "Pick.\n\nAVAILABLE TOOLS:\n- a: b\n\nUSER REQUEST: read the poem\n\nAnswer in JSON."
    assert request_of(example(text)) == "read the poem"
    assert request_of(example("no mark at all")) == "no mark at all"


def test_exact_and_near_duplicates_across_splits_are_found() -> None:
    first = [example("please show me the long list of red boats in port")]
    near = [example("please show me the long list of red boats in port now")]
    other = [example("mute the loudspeaker")]
    assert leaks(first, first, 0.7)[0].jaccard == 1.0
    assert 0.7 <= leaks(first, near, 0.7)[0].jaccard < 1.0
    assert leaks(first, other, 0.7) == ()


@pytest.mark.parametrize("extra", ["mute the loudspeaker at 7", "MUTE the loudspeaker at 12!"])
def test_check_fails_on_a_request_that_stands_in_two_splits(extra: Any) -> None:
    train, heldout = (example("mute the loudspeaker at 9"),), (example(extra),)
    with pytest.raises(DatasetError, match=r"1 requests of held-out occur in train too.*1\.00"):
        check_no_leaks(Dataset(train, (), heldout, "", ()), 0.7)


def test_dataset_has_the_sizes_asked_and_no_group_in_two_splits() -> None:
    dataset = build_dataset(curriculum(), pool(), [])
    assert [len(part) for part in splits(dataset)] == [12, 2, 4]
    groups = [{one.group for one in part} for part in splits(dataset)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_near_duplicates_in_different_groups_are_never_divided() -> None:
    long = "would you kindly bring me the big green umbrella from the hall cupboard"
    twins = [example(f"{long} {end}", f"t{number}/0") for number, end in enumerate(("", "today", "soon", "please"))]
    dataset = build_dataset(curriculum(), pool() + twins, [])
    homes = [at for at, part in enumerate(splits(dataset)) for one in part if one.group.startswith("t")]
    assert len(set(homes)) == 1


def test_same_input_gives_the_same_digest_and_another_seed_another() -> None:
    one, two = build_dataset(curriculum(), pool(), []), build_dataset(curriculum(), pool(), [])
    assert one.digest == two.digest
    assert one.digest == one.card["digest"]
    assert build_dataset(replace(curriculum(), seed=4), pool(), []).digest != one.digest


def test_repeated_requests_are_dropped_and_counted() -> None:
    dataset = build_dataset(curriculum(), [*pool(), *pool()], [])
    assert dropped(dataset, "repeated request") == 30


def test_too_few_examples_is_said_with_figures() -> None:
    with pytest.raises(DatasetError, match=r"\d+ of 500 for train"):
        build_dataset(curriculum(train=500), pool(), [])
    with pytest.raises(DatasetError, match="minimum_examples = 13"):
        build_dataset(curriculum(minimum=13), pool(), [])


def test_nearly_repeated_requests_are_kept_once_anywhere_in_the_dataset() -> None:
    long = "would you kindly bring me the big green umbrella from the dusty old hall cupboard upstairs"
    twins = [example(f"{long} {end}", f"s{n % 3}/t{n}") for n, end in enumerate(("", "today", "soon", "please"))]
    dataset = build_dataset(curriculum(), [*twins, *pool()], [])
    assert dropped(dataset, "nearly repeated request") == 3
    everything = [one for part in splits(dataset) for one in part]
    assert len(leaks(everything, everything, 0.8)) == len(everything)
    lax = replace(curriculum(), split=replace(curriculum().split, repeat=1.0))
    assert dropped(build_dataset(lax, [*twins, *pool()], []), "nearly repeated request") == 0


def sourced() -> tuple[Curriculum, list[Example]]:
    """A curriculum of two sources, 9 and 3 of 12, and a pool in which they have 20 and 10."""
    sources = (SourceSpec("made", name="a", target=9), SourceSpec("made", name="b", target=3, weight=2.5))
    rows = [replace(one, source="b" if at % 3 == 0 else "a") for at, one in enumerate(pool())]
    return replace(curriculum(), sources=sources), rows


def test_each_source_gives_its_target_and_its_weight() -> None:
    spec, rows = sourced()
    dataset = build_dataset(spec, rows, [])
    assert sorted((one.source, one.weight) for one in dataset.train) == [("a", 1.0)] * 9 + [("b", 2.5)] * 3
    assert sorted(one.source for one in dataset.heldout) == ["a"] * 3 + ["b"]
    shares = dataset.card["shares"]
    assert isinstance(shares, dict)
    assert shares["b"]["got"] == {"train": 3, "validation": 0, "heldout": 1}  # type: ignore[index,call-overload]


def test_a_target_that_cannot_be_reached_names_the_source_with_got_and_wanted() -> None:
    spec, rows = sourced()
    fewer = [one for one in rows if one.source == "a"] + [one for one in rows if one.source == "b"][:2]
    with pytest.raises(DatasetError, match=r"source 'b' gives \d of 3 for train.*\(2 distinct ones in all\)"):
        build_dataset(spec, fewer, [])


def test_what_an_optional_source_lacks_in_a_split_the_others_make_up_for() -> None:
    spec, rows = sourced()
    # All of it hangs on one example of the other source, so that it stands in one split.
    group = next(one.group for one in rows if one.source == "a")
    tied = [replace(one, group=group) if one.source == "b" else one for one in rows]
    with pytest.raises(DatasetError, match="source 'b' gives"):
        build_dataset(spec, tied, [])
    optional = replace(spec, sources=tuple(replace(one, optional=one.name == "b") for one in spec.sources))
    dataset = build_dataset(optional, tied, [])
    assert [len(part) for part in splits(dataset)] == [spec.split.train, spec.split.validation, spec.split.heldout]
    assert [name for name, part in enumerate(splits(dataset)) if any(one.group == group for one in part)] == [0]


def test_heldout_holds_only_what_can_be_marked_and_enough_of_the_exams_stage() -> None:
    spec, rows = sourced()
    unmarked = [replace(one, expected=None) if one.source == "b" else one for one in rows]
    assert {one.source for one in build_dataset(spec, unmarked, []).heldout} == {"a"}
    with pytest.raises(DatasetError, match="0 of 4 for held-out have an expected answer"):
        build_dataset(spec, [replace(one, expected=None) for one in rows], [])
    elsewhere = [replace(one, stage="intent") for one in rows]
    with pytest.raises(DatasetError, match="0 held-out examples of a are of the exam's stage 'tool_selection'"):
        build_dataset(spec, elsewhere, [])


def test_a_wrong_answer_is_shown_in_train_only() -> None:
    dataset = build_dataset(curriculum(), [replace(one, rejected="no") for one in pool()], [])
    assert {one.rejected for one in dataset.train} == {"no"}
    assert {one.rejected for part in splits(dataset)[1:] for one in part} == {None}


def test_corrections_go_to_train_only_and_their_ids_are_kept() -> None:
    rows = [correction("hoist the yellow flag", "e2"), correction("lower the blue anchor", "e1")]
    dataset = build_dataset(curriculum(), pool(), rows)
    assert dataset.exchange_ids == ("e1", "e2")
    assert len(dataset.train) == 14
    assert not [one for part in splits(dataset)[1:] for one in part if one.origin.startswith("exchange:")]
    assert dataset.digest != build_dataset(curriculum(), pool(), []).digest


def test_correction_near_a_heldout_item_is_dropped_and_counted() -> None:
    heldout = build_dataset(curriculum(), pool(), []).heldout[0]
    dataset = build_dataset(curriculum(), pool(), [correction(request_of(heldout).upper(), "e1")])
    assert dataset.exchange_ids == ()
    assert dropped(dataset, "correction near a held-out item") == 1


def test_correction_near_a_validation_example_is_kept_and_that_example_goes() -> None:
    validation = build_dataset(curriculum(), pool(), []).validation[0]
    dataset = build_dataset(curriculum(), pool(), [correction(request_of(validation), "e1")])
    assert dataset.exchange_ids == ("e1",)
    assert validation not in dataset.validation


def test_latest_correction_of_a_request_counts_and_overrules_a_generated_answer() -> None:
    train = build_dataset(curriculum(), pool(), []).train[0]
    rows = [correction(request_of(train), "old", "{}"), correction(request_of(train), "new", '{"a":1}')]
    dataset = build_dataset(curriculum(), pool(), rows)
    assert dataset.exchange_ids == ("new",)
    assert train not in dataset.train


def test_of_nearly_the_same_corrections_the_last_is_kept_and_generated_ones_give_way() -> None:
    long = "please bring the old violet umbrella of my aunt down from the dusty attic before it rains"
    rows = [correction(f"{long} today", "e1"), correction(f"{long} again", "e2")]
    assert build_dataset(curriculum(), pool(), rows).exchange_ids == ("e2",)
    near = [*pool(), *(example(f"{long} {end}", f"s{n}/u") for n, end in enumerate(("quickly", "now")))]
    dataset = build_dataset(curriculum(train=20), near, rows)
    alike = [one for part in splits(dataset) for one in part if "umbrella" in request_of(one)]
    assert len(alike) == 1


def test_corrections_of_other_stages_or_conversations_do_not_replace_each_other() -> None:
    def said(number: str, before: str = "", stage: str = "generation") -> Example:
        turns = (Message("user", before), Message("assistant", "Shall I?")) if before else ()
        one = correction("yes please do", number)
        return replace(one, messages=(*turns, *one.messages), stage=stage)

    rows = [
        said("e1", "hoist the flag"),
        said("e2", "lower the anchor"),
        said("e3", stage="intent"),
        said("e4", stage="tool_selection"),
        said("e5", "lower the anchor"),
    ]
    assert build_dataset(curriculum(), pool(), rows).exchange_ids == ("e1", "e3", "e4", "e5")


def test_a_correction_overrules_no_generated_example_of_another_stage_or_with_other_turns_before_it() -> None:
    train = build_dataset(curriculum(), pool(), []).train[0]
    same = correction(request_of(train), "e1")
    later = replace(same, messages=(Message("user", "and now?"), Message("assistant", "Well?"), *same.messages))
    for other in (replace(same, stage="intent"), later):
        dataset = build_dataset(curriculum(), pool(), [other])
        assert dataset.exchange_ids == ("e1",)
        assert train in dataset.train
    of_no_stage = [replace(one, stage=None) if one == train else one for one in pool()]
    told = build_dataset(curriculum(), of_no_stage, [same])
    assert request_of(train) not in {request_of(one) for one in told.train if one.origin == "made"}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_says_an_overruled_request_in_other_words_goes_with_it(split: str) -> None:
    def reworded(one: Example) -> Example:
        words = example(f"kindly {' and '.join(reversed(request_of(one).split()))}", one.group, origin="base")
        return replace(words, expected=None, of=one.key())

    rows = [*pool(), *map(reworded, pool())]
    spec = curriculum(train=30, validation=8, heldout=2)
    before = {one.of: one for one in getattr(build_dataset(spec, rows, []), split) if one.of}
    original = next(one for one in pool() if one.key() in before)
    dataset = build_dataset(spec, rows, [correction(request_of(original), "e1")])
    assert dataset.exchange_ids == ("e1",)
    assert before[original.key()] not in (*dataset.train, *dataset.validation)
    assert len([one for one in getattr(dataset, split) if one.of]) == len(before) - 1
    assert dropped(dataset, "other words for what a correction replaces") == 1


def test_fair_choice_takes_every_stratum_and_group_in_turn() -> None:
    rows = [example(f"{stratum}{group}{n}", f"{stratum}/{group}") for stratum in "ab" for group in "xy" for n in "12"]
    rows += [example(f"a extra {n}", "a/z") for n in range(20)]
    chosen = fair_choice(rows, 5)
    assert [one.group for one in chosen].count("a/z") == 1
    assert {one.stratum for one in chosen} == {"a", "b"}
    assert fair_choice(rows, 99) == rows


def test_a_dataset_of_many_rare_catalogues_is_refused() -> None:
    rows = [
        replace(one, messages=(Message("user", f"TOOLS {n} USER REQUEST: {request_of(one)}"), one.messages[-1]))
        for n, one in enumerate(pool())
    ]
    with pytest.raises(DatasetError, match="tool catalogues"):
        build_dataset(curriculum(), rows, [])


def test_shuffled_labels_keep_the_answers_but_not_their_places() -> None:
    rows = [example(f"say {n}", answer=f'{{"selected_tool":"{n}"}}') for n in range(60)]
    wrong = shuffled_labels(rows, 1)
    assert sorted(one.answer for one in wrong) == sorted(one.answer for one in rows)
    assert sum(a.answer == b.answer for a, b in zip(rows, wrong, strict=True)) < 6
    assert [one.messages[:-1] for one in wrong] == [one.messages[:-1] for one in rows]
    assert wrong == shuffled_labels(rows, 1)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers(), max_size=4), st.integers(0, 99))
def test_scrambled_answers_are_no_json_object(value: Any, seed: Any) -> None:
    text = json.dumps(value)
    wrong = scrambled_answers([example("x", answer=text)], seed)[0].answer
    assert parsed_object(wrong) is None


@given(st.text(max_size=60))
def test_any_text_can_be_masked_and_masking_again_changes_nothing_but_words(text: Any) -> None:
    once = masked(text)
    assert once == " ".join(once.split())
    assert jaccard(shingles(text), shingles(text)) == 1.0
