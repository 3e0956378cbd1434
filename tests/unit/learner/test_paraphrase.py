"""Claims about other words for a request: nothing that the answer hangs on is lost, nothing is added."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.errors import Refuse
from gaiad.learner import paraphrase, plain_text
from gaiad.learner.dataset import catalogue_of
from gaiad.learner.example import Example, Message
from gaiad.learner.likeness import request_of
from gaiad.learner.paraphrase import (
    Original,
    asking,
    in_other_words,
    in_turn,
    known_of,
    original_of,
    proposed_text,
    verdict,
)

TOOLS = "AVAILABLE TOOLS:\n- file(action, path?): Files.\n- web(action, url?): The net.\n- read_log(service): Logs."


def example(request: str, tool: str, params: dict[str, Any], reasoning: str, group: str = "a.b/00") -> Example:
    line = {"selected_tool": tool, "params": json.dumps(params), "reasoning": reasoning, "confidence": 0.9}
    asked = f"Pick one.\n\n{TOOLS}\n\nUSER REQUEST: {request}\n\nAnswer with JSON."
    messages = (Message("system", "s"), Message("user", asked), Message("assistant", json.dumps(line)))
    return Example(messages, "tools", group, "made", "tool_selection", None, {"selected_tool": tool, "params": params})


SAVE = example(
    "Put a copy of the website https://a.example/bees into diary.md",
    "web",
    {"action": "save", "url": "https://a.example/bees", "path": "diary.md"},
    "'copy of the website' asks web save",
)
VOLUME = example(
    "Set the sound level to 30, please", "audio", {"action": "volume", "level": 30}, "'sound level' asks audio volume"
)
NONE = example("How do you spell rhythm?", "", {}, "'spell' needs no tool")
SHELL = example(
    'Run "git status" in the old terminal for Tom',
    "shell",
    {"action": "run", "command": "git status"},
    "'terminal' asks shell run",
)
TIDY = example("Sort the yellow letters below the attic stairs into one box", "do", {}, "'attic' asks do")
GERMAN = example(
    "Lies mir die Datei notizen.md bitte vor",
    "file",
    {"action": "read", "path": "notizen.md"},
    "'Lies vor' asks file read",
)
NEGATED = example(
    "Do not start redis before noon", "manage", {"action": "stop", "service": "redis"}, "'not start' asks manage stop"
)
ALL = (SAVE, VOLUME, NONE, SHELL, GERMAN, NEGATED)


def original(one: Example) -> Original:
    found = original_of(one)
    assert isinstance(found, Original)
    return found


def judged(one: Example, text: str, finish_reason: str = "stop") -> str | None:
    return verdict(original(one), text, finish_reason, known_of(ALL, 0.7))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (SAVE, "I want a copy of the website https://a.example/bees kept in diary.md"),
        (VOLUME, "Could the sound level become 30 for a while?"),
        (NONE, "Could you spell the word rhythm for me?"),
        (SHELL, "For Tom, use the old terminal to execute `git status`"),
        (GERMAN, "Kannst du die Datei notizen.md lesen? Lies sie mir laut vor"),
        (NEGATED, "Please do not start up redis until noon"),
    ],
)
def test_other_words_that_keep_everything_pass(one: Example, text: str) -> None:
    assert judged(one, text) is None


@pytest.mark.parametrize(
    ("one", "text", "reason"),
    [
        (SAVE, "Keep a copy of the website https://a.example/wasps in diary.md", paraphrase.LOST_VALUE),
        (SAVE, "Keep a copy of the website https://a.example/bees in Diary.md", paraphrase.LOST_VALUE),
        (SAVE, "I want diary.md to hold a copy of the website https://a.example/bees", paraphrase.OTHER_ORDER),
        (
            SAVE,
            "I want a copy of the website https://a.example/bees kept in diary.md and b.md",
            paraphrase.OTHER_VALUES,
        ),
        (SAVE, "I want https://a.example/bees to be kept for good in diary.md", paraphrase.LOST_WORDS),
        (SAVE, "I want a copy of the website https://a.example/bees as the file diary.md", paraphrase.OTHER_TOOL),
        (
            SAVE,
            "Read log now: a copy of the website https://a.example/bees into diary.md it goes",
            paraphrase.OTHER_TOOL,
        ),
        (
            SAVE,
            "I want a copy of the website https://a.example/bees not in a sound level but in diary.md",
            paraphrase.OTHER_TOOL,
        ),
        (SAVE, "I want no copy of the website https://a.example/bees kept in diary.md", paraphrase.OTHER_SENSE),
        (SAVE, "Please give Sarah a copy of the website https://a.example/bees in diary.md", paraphrase.OTHER_NAME),
        (
            SAVE,
            "Bitte eine copy of the website https://a.example/bees, und die ist mir in diary.md wichtig",
            paraphrase.OTHER_LANGUAGE,
        ),
        (SAVE, "I want a copy of the website https://a.example/bees kept in diary.md да", paraphrase.OTHER_LANGUAGE),
        (SAVE, "I want a copy of the website https://a.example/bees kept in diary.md (now", paraphrase.UNBALANCED),
        (SAVE, 'I want a copy of the website https://a.example/bees kept in "diary.md', paraphrase.UNBALANCED),
        (SAVE, "I want a copy of the website\nhttps://a.example/bees in diary.md", paraphrase.SEVERAL_LINES),
        (SAVE, "Sure, a copy of the website https://a.example/bees goes into diary.md", paraphrase.ABOUT_THE_TASK),
        (SAVE, "Rephrased: a copy of the website https://a.example/bees goes into diary.md", paraphrase.ABOUT_THE_TASK),
        (
            SAVE,
            "Would you kindly water the copy of the website https://a.example/bees in diary.md",
            paraphrase.OF_THE_PROMPT,
        ),
        (SAVE, "copy website diary.md", paraphrase.TOO_SHORT),
        (
            SAVE,
            "I want a copy of the website https://a.example/bees kept in diary.md "
            + "so that it can be seen by all of us who like the bees and honey and gardens",
            paraphrase.TOO_LONG,
        ),
        (SAVE, "I want a copy of the website https://a.example/bees kept in diary.md,", paraphrase.NOT_WHOLE),
        (SAVE, "put a copy of the website https://b.example into other.md", paraphrase.LOST_VALUE),
        (SAVE, "Put a copy of the website https://a.example/bees into diary.md!", paraphrase.TOO_MUCH_ALIKE),
        (SAVE, "User: a copy of the website https://a.example/bees into diary.md", plain_text.ROLES),
        (SAVE, "I cannot provide a copy of the website https://a.example/bees in diary.md", plain_text.ABOUT_ITSELF),
        (VOLUME, "Could the sound level become 40 for a while?", paraphrase.LOST_VALUE),
        (VOLUME, "Could the sound level become 30 in two steps?", paraphrase.OTHER_VALUES),
        (VOLUME, "Could the sound level become thirty for a while?", paraphrase.LOST_VALUE),
        (NONE, "Could you spell the file rhythm for me?", paraphrase.OTHER_TOOL),
        (NONE, "How is the word rhythm written?", paraphrase.LOST_WORDS),
        (SHELL, 'For Tom, use the old terminal to run "git state"', paraphrase.LOST_VALUE),
        (SHELL, 'For Tom, use the "old" terminal to execute git status', paraphrase.OTHER_VALUES),
        (
            GERMAN,
            "Please read the file notizen.md to me: Lies it from the start and how I like it vor",
            paraphrase.OTHER_LANGUAGE,
        ),
        (VOLUME, "I can change the sound level to 30, if that helps", paraphrase.AS_WHO_IS_ASKED),
        (VOLUME, "The sound level is now 30, you're welcome", paraphrase.AS_WHO_IS_ASKED),
        (VOLUME, "The coffee machine has a sound level near 30, dear friends", paraphrase.MANY_WORDS_NEW),
        (TIDY, "The sound in the attic is what the box needs", paraphrase.FEW_WORDS_KEPT),
        (VOLUME, "The sound level goes to 30: the sound level goes", plain_text.LOOP),
        (NEGATED, "Please don't not start up redis until noon", paraphrase.OTHER_SENSE),
    ],
)
def test_a_proposal_that_loses_or_adds_something_is_refused_with_its_reason(
    one: Example, text: str, reason: str
) -> None:
    assert judged(one, text) == reason


@pytest.mark.parametrize("finish_reason", ["length", "abort", "None", "tool_calls"])
def test_a_proposal_that_did_not_end_by_itself_is_refused(finish_reason: str) -> None:
    assert (
        judged(SAVE, "I want a copy of the website https://a.example/bees kept in diary.md", finish_reason)
        == paraphrase.NOT_WHOLE
    )


def test_a_proposal_like_one_that_was_kept_is_refused() -> None:
    known = known_of(ALL, 0.7)
    text = "I want a copy of the website https://a.example/bees kept in diary.md"
    known.requests.add(text)
    assert verdict(original(SAVE), text.lower(), "stop", known) == paraphrase.TOO_MUCH_ALIKE


@given(st.sampled_from(ALL), st.data())
def test_no_text_passes_that_lacks_a_parameter_or_a_word_that_decides(one: Example, data: st.DataObject) -> None:
    held = original(one)
    words = data.draw(st.lists(st.sampled_from([*request_of(one).split(), "kindly", "now", "here"]), max_size=16))
    text = " ".join(words)
    if judged(one, text) is None:
        assert all(kept in text for kept in held.kept)
        assert all(word in plain_text.words_of(text) for word in held.deciding)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (replace(SAVE, expected={"label": "x"}), "it selects no tool"),
        (example("Open it", "file", {"action": "read"}, "file read"), "quotes no words"),
        (example("So, that one, please", "", {}, "'that one' needs no tool"), "too few words of its own"),
        (example("Chnage it now", "file", {"action": "read"}, "'change it' asks file read"), "as they are quoted"),
        (example("Read\nit", "file", {"action": "read"}, "'read' asks file read"), "several lines"),
        (example("Read", "file", {"action": "read"}, "'read' asks file read"), "not 2 to"),
        (example("Read the " + "very " * 48 + "one", "file", {}, "'read' asks file"), "not 2 to"),
        (example("Read the page", "file", {"path": "a.md"}, "'read' asks file read"), "word for word"),
        (example("Read all of the pages aloud", "file", {"all": True}, "'read' asks file read"), "word for word"),
    ],
)
def test_what_nobody_could_check_is_not_proposed_for(one: Example, reason: str) -> None:
    found = original_of(one)
    assert isinstance(found, Refuse)
    assert reason in found.reason


def test_a_number_said_in_words_must_be_said_again() -> None:
    one = example("Play it fourteen times over", "audio", {"action": "play", "times": 14}, "'play' asks audio play")
    assert judged(one, "Would it play fourteen times in a row?") is None
    assert judged(one, "Would it play fifteen times in a row?") == paraphrase.OTHER_VALUES


def test_the_base_is_told_what_must_stay_and_asked_in_another_manner_each_turn() -> None:
    asked = [asking(original(SAVE), turn) for turn in range(8)]
    assert all("https://a.example/bees; diary.md; copy of the website" in one[-1].content for one in asked)
    assert all(one[-1].content.endswith(f"It is: {request_of(SAVE)}") for one in asked)
    assert len({one[-1].content for one in asked}) == 8
    assert [one.role for one in asked[0]] == ["system", "user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("said", "text"),
    [(' "Open it"\n', "Open it"), ("“Open it”", "Open it"), ('"A" and "B"', '"A" and "B"'), ('"', '"')],
)
def test_quotation_marks_around_the_whole_are_taken_off(said: str, text: str) -> None:
    assert proposed_text(said) == text


def test_strata_and_templates_take_turns_and_every_original_comes_once_a_round() -> None:
    originals = [replace(original(SAVE), key=f"{n:016x}", group=f"s{n % 2}/{n % 6}") for n in range(24)]
    order = [*in_turn(originals, 3, 2)]
    assert Counter(one.key for _, one in order) == {one.key: 2 for one in originals}
    assert [turn for turn, _ in order] == [0] * 24 + [1] * 24
    assert len({one.group for _, one in order[:6]}) == 6
    assert [one.stratum for _, one in order[:4]] == ["s0", "s1", "s0", "s1"]
    assert order == [*in_turn(originals[::-1], 3, 2)]
    assert order != [*in_turn(originals, 4, 2)]


def test_the_example_keeps_catalogue_answer_and_group_and_no_exam_may_ask_it() -> None:
    text = "I want a copy of the website https://a.example/bees kept in diary.md"
    made = in_other_words(SAVE, text, source="words", origin="base:b#f/1")
    assert (request_of(made), catalogue_of(made)) == (text, catalogue_of(SAVE))
    assert (made.answer, made.group, made.stage) == (SAVE.answer, SAVE.group, SAVE.stage)
    assert (made.source, made.origin, made.expected) == ("words", "base:b#f/1", None)
    assert made.messages[-2].content.endswith("\n\nAnswer with JSON.")
    bare = replace(SAVE, messages=(Message("user", "Open it"), SAVE.messages[-1]))
    assert request_of(in_other_words(bare, text, source="s", origin="o")) == text
