"""`gaiadctl curriculum propose|replay` as a process, against an engine that is away, slow, broken, or well."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gaiad.adapter import AdapterName, RegistrySnapshot
from gaiad.cli.output import DONE, FAILED, INTERRUPTED, REFUSED
from gaiad.config import Config, ConsentConfig
from gaiad.conversations import Conversations
from gaiad.db import Database
from gaiad.learner.inquiry import MOST_OF_REFUSED
from gaiad.learner.made_file import rows_in
from gaiad.learner.self_made import KEPT, Base, Made
from gaiad.learner.sources.source import shipped_curricula
from gaiad.proxy.app import listen
from tests.fakes.proxy_world import ACTIVE, Facts, world_of
from tests.fakes.vllm_process import ROOT, RunningVllm, free_port

REWORDED = "By the way, it would be good to "
QUICK = ("--tries", "1", "--timeout", "5", "--ask", "24", "--keep", "6")


@dataclass
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


async def started(*words: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "gaiad.cli", "curriculum", *words, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe)


async def run(*words: str) -> Outcome:
    child = await started(*words)
    out, err = await child.communicate()
    assert child.returncode is not None
    return Outcome(child.returncode, out.decode(), err.decode())


def at(engine: RunningVllm, path: Path, *words: str) -> tuple[str, ...]:
    return ("--url", engine.url, "--model", "fake-base", "--out", str(path), *QUICK, *few(path), *words)


def few(path: Path) -> tuple[str, str]:
    """A place with one small curriculum, quicker to read than the shipped ones."""
    folder = path.parent / "few" / "json-architect"
    if not folder.exists():
        folder.mkdir(parents=True)
        spec = json.loads((shipped_curricula() / folder.name / "curriculum.json").read_text("utf-8"))
        sources = [{"kind": "jsonl", "options": {"file": "rows.jsonl"}}]
        (folder / "curriculum.json").write_text(json.dumps({**spec, "sources": sources, "profiles": {"full": {}}}))
        row = {"prompt": "What is the capital of Peru?", "completion": "Lima", "stage": "intent"}
        (folder / "rows.jsonl").write_text(json.dumps(row))
    return "--curricula", str(folder.parent)


def rows(path: Path) -> list[Made]:
    return [row for _, row in rows_in(path)[0] if isinstance(row, Made)]


def content(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


def write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made.jsonl"


async def test_proposals_that_pass_are_kept_with_their_provenance_and_the_others_with_their_reason(
    engine: RunningVllm, path: Path
) -> None:
    await engine.fault(reworded=REWORDED)
    done = await run(
        "propose", "json-architect", *at(engine, path, "--seed", "3", "--curricula", str(shipped_curricula()))
    )
    found = rows(path)
    assert done.code == DONE, done.err
    assert done.answer["kept"] == sum(row.is_kept for row in found) >= 6
    assert done.answer["proposed"] == len(found)
    assert sum(done.answer["refused"].values()) == len(found) - done.answer["kept"]
    assert (done.answer["base"]["served"], done.answer["ended"]) == ("fake-base", "enough is kept")
    assert done.answer["not_asked"]
    for row in found:
        assert row.text == REWORDED + row.request
        assert row.asked.endswith(row.request)
        assert set(row.sampling) == {"temperature", "top_p", "max_tokens", "seed"}
        assert (row.base.engine, row.at[:2]) == ("0.32.0", "20")
    sent = (await engine.seen())[0]["body"]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("fake-base", 0.8, 96)
    assert sent["seed"] in {row.sampling["seed"] for row in found}


async def test_replies_to_general_requests_are_kept_once_and_a_second_run_goes_on_where_the_first_ended(
    engine: RunningVllm, path: Path
) -> None:
    first = await run("replay", *at(engine, path, "--keep", "3"))
    assert first.code == DONE, first.err
    before = rows(path)
    second = await run("replay", *at(engine, path, "--keep", "8"))
    after = rows(path)
    assert after[: len(before)] == before
    assert second.answer["kept_in_all"] == first.answer["kept"] + second.answer["kept"] >= 8
    assert len({row.key for row in after}) == len(after)
    third = await run("replay", *at(engine, path, "--keep", "8"))
    assert (third.code, third.answer["proposed"]) == (DONE, 0)
    assert rows(path) == after


async def test_the_same_reply_to_everything_is_kept_once_and_everything_was_asked(
    engine: RunningVllm, path: Path
) -> None:
    await engine.fault(reply="The tide comes in slowly, and it goes out again.")
    done = await run("replay", *at(engine, path))
    assert (done.code, done.answer["kept"], done.answer["proposed"]) == (DONE, 1, 24)
    assert done.answer["refused"] == {"it said the same to another request": 23}
    assert done.answer["ended"] == "everything was asked"


async def test_what_is_cut_off_is_refused_and_nothing_kept_is_a_failure(engine: RunningVllm, path: Path) -> None:
    await engine.fault(finish_reason="length")
    done = await run("replay", *at(engine, path))
    assert (done.code, done.answer["refused"]) == (FAILED, {"it was cut off at its length": 24})
    assert len(rows(path)) == 24


async def test_an_engine_that_is_away_is_said_with_what_to_try_and_leaves_no_file(path: Path) -> None:
    nowhere = ("--url", f"http://127.0.0.1:{free_port()}", "--out", str(path), *QUICK, *few(path))
    done = await run("replay", *nowhere)
    assert (done.code, done.out.count("nobody listens there")) == (FAILED, 1)
    assert "Try: see gaiadctl status" in done.err
    assert content(path) is None


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"garbage": "<html>busy</html>"}, "its answer is none of a chat interface"),
        ({"garbage": '{"choices": []}'}, "its answer is none of a chat interface"),
        ({"garbage": "[" * 100_000}, "its answer is none of a chat interface"),
        ({"status": 500, "message": "the engine core died"}, "status 500, the engine core died"),
        ({"die_after": 0}, "the connection broke off"),
        ({"hang": True}, "no answer within 0.3 s"),
    ],
)
async def test_an_engine_that_answers_nothing_usable_ends_the_run_with_its_reason(
    faults: Mapping[str, Any], told: str, engine: RunningVllm, path: Path
) -> None:
    await engine.fault(**faults)
    done = await run("replay", *at(engine, path, "--timeout", "0.3" if "hang" in faults else "5"))
    assert done.code == FAILED
    assert f"no usable answer from {engine.url}: {told}" in done.err
    assert content(path) is None


async def test_what_was_made_before_the_engine_went_away_is_kept_and_not_asked_again(
    engine: RunningVllm, path: Path
) -> None:
    child = await started("replay", *at(engine, path, "--keep", "500", "--ask", "500", "--concurrency", "1"))
    await engine.until_seen(4, within_s=60)
    await engine.fault(status=503, message="down")
    out, err = await child.communicate()
    assert child.returncode == FAILED, out
    assert "are kept so far for" in err.decode()
    before = rows(path)
    assert len(before) >= 3
    await engine.reset()
    done = await run("replay", *at(engine, path, "--keep", str(len(before) + 2)))
    assert done.code == DONE
    assert rows(path)[: len(before)] == before
    asked = [row["body"]["messages"][-1]["content"] for row in await engine.seen()]
    assert not set(asked) & {row.request for row in before}


async def test_a_passing_failure_is_tried_again(engine: RunningVllm, path: Path) -> None:
    await engine.fault(status=503, message="busy", status_times=2, retry_after=0)
    done = await run("replay", *at(engine, path, "--tries", "3", "--concurrency", "1", "--keep", "2"))
    assert (done.code, done.answer["failed"]) == (DONE, {})


async def test_a_lasting_refusal_ends_the_run_at_once_with_what_to_try(engine: RunningVllm, path: Path) -> None:
    await engine.fault(status=404, message="no such model")
    done = await run("replay", *at(engine, path))
    assert done.code == FAILED
    assert "status 404" in done.err
    assert "--model" in done.err
    assert len(await engine.seen()) <= 4


async def test_words_of_an_adapter_are_never_taken_for_the_bases(engine: RunningVllm, path: Path) -> None:
    name = AdapterName("json-architect")
    await engine.reset(name, ACTIVE)
    world = world_of(engine.url)
    world.facts = Facts(served_name="fake-base")
    world.snapshot = RegistrySnapshot(frozenset({name}), {name: ACTIVE}, servable=frozenset({ACTIVE}))
    runner = await listen(world.deps(), "127.0.0.1", 0)
    try:
        host, port = runner.addresses[0][:2]
        for url in (engine.url, f"http://{host}:{port}"):
            for model in (name, ACTIVE, "nobody"):
                named = ("--url", url, "--model", model, "--out", str(path), *QUICK, *few(path))
                done = await run("replay", *named)
                assert (done.code, f"lists no base model '{model}'" in done.err) == (FAILED, True)
                assert "fake-base" in done.err
    finally:
        await runner.cleanup()
    assert content(path) is None
    assert await engine.seen() == []


async def test_time_that_is_up_keeps_what_was_made_and_says_not_yet(engine: RunningVllm, path: Path) -> None:
    await engine.fault(token_delay_s=0.05)
    done = await run("replay", *at(engine, path, "--keep", "900", "--ask", "900", "--deadline", "3"))
    assert (done.code, done.answer["ended"]) == (REFUSED, "time is up")
    assert len(rows(path)) == done.answer["proposed"] > 0


async def test_ctrl_c_keeps_what_was_made(engine: RunningVllm, path: Path) -> None:
    child = await started("replay", *at(engine, path, "--keep", "900", "--ask", "900", "--concurrency", "1"))
    await engine.until_seen(5, within_s=60)
    child.send_signal(signal.SIGINT)
    await child.communicate()
    assert child.returncode == INTERRUPTED
    assert len(rows(path)) >= 4


async def test_what_was_begun_anew_replaces_the_file_only_once_it_ends_by_itself_with_something_kept(
    engine: RunningVllm, path: Path
) -> None:
    await run("replay", *at(engine, path))
    good = content(path)
    await engine.reset()
    child = await started("replay", *at(engine, path, "--anew", "--keep", "900", "--ask", "900", "--concurrency", "1"))
    await engine.until_seen(4, within_s=60)
    child.send_signal(signal.SIGINT)
    await child.communicate()
    assert (child.returncode, content(path)) == (INTERRUPTED, good)
    await engine.fault(reply="x" * 5000)
    done = await run("replay", *at(engine, path, "--anew"))
    assert (done.code, done.answer["published"], content(path)) == (FAILED, False, good)
    await engine.fault(reply=None)
    done = await run("replay", *at(engine, path))
    assert (done.code, done.answer["published"]) == (DONE, True)
    assert not any(row.is_kept for row in rows(path)[:24])
    assert max(len(row.text) for row in rows(path)) == MOST_OF_REFUSED


async def test_proposals_for_requests_that_are_gone_do_not_count_and_are_told(engine: RunningVllm, path: Path) -> None:
    said, base = "By the way, what was it?", Base("fake-base", "0.32.0")
    gone = Made("x/0", "x", "g/0", "what was it?", "asked", said, "stop", KEPT, {"seed": 1}, base, "2026-01-02")
    write(path, gone.line())
    await engine.fault(reworded=REWORDED)
    shipped = ("--curricula", str(shipped_curricula()))
    done = await run("propose", "json-architect", *at(engine, path, "--seed", "3", "--keep", "1", *shipped))
    assert done.code == DONE, done.err
    assert done.answer["kept"] == done.answer["kept_in_all"] >= 1
    assert done.answer["outdated"] == 1


async def test_a_killed_run_leaves_the_old_file_whole_and_the_next_one_takes_its_rows_up(
    engine: RunningVllm, path: Path
) -> None:
    await run("replay", *at(engine, path, "--keep", "2"))
    before = content(path)
    await engine.reset()
    child = await started("replay", *at(engine, path, "--keep", "900", "--ask", "900", "--concurrency", "1"))
    await engine.until_seen(5, within_s=60)
    child.kill()
    await child.communicate()
    assert content(path) == before
    asked = {row["body"]["messages"][-1]["content"] for row in await engine.seen()}
    await engine.reset()
    await run("replay", *at(engine, path, "--keep", "900", "--ask", "2"))
    again = {row["body"]["messages"][-1]["content"] for row in await engine.seen()}
    assert len(asked & again) <= 1
    assert str(content(path)).startswith(str(before))
    assert len(rows(path)) >= 2 + 4


async def test_no_more_are_asked_at_once_than_said(engine: RunningVllm, path: Path) -> None:
    await engine.fault(delay_s=0.2)
    began = time.monotonic()
    await run("replay", *at(engine, path, "--keep", "900", "--ask", "6", "--concurrency", "2"))
    assert time.monotonic() - began >= 0.6
    times = sorted(row["at"] for row in await engine.seen())
    assert all(later - earlier >= 0.15 for earlier, later in zip(times, times[2:], strict=False))


async def test_a_file_of_another_base_is_not_added_to_unless_begun_anew(engine: RunningVllm, path: Path) -> None:
    await run("replay", *at(engine, path))
    other = str(content(path)).replace('"served": "fake-base"', '"served": "larger"')
    write(path, other)
    done = await run("replay", *at(engine, path))
    assert (done.code, "another base said" in done.err) == (REFUSED, True)
    assert content(path) == other
    assert (await run("replay", *at(engine, path, "--anew"))).code == DONE
    assert {row.base.served for row in rows(path)} == {"fake-base"}


async def test_a_curriculum_without_selections_of_tools_has_nothing_to_propose_for(
    engine: RunningVllm, path: Path
) -> None:
    done = await run("propose", "json-architect", *at(engine, path))
    assert done.code == FAILED
    assert "it selects no tool" in done.err
    assert await engine.seen() == []


async def test_through_the_proxy_nothing_is_kept_and_it_is_no_users_request(
    engine: RunningVllm, path: Path, tmp_path: Path
) -> None:
    world = world_of(engine.url)
    consent = ConsentConfig(anonymous_user="owner", grants=("owner=train",))
    world.config = dataclasses.replace(world.config, consent=consent)
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock", consent=consent))
    grants = Conversations(database).grants
    await grants.load()
    await grants.follow_settings(time.time())
    assert grants.purposes_for("owner") >= {"train"}
    world.facts = Facts(served_name="fake-base")

    runner = await listen(dataclasses.replace(world.deps(), consent=grants.purposes_for), "127.0.0.1", 0)
    try:
        host, port = runner.addresses[0][:2]
        done = await run("replay", "--url", f"http://{host}:{port}", "--out", str(path), *QUICK, *few(path))
    finally:
        await runner.cleanup()
        await database.close()
    assert done.code == DONE, done.err
    assert done.answer["base"]["served"] == "fake-base"
    assert len(world.gate.asked) == done.answer["proposed"]
    assert not any(world.gate.asked)
    told = {(one.user, one.request, one.stage, one.purposes) for one in world.records}
    assert told == {(None, None, "base", frozenset())}
    assert all(lease.version is None for lease in world.gate.leases)
