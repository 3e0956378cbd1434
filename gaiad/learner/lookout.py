"""Is there something new to learn, and may a cycle start by itself? Remembers what was looked at and what failed.

Reads curricula and corrections; `idle` decides whether. Knows a dataset's digest without building it again as long as
curriculum, corrections and the files of all material are what they were.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gaiad.adapter import AdapterName
from gaiad.config import LearningConfig
from gaiad.curriculum import Curriculum
from gaiad.cycles import Cycles
from gaiad.errors import GaiadError, NotYet
from gaiad.idle import Answer, Situation, may_start, retry_delay_s
from gaiad.learner.ports import Gpu
from gaiad.learner.sources import catalogue
from gaiad.learner.sources.exchanges import CorrectedExchange
from gaiad.learner.steps import Steps


@dataclass(slots=True)
class Setback:
    """Cycles of an adapter in a row that failed or were cancelled: when to try again, and why the last one ended."""

    failures: int = 0
    retry_at: float | None = None
    reason: str = ""


class Lookout:
    """What is known of each adapter between cycles."""

    def __init__(self, learning: LearningConfig, gpu: Gpu, steps: Steps, cycles: Cycles, *, up_since: float) -> None:
        self._learning = learning
        self._gpu = gpu
        self._steps = steps
        self._cycles = cycles
        self._up_since = up_since
        self._digests: dict[str, str] = {}
        self._setbacks: dict[AdapterName, Setback] = {}
        self.news: dict[AdapterName, bool | None] = {}
        self._troubles: list[str] = []

    async def look(self) -> None:
        """Find out for each curriculum whether there is something new; None where only building it could tell.

        A curriculum that cannot be used is passed over, and `trouble` says why.
        """
        troubles = []
        material = await asyncio.to_thread(self._steps.material)
        for folder in await asyncio.to_thread(catalogue.curriculum_folders, self._steps.curricula()):
            try:
                await self._look_at(folder, material)
            except GaiadError as error:
                troubles.append(str(error))
                self.news.pop(AdapterName(folder.name), None)
        self._troubles = troubles

    async def _look_at(self, folder: Path, material: str) -> None:
        curriculum = await asyncio.to_thread(catalogue.load_curriculum, folder, self._learning.profile)
        corrections = await self._steps.corrections(curriculum)
        digest = self._digests.get(_signature(curriculum, corrections, material))
        learned = await self._cycles.finished_digests(curriculum.adapter)
        self.news[curriculum.adapter] = None if digest is None else digest not in learned

    @property
    def trouble(self) -> str | None:
        """Which curricula could not be looked at last time, and why."""
        return "; ".join(self._troubles) or None

    def may_start(self, adapter: AdapterName | None, now: float, running: str | None) -> Answer:
        """Say whether a cycle of `adapter` may start by itself; without one, whether any might."""
        setback = self._setbacks.get(adapter) if adapter else None
        situation = Situation(
            now=now,
            enabled=self._learning.enabled,
            idle_minutes=self._learning.idle_minutes,
            up_since=self._up_since,
            last_user_end=self._gpu.last_user_end,
            active_inference=self._gpu.active_inference,
            phase=str(self._gpu.phase),
            cycle_running=running,
            something_new=self.news.get(adapter) if adapter else None,
            retry_at=setback.retry_at if setback else None,
            last_failure=setback.reason if setback else "",
        )
        return may_start(situation)

    def why_not_yet(self, now: float, running: str | None) -> str | None:
        """Why no cycle starts by itself, or None where one may."""
        general = self.may_start(None, now, running)
        if isinstance(general, NotYet):
            return general.reason
        answers = [self.may_start(adapter, now, running) for adapter in sorted(self.news)]
        reasons = [answer.reason for answer in answers if isinstance(answer, NotYet)]
        if len(reasons) < len(answers):
            return None
        return "; ".join(dict.fromkeys([*reasons, *self._troubles])) or None

    def remember(
        self, curriculum: Curriculum, corrections: Sequence[CorrectedExchange], material: str, digest: str
    ) -> None:
        """Take down which dataset these inputs gave."""
        self._digests[_signature(curriculum, corrections, material)] = digest

    def note_failure(self, adapter: AdapterName, reason: str, now: float) -> None:
        """Take down a cycle that failed or was cancelled, so that the next one waits longer each time."""
        failures = self._setbacks.get(adapter, Setback()).failures + 1
        self._setbacks[adapter] = Setback(failures, now + retry_delay_s(failures, self._learning.idle_minutes), reason)

    def note_success(self, adapter: AdapterName) -> None:
        """Take down a cycle that came to its end."""
        self._setbacks.pop(adapter, None)


def _signature(curriculum: Curriculum, corrections: Sequence[CorrectedExchange], material: str) -> str:
    rows = [[one.exchange_id, one.correction] for one in corrections]
    return hashlib.sha256(json.dumps([curriculum.digest, material, sorted(rows)]).encode()).hexdigest()
