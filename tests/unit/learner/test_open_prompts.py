"""Claims about general requests made by a grammar: many, unlike, of many skills, none like a curriculum's."""

import json
import re
from collections import Counter
from itertools import islice

import pytest

from gaiad.errors import CurriculumError
from gaiad.learner.likeness import Requests, jaccard, shingles
from gaiad.learner.sources.open_prompts import PROMPTS, open_prompts, parse_grammar
from gaiad.learner.sources.replay import GENERAL
from gaiad.learner.sources.source import shipped_curricula

TEXT = (shipped_curricula() / PROMPTS).read_text("utf-8")
GRAMMAR = parse_grammar(TEXT)


def test_the_shipped_grammar_gives_many_unlike_requests_of_many_skills_in_balance() -> None:
    found = [*open_prompts(GRAMMAR, 1, 400)]
    assert len({one.key for one in found}) == len(found) == 400
    assert max(Counter(one.group for one in found).values()) <= 0.05 * len(found)
    assert len({one.group.partition("/")[0] for one in found}) >= 12
    assert not any(re.search(r"[{}]|\s\s|[,.]\.", one.text) for one in found)
    sets = [shingles(one.text) for one in found]
    assert max(jaccard(a, b) for at, a in enumerate(sets) for b in sets[:at]) < 0.7


def test_no_general_request_is_like_one_of_the_shipped_replay() -> None:
    rows = map(json.loads, (shipped_curricula() / GENERAL).read_text("utf-8").splitlines())
    known = Requests(row["request"] for row in rows)
    assert [one.text for one in open_prompts(GRAMMAR, 1, 400) if known.has_like(one.text, 0.7)] == []


def test_they_follow_from_the_seed_and_more_of_them_begin_like_fewer() -> None:
    first = [*open_prompts(GRAMMAR, 1, 60)]
    assert first == [*islice(open_prompts(GRAMMAR, 1, 90), 60)]
    assert [one.text for one in first] != [one.text for one in open_prompts(GRAMMAR, 2, 60)]


def test_a_small_grammar_ends_by_itself_and_a_slot_that_stands_twice_gets_two_values() -> None:
    grammar = parse_grammar(json.dumps({"skills": {"a": ["Is {x} or {x} better?"]}, "slots": {"x": ["tea", "milk"]}}))
    found = [one.text for one in open_prompts(grammar, 1, 100)]
    assert set(found) <= {"Is tea or milk better?", "Is milk or tea better?"}
    assert found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"skills": {}, "slots": {}}', "has no skills"),
        ('{"skills": {"a/b": ["x"]}, "slots": {}}', "a/b has a slash"),
        ('{"skills": {"a": ["{x} and {y}"]}, "slots": {"x": ["1"], "y": []}}', "no values for y"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_named(text: str, told: str) -> None:
    with pytest.raises(CurriculumError, match=told):
        parse_grammar(text)
