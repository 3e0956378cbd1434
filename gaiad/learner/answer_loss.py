"""What each token of an answer costs, without the vocabulary's logits being kept.

A token's cross-entropy needs a number for each word of the vocabulary: of a few hundred tokens they are more than all
that a small base's layers keep. The head is frozen, so that a hidden state's slope is known as soon as its logits are:
it is computed on the way there, a few tokens at a time, and the logits are forgotten (as Liger Kernel's fused linear
cross-entropy does, arXiv 2410.10989).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from gaiad.learner.base_shape import COUNTED
from gaiad.learner.packing import LOGITS_AT_ONCE
from gaiad.learner.scripted import at_least_float, scripted

Model: TypeAlias = Any
Context: TypeAlias = Any
Tensor: TypeAlias = torch.Tensor


def fusable(model: Model) -> bool:
    """Whether a base's losses can be computed in this way: not where its head is adapted, say."""
    head = model.get_output_embeddings()
    simple = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    return simple and model.config.model_type in COUNTED


@scripted
def _losses(hidden: Tensor, head: Tensor, targets: Tensor, at_once: int, sloping: bool) -> tuple[Tensor, Tensor]:
    """Losses, and the hidden states' slopes of each (left empty where not wanted)."""
    wide = at_least_float(hidden)
    losses = torch.empty([hidden.shape[0]], dtype=wide, device=hidden.device)
    slopes = torch.empty_like(hidden if sloping else hidden[:0])
    for first in range(0, hidden.shape[0], at_once):
        logits = (hidden[first : first + at_once] @ head.t()).to(wide)
        right = targets[first : first + at_once].unsqueeze(1)
        whole = torch.logsumexp(logits, dim=-1, keepdim=True)
        losses[first : first + at_once] = (whole - logits.gather(1, right)).squeeze(1)
        if sloping:
            likely = logits.sub_(whole).exp_()
            likely.scatter_add_(1, right, torch.full_like(right, -1, dtype=wide))
            slopes[first : first + at_once] = likely.to(head.dtype) @ head
    return losses, slopes


class AnswerLosses(torch.autograd.Function):  # type: ignore[misc]
    """Cross-entropy in nats [tokens] of hidden states [tokens, hidden] under a frozen head [vocabulary, hidden]."""

    @staticmethod
    def forward(ctx: Context, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Losses in float32 (float64 of such a base); logits are rounded to the base's own type first, as it does."""
        losses, slopes = _losses(hidden, head, targets, LOGITS_AT_ONCE, ctx.needs_input_grad[0])
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the hidden states."""
        (slopes,) = ctx.saved_tensors
        return (slope[:, None] * slopes).to(slopes.dtype), None, None
