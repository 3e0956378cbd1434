"""May what the base answered to a general request be kept, so that an adapter goes on answering like it?

Kept is what ended by itself, is whole, does not turn in circles, speaks of nothing but the matter, and answers a
request that no curriculum has. Whether it is right nobody knows: it is what the base says, no more. Reads no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gaiad.learner.likeness import Requests, jaccard, shingles
from gaiad.learner.plain_text import fault, is_cut_off, words_of

CUT_OFF = "it was cut off at its length"
NOT_ENDED = "it did not end by itself"
HALF = "it breaks off in the midst"
SAID_BEFORE = "it said the same to another request"
ECHO = "it only repeats the request"
OF_A_CURRICULUM = "a curriculum has a request like it"
MUCH_TOO_LONG = "it is too long"

MOST_CHARACTERS = 2000
_ECHO, _SAME = 0.7, 0.8
_OWN_WORDS = 5
"""A reply of fewer words, as "It is a question.", may be right twice."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a reply is held against: the requests of the curricula, what is near them, and the replies kept so far."""

    requests: Requests
    near: float
    replies: Requests

    def keeps(self, text: str) -> None:
        """Know one more reply."""
        if len(words_of(text)) >= _OWN_WORDS:
            self.replies.add(text)


def verdict(request: str, text: str, finish_reason: str, known: Known) -> str | None:
    """Why a reply is refused, or None where it may be kept."""
    # 1. How it ended. 2. What it is made of. 3. What it says.
    if finish_reason != "stop":
        return CUT_OFF if finish_reason == "length" else NOT_ENDED
    unfit = fault(text)
    if unfit is not None:
        return unfit
    if len(text) > MOST_CHARACTERS:
        return MUCH_TOO_LONG
    if is_cut_off(text):
        return HALF
    if _is_echo(request, text):
        return ECHO
    if len(words_of(text)) >= _OWN_WORDS and known.replies.has_like(text, _SAME):
        return SAID_BEFORE
    return OF_A_CURRICULUM if known.requests.has_like(request, known.near) else None


def _is_echo(request: str, text: str) -> bool:
    """Whether the reply is the request again, or begins with it and says nothing more."""
    asked, said = words_of(request), words_of(text)
    if jaccard(shingles(request), shingles(text)) >= _ECHO:
        return True
    return said[: len(asked)] == asked and len(said) - len(asked) < min(3, len(asked)) and not re.search(r"\d", text)
