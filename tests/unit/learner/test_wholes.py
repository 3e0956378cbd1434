"""Claims about what the splits keep whole, and what happens where wholes are too few."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

import pytest

from gaiad.learner.example import Example, Message
from gaiad.learner.shares import Share
from gaiad.learner.wholes import divided
from tests.shipped import dataset_of

LETTERS = str.maketrans("0123456789", "ghijklmnop")
WANTED = {"s": Share(12, 2, 4)}


def asked(place: int, kin: Sequence[str] = (), *, source: str = "s", group: str = "", marked: bool = True) -> Example:
    # Letters only, since numbers are masked when requests are compared.
    words = " ".join(sha256(f"{place} {at}".encode()).hexdigest().translate(LETTERS)[:6] for at in range(7))
    return Example(
        (Message("user", words), Message("assistant", "yes")),
        source=source,
        group=group or f"kind{place % 3}/{source}{place}",
        origin="made",
        expected={"label": "yes"} if marked else None,
        kin=tuple(kin),
    )


def documents(count: int, questions: int, sections: int = 3) -> list[Example]:
    return [
        asked(100 * document + place, (f"document/{document}", f"section/{document}#{place * sections // questions}"))
        for document in range(count)
        for place in range(questions)
    ]


def standing(parts: dict[str, dict[str, list[Example]]], level: int) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for split, by_source in parts.items():
        for one in (one for examples in by_source.values() for one in examples if len(one.kin) > level):
            found[one.kin[level]].add(split)
    return found


@pytest.mark.parametrize(("count", "questions"), [(3, 12), (4, 8), (9, 3)])
def test_no_document_stands_in_two_splits_where_there_are_enough(count: int, questions: int) -> None:
    parts, units = divided(documents(count, questions), WANTED, 0.7, 1)
    assert {split: len(part["s"]) for split, part in parts.items()} == {"train": 12, "validation": 2, "heldout": 4}
    assert all(len(splits) == 1 for splits in standing(parts, 0).values())
    told = cast("dict[str, Any]", units.told(parts)["s"])
    assert told["unit"] == "document"
    assert "too_few" not in told
    assert told["heldout"] >= 1


def test_of_one_document_whole_sections_are_divided_and_the_card_says_so() -> None:
    parts, units = divided(documents(1, 24, sections=6), WANTED, 0.7, 1)
    assert all(len(splits) == 1 for splits in standing(parts, 1).values())
    told = cast("dict[str, Any]", units.told(parts)["s"])
    assert (told["unit"], told["too_few"]) == ("section", "document")


def test_of_one_section_what_was_made_of_one_template_is_kept_together() -> None:
    one_section = documents(1, 24, sections=1)
    parts, units = divided(one_section, WANTED, 0.7, 1)
    told = cast("dict[str, Any]", units.told(parts)["s"])
    assert (told["unit"], told["too_few"]) == ("template", "document")
    assert all(len(part["s"]) for part in parts.values())


def test_too_few_wholes_of_one_source_leave_those_of_another_as_they_are() -> None:
    sets = [asked(900 + n, (f"contrast set/t/{n // 3}",), source="t", group=f"v{n % 3}/t{n // 3}") for n in range(30)]
    wanted = {**WANTED, "t": Share(18, 3, 6)}
    parts, units = divided([*documents(1, 24, sections=6), *sets], wanted, 0.7, 1)
    told = cast("dict[str, Any]", units.told(parts))
    assert (told["s"]["unit"], told["t"]["unit"]) == ("section", "contrast set")
    assert all(len(splits) == 1 for name, splits in standing(parts, 0).items() if name.startswith("contrast"))


def test_where_nothing_suffices_the_finest_division_is_given_back() -> None:
    parts, units = divided(documents(1, 5), WANTED, 0.7, 1)
    assert sum(len(part["s"]) for part in parts.values()) <= 5
    assert cast("dict[str, Any]", units.told(parts)["s"])["unit"] == "template"


def test_what_no_exam_can_mark_never_fills_held_out() -> None:
    unmarked = [replace(one, expected=None) for one in documents(6, 6)[:24]]
    marked = documents(6, 6)[24:]
    parts, _ = divided([*unmarked, *marked], WANTED, 0.7, 1)
    assert all(one.expected for one in parts["heldout"]["s"])
    assert len(parts["heldout"]["s"]) == 4


@pytest.mark.parametrize(
    ("adapter", "sources", "unit"),
    [
        ("gaia-voice", ["documents"], "document"),
        ("epistemic-guard", ["epistemics"], "contrast set"),
        ("packet-protocol", ["diagnosis", "reading", "decision", "next_step", "annotation"], "scenario"),
    ],
)
def test_the_shipped_curricula_keep_their_largest_wholes(adapter: str, sources: list[str], unit: str) -> None:
    dataset = dataset_of(adapter)
    told = cast("dict[str, dict[str, Any]]", dataset.card["kept_whole"])
    for source in sources:
        assert told[source]["unit"] == unit
        assert "too_few" not in told[source]
        assert told[source]["heldout"] >= 2


def test_no_document_scenario_or_fact_of_a_shipped_curriculum_stands_in_two_splits() -> None:
    """Read off the origins, which say where an example comes from, and not off what the builder was told."""
    for adapter, parted in (("gaia-voice", "#"), ("epistemic-guard", None), ("packet-protocol", None)):
        dataset = dataset_of(adapter)
        found: dict[str, set[str]] = defaultdict(set)
        for split, part in (("train", dataset.train), ("validation", dataset.validation), ("held", dataset.heldout)):
            for one in part:
                place = one.origin.partition("#")[0] if parted else one.origin.partition("#")[2]
                if one.origin.startswith("document:") or place.startswith("scenarios/"):
                    found[place].add(split)
                elif place.startswith(("grounds/", "turns/audits/")):
                    found["/".join(place.split("/")[:3])].add(split)
        assert len(found) >= 10
        assert {place: splits for place, splits in found.items() if len(splits) > 1} == {}


@pytest.mark.parametrize("seed", range(12))
def test_a_source_that_stands_in_few_wholes_of_another_gets_its_share_all_the_same(seed: int) -> None:
    """Wholes are divided as their first source; what the second lacks then is moved, and the wholes stay whole."""
    scenes = [asked(10 * n + at, (f"scenario/{n}",)) for n in range(30) for at in range(3)]
    rare = [asked(10 * n + 5, (f"scenario/{n}",), source="t", group=f"rare/{n}") for n in range(0, 30, 5)]
    wanted = {"s": Share(56, 6, 12), "t": Share(3, 1, 2)}
    parts, units = divided([*scenes, *rare], wanted, 0.7, seed)
    assert {split: len(part["t"]) for split, part in parts.items()} == {"train": 3, "validation": 1, "heldout": 2}
    assert {split: len(part["s"]) for split, part in parts.items()} == {"train": 56, "validation": 6, "heldout": 12}
    assert cast("dict[str, Any]", units.told(parts)["t"])["unit"] == "scenario"
    assert all(len(splits) == 1 for splits in standing(parts, 0).values())
