"""TRL's SFTTrainer on the steps that all ways share, through its own loop, collator and loss.

Its packing (`bfd`) flattens rows into one and needs no flash attention to be right: transformers makes the mask of
separate sequences from the restarted positions, for SDPA too. `wrapped` cuts examples in two and lets them see each
other, so it is no candidate. So that each step holds exactly the examples it holds in the other ways, TRL's own
`pack_dataset` packs each step by itself. Without a kernel for packed rows, attention over one row costs more than it
spares: unpacked, one example at a time with accumulated gradients, there is no padding either, and the mask is plainly
causal. Both are measured, and the faster counts.

Where TRL's defaults would change what is compared they are set: no gradient checkpointing, no autocast (the base is in
bf16 and the LoRA in float32, as in the other ways), a constant rate. Its loss takes the vocabulary in tiles; without
Triton, at every token, those of the request too. Of a base in NF4 it makes the LoRA bf16, and is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import datasets
import transformers
import trl
from trl.data_utils import pack_dataset

from bench.training.pace import Pace
from bench.training.ways import Work, labels_of
from gaiad.learner.packing import TokenExample

Theirs: TypeAlias = Any
hub: Any = transformers  # its own types say less than this
theirs: Any = trl


class Windows(hub.TrainerCallback):  # type: ignore[misc]
    """Takes turns with the other ways at the ends of windows."""

    def __init__(self, pace: Pace, work: Work) -> None:
        self._pace = pace
        self._work = work

    def on_train_begin(self, args: Theirs, state: Theirs, control: Theirs, **_: Theirs) -> None:
        """Stand still until the first window."""
        control.should_training_stop = not self._pace.wait()

    def on_step_end(self, args: Theirs, state: Theirs, control: Theirs, **_: Theirs) -> None:
        """Count the step; nothing is padded, so all that is computed are tokens of examples."""
        tokens = sum(map(len, self._work.plan[state.global_step - 1]))
        control.should_training_stop = not self._pace.stepped(tokens, tokens)


def trained(work: Work, pace: Pace, *, packed: bool) -> Theirs:
    """Train until told to end, and return the model."""
    spec = work.spec
    tokenizer = hub.AutoTokenizer.from_pretrained(work.base_model, local_files_only=True)
    config = theirs.SFTConfig(
        output_dir=work.folder,
        max_steps=len(work.plan),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1 if packed else spec.effective_batch,
        packing=packed,
        max_length=packing_length(work) if packed else None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        optim="adamw_torch",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=spec.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = theirs.SFTTrainer(
        model=work.model,
        args=config,
        train_dataset=dataset_of(work, packed=packed),
        processing_class=tokenizer,
        callbacks=[Windows(pace, work)],
    )
    # The Trainer seeds anew, and makes nothing random before it trains; the LoRA is the one that it was given.
    trainer.train()
    return trainer.model


def packing_length(work: Work) -> int:
    """Room for the largest step in one row, so that packing cuts nothing."""
    return max(sum(map(len, step)) for step in work.plan)


def dataset_of(work: Work, *, packed: bool) -> Theirs:
    """The examples in the order of the steps: a row for each, or one that TRL packed for each step."""
    if not packed:
        return rows_of([example for step in work.plan for example in step])
    length = packing_length(work)
    steps = [pack_dataset(rows_of(step), length, "bfd") for step in work.plan]
    assert all(len(step) == 1 for step in steps)
    return datasets.concatenate_datasets(steps)


def rows_of(examples: Sequence[TokenExample]) -> Theirs:
    """Tokens and labels, as TRL reads them."""
    return datasets.Dataset.from_dict(
        {"input_ids": [list(one.tokens) for one in examples], "labels": [labels_of(one) for one in examples]}
    )
