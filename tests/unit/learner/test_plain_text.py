"""Claims about what a model wrote: what is no text, belongs to a template, turns in circles or stops half-way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner import plain_text
from gaiad.learner.plain_text import ends_open, fault, is_cut_off, language_of, repeats_itself, scripts_of


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", plain_text.NO_TEXT),
        (" \n ...", plain_text.NO_TEXT),
        ("Fine.\x00", plain_text.STRANGE),
        ("Fine \ufffd.", plain_text.STRANGE),
        ("Fine \x1b[31m", plain_text.STRANGE),
        ("Fine.<|im_end|>", plain_text.ROLES),
        ("Fine.</s>", plain_text.ROLES),
        ("[INST] Say it [/INST]", plain_text.ROLES),
        ("<think>Hm.</think> Fine.", plain_text.ROLES),
        ("Fine.\nUser: and now?", plain_text.ROLES),
        ("### Assistant: fine", plain_text.ROLES),
        ('{"selected_tool": "web"}', plain_text.ROLES),
        ("As an AI language model I have no garden.", plain_text.ABOUT_ITSELF),
        ("I'm sorry, that is beyond me.", plain_text.ABOUT_ITSELF),
        ("I cannot help with gardens.", plain_text.ABOUT_ITSELF),
        ("Als KI habe ich keinen Garten.", plain_text.ABOUT_ITSELF),
        ("very very very very good", plain_text.LOOP),
        ("we go on and we go on and we go on and", plain_text.LOOP),
    ],
)
def test_what_no_person_should_learn_from_has_a_reason(text: str, reason: str) -> None:
    assert fault(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        "Red and blue.",
        "No.",
        "Grüße aus Köln 🙂",
        "The user told the system to assist.",
        "1. Wash it\n2. Dry it\n3. Sand it",
        "It is very, very, very late.",
        "A user: somebody who uses a thing.",
    ],
)
def test_what_people_write_has_none(text: str) -> None:
    assert fault(text) is None


@given(
    st.lists(st.sampled_from(["amber", "birch", "cedar", "dune", "ember", "fjord", "grove"]), min_size=1, max_size=12),
    st.lists(st.sampled_from(["so", "it", "was", "then"]), max_size=5),
)
def test_a_phrase_said_four_times_in_a_row_is_a_loop_wherever_it_stands(phrase: list[str], before: list[str]) -> None:
    assert repeats_itself(" ".join([*before, *(phrase * 4)]))


@given(st.lists(st.text("abcdefghij", min_size=3, max_size=8), unique=True, max_size=60))
def test_words_that_are_all_different_are_no_loop(words: list[str]) -> None:
    assert not repeats_itself(" ".join(words))


def test_a_line_that_comes_three_times_is_a_loop_even_with_others_between() -> None:
    assert repeats_itself("Take the lamp.\nOpen it.\nTake the lamp.\nClose it.\nTake the lamp.")


@pytest.mark.parametrize(
    "text",
    [
        "Take these:",
        "First the lamp,",
        "It is a",
        "```python\nprint(1)",
        "He went to the market and bought eight eggs there for",
        "The tide comes in twice a day since the moon and",
    ],
)
def test_what_has_more_to_come_is_cut_off(text: str) -> None:
    assert is_cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        "Blue",
        "The tide comes in twice a day because of the moon.",
        "Take these:\n- a lamp\n- a long rope that is strong enough to hold you",
        "```python\nprint(1)\n```",
        "He said “the tide comes in twice on every single day”",
    ],
)
def test_what_may_end_so_is_not(text: str) -> None:
    assert not is_cut_off(text)


def test_a_long_sentence_without_a_stop_ends_half_way_but_not_open() -> None:
    text = "The tide comes in twice a day because the moon pulls"
    assert (is_cut_off(text), ends_open(text)) == (True, False)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the status of my server?", "en"),
        ("Wie ist der Status von meinem Server?", "de"),
        ("Quel est le contenu du fichier ?", "fr"),
        ("¿Cómo está el servidor del banco?", "es"),
        ("redis", ""),
        ("", ""),
    ],
)
def test_a_language_is_known_by_its_small_words(text: str, language: str) -> None:
    assert language_of(text) == language


def test_scripts_are_told_apart() -> None:
    assert scripts_of("Wien 12") == {"LATIN"}
    assert scripts_of("Wien и") == {"LATIN", "CYRILLIC"}
