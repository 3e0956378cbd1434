"""The training child: a program of its own, read top to bottom; nothing imports it.

`python -m gaiad.learner.train`, then a job line on stdin (see `protocol`): loads the base model (NF4 or bf16), adds a
LoRA, learns the answers of the examples and nothing else, and leaves the adapter of the best validation loss in the
job's output directory. `stop` or SIGTERM ends it after the step it is in, with a checkpoint; the end of stdin means
that the daemon is gone, and ends it at once. Begun again with the same job it goes on from the last checkpoint, and the
adapter's bytes are those of a run that nothing broke off. It neither publishes nor judges: its losses are telemetry,
the exam is elsewhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from gaiad.curriculum import Json, TrainingSpec
from gaiad.errors import DatasetError, GaiadError, TrainingError
from gaiad.learner.child import Pipe, bug, die_with_daemon, watch_daemon
from gaiad.learner.memory import Plan, said
from gaiad.learner.packing import TokenExample, plan_steps
from gaiad.learner.protocol import Checkpoint, Error, Hello, Job, Message, Progress, Result, parse_job
from gaiad.learner.steadiness import trouble

PIPE = Pipe.claim() if __name__ == "__main__" else None
STARTED = time.monotonic()

# How many kernels torch keeps of those it compiled for shapes of rows. Each step has others, and the thousand that it
# would keep are as much again as a small run holds; a step needs fewer than these.
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "256")

try:
    import torch
    import transformers

    from gaiad.learner import base as bases
    from gaiad.learner import device as devices
    from gaiad.learner import origins, rendering, snapshot
    from gaiad.learner.checkpoint import Saved, Shelf
    from gaiad.learner.losses import Batch, Layout, decoded, learn_back, losses_of, pairs_of, validate, weight_of
    from gaiad.learner.usage import Configuration, Gauge, attending, configuration_for, plan_for, told
except ImportError as missing:
    if PIPE is None:
        raise
    PIPE.say(Error(f"this Python cannot train: {missing}", "install gaiad[train] there, or set learning.python"))
    sys.exit(1)

T = TypeVar("T")
Say: TypeAlias = Callable[[Message], None]
Model: TypeAlias = Any
hub: Any = transformers  # its own types say less than this

_SMALLER = "lower training.max_sequence_tokens or effective_batch, or free memory"

MOST_RETURNS = 2
"""How often a run that lost its way goes back to where it was good, each time with half the learning rate."""


# --- 1. What a run has to hand ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Splits:
    """What is learnt from and what is validated on; `kinds` says which examples share a tool catalogue.

    `left_out` are the ids of exchanges that could not be used, `template` the chat template's text.
    """

    train: tuple[TokenExample, ...]
    kinds: tuple[str | None, ...]
    validation: tuple[TokenExample, ...]
    left_out: tuple[str, ...] = ()
    template: str = ""


@dataclass(slots=True)
class Account:
    """What the run has to show so far, and whether a validation is `due`. It is part of each checkpoint."""

    steps: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    flops: int = 0
    training_s: float = 0.0
    recent: tuple[float, ...] = ()
    first_loss: float | None = None
    base_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    worse_in_row: int = 0
    due: bool = True
    stopped_early: bool = False
    returns: int = 0
    rate_scale: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Run:
    """One run and all that it uses; `best` are the weights of its best adapter so far.

    `plan` is what was promised of its memory, None where nothing can be; `held_before` the bytes before it loaded.
    """

    job: Job
    device: str
    configuration: Configuration
    splits: Splits
    model: Model
    optimiser: torch.optim.Optimizer
    shelf: Shelf
    made_of: Mapping[str, str]
    stop: threading.Event
    say: Say
    account: Account = field(default_factory=Account)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    resumed_from: int | None = None
    saved_at: float = STARTED
    saved_step: int = -1
    plan: Plan | None = None
    held_before: int = 0
    gauge: Gauge | None = None

    def laid_out(self, examples: Sequence[TokenExample]) -> list[Batch]:
        """Examples as this run lays them out."""
        return self.configuration.laid_out(examples, self.device)

    def note(self, sentence: str) -> None:
        """Say aloud, and keep, what the owner should know of the run."""
        if sentence:
            sys.stderr.write(f"{sentence}\n")
            self.account.notes = (*self.account.notes, sentence)

    def keep(self, *, good: bool) -> None:
        """Write a checkpoint; `good` where a validation was just passed."""
        account = cast("dict[str, Json]", {**dataclasses.asdict(self.account), "configuration": self.frozen()})
        tensors = snapshot.taken(self.model, self.optimiser, self.best)
        path = self.shelf.save(Saved(self.account.steps, good, tensors, account))
        self.saved_at, self.saved_step = time.monotonic(), self.account.steps
        self.say(Checkpoint(self.account.steps, str(path), self.account.best_loss))

    def frozen(self) -> dict[str, Json]:
        """The configuration as a checkpoint holds it."""
        return cast("dict[str, Json]", dataclasses.asdict(self.configuration))

    def put_back(self, saved: Saved) -> None:
        """Go on from a checkpoint."""
        self.best = snapshot.put_back(saved.tensors, self.model, self.optimiser)
        known = {entry.name for entry in dataclasses.fields(Account)}
        kept = {name: _listed(value) for name, value in saved.account.items() if name in known}
        self.account = Account(**cast("dict[str, Any]", kept))

    def progress(self, validation_loss: float | None) -> Progress:
        """The account as a message."""
        account, spec, seconds = self.account, self.job.training, self.account.training_s
        share = self.gauge.share(account.flops, seconds) if self.gauge else None
        return Progress(
            step=account.steps,
            total_steps=spec.max_steps,
            loss=account.recent[-1] if account.recent else None,
            validation_loss=validation_loss,
            tokens=account.tokens,
            tokens_per_s=round(account.tokens / seconds, 1) if seconds else 0.0,
            elapsed_s=round(time.monotonic() - STARTED, 3),
            memory_bytes=devices.peak_memory_bytes(self.device),
            flops_per_s=round(account.flops / seconds, 1) if account.flops and seconds else None,
            peak_share=None if share is None else round(share, 4),
            learning_rate=float(self.optimiser.param_groups[0]["lr"]) if account.steps else None,
            resumed_from=self.resumed_from,
        )


def _listed(value: Json) -> object:
    return tuple(value) if isinstance(value, list) else value


# --- 2. One step ------------------------------------------------------------------------------------------------------


def rate_factor(step: int, spec: TrainingSpec) -> float:
    """Linear warm-up, then half a cosine; `step` counts from 0, and even the first and the last step learn."""
    if step < spec.warmup_steps:
        return (step + 1) / (spec.warmup_steps + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - spec.warmup_steps) / max(1, spec.max_steps - spec.warmup_steps)))


def gradients_of(model: Model, laid_out: Sequence[Batch], spec: TrainingSpec) -> float:
    """Forward and backward over a step's batches; returns the mean loss of its answer tokens in nats."""
    tokens, pairs = weight_of(laid_out), pairs_of(laid_out)
    total = 0.0
    for batch in laid_out:
        found = decoded(model, batch)
        whole = torch.cat([one.detach() for one in found]).requires_grad_()
        answers, preference = losses_of(model, batch, spec, whole)
        learn_back(model, batch, found, whole, answers / tokens + preference * (spec.preference_weight / pairs))
        batch.forget()
        total += float(answers.detach()) / tokens
    return total


def one_step(run: Run, laid_out: Sequence[Batch], *, check: bool) -> str | None:
    """Learn from a step's batches, or say what is wrong with them and change nothing."""
    spec, account = run.job.training, run.account
    run.optimiser.zero_grad(set_to_none=True)
    for group in run.optimiser.param_groups:
        group["lr"] = group["full_rate"] * rate_factor(account.steps, spec) * account.rate_scale
    loss = gradients_of(run.model, laid_out, spec)
    norm = float(torch.nn.utils.clip_grad_norm_(bases.trained_weights(run.model).values(), spec.max_grad_norm))
    wrong = trouble(loss, norm, account.recent, account.first_loss)
    if wrong is not None:
        return wrong
    if check:
        bases.check_gradients(run.model)
    run.optimiser.step()
    account.steps += 1
    account.recent = (*account.recent[-9:], loss)
    account.first_loss = loss if account.first_loss is None else account.first_loss
    account.computed_tokens += sum(batch.input_ids.numel() for batch in laid_out)
    account.flops += run.gauge.flops(laid_out) if run.gauge else 0
    return None


def within(run: Run, work: Callable[[], T]) -> T:
    """Compute within the memory that was promised: where that runs out, rows are half as long from there on, once."""
    if run.plan is None:
        return work()

    def attempt(plan: Plan) -> T:
        if plan is not run.plan:
            run.plan = plan
            run.configuration = dataclasses.replace(run.configuration, row_tokens=plan.row_tokens, halved=plan.halved)
            run.note(said(plan))
        return work()

    found, after = devices.within(run.plan, run.device, attempt)
    devices.hold_down(after, run.held_before, run.device)
    return found


# --- 3. All steps -----------------------------------------------------------------------------------------------------


def learn(run: Run) -> None:
    """Run all steps that are left, validating now and then, keeping the best adapter and a checkpoint of everything."""
    spec, train, fresh = run.job.training, run.splits.train, True
    plan = plan_steps(run.splits.kinds, batch=spec.effective_batch, steps=spec.max_steps, seed=spec.seed)
    if run.resumed_from is not None:
        run.say(run.progress(run.account.base_loss if run.account.steps == 0 else None))
    while run.account.due or (run.account.steps < spec.max_steps and not run.account.stopped_early):
        preempt(run)
        if run.account.due:
            look(run)
            fresh = True
            continue
        began = time.monotonic()
        chosen = [train[index] for index in plan[run.account.steps]]
        wrong = within(run, partial(learn_from, run, chosen, check=fresh))
        fresh = wrong is not None
        if wrong is not None:
            go_back(run, wrong, run.account.steps + 1)
            continue
        run.account.tokens += sum(len(one) for one in chosen)
        run.account.training_s += time.monotonic() - began
        run.account.due = run.account.steps % spec.validate_every_steps == 0 or run.account.steps == spec.max_steps
        if not run.account.due:
            run.say(run.progress(None))
        if time.monotonic() - run.saved_at >= run.job.checkpoint_every_s:
            run.keep(good=False)


def learn_from(run: Run, chosen: Sequence[TokenExample], *, check: bool) -> str | None:
    """One step over examples, as they lie in rows now."""
    return one_step(run, run.laid_out(chosen), check=check)


def look(run: Run) -> None:
    """Validate: the base before the first step, then the adapter. A run that is to end does so between two rows."""
    account = run.account
    loss = within(run, lambda: validate(run.model, run.laid_out(run.splits.validation), between=lambda: preempt(run)))
    if loss is not None and not math.isfinite(loss):
        if account.steps == 0:
            raise TrainingError("the base's own validation loss is no number", hint="look at engine.base_model")
        go_back(run, "the validation loss is no longer a number", account.steps)
        return
    account.due = False
    if account.steps == 0:
        account.base_loss = loss
    else:
        keep_if_best(run, loss)
    run.keep(good=True)
    run.say(run.progress(loss))


def keep_if_best(run: Run, loss: float | None) -> None:
    """Remember the adapter where its validation loss is the best so far (without a validation split: always)."""
    account = run.account
    if loss is not None and account.best_loss is not None and loss >= account.best_loss:
        account.worse_in_row += 1
        patience = run.job.training.patience
        account.stopped_early = account.worse_in_row >= patience and account.steps < run.job.training.max_steps
        return
    account.best_loss, account.best_step, account.worse_in_row = loss, account.steps, 0
    run.best = bases.adapter_state(run.model)


def preempt(run: Run) -> None:
    """Where the machine is wanted: a checkpoint of the last step, then the end."""
    if not run.stop.is_set():
        return
    if run.saved_step != run.account.steps:
        run.keep(good=False)
    raise TrainingError(
        f"preempted after step {run.account.steps} of {run.job.training.max_steps}",
        hint="the next run with the same dataset goes on from there",
        of_data=False,
    )


def go_back(run: Run, wrong: str, lost: int) -> None:
    """Return to where the run was last validated, with half the learning rate; give up after a few times.

    `lost` is the step that went wrong. What was saved after that state goes last: a run that is killed meanwhile comes
    to the same place again.
    """
    returns, scale = run.account.returns + 1, run.account.rate_scale / 2
    if returns > MOST_RETURNS:
        raise TrainingError(
            f"{wrong} in step {lost}, and going back {MOST_RETURNS} times did not help",
            hint="lower training.learning_rate or max_grad_norm",
            of_data=True,
        )
    saved, damaged = run.shelf.newest(good=True)
    if saved is None:
        raise TrainingError(f"{wrong} in step {lost}, and there is nothing to go back to", hint=damaged or "train anew")
    notes = run.account.notes
    run.put_back(saved)
    run.account.returns, run.account.rate_scale, run.account.notes = returns, scale, notes
    run.note(f"{wrong} in step {lost}: went back to step {saved.step}, learning rate halved")
    run.keep(good=True)
    run.shelf.forget_after(saved.step)


# --- 4. The run -------------------------------------------------------------------------------------------------------


def load_splits(job: Job) -> Splits:
    """Read and tokenise both splits; exchanges that cannot be used are left out of either."""
    if not (Path(job.base_model) / "config.json").is_file():
        raise TrainingError(f"{job.base_model} holds no base model", hint="set engine.base_model to a local folder")
    tokenizer = rendering.load_tokenizer(job.base_model)
    limit = job.training.max_sequence_tokens
    pairs = job.training.preference != "none"
    train = rendering.usable(rendering.read_examples(job.train_path), tokenizer, limit, pairs=pairs)
    validation = rendering.usable(
        rendering.read_examples(job.validation_path) if job.validation_path else [], tokenizer, limit
    )
    if not train.tokens:
        raise TrainingError("the train split is empty", hint="freeze the dataset again", of_data=True)
    left_out = tuple(sorted({*train.left_out, *validation.left_out}))
    return Splits(train.tokens, train.catalogues, validation.tokens, left_out, str(tokenizer.chat_template))


def device_for(job: Job) -> str:
    """Torch's name of the device that the job gets."""
    if job.device != "cpu" and torch.cuda.is_available():
        return "cuda"
    if job.device == "gpu":
        raise TrainingError("torch sees no GPU", hint="install a CUDA build of torch, or set engine.device = cpu")
    return "cpu"


def prepared(job: Job, stop: threading.Event, say: Say, shelves: Path, layout: Layout | None) -> Run:
    """Load everything, and take up a checkpoint of this very run where there is one."""
    device = device_for(job)
    splits = load_splits(job)
    give_way(stop)
    made_of = origins.digests(job, splits.template)
    identity = {**made_of, **origins.packages(), "device": origins.device_name(device), "layout": layout or "auto"}
    shelf = Shelf(shelves, identity)
    saved, damaged = shelf.newest()
    chosen = layout or bases.layout_for(job.base_model)
    kept = Configuration(**cast("dict[str, Any]", saved.account["configuration"])) if saved is not None else None
    blocks, attended = attending(job.base_model, device, chosen, kept, lambda: give_way(stop))
    give_way(stop)
    plan = plan_for(job, device, chosen, splits.train, splits.kinds, splits.validation, kept, by_blocks=blocks)
    give_way(stop)
    configuration = kept or configuration_for(job, device, chosen, plan, by_blocks=blocks)
    if isinstance(plan, Plan):
        devices.hold_to(plan, device)
    before = devices.resident()
    base = bases.load_base(job.base_model, device, quantisation=configuration.quantisation, by_blocks=blocks)
    if configuration.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    give_way(stop)
    model = bases.add_lora(base, job.lora).train()
    optimiser = bases.optimiser_for(model, job.lora, job.training)
    run = Run(job, device, configuration, splits, model, optimiser, shelf, made_of, stop, say)
    run.plan, run.gauge = plan if isinstance(plan, Plan) else None, Gauge.of(job, device)
    run.held_before = before
    if saved is not None:
        run.put_back(saved)
        run.resumed_from = run.saved_step = saved.step
        run.note(f"went on from the checkpoint of step {saved.step}")
    else:
        for sentence in (*told(plan, chosen), attended):
            run.note(sentence)
    run.note(damaged or (shelf.strangers() if saved is None else ""))
    return run


def give_way(stop: threading.Event) -> None:
    """End before the first step where the machine is wanted already."""
    if stop.is_set():
        raise TrainingError("preempted before the first step", hint="start the run again", of_data=False)


def train(job: Job, stop: threading.Event, say: Say, layout: Layout | None = None) -> Result:
    """One whole run, or what a checkpoint left of it; `layout` overrides what the architecture allows, to compare."""
    hub.logging.disable_progress_bar()
    hub.set_seed(job.training.seed)
    torch.set_num_threads(job.threads or torch.get_num_threads())
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    with ExitStack() as closing:
        shelves = job.checkpoint_dir or closing.enter_context(tempfile.TemporaryDirectory(prefix="gaiad-run-"))
        run = prepared(job, stop, say, Path(shelves), layout)
        learn(run)
        bases.write_adapter(run.best, job)
    account = run.account
    weights = (Path(job.output_dir) / "adapter_model.safetensors").read_bytes()
    return Result(
        output_dir=job.output_dir,
        steps=account.steps,
        best_step=account.best_step,
        train_loss=sum(account.recent) / len(account.recent),
        validation_loss=account.best_loss,
        base_validation_loss=account.base_loss,
        tokens=account.tokens,
        computed_tokens=account.computed_tokens,
        wall_s=round(time.monotonic() - STARTED, 3),
        peak_memory_bytes=devices.peak_memory_bytes(run.device),
        quantisation=run.configuration.quantisation,
        device=run.device,
        layout=run.configuration.layout,
        stopped_early=account.stopped_early,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        packages=origins.packages(),
        left_out=run.splits.left_out,
        resumed_from=run.resumed_from,
        notes=account.notes,
        digests=run.made_of,
        device_name=origins.device_name(run.device),
        step_s=round(account.training_s / account.steps, 3),
    )


def main(pipe: Pipe) -> int:
    """Read the job, run it, report; the exit code is 0 only after a result. On the CPU all others go first."""
    die_with_daemon()
    try:
        job = parse_job(sys.stdin.readline())
        pipe.say(Hello(pid=os.getpid()))
        if device_for(job) == "cpu":
            os.nice(10)
        pipe.say(train(job, watch_daemon(), pipe.say))
    except GaiadError as failure:
        # 1. A dataset's own line that is no example is the dataset's fault, and nobody else's.
        of_data = failure.of_data if isinstance(failure, TrainingError) else isinstance(failure, DatasetError)
        pipe.say(Error(failure.message, failure.hint, of_data))
        return 1
    except (MemoryError, torch.OutOfMemoryError):
        pipe.say(Error("memory ran out", _SMALLER, of_data=False))
        return 1
    except Exception as failure:  # noqa: BLE001 the program's edge: the daemon must hear of it in a sentence
        if isinstance(failure, RuntimeError) and "can't allocate memory" in str(failure):
            pipe.say(Error("memory ran out", _SMALLER, of_data=False))
        else:
            pipe.say(Error(bug(failure), "the run's log says where", of_data=False))
        return 1
    return 0


if PIPE is not None:
    sys.exit(main(PIPE))
