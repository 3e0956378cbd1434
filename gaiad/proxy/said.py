"""What a reply came to, read from its bytes once it is over: the text, how it ended, the tokens it took.

Reads only what a judgement and a content-free row need, with a typed decoder that skips the rest; a reply of an
unforeseen shape goes through `reply.ReplyCopy`. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from gaiad.proxy.rename import read_reply
from gaiad.proxy.reply import ReplyCopy


class Said(msgspec.Struct, frozen=True):
    """The first choice in short; `whole` where it is known why it ended. Token counts are None where untold."""

    text: str = ""
    calls_tools: bool = False
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Reply(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_REPLY = msgspec.json.Decoder(_Reply)


def said_by(payloads: Iterable[bytes]) -> Said:
    """Read a whole reply (one payload) or the chunks of a streamed one, in order."""
    payloads = list(payloads)
    try:
        return _read(_REPLY.decode(payload) for payload in payloads)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return _read_slowly(payloads)


def said_in_short(payloads: Sequence[bytes]) -> Said:
    """The same of a reply whose words do not matter: of `text` and calls only as much as shows that there are any.

    A long stream is read at both ends and not in between.
    """
    if len(payloads) < 2:
        return said_by(payloads)
    try:
        # 1. From the beginning until something is said, which mostly is in the second chunk.
        opening = Said()
        for payload in payloads:
            opening = _read([_REPLY.decode(payload)])
            if opening.calls_tools or not (opening.text == "" or opening.text.isspace()):
                break
        # 2. From the end until it is known how it ended and what it took.
        finish, usage = None, None
        for payload in reversed(payloads):
            reply = _REPLY.decode(payload)
            usage = usage or reply.usage
            told = (one.finish_reason for one in reversed(reply.choices) if one.index == 0 and one.finish_reason)
            finish = finish or next(told, None)
            if finish is not None and usage is not None:
                break
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return _read_slowly(payloads)
    counted = usage or _Usage()
    return Said(opening.text, opening.calls_tools, finish, counted.prompt_tokens, counted.completion_tokens)


def copy_of(payloads: Iterable[bytes]) -> ReplyCopy:
    """Put the reply together again with all that it holds."""
    copy, payloads = ReplyCopy(), list(payloads)
    for payload in payloads:
        parsed = read_reply(payload)
        if parsed is None:
            continue
        # A chunk of a completion looks like a whole one; but no reply is whole several times over.
        is_piece = len(payloads) > 1 or str(parsed.get("object", "")).endswith(".chunk") or _has_deltas(parsed)
        if is_piece:
            copy.chunk(parsed)
        else:
            copy.whole(parsed)
    return copy


def _read(replies: Iterable[_Reply]) -> Said:
    texts: list[str] = []
    calls, finish, usage = False, None, None
    for reply in replies:
        usage = reply.usage or usage
        for choice in reply.choices:
            if choice.index != 0:
                continue
            finish = choice.finish_reason or finish
            message = choice.delta or choice.message
            if message is not None:
                calls = calls or bool(message.tool_calls)
                if message.content:
                    texts.append(message.content)
            elif choice.text:
                texts.append(choice.text)
    counted = usage or _Usage()
    return Said("".join(texts), calls, finish, counted.prompt_tokens, counted.completion_tokens)


def _read_slowly(payloads: Sequence[bytes]) -> Said:
    copy = copy_of(payloads)
    return Said(copy.text, copy.calls_tools, copy.finish_reason, copy.tokens("prompt"), copy.tokens("completion"))


def _has_deltas(parsed: dict[str, object]) -> bool:
    choices = parsed.get("choices")
    return isinstance(choices, list) and any(isinstance(choice, dict) and "delta" in choice for choice in choices)
