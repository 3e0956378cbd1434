"""Claims about what is asked: the answer is not only in the text, it is the answer to that question."""

import re

import pytest

from gaiad.learner.sources.catalogue import shipped_curricula
from gaiad.learner.sources.document_frames import FRAMES
from gaiad.learner.sources.document_questions import KINDS, Question, questions
from gaiad.learner.sources.passages import passages, quote_of

PAGES = sorted((shipped_curricula() / "gaia-voice" / "documents").glob("*.md"))
SEEDS = ("1", "2", "3")


def asked(kind: str) -> list[tuple[str, Question]]:
    texts = [path.read_text("utf-8") for path in PAGES]
    kinds = [
        (text, one) for text in texts for seed in SEEDS for one in questions(text, seed=seed, longest=700, most=99)
    ]
    found = [(text, one) for text, one in kinds if one.kind == kind]
    assert len(found) >= 10
    return found


def one_of(text: str, kind: str, seed: str = "1") -> list[Question]:
    return list(questions(text, seed=seed, longest=700, most=99, kinds=[kind]))


def test_a_gap_filled_with_the_answer_is_a_sentence_of_the_document() -> None:
    for text, one in asked("gap"):
        line = next(line for line in one.text.split("\n") if "____" in line)
        assert line.replace("____", one.answer) in " ".join(text.split())
        assert one.answer not in line


def test_the_neighbour_of_a_step_is_the_one_before_or_after_it() -> None:
    for _, one in asked("order"):
        steps = [re.sub(r"^\d+\. ", "", line) for line in one.reference.split("\n")]
        named = next(step for step in sorted(steps, key=len, reverse=True) if step in one.text)
        side = re.findall("after|before", one.text.replace(named, ""))[-1]
        assert steps.index(one.answer) - steps.index(named) == (1 if side == "after" else -1)


def test_a_cell_stands_in_the_row_and_the_column_that_were_named() -> None:
    for _, one in asked("table"):
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in one.reference.split("\n")]
        body = [row for row in rows[2:] if row[0] in one.text]
        assert any(row[at] == one.answer and rows[0][at] in one.text for row in body for at in range(1, len(rows[0])))


def test_a_heading_is_the_last_one_above_the_only_passage_with_the_word() -> None:
    for text, one in asked("section"):
        first, second = one.reference.split("\n\n", 1)
        right, wrong = (first, second) if first.startswith(f"{one.answer}\n") else (second, first)
        assert right.startswith(f"{one.answer}\n")
        words = {word for word in re.findall(r"[^\W\d_]{5,}", right) if word in one.text}
        assert [word for word in words if word.casefold() not in wrong.casefold()]
        assert re.search(rf"^#+ {re.escape(one.answer)}$", text, re.MULTILINE)


def test_what_is_recited_begins_as_it_was_asked_for() -> None:
    for _, one in asked("recite"):
        assert " ".join(one.answer.split()[:3]).rstrip(",;:") in one.text


def test_a_definition_begins_with_its_term() -> None:
    for _, one in asked("definition"):
        words = re.findall(r"[\w-]+", one.answer)
        assert any(word in one.text for word in words[:3])


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("A drain is the time in which the last guests leave.", "drain"),
        ("Sleep is the state in which nothing is answered.", "Sleep"),
        ("The second reader is a person who has not seen the draft.", "second reader"),
        ("- **Hold**: the claim of one on what all of them need\n- x", "Hold"),
        ("- **Hold** — the claim of one on what all of them need\n- x", "Hold"),
        ("- lease: the claim of one request on one version\n- x", "lease"),
    ],
)
def test_a_term_that_is_explained_is_asked_for(text: str, term: str) -> None:
    assert [term in one.text for one in one_of(text, "definition")] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "It is the only thing that anybody remembers about that evening.",
        "This one is the last of them, and it will stay the last.",
        "There is a house at the end of the road.",
        "Drains are short.",
        "The first is the one that nobody remembers for long.",
        "The drain was a good one and everybody liked it very much.",
        "- **Hold** the line until somebody comes to take it over\n- x",
    ],
)
def test_a_sentence_that_explains_nothing_is_no_definition(text: str) -> None:
    assert one_of(text, "definition") == []


def test_a_step_is_only_asked_for_where_its_neighbours_are_certain() -> None:
    assert one_of("1. wash\n2. wash\n3. dry", "order") == []
    assert one_of("1. wash\n2. dry", "order") == []
    assert {one.answer for seed in SEEDS for one in one_of("1. wash\n2. dry\n3. fold", "order", seed)} <= {
        "wash",
        "dry",
        "fold",
    }


def test_code_is_given_back_line_by_line() -> None:
    text = "# Start\n\n```sh\nmake\n\nmake test\n```\n"
    found = one_of(text, "code")
    assert [one.answer for one in found] == ["make\n\nmake test"]
    assert quote_of(text, found[0].span) == "make make test"


def test_every_kind_is_put_in_many_ways() -> None:
    assert set(KINDS) == set(FRAMES)
    assert min(len(set(frames)) for frames in FRAMES.values()) >= 8


def test_most_passages_are_asked_about() -> None:
    for path in PAGES:
        text = path.read_text("utf-8")
        assert len(questions(text, seed="1", longest=700, most=99)) >= 0.6 * len(passages(text, 350))
