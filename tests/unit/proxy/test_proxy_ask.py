"""Understanding a body, and who asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from multidict import CIMultiDict

from gaiad.config import Config, ConsentConfig
from gaiad.consent import parse_header
from gaiad.proxy.ask import Ask, read_ask
from gaiad.proxy.recognition import Rules
from gaiad.proxy.refusals import Rejection

CONFIG = Config(Path("/s"), Path("/c"))
NAMED = Config(Path("/s"), Path("/c"), consent=ConsentConfig(anonymous_user="owner"))


def understood(raw: bytes, config: Config = CONFIG, **headers: str) -> Ask:
    ask = read_ask(
        raw, CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), config, Rules(), None
    )
    assert isinstance(ask, Ask), ask
    return ask


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"", "line 1, column 1"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[1]", "must be a JSON object, not an array"),
        (b"null", "not null"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"n": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"temperature": 1e999}', "1e999 is too large a number"),
        (b'{"model": 7}', "`model` must be a string"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_body_that_cannot_be_understood_is_told_why(raw: bytes, text: str) -> None:
    refusal = read_ask(raw, CIMultiDict(), CONFIG, Rules(), None)
    assert isinstance(refusal, Rejection)
    assert refusal.status == 400
    assert text in refusal.message


@pytest.mark.parametrize(
    ("config", "header", "body", "user"),
    [
        (CONFIG, None, b"{}", None),
        (CONFIG, None, b'{"user": "ada"}', "ada"),
        (CONFIG, "bob", b'{"user": "ada"}', "bob"),
        (NAMED, None, b"{}", "owner"),
        (NAMED, None, b'{"user": "ada"}', "ada"),
        (NAMED, "  ", b'{"user": 5}', "owner"),
        (NAMED, "  bob ", b"{}", "bob"),
        (NAMED, "x" * 201, b'{"user": "ada"}', None),
        (NAMED, None, b'{"user": "a\\u0000b"}', None),
        (NAMED, None, b'{"user": "\\ud800"}', None),
    ],
)
def test_the_caller_is_who_the_strongest_name_says(
    config: Config, header: str | None, body: bytes, user: str | None
) -> None:
    headers = {} if header is None else {"X_Gaia_User": header}
    assert understood(body, config, **headers).user == user


def test_the_conversation_comes_from_the_header_or_the_metadata() -> None:
    assert understood(b'{"metadata": {"gaia_conversation": "c1"}}').conversation == "c1"
    assert understood(b'{"metadata": {"gaia_conversation": "c1"}}', X_Gaia_Conversation="c2").conversation == "c2"
    assert understood(b'{"metadata": {"gaia_conversation": 5}}').conversation is None


def test_a_consent_header_sent_twice_cannot_hide_the_one_that_narrows() -> None:
    headers = CIMultiDict([("X-Gaia-Consent", "train"), ("x-gaia-consent", "none")])
    ask = read_ask(b"{}", headers, CONFIG, Rules(), None)
    assert isinstance(ask, Ask)
    assert ask.consent is not None
    assert parse_header(ask.consent) is None
    assert understood(b"{}").consent is None


def test_observers_and_the_bare_base_do_not_count_as_users() -> None:
    assert understood(b"{}").is_user
    assert understood(b"{}", X_Gaia_Stage="tool_selection").is_user
    assert not understood(b"{}", X_Gaia_Stage="epistemic_guard").is_user
    assert not understood(b'{"model": "gaia:base"}').is_user
