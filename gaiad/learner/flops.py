"""How much arithmetic a training step is, and how much a device can do at most: their quotient is the share of peak.

Counted is what the results need, once: of a frozen base with weights N, forward 2N and the way back to its activations
2N a token (the base's own gradients are never computed), the adapter's P weights 2P forward and 4P back, attention over
the pairs of columns that see each other, and the head at columns that predict an answer. What is computed again under
gradient checkpointing, dequantising, and masked pairs that a kernel computes all the same count as nothing: they lower
the share. Pure; measuring a device's peak is `device`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gaiad.curriculum import LoraSpec
from gaiad.learner.base_shape import BaseShape

PEAKS: Mapping[str, float] = {
    "h200 nvl": 836e12,
    "h200": 989e12,
    "gh200": 989e12,
    "h100 nvl": 835e12,
    "h100 pcie": 756e12,
    "h100": 989e12,
    "a100": 312e12,
    "l40s": 362e12,
    "l4": 121e12,
    "a10": 125e12,
    "rtx 5090": 209.5e12,
    "rtx 5080": 112.6e12,
    "rtx 5070 ti": 87.9e12,
    "rtx 5070": 61.7e12,
    "rtx 4090": 165.2e12,
    "rtx 4080": 97.5e12,
    "rtx 3090": 71e12,
}
"""Dense bf16 with accumulation in float32, FLOP/s, by what a device's name holds.

Sources: NVIDIA's data sheets of H200, GH200, H100, A100, L40S, L4 and A10 (where they count sparsity: half of that),
and for GeForce the row "peak BF16 tensor TFLOPS with FP32 accumulate" of the GA102, Ada and RTX Blackwell whitepapers.
"""

# A device with one of these in its name is another one than that without.
_OTHERS = frozenset({"laptop", "super", "ti", "d", "mobile", "max"})


@dataclass(frozen=True, slots=True)
class Work:
    """What went through the network: `tokens` of rows, `pairs` of columns that see each other, `targets` to predict."""

    tokens: int
    pairs: int
    targets: int

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.pairs + other.pairs, self.targets + other.targets)


def forward_flops(shape: BaseShape, lora: LoraSpec, work: Work) -> int:
    """One pass without gradients."""
    linear = 2 * (shape.projection_weights + shape.lora_weights(lora)) * work.tokens
    attention = 4 * shape.layers * shape.queries * work.pairs
    head = 2 * shape.hidden * shape.vocabulary * work.targets
    return linear + attention + head


def training_flops(shape: BaseShape, lora: LoraSpec, work: Work) -> int:
    """Forward and backward.

    Attention's way back is twice its way there (two products for each of one). The base's and the head's is as much as
    their way there, and the adapter's twice.
    """
    back = 2 * (shape.projection_weights + 2 * shape.lora_weights(lora)) * work.tokens
    back += 8 * shape.layers * shape.queries * work.pairs
    back += 2 * shape.hidden * shape.vocabulary * work.targets
    return forward_flops(shape, lora, work) + back


def flops_per_token(shape: BaseShape, lora: LoraSpec, *, seen: float, target_share: float = 0.0) -> float:
    """Of a token that sees `seen` columns on average, a `target_share` of which predict an answer's token."""
    thousand = Work(tokens=1000, pairs=round(1000 * seen), targets=round(1000 * target_share))
    return training_flops(shape, lora, thousand) / 1000


def peak_of(device_name: str) -> float | None:
    """What the device can do at most in FLOP/s, or None where the table does not know it."""
    words = device_name.lower().replace("-", " ").split()
    known = [name for name in PEAKS if f" {name} " in f" {' '.join(words)} "]
    # The longest name that fits is the most exact one.
    best = max(known, key=len, default=None)
    if best is None or _OTHERS & {*words} - {*best.split()}:
        return None
    return PEAKS[best]


def share_of_peak(flops: float, seconds: float, peak: float | None) -> float | None:
    """Which part of the device's peak a run made use of, or None where that is not known."""
    if peak is None or seconds <= 0:
        return None
    return flops / seconds / peak
