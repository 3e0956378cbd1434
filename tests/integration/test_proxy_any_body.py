"""Any JSON to any path of the engine: refused, or the engine's to judge, and never a fault of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gaiad.options import StageOptions
from gaiad.proxy.endpoints import ERRANDS, INFERENCE
from tests.fakes.proxy_world import ACTIVE, World, serving, world_of
from tests.fakes.vllm_process import running_vllm

KEYS = """
model messages prompt input stream stream_options metadata user guided_json guided_regex guided_choice guided_grammar
guided_whitespace_pattern structured_outputs response_format max_tokens max_completion_tokens max_output_tokens
min_tokens temperature background tools text n documents query tokens store
"""
WORDS = [
    "auto",
    "json-architect",
    ACTIVE,
    "gaia:intent",
    "gaia:x",
    "json_schema",
    "system",
    "",
    "ü\ud800",
    "\0",
    "true",
]
INNER = ["role", "content", "type", "text", "json", "include_usage", "gaia_stage", "gaia_conversation", "model", "x"]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just("<long>")
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=6)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(KEYS.split()) | st.text(max_size=4), VALUES, max_size=6) | VALUES
# What gets past the engine's first look, so that there is a reply to be made out.
SENSIBLE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "eins"}],
    "prompt": "eins",
    "input": "eins",
    "tokens": [1],
}


class Running:
    """A proxy and a client in a loop of their own, which runs while something is asked."""

    def __init__(self, runner: asyncio.Runner, world: World, session: aiohttp.ClientSession) -> None:
        self._runner, self._world, self._session = runner, world, session

    def post(self, path: str, raw: bytes) -> tuple[int, str]:
        return self._runner.run(self._post(path, raw))

    async def _post(self, path: str, raw: bytes) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", "X-Gaia-User": "ada"}
        async with self._session.post(self._world.url + path, data=raw, headers=headers) as response:
            try:
                return response.status, (await response.read()).decode("utf-8", "replace")
            except aiohttp.ClientPayloadError:
                return response.status, "the engine broke off"

    @property
    def leases(self) -> int:
        return self._world.gate.running


@pytest.fixture(scope="module", params=["plain", "with options"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running_vllm() as engine, asyncio.Runner() as runner:
        world = world_of(engine.url, upstream_timeout_s=5.0)
        world.grants["ada"] = frozenset({"log", "train"})
        if request.param == "with options":
            option = StageOptions(fence_json=True, max_tokens=5, temperature=0.5)
            config: Any = world.config
            object.__setattr__(config, "options", dict.fromkeys([*config.stages, "base"], option))
            world.preludes = dict.fromkeys([*config.stages, "base"], "P")
        runner.run(engine.reset(ACTIVE))
        context = serving(world)
        runner.run(context.__aenter__())
        session = runner.run(opened())
        yield Running(runner, world, session)
        runner.run(session.close())
        runner.run(context.__aexit__(None, None, None))


async def opened() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


def written(body: Any) -> bytes:
    """A body, with numbers in it that are longer than Python itself writes."""
    return json.dumps(body).replace('"<long>"', "1" * 5000).encode()


@pytest.mark.parametrize("path", [*INFERENCE, *ERRANDS])
@given(body=BODIES, is_sensible=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_is_a_fault_of_ours(proxy: Running, path: str, body: Any, is_sensible: bool) -> None:
    if is_sensible and isinstance(body, dict):
        body = {**body, **SENSIBLE}
    status, text = proxy.post(path, written(body))
    event(f"status {status}")
    assert "internal_error" not in text, (status, text)
    assert proxy.leases == 0
