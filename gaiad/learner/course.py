"""The course of a run: what the trainer said of each step, kept small however long the run is.

Pure: takes the trainer's progress, and gives rows for the report, a thinner curve for the status page, and how long the
rest may take. Which steps are kept follows from their numbers alone.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from gaiad.learner.protocol import Progress

MOST_LOSSES, MOST_CHECKS = 512, 128
SHOWN = 48
"""Points of each curve in the status, which is asked for every second."""
_RECENT = 20
"""Steps whose pace says how long the rest takes: what stood still earlier for users no longer counts."""

_FIGURES = ("tokens", "tokens_per_s", "flops_per_s", "peak_share", "memory_bytes", "learning_rate", "resumed_from")
Point = tuple[int, float]


@dataclass(slots=True)
class Series:
    """One figure by step, at most `most` points: its first, its last, and between them points evenly apart."""

    most: int
    points: list[Point] = field(default_factory=list)
    apart: int = 1

    def add(self, step: int, value: float) -> None:
        """Take the next point."""
        self.go_back(step)
        # The last point is kept as the last alone: the next takes its place where both are too near.
        if len(self.points) > 1 and self.points[-1][0] - self.points[-2][0] < self.apart:
            self.points.pop()
        self.points.append((step, value))
        while len(self.points) > self.most:
            self.apart *= 2
            self.points = thinned(self.points, self.apart)

    def go_back(self, step: int) -> None:
        """Forget this step and what came after it: the run goes on from before."""
        while self.points and self.points[-1][0] >= step:
            self.points.pop()

    def shown(self) -> list[list[float]]:
        """At most `SHOWN` points, as lists of step and value."""
        points, apart = self.points, self.apart
        while len(points) > SHOWN:
            apart *= 2
            points = thinned(points, apart)
        return [[step, value] for step, value in points]


def thinned(points: Sequence[Point], apart: int) -> list[Point]:
    """The first, the last, and of the others those that are `apart` steps from the one kept before."""
    kept = [points[0]]
    for point in points[1:-1]:
        if point[0] - kept[-1][0] >= apart:
            kept.append(point)
    return [*kept, points[-1]] if len(points) > 1 else kept


class Course:
    """What is known of a run: its last progress, its curves and its pace."""

    def __init__(self) -> None:
        self.last: Progress | None = None
        self._known: dict[str, float | int | None] = dict.fromkeys(_FIGURES)
        self._losses = Series(MOST_LOSSES)
        self._checks = Series(MOST_CHECKS)
        self._pace: deque[Progress] = deque(maxlen=_RECENT)

    def note(self, progress: Progress) -> None:
        """Take a line of the trainer's progress."""
        if self.last is not None and progress.step < self.last.step:
            self._pace.clear()
            self._losses.go_back(progress.step)
            self._checks.go_back(progress.step)
        self.last = progress
        # A line that only tells of a check leaves what was known before.
        said = dataclasses.asdict(progress)
        self._known |= {name: said[name] for name in _FIGURES if said[name] is not None}
        self._pace.append(progress)
        if progress.loss is not None:
            self._losses.add(progress.step, progress.loss)
        if progress.validation_loss is not None:
            self._checks.add(progress.step, progress.validation_loss)

    @property
    def left_s(self) -> float | None:
        """How long the steps that are left take at the pace of the last ones; an early stop may make it less."""
        if self.last is None or len(self._pace) < 2:
            return None
        first = self._pace[0]
        steps = self.last.step - first.step
        if steps <= 0:
            return None
        return max(0.0, (self.last.elapsed_s - first.elapsed_s) / steps * (self.last.total_steps - self.last.step))

    def rows(self) -> list[dict[str, float | int | None]]:
        """The loss curve, a row a step that was kept."""
        losses, checks = dict(self._losses.points), dict(self._checks.points)
        return [
            {"step": step, "loss": losses.get(step), "validation_loss": checks.get(step)}
            for step in sorted({*losses, *checks})
        ]

    def figures(self) -> dict[str, object] | None:
        """How fast the run was when it last spoke, and what it took of the device; None before it has spoken."""
        return None if self.last is None else dict(self._known)

    def status(self) -> dict[str, object] | None:
        """What the status page shows of it; None before the trainer has spoken."""
        now, left, resumed = self.last, self.left_s, self._known["resumed_from"]
        if now is None:
            return None
        return {
            "step": now.step,
            "total": now.total_steps,
            "loss": _last(self._losses),
            "validation_loss": _last(self._checks),
            **(self.figures() or {}),
            "elapsed_s": now.elapsed_s,
            "eta_s": None if left is None else round(left, 1),
            "note": "" if resumed is None else f"went on from step {resumed}",
            "curve": {"loss": self._losses.shown(), "validation_loss": self._checks.shown()},
        }


def _last(series: Series) -> float | None:
    return series.points[-1][1] if series.points else None
