"""One way of training, as a program: `python -m bench.training.ways`, then a job and commands on stdin (see `pace`).

All ways have the base, the LoRA with its first weights, the tokens, the steps and the optimiser in common, all made by
gaiad's own code, and are judged by the same code. They differ in how a step's examples become a loss and gradients.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import transformers

from bench.training.figures import OURS, PLAIN, TRL_PACKED
from bench.training.pace import Pace
from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.learner import base as bases
from gaiad.learner import device as devices
from gaiad.learner import losses, rendering
from gaiad.learner import train as recipe
from gaiad.learner.fused import unfuse
from gaiad.learner.memory import Plan
from gaiad.learner.packing import TokenExample, plan_steps
from gaiad.learner.usage import ranks_for

Model: TypeAlias = Any
hub: Any = transformers  # its own types say less than this


@dataclass(frozen=True, slots=True)
class Work:
    """What every way gets."""

    base_model: str
    model: Model
    plan: tuple[tuple[TokenExample, ...], ...]
    spec: TrainingSpec
    lora: LoraSpec
    folder: str


def plain(work: Work, pace: Pace) -> None:
    """What one writes from the manuals: pad to the longest, let the model compute the loss from labels."""

    def gradients(chosen: Sequence[TokenExample]) -> int:
        longest = max(map(len, chosen))
        ids = torch.tensor([[*one.tokens, *[0] * (longest - len(one))] for one in chosen])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in chosen])
        labels = torch.tensor([labels_of(one) + [-100] * (longest - len(one)) for one in chosen])
        torch.autograd.backward(work.model(input_ids=ids, attention_mask=mask, labels=labels).loss)
        return longest * len(chosen)

    in_steps(work, pace, gradients)


def ours(work: Work, pace: Pace) -> None:
    """As the training child does it, in rows of the size that its plan of memory chooses."""
    layout = bases.layout_for(work.base_model)
    plan = devices.planned(
        work.base_model,
        work.lora,
        work.spec.quantisation,
        work.plan,
        devices.machine("cpu"),
        shared=layout == "prefix_shared",
        checkpointing=False,
    )
    assert isinstance(plan, Plan)
    ranks = ranks_for(work.base_model, "cpu", layout, checkpointing=False)

    def gradients(chosen: Sequence[TokenExample]) -> int:
        laid_out = losses.batches(chosen, layout, "cpu", plan.row_tokens, plan.row_tokens, ranks=ranks)
        recipe.gradients_of(work.model, laid_out, work.spec)
        return sum(batch.input_ids.numel() for batch in laid_out)

    in_steps(work, pace, gradients)


def as_peft_makes_it(model: Model) -> Model:
    """With torch's own attention, and layers as PEFT and transformers made them: the other ways' model."""
    model.set_attn_implementation("sdpa")
    unfuse(model)
    return model


def labels_of(example: TokenExample) -> list[int]:
    """The answer alone is learnt."""
    return [-100] * len(example.prompt) + list(example.answer)


def in_steps(work: Work, pace: Pace, gradients: Callable[[Sequence[TokenExample]], int]) -> None:
    """The loop of the ways that have none of their own; the learning rate stays what it is, as in all ways."""
    optimiser = bases.optimiser_for(work.model, work.lora, work.spec)
    weights = [*bases.trained_weights(work.model).values()]
    going = pace.wait()
    for chosen in work.plan:
        if not going:
            return
        optimiser.zero_grad(set_to_none=True)
        computed = gradients(chosen)
        torch.nn.utils.clip_grad_norm_(weights, work.spec.max_grad_norm)
        optimiser.step()
        going = pace.stepped(sum(map(len, chosen)), computed)


def heldout_losses(model: Model, examples: Sequence[TokenExample]) -> list[float]:
    """Mean loss of each answer, each example alone: the same code whatever trained the adapter."""
    model.eval()
    found = list[float]()
    with torch.no_grad():
        for example in examples:
            (batch,) = losses.batches([example], "padded", "cpu", len(example))
            found.append(float(losses.loss_sum(model, batch)) / len(example.answer))
    return found


def right_answers(model: Model, examples: Sequence[TokenExample]) -> int:
    """How many answers come out word for word, decoded greedily."""
    model.eval()
    right = 0
    for example in examples:
        prompt = torch.tensor([example.prompt])
        with torch.no_grad():
            written = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=len(example.answer),
                do_sample=False,
                use_cache=True,
                eos_token_id=example.answer[-1],
                pad_token_id=example.answer[-1],
            )
        right += tuple(written[0, len(example.prompt) :].tolist()) == example.answer
    return right


def read(path: str, base_model: str, limit: int) -> tuple[tuple[TokenExample, ...], tuple[str | None, ...]]:
    """A split as tokens, all of one weight, since neither other way knows weights."""
    rendered = rendering.usable(rendering.read_examples(path), rendering.load_tokenizer(base_model), limit)
    return tuple(dataclasses.replace(one, weight=1.0, rejected=()) for one in rendered.tokens), rendered.catalogues


def main() -> None:
    """Load, wait, train in windows, and say what was learnt."""
    pace = Pace.claimed()
    job = cast("Mapping[str, Any]", pace.job())
    hub.logging.disable_progress_bar()
    hub.logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    spec, lora = TrainingSpec(**job["training"]), LoraSpec(**job["lora"])
    examples, kinds = read(job["train_path"], job["base_model"], spec.max_sequence_tokens)
    heldout, _ = read(job["heldout_path"], job["base_model"], spec.max_sequence_tokens)
    plan = plan_steps(kinds, batch=spec.effective_batch, steps=spec.max_steps, seed=spec.seed)
    hub.set_seed(spec.seed)
    base = bases.load_base(job["base_model"], "cpu", quantisation=spec.quantisation)
    model = bases.add_lora(base, lora).train()
    if job["way"] != OURS:
        model = as_peft_makes_it(model).train()
    steps = tuple(tuple(examples[index] for index in step) for step in plan)
    work = Work(job["base_model"], model, steps, spec, lora, job["folder"])
    pace.say(ready=True, tokens_per_example=sum(map(len, examples)) / len(examples))
    if job["way"] in (PLAIN, OURS):
        {PLAIN: plain, OURS: ours}[job["way"]](work, pace)
    else:
        from bench.training import trl_way

        model = trl_way.trained(work, pace, packed=job["way"] == TRL_PACKED)
    asked = heldout[: job["answers"]]
    pace.say(
        steps=pace.steps,
        heldout=heldout_losses(model, heldout),
        answers=[right_answers(model, asked), len(asked)] if asked else None,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


if __name__ == "__main__":
    main()
