"""The parity child: what a trained adapter gives over the unquantised base, token by token; nothing imports it.

`python -m gaiad.learner.parity_child`, then a job line on stdin (see `protocol`): loads the base in bf16 whatever it
was trained on, puts the adapter's files on it, renders a few held-out examples as the trainer did, and reports the
log-probability of every token, with the adapter and without. It trains nothing, writes nothing and judges nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from gaiad.errors import GaiadError, TrainingError
from gaiad.learner.child import Pipe, bug, die_with_daemon, watch_daemon
from gaiad.learner.example import Example
from gaiad.learner.packing import TokenExample
from gaiad.learner.protocol import (
    Error,
    Hello,
    Measured,
    Message,
    Progress,
    Reference,
    ReferenceJob,
    parse_reference_job,
)

PIPE = Pipe.claim() if __name__ == "__main__" else None
STARTED = time.monotonic()

try:
    import torch
    import transformers
    from peft import PeftModel

    from gaiad.learner import rendering
    from gaiad.learner.base import load_base
    from gaiad.learner.device import machine
except ImportError as missing:
    if PIPE is None:
        raise
    PIPE.say(Reference(unable=f"this Python cannot load an adapter: {missing}"))
    sys.exit(0)

Say: TypeAlias = Callable[[Message], None]
Model: TypeAlias = Any
hub: Any = transformers  # its own types say less than this

MOST_TOKENS = 16384
"""How many tokens are measured in all, so that the answer stays one line of the protocol."""

_ROOM_BYTES = 1 << 30
"""What must be free beside the base's weights."""

_CHUNK = 128


def needed_bytes(job: ReferenceJob) -> int:
    """What the unquantised base takes, with room for what is computed."""
    return _ROOM_BYTES + sum(one.stat().st_size for one in Path(job.base_model).glob("*.safetensors"))


def place_for(needed: int, free: Mapping[str, int]) -> str | None:
    """The first of these devices, by torch's names, that has as much free; None where none has."""
    return next((name for name, free_bytes in free.items() if free_bytes > needed), None)


def device_for(job: ReferenceJob) -> str | None:
    """The GPU where the base fits into what is free, else the CPU, or None."""
    allowed = ("cuda", "cpu") if job.device != "cpu" and torch.cuda.is_available() else ("cpu",)
    return place_for(needed_bytes(job), {name: machine(name).free_bytes for name in allowed})


def load_model(job: ReferenceJob, device: str) -> Model:
    """The base in bf16 with the adapter on it, as PEFT loads the files that will be served."""
    base = load_base(job.base_model, device, quantisation="bf16")
    return PeftModel.from_pretrained(base, job.adapter_dir, is_trainable=False).eval()


def chosen(
    examples: Sequence[Example], tokenizer: rendering.Tokenizer, job: ReferenceJob
) -> list[tuple[Example, TokenExample]]:
    """A few examples, evenly from the shorter half of those that fit: long ones cost an engine memory and show no more.

    Raises:
        TrainingError: none fits.
    """
    fitting = []
    for example in examples:
        try:
            fitting.append((example, rendering.tokenised(example, tokenizer, job.max_tokens)))
        except TrainingError:
            continue
    if not fitting:
        raise TrainingError(
            f"no held-out example has at most {job.max_tokens} tokens", hint="raise training.max_sequence_tokens"
        )
    fitting.sort(key=lambda pair: len(pair[1]))
    shorter = fitting[: max(job.examples, (len(fitting) + 1) // 2)]
    count = min(job.examples, len(shorter))
    few = [shorter[at * len(shorter) // count] for at in range(count)]
    while len(few) > 1 and sum(len(tokens) for _, tokens in few) > MOST_TOKENS:
        few.pop()
    return few


def log_probs(model: Model, tokens: Sequence[int], device: str) -> tuple[float, ...]:
    """The log-probability of each token but the first, given those before it."""
    ids = torch.tensor([[*tokens]], device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, :-1]
        parts = [
            logits[at : at + _CHUNK].float().log_softmax(-1).gather(1, ids[0, 1 + at : 1 + at + _CHUNK, None])
            for at in range(0, len(logits), _CHUNK)
        ]
    return tuple(round(float(one), 7) for one in torch.cat(parts)[:, 0].tolist())


def measured(
    model: Model, tokenizer: rendering.Tokenizer, example: Example, tokens: TokenExample, device: str
) -> Measured:
    """One example with the adapter and without it."""
    whole = (*tokens.prompt, *tokens.answer)
    with_adapter = log_probs(model, whole, device)
    with model.disable_adapter():
        without = log_probs(model, whole, device)
    if not all(math.isfinite(one) for one in (*with_adapter, *without)):
        raise TrainingError("the adapter gives log-probabilities that are no numbers", hint="train it again")
    prompt = rendering.prompt_text(example, tokenizer)
    return Measured(
        key=example.key(),
        rendered_sha256=hashlib.sha256(prompt.encode()).hexdigest(),
        tokens=whole,
        answer_from=len(tokens.prompt),
        adapter=with_adapter,
        base=without,
    )


def measure(job: ReferenceJob, device: str, stop: threading.Event, say: Say) -> Reference:
    """Measure the adapter on a few examples."""
    hub.logging.disable_progress_bar()
    torch.set_num_threads(job.threads or torch.get_num_threads())
    tokenizer = rendering.load_tokenizer(job.base_model)
    few = chosen(rendering.read_examples(job.examples_path), tokenizer, job)
    model = load_model(job, device)
    found: list[Measured] = []
    for example, tokens in few:
        say(_progress(len(found), len(few)))
        found.append(measured(model, tokenizer, example, tokens, device))
        if stop.is_set():
            raise TrainingError("preempted", hint="measure again")
    weights = (Path(job.adapter_dir) / "adapter_model.safetensors").read_bytes()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Reference(
        measured=tuple(found),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        device=device,
        peak_memory_bytes=int(torch.cuda.max_memory_allocated()) if device == "cuda" else resident,
        wall_s=round(time.monotonic() - STARTED, 3),
    )


def _progress(done: int, total: int) -> Progress:
    return Progress(done, total, None, None, 0, 0.0, round(time.monotonic() - STARTED, 3))


def main(pipe: Pipe) -> int:
    """Read the job, measure, report; the exit code is 0 only after a reference. On the CPU all others go first."""
    die_with_daemon()
    try:
        job = parse_reference_job(sys.stdin.readline())
        pipe.say(Hello(pid=os.getpid()))
        device = device_for(job)
        if device is None:
            free = f"{needed_bytes(job) / 2**30:.1f} GiB are not free"
            pipe.say(Reference(unable=f"the unquantised base does not fit into memory: {free}"))
            return 0
        if device == "cpu":
            os.nice(10)
        pipe.say(measure(job, device, watch_daemon(), pipe.say))
    except GaiadError as failure:
        pipe.say(Error(failure.message, failure.hint))
        return 1
    except (MemoryError, torch.OutOfMemoryError):
        pipe.say(Error("memory ran out", "free memory: the base is loaded unquantised here"))
        return 1
    except Exception as failure:  # noqa: BLE001 the program's edge: the daemon must hear of it in a sentence
        pipe.say(Error(bug(failure), "the run's log says where", of_data=False))
        return 1
    return 0


if PIPE is not None:
    sys.exit(main(PIPE))
