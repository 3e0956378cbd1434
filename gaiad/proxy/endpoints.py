"""The engine's paths that clients may use: an allow-list, and what each is to the proxy.

Pure. What is not in the table never reaches the engine, and what is reaches it under the path as it stands here: no
query, no encoding of the client's goes along. What is done on a path is decided in `inference` and `stored`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """How requests and replies of a path are written."""

    CHAT = "chat"
    TEXT = "text"
    RESPONSES = "responses"
    MESSAGES = "messages"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the engine."""

    path: str
    form: Form


COMPLETIONS = frozenset({Form.CHAT, Form.TEXT})
"""Forms whose replies are chat completions or completions, which share their shape."""

INFERENCE: Mapping[str, Endpoint] = {
    path: Endpoint(path, form)
    for path, form in (
        ("/v1/chat/completions", Form.CHAT),
        ("/v1/completions", Form.TEXT),
        ("/v1/responses", Form.RESPONSES),
        ("/v1/messages", Form.MESSAGES),
    )
}
"""A model speaks: these have a stage, a row, and somebody who may be waiting. All take POST."""

ERRANDS: Mapping[str, Endpoint] = {
    path: Endpoint(path, Form.PLAIN)
    for path in (
        "/v1/embeddings",
        "/v1/score",
        "/v1/rerank",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    )
}
"""Housekeeping: text is counted, cut or measured. Served by the base or a named adapter. All take POST."""

RESPONSES = "/v1/responses/"
_BY_ID = re.compile(re.escape(RESPONSES) + r"(?P<id>resp_[A-Za-z0-9_-]{1,64})(?P<cancel>/cancel)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A reply that the engine keeps under an id, and what is to be done with it."""

    id: str
    method: str
    path: str


def stored_response(path: str) -> StoredResponse | None:
    """Take `/v1/responses/{id}` or `.../cancel` apart; None for anything else."""
    match = _BY_ID.fullmatch(path)
    return None if match is None else StoredResponse(match["id"], "POST" if match["cancel"] else "GET", path)
