"""A stand-in for the training child: keeps the real protocol on real pipes, and breaks it where told.

Run as `python trainer.py FAULT`; imports no torch. What it writes as an adapter is a valid, tiny one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from gaiad.learner.protocol import Checkpoint, Error, Hello, Job, Message, Progress, Result, encode, parse_job

FAULTS = (
    "normal",
    "slow",
    "hang",
    "garbage",
    "torn",
    "endless",
    "die",
    "ignore_sigterm",
    "exit_0_without_result",
    "result_then_exit_3",
    "error",
    "grandchild",
    "environment",
    "leaves_out_r2",
)
STEPS = 4


def say(message: Message) -> None:
    sys.stdout.write(encode(message))
    sys.stdout.flush()


def listen(job_read: threading.Event, stopped: threading.Event, *, deaf: bool) -> None:
    job_read.wait()
    for line in sys.stdin:
        if line == "stop\n" and not deaf:
            stopped.set()
    os._exit(5)


def write_adapter(folder: Path, *, rank: int = 4, layers: int = 2, width: int = 8) -> None:
    """Write an adapter that every check accepts: bf16, q_proj and v_proj of each layer."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            for side, shape in (("A", [rank, width]), ("B", [width, rank])):
                chunk = struct.pack("<H", 0x3C00 + layer) * (rank * width)
                name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{side}.weight"
                header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(body), len(body) + len(chunk)]}
                body += chunk
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 8, "bias": "none"}
    config |= {"target_modules": ["q_proj", "v_proj"], "use_dora": False, "lora_bias": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def result(job: Job) -> Result:
    return Result(
        output_dir=job.output_dir,
        steps=STEPS,
        best_step=STEPS,
        train_loss=0.5,
        validation_loss=0.6,
        base_validation_loss=2.0,
        tokens=400,
        computed_tokens=200,
        wall_s=0.1,
        peak_memory_bytes=1,
        quantisation=job.training.quantisation,
        device="cpu",
        layout="padded",
        stopped_early=False,
        weights_sha256="0" * 64,
        packages={"torch": "none"},
    )


def kept_in(job: Job) -> int | None:
    """The step of the newest checkpoint that an earlier run of this job left."""
    steps = [int(path.name) for path in Path(job.checkpoint_dir).glob("*")] if job.checkpoint_dir else []
    return max(steps, default=None)


def keep(job: Job, step: int) -> None:
    if job.checkpoint_dir:
        (Path(job.checkpoint_dir) / str(step)).mkdir(parents=True, exist_ok=True)


def progress_at(step: int) -> Progress:
    """What a trainer on a device whose best is known says after a step."""
    return Progress(
        step,
        STEPS,
        2.0 / (step + 1),
        None,
        100 * step,
        100.0,
        float(step),
        memory_bytes=(3 + step) << 30,
        flops_per_s=2e11 if step else None,
        peak_share=0.4 if step else None,
        learning_rate=1e-4 * (1 - step / STEPS),
    )


def main() -> int:
    fault = sys.argv[1]
    job_read, stopped = threading.Event(), threading.Event()
    if fault == "ignore_sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    line = sys.stdin.readline()
    # Where a script stands in for a whole Python, it is asked for what was trained too.
    if "adapter_dir" in json.loads(line):
        from tests.fakes.measurer import measure

        return measure(line, "normal")
    job = parse_job(line)
    deaf = fault in ("ignore_sigterm", "hang")
    threading.Thread(target=listen, args=(job_read, stopped), kwargs={"deaf": deaf}, daemon=True).start()
    job_read.set()
    say(Hello(pid=os.getpid()))
    earlier = kept_in(job)
    for step in range(STEPS + 1):
        say(progress_at(step))
        if step == 1:
            code = break_down(fault)
            if code is not None:
                return code
        keep(job, step)
        if fault == "slow":
            stopped.wait(0.2)
        if stopped.is_set():
            say(Error("preempted", "start the run again"))
            return 4
    write_adapter(Path(job.output_dir))
    say(Checkpoint(STEPS, job.output_dir, 0.6))
    done = dataclasses.replace(result(job), resumed_from=earlier)
    say(dataclasses.replace(done, left_out=("r2",)) if fault == "leaves_out_r2" else done)
    return 3 if fault == "result_then_exit_3" else 0


def break_down(fault: str) -> int | None:
    """Misbehave; the returned exit code ends the run."""
    match fault:
        case "hang" | "ignore_sigterm":
            time.sleep(3600)
        case "garbage":
            sys.stdout.write("Loading weights: 100%|####|\n")
            sys.stdout.flush()
            time.sleep(3600)
        case "torn":
            sys.stdout.write('{"type":"progress","st')
            sys.stdout.flush()
            return 0
        case "endless":
            sys.stdout.write("x" * (2 << 20))
            sys.stdout.flush()
            time.sleep(3600)
        case "die":
            print("out of memory", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit_0_without_result":
            return 0
        case "error":
            say(Error("the base model is missing", "set engine.base_model"))
            return 1
        case "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            say(Error(str(child.pid), "its own child lives on"))
            return 1
        case "environment":
            say(Error(json.dumps(dict(os.environ)), "the environment"))
            return 1
    return None


if __name__ == "__main__":
    sys.exit(main())
