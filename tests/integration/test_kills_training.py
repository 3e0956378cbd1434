"""A training run that is killed ends with the bytes of one that is not: a small sample of `make proof-resume`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load.marked_trainer import PLACES
from bench.proof_resume import moments, prove, table

pytest.importorskip("torch")


# Each kill costs a start of torch, which takes its time where others compute too.
@pytest.mark.timeout(400)
def test_a_run_that_was_killed_publishes_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    proof = prove(tmp_path, kills=3, seed=5)
    assert proof.wrong == []
    assert proof.holds
    # Something was at stake: the kills came, and runs went on from checkpoints.
    assert len(proof.kills) == 3
    assert proof.runs >= 1
    assert len(table(proof)) == 5


def test_the_moments_are_in_every_place_and_of_both_kinds() -> None:
    chosen = moments(30, 1)
    assert {moment.place for moment in chosen} == set(PLACES)
    for place in PLACES[:4]:
        assert {moment.signal for moment in chosen if moment.place == place} == {"SIGKILL", "SIGTERM"}
    assert moments(30, 1) == chosen != moments(30, 2)
