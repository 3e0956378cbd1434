"""Questions whose answer is worked out: sums, shares, weekdays, clock times, years and dates, with numbers in words.

The templates come as text and name their operation; values follow from a seeded draw. Knows the right answer and near
ones that are wrong. Reads no file and no clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_UNITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# February is left out: its length depends on a year that no question names.
_MONTHS = {
    "January": 31,
    "March": 31,
    "April": 30,
    "May": 31,
    "June": 30,
    "July": 31,
    "August": 31,
    "September": 30,
    "October": 31,
    "November": 30,
}
_NEXT = dict(zip(_MONTHS, ("February", *list(_MONTHS)[2:], "December"), strict=True))


@dataclass(frozen=True, slots=True)
class Computed:
    """Values for a template's slots, the right answer in words, and wrong ones that are close to it."""

    slots: Mapping[str, str]
    right: str
    wrong: tuple[str, str]


Operation: TypeAlias = Callable[[random.Random, str], Computed]
"""Draws values and works out the answer; gets the template's question, whose slots may say which way it goes."""


def in_words(number: int) -> str:
    """A whole number from 0 to 999,999 in English words."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"no words for {number}")
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens] + (f"-{_UNITS[unit]}" if unit else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    whole, rest = divmod(number, size)
    joint = " and " if rest < 100 else " "
    return f"{in_words(whole)} {name}" + (f"{joint}{in_words(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """The ordinal in words, from first to thirty-first and beyond."""
    head, dash, last = in_words(number).rpartition("-")
    spoken = _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return f"{head}{dash}{spoken}"


def _near(right: int, draw: random.Random, *, least: int = 0) -> tuple[str, str]:
    """Two wrong numbers close by; neither one's words are part of the other's, nor of the right one's."""
    offsets = [-11, -10, -9, -2, -1, 1, 2, 9, 10, 11]
    draw.shuffle(offsets)
    said = in_words(right)
    found = [in_words(right + by) for by in offsets if right + by >= least]
    apart = [one for one in found if said not in one and one not in said]
    return apart[0], apart[1]


def _numbers(result: int, draw: random.Random, **values: int) -> Computed:
    slots = {name: in_words(value) for name, value in values.items()}
    return Computed(slots, in_words(result), _near(result, draw))


def _sum(draw: random.Random, _: str) -> Computed:
    a, b = draw.randint(14, 95), draw.randint(11, 90)
    return _numbers(a + b, draw, a=a, b=b)


def _difference(draw: random.Random, _: str) -> Computed:
    a = draw.randint(40, 98)
    b = draw.randint(12, a - 14)
    return _numbers(a - b, draw, a=a, b=b)


def _product(draw: random.Random, _: str) -> Computed:
    a, b = draw.randint(3, 12), draw.randint(6, 15)
    return _numbers(a * b, draw, a=a, b=b)


def _quotient(draw: random.Random, _: str) -> Computed:
    a, result = draw.randint(3, 9), draw.randint(4, 15)
    return _numbers(result, draw, a=a, c=a * result)


def _rest(draw: random.Random, _: str) -> Computed:
    a, times = draw.randint(5, 9), draw.randint(4, 9)
    rest = draw.randint(2, a - 1)
    wrong = [in_words(one) for one in range(2, a) if one != rest]
    draw.shuffle(wrong)
    return Computed({"a": in_words(a), "c": in_words(a * times + rest)}, in_words(rest), (wrong[0], wrong[1]))


def _weekday(draw: random.Random, question: str) -> Computed:
    start, days = draw.randrange(7), draw.choice([2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 15, 16])
    sign = -1 if " ago" in question else 1
    named = [_DAYS[(start + sign * days + by) % 7] for by in (0, 1, -1)]
    return Computed({"d": _DAYS[start], "n": in_words(days)}, named[0], (named[1], named[2]))


def _clock(draw: random.Random, _: str) -> Computed:
    start, minutes = draw.randint(8, 20) * 60 + draw.randrange(0, 60, 5), draw.randrange(25, 175, 5)
    end = start + minutes
    wrong = (_time(end + draw.choice([5, 10, -10])), _time(end + draw.choice([60, 30])))
    return Computed({"h": _time(start), "n": in_words(minutes)}, _time(end), wrong)


def _time(minutes: int) -> str:
    """A time of day on the twelve-hour clock, as it is said: twenty past nine, a quarter to ten."""
    hour, rest = divmod(minutes, 60)
    named = in_words((hour - 1) % 12 + 1)
    following = in_words(hour % 12 + 1)
    if rest == 0:
        return f"{named} o'clock"
    if rest in (15, 45):
        return f"a quarter past {named}" if rest == 15 else f"a quarter to {following}"
    if rest == 30:
        return f"half past {named}"
    return f"{in_words(rest)} past {named}" if rest < 30 else f"{in_words(60 - rest)} to {following}"


def _years(draw: random.Random, _: str) -> Computed:
    first = draw.randint(1805, 1965)
    span = draw.randint(7, 2019 - first if first > 1900 else 99)
    return Computed({"y": _year(first), "z": _year(first + span)}, in_words(span), _near(span, draw, least=1))


def _year(year: int) -> str:
    """A year as it is said: nineteen oh five, nineteen hundred, two thousand and nine."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return in_words(year)
    if rest == 0:
        return f"{in_words(century)} hundred"
    return f"{in_words(century)} {in_words(rest)}" if rest >= 10 else f"{in_words(century)} oh {in_words(rest)}"


def _date(draw: random.Random, _: str) -> Computed:
    month = draw.choice(list(_MONTHS))
    day, days = draw.randint(12, 28), draw.randint(5, 24)

    def after(count: int) -> str:
        late = day + count - _MONTHS[month]
        return f"{ordinal(late)} of {_NEXT[month]}" if late > 0 else f"{ordinal(day + count)} of {month}"

    slots = {"k": ordinal(day), "m": month, "n": in_words(days)}
    right = after(days)
    wrong = [one for by in (1, -1, 2, -2, 10) if right not in (one := after(days + by)) and one not in right]
    return Computed(slots, right, (wrong[0], wrong[1]))


OPERATIONS: Mapping[str, Operation] = {
    "sum": _sum,
    "difference": _difference,
    "product": _product,
    "quotient": _quotient,
    "rest": _rest,
    "weekday": _weekday,
    "clock": _clock,
    "years": _years,
    "date": _date,
}
CALENDAR = frozenset({"weekday", "clock", "years", "date"})
"""Which operations are about time; the others are plain arithmetic."""
