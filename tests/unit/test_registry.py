"""Versions, aliases and rollbacks, on real database files."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gaiad.adapter import AdapterName, VersionName, VersionStage
from gaiad.config import Config, StoreConfig
from gaiad.db import Database
from gaiad.errors import AdapterError, StoreError
from gaiad.registry import FALLEN, Registry

ARCHITECT = AdapterName("json-architect")
VOICE = AdapterName("gaia-voice")


def name(number: int, adapter: AdapterName = ARCHITECT) -> VersionName:
    return VersionName(f"{adapter}@v{number}-{number:08x}")


@pytest.fixture
async def db(tmp_path: Path, store_at: StoreConfig) -> AsyncIterator[Database]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", store=store_at))
    yield database
    await database.close()


@pytest.fixture
async def registry(db: Database) -> Registry:
    opened = Registry(db)
    await opened.load()
    return opened


async def add(registry: Registry, *numbers: int, adapter: AdapterName = ARCHITECT) -> None:
    for number in numbers:
        path = Path(f"/adapters/{adapter}/v{number}")
        await registry.add(name(number, adapter), path, f"{number:064x}", {"run": f"r{number}"}, at=float(number))


async def serve(registry: Registry, *numbers: int) -> None:
    """Add, load and activate each in turn."""
    for number in numbers:
        await add(registry, number)
        registry.mark_loaded(registry.loaded | {name(number)})
        await registry.activate(name(number), "passed", 10.0 + number)


async def test_a_candidate_serves_nobody(registry: Registry) -> None:
    await add(registry, 1)
    registry.mark_loaded(frozenset({name(1)}))
    assert registry.snapshot.adapters == {ARCHITECT}
    assert registry.snapshot.active == {}
    assert registry.snapshot.servable == frozenset()
    assert registry.wanted() == []


async def test_an_active_version_serves_once_it_is_loaded_and_not_before(registry: Registry) -> None:
    await add(registry, 1)
    assert await registry.activate(name(1), "passed", 2.0) is None
    assert registry.snapshot.active == {}
    assert registry.active_not_loaded == registry.snapshot.active_unloaded == {ARCHITECT: name(1)}
    assert registry.snapshot.servable_unloaded == {name(1)}
    registry.mark_loaded(frozenset({name(1), VersionName("unknown@v1-00000000")}))
    assert registry.snapshot.active == {ARCHITECT: name(1)}
    assert registry.snapshot.servable == {name(1)}
    assert registry.active_not_loaded == registry.snapshot.active_unloaded == {}
    assert registry.snapshot.servable_unloaded == frozenset()
    registry.mark_loaded(frozenset())
    assert registry.snapshot.active == {}
    assert registry.active == {ARCHITECT: name(1)}


async def test_a_snapshot_in_use_never_changes(registry: Registry) -> None:
    await serve(registry, 1)
    seen = registry.snapshot
    await serve(registry, 2)
    assert seen.active == {ARCHITECT: name(1)}
    assert registry.snapshot.active == {ARCHITECT: name(2)}


async def test_activating_retires_the_old_version_which_stays_the_way_back(registry: Registry) -> None:
    await serve(registry, 1, 2)
    assert [row.stage for row in registry.versions()] == [VersionStage.RETIRED, VersionStage.ACTIVE]
    assert registry.snapshot.previous == {ARCHITECT: name(1)}
    assert registry.snapshot.servable == {name(1), name(2)}
    assert [row.version for row in registry.wanted()] == [name(2), name(1)]


async def test_rolling_back_goes_step_by_step_to_the_base(registry: Registry) -> None:
    await serve(registry, 1, 2, 3)
    assert await registry.rollback(ARCHITECT, "worse", 20.0) == name(2)
    assert registry.snapshot.active == {ARCHITECT: name(2)}
    assert registry.snapshot.previous == {ARCHITECT: name(1)}
    assert name(3) not in registry.snapshot.servable
    assert await registry.rollback(ARCHITECT, "worse", 21.0) == name(1)
    assert await registry.rollback(ARCHITECT, "worse", 22.0) is None
    assert registry.snapshot.active == {}
    assert registry.snapshot.previous == {}
    assert {row.stage for row in registry.versions()} == {VersionStage.ROLLED_BACK}
    assert registry.events(1)[0].what == "base"
    with pytest.raises(AdapterError, match="no active version"):
        await registry.rollback(ARCHITECT, "worse", 23.0)


async def test_rolling_back_skips_versions_that_fell_meanwhile(registry: Registry) -> None:
    await serve(registry, 1, 2, 3)
    await registry.set_stage(name(2), VersionStage.QUARANTINED, "files changed on disk", 20.0)
    assert registry.snapshot.previous == {ARCHITECT: name(1)}
    assert await registry.rollback(ARCHITECT, "worse", 21.0) == name(1)


async def test_the_way_back_is_the_last_to_retire_whatever_its_number_or_the_clock(registry: Registry) -> None:
    await serve(registry, 1, 2)
    await registry.activate(name(1), "by hand", -5.0)
    assert registry.snapshot.previous == {ARCHITECT: name(2)}
    await serve(registry, 3)
    assert registry.snapshot.previous == {ARCHITECT: name(1)}


async def test_an_active_version_that_falls_leaves_its_alias_empty(registry: Registry) -> None:
    await serve(registry, 1)
    await registry.set_stage(name(1), VersionStage.QUARANTINED, "bytes differ", 20.0)
    assert registry.snapshot.active == {}
    assert registry.snapshot.servable == frozenset()
    assert registry.wanted() == []


async def test_a_fallen_version_serves_again_only_by_override_and_a_quarantined_one_never(registry: Registry) -> None:
    await add(registry, 1, 2)
    await registry.set_stage(name(1), VersionStage.REJECTED, "no gain", 3.0, {"p": 0.4})
    await registry.set_stage(name(2), VersionStage.QUARANTINED, "bytes differ", 3.0)
    with pytest.raises(AdapterError, match="no gain"):
        await registry.activate(name(1), "again", 4.0)
    await registry.activate(name(1), "the owner insists", 5.0, override=True)
    row = registry.version(name(1))
    assert row is not None
    assert (row.stage, row.reason, row.report) == (VersionStage.ACTIVE, "the owner insists", {"p": 0.4})
    with pytest.raises(AdapterError):
        await registry.activate(name(2), "again", 6.0, override=True)
    assert registry.active == {ARCHITECT: name(1)}


async def test_activating_the_active_version_changes_nothing(registry: Registry) -> None:
    await serve(registry, 1, 2)
    before = registry.events(100)
    assert await registry.activate(name(2), "again", 9.0) is None
    assert registry.events(100) == before


async def test_moves_that_make_no_sense_are_refused_and_change_nothing(registry: Registry) -> None:
    await add(registry, 1)
    before = registry.events(100)
    with pytest.raises(AdapterError, match="no version"):
        await registry.activate(name(9), "x", 1.0)
    with pytest.raises(AdapterError, match="activate it"):
        await registry.set_stage(name(1), VersionStage.ACTIVE, "x", 1.0)
    with pytest.raises(AdapterError, match="cannot retire"):
        await registry.set_stage(name(1), VersionStage.RETIRED, "x", 1.0)
    with pytest.raises(AdapterError, match="already there"):
        await add(registry, 1)
    with pytest.raises(AdapterError, match="already there"):
        await registry.add(VersionName("json-architect@v1-ffffffff"), Path("/x"), "f" * 64, {}, at=1.0)
    with pytest.raises(AdapterError):
        await registry.add(VersionName("json-architect"), Path("/x"), "f" * 64, {}, at=1.0)
    with pytest.raises(AdapterError):
        await registry.rollback(ARCHITECT, "x", 1.0, VersionStage.ACTIVE)
    assert registry.events(100) == before


async def test_adapters_do_not_disturb_each_other(registry: Registry) -> None:
    await serve(registry, 1)
    await add(registry, 1, 2, adapter=VOICE)
    registry.mark_loaded(registry.loaded | {name(2, VOICE)})
    await registry.activate(name(2, VOICE), "passed", 3.0)
    assert registry.snapshot.active == {ARCHITECT: name(1), VOICE: name(2, VOICE)}
    await registry.rollback(VOICE, "worse", 4.0)
    assert registry.snapshot.active == {ARCHITECT: name(1)}
    assert await registry.next_number(VOICE) == 3
    assert await registry.next_number(AdapterName("new")) == 1
    assert [row.adapter for row in registry.versions(VOICE)] == [VOICE, VOICE]


async def test_aliases_may_be_known_before_they_have_a_version(db: Database) -> None:
    registry = Registry(db, adapters=[VOICE])
    assert registry.snapshot.adapters == {VOICE}
    await registry.load()
    registry.know_adapters([ARCHITECT])
    assert registry.snapshot.adapters == {VOICE, ARCHITECT}


async def test_history_tells_each_decision_with_its_reason_newest_first(registry: Registry) -> None:
    await serve(registry, 1, 2)
    await registry.rollback(ARCHITECT, "4 of 8 replies were invalid", 30.0)
    told = [(event.version, event.what, event.reason) for event in registry.events(4)]
    assert told == [
        (name(1), "active", "rolled back to: 4 of 8 replies were invalid"),
        (name(2), "rolled_back", "4 of 8 replies were invalid"),
        (name(2), "active", "passed"),
        (name(1), "retired", f"{name(2)} became active"),
    ]


async def test_a_restart_finds_the_same_versions_and_history_but_nothing_loaded(
    db: Database, registry: Registry
) -> None:
    await serve(registry, 1, 2)
    await registry.set_stage(name(2), VersionStage.QUARANTINED, "bytes differ", 20.0, {"items": [1, 2]})
    again = Registry(db)
    await again.load()
    assert again.versions() == registry.versions()
    assert again.events(100) == registry.events(100)
    assert again.loaded == frozenset()
    assert again.snapshot.active == {}
    assert again.snapshot.previous == registry.snapshot.previous


async def test_a_write_that_fails_leaves_memory_as_the_file_has_it(
    db: Database, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve(registry, 1, 2)
    before = registry.snapshot

    async def fail(*_: object) -> int:
        raise StoreError("the disk is full", hint="free some space")

    monkeypatch.setattr("gaiad.registry._append_event", fail)
    with pytest.raises(StoreError):
        await registry.rollback(ARCHITECT, "worse", 30.0)
    assert registry.snapshot is before
    monkeypatch.undo()
    again = Registry(db)
    await again.load()
    assert again.versions() == registry.versions()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_done_one_version_at_most_is_active_and_the_fallen_serve_never(
    db: Database, registry: Registry, seed: int
) -> None:
    dice = random.Random(seed)
    for step in range(60):
        versions = [row.version for row in registry.versions()]
        move = dice.choice(["add", "activate", "activate", "stage", "rollback", "loaded"])
        try:
            if move == "add":
                await add(registry, await registry.next_number(ARCHITECT))
            elif move == "rollback":
                await registry.rollback(ARCHITECT, "dice", step, dice.choice([*FALLEN, VersionStage.RETIRED]))
            elif move == "loaded":
                registry.mark_loaded(frozenset(version for version in versions if dice.random() < 0.7))
            elif versions and move == "activate":
                await registry.activate(dice.choice(versions), "dice", step, override=dice.random() < 0.3)
            elif versions:
                await registry.set_stage(dice.choice(versions), dice.choice([*VersionStage]), "dice", step)
        except AdapterError:
            continue
        finally:
            check(registry)
    again = Registry(db)
    await again.load()
    assert again.versions() == registry.versions()


def check(registry: Registry) -> None:
    snapshot = registry.snapshot
    stage = {row.version: row.stage for row in registry.versions()}
    assert list(stage.values()).count(VersionStage.ACTIVE) <= 1
    served = {*snapshot.active.values(), *snapshot.previous.values(), *snapshot.servable}
    assert not {version for version in served if stage[version] in FALLEN | {VersionStage.CANDIDATE}}
    assert {*snapshot.active.values(), *snapshot.servable} <= registry.loaded
    assert not {*snapshot.active.values()} & {*snapshot.previous.values()}
