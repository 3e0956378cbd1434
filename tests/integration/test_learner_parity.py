"""What is served must be what was trained: each way in which the measurement or the comparison can go wrong, once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gaiad.cycles import CycleRow
from tests.fakes.trainer import write_adapter
from tests.integration.learner_world import ARCHITECT, World, until, world

DIFFERS = "served differs from trained"


def with_base(w: World) -> None:
    """Give the settings' base folder what an import looks for before it measures."""
    (Path(w.config.engine.base_model) / "config.json").write_text("{}")


async def imported(w: World, folder: Path, *, activate: bool = False) -> CycleRow:
    write_adapter(folder / "foreign")
    answer = await w.loop.import_adapter(folder / "foreign", ARCHITECT, activate, "because" if activate else "")
    assert isinstance(answer, dict), answer
    return next(row for row in await w.cycles.cycles(5) if row.id == answer["cycle"])


def parity(row: CycleRow) -> Mapping[str, object]:
    found = (row.report or {})["parity"]
    assert isinstance(found, dict)
    return found


def nothing_is_left(w: World) -> None:
    """The machine is given back, nothing serves, nothing stays loaded."""
    assert w.gpu.holds == []
    assert w.active is None
    assert w.engine.adapters == {}


async def test_an_adapter_that_is_served_as_trained_goes_on_to_its_exam_with_the_figures_in_its_report(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        row = await w.train()
        assert row.verdict == "promoted", row.reason
        found = parity(row)
        assert (found["passed"], found["measured"], found["examples"]) == (True, True, 8)
        assert (found["answer_odds"], found["telling_odds"], found["tolerance"]) == (0.0, 0.0, 0.25)
        assert len(str(found["rendered"])) == 64
        assert (found["device"], found["peak_memory_bytes"], found["wall_s"]) == ("cpu", 1, 0.1)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("die", "SIGKILL"),
        ("garbage", "not JSON"),
        ("exit_0_without_reference", "without what it was to measure"),
        ("error", "memory ran out"),
        ("unable", "No module named 'torch'"),
    ],
)
async def test_a_measurement_that_breaks_fails_the_cycle_and_is_never_a_pass(
    tmp_path: Path, fault: str, why: str
) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = fault
        row = await w.train()
        assert row.verdict == "failed"
        assert "could not be measured" in str(row.reason)
        assert why in str(row.reason)
        assert w.registry.versions() == []
        nothing_is_left(w)
        # It says nothing about the dataset: the next try learns from it without being forced to.
        assert row.dataset_digest is None
        w.measurer[-1] = "normal"
        assert (await w.train()).verdict == "promoted"


async def test_a_measurement_that_falls_silent_is_ended(tmp_path: Path) -> None:
    async with world(tmp_path, trainer_silence_s=1.5) as w:
        w.measurer[-1] = "hang"
        row = await w.train()
        assert row.verdict == "failed"
        assert "said nothing" in str(row.reason)
        nothing_is_left(w)


@pytest.mark.parametrize(
    ("fault", "why"), [("other_weights", "not those of"), ("other_examples", "no held-out example")]
)
async def test_a_measurement_of_something_else_fails_the_cycle(tmp_path: Path, fault: str, why: str) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = fault
        row = await w.train()
        assert row.verdict == "failed"
        assert why in str(row.reason)
        assert [one.stage for one in w.registry.versions()] == ["rejected"]
        nothing_is_left(w)


async def test_an_engine_that_serves_another_adapter_under_the_name_is_found_out(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.engine.swapped = True
        row = await w.train()
        assert row.verdict == "rejected"
        assert str(row.reason).startswith(DIFFERS)
        assert parity(row)["passed"] is False
        assert w.engine.asked == 0, "no exam is taken by what is not the candidate"
        assert [one.stage for one in w.registry.versions()] == ["rejected"]
        nothing_is_left(w)


async def test_an_engine_with_another_template_is_found_out(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.engine.renders_otherwise = True
        row = await w.train()
        assert row.verdict == "rejected"
        assert "renders 8 of 8 prompts otherwise" in str(row.reason)
        nothing_is_left(w)


async def test_a_tokenizer_that_renders_otherwise_in_training_is_found_out(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = "other_template"
        row = await w.train()
        assert row.verdict == "rejected"
        assert "renders 8 of 8 prompts otherwise" in str(row.reason)


async def test_an_engine_is_asked_once_more_and_then_the_cycle_fails(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.engine.no_log_probs = 1
        assert (await w.train()).verdict == "promoted"
        w.engine.no_log_probs = 2
        row = await w.train(force=True)
        assert row.verdict == "failed"
        assert "log-probability" in str(row.reason)
        assert w.active is not None, "what served goes on serving"


async def test_a_user_who_comes_first_puts_the_measurement_off_and_costs_no_training(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = "slow"
        name = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(name, str)
        await w.gpu.training.wait()
        trainer = w.gpu.holds[0].child
        await until(lambda: w.gpu.holds[0].child is not trainer)
        assert w.phase() == "measuring"
        w.measurer[-1] = "normal"
        w.gpu.holds[0].preempt.set()
        row = await w.ended(name)
        assert row.verdict == "promoted", row.reason
        assert parity(row)["measured"] is True


async def test_an_engine_that_dies_during_the_measurement_ends_the_cycle(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = "slow"
        name = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(name, str)
        await until(lambda: w.phase() == "measuring")
        w.gpu.holds[0].lost.set()
        row = await w.ended(name)
        assert row.verdict == "failed"
        assert "engine failed" in str(row.reason)
        nothing_is_left(w)


async def test_cancelling_ends_the_measurement_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = "hang"
        name = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(name, str)
        await until(lambda: w.phase() == "measuring")
        assert w.loop.cancel() is None
        row = await w.ended(name)
        assert row.verdict == "cancelled"
        nothing_is_left(w)


async def test_what_the_owner_switched_off_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    async with world(tmp_path, parity_examples=0) as w:
        w.measurer[-1] = "die"
        w.engine.swapped = True
        row = await w.train()
        assert row.verdict == "promoted", row.reason
        assert parity(row)["measured"] is False
        assert "parity_examples is 0" in str(parity(row)["reason"])


async def test_an_import_is_measured_over_the_base_that_lies_here(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with_base(w)
        row = await imported(w, tmp_path)
        assert row.verdict == "promoted", row.reason
        assert parity(row)["measured"] is True
        assert parity(row)["passed"] is True


async def test_an_import_without_a_base_folder_says_that_nothing_was_measured(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.measurer[-1] = "die"
        write_adapter(tmp_path / "foreign")
        answer = await w.loop.import_adapter(tmp_path / "foreign", ARCHITECT, False, "")
        assert isinstance(answer, dict)
        assert answer["verdict"] == "promoted"
        assert "not measured: engine.base_model names no folder" in str(answer["parity"])


async def test_an_import_where_no_python_can_load_it_says_that_nothing_was_measured(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with_base(w)
        w.measurer[-1] = "unable"
        row = await imported(w, tmp_path)
        assert row.verdict == "promoted", row.reason
        assert parity(row)["measured"] is False
        assert "No module named 'torch'" in str(parity(row)["reason"])


async def test_an_import_whose_measurement_breaks_fails(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with_base(w)
        w.measurer[-1] = "die"
        row = await imported(w, tmp_path)
        assert row.verdict == "failed"
        nothing_is_left(w)


async def test_no_reason_activates_an_import_that_is_not_served_as_it_was_trained(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with_base(w)
        w.engine.swapped = True
        row = await imported(w, tmp_path, activate=True)
        assert row.verdict == "rejected"
        assert str(row.reason).startswith(DIFFERS)
        nothing_is_left(w)
