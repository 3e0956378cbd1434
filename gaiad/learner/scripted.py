"""Functions of tensors that torch runs by itself, without Python between one operation and the next.

Threads of one program take turns in Python: each hands over Python's lock for every operation, and two of them
(`ranks`) waited for it some four thousand times a step of a small base. TorchScript runs a whole function without the
lock; with it, they waited a thousand times. It is deprecated as a way to export models; for this nothing has taken its
place that needs no compiler on the machine.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")

jit: Any = torch.jit


def at_least_float(tensor: torch.Tensor) -> torch.dtype:
    """float32, or float64 where a tensor is that already; for scripted functions too."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def scripted(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, run by torch: operation by operation as it is written, with nothing rearranged.

    (An optimiser would be free to do other sums in the third call than in the first.) It is called from Python alone;
    what it calls itself is plain.

    Raises:
        torch.OutOfMemoryError: memory ran out, which TorchScript would tell as any other failure.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        compiled = cast("Callable[P, R]", jit.script(function))

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            with jit.optimized_execution(False):
                return compiled(*arguments, **options)
        except (RuntimeError, jit.Error) as failure:
            # Before it stands the function's source.
            told = str(failure).rpartition("RuntimeError: ")[2]
            if "out of memory" in told:
                raise torch.OutOfMemoryError(told) from None
            raise

    return call
