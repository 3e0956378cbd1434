"""A training run that is killed, at whatever moment and how often, ends with the very bytes of one that was not.

    python -m bench.proof_resume [--kills 30] [--seed 1] [--json]

The real trainer learns on a base of two random layers (preference pairs, dropout and validation included). It is sent
SIGKILL and SIGTERM in turn, in the midst of preparing its examples, of a forward or a backward pass, of saving a
checkpoint, of writing and of publishing the adapter, or a little later; it is started again with the same job, to meet
the next signal, until it comes to its end; then another run is begun. The moments follow from the seed. What is
published must have the SHA-256 of an uninterrupted run, and no run may begin again before its last checkpoint.

Progress goes to stderr. Exit code 1: bytes differ, a run began anew, or it did not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load.command import concluded
from bench.load.errors import CannotMeasure
from bench.load.marked_trainer import ADAPTER, PLACES
from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.learner.artifacts import verify, weights_digest
from gaiad.learner.example import Example, Message
from gaiad.learner.protocol import Checkpoint, Job, Progress, Result, encode, parse_line
from gaiad.learner.runner import child_environment
from tests.fakes.tiny_base import make_tiny_base

STEPS = 12
MOST_S = 300.0
_CATALOGUE = (
    "You select a tool. AVAILABLE TOOLS: read_file reads a file; web_search searches the web; list_dir lists. " * 3
)


@dataclass(frozen=True, slots=True)
class Moment:
    """Which signal comes, `delay_s` after the run was at `place` for the `nth` time (from 1)."""

    signal: str
    place: str
    nth: int
    delay_s: float


def moments(kills: int, seed: int) -> list[Moment]:
    """Every place in turn, SIGKILL and SIGTERM alternating; how often it was there before, and how long, by chance."""
    chooser = random.Random(seed)
    chosen = []
    for number in range(kills):
        place = PLACES[number % len(PLACES)]
        often = chooser.randrange(1, {"preparation": 3, "write": 2, "publish": 2}.get(place, 4))
        longest = 0.3 if number % 4 == 3 else 0.02
        # Whoever asks a run to end while it writes what it made asks too late, so only a kill means something there.
        name = (
            "SIGKILL" if place in ("write", "publish") else ("SIGKILL", "SIGTERM")[(number // len(PLACES) + number) % 2]
        )
        chosen.append(Moment(name, place, often, round(chooser.uniform(0, longest), 4)))
    return chosen


@dataclass(slots=True)
class Proof:
    """What the kills led to. `late` are moments that did not come, since the run ended before."""

    whole: str
    kills: list[Moment] = field(default_factory=list)
    late: int = 0
    runs: int = 0
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all ended with the same bytes."""
        return not self.wrong and bool(self.kills)


@dataclass(slots=True)
class Life:
    """What one process said until it ended."""

    code: int
    hit: bool
    result: Result | None
    began_at: int | None
    checkpoint: int


def job_in(folder: Path, base: Path) -> Job:
    """The job: its files are written into `folder`."""

    def example(number: int) -> Example:
        tool = ("read_file", "web_search", "list_dir")[number % 3]
        asked = Message("user", f"{_CATALOGUE}\n\nUSER REQUEST: {tool[:4]} thing {number}\n\nRespond in JSON.")
        said = Message("assistant", json.dumps({"selected_tool": tool, "params": {}}))
        rejected = "I cannot." if number % 2 else None
        return Example((asked, said), source="toy", group=f"toy/{number}", origin=f"toy:{number}", rejected=rejected)

    def written(name: str, numbers: range) -> str:
        lines = "".join(f"{json.dumps(example(number).to_json())}\n" for number in numbers)
        (folder / name).write_text(lines, encoding="utf-8")
        return str(folder / name)

    validation = [dataclasses.replace(example(number), rejected=None) for number in range(30, 34)]
    lines = "".join(f"{json.dumps(one.to_json())}\n" for one in validation)
    (folder / "validation.jsonl").write_text(lines, encoding="utf-8")
    return Job(
        base_model=str(base),
        train_path=written("train.jsonl", range(24)),
        validation_path=str(folder / "validation.jsonl"),
        output_dir="",
        lora=LoraSpec(8, 16, 0.1, ("q_proj", "k_proj", "v_proj", "o_proj")),
        training=TrainingSpec(512, STEPS, 4, 5e-3, 2, 0.01, 1.0, "bf16", 4, 9, 7, preference="dpo"),
        threads=2,
        device="cpu",
        checkpoint_every_s=0.2,
    )


def lived(job: Job, place: Path, moment: Moment | None) -> Life:
    """Start the trainer, send the signal at its moment if that comes, and hear it out."""
    reading, writing = os.pipe()
    told = place / "told.jsonl"
    environment = {
        **child_environment(os.environ, threads=2),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    with told.open("wb") as out, (place / "trainer.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.load.marked_trainer", str(writing), str(place / "adapters")],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=log,
            env=environment,
            pass_fds=[writing],
        )
        os.close(writing)
        assert child.stdin is not None
        child.stdin.write(encode(job).encode())
        child.stdin.flush()
        hit = _signalled(child, reading, moment)
        try:
            code = child.wait(MOST_S)
        finally:
            child.kill()
            child.wait()
            with suppress(BrokenPipeError):
                child.stdin.close()
            os.close(reading)
    return _life(told, code, hit)


def _signalled(child: subprocess.Popen[bytes], reading: int, moment: Moment | None) -> bool:
    seen: Counter[str] = Counter()
    hit = False
    # To the end of the pipe: nobody else reads it, and a full one would hold the trainer up.
    with os.fdopen(os.dup(reading), "rb", buffering=0) as marks:
        left = b""
        while chunk := marks.read(4096):
            *words, left = (left + chunk).split(b"\n")
            for word in words:
                seen[word.decode()] += 1
                if moment is not None and not hit and seen[moment.place] >= moment.nth:
                    time.sleep(moment.delay_s)
                    child.send_signal(signal.Signals[moment.signal])
                    hit = child.poll() is None or child.returncode != 0
    return hit


def _life(told: Path, code: int, hit: bool) -> Life:
    life = Life(code, hit, None, None, -1)
    for line in told.read_bytes().split(b"\n")[:-1]:
        said = parse_line(line.decode())
        if isinstance(said, Progress) and life.began_at is None:
            life.began_at = said.step
        elif isinstance(said, Checkpoint):
            life.checkpoint = said.step
        elif isinstance(said, Result):
            life.result = said
    return life


def prove(folder: Path, kills: int, seed: int) -> Proof:
    """Kill so often; every run must end like the one that nobody disturbs."""
    began = time.monotonic()
    job = job_in(folder, make_tiny_base(folder / "base", seed=3, hidden=64))
    proof = Proof("")
    proof.whole = _ended(job, _place(folder, "whole"), [], proof)
    proof.runs = 0
    left = moments(kills, seed)
    while left:
        proof.runs += 1
        digest = _ended(job, _place(folder, f"run-{proof.runs}"), left, proof)
        if digest != proof.whole:
            proof.wrong.append(f"run {proof.runs} ended with {digest[:12]}, not {proof.whole[:12]}")
        print(f"resume: {len(proof.kills)} of {kills} kills, run {proof.runs}: {digest[:12]}", file=sys.stderr)
        if proof.late > kills:
            raise CannotMeasure("most moments do not come: the run is over before")
    proof.elapsed_s = time.monotonic() - began
    return proof


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def _ended(job: Job, place: Path, left: list[Moment], proof: Proof) -> str:
    """Bring one run to its end through the next moments in `left`, and return the digest of what it published.

    A moment that does not come, since the run ends before, is left for the next run.
    """
    job = dataclasses.replace(job, output_dir=str(place / "staging"), checkpoint_dir=str(place / "kept"))
    saved, code = -1, 1
    while code != 0:
        moment = left[0] if left else None
        life = lived(job, place, moment)
        if life.began_at is not None and life.began_at < saved:
            proof.wrong.append(f"a run began at step {life.began_at} after a checkpoint of step {saved}")
        proof.resumed += bool(life.began_at)
        saved, code = max(saved, life.checkpoint), life.code
        if life.hit and moment is not None and code != 0:
            proof.kills.append(left.pop(0))
        elif code != 0:
            log = (place / "trainer.log").read_text(encoding="utf-8", errors="replace")[-600:]
            raise CannotMeasure(f"the trainer ended with {code}: {log}")
        elif moment is not None:
            proof.late += 1
    (published,) = (place / "adapters" / ADAPTER).glob("v1-*")
    verify(published)
    return weights_digest(published)


def table(proof: Proof) -> list[str]:
    """The figures, then all that is wrong."""
    places = Counter(f"{moment.place} {moment.signal}" for moment in proof.kills)
    rows = [
        ("signals", f"{len(proof.kills)} in {proof.runs} runs, {proof.elapsed_s:.0f} s"),
        ("of which", ", ".join(f"{count} in {place}" for place, count in sorted(places.items()))),
        ("moments that a run ended before", f"{proof.late}"),
        ("starts that went on from a checkpoint", f"{proof.resumed}"),
        ("runs whose bytes differ, or that lost a checkpoint", f"{len(proof.wrong)}"),
    ]
    return [f"{title:52}{value}" for title, value in rows] + proof.wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill so often and print one table; 1 where bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error("--kills must be at least 1")

    def proved() -> bool:
        with tempfile.TemporaryDirectory(prefix="proof-resume-") as folder:
            proof = prove(Path(folder), options.kills, options.seed)
        print(json.dumps({**asdict(proof), "holds": proof.holds}) if options.json else "\n".join(table(proof)))
        return proof.holds

    return concluded("resume", proved)


if __name__ == "__main__":
    sys.exit(main())
