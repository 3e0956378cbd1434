"""What gaia-core's client does with an engine's words about its window, over the wordings of its releases."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.overflow import retry_hint, reworded

# As gaia-core's client looks for it, in the first 500 characters of the reply.
CLIENT = re.compile(r"max_tokens\s+\d+\s*>\s*(\d+)\s*-\s*(\d+)")

TOO_LARGE = (
    "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 tokens "
    "and your request has 2778 input tokens (8000 > 4096 - 2778)."
)
AT_LEAST = (
    "This model's maximum context length is 4096 tokens. However, you requested 1000 output tokens and your prompt "
    "contains at least 3097 input tokens, for a total of at least 4097 tokens. Please reduce the length of the input "
    "prompt or the number of requested output tokens."
)
IN_THE_MESSAGES = (
    "This model's maximum context length is 4096 tokens. However, you requested 5096 tokens (1096 in the messages, "
    "4000 in the completion). Please reduce the length of the messages or completion."
)


@pytest.mark.parametrize(
    ("text", "asked", "window", "used"),
    [
        (TOO_LARGE + " None", 8000, 4096, 2778),
        (TOO_LARGE + " (parameter=max_tokens, value=8000)", 8000, 4096, 2778),
        (IN_THE_MESSAGES, 4000, 4096, 1096),
        (IN_THE_MESSAGES.replace("messages, ", "prompt, "), 4000, 4096, 1096),
        (AT_LEAST + " (parameter=input_tokens, value=3097)", 1000, 4096, 3097),
        (AT_LEAST.replace("at least 3097", "3100"), 1000, 4096, 3100),
        (
            "max_tokens=9000 cannot be greater than max_model_len=4096. Please request fewer output tokens. "
            "(parameter=max_tokens, value=9000)",
            9000,
            4096,
            0,
        ),
        (
            "max_completion_tokens=9000 cannot be greater than max_model_len=4096. Please request fewer output tokens.",
            9000,
            4096,
            0,
        ),
    ],
)
@pytest.mark.parametrize("shape", ["nested", "flat", "nested late"])
def test_a_wording_of_any_release_makes_the_client_ask_again_with_what_fits(
    text: str, asked: int, window: int, used: int, shape: str
) -> None:
    body = {"message": text, "type": "BadRequestError", "param": None, "code": 400}
    whole = {"nested": {"error": body}, "flat": {"object": "error", **body}, "nested late": {"id": 1, "error": body}}
    raw = json.dumps(whole[shape]).encode()
    told = reworded(raw)
    match = CLIENT.search(told.decode()[:500])
    assert match is not None
    assert (int(match[1]), int(match[2])) == (window, used)
    assert f"max_tokens {asked} > {window} - {used}. " in told.decode()
    assert text in told.decode()
    assert told.replace(f"max_tokens {asked} > {window} - {used}. ".encode(), b"") == raw


@pytest.mark.parametrize(
    "text",
    [
        # The prompt alone is too long.
        "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. Please "
        "reduce the length of the input messages.",
        "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
        "This model's maximum context length is 40960 tokens. However, you requested 0 output tokens and your prompt "
        "contains at least 40961 input tokens, for a total of at least 40961 tokens.",
        "Input length (5000) exceeds model's maximum context length (4096).",
        "This model's maximum context length is 512 tokens. However, you requested 548 tokens in the input for "
        "embedding generation.",
        # Something else.
        "temperature must be non-negative, got -1.0.",
        "",
    ],
)
def test_what_fewer_tokens_would_not_mend_passes_unchanged(text: str) -> None:
    raw = json.dumps({"error": {"message": text, "code": 400}}).encode()
    assert retry_hint(text) is None
    assert reworded(raw) == raw


@pytest.mark.parametrize(
    "raw", [b"", b"nonsense", b"[]", b'{"error":"x"}', b'{"message":5}', b'{"error":{"message":null}}', b'{"error":{']
)
def test_what_has_no_text_passes_unchanged(raw: bytes) -> None:
    assert reworded(raw) == raw


@given(st.text(max_size=200), st.text(max_size=30))
def test_nothing_but_the_text_ever_changes(before: str, after: str) -> None:
    text = before + TOO_LARGE + after
    raw = json.dumps({"error": {"message": text, "code": 400}, "x": before}, ensure_ascii=False)
    told = json.loads(reworded(raw.encode("utf-8", "surrogatepass")))
    assert told == {"error": {"message": f"max_tokens 8000 > 4096 - 2778. {text}", "code": 400}, "x": before}
