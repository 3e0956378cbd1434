"""Claims about likeness: MinHash proposes, the exact measure decides, and both agree on what is nearly the same."""

import random
import subprocess
import sys

import pytest

from gaiad.learner import likeness
from gaiad.learner.example import Example, Message
from gaiad.learner.likeness import Requests, near_pairs, values_in

WORDS = [f"{first}{second}" for first in ("ba", "ce", "di", "fo", "gu", "ha", "je") for second in ("lm", "rn", "st")]


def example(request: str) -> Example:
    return Example((Message("user", request), Message("assistant", "x")), "s", "g", "o")


def some(count: int) -> list[Example]:
    """Requests of which some are another with one to four words changed."""
    draw = random.Random(7)
    said: list[list[str]] = []
    for _ in range(count):
        words = list(draw.choice(said)) if said and draw.random() < 0.5 else draw.choices(WORDS, k=18)
        for _ in range(draw.randrange(1, 4)):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        said.append(words)
    return [example(" ".join(words)) for words in said]


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_of_many_examples_the_same_pairs_are_found_as_by_comparing_all(
    monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    rows = some(700)
    exact = sorted(near_pairs(rows, threshold))
    monkeypatch.setattr(likeness, "MANY", 0)
    assert len(exact) > 20
    assert sorted(near_pairs(rows, threshold)) == exact


def test_few_examples_are_compared_without_the_library() -> None:
    code = (
        "import sys; from tests.unit.learner.test_likeness import some; from gaiad.learner.likeness import near_pairs;"
        "print(len(list(near_pairs(some(50), 0.8))) > 0, 'rensa' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]


def test_known_requests_are_asked_by_the_same_measure_that_pairs_are_found_by() -> None:
    examples = some(120)
    pairs = {later for _, later, _ in near_pairs(examples, 0.6)}
    known = Requests()
    found = set()
    for at, one in enumerate(examples):
        if known.has_like(one.messages[0].content, 0.6):
            found.add(at)
        known.add(one.messages[0].content)
    assert pairs
    assert found == pairs


def test_the_values_of_a_request_are_told_case_and_quotation_marks_apart() -> None:
    said = values_in('Write "Milk, 2 l" to Notes.md, then 3 times “milk, 2 l” to ~/a/b.txt.')
    assert said == {"quoted milk, 2 l": 2, "path notes.md": 1, "path ~/a/b.txt": 1, "number 3": 1}
