"""One cycle as the loop knows it: what was asked for, what each step left, and how that reads in status and report.

Holds and renders; performs nothing. Only the step that runs writes here, and between steps the loop does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gaiad.adapter import AdapterName, VersionName
from gaiad.curriculum import Curriculum
from gaiad.learner.artifacts import Published
from gaiad.learner.course import Course
from gaiad.learner.cycle import CycleState, Kind, Phase, Verdict
from gaiad.learner.dataset import Dataset
from gaiad.learner.exams.score import ExamReport
from gaiad.learner.gate import Verdict as GateVerdict
from gaiad.learner.parity import Parity
from gaiad.learner.ports import Hold
from gaiad.learner.protocol import Progress, Reference, Result
from gaiad.learner.sources.exchanges import CorrectedExchange


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. `source` is `command` or `idle`; the last three are for imports."""

    adapter: AdapterName
    kind: Kind
    profile: str
    source: str = "command"
    force: bool = False
    directory: Path | None = None
    activate: bool = False
    reason: str = ""


@dataclass(slots=True)
class ExamProgress:
    """The exam that is being taken."""

    subject: str
    constrained: bool
    done: int
    total: int


@dataclass(slots=True)
class Attempt:
    """A running cycle."""

    id: str
    order: Order
    started: float
    folder: Path
    state: CycleState
    curriculum: Curriculum | None = None
    corrections: Sequence[CorrectedExchange] = ()
    material: str = ""
    dataset: Dataset | None = None
    dataset_folder: Path | None = None
    engine_version: str = ""
    hold: Hold | None = None
    course: Course = field(default_factory=Course)
    result: Result | None = None
    number: int = 0
    lineage: Mapping[str, object] = field(default_factory=dict)
    published: Published | None = None
    reference: Reference | None = None
    parity: Parity | None = None
    exam: ExamProgress | None = None
    exams: dict[str, ExamReport] = field(default_factory=dict)
    gate: GateVerdict | None = None
    forced: bool = False
    timings_s: dict[str, float] = field(default_factory=dict)
    phase_since: float = 0.0
    ended: float | None = None

    @property
    def staging(self) -> Path:
        """Where the adapter lies before it is published."""
        return self.folder / "staging"

    @property
    def version(self) -> VersionName | None:
        """The version's name, once it has one."""
        return self.published.version if self.published else None

    @property
    def dataset_digest(self) -> str:
        """The digest of the frozen dataset, or nothing yet."""
        return self.dataset.digest if self.dataset else ""

    @property
    def verdict(self) -> Verdict | None:
        """How it ended, once it has."""
        ended = self.state.phase is Phase.DONE and self.state.ending is not None
        return self.state.ending.verdict if ended and self.state.ending else None

    @property
    def reason(self) -> str:
        """Why it ends, once that is known."""
        return self.state.ending.reason if self.state.ending else ""

    @property
    def has_learned(self) -> bool:
        """Whether it ended with an answer to its dataset: a gate's verdict, or a trainer that breaks on it."""
        ending, answers = self.state.ending, (Verdict.PROMOTED, Verdict.REJECTED)
        if self.order.kind is not Kind.TRAIN or self.verdict is None or ending is None:
            return False
        return self.verdict in answers or (self.verdict is Verdict.FAILED and ending.of_data)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The dataset's exchanges that the trainer could not use."""
        return self.result.left_out if self.result else ()

    @property
    def exchange_ids(self) -> tuple[str, ...]:
        """The exchanges that it learns from, as far as known."""
        return tuple(one for one in (self.dataset.exchange_ids if self.dataset else ()) if one not in self.left_out)

    def holds(self, ids: frozenset[str]) -> bool:
        """Whether it may learn from one of these exchanges, or write them down.

        While it gathers them nobody can say that it does not; for the exam of an import they are gathered too.
        """
        mine = {one.exchange_id for one in self.corrections} | set(self.dataset.exchange_ids if self.dataset else ())
        learns = self.order.kind is Kind.TRAIN and not mine.isdisjoint(ids)
        return self.state.phase is Phase.FREEZING or learns

    def note(self, progress: Progress) -> None:
        """Take a line of the trainer's progress."""
        self.course.note(progress)

    def enter(self, state: CycleState, now: float) -> None:
        """Take the next state and book the time spent in the phase before."""
        if state.phase is not self.state.phase:
            spent = self.timings_s.get(self.state.phase.value, 0.0) + now - self.phase_since
            self.timings_s[self.state.phase.value] = round(spent, 3)
            self.phase_since = now
        self.state = state

    def status(self, now: float) -> dict[str, object]:
        """What `status` shows of it while it runs."""
        return {
            "id": self.id,
            "adapter": self.order.adapter,
            "kind": self.order.kind.value,
            "profile": self.order.profile,
            "source": self.order.source,
            "phase": self.state.phase.value,
            "ending": self.reason or None,
            "started": self.started,
            "running_s": round(now - self.started, 1),
            "version": self.version,
            "dataset_digest": self.dataset_digest,
            "progress": self._progress(),
        }

    def _progress(self) -> dict[str, object] | None:
        if self.state.phase is Phase.EXAMINING and self.exam is not None:
            freely = "" if self.exam.constrained else ", unconstrained"
            note = f"exam of {self.exam.subject}{freely}"
            return {"step": self.exam.done, "total": self.exam.total, "note": note, "subject": self.exam.subject}
        return self.course.status() if self.state.phase is Phase.TRAINING else None

    def report(self) -> dict[str, object]:
        """Everything that is known of the cycle, as it is kept."""
        order, dataset, curriculum = self.order, self.dataset, self.curriculum
        return {
            "kind": order.kind.value,
            "source": order.source,
            "profile": order.profile,
            "version": self.version,
            "curriculum": curriculum and {"version": curriculum.version, "digest": curriculum.digest},
            "dataset": dataset
            and {
                "digest": dataset.digest,
                "train": len(dataset.train),
                "validation": len(dataset.validation),
                "heldout": len(dataset.heldout),
                "exchange_ids": list(self.exchange_ids),
                "left_out_exchange_ids": list(self.left_out),
            },
            "engine_version": self.engine_version,
            "loss": self.course.rows(),
            "pace": self.course.figures(),
            "training": dataclasses.asdict(self.result) if self.result else None,
            "parity": self._parity(),
            "exams": {name: report.to_json() for name, report in self.exams.items()},
            "gate": self.gate
            and {
                "passed": self.gate.passed,
                "reasons": list(self.gate.reasons),
                "numbers": dict(self.gate.numbers),
            },
            "forced": self.forced,
            "override_reason": order.reason if self.forced else None,
            "timings_s": self.timings_s,
        }

    def _parity(self) -> dict[str, object] | None:
        """The comparison's figures, and what it took to have them outside the engine."""
        cost: dict[str, object] = {}
        if self.reference is not None:
            cost = {name: getattr(self.reference, name) for name in ("device", "peak_memory_bytes", "wall_s")}
        return {**dataclasses.asdict(self.parity), **cost} if self.parity else None

    def outcome(self) -> dict[str, object]:
        """How it ended, for whoever asked for it."""
        return {
            "cycle": self.id,
            "adapter": self.order.adapter,
            "version": self.version,
            "verdict": self.verdict and self.verdict.value,
            "reason": self.reason,
            "reasons": list(self.gate.reasons) if self.gate else [],
            "passed": self.gate.passed if self.gate else None,
            "forced": self.forced,
            "parity": self.parity and self.parity.reason,
            "scores": self.scores(),
        }

    def scores(self) -> dict[str, object]:
        """The exams in short: hits, total, rate and interval of exact tool choice by subject."""
        return {name: report.tool.to_json() for name, report in self.exams.items()}
