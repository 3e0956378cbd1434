"""The real training child with a mark at the beginning of each thing it is at, then publishing what it made.

    python -m bench.load.marked_trainer FD ADAPTERS_DIR     (a job line on stdin, as the daemon sends it)

Marks go to the file descriptor, a word a line. Everything else is the trainer as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

PLACES = ("preparation", "forward", "backward", "save", "write", "publish")
"""What a run is at, in the order in which it first comes there."""

ADAPTER = "toy"


def main(descriptor: int, adapters: Path) -> int:
    """Carry out the job on stdin and publish its adapter as version 1, unless it is there already."""
    from gaiad.adapter import AdapterName
    from gaiad.learner import artifacts
    from gaiad.learner.child import Pipe

    pipe = Pipe.claim()

    import torch

    from gaiad.learner import base as bases
    from gaiad.learner import losses, rendering, train
    from gaiad.learner.checkpoint import Shelf
    from gaiad.learner.protocol import Job

    def marked(place: str, real: Callable[P, R]) -> Callable[P, R]:
        def call(*arguments: P.args, **options: P.kwargs) -> R:
            os.write(descriptor, f"{place}\n".encode())
            return real(*arguments, **options)

        return call

    made: list[str] = []

    def noted(weights: Mapping[str, torch.Tensor], job: Job) -> None:
        made.append(job.output_dir)
        write(weights, job)

    write = bases.write_adapter
    bases.write_adapter = marked("write", noted)
    vars(train)["decoded"] = marked("forward", losses.decoded)
    rendering.usable = marked("preparation", rendering.usable)
    vars(train)["learn_back"] = marked("backward", losses.learn_back)
    Shelf.save = marked("save", Shelf.save)  # type: ignore[method-assign]
    code = train.main(pipe)
    if code == 0 and not list((adapters / ADAPTER).glob("v1-*")):
        os.write(descriptor, b"publish\n")
        artifacts.publish(Path(made[0]), adapters, adapter=AdapterName(ADAPTER), number=1, lineage={})
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
