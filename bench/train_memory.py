"""Does a training run take the memory that was promised? Each line is a run of some steps in a process of its own.

    python -m bench.train_memory [--steps 24] [--json]

Measured is the most resident memory above what the process held before it loaded the base: of the small model of the
demo, on the CPU, with rows of random tokens, the first as long as rows may be, the others of half of that to all of it.
Rows of other lengths matter: each leaves other holes in the heap and other compiled kernels. Expected is what the
trainer's plan says of the same rows. The bar is a quarter either way. What an NF4 base's file still occupies once it is
quantised is not counted: Linux takes it back when it likes. Nothing here says anything of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Literal

from gaiad.curriculum import ALL_LINEAR, LoraSpec, TrainingSpec
from gaiad.errors import Refuse
from gaiad.learner import memory
from gaiad.learner.base_shape import base_shape
from gaiad.learner.lying import rows_of
from gaiad.learner.packing import TokenExample

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "var/models/smollm2-135m-instruct"
BAR = 0.25
ATTENTION = ALL_LINEAR[:4]
VOCABULARY = 40_000
RESET = "5"
"""What makes Linux forget a process's peak (proc_pid_clear_refs)."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way of running a row of `tokens`."""

    quantisation: Literal["nf4", "bf16"]
    checkpointing: bool
    tokens: int
    modules: tuple[str, ...] = ATTENTION
    dropout: float = 0.05

    @property
    def lora(self) -> LoraSpec:
        """The adapter of all cases but for what they vary."""
        return LoraSpec(16, 32, self.dropout, self.modules)

    def examples(self, steps: int) -> list[list[TokenExample]]:
        """Of each step two to six examples that share half a row, a sixth of it to be learnt."""
        chooser = Random(1)

        def some(count: int) -> tuple[int, ...]:
            return tuple(chooser.randrange(10, VOCABULARY) for _ in range(count))

        found: list[list[TokenExample]] = []
        for step in range(steps):
            tokens, count = (chooser.randrange(self.tokens // 2, self.tokens), chooser.choice((2, 4, 6)))
            if not step:
                tokens, count = self.tokens, 4
            prefix, own = some(tokens // 2), tokens // 2 // count
            found.append([TokenExample(prefix + some(own - own // 3), some(own // 3)) for _ in range(count)])
        return found


CASES = (
    Case("bf16", False, 512),
    Case("bf16", False, 1024),
    Case("bf16", False, 2048),
    Case("bf16", False, 1024, dropout=0.0),
    Case("bf16", False, 512, modules=ALL_LINEAR),
    Case("bf16", True, 512),
    Case("bf16", True, 1024),
    Case("bf16", True, 2048),
    Case("nf4", False, 512),
    Case("nf4", False, 1024),
    Case("nf4", True, 1024),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    case: Case
    expected_bytes: int
    measured_bytes: int
    cpu_s: float

    @property
    def off(self) -> float:
        """How much more was taken than expected, as a share of what was expected."""
        return self.measured_bytes / self.expected_bytes - 1


def plan_of(case: Case, steps: int) -> memory.Plan:
    """What the plan says of the case."""
    shape = base_shape(json.loads((MODEL / "config.json").read_text(encoding="utf-8")))
    assert not isinstance(shape, Refuse), shape
    rows = rows_of(case.examples(steps), case.tokens, shared=True, by_parts=True)
    way = memory.Way(case.quantisation, case.checkpointing, rows)
    return memory.Plan(way, memory.estimate(shape, case.lora, way, "cpu"), 1 << 40, rows.least, rows.room)


def measure(case: Case, steps: int) -> None:
    """Load, take the steps as the trainer does, and print the bytes and seconds that they took: what a child does."""
    import time

    # First, for it also says how torch is to use memory.
    from gaiad.learner import train  # isort: split
    import torch

    from gaiad.learner import base as bases
    from gaiad.learner import losses
    from gaiad.learner.device import hold_down, resident
    from gaiad.learner.usage import ranks_for

    spec = TrainingSpec(case.tokens, 4, 4, 5e-4, 1, 0.0, 1.0, case.quantisation, 2, 3, 7)
    # What torch sets up for itself with the first product is not the run's.
    warm = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
    torch.autograd.backward((warm @ warm).sum())
    plan, before, file_before = plan_of(case, steps), resident("VmRSS"), resident("RssFile")
    held_before = resident("RssAnon")
    base = bases.load_base(str(MODEL), "cpu", quantisation=case.quantisation)
    if case.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = bases.add_lora(base, case.lora).train()
    optimiser = bases.optimiser_for(model, case.lora, spec)
    ranks = ranks_for(str(MODEL), "cpu", "prefix_shared", checkpointing=case.checkpointing)
    Path("/proc/self/clear_refs").write_text(RESET, encoding="ascii")
    began = time.process_time()
    for chosen in case.examples(steps):
        optimiser.zero_grad(set_to_none=True)
        laid_out = losses.batches(chosen, "prefix_shared", "cpu", case.tokens, case.tokens, ranks=ranks)
        train.gradients_of(model, laid_out, spec)
        optimiser.step()
        hold_down(plan, held_before, "cpu")
    spent = time.process_time() - began
    taken = resident("VmHWM") - before
    if case.quantisation == "nf4":
        taken -= resident("RssFile") - file_before
    print(json.dumps({"bytes": taken, "cpu_s": spent}))


def line(case: Case, steps: int) -> Line:
    """One case in a process of its own."""
    command = [sys.executable, "-m", "bench.train_memory", "--steps", str(steps), "--measure", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"train_memory: {case} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Line(case, plan_of(case, steps).estimate.peak_bytes, found["bytes"], found["cpu_s"])


def as_table(found: Sequence[Line]) -> str:
    """The table, and how many lines are within the bar."""
    device = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
    lines = [f"{device}; {MODEL.name}; MiB", f"{'':44}{'expected':>10}{'measured':>10}{'off':>8}{'cpu s':>8}"]
    for one in found:
        case = one.case
        name = f"{case.quantisation} {'checkpointing' if case.checkpointing else '-':14}{case.tokens:5} tokens"
        name += f", {len(case.modules)} modules" + ("" if case.dropout else ", no dropout")
        sizes = f"{one.expected_bytes / 2**20:10,.0f}{one.measured_bytes / 2**20:10,.0f}"
        lines.append(f"{name:44}{sizes}{one.off:8.0%}{one.cpu_s:8.1f}")
    within = sum(abs(one.off) <= BAR for one in found)
    lines.append(f"{within} of {len(found)} within {BAR:.0%}: {'holds' if within == len(found) else 'missed'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table; the exit code says whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24, help="steps a line")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", metavar="CASE", help="one case in this very process, for the bench itself")
    options = parser.parse_args(arguments)
    if not (MODEL / "config.json").is_file():
        sys.exit(f"train_memory: there is no base model at {MODEL}; run: make model")
    if options.measure:
        case = json.loads(options.measure)
        measure(Case(**{**case, "modules": tuple(case["modules"])}), options.steps)
        return 0
    found = list[Line]()
    for case in CASES:
        found.append(line(case, options.steps))
        print(f"train_memory: {len(found)} of {len(CASES)}", file=sys.stderr, flush=True)
    rows = [{**asdict(one), "off": one.off} for one in found]
    print(json.dumps({"rows": rows, "bar": BAR}) if options.json else as_table(found))
    return 0 if all(abs(one.off) <= BAR for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
