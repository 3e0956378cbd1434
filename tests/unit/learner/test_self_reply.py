"""Claims about the base's own replies: whole, plain, its own, and to nothing that a curriculum asks."""

import pytest

from gaiad.learner import plain_text, self_reply
from gaiad.learner.likeness import Requests
from gaiad.learner.self_reply import Known, verdict

ASKED = "Explain the tides to a child of six."
REPLY = "The moon pulls at the sea, and so the water rises and falls."


def known(*replies: str) -> Known:
    made = Known(Requests(["Which tool reads the file notes.md for me?"]), 0.7, Requests())
    for one in replies:
        made.keeps(one)
    return made


@pytest.mark.parametrize(
    "text", [REPLY, "Blue.", "1. Wash it\n2. Dry it", "A tide comes in, a tide goes out, every day."]
)
def test_a_whole_plain_reply_passes(text: str) -> None:
    assert verdict(ASKED, text, "stop", known()) is None


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        (REPLY, "length", self_reply.CUT_OFF),
        (REPLY, "abort", self_reply.NOT_ENDED),
        (REPLY, "tool_calls", self_reply.NOT_ENDED),
        ("", "stop", plain_text.NO_TEXT),
        ("The sea is the sea is the sea is the sea is", "stop", plain_text.LOOP),
        (REPLY + "<|im_start|>user", "stop", plain_text.ROLES),
        ("As an AI I have not seen the sea.", "stop", plain_text.ABOUT_ITSELF),
        (" ".join(f"word{n}" for n in range(400)) + ".", "stop", self_reply.MUCH_TOO_LONG),
        ("The moon pulls at the sea, and so the water rises and", "stop", self_reply.HALF),
        ("Explain the tides to a child of six.", "stop", self_reply.ECHO),
        ("Explain the tides to a child of six, please.", "stop", self_reply.ECHO),
    ],
)
def test_what_is_not_worth_keeping_has_its_reason(text: str, finish_reason: str, reason: str) -> None:
    assert verdict(ASKED, text, finish_reason, known()) == reason


def test_a_request_like_one_of_a_curriculum_is_not_kept() -> None:
    assert verdict("Which tool reads the file other.md for me?", REPLY, "stop", known()) == self_reply.OF_A_CURRICULUM


def test_what_was_said_to_another_request_is_not_kept_again_unless_it_is_a_word_or_two() -> None:
    assert verdict(ASKED, REPLY, "stop", known(REPLY)) == self_reply.SAID_BEFORE
    assert verdict(ASKED, "A complaint.", "stop", known("A complaint.")) is None
