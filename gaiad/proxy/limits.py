"""What one request may ask of the engine: how much, and which fields that make it fetch, read, load or run something.

Decides from undecoded fields and `[proxy.limits]`; an ordinary request is not decoded for it. A field that is refused
names the switch that allows it, a limit its key. What a field means else is the engine's to judge, so a value of the
wrong kind passes. Size and depth of the whole body are `body`'s, how many requests run at once is `turns`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gaiad.config import LimitsConfig
from gaiad.proxy.body import NULL, OPENING, Fields, PlainMessage, nests_deeper_than, value_of
from gaiad.proxy.refusals import Rejection, bad_request

Check = Callable[[str, bytes, LimitsConfig], Rejection | None]

_SWITCHES: Mapping[str, str] = {
    # Tensors, unpickled by the engine.
    "prompt_embeds": "allow_prompt_embeds",
    # A program in Jinja, run by the engine.
    "chat_template": "allow_chat_template",
    # Chooses whose cached prefixes the request shares.
    "cache_salt": "allow_cache_salt",
    # Set sizes and rates of decoding, so memory and time, and what a model's own processor takes.
    "mm_processor_kwargs": "allow_media_kwargs",
    "media_io_kwargs": "allow_media_kwargs",
    # Name hosts and ports that the engine connects to, and memory that it reads there.
    "kv_transfer_params": "allow_transfer_params",
    "ec_transfer_params": "allow_transfer_params",
    # Reach extensions unchecked, and carry the two above by another name; older engines import what the other names.
    "vllm_xargs": "allow_engine_extras",
    "logits_processors": "allow_engine_extras",
}
_EMPTY = frozenset({NULL, b"{}", b"[]"})
_IN_TEMPLATE_KWARGS = ("chat_template", "tokenize")
_OUR_TOOLS = frozenset({None, "function", "custom", "namespace"})
_SCHEMA_TEXTS = ("guided_json", "structured_outputs")
_URLS = frozenset({"image_url", "audio_url", "video_url", "file_url"})
_MARKS = (b'_url"', b'_embeds"', b'"source"', b'"input_audio"')
_HIDDEN = re.compile(rb"\\u00[2-7]")
_MOST_DIGITS = 18
"""A number with more is above any limit; Python may refuse to read it."""


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(NULL)


class _Tool(msgspec.Struct):
    type: Any = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_TOOLS = msgspec.json.Decoder(list[_Tool])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


def over_limits(fields: Fields, limits: LimitsConfig, plain: Sequence[PlainMessage] | None = None) -> Rejection | None:
    """Say which limit a request goes over or which field it may not use; None where it may go on.

    `plain` are its messages where they are nothing but text, so that only their number is left to look at.
    """
    for key, value in fields.items():
        check = _CHECKS.get(key, _content)
        if check is None:
            continue
        if plain is not None and key == "messages":
            refused = _too_many(key, limits) if len(plain) > limits.max_messages else None
        else:
            refused = check(key, bytes(value), limits)
        if refused is not None:
            return refused
    return None


def _switched(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    switch = _SWITCHES[key]
    return None if raw in _EMPTY or getattr(limits, switch) else _not_allowed(f"`{key}`", switch, key)


def _template_kwargs(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    if raw in _EMPTY or limits.allow_chat_template:
        return None
    given = _read(key, raw)
    if isinstance(given, Rejection):
        return given
    found = [name for name in _IN_TEMPLATE_KWARGS if isinstance(given, dict) and given.get(name) is not None]
    return _not_allowed(f"`{key}.{found[0]}`", "allow_chat_template", key) if found else None


def _tokens(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    return _above(key, raw, limits.max_tokens, "max_tokens")


def _choices(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    return _above(key, raw, limits.max_n, "max_n")


def _above(key: str, raw: bytes, limit: int, name: str) -> Rejection | None:
    # 1. Digits alone, nearly always. 2. The engine takes 5.0 and "5" for 5 too.
    if raw.isdigit():
        above = len(raw) > _MOST_DIGITS or int(raw) > limit
    else:
        value = _read(key, raw)
        if isinstance(value, Rejection):
            return value
        above = _number(value) > limit
    return _too_much(f"`{key}` is above {limit}", key, name) if above else None


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        return 0.0
    except OverflowError:
        return float("inf")


def _schema(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    if len(raw) > limits.max_schema_bytes:
        return _too_much(f"`{key}` is larger than {limits.max_schema_bytes} bytes", key, "max_schema_bytes")
    return _too_deep(key, raw, limits)


def _too_deep(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    limit = limits.max_schema_depth
    # 1. Too few brackets, those in strings counted too. An escape may hide some.
    if raw.count(b"{") + raw.count(b"[") <= limit and not _hides(raw):
        return None
    deep = nests_deeper_than(raw, limit)
    # 2. A schema may come as a string that holds JSON.
    if not deep and key in _SCHEMA_TEXTS:
        value = _read(key, raw)
        if isinstance(value, Rejection):
            return value
        inner = value.get("json") if isinstance(value, dict) else value
        if isinstance(inner, str):
            deep = nests_deeper_than(inner.encode("utf-8", "surrogatepass"), limit)
    return _too_much(f"`{key}` is nested more than {limit} deep", key, "max_schema_depth") if deep else None


def _tools(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    if raw in _EMPTY:
        return None
    if len(raw) > limits.max_tools_bytes:
        return _too_much(f"`{key}` is larger than {limits.max_tools_bytes} bytes", key, "max_tools_bytes")
    if nests_deeper_than(raw, limits.max_schema_depth):
        limit = limits.max_schema_depth
        return _too_much(f"`{key}` is nested more than {limit} deep", key, "max_schema_depth")
    if limits.allow_server_tools:
        return None
    try:
        kinds = [tool.type for tool in _TOOLS.decode(raw)]
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    # What the engine runs itself, or has run by a server it knows: search, code, shells, other servers.
    foreign = next((kind for kind in kinds if isinstance(kind, str) and kind not in _OUR_TOOLS), None)
    return _not_allowed(f"`{key}` of type `{foreign[:64]}`", "allow_server_tools", key) if foreign else None


def _messages(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    try:
        messages = _MESSAGES.decode(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        # Prompts, or lists of something else.
        return _items(key, raw, limits)
    if len(messages) > limits.max_messages:
        return _too_many(key, limits)
    for message in messages:
        content = bytes(message.content)
        if content[0] in OPENING:
            refused = _content(f"{key}.content", content, limits)
            if refused is not None:
                return refused
    return None


def _items(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    """A list of prompts or input items, each of which is work of its own; numbers are the tokens of one prompt."""
    if raw[:1] == b"[" and raw.count(b",") >= limits.max_messages:
        try:
            items = _ITEMS.decode(raw)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            return bad_request(f"`{key}` cannot be read.", param=key)
        if len(items) > limits.max_messages and not bytes(items[0])[:1].isdigit():
            return _too_many(key, limits)
    return _content(key, raw, limits)


def _content(key: str, raw: bytes, limits: LimitsConfig) -> Rejection | None:
    """Refuse parts that the engine would have to fetch, or to unpickle."""
    if raw[0] not in OPENING or not (any(mark in raw for mark in _MARKS) or _hides(raw)):
        return None
    value = _read(key, raw)
    if isinstance(value, Rejection):
        return value
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for field, switch in _foreign(node):
                if not getattr(limits, switch):
                    return _not_allowed(f"`{key}` with `{field}", switch, key)
            # The arguments of a tool call are a tool's, not the engine's.
            calls = node.get("type") == "tool_use"
            waiting += [inner for name, inner in node.items() if not (calls and name == "input")]
        elif isinstance(node, list):
            waiting += node
    return None


def _foreign(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Which keys of one object make the engine fetch or load something, and what would allow each."""
    for key, value in node.items():
        if _leads_away(_address(key, value)):
            yield f"{key}` that is no data: URL", "allow_media_urls"
        elif key.endswith("_embeds") and value is not None:
            yield f"{key}`", "allow_prompt_embeds"
        elif key == "type" and isinstance(value, str) and value.endswith("_embeds"):
            yield f"{value}`", "allow_prompt_embeds"


def _address(key: str, value: Any) -> object:  # noqa: ANN401 - a decoded value
    """Where a part says its content lies."""
    if key in _URLS:
        return value.get("url") if isinstance(value, dict) else value
    if key == "source" and isinstance(value, dict) and value.get("type") == "url":
        return value.get("url")
    if key == "input_audio" and isinstance(value, dict):
        # Base64 has no colon: with one it is an address, whatever its field is called.
        return next((at for at in (value.get("url"), value.get("data")) if isinstance(at, str) and ":" in at), None)
    return None


def _leads_away(address: object) -> bool:
    return isinstance(address, str) and bool(address) and address[:5].lower() != "data:"


def _hides(raw: bytes) -> bool:
    """Whether ordinary characters are written as escapes, so that a search for words would miss them."""
    return b"\\u00" in raw and _HIDDEN.search(raw) is not None


def _read(key: str, raw: bytes) -> Any:  # noqa: ANN401 - a parser's edge
    try:
        return value_of({key: msgspec.Raw(raw)}, key)
    except (ValueError, RecursionError):
        return bad_request(f"`{key}` holds a number or a depth that cannot be read.", param=key)


def _not_allowed(what: str, switch: str, key: str) -> Rejection:
    message = f"{what} is refused here. The owner can allow it with proxy.limits.{switch}."
    return bad_request(message, param=key, code="field_not_allowed")


def _too_much(what: str, key: str, name: str) -> Rejection:
    message = f"{what}. The owner can raise proxy.limits.{name}."
    return bad_request(message, param=key, code="limit_exceeded")


def _too_many(key: str, limits: LimitsConfig) -> Rejection:
    return _too_much(f"`{key}` holds more than {limits.max_messages}", key, "max_messages")


_FREE = """
model stream stream_options temperature top_p top_k min_p seed user stop metadata tool_choice frequency_penalty
presence_penalty repetition_penalty logprobs top_logprobs logit_bias parallel_tool_calls
"""
_SCHEMAS = """
guided_json guided_regex guided_choice guided_grammar structured_outputs response_format text output_config
"""
_CHECKS: Mapping[str, Check | None] = {
    **dict.fromkeys(_FREE.split()),
    **dict.fromkeys(_SCHEMAS.split(), _schema),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), _tokens),
    **dict.fromkeys(("n", "best_of"), _choices),
    **dict.fromkeys(("tools", "functions"), _tools),
    **dict.fromkeys(("prompt", "input"), _items),
    **dict.fromkeys(_SWITCHES, _switched),
    "messages": _messages,
    "chat_template_kwargs": _template_kwargs,
}
"""What is asked of each field; None: nothing. Any other field is searched for parts."""
