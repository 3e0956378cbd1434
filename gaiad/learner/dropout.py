"""Which elements dropout drops: on a CPU a fifth of the time of torch's own.

Torch draws a number for each element and keeps a factor of each for the way back. Of independent elements dropped with
probability p, the distances between neighbouring dropped ones are geometric (Devroye, Non-Uniform Random Variate
Generation, 1986, ch. X.2): drawing those gives the same distribution with p times as many numbers. At 5%, torch's way
was a sixth of a training step on two cores.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gaiad.learner.scripted import scripted


class _Own(threading.local):
    generator: torch.Generator | None = None


_OWN = _Own()


@contextmanager
def drawing(seed: int | None) -> Iterator[None]:
    """Let this thread draw from `seed` on, whatever other threads draw meanwhile; None: from torch's own numbers."""
    before = _OWN.generator
    _OWN.generator = None if seed is None else torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _OWN.generator = before


def dropped(count: int, p: float) -> torch.Tensor:
    """Which of `count` elements are dropped, ascending: each with probability `p`, whatever becomes of the others."""
    expected = count * p
    # Six standard deviations more than expected are hardly ever too few; where they are, more are drawn.
    enough = math.ceil(expected + 6 * math.sqrt(expected * (1 - p))) + 8
    places, whole = _up_to(_drawn(enough), count, p, -1)
    while not whole:
        more, whole = _up_to(_drawn(enough), count, p, int(places[-1]))
        places = torch.cat([places, more])
    return places


def _drawn(count: int) -> torch.Tensor:
    """Independent numbers from 0 to below 1."""
    return torch.rand(count, generator=_OWN.generator)


@scripted
def _up_to(drawn: torch.Tensor, count: int, p: float, last: int) -> tuple[torch.Tensor, bool]:
    """The next places below `count` after `last`, and whether these are all.

    The gaps between them are geometric numbers from 1, by inversion; half the time of torch's `geometric_`.
    """
    places = drawn.neg_().log1p_().div_(math.log1p(-p)).to(torch.int64).add_(1).cumsum(0).add_(last)
    if int(places[-1]) < count:
        return places, False
    return places[: int(torch.searchsorted(places, count))], True
