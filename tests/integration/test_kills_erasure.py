"""A daemon killed in the middle of an erasure finishes it after its next start; and the proof of it sees what is left.

The kills are a small sample of `make proof-erasure`, with its own assertions.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from bench.load.erased import wrong_with
from bench.load.lived import digest_without, lived
from bench.proof_erasure import Moment, Proof, Round, moments, prove, table
from gaiad.erasure import Phase


# Each kill costs a start of the daemon, which takes its time where others compute too.
@pytest.mark.timeout(300)
def test_an_erasure_survives_every_kill_and_reaches_all_of_it_and_nothing_else(tmp_path: Path) -> None:
    proof = prove(tmp_path, rounds=2, users=30, kills=3, seed=3)
    assert proof.wrong == ()
    assert proof.holds
    # Something was at stake: the kills came while it was under way.
    assert proof.inside >= 3
    assert len(table(proof)) == 6


@pytest.mark.parametrize("clean", [True, False])
def test_where_nothing_was_erased_everything_is_reported(tmp_path: Path, clean: bool) -> None:
    place, without = lived(tmp_path / "home", 5, clean=clean), digest_without(tmp_path / "without", 5)
    found = "\n".join(wrong_with(place, without))
    assert all(word.decode() in found for word in place.canaries)
    assert all(f"the weights of {version} are still there" in found for version in place.stained)
    assert "5 rows of the erased user are left" in found
    assert "the report names []" in found
    assert "the reports say that [] went" in found
    assert "the dataset made anew has the digest" in found
    assert "user-" not in found, "nothing of others was touched"


def test_what_went_too_far_is_reported(tmp_path: Path) -> None:
    place = lived(tmp_path / "home", 5, clean=True)
    with contextlib.closing(sqlite3.connect(place.folder / "state" / "gaiad.db")) as link:
        link.execute("PRAGMA secure_delete = ON")
        link.execute("PRAGMA foreign_keys = ON")
        link.execute("DELETE FROM exchange_contents WHERE user = 'user-1'")
        link.execute("UPDATE adapter_versions SET stage = 'quarantined'")
        link.commit()
    found = wrong_with(place, "")
    assert any("is gone from the rows" in line for line in found)
    assert any(line == "15 exchanges of others, not 20" for line in found)
    assert sum("is quarantined, not" in line for line in found) == 2


def test_a_proof_with_something_wrong_or_late_or_without_a_kill_in_its_midst_does_not_hold() -> None:
    moment = Moment(Phase.ASKED, 0.0)

    def holds(at: str = "asked", seconds: float = 1.0, wrong: tuple[str, ...] = ()) -> bool:
        return Proof((Round(1, [moment], [at], 0.0, seconds, [*wrong]),), 2, 1.0, 1.0).holds

    assert holds()
    assert not holds(at="done")
    assert not holds(seconds=61.0)
    assert not holds(wrong=("a word still stands",))


def test_the_plan_follows_from_the_seed_and_goes_through_the_phases_in_their_order() -> None:
    plan = moments(20, 4, 1)
    assert plan == moments(20, 4, 1) != moments(20, 4, 2)
    phases = [None, *Phase]
    assert all(
        [phases.index(one.phase) for one in each] == sorted(phases.index(one.phase) for one in each) for each in plan
    )
    assert {one.phase for each in plan for one in each} == {None, *Phase} - {Phase.DONE}
