"""An erasure beside other work at the very same moment: cycles, imports, feedback, the recorder, other erasures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gaiad.erasure import Kind, Selector
from gaiad.erasures import Erasure, Erasures
from gaiad.errors import Refuse
from gaiad.exchange import Judgement
from gaiad.learner.sources import catalogue
from gaiad.proxy.recorder import Recorder
from tests.fakes.trainer import write_adapter
from tests.integration.learner_world import ARCHITECT, World, corrected_exchange, until, world
from tests.integration.test_erasure import (
    ADA,
    BO,
    CANARY,
    a_record,
    an_eraser,
    erased,
    files_with,
    running,
    stages,
    three_versions,
)

Hook = Callable[[], Awaitable[object]]


class Meanwhile(Erasures):
    """Something else happens just before the rows go, and just after."""

    def __init__(self, w: World, before: Hook | None = None, after: Hook | None = None) -> None:
        super().__init__(w.database)
        self._before, self._after = before, after

    async def purge(self, erasure: Erasure) -> Erasure:
        if self._before is not None:
            await self._before()
        purged = await super().purge(erasure)
        if self._after is not None:
            await self._after()
        return purged


async def erased_while(w: World, erasures: Erasures, selector: Selector = ADA) -> dict[str, Any]:
    async with running(an_eraser(w, erasures)) as eraser:
        report = await eraser.erase(selector, "test")
    assert isinstance(report, dict), report
    return report


# --- other work at the same moment ------------------------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The learner's datasets are gathered once the second is set; the first tells that it waits for that."""
    waits, opened, gather = threading.Event(), threading.Event(), catalogue.gather

    def gated(*given: Any, **more: Any) -> Any:
        # The tests' own calls are made in the loop's thread.
        if threading.current_thread() is not threading.main_thread():
            waits.set()
            opened.wait(20)
        return gather(*given, **more)

    monkeypatch.setattr(catalogue, "gather", gated)
    return waits, opened


class Asked:
    """The learner, and whether it was asked to forget."""

    def __init__(self, w: World) -> None:
        self._loop = w.loop
        self.asked = asyncio.Event()

    async def forget(self, exchange_ids: Sequence[str], reason: str) -> Any:
        self.asked.set()
        return await self._loop.forget(exchange_ids, reason)

    async def wait_until_unloaded(self, versions: Sequence[str]) -> list[str]:
        return await self._loop.wait_until_unloaded(versions)


async def test_an_import_that_is_gathering_an_exam_leaves_no_dataset_with_what_is_erased(
    tmp_path: Path, gate: tuple[threading.Event, threading.Event]
) -> None:
    waits, opened = gate
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        write_adapter(tmp_path / "foreign")
        learner = Asked(w)
        eraser = an_eraser(w)
        eraser._learner = learner
        async with asyncio.TaskGroup() as tasks, running(eraser):
            importing = tasks.create_task(
                w.loop.import_adapter(tmp_path / "foreign", ARCHITECT, False, ""), name="importing"
            )
            await until(waits.is_set)
            erasing = tasks.create_task(eraser.erase(ADA, "test"), name="erasing")
            await learner.asked.wait()
            opened.set()
            report, imported = await erasing, await importing
        assert isinstance(report, dict)
        assert report["signed_off"] is True
        assert files_with(tmp_path, b"zyrcanary") == []
        # It learns from nobody, so that it goes on.
        assert isinstance(imported, dict)
        assert imported["verdict"] == "promoted", imported


async def test_a_trainer_that_learns_from_it_is_ended_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.learner.steps.STOP_GRACE_S", 0.2)
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        # Deaf to every wish but a signal that cannot be refused.
        w.faults("ignore_sigterm")
        name = str(await w.loop.start_cycle(ARCHITECT))
        await until(w.gpu.training.is_set)
        report = await erased(w)
        assert (await w.ended(name)).verdict == "cancelled"
        assert (report["runs"], len(report["datasets"]), report["signed_off"]) == ([name], 1, True)
        assert (w.registry.versions(), w.gpu.holds) == ([], [])
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_an_erasure_of_nobody_ends_no_cycle(
    tmp_path: Path, gate: tuple[threading.Event, threading.Event]
) -> None:
    waits, opened = gate
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        starting = asyncio.get_running_loop().create_task(w.loop.start_cycle(ARCHITECT), name="starting")
        await until(waits.is_set)
        async with asyncio.timeout(20):
            report = await erased(w, Selector(Kind.USER, "nobody"))
        opened.set()
        assert (report["exchange_ids"], report["versions"], report["backups"]) == ([], [], [])
        assert report["signed_off"] is True
        row = await w.ended(str(await starting))
        assert row.verdict == "promoted", row.reason


async def test_a_version_learned_until_the_very_moment_that_the_rows_go_is_in_the_report(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        report = await erased_while(w, Meanwhile(w, before=w.train))
        (row,) = w.registry.versions()
        assert [one["version"] for one in report["versions"]] == [row.version]
        assert (stages(w), w.active) == ({row.version: "quarantined"}, None)
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_feedback_that_comes_in_the_middle_goes_too_and_none_comes_after(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        answers = []

        async def feedback() -> None:
            answers.append(await w.conversations.feedback.add("ada1", Judgement("wrong", "it was the zyrcanary"), 5.0))

        report = await erased_while(w, Meanwhile(w, feedback, feedback))
        assert answers[0] is None
        assert isinstance(answers[1], Refuse)
        assert report["rows"]["feedback"] == 2
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_what_the_recorder_still_holds_is_not_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.conversations.grants.append("ada", "train", "grant", "test", 1.0)
        recorder = Recorder(w.conversations, 100)
        for number in range(3):
            assert recorder.offer(a_record(f"ada{number}", "ada", started=2.0))
        eraser = an_eraser(w)
        eraser._flush = recorder.flush
        async with running(eraser):
            assert isinstance(await eraser.erase(ADA, "test"), dict)
        assert recorder.written == 3
        kept = await w.conversations.exchange("ada1")
        assert kept is not None
        assert (kept["decision"], kept["request"]) == ("not_kept", None)
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_two_erasures_at_once_are_both_done(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second, third = await three_versions(w)
        async with running(an_eraser(w)) as eraser, asyncio.TaskGroup() as tasks:
            orders = [tasks.create_task(eraser.erase(one, "test"), name="order") for one in (ADA, BO, ADA)]
        reports: list[Any] = [order.result() for order in orders]
        assert [(one["exchange_ids"], one["signed_off"]) for one in reports] == [
            (["ada1"], True),
            (["bo1"], True),
            ([], True),
        ]
        assert stages(w) == {first: "active", second: "quarantined", third: "quarantined"}


class Stuck(Erasures):
    """The erasure of ada meets a bug each time."""

    async def purge(self, erasure: Erasure) -> Erasure:
        if erasure.selector == ADA:
            raise RuntimeError("a bug")
        return await super().purge(erasure)


async def both_begun(w: World) -> None:
    """The erasures of ada and of bo were asked for, and then the daemon ended."""
    for number, one in enumerate((ADA, BO)):
        await Erasures(w.database).begin(f"erasure-{number}", one, float(number), "test")


async def test_an_erasure_that_is_stuck_holds_up_no_other(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await three_versions(w)
        await both_begun(w)
        async with running(an_eraser(w, Stuck(w.database))):
            async with asyncio.timeout(20):
                while len(await Erasures(w.database).unfinished()) > 1:  # noqa: ASYNC110  the rows are the eraser's
                    await asyncio.sleep(0.02)
        (stuck,) = await Erasures(w.database).unfinished()
        assert stuck.selector == ADA


async def test_every_alias_flips_before_anything_is_waited_for(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, _, _ = await three_versions(w)
        w.engine.broken = True
        await both_begun(w)
        async with running(an_eraser(w)):
            # The engine answers nothing, so that the first of them waits for a minute.
            await until(lambda: w.registry.active == {ARCHITECT: first}, within_s=20)
