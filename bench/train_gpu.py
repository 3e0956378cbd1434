"""How fast a 3-4B base is trained on a GPU, in NF4 and in bf16, and with how much memory.

    python -m bench.train_gpu
    python -m bench.train_gpu --smoke        # a tiny base and a few steps on the CPU: whether the bench runs at all

The base has the shape of Nanbeige4-3B and random weights, written to a temporary folder (8 GB) and loaded as the
trainer loads any. A thousand examples of up to 1,024 tokens are those of choosing tools: a catalogue that many share, a
request, an answer. Each is learnt from once, by the trainer's own plan, layout and steps, while the allocator is held
to `--cap-gib`; where memory runs out, rows are halved once, and that is told. The share of the device's peak counts
what `gaiad.learner.flops` says and nothing that is computed again. Seconds are those of the steps; loading stands
beside them. Attention goes by blocks where the trainer's own check finds that to work, and the table says how it went.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers

from gaiad.curriculum import ALL_LINEAR, LoraSpec, TrainingSpec
from gaiad.errors import GaiadError, Refuse, TrainingError
from gaiad.learner import base as bases
from gaiad.learner import device as devices
from gaiad.learner import losses, memory, train
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.checkpoint import Shelf
from gaiad.learner.flops import Work, share_of_peak, training_flops
from gaiad.learner.packing import TokenExample, plan_steps
from gaiad.learner.protocol import Job
from gaiad.learner.usage import Configuration, attending

hub: Any = transformers  # its own types say less than this

NANBEIGE = BaseShape(32, 2560, 20, 4, 128, 10496, 166144)
ROPE_THETA = 70_000_000.0
LORA = LoraSpec(16, 32, 0.05, ALL_LINEAR[:4])
GIB = 1 << 30
CAP_GIB = 15.5
AIM_S, AIM_SHARE = 60.0, 0.4
"""Of the whole epoch on an H100, and of its peak in bf16."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained: `examples` of at most `tokens`, so many a step; `catalogues` are what examples share."""

    shape: BaseShape
    examples: int
    tokens: int
    catalogues: int
    batch: int

    @property
    def spec(self) -> TrainingSpec:
        """One epoch."""
        steps = -(-self.examples // self.batch)
        return TrainingSpec(self.tokens, steps, self.batch, 3e-4, min(5, steps - 1), 0.0, 1.0, "auto", steps, 1, 7)


FULL = Size(NANBEIGE, 1000, 1024, 12, 8)
SMOKE = Size(BaseShape(2, 128, 4, 2, 32, 256, 512), 12, 256, 2, 4)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the run is held to, and what its device could do at most (None: not known)."""

    cap_gib: float
    peak_flops: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `share` is None where the device's peak is not known. `attention` goes by `blocks` or a
    `mask` on a GPU, by `parts` on a CPU; `notes` are the plan's sentences, and why it goes so.
    """

    quantisation: str
    checkpointing: bool
    row_tokens: int
    load_s: float
    seconds: float
    steps: int
    tokens: int
    tokens_per_s: float
    computed_tokens: int
    share: float | None
    peak_bytes: int
    expected_bytes: int
    attention: str
    notes: tuple[str, ...]


def synthetic(size: Size, seed: int) -> tuple[list[TokenExample], list[int]]:
    """Examples of choosing tools, as token lists, and which catalogue each has."""
    chooser = Random(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(chooser.randrange(3, size.shape.vocabulary) for _ in range(chooser.randint(low, high)))

    part = size.tokens // 16
    catalogues = [some(5 * part, 11 * part) for _ in range(size.catalogues)]
    kinds = [chooser.randrange(size.catalogues) for _ in range(size.examples)]
    return [
        TokenExample(catalogues[kind] + some(part // 2, 3 * part), some(part // 2, 2 * part)) for kind in kinds
    ], kinds


def write_base(folder: Path, shape: BaseShape, device: str, seed: int) -> None:
    """A base of that shape with random weights."""
    hub.logging.disable_progress_bar()
    config = hub.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = hub.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def epoch(size: Size) -> list[list[TokenExample]]:
    """The steps that see every example once."""
    examples, kinds = synthetic(size, seed=7)
    order = plan_steps(kinds, batch=size.spec.effective_batch, steps=size.spec.max_steps, seed=size.spec.seed)
    return [[examples[index] for index in chosen] for chosen in order]


def loaded(
    folder: Path, spec: TrainingSpec, plan: memory.Plan, device: str, shelf: Path, *, by_blocks: bool
) -> train.Run:
    """The base and a fresh adapter, ready for the first step."""
    way = plan.way
    base = bases.load_base(str(folder), device, quantisation=way.quantisation, by_blocks=by_blocks)
    if plan.way.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = bases.add_lora(base, LORA).train()
    return train.Run(
        job=Job(str(folder), "", "", "", LORA, spec),
        device=device,
        configuration=Configuration(
            way.quantisation, "prefix_shared", plan.row_tokens, way.checkpointing, by_blocks=by_blocks
        ),
        splits=train.Splits((), (), ()),
        model=model,
        optimiser=bases.optimiser_for(model, LORA, spec),
        shelf=Shelf(shelf, {}),
        made_of={},
        stop=threading.Event(),
        say=lambda _: None,
    )


def one(run: train.Run, step: Sequence[TokenExample], plan: memory.Plan) -> Work:
    """One step of the trainer's, and what went through the network; masked pairs and padding are not seen."""
    by_blocks = run.configuration.by_blocks
    laid_out = losses.batches(
        step, "prefix_shared", run.device, plan.least_tokens, plan.row_tokens, by_blocks=by_blocks
    )
    wrong = train.one_step(run, laid_out, check=run.account.steps == 0)
    if wrong is not None:
        raise TrainingError(wrong, hint="look at the shape and the examples of this bench")
    work = Work(0, 0, 0)
    for batch in laid_out:
        work += batch.work
    return work


def measured(folder: Path, size: Size, quantisation: str, device: str, limits: Limits) -> Row:
    """Load the base in one quantisation and learn from every example once."""
    spec, steps = dataclasses.replace(size.spec, quantisation=quantisation), epoch(size)
    by_blocks, attended = attending(str(folder), device, "prefix_shared")
    machine = devices.machine(device, round(limits.cap_gib * GIB))
    plan = devices.planned(str(folder), LORA, quantisation, steps, machine, shared=True, by_blocks=by_blocks)
    if isinstance(plan, Refuse):
        raise TrainingError(plan.reason, hint=plan.hint)
    notes = [memory.said(plan), *([attended] if attended else [])]
    devices.hold_to(plan, device)
    began = time.monotonic()
    run = loaded(folder, spec, plan, device, folder.parent / f"shelf-{quantisation}", by_blocks=by_blocks)
    work, ready = Work(0, 0, 0), time.monotonic()
    for step in steps:
        done, after = devices.within(plan, device, functools.partial(one, run, step))
        work += done
        if after is not plan:
            notes.append(memory.said(after))
        plan = after
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - ready
    tokens = sum(len(example) for step in steps for example in step)
    return Row(
        quantisation=plan.way.quantisation,
        checkpointing=plan.way.checkpointing,
        row_tokens=plan.row_tokens,
        load_s=ready - began,
        seconds=seconds,
        steps=run.account.steps,
        tokens=tokens,
        tokens_per_s=tokens / seconds,
        computed_tokens=run.account.computed_tokens,
        share=share_of_peak(training_flops(size.shape, LORA, work), seconds, limits.peak_flops),
        peak_bytes=devices.peak_memory_bytes(device),
        expected_bytes=plan.estimate.peak_bytes,
        attention="blocks" if by_blocks else "parts" if device == "cpu" else "mask",
        notes=tuple(notes),
    )


def rows(size: Size, device: str, limits: Limits) -> list[Row]:
    """Both quantisations, one after the other, each with the device to itself."""
    found = []
    with tempfile.TemporaryDirectory(prefix="gaiad-bench-") as place:
        folder = Path(place) / "base"
        write_base(folder, size.shape, device, seed=7)
        for quantisation in ("nf4", "bf16"):
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found.append(measured(folder, size, quantisation, device, limits))
    return found


def as_table(found: Sequence[Row], heading: str, *, smoke: bool) -> str:
    """The table, what the plans said, and how far the aims were reached."""
    lines = [
        heading,
        f"{'':6}{'again':>6}{'attention':>11}{'row':>7}{'load s':>8}"
        f"{'s':>9}{'tokens/s':>10}{'of peak':>9}{'GiB':>7}{'said':>7}",
    ]
    for row in found:
        share = "-" if row.share is None else f"{row.share:.1%}"
        sizes = f"{row.peak_bytes / GIB:7.2f}{row.expected_bytes / GIB:7.2f}"
        again = "yes" if row.checkpointing else "no"
        lines.append(
            f"{row.quantisation:6}{again:>6}{row.attention:>11}{row.row_tokens:7}{row.load_s:8.1f}{row.seconds:9.2f}"
            f"{row.tokens_per_s:10,.0f}{share:>9}{sizes}"
        )
    lines += [f"{row.quantisation}: {note}" for row in found for note in row.notes]
    if smoke:
        lines.append("smoke: a tiny base; these figures say that the bench runs, and nothing of a GPU")
    else:
        bf16 = next(row for row in found if row.quantisation == "bf16")
        share = "not known" if bf16.share is None else f"{bf16.share:.0%}"
        fastest = min(row.seconds for row in found)
        lines.append(f"aims (on an H100): {AIM_S:.0f} s, took {fastest:.1f}; {AIM_SHARE:.0%} of peak in bf16, {share}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny base and three steps on the CPU")
    parser.add_argument("--cap-gib", type=float, default=CAP_GIB, help=f"memory to keep to ({CAP_GIB})")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not options.smoke and not torch.cuda.is_available():
        sys.exit("train_gpu: torch sees no GPU; try --smoke, or a machine with an NVIDIA GPU and a CUDA build of torch")
    device, size = ("cpu", SMOKE) if options.smoke else ("cuda", FULL)
    name = "CPU" if options.smoke else torch.cuda.get_device_name()
    if options.smoke:
        # So small a base gains nothing from more, and others may want them.
        torch.set_num_threads(1)
    peak = devices.peak_flops(device)
    try:
        found = rows(size, device, Limits(options.cap_gib, peak))
    except GaiadError as failure:
        sys.exit(f"train_gpu: {failure}")
    shape, known = size.shape, "not known" if peak is None else f"{peak / 1e12:,.2f} TFLOP/s in bf16"
    if options.json:
        about = {"device": name, "smoke": options.smoke, "peak_flops": peak, "cap_gib": options.cap_gib}
        print(json.dumps({**about, "shape": asdict(shape), "rows": [asdict(row) for row in found]}))
    else:
        kind = f"{name}, peak {known}; torch {torch.__version__}, Python {platform.python_version()}"
        weights = f"{shape.weights / 1e9:.3g}B weights, {size.examples} examples of up to {size.tokens} tokens"
        print(as_table(found, f"{kind}; {weights}", smoke=options.smoke))
    return 0


if __name__ == "__main__":
    sys.exit(main())
