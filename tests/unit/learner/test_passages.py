"""Claims about Markdown taken apart: structure is kept whole, and every piece is found again where it is said to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.sources.document_questions import KINDS, questions
from gaiad.learner.sources.passages import (
    CODE,
    ITEMS,
    PROSE,
    STEPS,
    TABLE,
    Passage,
    Span,
    passages,
    quote_of,
    stands_at,
)

PAGE = """---
title: front matter is no text
---
# Bees *and* hives

A hive hums, e.g. In spring it sings. "Listen," he said.
It goes on
over a line.

- **Drone**: a male bee
  without a sting
- a worker
  - a worker's day

1. open
2. look

> Quoted alone.

> Quoted over
> two lines.

| bee | task |
|---|---|
| drone | waits |
| a \\| b | escaped |

```sh
open hive

close hive
```

Setext
======
The end"""


def pieces(text: str, passage: Passage) -> list[str]:
    return [quote_of(text, one) for one in passage.pieces]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_page_falls_into_its_blocks_below_their_headings(ending: str) -> None:
    text = PAGE.replace("\n", ending)
    found = passages(text, 400)
    assert [one.shape for one in found] == [PROSE, ITEMS, STEPS, PROSE, CODE, PROSE]
    assert pieces(text, found[0]) == [
        "A hive hums, e.g. In spring it sings.",
        '"Listen," he said.',
        "It goes on over a line.",
    ]
    assert pieces(text, found[1]) == ["**Drone**: a male bee without a sting", "a worker"]
    assert pieces(text, found[2]) == ["open", "look"]
    assert pieces(text, found[3]) == ["Quoted alone."]
    assert pieces(text, found[4]) == ["open hive close hive"]
    assert [[quote_of(text, one) for one in passage.headings] for passage in found] == [["Bees *and* hives"]] * 5 + [
        ["Setext"]
    ]


def test_a_table_keeps_its_rows_and_one_with_cells_that_read_otherwise_is_left_out() -> None:
    text = PAGE.replace("| a \\| b | escaped |", "| worker | works |")
    table = next(one for one in passages(text, 400) if one.shape == TABLE)
    assert (table.columns, pieces(text, table)) == (2, ["bee", "task", "drone", "waits", "worker", "works"])


def test_what_is_too_long_is_cut_between_sentences_items_and_rows_and_never_inside() -> None:
    sentence = "One of many sentences stands here and says little. "
    text = f"{sentence * 9}\n\n" + "".join(f"{at}. step number {at} of this list\n" for at in range(1, 20))
    text += "\n| a | b |\n|---|---|\n" + "".join(f"| row {at} | cell {at} |\n" for at in range(30))
    text += "\n```\n" + "code\n" * 60 + "```\n"
    found = passages(text, 160)
    assert max(one.whole.end - one.whole.start for one in found) <= 160
    assert {piece for one in found if one.shape == PROSE for piece in pieces(text, one)} == {sentence.strip()}
    steps = [piece for one in found if one.shape == STEPS for piece in pieces(text, one)]
    assert steps == [f"step number {at} of this list" for at in range(1, 20)]
    tables = [one for one in found if one.shape == TABLE]
    assert len(tables) == 1
    assert pieces(text, tables[0])[:2] == ["a", "b"]
    assert not [one for one in found if one.shape == CODE]


def test_a_quote_stands_at_its_place_only() -> None:
    assert stands_at("one two\nthree", Span(4, 13), "two three")
    for span, quote in [(Span(4, 12), "two three"), (Span(3, 3), ""), (Span(4, 99), "two three"), (Span(-1, 3), "one")]:
        assert not stands_at("one two\nthree", span, quote)


_LINES = st.sampled_from(
    [
        "# Head",
        "## Second",
        "A sentence about honey is here. Another one follows it, longer than the first.",
        "The hive is a house for many bees.",
        "- **Comb**: wax in six-sided cells, built by workers",
        "- an item",
        "  more",
        "1. first open the lid",
        "2. then look inside",
        "3. then close the lid",
        "> said",
        "| a | b |",
        "|---|---|",
        "| c | d |",
        "```",
        "---",
        "===",
        "    indented",
        "\ttab",
        "",
        "*Ünïcode* „quoted“ {braces} 世界",
    ]
)


@given(
    st.lists(_LINES | st.text(max_size=30), max_size=25), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(20, 600)
)
def test_every_answer_to_any_document_stands_where_it_is_said_to_stand(
    lines: list[str], ending: str, longest: int
) -> None:
    text = ending.join(lines)
    asked = questions(text, seed="1", longest=longest, most=50)
    assert {one.kind for one in asked} <= set(KINDS)
    for one in asked:
        assert stands_at(text, one.span, one.answer)
        assert one.reference
    assert asked == questions(text, seed="1", longest=longest, most=50)
