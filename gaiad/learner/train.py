"""The training child: a program of its own, read top to bottom; nothing imports it.

`python -m gaiad.learner.train`, then a job line on stdin (see `protocol`): loads the base model (NF4 or bf16), adds a
LoRA, learns the answers of the examples and nothing else, and leaves the adapter of the best validation loss in the
job's output directory. `stop` or SIGTERM ends it after the step it is in; the end of stdin means that the daemon is
gone, and ends it at once. It neither publishes nor judges: its losses are telemetry, the exam is elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gaiad.curriculum import Json, TrainingSpec
from gaiad.errors import GaiadError, TrainingError
from gaiad.learner.child import Pipe, die_with_daemon, watch_daemon
from gaiad.learner.packing import Row, TokenExample, plan_rows, plan_steps, single_rows
from gaiad.learner.protocol import Checkpoint, Error, Hello, Job, Message, Progress, Result, parse_job

PIPE = Pipe.claim() if __name__ == "__main__" else None
STARTED = time.monotonic()

try:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file

    from gaiad.learner import rendering
except ImportError as missing:
    if PIPE is None:
        raise
    PIPE.say(Error(f"this Python cannot train: {missing}", "install gaiad[train] there, or set learning.python"))
    sys.exit(1)

Layout: TypeAlias = Literal["prefix_shared", "padded"]
Say: TypeAlias = Callable[[Message], None]
Model: TypeAlias = Any
hub: Any = transformers  # its own types say less than this

_SHARES_PREFIXES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_ROW_TOKENS = {"cpu": 1024, "cuda": 2048}
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")


# --- 1. The base model and the LoRA -----------------------------------------------------------------------------------


def load_base(job: Job, device: str) -> tuple[Model, str]:
    """Load the frozen base on `device`, and say how it is quantised."""
    quantisation = {"auto": "nf4", "nf4": "nf4", "bf16": "bf16"}[job.training.quantisation]
    options: dict[str, Any] = {}
    if quantisation == "nf4":
        options["quantization_config"] = hub.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    base = hub.AutoModelForCausalLM.from_pretrained(
        job.base_model,
        dtype=torch.bfloat16,
        device_map={"": 0 if device == "cuda" else "cpu"},
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    base.requires_grad_(False)
    base.config.use_cache = False
    for module in base.modules():
        # bitsandbytes would repack weights for inference in the first validation; later backwards then silently give
        # no gradient through the base. `check_gradients` holds it to this.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return base, quantisation


def add_lora(base: Model, job: Job) -> Model:
    """Put the trainable LoRA on the base."""
    lora = job.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        names = ", ".join(lora.target_modules)
        raise TrainingError(f"no LoRA fits {names} of this base: {error}", hint="see lora.target_modules") from error


def layout_for(base: Model) -> Layout:
    """Say whether this architecture can share prefixes: plain full attention that takes our mask as it is."""
    config = base.config
    kinds = getattr(config, "layer_types", None)
    full = set(kinds) == {"full_attention"} if kinds else not getattr(config, "sliding_window", None)
    return "prefix_shared" if full and config.model_type in _SHARES_PREFIXES else "padded"


# --- 2. Tokens to losses ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one forward pass; target i is predicted by the hidden state at (`rows[i]`, `columns[i]`)."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def batches(examples: Sequence[TokenExample], layout: Layout, device: str, max_tokens: int) -> list[Batch]:
    """Lay examples out for the network: sharing prefixes, or plainly, sorted by length and padded."""
    room = max(_ROW_TOKENS[device], max_tokens)
    if layout == "prefix_shared":
        return [batch_of([row], device, shared=True) for row in plan_rows(examples, max_row_tokens=room)]
    rows = single_rows(sorted(examples, key=len, reverse=True))
    laid_out: list[Batch] = []
    while rows:
        count = max(1, room // len(rows[0].tokens))
        laid_out.append(batch_of(rows[:count], device, shared=False))
        rows = rows[count:]
    return laid_out


def batch_of(rows: Sequence[Row], device: str, *, shared: bool) -> Batch:
    """Put rows into tensors, padded on the right; only `shared` rows need a mask of their own (else: causal)."""

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
    return Batch(
        input_ids=padded([row.tokens for row in rows], 0),
        attention_mask=mask,
        position_ids=padded([row.positions for row in rows], 0),
        rows=torch.tensor([place for place, _ in targets], device=device),
        columns=torch.tensor([target.column for _, target in targets], device=device),
        targets=torch.tensor([target.token for _, target in targets], device=device),
        weights=torch.tensor([target.weight for _, target in targets], device=device),
    )


def loss_sum(model: Model, batch: Batch) -> torch.Tensor:
    """Weighted sum of the answers' token losses; only columns that predict one go through the vocabulary."""
    columns = torch.unique(batch.columns)
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=columns,
    ).logits
    chosen = logits[batch.rows, torch.searchsorted(columns, batch.columns)]
    losses = torch.nn.functional.cross_entropy(chosen.float(), batch.targets, reduction="none")
    return (losses * batch.weights).sum()


def weight_of(laid_out: Sequence[Batch]) -> float:
    """What a mean over these batches divides by."""
    return sum(float(batch.weights.sum()) for batch in laid_out) or 1.0


def validate(model: Model, laid_out: Sequence[Batch]) -> float | None:
    """Mean loss of the validation split, or None where there is none."""
    if not laid_out:
        return None
    model.eval()
    with torch.no_grad():
        total = sum(float(loss_sum(model, batch)) for batch in laid_out)
    model.train()
    return total / weight_of(laid_out)


# --- 3. Steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Splits:
    """What is learnt from and what is validated on; `kinds` says which examples share a tool catalogue.

    `left_out` are the ids of exchanges that could not be used.
    """

    train: tuple[TokenExample, ...]
    kinds: tuple[str | None, ...]
    validation: tuple[TokenExample, ...]
    left_out: tuple[str, ...] = ()


@dataclass(slots=True)
class Account:
    """What the run has to show so far."""

    steps: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    training_s: float = 0.0
    recent: tuple[float, ...] = ()
    base_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    worse_in_row: int = 0
    stopped_early: bool = False

    def progress(self, total_steps: int, validation_loss: float | None) -> Progress:
        """The account as a message."""
        return Progress(
            step=self.steps,
            total_steps=total_steps,
            loss=self.recent[-1] if self.recent else None,
            validation_loss=validation_loss,
            tokens=self.tokens,
            tokens_per_s=round(self.tokens / self.training_s, 1) if self.training_s else 0.0,
            elapsed_s=round(time.monotonic() - STARTED, 3),
        )


def rate_factor(step: int, spec: TrainingSpec) -> float:
    """Linear warm-up, then half a cosine; `step` counts from 0, and even the first and the last step learn."""
    if step < spec.warmup_steps:
        return (step + 1) / (spec.warmup_steps + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - spec.warmup_steps) / max(1, spec.max_steps - spec.warmup_steps)))


def check_gradients(model: Model) -> None:
    """Refuse to go on where backward silently gave the lowest adapted layers nothing."""
    adapted = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]
    gradients = [parameter.grad for parameter in adapted[: max(1, len(adapted) // 8)]]
    if not any(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients):
        raise TrainingError("no gradient reaches the lowest layers", hint="train with quantisation = bf16 instead")


def one_step(
    model: Model, optimiser: torch.optim.Optimizer, laid_out: Sequence[Batch], job: Job, *, check: bool
) -> float:
    """Forward and backward over a step's batches, clip, update; returns the mean loss of its answer tokens."""
    optimiser.zero_grad(set_to_none=True)
    divisor = weight_of(laid_out)
    total = 0.0
    for batch in laid_out:
        loss = loss_sum(model, batch) / divisor
        torch.autograd.backward(loss)
        total += float(loss.detach())
    if check:
        check_gradients(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(trained, job.training.max_grad_norm))
    if not math.isfinite(total) or not math.isfinite(norm):
        raise TrainingError("the loss is no longer a number", hint="lower training.learning_rate or max_grad_norm")
    optimiser.step()
    return total


def learn(
    job: Job, model: Model, splits: Splits, layout: Layout, device: str, stop: threading.Event, say: Say
) -> Account:
    """Run all steps, validating now and then, and keep the best adapter in the output directory."""
    spec = job.training
    account = Account()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_factor(step, spec))
    validation = batches(splits.validation, layout, device, spec.max_sequence_tokens)
    account.base_loss = validate(model, validation)
    say(account.progress(spec.max_steps, account.base_loss))
    plan = plan_steps(splits.kinds, batch=spec.effective_batch, steps=spec.max_steps, seed=spec.seed)
    validated = True
    for step, chosen in enumerate(plan, start=1):
        began = time.monotonic()
        laid_out = batches([splits.train[index] for index in chosen], layout, device, spec.max_sequence_tokens)
        loss = one_step(model, optimiser, laid_out, job, check=validated)
        rates.step()
        account.steps, account.recent = step, (*account.recent[-9:], loss)
        account.tokens += sum(len(splits.train[index]) for index in chosen)
        account.computed_tokens += sum(batch.input_ids.numel() for batch in laid_out)
        account.training_s += time.monotonic() - began
        validated = step % spec.validate_every_steps == 0 or step == spec.max_steps
        loss_now = validate(model, validation) if validated else None
        say(account.progress(spec.max_steps, loss_now))
        if validated:
            keep_if_best(job, model, account, loss_now, say)
        if stop.is_set():
            raise TrainingError("preempted", hint="start the run again")
        if validation and account.worse_in_row >= spec.patience:
            account.stopped_early = step < spec.max_steps
            break
    return account


def keep_if_best(job: Job, model: Model, account: Account, loss: float | None, say: Say) -> None:
    """Save the adapter where its validation loss is the best so far (without a validation split: always)."""
    if loss is not None and not math.isfinite(loss):
        raise TrainingError("the validation loss is no longer a number", hint="lower training.learning_rate")
    if loss is not None and account.best_loss is not None and loss >= account.best_loss:
        account.worse_in_row += 1
        return
    account.best_loss, account.best_step, account.worse_in_row = loss, account.steps, 0
    save_adapter(model, job)
    say(Checkpoint(account.steps, job.output_dir, loss))


def save_adapter(model: Model, job: Job) -> None:
    """Write exactly the two files that serving accepts, weights in bf16, each renamed into place."""
    folder = Path(job.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "weights.partial", metadata={"format": "pt"})
    os.replace(folder / "weights.partial", folder / "adapter_model.safetensors")
    config: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": Path(job.base_model).name,
        "r": job.lora.rank,
        "lora_alpha": job.lora.alpha,
        "lora_dropout": job.lora.dropout,
        "target_modules": [*sorted(job.lora.target_modules)],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "config.partial").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(folder / "config.partial", folder / "adapter_config.json")


# --- 4. The run -------------------------------------------------------------------------------------------------------


def load_splits(job: Job) -> Splits:
    """Read and tokenise both splits; exchanges that cannot be used are left out of either."""
    if not (Path(job.base_model) / "config.json").is_file():
        raise TrainingError(f"{job.base_model} holds no base model", hint="set engine.base_model to a local folder")
    tokenizer = rendering.load_tokenizer(job.base_model)
    limit = job.training.max_sequence_tokens
    train = rendering.usable(rendering.read_examples(job.train_path), tokenizer, limit)
    validation = rendering.usable(
        rendering.read_examples(job.validation_path) if job.validation_path else [], tokenizer, limit
    )
    if not train.tokens:
        raise TrainingError("the train split is empty", hint="freeze the dataset again")
    return Splits(
        train.tokens, train.catalogues, validation.tokens, tuple(sorted({*train.left_out, *validation.left_out}))
    )


def device_for(job: Job) -> str:
    """Torch's name of the device that the job gets."""
    if job.device != "cpu" and torch.cuda.is_available():
        return "cuda"
    if job.device == "gpu":
        raise TrainingError("torch sees no GPU", hint="install a CUDA build of torch, or set engine.device = cpu")
    return "cpu"


def train(job: Job, stop: threading.Event, say: Say, layout: Layout | None = None) -> Result:
    """One whole run; `layout` overrides what the architecture allows, for comparisons."""
    hub.logging.disable_progress_bar()
    hub.set_seed(job.training.seed)
    torch.set_num_threads(job.threads or torch.get_num_threads())
    device = device_for(job)
    splits = load_splits(job)
    base, quantisation = load_base(job, device)
    chosen: Layout = layout or layout_for(base)
    if chosen == "padded":
        sys.stderr.write("prefixes are not shared (this architecture does not allow it): training is slower\n")
    model = add_lora(base, job)
    model.train()
    account = learn(job, model, splits, chosen, device, stop, say)
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
        peak_memory_bytes=peak_memory_bytes(device),
        quantisation=quantisation,
        device=device,
        layout=chosen,
        stopped_early=account.stopped_early,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        packages=packages(),
        left_out=splits.left_out,
    )


def peak_memory_bytes(device: str) -> int:
    """The most memory this run held: of the GPU where it ran there, else resident."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def packages() -> dict[str, str]:
    """Versions that decide what a run computes."""
    present = [name for name in _PACKAGES if importlib.util.find_spec(name)]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in present}


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
        pipe.say(Error(failure.message, failure.hint))
        return 1
    except (MemoryError, torch.OutOfMemoryError):
        pipe.say(Error("memory ran out", "lower training.max_sequence_tokens or effective_batch, or free memory"))
        return 1
    except Exception as failure:  # noqa: BLE001 the program's edge: the daemon must hear of it in a sentence
        traceback.print_exc()
        pipe.say(Error(f"{type(failure).__name__}: {str(failure)[:300]}", "see the run's log"))
        return 1
    return 0


if PIPE is not None:
    sys.exit(main(PIPE))
