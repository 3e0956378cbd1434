"""Claims about worked-out questions: the answer is right by another way of reckoning, the wrong ones are wrong."""

import random
from collections.abc import Callable
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.learner.sources.computed import OPERATIONS, Computed, in_words, ordinal

WORDS = {in_words(number): number for number in range(10_000)}
ORDINALS = {ordinal(number): number for number in range(1, 32)}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"]
MONTHS += ["November", "December"]


def drawn(operation: str, seed: int, question: str = "") -> Computed:
    return OPERATIONS[operation](random.Random(seed), question)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "zero"), (13, "thirteen"), (40, "forty"), (85, "eighty-five"), (100, "one hundred"),
        (101, "one hundred and one"), (342, "three hundred and forty-two"), (1000, "one thousand"),
        (1005, "one thousand and five"), (2019, "two thousand and nineteen"),
        (9999, "nine thousand nine hundred and ninety-nine"),
    ],
)  # fmt: skip
def test_numbers_are_said_as_people_say_them(number: int, said: str) -> None:
    assert in_words(number) == said


def test_no_two_numbers_sound_alike_and_others_have_no_words() -> None:
    assert len(WORDS) == 10_000
    for number in (-1, 1_000_000):
        with pytest.raises(ValueError, match="no words"):
            in_words(number)


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "first"), (2, "second"), (3, "third"), (4, "fourth"), (8, "eighth"), (12, "twelfth"), (20, "twentieth"),
     (21, "twenty-first"), (29, "twenty-ninth"), (30, "thirtieth"), (31, "thirty-first")],
)  # fmt: skip
def test_ordinals_are_said_as_people_say_them(number: int, said: str) -> None:
    assert ordinal(number) == said


@given(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 10_000))
def test_wrong_answers_differ_and_never_hold_the_right_one(operation: str, seed: int) -> None:
    found = drawn(operation, seed)
    assert len({found.right, *found.wrong}) == 3
    assert not any(found.right in wrong for wrong in found.wrong)


@given(st.integers(0, 10_000))
def test_sums_come_out_right(seed: int) -> None:
    reckoned: dict[str, Callable[[int, int, int], float]] = {
        "sum": lambda a, b, c: a + b,
        "difference": lambda a, b, c: a - b,
        "product": lambda a, b, c: a * b,
        "quotient": lambda a, b, c: c / a,
        "rest": lambda a, b, c: c - a * (c // a),
    }
    for operation, reckon in reckoned.items():
        found = drawn(operation, seed)
        values = {name: WORDS[said] for name, said in found.slots.items()}
        assert reckon(values.get("a", 0), values.get("b", 0), values.get("c", 0)) == WORDS[found.right] > 0


@given(st.integers(0, 10_000), st.booleans())
def test_weekdays_come_out_right(seed: int, is_past: bool) -> None:
    found = drawn("weekday", seed, "It was {n} days ago." if is_past else "In {n} days.")
    start = next(
        day for day in (date(2024, 1, 1) + timedelta(n) for n in range(7)) if DAYS[day.weekday()] == found.slots["d"]
    )
    end = start + timedelta(WORDS[found.slots["n"]] * (-1 if is_past else 1))
    assert found.right == DAYS[end.weekday()]


@given(st.integers(0, 10_000))
def test_dates_come_out_right(seed: int) -> None:
    found = drawn("date", seed)
    start = date(2023, MONTHS.index(found.slots["m"]) + 1, ORDINALS[found.slots["k"]])
    end = start + timedelta(WORDS[found.slots["n"]])
    assert found.right == f"{ordinal(end.day)} of {MONTHS[end.month - 1]}"


@given(st.integers(0, 10_000))
def test_clock_times_come_out_right(seed: int) -> None:
    found = drawn("clock", seed)
    assert (minutes(found.slots["h"]) + WORDS[found.slots["n"]]) % 720 == minutes(found.right)


def minutes(said: str) -> int:
    """Minutes after noon or midnight of a time as it is said."""
    if said.endswith(" o'clock"):
        return WORDS[said.removesuffix(" o'clock")] % 12 * 60
    rest, side, hour = next((*said.partition(f" {word} "),) for word in ("past", "to") if f" {word} " in said)
    span = {"a quarter": 15, "half": 30}.get(rest) or WORDS[rest]
    return (WORDS[hour] * 60 + (span if side.strip() == "past" else -span)) % 720


@given(st.integers(0, 10_000))
def test_years_come_out_right(seed: int) -> None:
    found = drawn("years", seed)
    assert year(found.slots["z"]) - year(found.slots["y"]) == WORDS[found.right]


def year(said: str) -> int:
    """The year of 1800 to 2019 that is said so."""
    if said in WORDS:
        return WORDS[said]
    century, _, rest = said.partition(" ")
    return WORDS[century] * 100 + (0 if rest == "hundred" else WORDS[rest.removeprefix("oh ")])
