"""What training costs: gaiad's way beside a plain loop and TRL, on the same examples of a real dataset, on the CPU.

    python -m bench.train [--json] [--examples 256] [--batch 4] [--windows 3] [--steps 10] [--round]
                          [--nf4-steps 3] [--answers N] [--model FOLDER] [--trl-python PYTHON]

The dataset is that of `curricula/json-architect`, built here by gaiad's own builder. Each way is a process of its own
with the same base, LoRA, first weights, tokens, steps, AdamW, constant learning rate, clipping, number of threads, bf16
and SDPA, learns the answers alone and checkpoints no activations: (a) transformers and PEFT, padded to the longest of
a step, the model's own loss; (b) TRL's SFTTrainer, with its packing and without (see `bench.training.trl_way`; the
faster counts); (c) gaiad's. Ways take turns, a window of `--steps` steps each, after one step to warm up; TRL's
packing, the slowest, gets one window of 3. `--round` trains on until every example was learnt from once. A second
table is of a base in NF4, one window of `--nf4-steps` steps; 0 leaves it out.

tokens/s are tokens of examples, not those computed; the median of the windows counts. What 1,000 examples would take is
extrapolated from it. Held-out loss is the mean over the answers of the validation split after the same number of steps,
with its 95% interval. With `--answers N`, N of these answers are also decoded greedily and compared word for word.

The bars are 4x (a) and 2x (b) in bf16. A bar that is missed is a result, not a failure. Exit code 1: something did not
run, above all TRL, which is no part of gaiad: install `gaiad[bench]` beside what is there (it changes no pinned
package), or name a Python that has it and gaiad's own packages with `--trl-python`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load.command import concluded
from bench.load.errors import CannotMeasure
from bench.training.figures import OURS, PLAIN, TRL, TRL_PACKED, Learnt, Window, as_json, as_table
from gaiad.curriculum import Curriculum
from gaiad.learner.sources import catalogue

ROOT = Path(__file__).resolve().parent.parent
CURRICULUM = ROOT / "curricula" / "json-architect"
MODEL = ROOT / "var" / "models" / "smollm2-135m-instruct"
PACKED_STEPS = 3
"""TRL's packing is the slowest by far: a window of it is this short, and it runs no further."""
INSTALL = "pip install 'gaiad[bench]' into this Python, or name one that has it with --trl-python"


@dataclasses.dataclass(frozen=True, slots=True)
class Material:
    """The dataset in files, and what is to be done with it."""

    curriculum: Curriculum
    train_path: Path
    heldout_path: Path
    digest: str


def material(folder: Path, examples: int) -> Material:
    """Build the dataset and keep a sample of its train split, the same on every machine."""
    curriculum = catalogue.load_curriculum(CURRICULUM, "full")
    dataset = catalogue.gather(curriculum, CURRICULUM, [])
    frozen = catalogue.freeze(dataset, folder / "datasets")
    lines = (frozen / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) < examples:
        raise CannotMeasure(f"the dataset has {len(lines)} examples, not {examples}; ask for fewer with --examples")
    chosen = random.Random(curriculum.training.seed).sample(lines, examples)
    path = folder / "train.jsonl"
    path.write_text("".join(chosen), encoding="utf-8")
    return Material(curriculum, path, frozen / "validation.jsonl", dataset.digest)


class Trainer:
    """One way in its process: told to run steps, it says how long they took."""

    def __init__(self, way: str, child: subprocess.Popen[str], log: Path) -> None:
        self.way = way
        self._child = child
        self._log = log
        self.windows: list[Window] = []

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def heard(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._died()
        read = json.loads(line)
        assert isinstance(read, dict)
        return read

    def _died(self) -> CannotMeasure:
        self._child.wait()
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        return CannotMeasure(f"{self.way} ended with code {self._child.returncode}: {' / '.join(last)}")

    def run(self, steps: int) -> Window:
        """Let it run so many steps."""
        self._tell(f"run {steps}")
        return Window(**self.heard())

    def learnt(self) -> Learnt:
        """End it, and hear what it came to."""
        self._tell("end")
        told = self.heard()
        answers = tuple(told["answers"]) if told["answers"] else None
        heldout = tuple(told["heldout"])
        return Learnt(self.way, tuple(self.windows), told["steps"], heldout, told["peak_bytes"], answers)


@contextmanager
def trainer(way: str, python: str, job: Mapping[str, object], folder: Path) -> Iterator[tuple[Trainer, float]]:
    """Start one way, and wait until it is loaded; yields it and the mean length of an example."""
    own = folder / f"{way}-{job['quantisation']}"
    own.mkdir()
    # Whatever the libraries would keep in a home lies in the temporary folder, and nothing is asked of any hub.
    kept = {"HF_HOME": str(own / "hub"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Other ways keep as many compiled kernels as torch does by itself, which gaiad's trainer bounds.
    kept |= {} if way == OURS else dict.fromkeys(("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "1024")
    environment = {**os.environ, **kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(job["threads"])}
    with (own / "log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            (python, "-m", "bench.training.ways"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=own,
            env=environment,
        )
        try:
            started = Trainer(way, child, own / "log")
            started._tell(json.dumps({**job, "way": way, "folder": str(own)}))
            yield started, float(started.heard()["tokens_per_example"])
        finally:
            child.kill()
            child.communicate()


def why_no_trl(python: str) -> str:
    """Why TRL cannot be measured, or nothing."""
    found = subprocess.run(
        (python, "-c", "import trl, datasets, peft"), capture_output=True, text=True, check=False, cwd=ROOT
    )
    return "" if found.returncode == 0 else f"{found.stderr.strip().splitlines()[-1]}; {INSTALL}"


def job_of(options: argparse.Namespace, made: Material, quantisation: str, steps: int) -> dict[str, object]:
    """What every way is told."""
    spec = dataclasses.replace(
        made.curriculum.training, quantisation=quantisation, effective_batch=options.batch, max_steps=steps
    )
    return {
        "base_model": str(options.model.resolve()),
        "train_path": str(made.train_path),
        "heldout_path": str(made.heldout_path),
        "training": dataclasses.asdict(spec),
        "lora": dataclasses.asdict(made.curriculum.lora),
        "threads": options.threads,
        "answers": options.answers,
        "quantisation": quantisation,
    }


def measure(
    options: argparse.Namespace, made: Material, folder: Path, quantisation: str, ways: Sequence[str]
) -> tuple[dict[str, Learnt], float]:
    """One table: all ways in windows, in turn, then what each learnt."""
    windows, steps = (options.windows, options.steps) if quantisation == "bf16" else (1, options.nf4_steps)
    needed = 1 + windows * steps
    rest = max(0, -(-options.examples // options.batch) - needed) if options.round and quantisation == "bf16" else 0
    job = job_of(options, made, quantisation, needed + rest)
    with ExitStack() as stack:
        running = list[Trainer]()
        for way in ways:
            python = options.trl_python if way in (TRL, TRL_PACKED) else sys.executable
            started, tokens_per_example = stack.enter_context(trainer(way, python, job, folder))
            running.append(started)
            started.run(1)
        for number in range(windows):
            for each in running[number % len(running) :] + running[: number % len(running)]:
                if each.way == TRL_PACKED and number:
                    continue
                each.windows.append(each.run(min(steps, PACKED_STEPS) if each.way == TRL_PACKED else steps))
                speed = each.windows[-1].tokens / each.windows[-1].seconds
                progress(f"{quantisation}, window {number + 1} of {windows}: {each.way}, {speed:.0f} tokens/s")
        found = dict[str, Learnt]()
        for each in running:
            if rest and each.way != TRL_PACKED:
                progress(f"{quantisation}: {each.way} learns on for {rest} steps")
                each.run(rest)
            progress(f"{quantisation}: held-out loss of {each.way}")
            found[each.way] = each.learnt()
    return found, tokens_per_example


def progress(said: str) -> None:
    """For whoever waits."""
    print(f"train: {said}", file=sys.stderr, flush=True)


def compared(options: argparse.Namespace) -> bool:
    """Measure both tables and print them; False where TRL could not be measured."""
    if not (options.model / "config.json").is_file():
        raise CannotMeasure(f"{options.model} holds no base model; `make model` makes one, --model names another")
    refused = why_no_trl(options.trl_python)
    if refused:
        progress(f"TRL: refused: {refused}")
    ways = (PLAIN, OURS) if refused else (PLAIN, TRL, TRL_PACKED, OURS)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as made:
        folder = Path(made)
        data = material(folder, options.examples)
        tables = dict[str, dict[str, Learnt]]()
        tables["bf16"], length = measure(options, data, folder, "bf16", ways)
        if options.nf4_steps:
            fewer = tuple(way for way in ways if way != TRL_PACKED)
            tables["nf4"], length = measure(options, data, folder, "nf4", fewer)
    about = (
        f"{platform.machine()}, {options.threads} threads, Python {platform.python_version()}; {options.model.name}; "
        f"json-architect {data.digest[:8]}, {options.examples} examples of {length:.0f} tokens, {options.batch} a step"
    )
    if options.json:
        print(json.dumps(as_json(tables, length, refused, about)))
    else:
        print(about, *(as_table(name, found, length, refused) for name, found in tables.items()), sep="\n\n")
    return not refused


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4, help="examples a step")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps a window")
    parser.add_argument("--round", action="store_true", help="train on until every example was learnt from once")
    parser.add_argument("--nf4-steps", type=int, default=3, help="steps of the NF4 table's one window; 0: no table")
    parser.add_argument("--answers", type=int, default=0, help="held-out answers to decode greedily")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that has TRL")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if min(options.examples, options.batch, options.windows, options.steps, options.threads) < 1:
        parser.error("--examples, --batch, --windows, --steps and --threads must be at least 1")
    if min(options.nf4_steps, options.answers) < 0:
        parser.error("--nf4-steps and --answers must not be negative")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables; 1 where something did not run."""
    options = parsed(arguments)
    return concluded("train", lambda: compared(options))


if __name__ == "__main__":
    sys.exit(main())
