"""The learner's loop and what users agreed to: what it learns from, and when it stops."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gaiad.adapter import VersionName
from gaiad.errors import Refuse
from gaiad.exchange import Judgement
from gaiad.learner import cycle
from gaiad.learner.cycle import Command
from tests.integration.learner_world import ARCHITECT, World, corrected_exchange, until, world


async def test_a_corrected_exchange_is_something_new_and_its_id_is_kept_with_the_version(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.train()
        await corrected_exchange(w)
        row = await w.train()
        assert row.verdict == "promoted"
        assert w.active is not None
        version = w.registry.version(w.active)
        assert version is not None
        assert version.lineage["exchange_ids"] == ["r1"]


async def test_withdrawn_consent_ends_the_cycle_that_learns_from_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w)
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT)
        await w.gpu.training.wait()
        await w.conversations.grants.append("ada", "train", "revoke", "test", 4.0)
        await w.loop.consent_revoked("ada")
        row = await w.ended(str(name))
        assert (row.verdict, row.reason) == (
            "cancelled",
            "consent was withdrawn for 1 of the exchanges it learned from",
        )
        assert w.registry.versions(ARCHITECT) == []


async def test_consent_for_one_conversation_lets_it_be_learned_from_until_it_is_withdrawn_for_that_one(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, conversation="c1")
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT)
        await w.gpu.training.wait()
        await w.conversations.grants.append("ada", "train", "revoke", "test", 4.0, conversation="c2")
        await w.loop.consent_revoked("ada")
        assert w.loop._attempt is not None
        w.loop._steps.check_consent(w.loop._attempt)
        await w.conversations.grants.append("ada", "train", "revoke", "test", 4.0, conversation="c1")
        await w.loop.consent_revoked("ada")
        row = await w.ended(str(name))
        assert (row.verdict, row.reason) == (
            "cancelled",
            "consent was withdrawn for 1 of the exchanges it learned from",
        )


async def test_a_grant_that_ends_while_it_is_learned_from_ends_the_cycle_whatever_headers_may_do(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, header_may_grant=True) as w:
        grants, end = w.conversations.grants, time.time() + 1000.0
        await corrected_exchange(w, expires_at=end)
        w.engine.exam_gate.clear()
        name = await w.loop.start_cycle(ARCHITECT)
        await until(lambda: w.engine.waiting > 0)
        grants.clock = lambda: end
        w.engine.exam_gate.set()
        row = await w.ended(str(name))
        assert "consent was withdrawn for 1 of the exchanges" in (row.reason or "")
        assert w.registry.active == {}


async def test_newer_feedback_withdraws_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w)
        w.faults("slow")
        name = await w.loop.start_cycle(ARCHITECT)
        await w.gpu.training.wait()
        assert await w.conversations.feedback.add("r1", Judgement("good"), 5.0) is None
        await w.loop.consent_revoked("somebody")
        row = await w.ended(str(name))
        assert row.verdict == "promoted", row.reason


async def test_consent_withdrawn_after_the_exam_keeps_the_candidate_from_becoming_active(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w)
        w.engine.exam_gate.clear()
        name = await w.loop.start_cycle(ARCHITECT)
        await until(lambda: w.engine.waiting > 0)
        attempt = w.loop._attempt
        assert attempt is not None
        await w.conversations.grants.append("ada", "train", "revoke", "test", 4.0)
        event = await w.loop._write(attempt, Command.ACTIVATE)
        assert isinstance(event, cycle.Failed)
        assert "consent was withdrawn" in event.reason
        assert w.registry.active == {}
        w.engine.exam_gate.set()
        await w.ended(str(name))
        assert w.registry.active == {}


async def lineage_of(w: World, version: VersionName | None) -> dict[str, object]:
    assert version is not None
    row = w.registry.version(version)
    assert row is not None
    return dict(row.lineage)


async def test_an_exchange_that_the_trainer_cannot_use_is_named_as_left_out_and_not_as_learned(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w)
        await corrected_exchange(w, "r2", "USER REQUEST: which bridge did the grey tram cross at noon?")
        w.faults("leaves_out_r2")
        row = await w.train()
        assert row.verdict == "promoted", row.reason
        lineage = await lineage_of(w, w.active)
        assert (lineage["exchange_ids"], lineage["left_out_exchange_ids"]) == (["r1"], ["r2"])
        dataset: Any = (row.report or {})["dataset"]
        assert (dataset["exchange_ids"], dataset["left_out_exchange_ids"]) == (["r1"], ["r2"])
        # Nothing more can be learned from the same material, so it does not start again by itself.
        assert isinstance(await w.loop.start_cycle(ARCHITECT), Refuse)


async def test_a_request_that_carried_tools_is_not_learned_from(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await corrected_exchange(w, tools=[{"type": "function", "function": {"name": "x"}}])
        row = await w.train()
        assert row.verdict == "promoted", row.reason
        assert (await lineage_of(w, w.active))["exchange_ids"] == []
