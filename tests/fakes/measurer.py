"""A stand-in for the parity child: keeps the real protocol on real pipes, and breaks it, or tells the untrue, if told.

Run as `python measurer.py FAULT`; imports no torch. Its figures are those of the fake engines.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from gaiad.learner.example import Example
from gaiad.learner.protocol import Error, Hello, Measured, Message, Progress, Reference, encode, parse_reference_job
from tests.fakes.log_probs import OTHER, log_probs_of, mark_of, prompt_tokens

FAULTS = (
    "normal",
    "slow",
    "hang",
    "garbage",
    "die",
    "exit_0_without_reference",
    "error",
    "unable",
    "swapped",
    "other_weights",
    "other_template",
    "other_examples",
)


def say(message: Message) -> None:
    sys.stdout.write(encode(message))
    sys.stdout.flush()


def break_down(fault: str) -> int | None:
    """Misbehave; the returned exit code ends the run."""
    match fault:
        case "slow" | "hang":
            time.sleep(3600)
        case "garbage":
            sys.stdout.write("Loading weights: 100%|####|\n")
            sys.stdout.flush()
            time.sleep(3600)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit_0_without_reference":
            return 0
        case "error":
            say(Error("memory ran out", "free memory"))
            return 1
        case "unable":
            say(Reference(unable="this Python cannot load an adapter: No module named 'torch'"))
            return 0
    return None


def measured(example: Example, mark: str, fault: str) -> Measured:
    """The figures of one example; the answer's tokens are the lengths of its words."""
    prompt = prompt_tokens([{"role": one.role, "content": one.content} for one in example.messages[:-1]])
    shown = [one + 1 for one in prompt] if fault == "other_template" else prompt
    tokens = [*shown, *(len(word) for word in example.answer.split())]
    return Measured(
        key="0" * 16 if fault == "other_examples" else example.key(),
        rendered_sha256=hashlib.sha256(str(shown).encode()).hexdigest(),
        tokens=tuple(tokens),
        answer_from=len(shown),
        adapter=tuple(log_probs_of(OTHER if fault == "swapped" else mark, tokens)),
        base=tuple(log_probs_of("", tokens)),
    )


def listen() -> None:
    for line in sys.stdin:
        if line == "stop\n":
            os._exit(4)
    os._exit(5)


def measure(line: str, fault: str) -> int:
    """Read the job line and answer it, with a fault; the exit code."""
    job = parse_reference_job(line)
    threading.Thread(target=listen, daemon=True).start()
    say(Hello(pid=os.getpid()))
    say(Progress(0, job.examples, None, None, 0, 0.0, 0.0))
    code = break_down(fault)
    if code is not None:
        return code
    mark = mark_of(job.adapter_dir)
    lines = Path(job.examples_path).read_text("utf-8").splitlines()[: job.examples]
    say(
        Reference(
            measured=tuple(measured(Example.from_json(json.loads(one)), mark, fault) for one in lines),
            weights_sha256="0" * 64 if fault == "other_weights" else mark,
            device="cpu",
            peak_memory_bytes=1,
            wall_s=0.1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(measure(sys.stdin.readline(), sys.argv[1]))
