"""How a run uses its machine: by the plan of its memory, or carefully where nobody can make one.

Part of the trainer: it looks at what is free and at the base's `config.json`, and loads nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from gaiad.curriculum import LoraSpec
from gaiad.errors import Refuse, TrainingError
from gaiad.learner import device as devices
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.flops import share_of_peak, training_flops
from gaiad.learner.losses import ROW_TOKENS, Batch, Layout
from gaiad.learner.memory import Plan, said
from gaiad.learner.packing import TokenExample, plan_steps
from gaiad.learner.protocol import Job


@dataclass(frozen=True, slots=True)
class Configuration:
    """How the machine is used. Chosen once, frozen in the first checkpoint: it decides the order of sums.

    `halved` says that memory ran out, and rows are half as long from there on.
    """

    quantisation: str
    layout: Layout
    row_tokens: int
    checkpointing: bool = False
    halved: bool = False


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


def plan_for(
    job: Job,
    device: str,
    layout: Layout,
    examples: Sequence[TokenExample],
    kinds: Sequence[Hashable],
    validation: Sequence[TokenExample] = (),
    kept: Configuration | None = None,
) -> Plan | Refuse:
    """Promise how much memory the run takes, and choose the fastest way that fits; refused where nobody can count it.

    A run that goes on from a checkpoint uses the machine as `kept` there, or not at all.

    Raises:
        TrainingError: nothing fits, with what would.
    """
    spec = job.training
    order = plan_steps(kinds, batch=spec.effective_batch, steps=spec.max_steps, seed=spec.seed)
    # The validation split lies in rows of the same size, and more of its answers may lie in one.
    steps = [*([examples[index] for index in chosen] for chosen in order), list(validation)]
    machine, shared = devices.machine(device), layout == "prefix_shared"
    if kept is None:
        return devices.planned(job.base_model, job.lora, spec.quantisation, steps, machine, shared=shared)
    room, again = kept.row_tokens, kept.checkpointing
    try:
        plan = devices.planned(
            job.base_model, job.lora, kept.quantisation, steps, machine, shared=shared, room=room, checkpointing=again
        )
    except TrainingError as failure:
        raise TrainingError(
            f"the checkpoint cannot be gone on with as it was begun: {failure.message}",
            hint=f"free memory, or remove {job.checkpoint_dir} and begin anew",
            of_data=False,
        ) from failure
    return dataclasses.replace(plan, row_tokens=room, halved=kept.halved) if isinstance(plan, Plan) else plan


def configuration_for(job: Job, device: str, layout: Layout, plan: Plan | Refuse) -> Configuration:
    """How the machine is used by the plan; without one the base is quantised unless the spec says otherwise."""
    if isinstance(plan, Plan):
        return Configuration(plan.way.quantisation, layout, plan.row_tokens, plan.way.checkpointing)
    quantisation = {"auto": "nf4", "nf4": "nf4", "bf16": "bf16"}[job.training.quantisation]
    return Configuration(quantisation, layout, max(ROW_TOKENS[device], job.training.max_sequence_tokens))


def told(plan: Plan | Refuse, layout: Layout) -> tuple[str, ...]:
    """What the owner should know of how the machine is used, in sentences."""
    promise = said(plan) if isinstance(plan, Plan) else f"{plan.reason}: nothing is promised of it"
    if layout == "padded":
        return promise, "prefixes are not shared, which this architecture does not allow: training is slower"
    return (promise,)
