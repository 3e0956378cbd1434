"""No user ever has more turns than the limit, and whoever has none is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.turns import Turns

WHO = st.sampled_from([None, "ada", "bob"])


@given(limit=st.integers(1, 3), steps=st.lists(st.tuples(st.booleans(), WHO), max_size=40))
def test_no_user_has_more_turns_than_the_limit(limit: int, steps: list[tuple[bool, str | None]]) -> None:
    turns = Turns(limit)
    running: list[str | None] = []
    for begins, who in steps:
        if begins:
            assert turns.take(who) == (running.count(who) < limit)
            if running.count(who) < limit:
                running.append(who)
        elif who in running:
            running.remove(who)
            turns.give_back(who)
        assert turns.taken == len(running)
    for who in running:
        turns.give_back(who)
    assert turns._taken == {}


def test_without_a_limit_nothing_is_counted() -> None:
    turns = Turns(0)
    assert all(turns.take("ada") for _ in range(1000))
    turns.give_back("ada")
    assert turns.taken == 0
