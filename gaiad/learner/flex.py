"""Attention over a row that shares prefixes, by blocks of its square: on a GPU, with torch's FlexAttention.

The rule of `packing.Row` becomes a function of two columns, and a list of the blocks of 128 x 128 columns in which any
column sees another. A fused kernel computes these blocks alone, asks the rule only inside those that are not seen
whole, and holds neither a mask nor weights. Keys and values are not repeated for the query heads that share them.

Rows have another length in each step, and a kernel compiled for each of them would be given up by torch after a few.
So a row is filled up to whole blocks (`packing.in_blocks`), two at least, which leaves out the kernels for short and
for uneven lengths; and all that differs between rows comes in as tensors, among them what the rule looks up, so that
the second length is compiled for any length and later ones are not compiled.

The trainer's way on a GPU where `flex_check` found it to work. Uncompiled, on a CPU, it is there for tests alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention import flex_attention as torchs

from gaiad.learner.attention import registered
from gaiad.learner.packing import SIDE, Row, in_blocks

compiler: Any = torch  # its own types say less of its settings

NAME = "gaiad_flex"
"""What the base's configuration calls this attention; rows that come without blocks get torch's own."""

MOST_KERNELS = 16
"""How often the kernel may be compiled: for one length and for any, and each anew without gradients, with gradients of
queries alone (a first layer whose keys are not adapted), and within gradient checkpointing.
"""


class Blocks:
    """Who sees whom in one row that is filled up to whole blocks: made once for all layers, on `device`.

    `pairs` are those of columns that see each other, without the `spare` columns that fill the row up. `tensors` are
    each column's group and branch [columns], and which blocks hold some pairs, and which hold all: four times how many
    [1, 1, runs] and which [1, 1, runs, runs], for a run of queries some and all, then for a run of keys some and all.
    """

    def __init__(self, row: Row, device: str) -> None:
        filled = in_blocks(row)
        counts = torch.zeros(len(filled.tokens) // SIDE, len(filled.tokens) // SIDE, dtype=torch.int64)
        for (asking, seen), pairs in filled.blocks.items():
            counts[asking, seen] = pairs
        whole = counts == SIDE * SIDE
        some = (counts > 0) & ~whole
        columns = [torch.tensor(numbers, dtype=torch.int32) for numbers in (filled.groups, filled.branches)]
        lists = [one for held in (some, whole, some.T, whole.T) for one in _listed(held)]
        self.tensors = tuple(tensor.to(device) for tensor in (*columns, *lists))
        self.pairs = sum(row.blocks.values())
        self.spare = len(filled.tokens) - len(row.tokens)

    def forget(self) -> None:
        """Nothing to let go of: some bytes a block, whatever the number of layers."""


def _listed(held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of a square of truths how many are true, and their places first, then the others."""
    places = torch.argsort(held.to(torch.int8), dim=-1, descending=True, stable=True)
    return held.sum(dim=-1, dtype=torch.int32)[None, None], places.to(torch.int32).contiguous()[None, None]


def by_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: torch.Tensor,
    branches: torch.Tensor,
    some: torch.Tensor,
    some_places: torch.Tensor,
    whole: torch.Tensor,
    whole_places: torch.Tensor,
    some_back: torch.Tensor,
    some_places_back: torch.Tensor,
    whole_back: torch.Tensor,
    whole_places_back: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention in the blocks of a row: query [1, heads, columns, width], key and value with fewer heads perhaps.

    The other tensors are those of `Blocks`, in their order. Returns [1, heads, columns, width]. What is compiled is all
    of this: torch would else compare the length that a mask was made for with that of the queries, and compile anew.
    """
    columns = query.shape[2]
    # Known to the compiler, this leaves out what looks for the end of a row within a block.
    torch._check(columns % SIDE == 0)

    def sees(_batch: torch.Tensor, _head: torch.Tensor, asking: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        alike = (branches[seen] == 0) | (branches[seen] == branches[asking])
        return (seen <= asking) & (groups[seen] == groups[asking]) & alike

    mask = torchs.BlockMask(
        seq_lengths=(columns, columns),
        kv_num_blocks=some,
        kv_indices=some_places,
        full_kv_num_blocks=whole,
        full_kv_indices=whole_places,
        q_num_blocks=some_back,
        q_indices=some_places_back,
        full_q_num_blocks=whole_back,
        full_q_indices=whole_places_back,
        BLOCK_SIZE=(SIDE, SIDE),
        mask_mod=sees,
    )
    found = torchs.flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)
    assert isinstance(found, torch.Tensor)
    return found


@cache
def compiled() -> Callable[..., torch.Tensor]:
    """The same, compiled once for this process (in it: a kernel or two need no workers of their own)."""
    compiler._dynamo.config.recompile_limit = MOST_KERNELS
    compiler._inductor.config.compile_threads = 1
    kernel: Callable[..., torch.Tensor] = torch.compile(by_blocks, fullgraph=True)
    return kernel


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: Blocks, scale: float
) -> torch.Tensor:
    way: Callable[..., torch.Tensor] = compiled() if query.is_cuda else by_blocks
    return way(query, key, value, *blocks.tensors, scale).transpose(1, 2).contiguous()


attend = registered(NAME, _attended)
