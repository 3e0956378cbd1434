"""What a run is in the middle of, as tensors and back: weights, optimiser's moments, random states, the best so far.

Reads and writes memory only. Put back, the next step computes bit by bit what it would have without the break.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from gaiad.errors import TrainingError
from gaiad.learner.base import trained_weights

Model: TypeAlias = Any

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def taken(model: Model, optimiser: torch.optim.Optimizer, best: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Everything that the next steps depend on; `best` are the weights of the best adapter so far."""
    tensors = {f"best.{name}": weight for name, weight in best.items()}
    for name, weight in trained_weights(model).items():
        tensors[f"weight.{name}"] = weight
        for moment, value in optimiser.state.get(weight, {}).items():
            tensors[f"{moment}.{name}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return tensors


def put_back(
    tensors: Mapping[str, torch.Tensor], model: Model, optimiser: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Undo what happened since `taken`, and return the weights of the best adapter until then."""
    optimiser.state.clear()
    for name, weight in trained_weights(model).items():
        kept = tensors.get(f"weight.{name}")
        if kept is None or kept.shape != weight.shape:
            raise TrainingError(f"the checkpoint does not fit: it lacks {name}", hint="remove it and train anew")
        with torch.no_grad():
            weight.copy_(kept)
        moments = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS if f"{moment}.{name}" in tensors}
        if moments:
            # Adam counts steps on the CPU, wherever the weights are.
            optimiser.state[weight] = {
                moment: value.clone() if moment == "step" else value.to(weight.device, copy=True)
                for moment, value in moments.items()
            }
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return {name.removeprefix("best."): weight for name, weight in tensors.items() if name.startswith("best.")}
