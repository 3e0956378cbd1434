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
from typing import Any, TypeAlias, TypeVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gaiad.learner.packing import Part, Share, stretches_of
from gaiad.learner.ranks import Meeting
from gaiad.learner.scripted import at_least_float, scripted

Context: TypeAlias = Any
Tensor: TypeAlias = torch.Tensor
T = TypeVar("T")
Attend: TypeAlias = Callable[..., tuple[Tensor, None]]
plain: Any = sdpa_attention_forward  # its own types say less than this

NAME = "gaiad_parts"
"""What the base's configuration calls this attention; rows that come without parts get torch's own."""


class Parts:
    """The parts of one row, and the masks inside them: made once for all layers, until they are forgotten.

    `pairs` are those of columns that see each other. Of a row that is divided among ranks these are the parts of one
    `share`, whose rank gets the others' keys and values at their `meeting`.
    """

    def __init__(self, parts: Sequence[Part], share: Share | None = None, meeting: Meeting | None = None) -> None:
        self.stretches = stretches_of(parts) if share is None else share.stretches
        self.pairs = sum(one.length * one.width - one.length * (one.length - 1) // 2 for one in self.stretches)
        self.rank, self.meeting = 0 if share is None else share.rank, meeting
        # How many columns of one's own a stretch has, from which on, and what it sees: (whose, from, to before).
        self.asking = [(one.columns.start, one.columns.stop) for one in self.stretches]
        self.seen = [
            [(rank, its.start, its.stop) for rank, its in zip(one.ranks, one.seen, strict=True)]
            for one in self.stretches
        ]
        self._masks: list[Tensor] = []

    def forget(self) -> None:
        """Let go of the masks, as large as what one layer weighs; where they are wanted they are made again."""
        self._masks = []

    def handed_on(self, own: T) -> list[T]:
        """What ranks up to this one hand over, by rank; without others one's own alone."""
        return [own] if self.meeting is None else self.meeting.handed_on(self.rank, own)

    def handed_back(self, own: T) -> list[T]:
        """What ranks from this one on hand over, by rank; without others one's own alone."""
        return [own] if self.meeting is None else self.meeting.handed_back(self.rank, own)

    def masks(self, like: Tensor) -> list[Tensor]:
        """What is added to a stretch's scores of its own columns [length, length], the last that it sees: nothing where
        query i sees key j, else minus infinity. It sees all of the others.
        """
        if not self._masks or self._masks[0].dtype != like.dtype:
            made: dict[int, Tensor] = {}
            for one in self.stretches:
                if one.length not in made:
                    hidden = torch.full((one.length, one.length), float("-inf"), dtype=like.dtype, device=like.device)
                    made[one.length] = hidden.triu(1)
            self._masks = [made[one.length] for one in self.stretches]
        return self._masks


def registered(name: str, way: Callable[[Tensor, Tensor, Tensor, Any, float], Tensor]) -> Attend:
    """Let transformers attend in `way` where a base's configuration says `name`, and return how it calls that.

    It gets query [1, heads, columns, width], key and value with fewer heads perhaps, a row's parts or blocks, and the
    scale; and gives [1, columns, heads, width]. Rows that come without `parts` get torch's own attention.
    """

    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        parts: object = None,
        **options: object,
    ) -> tuple[Tensor, None]:
        if parts is None:
            whole: tuple[Tensor, None] = plain(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
            )
            return whole
        assert not dropout, "a base that drops in attention is trained without sharing prefixes"
        return way(query, key, value, parts, query.shape[3] ** -0.5 if scaling is None else scaling), None

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return attend


def by_parts(query: Tensor, key: Tensor, value: Tensor, parts: Parts, scale: float) -> Tensor:
    """Attention part by part."""
    found: Tensor = Attended.apply(query[0], key[0], value[0], parts, scale)
    return found[None]


def _seen(columns: list[Tensor], seen: list[tuple[int, int, int]]) -> Tensor:
    """Those that a stretch sees of each rank's [heads, columns, width]."""
    rank, first, stop = seen[0]
    some = [columns[rank][:, first:stop]]
    for rank, first, stop in seen[1:]:
        some.append(columns[rank][:, first:stop])
    return torch.cat(some, dim=1) if len(some) > 1 else some[0]


def _add(sums: list[Tensor], seen: list[tuple[int, int, int]], terms: Tensor) -> None:
    """Add to the columns that a stretch sees."""
    place = 0
    for rank, first, stop in seen:
        sums[rank][:, first:stop].add_(terms[:, place : place + stop - first])
        place += stop - first


@scripted
def _weighed(
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    masks: list[Tensor],
    asking: list[tuple[int, int]],
    seen: list[list[tuple[int, int, int]]],
    scale: float,
) -> tuple[Tensor, list[Tensor]]:
    """What comes out [columns, heads, width], and the weights of each stretch."""
    groups = query.unflatten(0, [keys[0].shape[0], -1])
    out = query.new_empty([query.shape[1], groups.shape[0], groups.shape[1], values[0].shape[2]])
    nothing = query.new_zeros([1, 1, 1])
    kept: list[Tensor] = []
    for place, (first, stop) in enumerate(asking):
        block = groups[:, :, first:stop].flatten(1, 2)
        scores = torch.baddbmm(nothing, block, _seen(keys, seen[place]).transpose(1, 2), beta=0, alpha=scale)
        scores.unflatten(1, [-1, stop - first])[:, :, :, first - stop :].add_(masks[place])
        weights = torch.softmax(scores, dim=-1)
        kept.append(weights)
        found = torch.bmm(weights, _seen(values, seen[place]))
        out[first:stop] = found.unflatten(1, [-1, stop - first]).permute(2, 0, 1, 3)
    return out.flatten(1, 2), kept


@scripted
def _weighed_back(
    slope: Tensor,
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    kept: list[Tensor],
    asking: list[tuple[int, int]],
    seen: list[list[tuple[int, int, int]]],
    scale: float,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of one's own queries, and of all keys and values that they see."""
    groups = query.unflatten(0, [keys[0].shape[0], -1])
    coming = slope.unflatten(1, [groups.shape[0], groups.shape[1]]).permute(1, 2, 0, 3)
    of_queries = torch.empty_like(groups, memory_format=torch.contiguous_format)
    wide = at_least_float(query)
    of_keys = [torch.zeros_like(one, dtype=wide) for one in keys]
    of_values = [torch.zeros_like(one, dtype=wide) for one in values]
    for place, (first, stop) in enumerate(asking):
        weights, its = kept[place], seen[place]
        block, back = groups[:, :, first:stop].flatten(1, 2), coming[:, :, first:stop].flatten(1, 2)
        _add(of_values, its, torch.bmm(weights.transpose(1, 2), back))
        back = torch.bmm(back, _seen(values, its).transpose(1, 2))
        scores = torch.ops.aten._softmax_backward_data(back, weights, -1, weights.dtype)
        of_queries[:, :, first:stop] = torch.bmm(scores, _seen(keys, its)).unflatten(1, [-1, stop - first])
        _add(of_keys, its, torch.bmm(scores.transpose(1, 2), block))
    # Scaled once, where there is least of it.
    return of_queries.mul_(scale).flatten(0, 1), [one.mul_(scale) for one in of_keys], of_values


class Attended(torch.autograd.Function):  # type: ignore[misc]
    """Each part's queries against the keys that it sees: query [heads, columns, width], key and value with fewer heads.

    Returns [columns, heads, width]. Only the weights are kept; gradients of keys that several parts see are summed in
    float32, those of several ranks in their order.
    """

    @staticmethod
    def forward(ctx: Context, query: Tensor, key: Tensor, value: Tensor, parts: Parts, scale: float) -> Tensor:
        """Weigh the values."""
        # Later ranks' columns are seen by none of these.
        theirs = parts.handed_on((key.detach(), value.detach()))
        keys, values = [key for key, _ in theirs], [value for _, value in theirs]
        masks = parts.masks(query)
        out, kept = _weighed(query, keys, values, masks, parts.asking, parts.seen, scale)
        ctx.save_for_backward(query, *keys, *values, *kept)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        parts, (query, *more) = ctx.parts, ctx.saved_tensors
        count = parts.rank + 1
        keys, values, kept = more[:count], more[count : 2 * count], more[2 * count :]
        of_query, *found = _weighed_back(slope, query, keys, values, kept, parts.asking, parts.seen, ctx.scale)
        own = _summed(parts.handed_back(found), parts.rank)
        return of_query, *(one.to(query.dtype) for one in own), None, None


def _summed(found: Sequence[Sequence[Sequence[Tensor]]], rank: int) -> list[Tensor]:
    """What this rank and all later ones found of its columns: [from this rank on][keys, values][whose]."""
    first, *others = found
    own = [some[rank] for some in first]
    for its in others:
        for total, some in zip(own, its, strict=True):
            total += some[rank]
    return own


attend = registered(NAME, by_parts)
