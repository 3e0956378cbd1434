"""Erasing: rows, files, and the adapters that learned from them, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gaiad.adapter import VersionName
from gaiad.config import StoreConfig
from gaiad.eraser import Eraser
from gaiad.erasure import Kind, Phase, Selector
from gaiad.erasures import Erasure, Erasures
from gaiad.errors import Refuse, StoreError
from gaiad.exchange import ExchangeRecord
from gaiad.learner.artifacts import WEIGHTS
from tests.integration.learner_world import ARCHITECT, World, corrected_exchange, until, world

ADA = Selector(Kind.USER, "ada")
BO = Selector(Kind.USER, "bo")
CANARY = "USER REQUEST: who hid the zyrcanary lantern in the old mill?"
OTHERS = "USER REQUEST: which bridge did the grey tram cross at noon?"


async def _nothing() -> None:
    """There is no recorder here: what is kept is kept at once."""


def an_eraser(w: World, erasures: Erasures | None = None) -> Eraser:
    return Eraser(
        config=w.config,
        erasures=erasures or Erasures(w.database),
        conversations=w.conversations,
        registry=w.registry,
        cycles=w.cycles,
        learner=w.loop,
        flush=_nothing,
    )


@asynccontextmanager
async def running(eraser: Eraser) -> AsyncIterator[Eraser]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(eraser.run(), name="eraser")
        yield eraser
        task.cancel()


async def erased(w: World, selector: Selector = ADA) -> dict[str, Any]:
    async with running(an_eraser(w)) as eraser:
        report = await eraser.erase(selector, "test")
    assert isinstance(report, dict), report
    return report


def files_with(folder: Path, words: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and words in path.read_bytes()]


async def three_versions(w: World) -> list[VersionName]:
    """The first knows nobody's exchanges, the second bo's, the third, which is active, bo's and ada's."""
    versions = []
    for name, words, user in (("", "", ""), ("bo1", OTHERS, "bo"), ("ada1", CANARY, "ada")):
        if name:
            await corrected_exchange(w, name, words, user=user)
        row = await w.train()
        assert row.verdict == "promoted", row.reason
        assert w.active is not None
        versions.append(w.active)
    return versions


def stages(w: World) -> dict[str, str]:
    return {row.version: row.stage.value for row in w.registry.versions()}


def another_place(folder: Path) -> Path:
    made = folder / "another"
    made.mkdir()
    return made


async def test_an_erasure_reaches_rows_files_and_the_right_versions_and_no_others(
    tmp_path: Path, store_at: StoreConfig, on_disk: Callable[[], bytes]
) -> None:
    async with world(tmp_path, store=store_at) as w:
        first, second, third = await three_versions(w)
        # The search finds what is there before, so that finding nothing afterwards means something.
        assert files_with(tmp_path, b"zyrcanary")
        assert b"zyrcanary" in on_disk()
        path = w.registry.versions()[2].path
        report = await erased(w)
        assert report["signed_off"] is True, report
        assert [row["version"] for row in report["versions"]] == [third]
        assert stages(w) == {first: "retired", second: "active", third: "quarantined"}
        assert w.active == second
        assert report["exchange_ids"] == ["ada1"]
        assert files_with(tmp_path, b"zyrcanary") == []
        assert b"zyrcanary" not in on_disk()
        # A server has places of its own, which the report has to name.
        assert bool(report["beyond"]) is bool(store_at.url)
        assert not (path / WEIGHTS).exists()
        assert third not in w.engine.adapters
        # What others said is untouched, and the bare row stays.
        assert b"grey tram" in on_disk()
        kept = await w.conversations.exchange("ada1")
        assert kept is not None
        assert (kept["decision"], kept["request"], kept["user"]) == ("erased", None, None)


async def test_the_dataset_after_an_erasure_is_that_of_a_world_without_the_user(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await three_versions(w)
        await erased(w)
        # The same material gives the very dataset that the second cycle had, so there is nothing new to learn.
        answer = await w.loop.start_cycle(ARCHITECT)
        assert isinstance(answer, Refuse)
        row = await w.train(force=True)
        digest = row.dataset_digest
        (newest,) = (one for one in w.registry.versions() if one.version == w.active)
        assert newest.lineage["exchange_ids"] == ["bo1"]
    async with world(another_place(tmp_path)) as never:
        await corrected_exchange(never, "bo1", OTHERS, user="bo")
        assert (await never.train()).dataset_digest == digest
        # The digest tells such datasets apart at all.
        await corrected_exchange(never, "ada1", CANARY, user="ada")
        assert (await never.train()).dataset_digest != digest


async def test_where_no_version_is_clean_the_alias_falls_to_the_base(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        await w.train()
        report = await erased(w)
        assert report["versions"] == [
            {"version": w.registry.versions()[0].version, "adapter": ARCHITECT, "now_serves": None}
        ]
        assert w.active is None


async def test_a_cycle_that_holds_the_exchange_ends_and_its_version_never_serves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        w.engine.exam_gate.clear()
        name = await w.loop.start_cycle(ARCHITECT)
        await until(lambda: w.engine.waiting > 0)
        async with asyncio.TaskGroup() as tasks:
            erasing = tasks.create_task(erased(w), name="erasing")
            row = await w.ended(str(name))
            w.engine.exam_gate.set()
        assert row.verdict == "cancelled"
        assert erasing.result()["signed_off"] is True
        assert w.active is None
        assert set(stages(w).values()) == {"quarantined"}
        assert files_with(tmp_path, b"zyrcanary") == []


class Faulty(Erasures):
    """Has a bug where rows are deleted."""

    async def purge(self, erasure: Erasure) -> Erasure:
        raise RuntimeError("a bug")


async def test_a_bug_in_an_erasure_ends_neither_the_daemon_nor_the_erasure(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        _, second, _ = await three_versions(w)
        async with running(an_eraser(w, Faulty(w.database))) as eraser:
            assert isinstance(await eraser.erase(ADA, "test"), Refuse)
            # The alias flipped before anything could go wrong, and the next order is still taken.
            assert w.active == second
            assert isinstance(await eraser.erase(BO, "test"), Refuse)
        assert [one.phase for one in await Erasures(w.database).unfinished()] == [Phase.SET_ASIDE, Phase.SET_ASIDE]


class Dying(Erasures):
    """The daemon ends just before the n-th time that a phase is written down."""

    def __init__(self, w: World, after: int) -> None:
        super().__init__(w.database)
        self.notes_left = after

    async def note(self, erasure: Erasure) -> None:
        if self.notes_left == 0:
            raise StoreError("the daemon ends here", hint="start it again")
        self.notes_left -= 1
        await super().note(erasure)


@pytest.mark.parametrize("after", range(7))
async def test_an_erasure_cut_off_anywhere_is_gone_on_with_by_the_next_daemon(
    tmp_path: Path, store_at: StoreConfig, on_disk: Callable[[], bytes], after: int
) -> None:
    async with world(tmp_path, store=store_at) as w:
        first, second, third = await three_versions(w)
        async with running(an_eraser(w, Dying(w, after))) as dying:
            assert isinstance(await dying.erase(ADA, "test"), Refuse)
        erasures = Erasures(w.database)
        assert [one.phase for one in await erasures.unfinished()] != []
        async with running(an_eraser(w)):
            async with asyncio.timeout(20):
                while await erasures.unfinished():  # noqa: ASYNC110  the rows are the eraser's to change
                    await asyncio.sleep(0.02)
        (done,) = await erasures.listed()
        assert (done.phase, done.report["signed_off"]) == (Phase.DONE, True)
        # The report says what went, whichever life it went in.
        report: Any = done.to_json()
        assert [row["version"] for row in report["versions"]] == [third]
        assert report["rows"] == {"exchange_contents": 1, "feedback": 1, "signals": 0}
        assert [len(report[what]) for what in ("datasets", "runs", "weights")] == [1, 1, 1]
        assert stages(w) == {first: "retired", second: "active", third: "quarantined"}
        assert files_with(tmp_path, b"zyrcanary") == []
        assert b"zyrcanary" not in on_disk()


def a_record(name: str, user: str, *, started: float) -> ExchangeRecord:
    return ExchangeRecord(
        request_id=name,
        at=started,
        user=user,
        purposes=frozenset({"log", "train"}),
        stage="tool_selection",
        stage_reason="header",
        status=200,
        started=started,
        total_ms=1.0,
        request={"messages": [{"role": "user", "content": CANARY}]},
    )


async def test_what_was_begun_before_the_erasure_is_not_kept_however_late_it_comes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, "ada1", CANARY)
        await w.conversations.grants.append("bo", "train", "grant", "test", 1.0)
        await erased(w)
        await w.conversations.keep([a_record("late", "ada", started=5.0), a_record("bo1", "bo", started=5.0)])
        late, others = await w.conversations.exchange("late"), await w.conversations.exchange("bo1")
        assert late is not None
        assert others is not None
        assert (late["request"], others["user"]) == (None, "bo")


async def test_a_dry_run_says_what_would_go_and_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        _, _, third = await three_versions(w)
        plan: Any = await an_eraser(w).plan(ADA)
        assert (plan["exchange_ids"], plan["versions"], len(plan["datasets"])) == (["ada1"], [third], 1)
        assert w.active == third
        assert files_with(tmp_path, b"zyrcanary")


@pytest.mark.parametrize("kind", ["conversation", "exchange"])
async def test_a_conversation_or_one_exchange_is_erased_alone(tmp_path: Path, store_at: StoreConfig, kind: str) -> None:
    async with world(tmp_path, store=store_at) as w:
        await w.conversations.grants.append("ada", "train", "grant", "test", 1.0)
        kept = [a_record("r1", "ada", started=2.0), a_record("r2", "ada", started=2.0)]
        await w.conversations.keep([in_conversation(kept[0], "c1"), in_conversation(kept[1], "c2")])
        report = await erased(w, Selector(Kind(kind), "c1" if kind == "conversation" else "r1"))
        assert report["exchange_ids"] == ["r1"]
        other = await w.conversations.exchange("r2")
        assert other is not None
        assert other["user"] == "ada"


def in_conversation(record: ExchangeRecord, name: str) -> ExchangeRecord:
    fields = {field: getattr(record, field) for field in record.__struct_fields__}
    return ExchangeRecord(**{**fields, "conversation": name})
