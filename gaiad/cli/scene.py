"""What `gaiadctl watch` draws of a running cycle: a few lines of text, the losses as a curve of blocks.

Pure: the status page in, lines out. It knows nothing of the terminal but what a curve may be drawn with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gaiad.cli.output import bar, span
from gaiad.cli.status import pace

Part = Mapping[str, Any]
_BAR = 40


def scene(cycle: Part, status: Part, blocks: str) -> list[str]:
    """The lines of one picture; `blocks` are the characters of a curve, low to high."""
    progress = _part(cycle, "progress")
    name = f"{cycle.get('adapter')} ({cycle.get('profile') or cycle.get('kind') or 'cycle'})"
    running = f"  {span(cycle['running_s'])}" if isinstance(cycle.get("running_s"), int | float) else ""
    lines = [f"{name}  {cycle.get('phase')}{running}"]
    step, total = progress.get("step"), progress.get("total")
    if isinstance(step, int) and isinstance(total, int) and total > 0:
        lines.append(f"{bar(step / total, _BAR)} {step}/{total}")
    curve = _part(progress, "curve")
    for label, key in (("loss", "loss"), ("validation", "validation_loss")):
        if isinstance(progress.get(key), int | float):
            values = [float(point[1]) for point in curve.get(key) or ()]
            lines.append(f"{label:<10}  {progress[key]:.3f}  {drawn(values, blocks)}".rstrip())
    if told := pace(progress):
        lines.append("  ".join(told))
    if _part(status, "gpu").get("trainer_stopped"):
        lines.append("the trainer stands still while requests are served")
    lines += [str(said) for said in (progress.get("note"), cycle.get("ending")) if said]
    return lines


def drawn(values: Sequence[float], blocks: str) -> str:
    """Values as a line of blocks, the lowest of them the lowest block; nothing where there is no curve yet."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    top = len(blocks) - 1
    return "".join(blocks[round((value - low) / (high - low) * top) if high > low else 0] for value in values)


def fitted(line: str, width: int) -> str:
    """The line cut to `width` characters."""
    return line if len(line) <= width else line[: max(width - 1, 0)] + ">"


def _part(whole: Part, key: str) -> Part:
    part = whole.get(key)
    return part if isinstance(part, Mapping) else {}
