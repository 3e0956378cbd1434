"""What the proxy's tests ask through: a fake engine for each file, as new for each test, and a session of one's own.

A file whose engine must be another one defines `shared_engine` or `engine` itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes.proxy_world import ACTIVE
from tests.fakes.vllm_process import RunningVllm, running_vllm


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[RunningVllm]:
    with running_vllm() as fake:
        yield fake


@pytest_asyncio.fixture
async def engine(shared_engine: RunningVllm) -> RunningVllm:
    await shared_engine.reset(ACTIVE)
    return shared_engine


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made
