"""How a run uses its machine: by the plan of its memory, or carefully where nobody can make one.

Part of the trainer: it looks at what is free and at the base's `config.json`, and loads nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from gaiad.curriculum import LoraSpec
from gaiad.errors import Refuse, TrainingError
from gaiad.learner import base as bases
from gaiad.learner import device as devices
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.flex_check import usable
from gaiad.learner.flops import share_of_peak, training_flops
from gaiad.learner.losses import ROW_TOKENS, Batch, Layout, batches
from gaiad.learner.memory import RANKS, Plan, said
from gaiad.learner.packing import TokenExample, plan_steps
from gaiad.learner.protocol import Job


@dataclass(frozen=True, slots=True)
class Configuration:
    """How the machine is used. Chosen once, frozen in the first checkpoint: it decides the order of sums.

    `halved` says that memory ran out, and rows are half as long from there on; `by_blocks` that attention over rows
    that share prefixes goes by blocks (`flex`), which was tried on the device before; `ranks` how many threads compute
    columns of a row of their own (`ranks`).
    """

    quantisation: str
    layout: Layout
    row_tokens: int
    checkpointing: bool = False
    halved: bool = False
    by_blocks: bool = False
    ranks: int = 1

    def laid_out(self, examples: Sequence[TokenExample], device: str) -> list[Batch]:
        """Examples as such a run lays them out."""
        room = self.row_tokens
        return batches(examples, self.layout, device, room, room, by_blocks=self.by_blocks, ranks=self.ranks)


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a run's arithmetic is measured by; without a shape nothing is, without a peak there is no share of it.

    The reference's pass of a preference loss is not counted.
    """

    shape: BaseShape | None
    lora: LoraSpec
    peak_flops: float | None

    @classmethod
    def of(cls, job: Job, device: str) -> Gauge:
        """Look at the base, and at what the device can do at most."""
        shape = devices.shape_of(job.base_model)
        return cls(None if isinstance(shape, Refuse) else shape, job.lora, devices.peak_flops(device))

    def flops(self, laid_out: Sequence[Batch]) -> int:
        """What a step over these batches needs."""
        return 0 if self.shape is None else sum(training_flops(self.shape, self.lora, one.work) for one in laid_out)

    def share(self, flops: int, seconds: float) -> float | None:
        """How much of the device's best that is."""
        return share_of_peak(flops, seconds, self.peak_flops) if flops else None


def attending(
    folder: str,
    device: str,
    layout: Layout,
    kept: Configuration | None = None,
    between: Callable[[], None] = lambda: None,
) -> tuple[bool, str]:
    """Whether attention goes by blocks, which is tried on a GPU before anything is planned, and what to say of it.

    A run that goes on from a checkpoint attends as `kept` there, or not at all. Whatever stands in the way of a new
    one, there is the mask over whole rows, which needs nothing. `between` is called every now and then meanwhile.

    Raises:
        TrainingError: the checkpoint's way is no way here any more.
    """
    # 1. A CPU goes part by part, and where nothing is shared there are no blocks to leave out.
    if device == "cpu" or layout != "prefix_shared":
        return False, ""
    # 2. What a checkpoint was begun with stays, whatever would be possible now.
    if kept is not None and not kept.by_blocks:
        return False, ""
    refused = _blocked(folder, device, between)
    if refused is None:
        return True, "attention goes by blocks (FlexAttention), after it gave here what a mask gives"
    if kept is not None:
        raise TrainingError(
            f"the checkpoint cannot be gone on with as it was begun: {refused.reason}",
            hint="mend that, or remove the run's checkpoints and begin anew",
            of_data=False,
        )
    return False, f"attention goes by a mask over whole rows, which takes more time and memory: {refused.reason}"


def _blocked(folder: str, device: str, between: Callable[[], None]) -> Refuse | None:
    """What stands in the way of attention by blocks, for the base in `folder`."""
    shape = devices.shape_of(folder)
    if isinstance(shape, Refuse):
        return shape
    return usable(device, shape, between=between)


def plan_for(
    job: Job,
    device: str,
    layout: Layout,
    examples: Sequence[TokenExample],
    kinds: Sequence[Hashable],
    validation: Sequence[TokenExample] = (),
    kept: Configuration | None = None,
    *,
    by_blocks: bool = False,
) -> Plan | Refuse:
    """Promise how much memory the run takes, and choose the fastest way that fits; refused where nobody can count it.

    A run that goes on from a checkpoint uses the machine as `kept` there, or not at all. `by_blocks` is what
    `attending` found.

    Raises:
        TrainingError: nothing fits, with what would.
    """
    spec = job.training
    order = plan_steps(kinds, batch=spec.effective_batch, steps=spec.max_steps, seed=spec.seed)
    # The validation split lies in rows of the same size, and more of its answers may lie in one.
    steps = [*([examples[index] for index in chosen] for chosen in order), list(validation)]
    machine = devices.machine(device)
    planned = partial(devices.planned, job.base_model, job.lora, shared=layout == "prefix_shared", by_blocks=by_blocks)
    if kept is None:
        return planned(spec.quantisation, steps, machine)
    room, again = kept.row_tokens, kept.checkpointing
    try:
        plan = planned(kept.quantisation, steps, machine, room=room, checkpointing=again)
    except TrainingError as failure:
        raise TrainingError(
            f"the checkpoint cannot be gone on with as it was begun: {failure.message}",
            hint=f"free memory, or remove {job.checkpoint_dir} and begin anew",
            of_data=False,
        ) from failure
    return dataclasses.replace(plan, row_tokens=room, halved=kept.halved) if isinstance(plan, Plan) else plan


def configuration_for(
    job: Job, device: str, layout: Layout, plan: Plan | Refuse, *, by_blocks: bool = False
) -> Configuration:
    """How the machine is used by the plan; without one the base is quantised unless the spec says otherwise."""
    if isinstance(plan, Plan):
        way = plan.way
        ranks = ranks_for(job.base_model, device, layout, checkpointing=way.checkpointing)
        return Configuration(way.quantisation, layout, plan.row_tokens, way.checkpointing, False, by_blocks, ranks)
    quantisation = {"auto": "nf4", "nf4": "nf4", "bf16": "bf16"}[job.training.quantisation]
    room = max(ROW_TOKENS[device], job.training.max_sequence_tokens)
    return Configuration(quantisation, layout, room, by_blocks=by_blocks)


def ranks_for(folder: str, device: str, layout: Layout, *, checkpointing: bool) -> int:
    """How many ranks compute a row: two on a CPU of which torch has as many threads, each with half of them.

    More than two would wait for Python more than they gain. Layers that are computed again on the way back draw from
    numbers that ranks do not have apart, and frequencies that change with a row's length would differ between them.
    """
    able = device == "cpu" and layout == "prefix_shared" and torch.get_num_threads() > 1 and not checkpointing
    return RANKS if able and bases.rotates_alike(folder) else 1


def told(plan: Plan | Refuse, layout: Layout) -> tuple[str, ...]:
    """What the owner should know of how the machine is used, in sentences."""
    promise = said(plan) if isinstance(plan, Plan) else f"{plan.reason}: nothing is promised of it"
    if layout == "padded":
        return promise, "prefixes are not shared, which this architecture does not allow: training is slower"
    return (promise,)
