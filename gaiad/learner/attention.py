"""Attention over a row that shares prefixes, part by part: on a CPU several times faster than one mask over all of it.

A row of `packing` consists of parts: a prefix, and the rests that see it and themselves. A mask over the whole row
makes a kernel compute all pairs of columns, most of which never see each other. Here each part is multiplied by the
keys that it sees and by no others, as Prefix Grouper does (arXiv 2506.05433), in plain products of matrices: torch's
kernel of fused attention for CPUs has none in bf16 for the way back that is as fast. Scores are rounded to the base's
own type before the softmax, as in the eager attention of transformers.

The trainer's way on a CPU. Chooses no rows, and decides nothing about who sees whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gaiad.learner.packing import Part

plain: Any = sdpa_attention_forward  # its own types say less than this

NAME = "gaiad_parts"
"""What the base's configuration calls this attention; rows that come without parts get torch's own."""


class Parts:
    """The parts of one row, and the masks inside them: made once for all layers, until they are forgotten.

    `pairs` are those of columns that see each other.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.all = tuple(parts)
        self.lengths = [part.length for part in parts]
        self.pairs = sum(part.length * (part.length + 1) // 2 for part in parts)
        self.pairs += sum(part.length * parts[part.prefix].length for part in parts if part.prefix is not None)
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


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    parts: Parts | None = None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: query [1, heads, columns, width], key and value with fewer heads perhaps.

    Returns [1, columns, heads, width] and no weights.
    """
    if parts is None:
        whole: tuple[torch.Tensor, None] = plain(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
        return whole
    kinds, width = key.shape[1], query.shape[3]
    heads = query.shape[1] // kinds
    scale = width**-0.5 if scaling is None else scaling
    queries = query[0].unflatten(0, (kinds, heads)).split(parts.lengths, dim=2)
    keys, values = key[0].split(parts.lengths, dim=1), value[0].split(parts.lengths, dim=1)
    found: list[torch.Tensor] = []
    for part, asking, own_keys, own_values in zip(parts.all, queries, keys, values, strict=True):
        for first, stop in part.blocks:
            block, seen, held = asking[:, :, first:stop].flatten(1, 2), own_keys[:, :stop], own_values[:, :stop]
            if part.prefix is not None:
                seen, held = torch.cat([keys[part.prefix], seen], dim=1), torch.cat([values[part.prefix], held], dim=1)
            mask = parts.mask(stop - first, seen.shape[1], heads, block)
            weights = torch.softmax(torch.baddbmm(mask, block, seen.transpose(1, 2), alpha=scale), dim=-1)
            if dropout:
                weights = torch.nn.functional.dropout(weights, dropout, training=module.training)
            found.append(torch.bmm(weights, held).unflatten(1, (heads, -1)))
    return torch.cat(found, dim=2).flatten(0, 1).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
