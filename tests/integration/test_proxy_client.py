"""The `openai` client through the proxy, and constraints on engines of each dialect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pydantic
import pytest
import pytest_asyncio

from tests.fakes.proxy_world import ACTIVE, Facts, World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, running_vllm

MESSAGES: Any = [{"role": "user", "content": "eins zwei"}]
TEXT = "[fake-base] grüße 🙂 eins zwei"
CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
TOOLS: Any = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]


class Choice(pydantic.BaseModel):
    tool: str
    sure: bool


@pytest_asyncio.fixture
async def world(engine: RunningVllm) -> AsyncIterator[World]:
    async with serving(world_of(engine.url)) as world:
        yield world


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as made:
        yield made


async def test_chat_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="auto", messages=MESSAGES)
    stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    assert whole.choices[0].message.content == TEXT
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert {whole.model, *(chunk.model for chunk in chunks)} == {"auto"}


async def test_tools_whole_and_streamed(engine: RunningVllm, client: openai.AsyncOpenAI) -> None:
    await engine.fault(tool_calls=[CALL])
    whole = await client.chat.completions.create(model="auto", messages=MESSAGES, tools=TOOLS)
    calls: Any = whole.choices[0].message.tool_calls
    assert (calls[0].function.name, calls[0].function.arguments) == ("clock", '{"zone": "UTC"}')
    assert whole.choices[0].finish_reason == "tool_calls"
    async with client.chat.completions.stream(model="auto", messages=MESSAGES, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    told: Any = final.choices[0].message.tool_calls
    assert told[0].function.arguments == '{"zone": "UTC"}'
    assert (await engine.seen())[0]["body"]["tools"] == TOOLS


async def test_structured_output(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.parse(model="auto", messages=MESSAGES, response_format=Choice)
    assert isinstance(reply.choices[0].message.parsed, Choice)
    response = await client.responses.parse(model="auto", input="eins", text_format=Choice)
    assert isinstance(response.output_parsed, Choice)


async def test_responses_whole_streamed_and_kept(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model="json-architect", input="eins zwei")
    assert (whole.output_text, whole.model) == (f"[{ACTIVE}] grüße 🙂 eins zwei", "json-architect")
    assert whole.usage is not None
    assert whole.usage.output_tokens == 5
    kept = await client.responses.retrieve(whole.id)
    assert (kept.output_text, kept.model) == (whole.output_text, whole.model)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        await client.responses.cancel(whole.id)
    stream = await client.responses.create(model="auto", input="eins zwei", stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    last: Any = events[-1]
    assert (last.type, last.response.model, last.response.output_text) == ("response.completed", "auto", TEXT)


async def test_a_response_whose_engine_fails_is_an_error_of_the_client(engine: RunningVllm) -> None:
    await engine.fault(die_after=3)
    async with (
        serving(world_of(engine.url, stream_errors="event")) as world,
        openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.responses.create(model="auto", input="eins zwei", stream=True)
        with pytest.raises(openai.APIError, match="engine"):
            async for _ in stream:
                pass


async def test_an_engine_without_embeddings_says_so_and_one_with_them_serves(
    engine: RunningVllm, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.NotFoundError, match="does not serve /v1/embeddings") as refused:
        await client.embeddings.create(model="auto", input="eins")
    assert refused.value.code == "not_served_by_engine"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.embeddings.create(model="text-embedding-3-small", input="eins")
    await engine.fault(embeds=True)
    reply = await client.embeddings.create(model="auto", input="eins")
    assert (reply.model, reply.data[0].embedding) == ("auto", [0.5, 0.25])


@pytest.mark.parametrize("status", [429, 503])
async def test_the_client_tries_again_after_as_long_as_it_is_told(
    engine: RunningVllm, world: World, status: int
) -> None:
    await engine.fault(status=status, status_times=2, retry_after=0.01)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=2) as client:
        reply = await client.chat.completions.create(model="auto", messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert [row["status"] for row in await engine.seen()] == [status, status, 200]
    assert [record.status for record in world.records] == [status, status, 200]


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.12.0", "0.32.0"])
@pytest.mark.parametrize("field", ["guided_json", "structured_outputs"])
async def test_a_constraint_constrains_on_an_engine_of_any_dialect(version: str, field: str) -> None:
    schema = Choice.model_json_schema()
    body = {"messages": MESSAGES, field: schema if field == "guided_json" else {"json": schema}}
    with running_vllm("--fake-version", version) as engine:
        world = world_of(engine.url)
        world.facts = Facts(version=version)
        async with (
            serving(world),
            aiohttp.ClientSession() as session,
            session.post(f"{world.url}/v1/chat/completions", json=body) as response,
        ):
            text = (await response.json())["choices"][0]["message"]["content"]
        assert Choice.model_validate_json(text)
        direct = await engine.call("POST", "/v1/chat/completions", body)
    # What the engine would have done with the client's own words: ignore those of another time.
    understood = version < "0.12" if field == "guided_json" else version >= "0.11"
    assert direct["choices"][0]["message"]["content"].startswith("{") == understood
    assert json.loads(text) == {"tool": "x", "sure": False}
