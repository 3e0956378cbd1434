"""What an owner may have done to a stage, headers before the engine answers, and words that gaia-core acts on."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from gaiad.config import parse_config
from gaiad.daemon import load_preludes
from gaiad.errors import ConfigError
from gaiad.options import StageOptions
from gaiad.proxy import early
from gaiad.proxy.options import ANNOUNCEMENT
from tests.fakes.proxy_world import ACTIVE, World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, free_port

MESSAGES: Any = [{"role": "system", "content": f"{ANNOUNCEMENT}\nBe brief."}, {"role": "user", "content": "eins zwei"}]


def ask(session: aiohttp.ClientSession, world: World, stage: str = "tool_selection", **body: Any) -> Any:
    return session.post(
        f"{world.url}/v1/chat/completions", json={"messages": MESSAGES, **body}, headers={"X-Gaia-Stage": stage}
    )


def with_options(world: World, prelude: str = "", **option: Any) -> World:
    world.config = dataclasses.replace(world.config, options={"tool_selection": StageOptions(**option)})
    world.preludes = {"tool_selection": prelude} if prelude else {}
    return world


async def test_the_options_of_a_stage_are_done_to_its_requests_and_to_no_other(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    world = with_options(world_of(engine.url), "I am GAIA.", max_tokens=50, temperature=0.5)
    async with serving(world):
        for stage in ("tool_selection", "tool_review"):
            async with ask(session, world, stage, max_tokens=500, temperature=0.9) as response:
                assert response.status == 200
    ours, others = (row["body"] for row in await engine.seen())
    assert others == {"messages": MESSAGES, "max_tokens": 500, "temperature": 0.9, "model": ACTIVE}
    said = [{**MESSAGES[0], "content": f"I am GAIA.\n\n{MESSAGES[0]['content']}"}, MESSAGES[1]]
    assert ours == {"messages": said, "max_tokens": 50, "temperature": 0.5, "model": ACTIVE}


async def test_what_is_kept_of_a_request_is_what_the_client_said(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    await engine.fault(reply='{"tool": "a"}')
    world = with_options(world_of(engine.url), "I am GAIA.", max_tokens=50, fence_json=True)
    world.schemas["tool_selection"] = {"type": "object"}
    world.grants["ada"] = frozenset({"log"})
    async with serving(world):
        for stream in (False, True):
            async with ask(session, world, user="ada", stream=stream) as response:
                await response.read()
            record = await world.record(stream + 1)
            assert record.request == {"messages": MESSAGES, "user": "ada", "stream": stream}
            kept: Any = record.response
            assert kept["choices"][0]["message"]["content"] == '{"tool": "a"}'
            assert record.valid is True


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "fenced"), [('{"tool": "a", "params": "{}"}', True), ("no tool", False)])
async def test_a_json_reply_is_fenced_for_the_client(
    engine: RunningVllm, session: aiohttp.ClientSession, stream: bool, text: str, fenced: bool
) -> None:
    await engine.fault(reply=text, split_bytes=7)
    async with (
        serving(with_options(world_of(engine.url), fence_json=True)) as world,
        ask(session, world, stream=stream) as response,
    ):
        raw = (await response.read()).decode()
    if stream:
        chunks = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
        told = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert raw.endswith("data: [DONE]\n\n")
    else:
        told = json.loads(raw)["choices"][0]["message"]["content"]
    assert told == (f"```json\n{text}\n```" if fenced else text)


def test_preludes_are_read_at_the_start_and_a_missing_one_is_one_sentence(tmp_path: Path) -> None:
    text = '[engine]\nbase_model = "/srv"\n[proxy.options.generation]\nprelude_file = "identity.txt"\n'
    config = parse_config(text, relative_to=tmp_path)
    with pytest.raises(ConfigError, match="prelude of generation") as caught:
        load_preludes(config)
    assert "proxy.options.generation.prelude_file" in caught.value.hint
    (tmp_path / "identity.txt").write_text("Ich bin GAIA.\n\n", encoding="utf-8")
    assert load_preludes(config) == {"generation": "Ich bin GAIA."}
    (tmp_path / "identity.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_preludes(config)


# --- a window that is too small ---------------------------------------------------------------------------------------


async def test_a_client_that_asked_for_too_much_can_ask_again_with_what_fits(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    text = (
        "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 "
        "tokens and your request has 2778 input tokens (8000 > 4096 - 2778). None"
    )
    await engine.fault(status=400, message=text)
    async with serving(world_of(engine.url)) as world:
        for stream in (False, True):
            async with ask(session, world, max_tokens=8000, stream=stream) as response:
                told = await response.text()
            assert response.status == 400
            assert f"max_tokens 8000 > 4096 - 2778. {text}" in told[:500]


# --- headers before the engine answers --------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "COMMENT_EVERY_S", 0.02)


@pytest.mark.usefixtures("soon")
async def test_a_held_stream_hears_that_it_waits_and_then_the_reply(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    async with serving(world_of(engine.url, early_headers_s=0.02)) as world:
        world.gate.is_open = False
        async with ask(session, world, stream=True, model="auto") as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            assert response.headers["X-Gaia-Stage"] == "tool_selection"
            assert await response.content.readexactly(22) == b": waiting\n\n" * 2
            assert world.gate.running == 0
            world.gate.open()
            rest = await response.content.read()
        record = await world.record()
    told = rest.replace(b": waiting\n\n", b"")
    assert told.startswith(b'data: {"id"')
    assert told.endswith(b"data: [DONE]\n\n")
    assert rest.lstrip(b": waiting\n") == told.lstrip(b": waiting\n"), "no comment after the first event"
    assert (record.status, record.complete, record.version) == (200, True, ACTIVE)
    assert world.gate.running == 0


@pytest.mark.usefixtures("soon")
async def test_a_stream_whose_engine_takes_long_to_begin_hears_that_it_waits(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    await engine.fault(delay_s=0.3)
    async with (
        serving(world_of(engine.url, early_headers_s=0.02)) as world,
        ask(session, world, stream=True) as response,
    ):
        told = await response.content.read()
    assert told.startswith(b": waiting\n\n")
    assert told.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("errors", ["close", "event"])
@pytest.mark.parametrize("cause", ["held in vain", "refused by the engine", "gone before it answered", "no such model"])
@pytest.mark.usefixtures("soon")
async def test_what_fails_after_early_headers_follows_the_owners_choice(
    engine: RunningVllm, session: aiohttp.ClientSession, errors: str, cause: str
) -> None:
    world = world_of(engine.url, early_headers_s=0.02, hold_s=0.2, stream_errors=errors)
    if cause == "refused by the engine":
        await engine.fault(delay_s=0.2, status=400)
    elif cause == "gone before it answered":
        await engine.fault(delay_s=0.2, die_after=0)
    async with serving(world):
        world.gate.is_open = cause.endswith(("engine", "answered"))
        if cause == "no such model":
            world.facts = None
        body = {"model": "gpt-4o"} if cause == "no such model" else {}
        async with ask(session, world, stream=True, **body) as response:
            assert response.status == 200
            got, failure = b"", None
            try:
                async for piece in response.content.iter_any():
                    got += piece
            except aiohttp.ClientError as error:
                failure = error
        record = await world.record()
    assert got.startswith(b": waiting\n\n")
    assert (record.status, record.complete) == (200, False)
    if errors == "close":
        assert failure is not None
        assert b"error" not in got
    else:
        assert failure is None
        (told,) = (line for line in got.splitlines() if line.startswith(b"data: "))
        assert set(json.loads(told[6:])["error"]) == {"message", "type", "param", "code"}
    assert world.gate.running == 0


@pytest.mark.usefixtures("soon")
async def test_a_client_that_leaves_while_it_waits_is_waited_for_no_longer(engine: RunningVllm) -> None:
    async with serving(world_of(engine.url, early_headers_s=0.01)) as world:
        world.gate.is_open = False
        async with aiohttp.ClientSession() as leaving, ask(leaving, world, stream=True) as response:
            await response.content.readexactly(11)
            response.close()
        record = await world.record()
    assert (record.complete, len(world.gate.held)) == (False, 0)
    assert await engine.seen() == []


async def test_without_the_option_a_held_stream_keeps_its_status(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    async with serving(world_of(engine.url, hold_s=0.1)) as world:
        world.gate.is_open = False
        async with ask(session, world, stream=True) as response:
            assert response.status == 503


@pytest.mark.usefixtures("soon")
async def test_what_is_no_stream_or_refused_at_once_has_no_early_headers(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    async with serving(world_of(engine.url, early_headers_s=0.01, hold_s=0.2)) as world:
        async with ask(session, world, stream=True, model="gpt-4o") as response:
            assert response.status == 404
        world.gate.is_open = False
        async with ask(session, world) as response:
            assert response.status == 503


@pytest.mark.usefixtures("soon")
async def test_a_fault_of_ours_after_early_headers_cuts_the_stream(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with serving(world_of(f"http://127.0.0.1:{free_port()}", early_headers_s=0.01)) as world:
        world.gate.is_open = False
        async with ask(session, world, stream=True) as response:
            await response.content.readexactly(11)
            monkeypatch.setattr("gaiad.proxy.inference.for_engine", broken)
            world.gate.open()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        assert (await world.record()).complete is False
    assert world.gate.running == 0


# --- what GAIA asks of an engine --------------------------------------------------------------------------------------


async def test_gaias_questions_are_answered_here_and_change_nothing(engine: RunningVllm) -> None:
    before = await engine.asked()
    async with serving(world_of(engine.url)) as world:
        world.health = {"status": "ok", "model_loaded": True, "mode": "active", "active_inference": 0}
        answers = await asyncio.to_thread(gaias_questions, world.url)
    assert answers == {
        "GET /status": 200,
        "GET /model/info": 200,
        "GET /adapter/status": 200,
        "GET /adapter/list": 200,
        "GET /slots": 404,
        "POST /slots/0": 404,
        "POST /adapter/set": 200,
        "POST /cache/update": 200,
        "POST /cache/invalidate": 200,
        "POST /inference/drain": 200,
        "POST /inference/resume": 200,
        "POST /inference/cancel": 200,
        "POST /model/load": 409,
    }
    assert await engine.asked() == before


def gaias_questions(url: str) -> dict[str, int]:
    """As gaia-core asks: with requests, and whatever body there is."""
    gets = ("/status", "/model/info", "/adapter/status", "/adapter/list", "/slots")
    posts = ("/adapter/set", "/cache/update", "/cache/invalidate")
    told = {f"GET {path}": requests.get(url + path, timeout=5) for path in gets}
    told["POST /slots/0"] = requests.post(f"{url}/slots/0?action=save", json={"filename": "x"}, timeout=5)
    told |= {f"POST {path}": requests.post(url + path, json={"name": None}, timeout=5) for path in posts}
    for what in ("drain", "resume", "cancel"):
        told[f"POST /inference/{what}"] = requests.post(f"{url}/inference/{what}", timeout=5)
    told["POST /model/load"] = requests.post(f"{url}/model/load", json={"model": "/models/x"}, timeout=5)
    for response in told.values():
        assert not str(response.json().get("engine", "vllm")).startswith("gaia")
    return {what: response.status_code for what, response in told.items()}


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapter/load", "/adapter/unload"]
)
async def test_only_what_is_registered_is_loaded_and_the_engine_keeps_what_it_has(
    engine: RunningVllm, session: aiohttp.ClientSession, path: str
) -> None:
    before = await engine.asked()
    key = "lora_name" if path.startswith("/v1/") else "name"
    async with serving(world_of(engine.url)) as world:
        for name in ("json-architect", ACTIVE):
            for _ in range(2):
                async with session.post(world.url + path, json={key: name, "lora_path": "/etc"}) as response:
                    assert response.status == 200
                    text = await response.text()
            assert text.startswith("Success") if key == "lora_name" else json.loads(text)["ok"] is True
        async with session.post(world.url + path, json={key: "gaia_persona_v1", "lora_path": "/etc"}) as response:
            assert response.status == 404
            assert "does not exist" in (await response.json())["error"]["message"]
        for body in (b"", b"[]", b"{}"):
            async with session.post(world.url + path, data=body) as response:
                assert response.status == 400
    assert await engine.asked() == before
