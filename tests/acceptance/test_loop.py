"""The whole loop on a real vLLM with a real small model: serve, learn while being used, promote, roll back."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from examples.demo_world import ROOT, World
from gaiad.learner.sources import catalogue

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

ADAPTER = "json-architect"
STAGE = {"X-Gaia-Stage": "tool_selection"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
HELLO: list[Any] = [{"role": "user", "content": "Say hello in three words."}]


def ask(world: World, **extra: Any) -> Any:
    given: dict[str, Any] = {"model": "auto", "messages": HELLO, "max_tokens": 24, "temperature": 0, **extra}
    return world.client.chat.completions.with_raw_response.create(**given)


def test_the_base_serves_while_nothing_is_learned(home: World) -> None:
    raw = ask(home, extra_headers=STAGE)
    reply = raw.parse()
    assert reply.choices[0].message.content
    assert raw.headers["X-Gaia-Stage"] == "tool_selection"
    assert raw.headers["X-Gaia-Adapter"] == "base"
    assert reply.model == "auto"


def test_a_stream_is_the_same_text_as_the_whole_reply(home: World) -> None:
    whole = ask(home).parse().choices[0].message.content
    chunks = list(
        home.client.chat.completions.create(
            model="auto",
            messages=HELLO,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert {chunk.model for chunk in chunks} == {"auto"}
    assert chunks[-1].usage is not None


def test_guided_json_constrains_the_real_engine(home: World) -> None:
    reply = ask(home, extra_body={"guided_json": SCHEMA}).parse()
    assert json.loads(reply.choices[0].message.content or "")["colour"] in ("red", "blue")


def test_an_alias_without_an_active_version_does_not_exist(home: World) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        ask(home, model=ADAPTER)


def wait_for_step(world: World, step: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        cycle = world.status()["learning"].get("cycle") or {}
        if cycle.get("phase") == "training" and (cycle.get("progress") or {}).get("step", 0) >= step:
            return
        time.sleep(0.5)
    raise AssertionError(f"no step {step} within {seconds} s: {world.status()['learning']}")


@pytest.fixture(scope="module")
def learned(home: World) -> dict[str, Any]:
    """One cycle in which a user's request arrives in the middle of training."""
    assert home.ctl("train", ADAPTER)["cycle"]
    wait_for_step(home, 3, 240)
    started = time.monotonic()
    raw = ask(home)
    waited = time.monotonic() - started
    phase_after = home.status()["gpu"]["phase"]
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        row = home.ctl("cycles")["cycles"][0]
        if row["verdict"]:
            return {"row": row, "waited_s": waited, "reply": raw.parse(), "phase_after": phase_after}
        time.sleep(1)
    raise AssertionError("the cycle did not end")


def test_a_request_during_training_is_answered_first(learned: dict[str, Any]) -> None:
    assert learned["reply"].choices[0].message.content
    assert learned["waited_s"] < 15, "it must not wait for the run to end"
    assert learned["phase_after"] in ("lent", "draining", "held")


def test_a_cycle_promotes_an_adapter_that_is_clearly_better(home: World, learned: dict[str, Any]) -> None:
    row = learned["row"]
    assert row["verdict"] == "promoted", row["reason"]
    exams = row["report"]["exams"]
    base, candidate = exams["base"]["tool"], exams["candidate"]["tool"]
    assert candidate["total"] >= 100
    assert candidate["hits"] / candidate["total"] >= base["hits"] / base["total"] + 0.20
    assert candidate["low"] > exams["candidate"]["constant"]["rate"]


def test_the_engine_serves_what_was_trained(learned: dict[str, Any]) -> None:
    parity = learned["row"]["report"]["parity"]
    assert parity["measured"]
    assert parity["passed"]
    assert max(parity["answer_odds"], parity["telling_odds"]) <= 0.25
    assert parity["effect_nats"] > 1, "the adapter does something that can be missed"


def test_the_promoted_version_serves_stage_alias_and_full_name(home: World, learned: dict[str, Any]) -> None:
    version = learned["row"]["report"]["version"]
    assert ask(home, extra_headers=STAGE).headers["X-Gaia-Adapter"] == version
    assert ask(home, model=ADAPTER).headers["X-Gaia-Adapter"] == version
    assert ask(home, model=version).parse().model == version
    assert ADAPTER in {model.id for model in home.client.models.list()}
    assert ask(home, model="gaia:base").headers["X-Gaia-Adapter"] == "base"


def test_the_frozen_split_has_no_leak_and_the_version_matches_its_manifest(
    home: World, learned: dict[str, Any]
) -> None:
    row = learned["row"]
    dataset = catalogue.load_frozen(home.state / "datasets" / row["dataset_digest"])
    assert dataset.digest == row["dataset_digest"]
    adapter, _, folder = row["report"]["version"].partition("@")
    names = {path.name for path in (home.state / "adapters" / adapter / folder).iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}


def test_the_daemon_maps_no_heavy_library_after_a_whole_cycle(home: World, learned: dict[str, Any]) -> None:
    assert home.modules_in_daemon() == []


def test_asking_again_learns_nothing_new_and_says_so(home: World, learned: dict[str, Any]) -> None:
    done = subprocess.run(
        home.command("train", ADAPTER, "--wait"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "new" in done.stdout + done.stderr


def test_rollback_flips_to_the_base_where_nothing_came_before(home: World, learned: dict[str, Any]) -> None:
    home.ctl("rollback", ADAPTER, "--reason", "a test")
    assert ask(home, extra_headers=STAGE).headers["X-Gaia-Adapter"] == "base"
    history = home.ctl("adapters", "show", ADAPTER)["events"]
    assert any(event["what"] == "rolled_back" and "a test" in event["reason"] for event in history)


def test_no_prompt_and_no_answer_reaches_a_log(home: World, learned: dict[str, Any]) -> None:
    canary = "heliotrope-canary-4481"
    ask(home, messages=[{"role": "user", "content": canary}])
    logs = [home.log, *Path(home.state / "logs").glob("*.log")]
    assert logs
    assert [path.name for path in logs if canary in path.read_text(errors="replace")] == []
