"""Claims about lengths: what does not fit is named and never cut, whether tokens or characters are counted."""

from dataclasses import replace

import pytest

from gaiad.errors import DatasetError
from gaiad.learner.example import Example, Message
from gaiad.learner.lengths import CHARACTERS_A_TOKEN, measured


def example(size: int, group: str = "s/t", origin: str = "made") -> Example:
    return Example((Message("user", "x" * (size - 1)), Message("assistant", "y")), "s", group, origin)


def test_without_a_count_characters_are_bounded_and_no_length_is_given() -> None:
    most = int(CHARACTERS_A_TOKEN * 100)
    assert measured([example(most)], 100, None) == []
    with pytest.raises(
        DatasetError, match=r"1 examples do not fit .* = 100 \(about 290 characters\): s/t \(made\): 291"
    ):
        measured([example(10), example(most + 1)], 100, None)


def test_with_a_count_tokens_decide_and_the_longest_are_named() -> None:
    rows = [example(10 * number, f"s/{number}") for number in range(1, 20)]
    assert measured(rows, 190, lambda one: len(one.messages[0].content) + 1) == [10 * number for number in range(1, 20)]
    with pytest.raises(DatasetError) as caught:
        measured(rows, 100, lambda one: len(one.messages[0].content) + 1)
    assert "9 examples do not fit training.max_sequence_tokens = 100: s/19 (made): 190 tokens; " in caught.value.message
    assert caught.value.message.count("tokens;") == 4


def test_an_exchange_that_is_too_long_is_left_to_the_trainer() -> None:
    long = replace(example(1000), origin="exchange:e1")
    assert measured([long], 100, None) == []
    assert measured([long], 100, lambda one: 500) == [500]
