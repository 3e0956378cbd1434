"""A request that names no stage, through the proxy to a fake engine: recognised, told in the headers, served by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gaiad.proxy.rulebook import load_rules
from tests.fakes.proxy_world import ACTIVE, FORMER, World, serving, world_of
from tests.fakes.vllm_process import running_vllm

SELECTION: dict[str, Any] = {
    "model": "/models/core",
    "messages": [
        {"role": "system", "content": "You are a precise tool selector."},
        {"role": "user", "content": "AVAILABLE TOOLS:\n- clock\n\nWhat time is it?"},
    ],
    "temperature": 0.15,
}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": 'Who says "You are a precise tool selector."?'}]}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    with running_vllm() as engine:
        await engine.reset(ACTIVE, FORMER)
        world = world_of(engine.url)
        world.rules = load_rules(world.config)
        async with serving(world):
            yield world


@pytest.mark.parametrize(
    ("path", "body", "headers", "told"),
    [
        ("chat/completions", SELECTION, {}, ("tool_selection", "rule:tool_selection")),
        ("chat/completions", {**SELECTION, "model": "gaia:intent"}, {}, ("intent", "model")),
        ("chat/completions", SELECTION, {"X-Gaia-Stage": "base"}, ("base", "header")),
        ("chat/completions", CHAT, {}, ("generation", "default")),
        (
            "completions",
            {"prompt": "You are a precise tool selector.\nAVAILABLE TOOLS:"},
            {},
            ("generation", "default"),
        ),
    ],
)
async def test_a_request_that_names_no_stage_is_recognised(
    world: World, path: str, body: dict[str, Any], headers: dict[str, str], told: tuple[str, str]
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{world.url}/v1/{path}", json=body, headers=headers) as response,
    ):
        assert response.status == 200
        assert (response.headers["X-Gaia-Stage"], response.headers["X-Gaia-Stage-Reason"]) == told
    record = await world.record()
    assert (record.stage, record.stage_reason) == told
