"""What people read: tables, durations, one sentence for a problem."""

from __future__ import annotations

import io
import json

import pytest

from gaiad.cli.output import FAILED, REFUSED, Terminal, bar, pairs, sentence, span, table
from gaiad.cli.status import cycle_line, render_status
from gaiad.errors import EngineError, Refuse


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (99, "99 s"),
        (100, "1 min"),
        (5999, "99 min"),
        (11100, "3 h 05 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_columns_line_up_and_empty_cells_are_dashes() -> None:
    assert table(("A", "LONG"), [("abc", None), ("", True)]) == "A    LONG\nabc  -\n-    yes"


def test_control_characters_cannot_break_a_table() -> None:
    assert table(("A",), [("x\x1b[31m\ny",)]) == "A\nx [31m y"


def test_nothing_that_is_shown_speaks_to_the_terminal() -> None:
    told = "note: \x1b]0;owned\x07 \x9b2J\r\n\tnaïve"
    out = io.StringIO()
    Terminal(as_json=False, now=0.0, out=out, err=out).show({}, told)
    assert out.getvalue() == "note: \\x1b]0;owned\\x07 \\x9b2J\\x0d\n\tnaïve\n"
    as_json = io.StringIO()
    Terminal(as_json=True, now=0.0, out=as_json).show({"note": told}, "")
    assert json.loads(as_json.getvalue()) == {"note": told}
    assert "\x9b" not in as_json.getvalue()


def test_rows_without_a_text_are_left_out_of_pairs() -> None:
    assert pairs([("a", "1"), ("long", ""), ("bb", "2")]) == "a   1\nbb  2"


def test_a_bar_stays_inside_its_width() -> None:
    assert bar(0.5, 4) == "[##..]"
    assert bar(7, 4) == "[####]"
    assert bar(-1, 4) == "[....]"


def test_a_problem_is_one_sentence_that_ends_with_what_to_try() -> None:
    assert sentence("gaiadctl", "the engine\nis down.", "start it") == "gaiadctl: the engine is down. Try: start it"
    assert sentence("refused", "no", "") == "refused: no."


def test_refusals_and_failures_keep_their_exit_codes_and_are_json_where_asked() -> None:
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(as_json=True, now=0.0, out=out, err=err)
    assert terminal.refused(Refuse("a cycle is running", "cancel it")) == REFUSED
    assert json.loads(out.getvalue()) == {"error": {"message": "a cycle is running", "hint": "cancel it"}}
    assert terminal.failed(EngineError("down", hint="start it"), FAILED) == FAILED
    assert err.getvalue().splitlines()[1] == "gaiadctl: down. Try: start it"


def test_a_running_cycle_is_one_line_with_its_progress() -> None:
    cycle = {
        "adapter": "json-architect",
        "profile": "demo",
        "phase": "training",
        "progress": {"step": 10, "total": 40, "loss": 1.25},
    }
    assert cycle_line(cycle) == "json-architect (demo)  training  [######..................] 10/40  loss 1.250"
    assert cycle_line({}) == ""


def test_the_status_page_survives_a_daemon_that_knows_nothing_yet() -> None:
    page = render_status({}, now=0.0)
    assert "0 active, 0 held" in page
    assert page.endswith("STAGE  ADAPTER  ACTIVE  PREVIOUS")


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "ä \\ud800"), ("ascii", "\\xe4 \\ud800")])
def test_whatever_was_said_can_be_printed_on_any_terminal(encoding: str, shown: str) -> None:
    answer = {"said": "ä \ud800"}
    for as_json in (False, True):
        raw = io.BytesIO()
        terminal = Terminal(as_json=as_json, now=0.0, out=io.TextIOWrapper(raw, encoding), err=io.StringIO())
        terminal.show(answer, answer["said"])
        terminal.out.flush()
        text = raw.getvalue().decode(encoding)
        if as_json:
            assert json.loads(text) == answer
        else:
            assert text == f"{shown}\n"


def test_why_nothing_goes_for_its_age_is_told() -> None:
    assert "nothing goes for its age: the clock is ahead" in render_status(
        {"store": {"held_back": "the clock is ahead"}}, 0
    )
    assert "age" not in render_status({"store": {"held_back": None}}, 0)
