"""What is remembered of words, and that what is sought is found by it as in the text itself."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from gaiad.redact_words import LONG, KnownWords, core, lowered

SOUGHT = ("pass", "key", "://", "код", "tan ", "lock box", "пин", "-u", "@", ":", "net use", "42")
PIECES = (
    "Password",
    "passed",
    "key",
    "https://x",
    "код",
    "КОД",
    "TAN ",
    "Lock box",
    "-U",
    "don't",
    "word",
    "Word,",
    "WORD!",
)
texts = st.lists(
    st.one_of(st.sampled_from((*PIECES, "aB3dE5gH", "2841", "x42", "ſ", "İ", "\u2003")), st.text(max_size=6)),
    max_size=12,
).flatmap(lambda words: st.sampled_from([" ", "\n", "", "\t"]).map(lambda blank: blank.join(words)))


def test_of_what_is_sought_the_longest_part_within_a_word_counts() -> None:
    assert [core(piece) for piece in ("pass", "tan ", "lock box", " ")] == ["pass", "tan", "lock", ""]
    assert KnownWords(SOUGHT).sought == {"pass", "key", "://", "код", "tan", "lock", "пин", "-u", "net", "42"}


@given(st.lists(texts, min_size=1, max_size=4))
@example(["word Word, pass", "word Word, pass"])
def test_what_is_sought_is_found_whether_its_words_were_met_before_or_not(said: list[str]) -> None:
    known = KnownWords(SOUGHT)
    for text in (*said, *said):
        _, there = known.told_of(text)
        assert there == {piece for piece in known.sought if piece in lowered(text)}


@given(st.lists(texts, min_size=1, max_size=4))
def test_only_short_words_of_letters_that_hold_nothing_are_left_out(said: list[str]) -> None:
    known = KnownWords(SOUGHT)
    for text in (*said, *said):
        others, _ = known.told_of(text)
        for word in set(text.split()) - set(others):
            assert re.fullmatch(r"[().,;:!?]*[A-Za-z][a-z']*[().,;:!?]*|[().,;:!?]*[A-Z']+[().,;:!?]*", word)
            assert len(word) < LONG
            assert not any(piece in word.lower() for piece in known.sought)


def test_words_with_digits_are_not_remembered() -> None:
    known = KnownWords(SOUGHT)
    for _ in range(2):
        known.told_of("hunter2 Muschel9! plain passed")
    assert not any(re.search(r"\d", word) for word in (*known._plain, *known._held))
