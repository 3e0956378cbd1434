"""Whether attention by blocks (`flex`) works on this device: tried in a process of its own, before a run is planned.

FlexAttention is compiled on the machine that it runs on. That takes Triton, a C compiler, a place to write to and a
width of heads that it knows; and what comes out is to be what a mask gives. `python -m gaiad.learner.flex_check DEVICE
HEADS KV_HEADS WIDTH` lays out rows of several lengths, attends to them by blocks and by a mask in bf16, there and back,
and prints the largest difference. In a process of its own, because a kernel that reads where it should not takes its
process's device with it, and a compiler that crashes or hangs the whole process.

Decides whether that is good enough, and says why it is not; what is done instead is `usage`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from gaiad.errors import Refuse
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.child import die_with_daemon
from gaiad.learner.flex import Blocks, by_blocks, compiled
from gaiad.learner.packing import Row, TokenExample, in_blocks, plan_rows

TOLERANCE = 0.05
"""How far a column's result or gradient in bf16 may lie from that of a mask, as a share of its own norm or of the mean
one, whichever is more. Rounding alone was up to 0.02 on a CPU; a block too few or too many gives 0.3 and more.
"""
LIMIT_S = 300.0
"""How long the check may take; most of it is compiling."""
LENGTHS = (600, 250, 1000)
"""Columns of the rows that are tried. The third must not be compiled anew."""
_LOOK_S = 0.5
_DIFFERENCE = "difference"

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def usable(
    device: str, shape: BaseShape, limit_s: float = LIMIT_S, between: Callable[[], None] = lambda: None
) -> Refuse | None:
    """Why attention by blocks cannot be used for a base of that shape on `device` (torch's name), or None where it can.

    Whatever goes wrong is a reason, and no failure. `between` is called every now and then; what it raises ends the
    check.
    """
    asked = [device, *map(str, (shape.heads, shape.kv_heads, shape.head_dim))]
    command = [sys.executable, "-m", "gaiad.learner.flex_check", *asked]
    try:
        check = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    except OSError as failure:
        return Refuse(f"FlexAttention could not be tried: {failure}")
    until = time.monotonic() + limit_s
    try:
        while time.monotonic() < until:
            between()
            with suppress(subprocess.TimeoutExpired):
                output, _ = check.communicate(timeout=min(limit_s, _LOOK_S))
                return judged(check.returncode, output)
    finally:
        check.kill()
        check.communicate()
    return Refuse(f"FlexAttention was not ready after {limit_s:g} s")


def judged(code: int, output: str) -> Refuse | None:
    """What the exit code and the last line of the check's output mean."""
    last = output.strip().rpartition("\n")[2]
    name, _, number = last.partition(" ")
    # 1. It said why not, or 2. it was broken off before it could say anything.
    if name != _DIFFERENCE:
        return Refuse(f"FlexAttention does not run here: {last or f'its check ended with {code}'}")
    # 3. It ran, and what it gave is what a mask gives, or not.
    if code or not float(number) <= TOLERANCE:
        return Refuse(f"FlexAttention differs from a mask by {float(number):.2g} here, where {TOLERANCE:g} may be")
    return None


def rows() -> Iterator[Row]:
    """Rows with two groups, a shared prefix, and blocks that are seen whole, in part and not at all."""
    for length in LENGTHS:
        shared, rest = length // 4, length // 5
        numbers = range(10, 10 + length)
        examples = [TokenExample((*numbers[:shared], 1 + place), (2,) * (rest - 1)) for place in range(2)]
        examples.append(TokenExample(tuple(reversed(numbers[: length - shared - 2 * rest - 1])), (3,)))
        (row,) = plan_rows(examples, max_row_tokens=2 * length, min_prefix=16)
        yield row


def difference(
    device: str, heads: int, kv_heads: int, width: int, way: Callable[..., torch.Tensor], dtype: torch.dtype
) -> float:
    """The largest difference, in norms of a column, of `way` (`flex.by_blocks`, compiled perhaps) from a mask.

    Raises:
        RuntimeError: it is compiled anew for each length.
    """
    worst, graphs = 0.0, [0]
    for place, row in enumerate(rows()):
        chance = torch.Generator().manual_seed(place)
        blocks, columns = Blocks(row, device), len(in_blocks(row).tokens)
        # As a base's projections lay them out.
        sizes = [(1, columns, count, width) for count in (heads, kv_heads, kv_heads, heads)]
        drawn = [torch.randn(size, generator=chance).to(device, dtype).transpose(1, 2) for size in sizes]
        inputs, toward = [one.requires_grad_() for one in drawn[:3]], drawn[3]

        def flexed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, held: Blocks = blocks) -> torch.Tensor:
            return way(query, key, value, *held.tensors, width**-0.5)

        mask = _mask(blocks)

        def masked(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor = mask
        ) -> torch.Tensor:
            key, value = (one.repeat_interleave(heads // kv_heads, dim=1) for one in (key, value))
            return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        found, expected = _both_ways(flexed, inputs, toward), _both_ways(masked, inputs, toward)
        # As in a first layer of which only the queries are adapted, and as in a validation.
        alone = torch.autograd.grad(flexed(inputs[0], inputs[1].detach(), inputs[2].detach()), inputs[:1], toward)
        with torch.no_grad():
            found, expected = [*found, *alone, flexed(*inputs)], [*expected, expected[1], expected[0]]
        worst = max(worst, *(_apart(mine, theirs) for mine, theirs in zip(found, expected, strict=True)))
        graphs.append(_graphs())
    if graphs[-1] > graphs[-2]:
        raise RuntimeError("it is compiled anew for each length")
    return worst


def _mask(blocks: Blocks) -> torch.Tensor:
    groups, branches = blocks.tensors[:2]
    order = torch.arange(len(groups), device=groups.device)
    alike = (branches == 0) | (branches[:, None] == branches)
    return (order[:, None] >= order) & (groups[:, None] == groups) & alike


def _both_ways(way: Attention, inputs: Sequence[torch.Tensor], toward: torch.Tensor) -> list[torch.Tensor]:
    found = way(*inputs)
    return [found.detach(), *torch.autograd.grad(found, inputs, toward)]


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of a column, as a share of its norm or of the mean one, whichever is more."""
    norms = expected.float().norm(dim=-1)
    apart = (found.float() - expected.float()).norm(dim=-1) / norms.clamp(min=float(norms.square().mean().sqrt()))
    return float(apart.nan_to_num(nan=float("inf")).max())


def _graphs() -> int:
    """How often anything was compiled in this process."""
    counters: Any = __import__("torch._dynamo.utils", fromlist=["counters"]).counters
    return int(counters["stats"]["unique_graphs"])


def main(arguments: Sequence[str]) -> int:
    """Compare, and print one line: the difference, or why there is none."""
    die_with_daemon()
    torch.use_deterministic_algorithms(True, warn_only=True)
    device, heads, kv_heads, width = arguments[0], *map(int, arguments[1:])
    try:
        way: Callable[..., torch.Tensor] = compiled() if device.startswith("cuda") else by_blocks
        worst = difference(device, heads, kv_heads, width, way, torch.bfloat16)
        sys.stdout.write(f"{_DIFFERENCE} {worst}\n")
    except Exception as failure:  # noqa: BLE001 the program's edge: whatever stands in the way, there is another way
        first = str(failure).strip().partition("\n")[0]
        sys.stdout.write(f"{type(failure).__name__}: {first}"[:300] + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
