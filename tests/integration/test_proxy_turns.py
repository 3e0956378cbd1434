"""One user's requests do not crowd out another's, and however a request ends its turn is given back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gaiad.config import LimitsConfig
from tests.fakes.proxy_world import World, serving, world_of
from tests.fakes.vllm_process import RunningVllm

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture
async def engine(shared_engine: RunningVllm) -> RunningVllm:
    await shared_engine.reset()
    return shared_engine


@pytest_asyncio.fixture
async def world(engine: RunningVllm) -> AsyncIterator[World]:
    async with serving(world_of(engine.url, limits=LimitsConfig(streams_per_user=2))) as world:
        yield world


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def ask(
    session: aiohttp.ClientSession, world: World, user: str | None = None, **fields: Any
) -> tuple[int, Any, bytes]:
    headers = {"X-Gaia-User": user} if user else {}
    body = {"messages": MESSAGES, **fields}
    async with session.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
        return reply.status, reply.headers, await reply.read()


@pytest.mark.parametrize("first", ["ada", None])
async def test_one_request_more_than_a_user_may_have_is_a_429_and_others_are_served(
    world: World, session: aiohttp.ClientSession, first: str | None
) -> None:
    world.gate.is_open = False
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(ask(session, world, first, stream=at == 1)) for at in range(2)]
        await world.gate.until_held(2)
        status, headers, raw = await ask(session, world, first)
        assert (status, headers["Retry-After"]) == (429, "1")
        error = json.loads(raw)["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        other = group.create_task(ask(session, world, "bob"))
        by_body = group.create_task(ask(session, world, user="bob"))
        await world.gate.until_held(4)
        assert (await ask(session, world, "bob"))[0] == 429
        world.gate.open()
    assert [task.result()[0] for task in (*held, other, by_body)] == [200] * 4
    assert (await ask(session, world, first))[0] == 200


async def test_a_refused_request_leaves_a_row_and_never_reaches_the_gate(
    world: World, session: aiohttp.ClientSession
) -> None:
    world.gate.is_open = False
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(ask(session, world))
        await world.gate.until_held(2)
        assert (await ask(session, world))[0] == 429
        assert (await world.record()).status == 429
        assert len(world.gate.asked) == 2
        world.gate.open()


@pytest.mark.parametrize(
    ("faults", "fields"),
    [
        ({}, {}),
        ({}, {"stream": True}),
        ({}, {"model": "nobody"}),
        ({}, {"guided_json": {}, "guided_regex": "a"}),
        ({"status": 500}, {}),
        ({"die_after": 1}, {"stream": True}),
        ({"stream_error": True}, {"stream": True}),
    ],
)
async def test_however_a_request_ends_its_turn_is_given_back(
    world: World,
    engine: RunningVllm,
    session: aiohttp.ClientSession,
    faults: dict[str, Any],
    fields: dict[str, Any],
) -> None:
    await engine.fault(**faults)
    for _ in range(3):
        with contextlib.suppress(aiohttp.ClientError):
            assert (await ask(session, world, "ada", **fields))[0] != 429
    await engine.reset()
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(ask(session, world, "ada")) for _ in range(2)]
    assert [task.result()[0] for task in both] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_gives_its_turn_back(
    world: World, engine: RunningVllm, session: aiohttp.ClientSession, stream: bool
) -> None:
    await engine.fault(hang=True)
    for at in range(3):
        leaving = asyncio.ensure_future(ask(session, world, "ada", stream=stream))
        await engine.until_seen(at + 1)
        leaving.cancel()
        await world.record(at + 1)
    await engine.fault(hang=None)
    assert (await ask(session, world, "ada"))[0] == 200


async def test_a_fault_of_ours_gives_the_turn_back(
    world: World, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gaiad.proxy.inference.refusal", broken)
    assert [(await ask(session, world, "ada"))[0] for _ in range(3)] == [500] * 3
    monkeypatch.undo()
    assert (await ask(session, world, "ada"))[0] == 200
