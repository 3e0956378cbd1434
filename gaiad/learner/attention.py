"""Attention over a row that shares prefixes, part by part: on a CPU several times faster than one mask over all of it.

A row of `packing` consists of parts: a prefix, and the rests that see it and themselves. A mask over the whole row
makes a kernel compute all pairs of columns, most of which never see each other. Here each part is multiplied by the
keys that it sees and by no others, as Prefix Grouper does (arXiv 2506.05433), in plain products of matrices: torch's
kernel of fused attention for CPUs has none in bf16 for the way back that is as fast. Scores are rounded to the base's
own type before the softmax, as in the eager attention of transformers, and the way back is written out.

The trainer's way on a CPU. Chooses no rows, and decides nothing about who sees whom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gaiad.learner.packing import Part, Stretch, stretches_of

Context: TypeAlias = Any
Attend: TypeAlias = Callable[..., tuple[torch.Tensor, None]]
plain: Any = sdpa_attention_forward  # its own types say less than this

NAME = "gaiad_parts"
"""What the base's configuration calls this attention; rows that come without parts get torch's own."""


class Parts:
    """The parts of one row, and the masks inside them: made once for all layers, until they are forgotten.

    `pairs` are those of columns that see each other.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.stretches = stretches_of(parts)
        self.pairs = sum(one.length * one.width - one.length * (one.length - 1) // 2 for one in self.stretches)
        self._masks: dict[tuple[int, int, int, torch.dtype], torch.Tensor] = {}

    def forget(self) -> None:
        """Let go of the masks, as large as what one layer weighs; where they are wanted they are made again."""
        self._masks.clear()

    def mask(self, length: int, width: int, heads: int, like: torch.Tensor) -> torch.Tensor:
        """What is added to scores [..., heads * length, width]: nothing where query i sees key j, else minus infinity.

        The last key is the last query's own; `heads` of queries that have their keys in common lie one after another.
        """
        key = (length, width, heads, like.dtype)
        if key not in self._masks:
            hidden = torch.full((length, width), float("-inf"), dtype=like.dtype, device=like.device)
            self._masks[key] = hidden.triu(width - length + 1).repeat(heads, 1)[None]
        return self._masks[key]


def registered(
    name: str, way: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any, float], torch.Tensor]
) -> Attend:
    """Let transformers attend in `way` where a base's configuration says `name`, and return how it calls that.

    It gets query [1, heads, columns, width], key and value with fewer heads perhaps, a row's parts or blocks, and the
    scale; and gives [1, columns, heads, width]. Rows that come without `parts` get torch's own attention.
    """

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        parts: object = None,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        if parts is None:
            whole: tuple[torch.Tensor, None] = plain(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
            )
            return whole
        assert not dropout, "a base that drops in attention is trained without sharing prefixes"
        return way(query, key, value, parts, query.shape[3] ** -0.5 if scaling is None else scaling), None

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return attend


def by_parts(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, parts: Parts, scale: float) -> torch.Tensor:
    """Attention part by part."""
    found: torch.Tensor = Attended.apply(query[0], key[0], value[0], parts, scale)
    return found[None]


class Attended(torch.autograd.Function):  # type: ignore[misc]
    """Each part's queries against the keys that it sees: query [heads, columns, width], key and value with fewer heads.

    Returns [columns, heads, width]. Only the weights are kept; gradients of keys that several parts see are summed in
    float32.
    """

    @staticmethod
    def forward(
        ctx: Context, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, parts: Parts, scale: float
    ) -> torch.Tensor:
        """Weigh the values."""
        asking = query.unflatten(0, (len(key), -1))
        out = query.new_empty(query.shape[1], *asking.shape[:2], value.shape[2])
        kept: list[torch.Tensor] = []
        for one in parts.stretches:
            block, keys = asking[:, :, one.columns].flatten(1, 2), _seen(key, one)
            mask = parts.mask(one.length, one.width, asking.shape[1], block)
            weights = torch.softmax(torch.baddbmm(mask, block, keys.transpose(1, 2), alpha=scale), dim=-1)
            kept.append(weights)
            out[one.columns] = torch.bmm(weights, _seen(value, one)).unflatten(1, (-1, one.length)).permute(2, 0, 1, 3)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.parts, ctx.scale = parts, scale
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Context, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        query, key, value, *kept = ctx.saved_tensors
        asking = query.unflatten(0, (len(key), -1))
        coming = slope.unflatten(1, asking.shape[:2]).permute(1, 2, 0, 3)
        of_queries = torch.empty_like(asking, memory_format=torch.contiguous_format)
        wide = torch.promote_types(key.dtype, torch.float32)
        of_keys, of_values = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        for one, weights in zip(ctx.parts.stretches, kept, strict=True):
            block, back = asking[:, :, one.columns].flatten(1, 2), coming[:, :, one.columns].flatten(1, 2)
            _add(of_values, one, torch.bmm(weights.transpose(1, 2), back))
            back = torch.bmm(back, _seen(value, one).transpose(1, 2))
            scores = torch.ops.aten._softmax_backward_data(back, weights, -1, weights.dtype).mul_(ctx.scale)
            of_queries[:, :, one.columns] = torch.bmm(scores, _seen(key, one)).unflatten(1, (-1, one.length))
            _add(of_keys, one, torch.bmm(scores.transpose(1, 2), block))
        return of_queries.flatten(0, 1), of_keys.to(key.dtype), of_values.to(value.dtype), None, None


def _seen(columns: torch.Tensor, stretch: Stretch) -> torch.Tensor:
    """Those of [heads, columns, width] that a stretch sees."""
    first, *more = [columns[:, one] for one in stretch.seen]
    return torch.cat([first, *more], dim=1) if more else first


def _add(sums: torch.Tensor, stretch: Stretch, terms: torch.Tensor) -> None:
    """Add to the columns that a stretch sees."""
    lengths = [one.stop - one.start for one in stretch.seen]
    for one, its in zip(stretch.seen, terms.split(lengths, dim=1), strict=True):
        sums[:, one] += its


attend = registered(NAME, by_parts)
