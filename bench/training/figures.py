"""What the windows of each way say: tokens a second, ratios, what 1,000 examples would take, whether all learn alike.

Pure: measures nothing. A figure that misses its bar is a result, not a failure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLAIN, TRL, TRL_PACKED, OURS = "plain", "trl", "trl_packed", "ours"
TITLES = {
    PLAIN: "transformers + PEFT, padded",
    TRL: "TRL SFTTrainer, unpacked",
    TRL_PACKED: "TRL SFTTrainer, packed",
    OURS: "gaiad",
}
"""Every way, in the order of the table."""

BARS = {"ratio_plain": 4.0, "ratio_trl": 2.0}
EXTRAPOLATED_TO = 1000

Json = float | str | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Window:
    """Steps run one after another: how long they took, the tokens of their examples, and the tokens computed."""

    seconds: float
    tokens: int
    computed_tokens: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one way came to: its windows, its steps in all, and the mean loss of each held-out example's answer.

    `answers` is how many held-out answers came out word for word, of how many that were asked.
    """

    way: str
    windows: tuple[Window, ...]
    steps: int
    heldout: tuple[float, ...]
    peak_bytes: int
    answers: tuple[int, int] | None = None

    @property
    def tokens_per_s(self) -> float:
        """The median over the windows."""
        return statistics.median(window.tokens / window.seconds for window in self.windows)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with the half-width of its 95% interval."""

    value: float
    within: float

    def said(self) -> str:
        """For people."""
        return f"{self.value:.4f} +- {self.within:.4f}"


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and normal interval of independent values."""
    within = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Mean(statistics.fmean(values), within)


def ratio(ways: Mapping[str, Learnt], to: Sequence[str]) -> float | None:
    """How many times the tokens a second of the fastest of `to` ours has; None where none of them was measured."""
    others = [ways[name].tokens_per_s for name in to if name in ways]
    return ways[OURS].tokens_per_s / max(others) if others and OURS in ways else None


def ratios(ways: Mapping[str, Learnt]) -> dict[str, float | None]:
    """Both that have a bar; TRL counts by the faster of its two ways."""
    return {"ratio_plain": ratio(ways, (PLAIN,)), "ratio_trl": ratio(ways, (TRL, TRL_PACKED))}


def learn_alike(ways: Mapping[str, Learnt]) -> bool:
    """Whether ours has the held-out loss of every other way that ran as many steps, within their intervals."""
    ours, steps = mean_of(ways[OURS].heldout), ways[OURS].steps
    others = [mean_of(one.heldout) for name, one in ways.items() if name != OURS and one.steps == steps]
    return all(abs(other.value - ours.value) <= min(other.within, ours.within) for other in others)


def row(one: Learnt, tokens_per_example: float) -> dict[str, Json]:
    """One way for machines; `extrapolated_s` is what its speed would make of 1,000 examples, and was not run."""
    heldout = mean_of(one.heldout)
    return {
        "way": one.way,
        "tokens_per_s": one.tokens_per_s,
        "windows": [[window.seconds, window.tokens, window.computed_tokens] for window in one.windows],
        "steps": one.steps,
        "heldout_loss": heldout.value,
        "heldout_within": heldout.within,
        "peak_bytes": one.peak_bytes,
        "extrapolated_s": EXTRAPOLATED_TO * tokens_per_example / one.tokens_per_s,
        "answers": None if one.answers is None else [*one.answers],
    }


def as_json(
    tables: Mapping[str, Mapping[str, Learnt]], tokens_per_example: float, refused: str, about: str
) -> dict[str, Json]:
    """All of it for machines: rows and ratios of bf16 at the top, those of the other tables under their names."""
    told: dict[str, Json] = {"about": about, "refused": refused or None, "bars": {**BARS}}
    for name, ways in tables.items():
        part: dict[str, Json] = {
            "rows": [row(one, tokens_per_example) for one in ways.values()],
            **ratios(ways),
            "learn_alike": learn_alike(ways),
        }
        told |= part if name == "bf16" else {name: part}
    return told


def as_table(name: str, ways: Mapping[str, Learnt], tokens_per_example: float, refused: str) -> str:
    """One table, its ratios against the bars, and whether all learnt alike."""
    heads = ("tokens/s", "windows", "computed", "steps", "peak GB", "held-out loss", f"{EXTRAPOLATED_TO}, extrapolated")
    lines = [f"{name:30}" + "".join(f"{head:>20}" for head in heads)]
    for way, title in TITLES.items():
        if way not in ways:
            continue
        one = ways[way]
        speeds = [window.tokens / window.seconds for window in one.windows]
        tokens, computed = (sum(getattr(each, part) for each in one.windows) for part in ("tokens", "computed_tokens"))
        cells = (
            f"{one.tokens_per_s:.1f}",
            f"{min(speeds):.1f}..{max(speeds):.1f}",
            f"{computed / tokens:.2f} of them",
            f"{one.steps}",
            f"{one.peak_bytes / 1e9:.1f}",
            mean_of(one.heldout).said(),
            f"{EXTRAPOLATED_TO * tokens_per_example / one.tokens_per_s / 60:.1f} min",
        )
        lines.append(f"{title:30}" + "".join(f"{cell:>20}" for cell in cells))
        if one.answers is not None:
            lines.append(f"{'':30}{one.answers[0]} of {one.answers[1]} held-out answers word for word")
    for key, found in ratios(ways).items():
        bar = BARS[key]
        told = (
            "not measured" if found is None else f"{found:.2f}x; bar {bar:g}x: {'holds' if found >= bar else 'missed'}"
        )
        lines.append(f"{key}: {told}")
    if refused:
        lines.append(f"TRL: refused: {refused}")
    if OURS in ways and len(ways) > 1:
        alike = learn_alike(ways)
        lines.append(f"held-out loss after the same steps: {'equal within the interval' if alike else 'NOT equal'}")
    return "\n".join(lines)
