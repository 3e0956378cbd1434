"""Claims about the owner's registries as a source: seventy tools become a dataset, and nothing is made up."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gaiad.curriculum import Curriculum, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Dataset, Example, alike, catalogue_of, check_no_leaks, masked, request_of
from gaiad.learner.exams.score import fits, parsed_object
from gaiad.learner.sources import own_tools
from gaiad.learner.sources.catalogue import gather, load_curriculum, shipped_curricula
from gaiad.learner.sources.requests import parse_material
from gaiad.learner.sources.schema_values import validator_of
from gaiad.learner.sources.source import Gathered, Ground
from gaiad.learner.sources.tool_catalogues import divided
from gaiad.learner.sources.tool_frames import LANGUAGES, parse_frames
from gaiad.learner.sources.tool_prompt import Tool
from gaiad.learner.sources.tool_registry import runtime_request
from gaiad.learner.sources.tool_requests import asked, confidence_among, in_words
from gaiad.learner.sources.tool_words import acting, deciding, first_clause, wording_of
from tests.fakes.tools_of_a_runtime import TOOLS
from tests.shipped import dataset_of

FOLDER = shipped_curricula() / "json-architect"
FRAMES = parse_frames((FOLDER / "frames.json").read_text("utf-8"))
MATERIAL = parse_material((FOLDER / "requests.json").read_text("utf-8"))
LEAST_CHARACTERS_A_TOKEN = 2.6


def curriculum() -> Curriculum:
    return load_curriculum(FOLDER, "full")


def written(folder: Path, tools: Any) -> str:
    path = folder / "tools.json"
    path.write_text(json.dumps(tools), "utf-8")
    return str(path)


def own_only(registry: str, **changes: Any) -> Curriculum:
    source = SourceSpec("tool_registry", {"registry": registry, **changes}, "mine")
    return replace(curriculum(), sources=(source,))


@pytest.fixture(scope="module")
def seventy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return gather(own_only(written(tmp_path_factory.mktemp("registry"), TOOLS)), FOLDER, [])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Gathered:
    registry = written(tmp_path_factory.mktemp("registry"), TOOLS)
    spec = own_only(registry)
    return own_tools.from_registries(spec.sources[0], Ground(spec, FOLDER), (registry,))


def of_tools(examples: Iterable[Example]) -> list[Example]:
    return [one for one in examples if one.group.startswith("mine.")]


def asked_for(one: Example) -> str:
    return one.kin[0].removeprefix("template/mine.").partition("/")[0]


def frame_of(one: Example) -> str:
    return one.kin[0].rpartition("/")[2]


def test_seventy_tools_fill_a_thousand_distinct_examples_without_an_edit(seventy: Dataset) -> None:
    assert seventy.card["refused_count"] == 0
    assert len({masked(request_of(one)) for one in seventy.train}) == len(seventy.train) == 1000
    assert [pair for pair in alike(seventy.train, seventy.train, 0.8) if pair[0] < pair[1]] == []
    check_no_leaks(seventy, 0.7)


def test_every_answer_fits_its_tools_schema_and_the_runtimes(everything: Gathered) -> None:
    checks = {name: validator_of(tool["params"]) for name, tool in TOOLS.items()}
    for one in everything.examples:
        answer = parsed_object(one.answer)
        assert answer is not None
        assert fits(one.schema, answer)
        assert one.expected is not None
        name, params = str(answer["selected_tool"]), json.loads(str(answer["params"]))
        assert (name, params) == (one.expected["selected_tool"], one.expected["params"])
        assert checks[name].is_valid(params) if name else params == {}
        assert 0.5 <= float(str(answer["confidence"])) <= 0.97
        assert len(str(answer["reasoning"]).split()) <= 9


def test_the_tool_is_chosen_where_it_stands_in_the_catalogue_and_only_there(everything: Gathered) -> None:
    missing = 0
    for one in of_tools(everything.examples):
        assert one.expected is not None
        name = asked_for(one)
        shown = f"\n- {name}(" in one.messages[1].content
        assert one.expected["selected_tool"] == (name if shown else "")
        missing += not shown
    assert 0.03 < missing / len(everything.examples) < 0.15


def leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def test_every_value_of_an_answer_was_said_in_the_request(everything: Gathered) -> None:
    numbers = {in_words(number): number for number in range(100)}
    for one in everything.examples:
        request = request_of(one)
        words = {numbers.get(word.casefold()) for word in re.findall(r"[\w-]+", request)}
        for value in leaves((one.expected or {})["params"]):
            if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value)):
                continue
            assert str(value).casefold() in request.casefold() or value in words, (request, value)


def test_tools_and_frames_are_used_evenly(seventy: Dataset) -> None:
    tools = Counter(asked_for(one) for one in of_tools(seventy.train))
    assert len(tools) == 70
    assert max(tools.values()) <= 2 * min(tools.values())
    chosen = Counter(str((one.expected or {})["selected_tool"]) for one in seventy.train)
    assert max(count for name, count in chosen.items() if name) <= 2 * min(chosen.values())
    assert 0.05 < chosen[""] / chosen.total() < 0.2
    frames = Counter(map(frame_of, of_tools(seventy.train)))
    assert max(frames.values()) <= 0.05 * len(seventy.train)
    assert len(frames) >= 120


def test_where_a_tool_is_missing_its_template_stays_in_one_split_and_takes_nothing_of_the_tools_share(
    seventy: Dataset,
) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for name, part in (("train", seventy.train), ("validation", seventy.validation), ("held", seventy.heldout)):
        for one in of_tools(part):
            splits[one.kin[0]].add(name)
    assert all(len(found) == 1 for found in splits.values())
    missing = [one for one in of_tools(seventy.train) if not (one.expected or {})["selected_tool"]]
    assert {one.stratum for one in missing} == {f"mine.absent{at}" for at in range(4)}
    assert seventy.card["uneven"] == []


def test_a_big_registry_is_cut_into_few_catalogues_that_are_used_often(seventy: Dataset, everything: Gathered) -> None:
    used = Counter(catalogue_of(one) for one in seventy.train)
    assert len(used) <= 1000 // 32
    assert min(used.values()) >= 16
    assert sum(used[key] for key in everything.own_catalogues) >= 0.6 * 1000
    longest = max(sum(len(m.content) for m in one.messages) for one in everything.examples)
    assert longest / LEAST_CHARACTERS_A_TOKEN <= curriculum().training.max_sequence_tokens
    shown = {name for one in everything.examples for name in re.findall(r"\n- (\w+)\(", one.messages[1].content)}
    assert shown > TOOLS.keys()


def test_confidence_varies_with_what_else_stands_in_the_catalogue(everything: Gathered) -> None:
    found = Counter((parsed_object(one.answer) or {})["confidence"] for one in everything.examples)
    assert len(found) >= 20
    assert found.most_common(1)[0][1] < 0.2 * len(everything.examples)
    look, see = (Tool(name, "Read the contents of a file.", {}) for name in ("read_file", "read_document"))
    other = Tool("ring_bell", "Ring the bell.", {})
    one = next(asked(look, 0, 1, FRAMES, MATERIAL, 1))
    assert confidence_among(one, [look, other]) > confidence_among(one, [look, see])


def test_requests_come_in_all_languages_and_manners(seventy: Dataset) -> None:
    frames = Counter(map(frame_of, of_tools(seventy.train)))
    languages = Counter(name.partition(".")[0] for name in frames.elements())
    assert set(languages) == set(LANGUAGES)
    assert 0.5 < languages["en"] / languages.total() < 0.85
    kinds = {frame.kind for frame in FRAMES.frames if frame.language == "en"}
    assert kinds == {"imperative", "question", "polite", "need", "implicit", "several", "hint"}
    assert sum(frame.language == "en" for frame in FRAMES.frames) >= 60
    assert all(sum(frame.language == one for frame in FRAMES.frames) >= 8 for one in LANGUAGES)


def test_the_same_registry_gives_the_same_dataset_and_another_seed_another_one(tmp_path: Path) -> None:
    registry = written(tmp_path, {name: TOOLS[name] for name in [*TOOLS][:4]})
    spec = own_only(registry)
    first, again, other = (
        own_tools.from_registries(one.sources[0], Ground(one, FOLDER), (registry,)).examples
        for one in (spec, spec, replace(spec, seed=7))
    )
    assert first == again
    assert {one.key() for one in first} != {one.key() for one in other}


# --- Beside the shipped material --------------------------------------------------------------------------------


def test_where_no_registry_is_configured_the_source_gives_nothing_and_others_make_up_for_it() -> None:
    spec = curriculum()
    source = next(one for one in spec.sources if one.kind == own_tools.KIND)
    assert own_tools.load_examples(source, Ground(spec, FOLDER)) == Gathered(())
    dataset = dataset_of(FOLDER.name)
    assert len(dataset.train) == 1000
    assert "own_tools" not in {one.source for one in dataset.train}


@pytest.mark.parametrize("names", [[*TOOLS][:1], [*TOOLS][7:8], [*TOOLS][:3], [*TOOLS]], ids=len)
def test_a_configured_registry_of_any_size_joins_the_shipped_tools(tmp_path: Path, names: list[str]) -> None:
    registry = written(tmp_path, {name: TOOLS[name] for name in names})
    dataset = gather(curriculum(), FOLDER, [], registries=[registry])
    given = Counter(one.source for one in dataset.train)
    assert len(dataset.train) == 1000
    assert 100 <= given["own_tools"] <= 360
    assert given["tool_registry"] >= 250
    assert {(one.expected or {}).get("selected_tool") for one in dataset.train} >= set(names)


def test_shipped_tools_and_intents_are_balanced() -> None:
    dataset = dataset_of(FOLDER.name)
    mine = [one for one in dataset.train if one.source == "tool_registry"]
    for counts in (
        Counter(str((one.expected or {})["selected_tool"]) for one in mine),
        Counter(one.stratum for one in mine),
    ):
        assert max(counts.values()) <= 2 * min(counts.values()), counts
    assert max(Counter(one.group for one in mine).values()) <= 0.05 * len(mine)


def test_two_registries_with_one_name_keep_the_first_and_say_so(tmp_path: Path) -> None:
    first = written(tmp_path, {"look": {"description": "Look at a file.", "params": {}}})
    second = tmp_path / "more.json"
    second.write_text(json.dumps({"look": {}, "bad": 7, "ring": {"description": "Ring the bell."}}))
    spec = own_only(first)
    found = own_tools.from_registries(spec.sources[0], Ground(spec, FOLDER), (first, str(second)))
    assert [(one.origin.rpartition("#")[2], one.reason) for one in found.refused] == [
        ("bad", "no tool but a number"),
        ("look", "another registry has a tool of this name"),
    ]
    assert {asked_for(one) for one in of_tools(found.examples)} == {"look", "ring"}


def test_a_tool_that_nothing_can_be_drawn_for_or_that_finds_no_room_is_refused_by_name(tmp_path: Path) -> None:
    never = {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}
    wide = {"type": "object", "properties": {f"parameter_{n}": {"type": "string"} for n in range(200)}}
    tools = {"never": {"params": never}, "wide": {"params": wide}, "ring": {"description": "Ring the bell."}}
    registry = written(tmp_path, tools)
    spec = own_only(registry)
    found = own_tools.from_registries(spec.sources[0], Ground(spec, FOLDER), (registry,))
    assert {one.origin for one in found.refused} == {"tool:never", "tool:wide"}
    assert {asked_for(one) for one in of_tools(found.examples)} == {"ring"}
    alone = written(tmp_path, {"never": {"params": never}})
    with pytest.raises(CurriculumError, match=r"no tool of .* can be asked for"):
        own_tools.from_registries(spec.sources[0], Ground(spec, FOLDER), (alone,))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"registry": 7}, "a named registry"),
        ({"registry": "x.json", "fills": 3}, "no options fills"),
        ({"registry": "x.json"}, r"x\.json"),
        ({"registry": "no_such_module_here:TOOLS"}, "cannot import"),
    ],
)
def test_wrong_options_and_a_registry_that_is_not_there_are_named(options: Any, told: str) -> None:
    spec = replace(curriculum(), sources=(SourceSpec("tool_registry", options, "mine"),))
    with pytest.raises(CurriculumError, match=told):
        gather(spec, FOLDER, [])


def test_a_request_of_the_runtime_shows_the_named_registry(tmp_path: Path) -> None:
    registry = written(tmp_path, {"ring": {"description": "Ring the bell."}})
    assert "\n- ring(): Ring the bell.\n" in runtime_request(own_only(registry), FOLDER, "hello")[1].content


def test_tools_beyond_the_catalogues_are_given_back() -> None:
    tools = [Tool(f"tool{n}", "x" * 40, {}) for n in range(30)]
    parts, left = divided(tools, 200, 4)
    assert [tool for part in parts for tool in part] + left == tools
    assert len(parts) == 4
    assert all(sum(len(tool.line()) + 1 for tool in part) <= 200 for part in parts)
    assert divided([Tool("long", "x" * 400, {})], 200, 4) == ([], [Tool("long", "x" * 400, {})])


# --- Words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "description", "phrase"),
    [
        ("read_file", "Read the contents of a file. More of it.", "read the contents of a file"),
        ("x", "Reads a file (UTF-8).", "read a file"),
        ("x", "Searches the web using an engine", "search the web using an engine"),
        ("x", "Search all the web pages of the world using an engine", "search all the web pages of the world"),
        ("x", "Abort the run.", "abort the run"),
        ("x", "This tool allows you to list the user's notes", "list my notes"),
        ("x", "Forecast for a place", "get the forecast for a place"),
        ("x", "How far it has come.", "find out how far it has come"),
        ("x", "GPU status", "get the GPU status"),
        ("read_file", "", "read the file"),
        ("world", "", "use world"),
        ("stop", "Stop.", "use stop"),
        ("x", "{v0} [act]", "get the v0"),
    ],
)
def test_a_tool_is_talked_about_by_its_description_or_its_name(name: str, description: str, phrase: str) -> None:
    assert wording_of(Tool(name, description, {}), FRAMES).acts[0] == phrase


@pytest.mark.parametrize(
    ("phrase", "going_on"),
    [
        ("run the tests", "running the tests"),
        ("write it", "writing it"),
        ("see it", "seeing it"),
        ("tie it", "tying it"),
    ],
)
def test_verbs_get_their_ing_form(phrase: str, going_on: str) -> None:
    assert acting(phrase) == going_on


def test_deciding_words_are_few_and_do_not_end_in_a_small_one() -> None:
    assert deciding("get rid of a document from the library") == "get rid of a document"
    assert deciding("read the contents of a file") == "read the contents"
    assert first_clause("Turn a b c d e f g h i j k l m n o p, and more") == "turn a b c d e f g h i j k l"


def test_a_frame_without_a_slot_is_named() -> None:
    raw = json.loads((FOLDER / "frames.json").read_text("utf-8"))
    raw["frames"]["en"]["imperative"][0] = "Nothing"
    with pytest.raises(CurriculumError, match=r"en\.imperative00 'Nothing'"):
        parse_frames(json.dumps(raw))
    with pytest.raises(CurriculumError, match="cannot be read"):
        parse_frames("{}")


def test_schemas_of_the_fixture_are_schemas() -> None:
    for tool in TOOLS.values():
        jsonschema.Draft202012Validator.check_schema(tool["params"])
