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

Model: TypeAlias = Any
Context: TypeAlias = Any
Tensor: TypeAlias = torch.Tensor


def fusable(model: Model) -> bool:
    """Whether a base's losses can be computed in this way: not where its head is adapted, say."""
    head = model.get_output_embeddings()
    simple = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    return simple and model.config.model_type in COUNTED


class AnswerLosses(torch.autograd.Function):  # type: ignore[misc]
    """Cross-entropy in nats [tokens] of hidden states [tokens, hidden] under a frozen head [vocabulary, hidden]."""

    @staticmethod
    def forward(ctx: Context, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Losses in float32 (float64 of such a base); logits are rounded to the base's own type first, as it does."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for first in range(0, len(hidden), LOGITS_AT_ONCE):
            some = slice(first, first + LOGITS_AT_ONCE)
            logits, right = (hidden[some] @ head.t()).to(wide), targets[some, None]
            whole = torch.logsumexp(logits, dim=-1, keepdim=True)
            losses[some] = (whole - logits.gather(1, right))[:, 0]
            if slopes is not None:
                likely = logits.sub_(whole).exp_()
                likely.scatter_add_(1, right, torch.full_like(right, -1, dtype=wide))
                slopes[some] = likely.to(head.dtype) @ head
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the hidden states."""
        (slopes,) = ctx.saved_tensors
        return (slope[:, None] * slopes).to(slopes.dtype), None, None
