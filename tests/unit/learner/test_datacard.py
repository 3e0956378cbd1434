"""What the data card says: how varied the examples are, how long, and nothing that a user said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gaiad.card_page import bars, card_page
from gaiad.curriculum import Json
from gaiad.learner.datacard import described, histogram
from gaiad.learner.dataset import Dataset, Example, Message
from gaiad.learner.diversity import by_source, decided, diversity


def example(words: str, group: str = "file.read/00", source: str = "tools", **expected: Json) -> Example:
    turns = (Message("system", "You choose."), Message("user", words), Message("assistant", "{}"))
    return Example(turns, source, group, "curriculum:a@1", expected=expected or None)


def dataset(*train: Example) -> Dataset:
    card: dict[str, Json] = {"adapter": "a<b", "counts": {"train": len(train)}, "answers": {"train": {"<x>": 1}}}
    return Dataset(train, (), (), "d" * 64, (), card)


def test_the_same_request_again_and_again_is_found_uniform() -> None:
    rows = [example("read the file please") for _ in range(10)]
    figures = diversity(rows)
    assert (figures.distinct_1, figures.distinct_2, figures.template_share) == (0.1, 0.1, 1.0)
    varied = diversity([example(f"word{n} other{n} third{n}", f"g/{n}") for n in range(10)])
    assert (varied.distinct_1, varied.distinct_2, varied.template_share) == (1.0, 1.0, 0.1)
    assert varied.compression > figures.compression


def test_balance_compares_the_commonest_with_the_rarest() -> None:
    rows = [example("one", "a/0", selected_tool="x"), *(example(f"two {n}", f"b/{n}", selected_tool="") for n in "xyz")]
    assert (diversity(rows).balance, diversity(rows).answer_balance) == (3.0, 3.0)
    assert diversity([]).examples == 0


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"selected_tool": "", "params": {}}, ""),
        ({"label": "chat"}, "chat"),
        ({"fields": {"reason": "x", "action": "HALT"}}, "HALT"),
        ({"fields": {"approved": True}}, "True"),
        ({"fields": {"reason": "x"}}, None),
        ({"fields": {"confidence": 0.4}}, None),
        ({"lines": {"EVAL": "a sentence that says a good deal more"}}, None),
        ({"contains": ["GAIA"]}, None),
        ({}, None),
    ],
)
def test_what_an_answer_decides(expected: dict[str, Json], said: str | None) -> None:
    few: dict[str, Json] = {"action": {"enum": ["HALT", "GO"]}, "approved": {"type": "boolean"}}
    one = replace(example("x"), expected=expected, schema={"properties": {**few, "reason": {"type": "string"}}})
    assert decided(one) == said


def test_sources_are_measured_apart() -> None:
    found = by_source([example("a b c", source="one"), example("a b c", source="two"), example("d e f", source="two")])
    assert {name: one.examples for name, one in found.items()} == {"one": 1, "two": 2}


def test_a_histogram_counts_every_value_once() -> None:
    found = histogram([0, 5, 5, 1199])
    assert isinstance(found["counts"], list)
    assert sum(map(int, found["counts"])) == 4  # type: ignore[arg-type]
    assert (found["median"], found["largest"]) == (5, 1199)
    assert "svg" in bars(found)
    assert "svg" in bars(histogram([]))


def test_what_a_user_said_is_no_sample() -> None:
    secret = replace(example("my own words"), origin="exchange:abc", source="exchanges")
    rows = described(dataset(example("shipped words"), secret))["samples"]
    assert isinstance(rows, list)
    assert len(rows) == 1
    assert "my own words" not in str(rows)


def test_the_page_holds_every_part_and_nothing_unescaped() -> None:
    data = dataset(example("say <b>bold</b>"))
    card: dict[str, Json] = {**data.card, **described(data), "refused": [{"origin": "a<.md", "reason": "binary"}]}
    page = card_page(card)
    for part in ("a&lt;b", "&lt;x&gt;", "&lt;b&gt;bold", "a&lt;.md", "binary", "nothing was left out", "tools"):
        assert part in page
    assert "<b>" not in page
    assert "http" not in page
