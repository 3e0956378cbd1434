"""The learner's loop over a real store and real trainer processes: how cycles, imports and rollbacks end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gaiad.adapter import AdapterName, VersionName, VersionStage
from gaiad.cycle_page import cycle_page
from gaiad.errors import AdapterError, Refuse
from tests.fakes.trainer import write_adapter
from tests.integration.learner_world import ARCHITECT, World, two_versions, until, world


async def test_a_better_candidate_is_promoted_and_its_cycle_tells_everything(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        row = await w.train()
        assert (row.verdict, row.phase) == ("promoted", "done"), row.reason
        assert w.active is not None
        assert w.active in w.engine.adapters
        assert w.gpu.holds == []
        assert row.report is not None
        report = json.loads(json.dumps(row.report))
        assert report["version"] == w.active
        assert report["exams"]["candidate"]["tool"]["hits"] == report["exams"]["candidate"]["tool"]["total"] >= 100
        assert report["exams"]["base"]["tool"]["hits"] == 0
        assert report["exams"]["candidate_unconstrained"]["constrained"] is False
        assert [point["step"] for point in report["loss"]] == [0, 1, 2, 3, 4]
        assert report["gate"]["passed"] is True
        assert {"freezing", "training", "examining"} <= set(report["timings_s"])
        version = w.registry.version(w.active)
        assert version is not None
        assert version.report is not None
        assert version.lineage["dataset_digest"] == row.dataset_digest
        assert not list(w.config.runs_dir.glob("*/staging"))


async def test_a_cycle_is_shown_while_it_trains_and_drawn_once_it_has_ended(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.faults("slow")
        assert isinstance(await w.loop.start_cycle(ARCHITECT), str)
        await until(lambda: (progress_of(w) or {}).get("step", 0) >= 1)
        shown = progress_of(w)
        assert shown is not None
        assert (shown["peak_share"], shown["flops_per_s"], shown["tokens_per_s"]) == (0.4, 2e11, 100.0)
        assert shown["memory_bytes"] >= 4 << 30
        assert shown["eta_s"] == pytest.approx(shown["total"] - shown["step"])
        assert shown["curve"]["loss"][:2] == [[0, 2.0], [1, 1.0]]
        await until(lambda: w.loop.status()["cycle"] is None)
        (row,) = await w.cycles.cycles(1)
        assert await w.cycles.cycle(row.id) == row
        assert await w.cycles.cycle("another") is None
        page = cycle_page(row.to_json())
        assert "<polyline" in page
        assert "40.0%" in page


def progress_of(w: World) -> dict[str, Any] | None:
    shown = w.loop.status()["cycle"]
    return shown["progress"] if isinstance(shown, dict) else None


async def test_a_candidate_no_better_than_the_base_is_kept_but_never_serves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.engine.is_good = lambda model: False
        row = await w.train()
        assert row.verdict == "rejected"
        assert w.active is None
        assert w.engine.adapters == {}
        (version,) = w.registry.versions(ARCHITECT)
        assert version.stage is VersionStage.REJECTED
        assert version.report is not None
        assert version.path.is_dir()


async def test_a_worse_successor_leaves_the_incumbent_serving(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.train()
        first = w.active
        w.engine.is_good = lambda model: model == first
        row = await w.train(force=True)
        assert row.verdict == "rejected"
        assert w.active == first
        assert row.report is not None
        assert "incumbent" in json.dumps(row.report)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("die", "(SIGKILL): somebody, or the kernel for want of memory"),
        ("garbage", "not JSON"),
        ("torn", "torn"),
        ("exit_0_without_result", "without a result"),
        ("result_then_exit_3", "exit code 3"),
        ("error", "the base model is missing"),
    ],
)
async def test_however_a_trainer_breaks_serving_goes_on_and_the_reason_is_kept(
    tmp_path: Path, fault: str, words: str
) -> None:
    async with world(tmp_path) as w:
        w.faults(fault)
        row = await w.train()
        assert row.verdict == "failed"
        assert words in str(row.reason)
        assert w.gpu.holds == []
        assert w.gpu.phase == "serving"
        assert w.registry.versions(ARCHITECT) == []
        last = w.loop.status()["last"]
        assert isinstance(last, dict)
        assert words in last["reason"]


async def test_a_dataset_on_which_the_trainer_broke_is_tried_again_only_where_a_person_insists(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.faults("error")
        assert (await w.train()).verdict == "failed"
        w.faults("normal")
        asked = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(asked, Refuse)
        assert "nothing new" in asked.reason
        assert (await w.train(force=True)).verdict == "promoted"


@pytest.mark.parametrize("event", ["lost", "preempt", "cancel", "wake", "python"])
async def test_a_failure_that_says_nothing_about_the_dataset_leaves_it_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    async with world(tmp_path) as w:
        w.faults("slow" if event in ("lost", "preempt", "cancel") else "normal")
        w.gpu.fail_release = event == "wake"
        if event == "python":
            monkeypatch.setattr(w.loop._steps, "_python", "/no/python")
        name = await w.loop.start_cycle(ARCHITECT)
        if event in ("lost", "preempt", "cancel"):
            await w.gpu.training.wait()
            w.loop.cancel() if event == "cancel" else getattr(w.gpu.holds[0], event).set()
        row = await w.ended(str(name))
        assert (row.verdict, row.dataset_digest) == ("cancelled" if event == "cancel" else "failed", None)
        w.gpu.fail_release = False
        monkeypatch.undo()
        w.faults("normal")
        assert (await w.train()).verdict == "promoted"


async def test_nothing_new_is_refused_unless_a_person_insists(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.train()
        asked = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(asked, Refuse)
        assert "nothing new" in asked.reason
        assert (await w.train(force=True)).verdict == "promoted"


async def test_a_rank_that_the_engine_does_not_serve_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    async with world(tmp_path, max_rank=8) as w:
        refused = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(refused, Refuse)
        assert "rank 16 is above the 8" in refused.reason
        assert not w.gpu.training.is_set()


async def test_only_one_cycle_runs_at_a_time(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT)
        second = await w.loop.start_cycle(ARCHITECT, force=True)
        assert second == Refuse("a cycle of json-architect is running", "wait for its end, or gaiadctl cancel")
        assert w.loop.cancel() is None
        assert (await w.ended(str(name))).verdict == "cancelled"
        assert w.loop.cancel() == Refuse("no cycle is running")


@pytest.mark.parametrize("name", ["no-such", "../curricula/json-architect", ".", "json-architect/../json-architect"])
async def test_an_unknown_adapter_is_refused(tmp_path: Path, name: str) -> None:
    async with world(tmp_path) as w:
        asked = await w.loop.start_cycle(AdapterName(name))
        assert isinstance(asked, Refuse)
        assert "no curriculum" in asked.reason


async def test_cancelling_ends_the_trainer_and_gives_the_gpu_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT)
        await w.gpu.training.wait()
        child = w.gpu.holds[0].child
        assert child is not None
        w.loop.cancel("asked in a test")
        row = await w.ended(str(name))
        assert (row.verdict, row.reason) == ("cancelled", "asked in a test")
        assert w.gpu.holds == []
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("event", "words"), [("lost", "the engine failed during the run"), ("preempt", "a user request came first")]
)
async def test_a_claim_that_ends_early_ends_the_run(tmp_path: Path, event: str, words: str) -> None:
    async with world(tmp_path) as w:
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT)
        await w.gpu.training.wait()
        getattr(w.gpu.holds[0], event).set()
        row = await w.ended(str(name))
        assert row.verdict == "failed"
        assert words in str(row.reason)
        assert w.gpu.holds == []


async def test_a_refused_gpu_and_a_failed_wake_end_the_cycle(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.gpu.refuse = True
        assert (await w.train()).reason == "the engine is down"
        w.gpu.refuse, w.gpu.fail_release = False, True
        row = await w.train()
        assert row.verdict == "failed"
        assert "did not wake" in str(row.reason)
        assert w.registry.versions(ARCHITECT) == []


async def test_an_engine_that_dies_during_the_exam_leaves_no_candidate_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.engine.exam_gate.clear()
        name = await w.loop.start_cycle(ARCHITECT)
        await until(lambda: w.phase() == "examining")
        w.engine.adapters.clear()
        w.engine.exam_gate.set()
        row = await w.ended(str(name))
        assert row.verdict == "failed"
        (version,) = w.registry.versions(ARCHITECT)
        assert version.stage is VersionStage.REJECTED
        assert w.active is None


async def test_finished_exams_are_not_taken_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.train()
        asked = w.engine.asked
        await w.train(force=True)
        # Only the new candidate sits its two exams; the base's and the incumbent's are known.
        assert w.engine.asked - asked == asked // 2


# --- live versions ----------------------------------------------------------------------------------------------


async def test_a_live_version_that_answers_badly_goes_back_even_while_a_cycle_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        w.gpu.training.clear()
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT, force=True)
        await w.gpu.training.wait()
        for _ in range(3):
            w.reply(second)
        w.reply(second, bad=False)
        w.reply(first)
        w.reply(second)
        await until(lambda: w.active == first, within_s=1.0)
        assert w.phase() == "training"
        fallen = w.registry.version(second)
        assert fallen is not None
        assert fallen.stage is VersionStage.ROLLED_BACK
        assert fallen.reason == "the live guard saw 4 bad replies among the last 5: 4 failed the stage's schema"
        w.loop.cancel()
        await w.ended(str(name))


async def test_an_incumbent_that_falls_during_the_exam_is_examined_to_the_end_and_then_unloaded(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        # Another base model: what is known of base and incumbent counts no more.
        (tmp_path / "base" / "config.json").write_text("{}", encoding="ascii")
        w.engine.exam_gate.clear()
        name = await w.loop.start_cycle(ARCHITECT, force=True)
        await until(lambda: w.engine.waiting > 0)
        for _ in range(4):
            w.reply(second)
        await until(lambda: w.active == first)
        await w.loop.reconcile()
        w.engine.exam_gate.set()
        row = await w.ended(str(name))
        assert row.verdict == "promoted", row.reason
        await until(lambda: second not in w.engine.adapters)


async def test_without_a_version_before_it_the_base_serves_again_and_the_guard_starts_anew(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        for _ in range(4):
            w.reply(second)
        await until(lambda: w.active == first)
        for _ in range(3):
            w.reply(first)
        await until(lambda: w.loop.status()["guards"])
        assert w.active == first
        w.reply(first)
        await until(lambda: w.active is None)
        await until(lambda: not w.engine.adapters)


async def test_good_replies_and_those_of_the_base_keep_a_version_live(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.train()
        for _ in range(20):
            w.reply(w.active, bad=False)
            w.reply(None)
        await until(lambda: w.loop.status()["guards"])
        guards = w.loop.status()["guards"]
        assert isinstance(guards, dict)
        assert guards[ARCHITECT]["failures"] == 0
        assert w.active is not None


async def test_a_person_flips_back_to_the_version_before_then_to_the_base_then_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first, second = await two_versions(w)
        assert await w.loop.rollback(ARCHITECT, "worse at work") == {
            "adapter": ARCHITECT,
            "version": first,
            "rolled_back": second,
            "reason": "worse at work",
        }
        answer = await w.loop.rollback(ARCHITECT, "this too")
        assert isinstance(answer, dict)
        assert answer["version"] is None
        assert isinstance(await w.loop.rollback(ARCHITECT, "again"), Refuse)


# --- boot and reconcile -----------------------------------------------------------------------------------------


async def test_a_killed_daemon_finds_its_cycle_interrupted_its_candidate_rejected_and_serves_as_before(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await w.train()
        serving = w.active
        w.engine.exam_gate.clear()
        name = await w.loop.start_cycle(ARCHITECT, force=True)
        # The first question is asked only after the phase is in the history.
        await until(lambda: w.engine.waiting > 0)
    async with world(tmp_path) as w:
        row = next(row for row in await w.cycles.cycles(5) if row.id == name)
        assert (row.verdict, row.reason) == ("interrupted", "gaiad ended while the cycle was examining")
        assert w.active == serving
        stages = [version.stage for version in w.registry.versions(ARCHITECT)]
        assert stages == [VersionStage.ACTIVE, VersionStage.REJECTED]
        assert not list(w.config.runs_dir.glob("*/staging"))
        last = w.loop.status()["last"]
        assert isinstance(last, dict)
        assert last["what"] == "interrupted"
        assert (await w.train(force=True)).verdict == "promoted"


# --- imports ----------------------------------------------------------------------------------------------------


def foreign(tmp_path: Path, **shape: int) -> Path:
    folder = tmp_path / "foreign"
    write_adapter(folder, **shape)
    return folder


async def imported(w: World, folder: Path, *, activate: bool = False, reason: str = "") -> dict[str, object]:
    answer = await w.loop.import_adapter(folder, ARCHITECT, activate, reason)
    assert isinstance(answer, dict), answer
    return answer


async def test_a_good_adapter_from_elsewhere_passes_the_same_gate(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await imported(w, foreign(tmp_path))
        assert (answer["verdict"], answer["version"], answer["forced"]) == ("promoted", w.active, False)
        assert (tmp_path / "foreign" / "adapter_config.json").exists()
        json.dumps(answer)


async def test_a_bad_one_is_rejected_and_goes_live_only_with_a_reason_that_is_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.engine.is_good = lambda model: False
        folder = foreign(tmp_path)
        assert (await imported(w, folder))["verdict"] == "rejected"
        assert w.active is None
        assert isinstance(await w.loop.import_adapter(folder, ARCHITECT, True, " "), Refuse)
        answer = await imported(w, folder, activate=True, reason="to see the guard work")
        assert (answer["verdict"], answer["forced"], answer["passed"]) == ("promoted", True, False)
        assert w.active == answer["version"]
        version = w.registry.version(VersionName(str(answer["version"])))
        assert version is not None
        assert "to see the guard work" in version.reason
        for _ in range(4):
            w.reply(w.active)
        await until(lambda: w.active is None)


async def test_files_that_are_no_adapter_are_refused_before_anything_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        folder = foreign(tmp_path, rank=64)
        with pytest.raises(AdapterError, match="rank 64"):
            await w.loop.import_adapter(folder, ARCHITECT, True, "because")
        (folder / "more.bin").write_bytes(b"x")
        with pytest.raises(AdapterError, match=r"more\.bin"):
            await w.loop.import_adapter(folder, ARCHITECT, False, "")
        assert await w.cycles.cycles(5) == []


async def test_an_import_does_not_count_as_having_learned(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await imported(w, foreign(tmp_path))
        assert (await w.train()).verdict == "promoted"
