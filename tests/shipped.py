"""Datasets of the shipped curricula, each built once for all tests that only look at it: building takes seconds."""

from __future__ import annotations

from functools import cache

from gaiad.curriculum import Curriculum
from gaiad.learner.dataset import Dataset
from gaiad.learner.sources.catalogue import gather, load_curriculum, shipped_curricula


@cache
def built(adapter: str, profile: str = "full") -> tuple[Curriculum, Dataset]:
    """A curriculum under a profile, and its dataset as it is without anything of an owner."""
    folder = shipped_curricula() / adapter
    curriculum = load_curriculum(folder, profile)
    return curriculum, gather(curriculum, folder, [])


def dataset_of(adapter: str, profile: str = "full") -> Dataset:
    """Only the dataset."""
    return built(adapter, profile)[1]
