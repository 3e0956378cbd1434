"""How much memory a run takes at its peak, and which way of running it is the fastest that fits into what is free.

Estimated from the base's shape, the adapter, and how the run's examples lie in rows, item by item; chosen among NF4 and
bf16, gradient checkpointing or not, and several sizes of rows; refused where nothing fits, with what would. Pure: what
is free comes in as a number, and holding a device to it is the trainer's.

An estimate is of what the machine must hold beside what it held before: weights, adapter and its optimiser, and one
forward and backward pass. Weights and adapter are counted exactly. The rest was calibrated on a CPU, to a quarter, with
a small model (`bench.train_memory`); on CUDA it is arithmetic that nobody has measured. So that rest must fit with
`MARGIN` to spare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gaiad.curriculum import LoraSpec
from gaiad.errors import Refuse
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.lying import Rows
from gaiad.learner.packing import LOGITS_AT_ONCE, SIDE

Kind: TypeAlias = Literal["cpu", "cuda"]
Quantisation: TypeAlias = Literal["nf4", "bf16"]

ROOMS = (512, 1024, 2048, 4096, 8192)
"""How many tokens a row may have room for."""
MARGIN = 1.25
"""How much more than estimated the uncertain part may turn out to be."""

ALIKE = 1.05
"""Ways whose costs differ by less count as equally fast: they are not known better than that."""

_BF16, _FLOAT = 2, 4
_ADAPTER = 4 * _FLOAT
"""A trained weight in float32, as PEFT keeps it beside a bf16 base: itself, its gradient, and two averages of AdamW."""
RANKS = 2
"""How many ranks may compute a row on a CPU (`usage.ranks_for`), each with gradients of its own."""
_OWN_KERNELS = 96 << 20
"""What the kernels take that each further rank keeps for itself, by measurement."""
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in four bits, an 8-bit scale for 64 of them, and a float32 scale for 256 scales."""
_LOGIT = 2 * _BF16 + 2 * _FLOAT
"""A target's logit: as computed, in float32, as its share of the sum, and as its slope."""
_PLACE = 8
"""Where a number was dropped, which dropout keeps on a CPU; on CUDA it keeps a byte of each number."""
_LAYER = 8
"""Numbers in bf16 that a layer holds for a moment on the way back, for each of its intermediate and hidden widths."""
_KERNELS = 320 << 20
"""What the kernels take that torch has compiled on a CPU for shapes seen lately (`train` bounds them): by measurement,
whatever the base and the rows.
"""
_HELD_BACK = 10
"""How many layers' worth of kept activations malloc holds back in holes on a CPU, whatever the number of layers."""
_BLOCK = 4 * 4
"""A block of a row's square, where attention goes by blocks: four lists of numbers in 32 bits have room for each."""
_CUDA_HELD_BACK = 128 << 20
"""What CUDA's libraries and the rounding of its allocator take, by arithmetic."""
_SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Projections that others' input goes into too."""
_GiB = 1 << 30


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use: `free_bytes` of a device, and no more than `cap_bytes` of it (None: all that is free)."""

    kind: Kind
    free_bytes: int
    cap_bytes: int | None = None

    @property
    def budget_bytes(self) -> int:
        """What the run has to fit into."""
        return self.free_bytes if self.cap_bytes is None else min(self.free_bytes, self.cap_bytes)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes at the peak, item by item.

    `activations` are kept from the way there for the way back, `masks` are attention's, `passing` is what lies beside
    them for a moment: the logits at columns that predict an answer, or a layer's way back, whichever is more. `slack`
    is what the allocator has taken and cannot give to anyone.
    """

    weights: int
    adapter: int
    activations: int
    masks: int
    passing: int
    slack: int

    @property
    def peak_bytes(self) -> int:
        """All items together."""
        return self.weights + self.adapter + self.activations + self.masks + self.passing + self.slack

    @property
    def needed_bytes(self) -> int:
        """What must be free: the uncertain items with their margin."""
        certain = self.weights + self.adapter
        return certain + round((self.peak_bytes - certain) * MARGIN)


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running: how the base's projections are kept, whether activations are computed again, which rows."""

    quantisation: Quantisation
    checkpointing: bool
    rows: Rows

    def __str__(self) -> str:
        again = "with" if self.checkpointing else "without"
        return f"{self.quantisation} {again} gradient checkpointing, rows of {self.rows.room:,} tokens"


@dataclass(frozen=True, slots=True)
class Plan:
    """The way that was chosen, what it is expected to take, and what it must fit into.

    `least_tokens` is the longest example's: no row can be shorter. `halved` says that memory ran out once already,
    `faster` is the fastest way of all and what it needs, where that does not fit.
    """

    way: Way
    estimate: Estimate
    budget_bytes: int
    least_tokens: int
    row_tokens: int
    faster: tuple[Way, int] | None = None
    halved: bool = False


def estimate(shape: BaseShape, lora: LoraSpec, way: Way, kind: Kind) -> Estimate:
    """Say how much memory a run takes at its peak."""
    rows = way.rows
    per_weight = _NF4 if way.quantisation == "nf4" else _BF16
    kept = kept_per_token(shape, lora, kind, by_parts=rows.by_parts, by_blocks=rows.blocks > 0)
    last = (_FLOAT if kind == "cuda" else _BF16) * shape.hidden
    held = rows.longest * (shape.layers * kept + last)
    layer = _LAYER * _BF16 * rows.longest * (shape.intermediate + shape.hidden)
    masks = _attending(shape, rows, shape.layers)
    seen = masks // shape.layers if rows.by_parts else 0
    ranks = RANKS if rows.by_parts and not way.checkpointing else 1
    if way.checkpointing:
        held = rows.longest * (shape.layers * _BF16 * shape.hidden + last)
        layer += rows.longest * kept
        masks = _attending(shape, rows, 1)
    layer += ranks * _unpacked(shape, way)
    kernels = _KERNELS + (ranks - 1) * _OWN_KERNELS
    return Estimate(
        weights=round(per_weight * shape.projection_weights) + _BF16 * shape.other_weights,
        adapter=(_ADAPTER + (ranks * _FLOAT if ranks > 1 else 0)) * shape.lora_weights(lora),
        activations=held,
        masks=masks,
        passing=max(_LOGIT * shape.vocabulary * min(rows.targets, LOGITS_AT_ONCE), layer),
        slack=kernels + _HELD_BACK * (kept * rows.longest + seen) if kind == "cpu" else _CUDA_HELD_BACK,
    )


def _attending(shape: BaseShape, rows: Rows, layers: int) -> int:
    """What attention keeps in so many layers: a mask of the whole row, or part by part each query head's weights, or
    by blocks for all layers together which of them hold a pair.
    """
    if rows.blocks:
        side = -(-rows.longest // SIDE)
        return _BLOCK * side * side
    return _BF16 * layers * shape.heads * rows.cells if rows.by_parts else (1 + _BF16 * layers) * rows.cells


def kept_per_token(shape: BaseShape, lora: LoraSpec, kind: Kind, *, by_parts: bool, by_blocks: bool = False) -> int:
    """Bytes that a layer keeps of each token for the way back, with the base frozen.

    Norms keep their input, attention its queries, keys and values (repeated for each query head, unless it goes by
    parts or blocks) and what comes out, the feed-forward part its gate and what that multiplies. A frozen projection
    keeps nothing; a LoRA keeps its own middle, what was dropped, and what goes into it, which several have in common.
    On CUDA, where layers compute as PEFT and transformers made them, norms and LoRAs keep their input in float32, each
    its own, and the feed-forward part its gate before and after the curve.
    """
    adapted, attention = shape.adapted(lora), 4 * _BF16 * shape.queries + _FLOAT * shape.heads
    if by_blocks:
        attention = 2 * _BF16 * (shape.queries + shape.keys) + _FLOAT * shape.heads
    if kind == "cuda":
        into = _FLOAT + float(lora.dropout > 0)
        adapters = sum(into * wide + _FLOAT * lora.rank for wide, _ in adapted.values())
        adapters += _FLOAT * shape.normed_heads
        return 2 * _FLOAT * shape.hidden + attention + 3 * _BF16 * shape.intermediate + round(adapters)
    if by_parts:
        attention = _BF16 * (shape.queries + 2 * shape.keys)
    inputs = {_SAME_INPUT.get(name, name): wide for name, (wide, _) in adapted.items()}
    adapters = sum(_PLACE * lora.dropout * wide + _FLOAT * lora.rank for wide, _ in adapted.values())
    held = 2 * shape.hidden + shape.normed_heads + 2 * shape.intermediate + sum(inputs.values())
    return _BF16 * held + 2 * _FLOAT + attention + round(adapters)


def _unpacked(shape: BaseShape, way: Way) -> int:
    """One projection out of its four bits, for as long as it is multiplied by."""
    return 2 * _BF16 * shape.hidden * shape.intermediate if way.quantisation == "nf4" else 0


_STARTING: dict[Kind, int] = {"cpu": 0, "cuda": 256}
"""What beginning a pass costs, in tokens: on CUDA the starts of a layer's kernels, by arithmetic."""
_UNPACKING: dict[Kind, int] = {"cpu": 48, "cuda": 256}
"""What taking all projections out of four bits costs, in tokens, each pass anew; on CUDA by arithmetic."""
_AGAIN = 0.65
"""What computing a pass again adds to the two that are needed anyway: on a CPU a third of both was measured."""


def cost(shape: BaseShape, way: Way, kind: Kind) -> float:
    """How long a run takes, in FLOP and what takes as long; only good for comparing ways of one run.

    Attention is counted as it is computed, masked pairs included: those of whole rows, or of parts or blocks alone.
    """
    rows, passes = way.rows, 2 + _AGAIN if way.checkpointing else 2
    waiting = _STARTING[kind] + (_UNPACKING[kind] if way.quantisation == "nf4" else 0)
    linear = 2 * shape.projection_weights * (rows.total_tokens + waiting * rows.passes)
    attention = 4 * shape.layers * shape.queries * rows.total_cells
    # Attention's way back is twice its way there, which the linear parts' is not.
    return passes * linear + (passes + 1) * attention + 4 * shape.hidden * shape.vocabulary * rows.total_targets


def choose(
    shape: BaseShape,
    lora: LoraSpec,
    wanted: str,
    choices: Sequence[Rows],
    machine: Machine,
    *,
    checkpointing: bool | None = None,
) -> Plan | Refuse:
    """Choose the fastest way that fits, and of ways that are as fast the one that takes least.

    `wanted` is the spec's quantisation, `auto` for either. `choices` is how the run's examples lie in rows of each size
    that is open; `checkpointing` is None where it is open.
    """
    open_ways = [way for way in _ways(wanted, choices) if checkpointing in (None, way.checkpointing)]
    found = [(way, estimate(shape, lora, way, machine.kind)) for way in open_ways]
    fitting = [pair for pair in found if pair[1].needed_bytes <= machine.budget_bytes]
    if not fitting:
        return _refusal(shape, lora, wanted, choices, machine)

    def fastest(pairs: Sequence[tuple[Way, Estimate]]) -> tuple[Way, Estimate]:
        costs = [cost(shape, way, machine.kind) for way, _ in pairs]
        alike = [pair for pair, its in zip(pairs, costs, strict=True) if its <= min(costs) * ALIKE]
        return min(alike, key=lambda pair: pair[1].peak_bytes)

    way, expected = fastest(fitting)
    best, its = fastest(found)
    return Plan(
        way=way,
        estimate=expected,
        budget_bytes=machine.budget_bytes,
        least_tokens=way.rows.least,
        row_tokens=way.rows.room,
        faster=None if best is way else (best, its.needed_bytes),
    )


def _ways(wanted: str, choices: Sequence[Rows]) -> Iterator[Way]:
    for quantisation in ("bf16", "nf4"):
        if wanted in (quantisation, "auto"):
            for checkpointing in (False, True):
                for rows in choices:
                    yield Way(quantisation, checkpointing, rows)


def _refusal(shape: BaseShape, lora: LoraSpec, wanted: str, choices: Sequence[Rows], machine: Machine) -> Refuse:
    """Say how little it would take at least, and what would fit."""

    def least(quantisation: str, rows: Sequence[Rows]) -> tuple[int, Way]:
        needs = [(estimate(shape, lora, way, machine.kind).needed_bytes, way) for way in _ways(quantisation, rows)]
        return min(needs, key=lambda pair: pair[0])

    needed, way = least(wanted, choices)
    free = machine.budget_bytes
    hints = [f"free {gib(needed - free)} more"]
    # 1. Another quantisation, where the spec fixed one.
    other = least("auto", choices)
    if wanted != "auto" and other[0] <= free:
        hints.append(f"set training.quantisation = {other[1].quantisation} (needs {gib(other[0])})")
    # 2. Shorter examples, which alone make shorter rows possible.
    shorter = [tokens for tokens in range(64, way.rows.least, 64) if least(wanted, [way.rows.at(tokens)])[0] <= free]
    if shorter:
        hints.append(f"set training.max_sequence_tokens = {max(shorter)} or less")
    # 3. A smaller base, where neither helps.
    if len(hints) == 1:
        hints.append("use a smaller base")
    return Refuse(
        f"the run does not fit: {way} needs {gib(needed)} at least, and there is {gib(free)}", ", or ".join(hints)
    )


def after_out_of_memory(plan: Plan) -> Plan | Refuse:
    """Go on with rows half as long, once: a step keeps its examples and only takes more passes.

    The estimate stays what was promised; that it was wrong is to be recorded with the run.
    """
    hint = "free memory, lower training.max_sequence_tokens, or set training.quantisation = nf4"
    if plan.halved:
        return Refuse(f"memory ran out again with rows of {plan.row_tokens:,} tokens, half of what was planned", hint)
    shorter = max(plan.row_tokens // 2, plan.least_tokens)
    if shorter >= plan.way.rows.longest:
        return Refuse(
            f"memory ran out, and rows cannot be shorter than the longest example ({plan.least_tokens:,} tokens)", hint
        )
    return dataclasses.replace(plan, row_tokens=shorter, halved=True)


def said(plan: Plan) -> str:
    """The plan in a sentence, for the log and the record of the run."""
    if plan.halved:
        return (
            f"memory ran out where {gib(plan.estimate.peak_bytes)} were expected:"
            f" rows of {plan.row_tokens:,} tokens from here on, as many examples a step as before"
        )
    items = dataclasses.asdict(plan.estimate)
    parts = ", ".join(f"{name} {gib(count)}" for name, count in items.items())
    sentence = f"{plan.way}: {gib(plan.estimate.peak_bytes)} expected at the peak ({parts}) of {gib(plan.budget_bytes)}"
    if plan.faster is not None:
        way, needed = plan.faster
        sentence += f"; {way} would be faster and needs {gib(needed)}"
    return sentence


def share_of_device(plan: Plan, total_bytes: int) -> float:
    """Which part of a GPU's memory its allocator may take, so that the budget is kept and not only promised."""
    return min(1.0, plan.budget_bytes / total_bytes)


def gib(count: int) -> str:
    """Bytes for people."""
    if count < _GiB:
        return f"{count / (1 << 20):.0f} MiB"
    return f"{count / _GiB:.2f} GiB" if count < 10 * _GiB else f"{count / _GiB:.1f} GiB"
