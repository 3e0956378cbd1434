"""How a run uses its machine: by the plan of its memory, or carefully where nobody can make one.

Part of the trainer: it looks at what is free and at the base's `config.json`, and loads nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from gaiad.errors import Refuse
from gaiad.learner import device as devices
from gaiad.learner.losses import ROW_TOKENS, Layout
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


def plan_for(
    job: Job, device: str, layout: Layout, examples: Sequence[TokenExample], kinds: Sequence[Hashable]
) -> Plan | Refuse:
    """Promise how much memory the run takes, and choose the fastest way that fits; refused where nobody can count it.

    Raises:
        TrainingError: nothing fits, with what would.
    """
    spec = job.training
    order = plan_steps(kinds, batch=spec.effective_batch, steps=spec.max_steps, seed=spec.seed)
    steps = [[examples[index] for index in chosen] for chosen in order]
    machine, shared = devices.machine(device), layout == "prefix_shared"
    return devices.planned(job.base_model, job.lora, spec.quantisation, steps, machine, shared=shared)


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
