"""From tokens to losses: how examples lie in tensors, and what the network's outputs for them cost.

Only completions are learnt: the loss, and the vocabulary's projection before it, are computed at columns that predict a
token of an answer. Chooses no examples and updates no weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from gaiad.curriculum import TrainingSpec
from gaiad.learner import attention, flex
from gaiad.learner.answer_loss import AnswerLosses, fusable
from gaiad.learner.attention import Parts
from gaiad.learner.dropout import drawing
from gaiad.learner.flops import Work
from gaiad.learner.packing import (
    Part,
    Row,
    Share,
    TokenExample,
    in_blocks,
    plan_pairs,
    plan_rows,
    rejected_side,
    shares_of,
    single_rows,
)
from gaiad.learner.ranks import Meeting, each

Layout: TypeAlias = Literal["prefix_shared", "padded"]
Model: TypeAlias = Any
T = TypeVar("T")

ROW_TOKENS = {"cpu": 1024, "cuda": 2048}
"""How many tokens a row has at least room for, by device."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one forward pass; target i is predicted by the hidden state at (`rows[i]`, `columns[i]`).

    `sides` is there where the batch holds pairs: target i belongs to side `sides[i]` of them, where 2k is the right
    answer of pair k and 2k + 1 its rejected one. `pair_weights` is what each pair counts. `parts`, or blocks, say who
    sees whom in a batch of one row that shares prefixes; without them the mask does. `shares` are the same columns and
    targets once more, in order, divided among ranks that compute them at the same time.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    sides: torch.Tensor | None = None
    pair_weights: torch.Tensor | None = None
    parts: Parts | flex.Blocks | None = None
    shares: tuple[Batch, ...] = ()

    def forget(self) -> None:
        """Let go of what one pass made for all of its layers."""
        for one in (self, *self.shares):
            if one.parts is not None:
                one.parts.forget()

    @property
    def learnt(self) -> torch.Tensor:
        """What each target counts as something to be learnt: a rejected answer's count nothing."""
        return self.weights if self.sides is None else self.weights * (self.sides % 2 == 0)

    @property
    def work(self) -> Work:
        """What goes through the network; columns that a row's mask hides, or padding, are seen by nobody."""
        seen, spare = self.attention_mask.sum(), 0
        if self.parts is not None:
            seen = torch.tensor(self.parts.pairs)
            spare = self.parts.spare if isinstance(self.parts, flex.Blocks) else 0
        elif self.attention_mask.dim() == 2:
            lengths = self.attention_mask.sum(dim=1)
            seen = (lengths * (lengths + 1) // 2).sum()
        return Work(self.input_ids.numel() - spare, int(seen), self.targets.numel())


def batches(
    examples: Sequence[TokenExample],
    layout: Layout,
    device: str,
    max_tokens: int,
    row_tokens: int | None = None,
    *,
    by_blocks: bool = False,
    ranks: int = 1,
) -> list[Batch]:
    """Lay examples out for the network: sharing prefixes, or plainly, sorted by length and padded.

    A row has room for `row_tokens` (None: what suits the device), and always for the longest example. `by_blocks` is
    how rows that share are attended to (`flex`); else it is by parts on a CPU, and on a GPU by a mask. Rows that are
    attended to by parts are divided among so many `ranks`.
    """
    room = max(row_tokens or ROW_TOKENS[device], max_tokens)
    plain = [one for one in examples if not one.rejected]
    pairs = [one for one in examples if one.rejected]
    if layout == "prefix_shared":
        lay = row_in_blocks if by_blocks else partial(row_of, ranks=ranks) if device == "cpu" else _masked_row
        laid_out = [lay(row, device) for row in plan_rows(plain, max_row_tokens=room)]
        return laid_out + [lay(row, device, inside) for row, inside in plan_pairs(pairs, max_row_tokens=room)]
    return _padded(plain, device, room) + _padded_pairs(pairs, device, room)


def _padded(examples: Sequence[TokenExample], device: str, room: int) -> list[Batch]:
    rows = single_rows(sorted(examples, key=len, reverse=True))
    laid_out: list[Batch] = []
    while rows:
        count = max(1, room // len(rows[0].tokens))
        laid_out.append(batch_of(rows[:count], device, shared=False))
        rows = rows[count:]
    return laid_out


def _padded_pairs(pairs: Sequence[TokenExample], device: str, room: int) -> list[Batch]:
    def longest(pair: TokenExample) -> int:
        return len(pair.prompt) + max(len(pair.answer), len(pair.rejected))

    left = sorted(pairs, key=longest, reverse=True)
    laid_out: list[Batch] = []
    while left:
        inside = tuple(left[: max(1, room // (2 * longest(left[0])))])
        rows = single_rows([side for pair in inside for side in (pair, rejected_side(pair))])
        laid_out.append(batch_of(rows, device, shared=False, pairs=inside))
        left = left[len(inside) :]
    return laid_out


def row_of(row: Row, device: str, pairs: Sequence[TokenExample] = (), ranks: int = 1) -> Batch:
    """Put a row that shares prefixes into tensors, with its parts instead of a mask, divided among `ranks`."""
    parts = row.parts
    whole = dataclasses.replace(batch_of([row], device, shared=False, pairs=pairs), parts=Parts(parts))
    shares = shares_of(parts, ranks)
    if len(shares) == 1:
        return whole
    meeting = Meeting(len(shares))
    return dataclasses.replace(whole, shares=tuple(_share(whole, parts, one, meeting) for one in shares))


def _share(whole: Batch, parts: Sequence[Part], share: Share, meeting: Meeting) -> Batch:
    columns, its = slice(share.first, share.stop), (whole.columns >= share.first) & (whole.columns < share.stop)
    return Batch(
        input_ids=whole.input_ids[:, columns],
        attention_mask=whole.attention_mask[:, columns],
        position_ids=whole.position_ids[:, columns],
        rows=whole.rows[its],
        columns=whole.columns[its] - share.first,
        targets=whole.targets[its],
        weights=whole.weights[its],
        parts=Parts(parts, share, meeting),
    )


def row_in_blocks(row: Row, device: str, pairs: Sequence[TokenExample] = ()) -> Batch:
    """Put a row that shares prefixes into tensors, filled up to whole blocks, with these instead of a mask."""
    laid_out = batch_of([in_blocks(row)], device, shared=False, pairs=pairs)
    return dataclasses.replace(laid_out, parts=flex.Blocks(row, device))


def _masked_row(row: Row, device: str, pairs: Sequence[TokenExample] = ()) -> Batch:
    return batch_of([row], device, shared=True, pairs=pairs)


def batch_of(rows: Sequence[Row], device: str, *, shared: bool, pairs: Sequence[TokenExample] = ()) -> Batch:
    """Put rows into tensors, padded on the right; only `shared` rows need a mask of their own (else: causal).

    `pairs` are those in the rows, in the order of their targets.
    """

    def padded(parts: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        longest = max(len(part) for part in parts)
        return torch.tensor([[*part, *[filler] * (longest - len(part))] for part in parts], device=device)

    groups = padded([row.groups for row in rows], -1)
    mask = groups >= 0
    if shared:
        branches = padded([row.branches for row in rows], 0)
        order = torch.arange(groups.shape[1], device=device)
        same_group = groups[:, :, None] == groups[:, None, :]
        visible_branch = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
        mask = ((order[:, None] >= order[None, :]) & same_group & visible_branch)[:, None]
    targets = [(place, target) for place, row in enumerate(rows) for target in row.targets]
    sides = [
        side
        for place, pair in enumerate(pairs)
        for side in [*[2 * place] * len(pair.answer), *[2 * place + 1] * len(pair.rejected)]
    ]
    return Batch(
        input_ids=padded([row.tokens for row in rows], 0),
        attention_mask=mask,
        position_ids=padded([row.positions for row in rows], 0),
        rows=torch.tensor([place for place, _ in targets], device=device),
        columns=torch.tensor([target.column for _, target in targets], device=device),
        targets=torch.tensor([target.token for _, target in targets], device=device),
        weights=torch.tensor([target.weight for _, target in targets], device=device),
        sides=torch.tensor(sides, device=device) if pairs else None,
        pair_weights=torch.tensor([pair.weight for pair in pairs], device=device) if pairs else None,
    )


def token_losses(model: Model, batch: Batch) -> torch.Tensor:
    """Each target's cross-entropy in nats; without a way back where ranks compute it, who have one each."""
    if not batch.shares:
        return losses_from(model, batch, _decoded(model, batch))
    with torch.no_grad():
        return losses_from(model, batch, torch.cat(decoded(model, batch)))


def decoded(model: Model, batch: Batch) -> list[torch.Tensor]:
    """What predicts each target [targets, hidden], in order, by the ranks that compute it, each with a way back of its
    own; where a base's losses come out of it in one, these [targets].
    """
    if not batch.shares:
        return [_decoded(model, batch)]
    # What ranks drop depends on what was drawn before, and not on which of them is faster.
    seeds = torch.randint(1 << 32, (len(batch.shares),)).tolist() if model.training else [None] * len(batch.shares)

    def of(share: Batch, seed: int | None) -> torch.Tensor:
        with drawing(seed):
            return _decoded(model, share)

    return _in_ranks(batch, [partial(of, share, seed) for share, seed in zip(batch.shares, seeds, strict=True)])


def losses_from(model: Model, batch: Batch, found: torch.Tensor) -> torch.Tensor:
    """Each target's cross-entropy in nats from what was `decoded`, which all of torch's threads compute together."""
    if not fusable(model):
        return found
    losses: torch.Tensor = AnswerLosses.apply(found, model.get_output_embeddings().weight, batch.targets)
    return losses


def learn_back(
    model: Model, batch: Batch, found: Sequence[torch.Tensor], whole: torch.Tensor, objective: torch.Tensor
) -> None:
    """Add an objective's gradients to the weights'. It was computed from the `whole` of what each rank `found`, without
    their way back; from there on each rank goes its own.
    """
    (slopes_of_all,) = torch.autograd.grad(objective, whole)
    slopes = slopes_of_all.split([len(one) for one in found])
    if not batch.shares:
        torch.autograd.backward(found, slopes)
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def of(its: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(its, weights, slope, allow_unused=True)
        return gradients

    for gradients in _in_ranks(batch, [partial(of, its, slope) for its, slope in zip(found, slopes, strict=True)]):
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


def _in_ranks(batch: Batch, works: Sequence[Callable[[], T]]) -> list[T]:
    parts = batch.shares[0].parts
    assert isinstance(parts, Parts)
    assert parts.meeting is not None
    return each(works, parts.meeting)


def _decoded(model: Model, batch: Batch) -> torch.Tensor:
    parts = {} if batch.parts is None else {"parts": batch.parts}
    # Another attention would take no notice of them, and let every column see all before it.
    name = flex.NAME if isinstance(batch.parts, flex.Blocks) else attention.NAME
    assert batch.parts is None or model.config._attn_implementation == name
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        **parts,
    }
    if fusable(model):
        hidden: torch.Tensor = model.get_decoder()(**inputs).last_hidden_state
        return hidden[batch.rows, batch.columns]
    # Of one row each target has a column of its own, in order.
    alone = batch.input_ids.shape[0] == 1
    columns = batch.columns if alone else torch.unique(batch.columns)
    logits = model(logits_to_keep=columns, **inputs).logits
    chosen = logits[0] if alone else logits[batch.rows, torch.searchsorted(columns, batch.columns)]
    return torch.nn.functional.cross_entropy(chosen.float(), batch.targets, reduction="none")


def loss_sum(model: Model, batch: Batch) -> torch.Tensor:
    """Weighted sum of the right answers' token losses."""
    return (token_losses(model, batch) * batch.learnt).sum()


def losses_of(model: Model, batch: Batch, spec: TrainingSpec, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums, from what was `decoded`: of right answers' token losses, and of pairs' preference losses."""
    losses = losses_from(model, batch, found)
    preference = torch.zeros((), device=losses.device)
    if batch.sides is not None and batch.pair_weights is not None and spec.preference != "none":
        preference = (_preference_losses(model, batch, batch.sides, losses, spec) * batch.pair_weights).sum()
    return (losses * batch.learnt).sum(), preference


def _preference_losses(
    model: Model, batch: Batch, sides: torch.Tensor, losses: torch.Tensor, spec: TrainingSpec
) -> torch.Tensor:
    count = 2 * int(sides.max().item() // 2 + 1)

    def by_side(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(count, device=values.device).index_add(0, sides, values)

    likely = -by_side(losses)
    if spec.preference == "simpo":
        mean = likely / by_side(torch.ones_like(losses))
        margin = spec.preference_beta * (mean[0::2] - mean[1::2]) - spec.preference_margin
    else:
        with torch.no_grad(), model.disable_adapter():
            reference = -by_side(token_losses(model, batch))
        gain = likely - reference
        margin = spec.preference_beta * (gain[0::2] - gain[1::2])
    return -torch.nn.functional.logsigmoid(margin)


def weight_of(laid_out: Sequence[Batch]) -> float:
    """What a mean over these batches' answer tokens divides by."""
    return sum(float(batch.learnt.sum()) for batch in laid_out) or 1.0


def pairs_of(laid_out: Sequence[Batch]) -> float:
    """What a mean over these batches' pairs divides by."""
    return sum(float(batch.pair_weights.sum()) for batch in laid_out if batch.pair_weights is not None) or 1.0


def validate(model: Model, laid_out: Sequence[Batch], between: Callable[[], None] = lambda: None) -> float | None:
    """Mean loss of the validation split, or None where there is none; `between` is called before each batch."""
    if not laid_out:
        return None
    model.eval()
    total = 0.0
    with torch.no_grad():
        for batch in laid_out:
            between()
            total += float(loss_sum(model, batch))
            batch.forget()
    model.train()
    return total / weight_of(laid_out)
