"""Claims about the shipped json-architect material: real variety, no leak, exactly the runtime's form."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError, DatasetError
from gaiad.learner.dataset import Dataset, Example, catalogue_of, check_no_leaks, leaks, masked, request_of
from gaiad.learner.exams.score import fits, parsed_object, score
from gaiad.learner.exams.tool_choice import items
from gaiad.learner.sources import catalogue
from gaiad.learner.sources.catalogue import freeze, gather, load_curriculum, load_frozen, shipped_curricula
from gaiad.learner.sources.exchanges import CorrectedExchange, from_corrections, shaping_fields
from gaiad.learner.sources.source import Gathered, Ground, Refused
from gaiad.learner.sources.tool_registry import load_examples, runtime_request
from tests import shipped

Built: TypeAlias = tuple[Curriculum, Dataset]

FOLDER = shipped_curricula() / "json-architect"
DOMAINS = "file shell web knowledge palace audio study introspect worldbuild notebook context browser manage fabric"
LEAST_CHARACTERS_A_TOKEN = 2.6
"""Rendered requests were measured at 2.8 characters a token or more with the demo's base model."""


@pytest.fixture(scope="module")
def full() -> Built:
    return shipped.built(FOLDER.name, "full")


@pytest.fixture(scope="module")
def demo() -> Built:
    return shipped.built(FOLDER.name, "demo")


@pytest.fixture(params=["full", "demo"])
def built(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def selections(built: Built) -> Built:
    """The same with the examples of tool selection alone."""
    curriculum, dataset = built
    train, heldout = (
        [one for one in part if one.stage == "tool_selection"] for part in (dataset.train, dataset.heldout)
    )
    return curriculum, replace(dataset, train=tuple(train), heldout=tuple(heldout))


def corrected(curriculum: Curriculum, words: str, number: str = "e1", **changes: object) -> CorrectedExchange:
    messages = [{"role": m.role, "content": m.content} for m in runtime_request(curriculum, FOLDER, words)]
    answer = {"selected_tool": "file", "params": "{}", "reasoning": "r", "confidence": 0.9}
    row = CorrectedExchange(number, "anna", "tool_selection", messages, json.dumps(answer), 1.0)
    return replace(row, **changes)  # type: ignore[arg-type]


def dropped(dataset: Dataset, reason: str) -> Json:
    counts = dataset.card["dropped"]
    assert isinstance(counts, dict)
    return counts.get(reason, 0)


def test_registry_has_the_runtimes_domains_as_openai_functions() -> None:
    tools = json.loads((FOLDER / "tools.json").read_text("utf-8"))["tools"]
    assert [tool["function"]["name"] for tool in tools] == DOMAINS.split()
    for tool in tools:
        assert tool["type"] == "function"
        assert tool["function"]["parameters"]["type"] == "object"
        assert "action" in tool["function"]["parameters"]["required"]


def test_full_profile_has_a_thousand_distinct_examples_beside_its_exam(full: Built) -> None:
    _, dataset = full
    assert len({masked(request_of(one)) for one in dataset.train}) >= 1000
    assert len({masked(request_of(one)) for one in dataset.heldout}) >= 150
    assert dataset.validation


def test_demo_profile_is_small(demo: Built) -> None:
    _, dataset = demo
    everything = [*dataset.train, *dataset.validation, *dataset.heldout]
    assert len(everything) <= 240
    assert len(dataset.heldout) >= 100
    assert len({catalogue_of(one) for one in everything}) == 1
    assert dataset.train[0].messages[1].content.count("\n- ") <= 5


def test_no_template_and_no_request_stands_in_two_splits(built: Built) -> None:
    curriculum, dataset = built
    check_no_leaks(dataset, curriculum.split.near_duplicate)
    parts = [dataset.train, dataset.validation, dataset.heldout]
    groups = [{one.group for one in part} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_the_leak_check_sees_a_heldout_request_with_other_values(full: Built) -> None:
    curriculum, dataset = full
    quoted = next(one for one in dataset.heldout if '"' in request_of(one) and ", " not in request_of(one))
    words = request_of(quoted)
    other = words[: words.index('"') + 1] + "something else" + words[words.rindex('"') :]
    assert leaks(from_corrections([corrected(curriculum, other)]), dataset.heldout, 0.7)


def test_every_rendered_example_fits_the_sequence_length(built: Built) -> None:
    curriculum, dataset = built
    longest = max(sum(len(m.content) for m in one.messages) for one in (*dataset.train, *dataset.heldout))
    assert longest / LEAST_CHARACTERS_A_TOKEN <= curriculum.training.max_sequence_tokens


def test_every_answer_is_one_line_that_obeys_the_schema_and_scores_full_marks(built: Built) -> None:
    curriculum, dataset = selections(built)
    asked = items(dataset.heldout, curriculum.exam)
    by_id = {one.key(): one for one in dataset.heldout}
    for item in asked:
        got = score(item, by_id[item.id].answer)
        assert got.tool_ok
        assert got.params_ok
        assert got.json_ok
    for one in dataset.train:
        answer = parsed_object(one.answer)
        assert answer is not None
        assert "\n" not in one.answer
        assert fits(one.schema, answer)
        assert isinstance(answer["params"], str)
        assert len(str(answer["reasoning"]).split()) <= 8


def test_a_chosen_tool_stands_in_the_catalogue_and_some_requests_need_none(built: Built) -> None:
    _, dataset = selections(built)
    none = 0
    for one in (*dataset.train, *dataset.heldout):
        assert one.expected is not None
        tool = one.expected["selected_tool"]
        none += tool == ""
        assert tool == "" or f"\n- {tool}(" in one.messages[1].content
    assert none / (len(dataset.train) + len(dataset.heldout)) > 0.1


def test_requests_have_the_marks_that_a_runtime_is_recognised_by(built: Built) -> None:
    for one in selections(built)[1].train:
        assert "You are a precise tool selector." in one.messages[0].content
        assert "AVAILABLE TOOLS:" in one.messages[1].content
        assert "USER REQUEST:" in one.messages[1].content


def test_confidence_and_wording_vary(full: Built) -> None:
    _, dataset = selections(full)
    answers = [parsed_object(one.answer) or {} for one in dataset.train]
    assert len({answer["confidence"] for answer in answers}) >= 5
    openings = Counter(request_of(one).split()[0].casefold() for one in dataset.train)
    assert openings.most_common(1)[0][1] < len(dataset.train) * 0.1


def test_few_catalogues_each_used_often_the_runtimes_own_most(full: Built) -> None:
    curriculum, dataset = selections(full)
    used = Counter(catalogue_of(one) for one in dataset.train)
    own = json.loads((FOLDER / "tools.json").read_text("utf-8"))
    assert len(used) <= len(dataset.train) / 32
    assert min(used.values()) >= 16
    assert max(used.values()) >= 0.6 * len(dataset.train)
    runtime = runtime_request(curriculum, FOLDER, "hello")[1].content
    assert runtime.count("\n- ") == len(own["tools"])
    assert runtime.partition("USER REQUEST:")[0] in [
        one.messages[1].content.partition("USER REQUEST:")[0]
        for one in dataset.train
        if catalogue_of(one) == used.most_common(1)[0][0]
    ]


def test_best_constant_answer_is_a_poor_one(built: Built) -> None:
    curriculum, dataset = built
    tools = Counter(str(item.expected["selected_tool"]) for item in items(dataset.heldout, curriculum.exam))
    assert tools.most_common(1)[0][1] / tools.total() < 0.25


def test_generation_is_repeatable_and_follows_the_seed(demo: Built) -> None:
    curriculum, dataset = demo
    assert gather(curriculum, FOLDER, []).digest == dataset.digest
    other = load_examples(curriculum.sources[0], Ground(replace(curriculum, seed=1), FOLDER)).examples
    assert {one.key() for one in other} != {
        one.key() for one in load_examples(curriculum.sources[0], Ground(curriculum, FOLDER)).examples
    }


def test_correction_lands_in_train_with_its_id(demo: Built) -> None:
    curriculum, dataset = demo
    gathered = gather(curriculum, FOLDER, [corrected(curriculum, "water the palm tree beside the blue door")])
    assert gathered.exchange_ids == ("e1",)
    assert gathered.heldout == dataset.heldout
    assert [one.stage for one in gathered.train if one.origin == "exchange:e1"] == ["tool_selection"]
    assert gathered.card["exchange_ids"] == ["e1"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stage": "generation"}, "correction of another adapter's stage"),
        ({"correction": "the file tool"}, "correction that does not fit its stage's schema"),
        ({"correction": '{"selected_tool": "file"}'}, "correction that does not fit its stage's schema"),
        ({"correction": "  "}, "correction without a request and an answer in text"),
        ({"request_messages": []}, "correction without a request and an answer in text"),
        (
            {
                "request_messages": [
                    {"role": "user", "content": "x"},
                    {"role": "tool", "content": "y", "tool_call_id": "1"},
                ]
            },
            "correction without a request and an answer in text",
        ),
        ({"shaped_by": ("tools",)}, "correction of a request with tools or a template of its own"),
        (
            {"request_messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "correction without a request and an answer in text",
        ),
        (
            {"request_messages": [{"role": "user", "content": "x" * 9000}]},
            "correction too long for the sequence length",
        ),
    ],
)
def test_a_correction_that_cannot_be_used_is_counted(demo: Built, changes: Any, reason: Any) -> None:
    curriculum, dataset = demo
    gathered = gather(curriculum, FOLDER, [corrected(curriculum, "water the palm tree", **changes)])
    assert gathered.exchange_ids == ()
    assert gathered.digest == dataset.digest
    assert dropped(gathered, reason) == 1


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({}, ()),
        ({"temperature": 0, "tools": [], "chat_template_kwargs": None, "add_generation_prompt": True}, ()),
        ({"tools": [{"type": "function"}], "tool_choice": "auto"}, ("tools",)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, ("chat_template_kwargs",)),
        ({"chat_template": "{{ messages }}", "documents": [{}]}, ("documents", "chat_template")),
        ({"system": "be brief"}, ("system",)),
        ({"add_generation_prompt": False, "continue_final_message": True}, None),
    ],
)
def test_what_else_than_messages_shapes_a_prompt_is_named(extra: dict[str, Any], named: tuple[str, ...] | None) -> None:
    wanted = ("continue_final_message", "add_generation_prompt") if named is None else named
    assert shaping_fields({"messages": [], **extra}) == wanted
    assert shaping_fields(None) == ()


def test_correction_of_a_heldout_request_stays_out_of_train(demo: Built) -> None:
    curriculum, dataset = demo
    gathered = gather(curriculum, FOLDER, [corrected(curriculum, request_of(dataset.heldout[0]))])
    assert gathered.exchange_ids == ()
    assert dropped(gathered, "correction near a held-out item") == 1


@pytest.mark.parametrize(("reply", "rejected"), [(" wrong ", "wrong"), (None, None), (" ", None), ("right\n", None)])
def test_the_reply_that_was_corrected_is_the_rejected_one(reply: str | None, rejected: str | None) -> None:
    asked = [{"role": "user", "content": "well?"}]
    row = CorrectedExchange("e", "anna", "intent", asked, "right", 1.0, reply=reply)
    example = from_corrections([row])[0]
    assert (example.answer, example.rejected) == ("right", rejected)
    assert Example.from_json(example.to_json()) == example


def test_preference_pairs_are_in_train_only(demo: Built) -> None:
    curriculum, _ = demo
    row = replace(corrected(curriculum, "water the palm tree beside the blue door"), reply="no")
    gathered = gather(curriculum, FOLDER, [row])
    assert [one.rejected for one in gathered.train if one.rejected] == ["no"]
    assert not [one for one in (*gathered.validation, *gathered.heldout) if one.rejected]


def test_parts_of_text_content_are_joined() -> None:
    parts = [{"type": "text", "text": "read "}, {"type": "text", "text": "it"}]
    row = CorrectedExchange("e", "anna", "intent", [{"role": "user", "content": parts}], " other ", 1.0)
    assert [m.content for m in from_corrections([row])[0].messages] == ["read it", "other"]


def test_frozen_dataset_reads_back_the_same_and_freezing_again_changes_nothing(demo: Built, tmp_path: Path) -> None:
    _, dataset = demo
    path = freeze(dataset, tmp_path)
    assert path == tmp_path / dataset.digest
    assert load_frozen(path) == dataset
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert freeze(dataset, tmp_path) == path
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
    assert set(before) == {"train.jsonl", "validation.jsonl", "held_out.jsonl", "card.json", "card.html"}
    assert [one.name for one in tmp_path.iterdir()] == [dataset.digest]


def test_lengths_in_tokens_stand_on_the_card_and_change_no_digest(demo: Built, tmp_path: Path) -> None:
    curriculum, dataset = demo
    counted = gather(curriculum, FOLDER, [], count=lambda example: 300)
    assert counted.digest == dataset.digest
    assert dataset.card["token_lengths"] == "lengths not measured in tokens"
    assert counted.card["lengths"]["tokens"]["largest"] == 300  # type: ignore[index,call-overload]
    with pytest.raises(DatasetError, match=r"236 examples do not fit training\.max_sequence_tokens = 320"):
        gather(curriculum, FOLDER, [], count=lambda example: 321)
    # What is known of a frozen dataset may grow.
    path = freeze(dataset, tmp_path)
    assert load_frozen(freeze(counted, tmp_path)) == counted
    assert not [file.name for file in path.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("name", ["train.jsonl", "held_out.jsonl", "card.json"])
def test_a_changed_or_torn_dataset_is_refused(demo: Built, tmp_path: Path, name: Any) -> None:
    path = freeze(demo[1], tmp_path)
    text = (path / name).read_text("utf-8")
    (path / name).write_text(text[: len(text) // 2], "utf-8")
    with pytest.raises(DatasetError):
        load_frozen(path)
    (path / name).unlink()
    with pytest.raises(DatasetError, match="cannot read the dataset"):
        load_frozen(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "json-architect"))


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("requests.json", "[Show] me what is in {path}", "[Show] me what is in {paht}", r"file\.read.*paht"),
        ("requests.json", "[Mute] the sound", "Mute the sound", r"audio\.mute.*deciding words"),
        ("requests.json", '"file.read"', '"file.raed"', r"file\.raed: action not in"),
        ("requests.json", '"file.read"', '"flie.read"', "tools that are not there: flie"),
        ("requests.json", '"level": [5, 10', '"level": [500, 10', r"audio\.volume.*does not take"),
        ("tools.json", '"name": "file"', '"name": "web"', "names a tool twice"),
        ("tools.json", '"name": "file", ', "", r"tools\.json cannot be read"),
        ("prompt.json", '"runtime"', '"other"', "no usable style 'runtime'"),
        ("requests.json", '"slots"', "slots", r"requests\.json cannot be read"),
    ],
)
def test_broken_material_is_named(folder: Path, file: Any, old: Any, new: Any, told: Any) -> None:
    text = (folder / file).read_text("utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(CurriculumError, match=told):
        gather(load_curriculum(folder, "full"), folder, [])


def test_a_curriculum_whose_folder_is_called_otherwise_is_refused(folder: Path) -> None:
    other = folder.rename(folder.with_name("gaia-voice"))
    with pytest.raises(CurriculumError, match="'json-architect', and its folder is called 'gaia-voice'"):
        load_curriculum(other, "full")


@pytest.mark.parametrize(
    ("found", "optional", "told"),
    [
        (Gathered(()), False, r"the source 'own' gives no example \(mend"),
        (Gathered((), (Refused("a.md", "not text"),)), True, r"'own' gives no example \(a\.md: not text\)"),
        (Gathered((), (Refused("f", "r"),) * 9), False, r"\(f: r; f: r; f: r; f: r; f: r; and 4 more\)"),
        (Gathered(()), True, None),
    ],
)
def test_a_source_that_gives_nothing_is_an_error_unless_it_was_given_nothing(
    monkeypatch: pytest.MonkeyPatch, demo: Built, found: Gathered, optional: bool, told: str | None
) -> None:
    curriculum, dataset = demo
    monkeypatch.setitem(catalogue._LOADERS, "own", lambda source, ground: found)
    own = SourceSpec("own", name="own", optional=optional)
    both = replace(curriculum, sources=(*curriculum.sources, own))
    if told is None:
        assert gather(both, FOLDER, []).train == dataset.train
        return
    with pytest.raises(CurriculumError, match=told):
        gather(both, FOLDER, [])


def test_what_was_refused_stands_on_the_card(monkeypatch: pytest.MonkeyPatch, demo: Built) -> None:
    curriculum, _ = demo
    refused = tuple(Refused(f"{number}.md", "binary") for number in range(150))
    monkeypatch.setitem(
        catalogue._LOADERS, "own", lambda source, ground: replace(load_examples(source, ground), refused=refused)
    )
    own = replace(curriculum.sources[0], kind="own", name="mine")
    card = gather(replace(curriculum, sources=(own,)), FOLDER, []).card
    assert card["refused_count"] == 150
    assert card["refused"][:1] == [{"origin": "0.md", "reason": "binary"}]  # type: ignore[index]
    assert len(card["refused"]) == 100  # type: ignore[arg-type]
    assert card["sources"] == {"mine": 122}


def test_missing_material_and_unknown_kinds_and_options_are_named(folder: Path) -> None:
    curriculum = load_curriculum(folder, "full")
    source = curriculum.sources[0]
    with pytest.raises(CurriculumError, match="no kind 'rumour'"):
        gather(replace(curriculum, sources=(replace(source, kind="rumour"),)), folder, [])
    for options, told in (
        ({"colour": 1}, "no options colour"),
        ({"tools": ["hammer"]}, "unknown tools hammer"),
        ({"intents": ["file.eat"]}, "unknown intents file.eat"),
        ({"fills": "many"}, "must be numbers"),
    ):
        with pytest.raises(CurriculumError, match=told):
            load_examples(replace(source, options=options), Ground(curriculum, folder))  # type: ignore[arg-type]
    (folder / "prompt.json").unlink()
    with pytest.raises(CurriculumError, match=r"cannot read .*prompt\.json"):
        gather(curriculum, folder, [])
