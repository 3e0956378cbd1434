"""Holding, breaking off, recording: the way of a request when something happens to it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import aiohttp
import openai
import pytest

from gaiad.adapter import AdapterName, RegistrySnapshot, VersionName
from gaiad.proxy import app
from gaiad.proxy.sse import EventParser
from tests.fakes.proxy_world import ACTIVE, FORMER, World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, free_port, running_vllm

MESSAGES: Any = [{"role": "user", "content": "eins zwei drei vier fünf"}]
TEXT = "[fake-base] grüße 🙂 eins zwei drei vier fünf"


def openai_client(world: World) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0)


def ask(session: aiohttp.ClientSession, world: World, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return session.post(f"{world.url}/v1/chat/completions", json={"messages": MESSAGES, **body}, headers=headers)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def read_until_cut(response: aiohttp.ClientResponse) -> tuple[bytes, Exception | None]:
    got = b""
    try:
        async for piece in response.content.iter_any():
            got += piece
    except aiohttp.ClientError as failure:
        return got, failure
    return got, None


async def test_the_bytes_of_a_stream_are_those_of_the_engine(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    await engine.fault(split_bytes=1)
    async with serving(world_of(engine.url)) as world:
        async with ask(session, world, stream=True, model="fake-base") as through:
            ours = await through.read()
        async with session.post(
            f"{engine.url}/v1/chat/completions", json={"messages": MESSAGES, "stream": True, "model": "fake-base"}
        ) as direct:
            theirs = await direct.read()

    def unstamped(raw: bytes) -> list[str]:
        lines = [line for line in raw.decode().split("\n") if line.startswith("data: {")]
        return [json.dumps({**json.loads(line[6:]), "id": "", "created": 0}) for line in lines]

    assert unstamped(ours) == unstamped(theirs)
    assert ours.endswith(b"data: [DONE]\n\n")
    assert through.content_type == "text/event-stream"


async def test_chunks_arrive_while_the_engine_still_speaks(engine: RunningVllm) -> None:
    await engine.fault(token_delay_s=0.05)
    async with serving(world_of(engine.url)) as world, openai_client(world) as client:
        stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
        running = [world.gate.running async for _ in stream]
    assert running[0] == running[2] == 1
    assert all(lease.released and lease.pinned for lease in world.gate.leases)


async def test_token_counts_come_only_if_asked_for_and_are_always_recorded(engine: RunningVllm) -> None:
    async with serving(world_of(engine.url)) as world, openai_client(world) as client:
        stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
        assert all(chunk.choices for chunk in [chunk async for chunk in stream])
        assert (await world.record()).completion_tokens == 8
        stream = await client.chat.completions.create(
            model="auto", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        last = [chunk async for chunk in stream][-1]
        assert last.usage is not None
        assert last.usage.completion_tokens == 8


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_engine_at_once(engine: RunningVllm, stream: bool) -> None:
    await engine.fault(token_delay_s=0.3)
    async with serving(world_of(engine.url)) as world:
        async with aiohttp.ClientSession() as leaving:
            request = asyncio.ensure_future(ask(leaving, world, stream=stream).__aenter__())
            await engine.until_seen(1)
            if stream:
                response = await request
                await response.content.readany()
                response.close()
            else:
                request.cancel()
        row = await engine.until_cancelled(within_s=2)
        record = await world.record()
    assert row["cancelled"]
    assert (record.complete, record.status, record.outcome) == (False, 200 if stream else 499, "aborted")
    assert world.gate.running == 0
    assert world.outcomes == []


async def test_held_requests_are_served_in_their_order_once_the_gate_opens(engine: RunningVllm) -> None:
    async with serving(world_of(engine.url)) as world, openai_client(world) as client:
        world.gate.is_open = False
        async with asyncio.TaskGroup() as group:
            replies = []
            for number in range(8):
                messages: Any = [{"role": "user", "content": f"number {number}"}]
                call = client.chat.completions.create(
                    model="auto", messages=messages, extra_headers={"X-Gaia-Stage": "tool_selection"}
                )
                replies.append(group.create_task(call))
                await world.gate.until_held(number + 1)
            assert await engine.seen() == []
            world.gate.open()
    texts = [str(reply.result().choices[0].message.content).rsplit(" ", 1)[1] for reply in replies]
    assert texts == [str(number) for number in range(8)]
    order = [row["body"]["messages"][0]["content"] for row in await engine.seen()]
    assert order == [f"number {number}" for number in range(8)]
    assert {lease.version for lease in world.gate.leases} == {ACTIVE}


async def test_a_request_held_in_vain_is_told_when_to_try_again(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    async with serving(world_of(engine.url, hold_s=0.2)) as world:
        world.gate.is_open = False
        async with ask(session, world, stream=True) as response:
            body = await response.json()
        record = await world.record()
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "did not serve in time" in body["error"]["message"]
    assert (record.status, record.complete) == (503, False)


async def test_a_client_that_leaves_while_held_leaves_the_queue(engine: RunningVllm) -> None:
    async with serving(world_of(engine.url)) as world:
        world.gate.is_open = False
        async with aiohttp.ClientSession() as leaving:
            request = asyncio.ensure_future(ask(leaving, world).__aenter__())
            await world.gate.until_held(1)
            request.cancel()
        await until(lambda: not world.gate.held)
        record = await world.record()
        assert (record.status, record.outcome) == (499, "aborted")
    assert await engine.seen() == []


async def test_observers_are_admitted_as_such(engine: RunningVllm, session: aiohttp.ClientSession) -> None:
    async with serving(world_of(engine.url)) as world:
        for stage in ("tool_selection", "epistemic_guard", "base"):
            async with ask(session, world, {"X-Gaia-Stage": stage}) as response:
                assert response.status == 200
    assert world.gate.asked == [True, False, False]


async def test_a_request_waits_for_an_engine_that_is_not_there_yet(session: aiohttp.ClientSession) -> None:
    port = free_port()
    async with serving(world_of(f"http://127.0.0.1:{port}")) as world:
        request = asyncio.ensure_future(ask(session, world).__aenter__())
        await until(lambda: len(world.gate.asked) >= 2)
        with running_vllm(port=port):
            response = await request
            assert response.status == 200
            assert (await response.json())["choices"][0]["message"]["content"] == TEXT
    assert world.gate.running == 0


async def test_an_engine_that_never_comes_is_a_503(session: aiohttp.ClientSession) -> None:
    async with (
        serving(world_of(f"http://127.0.0.1:{free_port()}", hold_s=0.5)) as world,
        ask(session, world) as response,
    ):
        assert response.status == 503
        assert "could not be reached" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_dies_before_its_first_token_is_a_502(
    engine: RunningVllm, session: aiohttp.ClientSession, stream: bool
) -> None:
    await engine.fault(die_after=0)
    async with serving(world_of(engine.url)) as world, ask(session, world, stream=stream) as response:
        assert response.status == 502
        assert "engine failed" in (await response.json())["error"]["message"]
    assert world.gate.running == 0


async def test_an_engine_too_slow_is_a_504(engine: RunningVllm, session: aiohttp.ClientSession) -> None:
    await engine.fault(hang=True)
    async with serving(world_of(engine.url, upstream_timeout_s=0.3)) as world, ask(session, world) as response:
        assert response.status == 504
        assert "proxy.upstream_timeout_s" in (await response.json())["error"]["message"]
    await engine.until_cancelled()


async def test_a_killed_engine_ends_its_streams(session: aiohttp.ClientSession) -> None:
    with running_vllm("--fault", "token_delay_s=0.1") as engine:
        async with serving(world_of(engine.url)) as world, ask(session, world, stream=True) as response:
            await response.content.readany()
            engine.child.kill()
            _, failure = await read_until_cut(response)
    assert isinstance(failure, aiohttp.ClientPayloadError)
    assert world.gate.running == 0


@pytest.mark.parametrize("fault", [{"die_after": 3}, {"stream_error": True}])
async def test_a_stream_whose_engine_fails_is_cut_and_nothing_is_added(
    engine: RunningVllm, session: aiohttp.ClientSession, fault: dict[str, Any]
) -> None:
    await engine.fault(**fault)
    async with serving(world_of(engine.url)) as world:
        async with ask(session, world, stream=True) as response:
            got, failure = await read_until_cut(response)
        record = await world.record()
    assert isinstance(failure, aiohttp.ClientPayloadError)
    assert b"[fake-base]" in got
    assert b"error" not in got
    assert b"[DONE]" not in got
    assert (record.status, record.complete, record.response) == (200, False, None)
    assert world.outcomes == []
    assert world.gate.running == 0


@pytest.mark.parametrize("fault", [{"die_after": 3}, {"stream_error": True}])
async def test_a_stream_whose_engine_fails_ends_with_one_error_event_if_so_configured(
    engine: RunningVllm, fault: dict[str, Any]
) -> None:
    await engine.fault(**fault)
    async with serving(world_of(engine.url, stream_errors="event")) as world, openai_client(world) as client:
        stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="engine"):
            async for _ in stream:
                pass


async def test_an_exchange_is_kept_for_the_purposes_granted_and_with_what_was_said(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    headers = {"X-Gaia-User": "ada", "X-Gaia-Conversation": "c1", "X-Gaia-Stage": "tool_selection"}
    async with serving(world_of(engine.url)) as world:
        world.grants["ada"] = frozenset({"log", "train"})
        for stream in (False, True):
            async with ask(session, world, headers, stream=stream, model="auto") as response:
                await response.read()
            record = await world.record(2 if stream else 1)
            assert record.request_id == response.headers["X-Gaia-Request-Id"]
            assert (record.user, record.conversation, record.purposes) == ("ada", "c1", frozenset({"log", "train"}))
            assert (record.stage, record.stage_reason, record.version) == ("tool_selection", "header", ACTIVE)
            assert (record.status, record.complete, record.valid, record.streamed) == (200, True, True, stream)
            assert (record.finish_reason, record.prompt_tokens, record.completion_tokens) == ("stop", 7, 8)
            assert record.request == {"messages": MESSAGES, "stream": stream, "model": "auto"}
            assert record.response is not None
            assert record.response["choices"] == [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": TEXT.replace("fake-base", ACTIVE)},
                }
            ]
            assert record.response["model"] == "auto"
            assert record.first_byte_ms is not None
            assert 0 < record.first_byte_ms <= record.total_ms


@pytest.mark.parametrize("case", ["nobody", "not granted", "no decision"])
async def test_without_a_purpose_nothing_that_was_said_is_kept(
    engine: RunningVllm, session: aiohttp.ClientSession, case: str
) -> None:
    headers = {} if case == "nobody" else {"X-Gaia-User": "ada", "X-Gaia-Conversation": "c1"}
    async with serving(world_of(engine.url)) as world:
        if case == "no decision":
            world.grants["ada"] = frozenset({"log"})
            world.consent_failure = RuntimeError("the store is locked")
        async with ask(session, world, headers) as response:
            assert response.status == 200
        record = await world.record()
    assert (record.user, record.conversation, record.purposes) == (None, None, frozenset())
    assert (record.request, record.response) == (None, None)
    assert (record.stage, record.status, record.completion_tokens) == ("generation", 200, 8)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"reply": '{"tool": "a"}'}, (True, False, False)),
        ({"reply": "scrambled"}, (False, False, False)),
        ({"reply": ""}, (False, True, False)),
        ({"reply": '{"tool": "a"}', "finish_reason": "length"}, (True, False, True)),
    ],
)
async def test_the_live_guard_hears_of_every_whole_reply(
    engine: RunningVllm, session: aiohttp.ClientSession, faults: dict[str, Any], expected: Any, stream: bool
) -> None:
    await engine.fault(**faults)
    schema = {"type": "object", "required": ["tool"], "properties": {"tool": {"enum": ["a"]}}}
    async with serving(world_of(engine.url)) as world:
        world.schemas["tool_selection"] = schema
        async with ask(session, world, {"X-Gaia-Stage": "tool_selection"}, stream=stream) as response:
            await response.read()
            (outcome,) = world.outcomes
        record = await world.record()
    assert (outcome.schema_ok, outcome.empty, outcome.truncated) == expected
    assert (outcome.version, outcome.stage) == (ACTIVE, "tool_selection")
    assert outcome.request_id == response.headers["X-Gaia-Request-Id"]
    assert record.valid is (expected == (True, False, False))


async def test_an_error_of_the_engine_is_no_evidence_against_a_version(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    await engine.fault(status=500)
    async with serving(world_of(engine.url)) as world:
        async with ask(session, world) as response:
            assert response.status == 500
        record = await world.record()
    assert world.outcomes == []
    assert (record.status, record.valid) == (500, None)


async def test_a_version_gone_while_its_request_was_held_does_not_exist(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    async with serving(world_of(engine.url)) as world:
        world.gate.is_open = False
        request = asyncio.ensure_future(ask(session, world, model=FORMER).__aenter__())
        await world.gate.until_held(1)
        world.snapshot = dataclasses.replace(world.snapshot, servable=frozenset({ACTIVE}))
        world.gate.open()
        response = await request
        assert response.status == 404
        assert "does not exist" in (await response.json())["error"]["message"]
    assert world.gate.running == 0
    assert await engine.seen() == []


@pytest.mark.parametrize("model", ["json-architect", FORMER])
async def test_a_version_that_is_only_not_loaded_is_waited_for_and_then_serves(
    engine: RunningVllm, session: aiohttp.ClientSession, model: str
) -> None:
    await engine.reset(ACTIVE, FORMER)
    async with serving(world_of(engine.url)) as world:
        loaded = world.snapshot
        world.gate.is_open = False
        world.snapshot = RegistrySnapshot(
            adapters=loaded.adapters, active_unloaded=loaded.active, servable_unloaded=loaded.servable
        )
        request = asyncio.ensure_future(ask(session, world, model=model).__aenter__())
        await world.gate.until_held(1)
        world.snapshot = loaded
        world.gate.open()
        response = await request
    assert (response.status, response.headers["X-Gaia-Adapter"]) == (200, FORMER if model == FORMER else ACTIVE)


async def test_a_version_that_the_engine_lost_is_waited_for_and_then_serves(session: aiohttp.ClientSession) -> None:
    with running_vllm("--any-lora-path") as engine:
        async with serving(world_of(engine.url)) as world:
            request = asyncio.ensure_future(ask(session, world, model="json-architect").__aenter__())
            await until(lambda: len(world.gate.asked) >= 2)
            await engine.reset(ACTIVE)
            response = await request
            assert (response.status, response.headers["X-Gaia-Adapter"]) == (200, ACTIVE)
    assert {lease.version for lease in world.gate.leases} == {ACTIVE}
    assert world.gate.running == 0


async def test_a_version_that_the_engine_never_gets_is_a_503_and_not_an_unknown_model(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    await engine.reset()
    async with serving(world_of(engine.url, hold_s=0.5)) as world:
        async with ask(session, world, {"X-Gaia-Stage": "tool_selection"}) as response:
            message = (await response.json())["error"]["message"]
        record = await world.record()
    assert (response.status, f"did not have {ACTIVE}" in message) == (503, True)
    assert int(response.headers["Retry-After"]) > 0
    assert (record.status, record.complete) == (503, False)


async def test_what_else_the_engine_does_not_find_passes_unchanged(session: aiohttp.ClientSession) -> None:
    with running_vllm("--served-model-name", "another") as engine:
        async with serving(world_of(engine.url)) as world, ask(session, world) as response:
            assert (response.status, (await response.json())["error"]["type"]) == (404, "NotFoundError")
    assert len(world.gate.leases) == 1


async def test_a_grant_covers_no_request_that_was_running_and_a_revocation_does(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    everything = frozenset({"log", "train", "evaluate"})
    async with serving(world_of(engine.url)) as world:
        for before, after, kept in (
            (frozenset[str](), everything, frozenset[str]()),
            (everything, frozenset({"log"}), frozenset({"log"})),
            (everything, frozenset[str](), frozenset[str]()),
            (frozenset({"log", "train"}), everything, frozenset({"log", "train"})),
        ):
            world.gate.is_open = False
            world.grants["ada"] = before
            count = len(world.records)
            request = asyncio.ensure_future(ask(session, world, {"X-Gaia-User": "ada"}).__aenter__())
            await world.gate.until_held(1)
            world.grants["ada"] = after
            world.gate.open()
            await (await request).read()
            record = await world.record(count + 1)
            assert (record.purposes, record.user) == (kept, "ada" if kept else None)


@pytest.mark.parametrize("name", ["x" * 201, "a\0b", "\ud800"])
async def test_a_name_that_cannot_be_revoked_is_nobodys(
    engine: RunningVllm, session: aiohttp.ClientSession, name: str
) -> None:
    world = world_of(engine.url)
    world.config = dataclasses.replace(
        world.config, consent=dataclasses.replace(world.config.consent, anonymous_user="owner")
    )
    async with serving(world):
        world.grants[name] = world.grants["owner"] = frozenset({"log"})
        async with ask(session, world, user=name) as response:
            assert response.status == 200
        assert (await world.record()).user is None
        async with ask(session, world) as response:
            assert response.status == 200
        assert (await world.record(2)).user == "owner"


async def test_every_understood_request_leaves_a_row_early_refusals_too(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    unknown: dict[str, Any] = {"model": "gpt-4o"}
    contradicting: dict[str, Any] = {"guided_json": {}, "guided_regex": "a"}
    async with serving(world_of(engine.url)) as world:
        for count, (body, status) in enumerate(((unknown, 404), (contradicting, 400)), start=1):
            async with ask(session, world, **body) as response:
                assert response.status == status
            record = await world.record(count)
            assert (record.status, record.complete, record.request, record.user) == (status, False, None, None)
            assert record.request_id == response.headers["X-Gaia-Request-Id"]
    assert world.gate.asked == []


async def test_an_adapter_named_outright_is_not_judged_by_another_ones_shape(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    voice = VersionName("gaia-voice@v1-22222222")
    await engine.reset(ACTIVE, voice)
    async with serving(world_of(engine.url)) as world:
        world.schemas["tool_selection"] = {"type": "object"}
        world.snapshot = dataclasses.replace(
            world.snapshot, active={**world.snapshot.active, AdapterName("gaia-voice"): voice}
        )
        for model, expected in (("gaia-voice", None), ("json-architect", False), ("auto", False)):
            async with ask(session, world, {"X-Gaia-Stage": "tool_selection"}, model=model) as response:
                assert response.status == 200
            assert world.outcomes[-1].schema_ok is expected, model


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("what", ["on_reply_failure", "consent_failure", "offer_failure"])
async def test_no_fault_in_what_is_noted_about_a_reply_spoils_it(
    engine: RunningVllm,
    session: aiohttp.ClientSession,
    capsys: pytest.CaptureFixture[str],
    stream: bool,
    what: str,
) -> None:
    async with serving(world_of(engine.url)) as world:
        setattr(world, what, RuntimeError("eins zwei drei"))
        async with ask(session, world, {"X-Gaia-User": "ada"}, stream=stream) as response:
            got, failure = await read_until_cut(response)
    assert (response.status, failure) == (200, None)
    assert got.endswith(b"data: [DONE]\n\n" if stream else b"}")
    said = capsys.readouterr().out
    assert response.headers["X-Gaia-Request-Id"] in said
    assert "RuntimeError" in said
    assert "eins zwei drei" not in said


@pytest.mark.parametrize(("stream", "status"), [(True, 200), (False, 500)])
async def test_a_fault_of_ours_is_on_record_with_the_status_that_the_client_saw(
    engine: RunningVllm,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    status: int,
) -> None:
    monkeypatch.setattr("gaiad.proxy.inference.renamed_reply", broken)
    monkeypatch.setattr(EventParser, "close", broken)
    async with serving(world_of(engine.url)) as world:
        async with ask(session, world, stream=stream) as response:
            assert response.status == status
            await read_until_cut(response)
        assert (await world.record()).status == status


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("a bug")


async def test_with_consent_what_was_asked_for_and_how_it_was_made_stays_with_it(
    engine: RunningVllm, session: aiohttp.ClientSession
) -> None:
    async with serving(world_of(engine.url)) as world:
        world.grants["ada"] = frozenset({"log"})
        headers = {"X-Gaia-User": "ada", "X-Gaia-Consent": "Train, log"}
        sampling = {"temperature": 0.25, "max_tokens": 64, "seed": 7, "stop": ["my own word"]}
        await (await ask(session, world, headers, **sampling)).read()
        record = await world.record()
        assert (record.outcome, record.consent_header, record.is_user) == ("whole", "log,train", True)
        assert record.sampling == {"temperature": 0.25, "max_tokens": 64, "seed": 7}
        assert (record.engine, record.template) == ("engine-digest", "template-digest")
        await (await ask(session, world, {"X-Gaia-User": "bob", "X-Gaia-Consent": "log"}, **sampling)).read()
        nobodys = await world.record(2)
        assert (nobodys.consent_header, nobodys.sampling, nobodys.engine) == (None, None, "")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_client_that_leaves_with_the_last_word_had_the_whole_reply(engine: RunningVllm, path: str) -> None:
    await engine.fault(end_delay_s=5.0)
    body: Any = {"messages": MESSAGES} if path.startswith("/v1/chat") else {"prompt": "eins"}
    async with serving(world_of(engine.url)) as world:
        async with aiohttp.ClientSession() as leaving:
            response = await leaving.post(world.url + path, json={**body, "stream": True})
            got = b""
            while b'"finish_reason": "stop"' not in got:
                got += await response.content.readany()
            response.close()
        record = await world.record()
    assert (record.outcome, record.complete, record.finish_reason) == ("whole", True, "stop")
    assert [outcome.empty for outcome in world.outcomes] == [False]


async def test_a_stream_that_the_daemons_end_cuts_was_not_left_by_its_client(
    engine: RunningVllm, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SHUTDOWN_TIMEOUT_S", 0.1)
    await engine.fault(token_delay_s=0.5)
    async with serving(world_of(engine.url)) as world:
        response = await ask(session, world, stream=True)
        assert response.status == 200
    record = await world.record()
    assert (record.outcome, record.complete) == ("failed", False)
    response.close()


async def test_with_consent_a_stream_that_its_client_left_is_kept_as_far_as_it_came(engine: RunningVllm) -> None:
    await engine.fault(token_delay_s=0.3)
    async with serving(world_of(engine.url)) as world:
        world.grants["ada"] = frozenset({"log"})
        async with aiohttp.ClientSession() as leaving:
            response = await ask(leaving, world, {"X-Gaia-User": "ada"}, stream=True)
            got = b""
            while b'"content": "' not in got.replace(b'"content": ""', b""):
                got += await response.content.readany()
            response.close()
        record = await world.record()
    assert (record.outcome, record.complete) == ("aborted", False)
    kept: Any = record.response
    (choice,) = kept["choices"]
    assert choice["message"]["content"]
    assert "finish_reason" not in choice
