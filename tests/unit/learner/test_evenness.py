"""Claims about what is said of a train split that is too uniform, and that the shipped ones are not."""

from itertools import cycle, islice

import pytest

from gaiad.curriculum import Json
from gaiad.learner.dataset import Dataset, others_exams_in
from gaiad.learner.evenness import doubts
from gaiad.learner.example import Example, Message
from gaiad.learner.sources.catalogue import curriculum_folders, shipped_curricula
from tests.shipped import dataset_of

ADAPTERS = [folder.name for folder in curriculum_folders(shipped_curricula())]


def made(count: int, *, kinds: int = 1, templates: int = 40, tools: tuple[str, ...] = ("x",)) -> list[Example]:
    chosen = list(islice(cycle(tools), count))
    return [
        Example(
            (Message("user", f"request {at}"), Message("assistant", "{}")),
            source="s",
            group=f"kind{at % kinds}/{at % templates}",
            origin="made",
            expected={"selected_tool": chosen[at]},
        )
        for at in range(count)
    ]


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        (made(40), None),
        (made(40, templates=20), None),
        (made(40, templates=19), "3 of 40 examples are of one template, 'kind0/0'; 5% is the most"),
        (made(12), "of 12 examples each template makes 8%, as there are fewer than 20"),
        (made(12, templates=6), "2 of 12 examples are of one template"),
        (made(60, tools=("x", "x", "y")), None),
        (made(60, tools=("x", "x", "x", "y")), "the answers are out of balance, 'x' stands 45 times and 'y' 15 times"),
        (made(40, kinds=2)[::2] + made(40, kinds=2)[1:14:2], "the kinds are out of balance, 'kind0' stands 20 times"),
    ],
)
def test_what_leads_too_far_is_named_with_its_figures(examples: list[Example], told: str | None) -> None:
    found = doubts(examples, ["s"])
    assert [one for one in found if told is None or told not in one] == []
    assert len(found) == (0 if told is None else 1)


def test_only_the_sources_asked_about_are_doubted() -> None:
    assert doubts(made(12), ["another"]) == ()
    assert doubts([], ["s"]) == ()


@pytest.mark.parametrize("profile", ["full", "recommended"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_shipped_curricula_are_even_at_their_size(adapter: str, profile: str) -> None:
    assert dataset_of(adapter, profile).card["uneven"] == []


def test_of_the_small_profiles_only_what_has_too_few_to_be_even_says_so() -> None:
    told: dict[str, Json] = {name: dataset_of(name, "demo").card["uneven"] for name in ADAPTERS}
    few = "replay: of 5 examples each template makes 20%, as there are fewer than 20"
    assert told == {**{name: [] for name in ADAPTERS}, "epistemic-guard": [few]}


@pytest.mark.parametrize("profile", ["full", "demo"])
def test_no_adapter_learns_what_is_asked_in_the_exam_of_another(profile: str) -> None:
    built = {name: dataset_of(name, profile) for name in ADAPTERS}
    for name, mine in built.items():
        assert others_exams_in(mine, {other: there for other, there in built.items() if other != name}) == ()


def test_a_request_of_anothers_exam_is_found_whatever_its_values() -> None:
    voice, architect = dataset_of("gaia-voice", "demo"), dataset_of("json-architect", "demo")
    taken = architect.heldout[0]
    words = taken.messages[-2].content.rpartition("USER REQUEST:")[2].strip().split("\n\n")[0]
    copied = Example((Message("user", words), Message("assistant", "No.")), "voice", "leaked/0", "made")
    spoilt = Dataset((*voice.train, copied), voice.validation, voice.heldout, "d", ())
    (leak,) = others_exams_in(spoilt, {"json-architect": architect})
    assert leak.first_origin == "leaked/0 (made)"
    assert leak.second_origin == f"json-architect: {taken.group} ({taken.origin})"
    assert leak.jaccard == 1.0
