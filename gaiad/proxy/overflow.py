"""An engine's refusal of a request that does not fit its window, in words that gaia-core acts on.

gaia-core asks again with fewer tokens where a 400 holds `max_tokens N > WINDOW - USED`; the engine's own words changed
from release to release. Pure: puts that sentence before the engine's text where the numbers stand in it, and leaves
everything else as it was. A prompt that alone is too long passes unchanged: no number of tokens would help it.
"""

from __future__ import annotations

import json
import re

from gaiad.proxy.splice import replaced, spans

_WINDOW = r"maximum context length is (?P<window>\d+) tokens"
_WORDINGS = tuple(
    re.compile(wording, re.DOTALL)
    for wording in (
        # The three wordings of earlier releases, as their users quote them; which release had which is not relied on.
        # "(8000 > 4096 - 2778)" stands in this one, but without the name before it.
        rf"is too large: (?P<asked>\d+)\. This model's {_WINDOW} and your request has (?P<used>\d+) input tokens",
        # Both parts counted.
        rf"{_WINDOW}\. However, you requested \d+ tokens "
        r"\((?P<used>\d+) in the (?:messages|prompt), (?P<asked>\d+) in the completion\)",
        # "At least" where the engine stopped counting.
        rf"{_WINDOW}\. However, you requested (?P<asked>\d+) output tokens and your prompt contains "
        r"(?:at least )?(?P<used>\d+) input tokens",
        # 0.32, whose only one it is: more than the window was asked for, and the prompt was not looked at yet. Tokens
        # that merely do not fit beside the prompt are lowered by that engine itself.
        r"max(?:_completion|_output)?_tokens=(?P<asked>\d+) cannot be greater than "
        r"(?:max_model_len|max_total_tokens)=(?P<window>\d+)(?P<used>)\.",
    )
)
_PLACES = (("error", "message"), ("message",))
"""Where the text stands: in OpenAI's shape, and in that of older engines."""


def reworded(body: bytes) -> bytes:
    """The body of a 400 with the sentence that gaia-core looks for, or unchanged."""
    for place in _PLACES:
        found = spans(body, place)
        if len(found) == 1:
            start, end = found[0]
            try:
                told = json.loads(body[start:end])
            except ValueError:
                return body
            sentence = retry_hint(told) if isinstance(told, str) else None
            if sentence is None:
                return body
            return replaced(body, found, json.dumps(f"{sentence} {told}", ensure_ascii=False).encode(*_UTF8))
    return body


_UTF8 = ("utf-8", "surrogatepass")


def retry_hint(text: str) -> str | None:
    """The sentence for an engine's text; None where it is of something else or nothing can be done about it."""
    for wording in _WORDINGS:
        match = wording.search(text)
        if match is None:
            continue
        asked, window, used = int(match["asked"]), int(match["window"]), int(match["used"] or 0)
        # Only where there is room for an answer, and too much of it was asked for.
        return f"max_tokens {asked} > {window} - {used}." if used < window < asked + used else None
    return None
