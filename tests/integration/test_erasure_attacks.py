"""An erasure against what is in its way: copies, damage, what crashes left, strange names, a dead engine, no space."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gaiad import copies
from gaiad.adapter import AdapterName
from gaiad.erasure import Kind, Phase, Selector
from gaiad.erasures import Erasure, Erasures
from gaiad.errors import Refuse
from gaiad.learner import artifacts
from gaiad.learner.artifacts import WEIGHTS
from gaiad.learner.sources import catalogue
from tests.fakes.trainer import write_adapter
from tests.integration.learner_world import ARCHITECT, corrected_exchange, until, world
from tests.integration.test_erasure import (
    ADA,
    CANARY,
    OTHERS,
    Dying,
    a_record,
    an_eraser,
    erased,
    files_with,
    in_conversation,
    running,
    stages,
    three_versions,
)
from tests.integration.test_erasure_meanwhile import Meanwhile, erased_while
from tests.unit.test_aside import scribble

# --- copies of the store ----------------------------------------------------------------------------------------------


async def test_a_copy_made_while_it_is_erased_is_named_by_the_report_if_it_may_hold_any_of_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        early, late = tmp_path / "early.db", tmp_path / "late.db"
        hooks = [lambda: w.database.backup(early, 10.0), lambda: w.database.backup(late, 11.0)]
        report = await erased_while(w, Meanwhile(w, *hooks))
        assert early.as_posix() in {row["path"] for row in report["backups"] if row["there"]}
        assert files_with(tmp_path, b"zyrcanary") == [early]


async def test_what_a_copy_that_was_cut_off_left_is_named(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        target = tmp_path / "copy.db"
        assert await w.database.backup(target, 10.0) is None
        target.rename(copies.partial_of(target))
        (row,) = (await erased(w))["backups"]
        assert (row["path"], row["there"]) == (str(copies.partial_of(target)), True)


async def test_copies_are_named_even_where_a_crash_came_first_and_the_bare_rows_went_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        assert await w.database.backup(tmp_path / "copy.db", 10.0) is None
        async with running(an_eraser(w, Dying(w, after=1))) as dying:
            assert isinstance(await dying.erase(ADA, "test"), Refuse)
        await w.conversations.delete_old_metadata(1e12, 1000)
        async with running(an_eraser(w)) as eraser:
            await gone_on_with_by_itself(Erasures(w.database))
            (listed,) = await eraser.listed()
        assert listed["backups"] == [{"path": str(tmp_path / "copy.db"), "at": 10.0, "there": True}]


# --- a damaged store --------------------------------------------------------------------------------------------------


async def damaged_with_three_versions(folder: Path, table: str) -> None:
    async with world(folder) as w:
        await three_versions(w)
        path = w.database.path
    scribble(path, table)


async def test_what_a_store_that_was_set_aside_still_holds_counts_and_the_store_is_named(tmp_path: Path) -> None:
    await damaged_with_three_versions(tmp_path, "signals")
    async with world(tmp_path) as w:
        (aside,) = w.database.set_aside
        first, second, third = (row.version for row in w.registry.versions())
        assert await w.conversations.exchange("ada1") is None
        # Ada comes back: what is kept of her now is newer than the damage.
        await w.conversations.grants.append("ada", "train", "grant", "test", 1e10)
        await w.conversations.keep([msgspec.structs.replace(a_record("ada2", "ada", started=2e9), at=2e9)])
        report = await erased(w)
        assert report["exchange_ids"] == ["ada1", "ada2"]
        assert stages(w) == {first: "retired", second: "active", third: "quarantined"}
        assert {row["path"] for row in report["backups"]} == {aside.path}
        assert (report["unread"], report["signed_off"]) == ([], True)
        assert files_with(tmp_path, b"zyrcanary") == [Path(aside.path)]


async def test_a_store_that_was_set_aside_and_cannot_be_read_keeps_the_sign_off_until_it_is_deleted(
    tmp_path: Path,
) -> None:
    await damaged_with_three_versions(tmp_path, "exchange_contents")
    async with world(tmp_path) as w:
        (aside,) = w.database.set_aside
        plan = await an_eraser(w).plan(ADA)
        assert plan["unread"] == [aside.path]
        report = await erased(w)
        assert (report["unread"], report["checks"]["unread"], report["signed_off"]) == ([aside.path], 1, False)
        assert [row["path"] for row in report["backups"]] == [aside.path]
        await asyncio.to_thread(Path(aside.path).unlink)
        assert (await erased(w))["signed_off"] is True


# --- what crashes left ------------------------------------------------------------------------------------------------


async def test_a_dataset_cut_off_within_a_character_holds_nothing_up(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for name, user in (("bo1", "bo"), ("ada1", "ada")):
            await corrected_exchange(w, name, CANARY if user == "ada" else OTHERS, user=user)
            await w.train()
        cut = '{"messages": [{"content": "€'.encode()[:-1]
        for whole in sorted(w.config.datasets_dir.glob("*/train.jsonl")):
            torn = w.config.datasets_dir / f".freezing-{b'zyrcanary' in whole.read_bytes()}"
            torn.mkdir()
            (torn / "train.jsonl").write_bytes(whole.read_bytes() + cut)
        report = await erased(w)
        assert report["signed_off"] is True
        assert ".freezing-True" in report["datasets"]
        left = sorted(path.name for path in w.config.datasets_dir.glob(".freezing-*"))
        assert left == [".freezing-False"]
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_what_a_killed_daemon_left_half_made_is_gone_once_the_next_one_is_up(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        left = [
            w.config.runs_dir / "cycle" / "staging" / WEIGHTS,
            # Cut off before the line says which exchange it came from.
            w.config.datasets_dir / f"{catalogue.FREEZING}x" / "train.jsonl",
            w.config.adapters_dir / ARCHITECT / f"{artifacts.PUBLISHING}x" / WEIGHTS,
        ]
        for path in left:
            path.parent.mkdir(parents=True)
            path.write_bytes(CANARY.encode())
    async with world(tmp_path):
        assert [path for path in left if path.exists()] == []


async def test_weights_that_were_published_and_never_registered_go_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        await corrected_exchange(w, "bo1", user="bo")
        made = []
        for number, ids in ((7, ["bo1", "ada1"]), (8, ["bo1"])):
            write_adapter(tmp_path / "staging")
            made.append(
                artifacts.publish(
                    tmp_path / "staging",
                    w.config.adapters_dir,
                    adapter=ARCHITECT,
                    number=number,
                    lineage={"kind": "train", "exchange_ids": [*ids]},
                )
            )
        report = await erased(w)
        assert [(one.path / WEIGHTS).exists() for one in made] == [False, True]
        assert (report["weights"], report["signed_off"]) == ([made[0].version], True)


async def test_a_bug_that_quotes_what_was_said_leaves_none_of_it_in_history_or_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)

        def broken(*given: Any, **more: Any) -> Any:
            raise KeyError(CANARY)

        monkeypatch.setattr(catalogue, "gather", broken)
        answer = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(answer, Refuse)
        assert "KeyError in freeze" in answer.reason
        await erased(w)
        assert files_with(tmp_path, b"zyrcanary") == []
    printed = capsys.readouterr()
    assert "in broken" in printed.out
    assert "zyrcanary" not in printed.out + printed.err


# --- who is meant -----------------------------------------------------------------------------------------------------


async def test_a_conversation_that_two_users_named_alike_is_each_ones_own_until_it_is_named_itself(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        for user in ("ada", "bo"):
            await w.conversations.grants.append(user, "train", "grant", "test", 1.0)
            await w.conversations.keep([in_conversation(a_record(f"{user}1", user, started=2.0), "c1")])
        assert (await erased(w))["exchange_ids"] == ["ada1"]
        # Nor is what bo begun before kept from being kept.
        await w.conversations.keep([in_conversation(a_record("bo2", "bo", started=2.0), "c1")])
        assert (await erased(w, Selector(Kind.CONVERSATION, "c1")))["exchange_ids"] == ["bo1", "bo2"]


@pytest.mark.parametrize("name", ["Zoë van der Berg", "李 小龙", "a'; DROP TABLE exchanges; --", "%", "x" * 200])
async def test_a_user_is_found_by_any_name_that_users_may_have_and_nobody_else_is(tmp_path: Path, name: str) -> None:
    async with world(tmp_path) as w:
        for user in (name, "ada"):
            await w.conversations.grants.append(user, "train", "grant", "test", 1.0)
            await w.conversations.keep([a_record(f"of-{user == name}", user, started=2.0)])
        report = await erased(w, Selector(Kind.USER, name))
        assert (report["exchange_ids"], report["asked"]["name"]) == (["of-True"], name)


async def test_a_name_that_the_store_cannot_hold_is_refused_and_the_next_order_is_taken(tmp_path: Path) -> None:
    async with world(tmp_path) as w, running(an_eraser(w)) as eraser:
        assert isinstance(await eraser.erase(Selector(Kind.USER, "\ud800"), "test"), Refuse)
        assert isinstance(await eraser.erase(ADA, "test"), dict)


# --- versions ---------------------------------------------------------------------------------------------------------


async def test_where_every_version_is_stained_the_base_serves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for number, thing in enumerate(("lantern", "ladder", "compass")):
            await corrected_exchange(w, f"ada{number}", f"USER REQUEST: who hid the {thing} of zyrcanary?")
            await w.train()
        report = await erased(w)
        assert {row["now_serves"] for row in report["versions"]} == {None}
        assert (set(stages(w).values()), w.active, w.engine.adapters) == ({"quarantined"}, None, {})


async def test_an_import_of_stained_weights_is_stained_and_cannot_be_brought_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        _, second, third = await three_versions(w)
        own, foreign = tmp_path / "own", tmp_path / "foreign"
        shutil.copytree(w.registry.versions()[2].path, own)
        write_adapter(foreign, rank=8)
        answers: list[Any] = [await w.loop.import_adapter(each, ARCHITECT, False, "") for each in (own, foreign)]
        twin, other = (answer["version"] for answer in answers)
        await erased(w)
        found = stages(w)
        assert (found[third], found[twin], found[other], found[second]) == (
            "quarantined",
            "quarantined",
            "active",
            "retired",
        )
        again = await w.loop.import_adapter(own, AdapterName(ARCHITECT), True, "I want it back")
        assert isinstance(again, dict)
        assert (again["verdict"], "learned from what was erased" in str(again["reason"])) == ("failed", True)


async def test_a_failed_cycle_leaves_neither_run_nor_dataset_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        w.faults("die")
        row = await w.train()
        assert (row.verdict, (w.config.runs_dir / row.id).is_dir()) == ("failed", True)
        report = await erased(w)
        assert (report["runs"], len(report["datasets"])) == ([row.id], 1)
        assert not (w.config.runs_dir / row.id).exists()
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_while_the_engine_is_down_it_is_not_signed_off_however_often_it_is_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        _, second, third = await three_versions(w)
        w.loop._slots._patience_s = 0.1
        w.engine.broken = True
        path = w.registry.versions()[2].path
        async with running(an_eraser(w)) as eraser:
            for _ in range(2):
                answer = await eraser.erase(ADA, "test")
                assert isinstance(answer, Refuse)
                assert f"may still have {third}" in answer.reason
            # All but the weights is done, and it is one erasure.
            assert len(await eraser.listed()) == 1
            assert (w.active, files_with(tmp_path, b"zyrcanary")) == (second, [])
            assert (path / WEIGHTS).exists()
            w.engine.broken = False
            w.loop.tick()
            await until(lambda: third not in w.engine.adapters)
            assert isinstance(await eraser.erase(ADA, "test"), dict)
            report = (await eraser.listed())[-1]
        assert (report["exchange_ids"], report["signed_off"]) == (["ada1"], True)
        assert not (path / WEIGHTS).exists()


# --- a store that cannot be written -----------------------------------------------------------------------------------


async def test_a_store_that_is_locked_is_said_so_and_nothing_is_half_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.sqlite_file.BUSY_TIMEOUT_MS", 50)
    async with world(tmp_path) as w:
        _, _, third = await three_versions(w)
        async with running(an_eraser(w)) as eraser:
            with closing(sqlite3.connect(w.database.path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                answer = await eraser.erase(ADA, "test")
                other.execute("ROLLBACK")
            assert isinstance(answer, Refuse)
            assert "nothing was erased" in answer.reason
            assert (w.active, await eraser.listed()) == (third, [])
            assert isinstance(await eraser.erase(ADA, "test"), dict)


async def gone_on_with_by_itself(erasures: Erasures) -> Erasure:
    async with asyncio.timeout(20):
        while await erasures.unfinished():  # noqa: ASYNC110  the rows are the eraser's to change
            await asyncio.sleep(0.02)
    (done,) = await erasures.listed()
    return done


async def test_while_somebody_reads_the_old_pages_it_waits_and_then_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.sqlite_file.BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr("gaiad.eraser.RETRY_S", 0.1)
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        erasures = Erasures(w.database)
        async with running(an_eraser(w)) as eraser:
            with closing(sqlite3.connect(w.database.path, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM exchange_contents").fetchone()
                assert isinstance(await eraser.erase(ADA, "test"), Refuse)
                (waiting,) = await erasures.unfinished()
                assert waiting.phase is Phase.PURGED
            done = await gone_on_with_by_itself(erasures)
        assert done.report["signed_off"] is True
        assert files_with(tmp_path, b"zyrcanary") == []


async def test_on_a_full_disk_it_stops_and_ends_by_itself_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.eraser.RETRY_S", 0.1)
    async with world(tmp_path) as w:
        _, second, third = await three_versions(w)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        async def fill() -> None:
            # No file of this process can grow any more.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

        try:
            # What is logged goes to a file here, which could not grow either.
            with capture_logs():
                async with running(an_eraser(w, Meanwhile(w, before=fill))) as eraser:
                    answer = await eraser.erase(ADA, "test")
                    assert isinstance(answer, Refuse)
                    assert "not finished" in answer.reason
                    assert w.active == second
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        async with running(an_eraser(w)):
            done = await gone_on_with_by_itself(Erasures(w.database))
        assert done.report["signed_off"] is True
        assert stages(w)[third] == "quarantined"
        assert files_with(tmp_path, b"zyrcanary") == []
