"""Whether a step may be taken, or the run has lost its way: pure, from the losses alone.

Says what is wrong, not what is done about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_ENOUGH = 5
_JUMP = 3.0
_ABOVE_START = 1.5


def trouble(loss: float, norm: float, recent: Sequence[float], first: float | None) -> str | None:
    """Say what is wrong with a step's mean `loss` (nats a token) and its gradients' `norm`, before it is taken.

    `recent` are the losses of the steps before, oldest first; `first` is that of the first step. A loss has diverged
    where it is 3 times what it lately was, and 1.5 times what an untrained adapter has: single hard steps are neither.
    """
    if not math.isfinite(loss):
        return "the loss is no longer a number"
    if not math.isfinite(norm):
        return "the gradients are no longer numbers"
    if len(recent) >= _ENOUGH and first is not None:
        usual = sum(recent) / len(recent)
        if loss > _JUMP * usual and loss > _ABOVE_START * first:
            return f"the loss jumped from about {usual:.2f} to {loss:.2f}"
    return None
