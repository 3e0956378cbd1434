"""What a request may not ask for is named with its field and key, everything ordinary passes, and nothing raises."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.config import LimitsConfig
from gaiad.proxy.body import raw_fields, read_request
from gaiad.proxy.limits import over_limits
from gaiad.proxy.refusals import Rejection

LIMITS = LimitsConfig()
TIGHT = LimitsConfig(
    max_tokens=100, max_n=4, max_messages=3, max_schema_bytes=200, max_tools_bytes=400, max_schema_depth=6
)
HTTP = "https://intranet/x.png"
INLINE = "data:image/png;base64,AAAA"


def judged(body: dict[str, Any] | str, limits: LimitsConfig = LIMITS) -> Rejection | None:
    raw = body if isinstance(body, str) else json.dumps(body)
    read = read_request(raw.encode())
    assert not isinstance(read, Rejection), read
    fields, plain = read
    quick, careful = over_limits(fields, limits, plain), over_limits(fields, limits)
    assert quick == careful
    return quick


def user(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def deep(depth: int) -> object:
    return {"a": deep(depth - 1)} if depth > 1 else {}


ORDINARY: list[dict[str, Any]] = [
    {},
    user("what is an image_url, and what does prompt_embeds do?"),
    user([{"type": "text", "text": "look"}]),
    user([{"type": "image_url", "image_url": {"url": INLINE}}]),
    user([{"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA"}}]),
    user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    user([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]),
    user([{"type": "tool_use", "id": "1", "name": "look", "input": {"image_url": HTTP}}]),
    user([{"type": "image_url", "image_url": None}]),
    user('{"image_url": {"url": "https://example.org/x.png"}}'),
    {**user("hi"), "max_tokens": 512, "n": 1, "stream": True, "temperature": 0.7, "stop": ["\n"]},
    {"max_tokens": None, "n": None, "cache_salt": None, "prompt_embeds": None, "mm_processor_kwargs": {}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"base_url": {}}}}}]},
    {"tools": [{"name": "f", "input_schema": {}}], "functions": []},
    {"prompt": list(range(20_000))},
    {"prompt": "image_url", "input": ["a", "b"], "metadata": {"image_url": HTTP}, "documents": [{"text": "t"}]},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": deep(40)}}},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}, "unknown": [1, {"a": None}]},
    {"max_tokens": "many", "n": [5], "messages": "hi", "tools": "none", "chat_template_kwargs": 5},
]


@pytest.mark.parametrize("body", ORDINARY, ids=lambda body: json.dumps(body)[:60])
def test_an_ordinary_request_passes(body: dict[str, Any]) -> None:
    assert judged(body) is None


@pytest.mark.parametrize(
    ("body", "field", "key"),
    [
        ({"max_tokens": 101}, "max_tokens", "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens", "max_tokens"),
        ({"max_output_tokens": 101.0}, "max_output_tokens", "max_tokens"),
        ({"max_tokens": "1_000"}, "max_tokens", "max_tokens"),
        ({"max_tokens": " 1e9 "}, "max_tokens", "max_tokens"),
        ({"n": 5}, "n", "max_n"),
        ({"best_of": 5}, "best_of", "max_n"),
        ({"messages": [{"role": "user", "content": "a"}] * 4}, "messages", "max_messages"),
        ({"prompt": ["a"] * 4}, "prompt", "max_messages"),
        ({"prompt": [[1], [2], [3], [4]]}, "prompt", "max_messages"),
        ({"input": [{"role": "user", "content": "a"}] * 4}, "input", "max_messages"),
        ({"guided_json": {"enum": ["a" * 200]}}, "guided_json", "max_schema_bytes"),
        ({"guided_regex": "a" * 200}, "guided_regex", "max_schema_bytes"),
        ({"structured_outputs": {"grammar": "a" * 200}}, "structured_outputs", "max_schema_bytes"),
        ({"response_format": {"json_schema": {"schema": deep(6)}}}, "response_format", "max_schema_depth"),
        ({"guided_json": deep(7)}, "guided_json", "max_schema_depth"),
        ({"guided_json": json.dumps(deep(7))}, "guided_json", "max_schema_depth"),
        ({"structured_outputs": {"json": json.dumps(deep(7))}}, "structured_outputs", "max_schema_depth"),
        ({"tools": [{"function": {"name": "a" * 400}}]}, "tools", "max_tools_bytes"),
        ({"tools": [{"function": {"parameters": deep(5)}}]}, "tools", "max_schema_depth"),
    ],
)
def test_what_is_above_a_limit_is_refused_with_field_and_key(body: dict[str, Any], field: str, key: str) -> None:
    refused = judged(body, TIGHT)
    assert refused is not None
    assert (refused.status, refused.code, refused.param) == (400, "limit_exceeded", field)
    assert f"`{field}`" in refused.message
    assert refused.message.endswith(f"proxy.limits.{key}.")


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 100, "n": 4, "messages": [{"content": "a,b,c,d,e"}] * 3},
        {"guided_json": deep(6), "structured_outputs": {"regex": "[[[[[[[[[["}},
        {"guided_json": json.dumps(deep(6)), "guided_regex": "[" * 20},
    ],
)
def test_what_is_at_a_limit_passes(body: dict[str, Any]) -> None:
    assert judged(body, TIGHT) is None


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt_embeds": "AAAA"}, "prompt_embeds", "allow_prompt_embeds"),
    ({"prompt_embeds": [""]}, "prompt_embeds", "allow_prompt_embeds"),
    (user([{"type": "prompt_embeds", "data": "AAAA"}]), "prompt_embeds", "allow_prompt_embeds"),
    (user([{"type": "image_embeds", "image_embeds": "AAAA"}]), "image_embeds", "allow_prompt_embeds"),
    (user([{"uuid": "1", "audio_embeds": {"a": "AAAA"}}]), "audio_embeds", "allow_prompt_embeds"),
    ({"chat_template": "{{ 1 }}"}, "chat_template", "allow_chat_template"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "allow_chat_template"),
    ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize", "allow_chat_template"),
    ({"cache_salt": "x"}, "cache_salt", "allow_cache_salt"),
    ({"mm_processor_kwargs": {"num_crops": 9}}, "mm_processor_kwargs", "allow_media_kwargs"),
    ({"media_io_kwargs": {"video": {"num_frames": -1}}}, "media_io_kwargs", "allow_media_kwargs"),
    ({"kv_transfer_params": {"remote_host": "x"}}, "kv_transfer_params", "allow_transfer_params"),
    ({"ec_transfer_params": {"a": 1}}, "ec_transfer_params", "allow_transfer_params"),
    ({"vllm_xargs": {"kv_transfer_params": "x"}}, "vllm_xargs", "allow_engine_extras"),
    ({"logits_processors": ["os.system"]}, "logits_processors", "allow_engine_extras"),
    ({"tools": [{"type": "mcp", "server_url": HTTP}]}, "mcp", "allow_server_tools"),
    ({"tools": [{"name": "f"}, {"type": "code_interpreter"}]}, "code_interpreter", "allow_server_tools"),
    (user([{"type": "image_url", "image_url": {"url": HTTP}}]), "image_url", "allow_media_urls"),
    (user([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]), "image_url", "allow_media_urls"),
    (user([{"type": "image_url", "image_url": {"url": " data:x"}}]), "image_url", "allow_media_urls"),
    (user([{"image_url": HTTP}]), "image_url", "allow_media_urls"),
    (user([{"type": "audio_url", "audio_url": {"url": HTTP}}]), "audio_url", "allow_media_urls"),
    (user([{"type": "video_url", "uuid": "1", "video_url": {"url": HTTP}}]), "video_url", "allow_media_urls"),
    (user([{"type": "input_image", "image_url": HTTP}]), "image_url", "allow_media_urls"),
    (user([{"type": "input_audio", "input_audio": {"data": HTTP}}]), "input_audio", "allow_media_urls"),
    (user([{"type": "input_audio", "input_audio": {"url": "file:/x"}}]), "input_audio", "allow_media_urls"),
    (user([{"type": "image", "source": {"type": "url", "url": HTTP}}]), "source", "allow_media_urls"),
    (
        user([{"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": HTTP}}]}]),
        "source",
        "allow_media_urls",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": HTTP}]}]},
        "file_url",
        "allow_media_urls",
    ),
    ({"input": [{"type": "function_call_output", "output": [{"image_url": HTTP}]}]}, "image_url", "allow_media_urls"),
    ({"documents": {"content": [{"type": "image_url", "image_url": {"url": HTTP}}]}}, "image_url", "allow_media_urls"),
]


@pytest.mark.parametrize(("body", "field", "switch"), REFUSED, ids=lambda value: json.dumps(value)[:70])
def test_what_would_be_fetched_loaded_or_run_is_refused_unless_switched_on(
    body: dict[str, Any], field: str, switch: str
) -> None:
    refused = judged(body)
    assert refused is not None
    assert (refused.status, refused.code) == (400, "field_not_allowed")
    assert f"`{field}`" in refused.message
    assert refused.message.endswith(f"proxy.limits.{switch}.")
    assert judged(body, dataclasses.replace(LIMITS, **{switch: True})) is None


def test_every_switch_allows_something_and_no_more_than_its_own() -> None:
    switches = {field.name for field in dataclasses.fields(LimitsConfig) if field.name.startswith("allow_")}
    assert {switch for _, _, switch in REFUSED} == switches
    for body, _, switch in REFUSED:
        others = dict.fromkeys(switches - {switch}, True)
        assert judged(body, dataclasses.replace(LIMITS, **others)) is not None


@pytest.mark.parametrize(
    "raw",
    [
        '{"messages": [{"content": [{"image\\u005furl": {"url": "https://x"}}]}]}',
        '{"messages": [{"conten\\u0074": [{"image_url": {"url": "https://x"}}]}]}',
        '{"messages": [{"content": "", "content": [{"image_url": {"url": "https://x"}}]}]}',
        '{"messages": [{"content": [{"image_url": {"url": "data:x", "url": "https://x"}}]}]}',
        '{"messages": [{"content": [{"image_url": {"url": "\\u0068ttps://x"}}]}]}',
        '{"messages": [ {"content" :\n\t[ {"image_url" : "https://x"}]}]}',
        '{"messages": [5, {"content": [{"image_url": {"url": "https://x"}}]}]}',
        '{"messages": [[{"content": [{"image_url": {"url": "https://x"}}]}]]}',
        '{"\\u006dessages": [{"content": [{"image_url": {"url": "https://x"}}]}]}',
        '{"prompt\\u005fembeds": "AAAA"}',
        '{"a": null, "prompt_embeds": null, "prompt_embeds": "AAAA"}',
        '{"guided_json": "' + "\\u007b" * 100 + '"}',
        '{"guided_json": "' + "[" * 100 + '"}',
    ],
)
def test_nothing_hides_behind_another_spelling(raw: str) -> None:
    assert judged(raw) is not None


def test_a_depth_in_strings_is_no_depth_of_tools() -> None:
    assert judged({"tools": [{"function": {"name": "f", "description": "[" * 500 + '\\"' + "{" * 500}}]}) is None


KNOWN = """
messages prompt input content type text image_url url source data input_audio prompt_embeds cache_salt tools n json
max_tokens best_of guided_json structured_outputs response_format chat_template_kwargs tokenize documents functions
mm_processor_kwargs vllm_xargs
"""


@pytest.mark.parametrize("number", ["9" * 5000, '"' + "9" * 5000 + '"', "1e300"])
def test_a_number_too_long_to_read_is_above_every_limit(number: str) -> None:
    assert over_limits({"max_tokens": msgspec.Raw(number.encode())}, LIMITS) is not None


NAMES = st.sampled_from(KNOWN.split())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(
        ["image_url", "url", "https://x", "data:x", "prompt_embeds", "[[[[[[[[", "1e400", "nan", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(body=st.dictionaries(NAMES | st.text(), JSON, max_size=8), limits=st.sampled_from([LIMITS, TIGHT]))
def test_any_json_is_decided_and_never_raises(body: dict[str, Any], limits: LimitsConfig) -> None:
    refused = over_limits(raw_fields(body), limits)
    assert refused is None or (refused.status == 400 and refused.message)


@given(value=JSON, where=st.lists(st.sampled_from(["list", "a", "content"]), max_size=5))
def test_a_url_is_found_however_deep_it_lies(value: Any, where: list[str]) -> None:
    part: Any = [value, {"type": "image_url", "image_url": {"url": HTTP}}]
    for step in where:
        part = [value, part] if step == "list" else {step: part}
    refused = judged({"messages": [{"role": "user", "content": part}]}) if isinstance(part, list | dict) else None
    assert refused is not None
    assert refused.status == 400
