"""What `gaiadctl watch` draws, and how it moves about a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from gaiad.cli.client import Answer, Client
from gaiad.cli.output import DONE, FAILED, INTERRUPTED, REFUSED, Terminal
from gaiad.cli.scene import drawn, fitted, scene
from gaiad.cli.watch import watched
from gaiad.errors import ControlError, GaiadError

BLOCKS = "01234567"
PROGRESS: dict[str, Any] = {
    "step": 160,
    "total": 320,
    "loss": 0.412,
    "validation_loss": 0.455,
    "note": "went on from step 40",
    "tokens_per_s": 1234.4,
    "flops_per_s": 2.1e12,
    "peak_share": 0.41,
    "memory_bytes": 5 << 30,
    "eta_s": 200.0,
    "curve": {"loss": [[1, 2.0], [2, 1.0], [3, 0.0]], "validation_loss": [[0, 1.0]]},
}
CYCLE: dict[str, Any] = {
    "id": "c1",
    "adapter": "json-architect",
    "profile": "demo",
    "phase": "training",
    "running_s": 61.0,
    "progress": PROGRESS,
}
ENDED: dict[str, Any] = {"id": "c1", "adapter": "json-architect", "verdict": "promoted", "reason": "+40 points"}


class Told(Client):
    """A daemon that answers what was written down, then that no cycle runs any more."""

    def __init__(self, *answers: dict[str, Any] | GaiadError | type[KeyboardInterrupt], row: dict[str, Any]) -> None:
        super().__init__(Path("/nowhere"))
        self._answers, self._row = list(answers), row

    def get(self, *segments: str, **query: object) -> Answer:
        if segments == ("cycles",):
            return {"cycles": [self._row]}
        answer = self._answers.pop(0) if self._answers else None
        if answer is None or isinstance(answer, dict):
            return {"learning": {"cycle": answer}}
        raise answer


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def followed(client: Client, out: io.StringIO, *, as_json: bool = False, patient: bool = True) -> int:
    terminal = Terminal(as_json=as_json, now=0.0, out=out, err=io.StringIO())
    return watched(client, "c1", terminal, patient=patient, sleep=lambda seconds: None)


def visible(text: str) -> list[str]:
    """The lines that a terminal shows after `text`; of the escapes it knows up, and clear from the cursor on."""
    lines, row = [""], 0
    for piece in text.replace("\x1b[", "\x1b").split("\x1b"):
        rest = piece
        if rest[:1].isdigit() and "A" in rest[:4]:
            up, _, rest = rest.partition("A")
            row -= int(up)
        elif rest[:1] == "K":
            rest = rest[1:]
        elif rest[:1] == "J":
            lines, rest = [*lines[:row], ""], rest[1:]
        for char in rest:
            if char == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif char == "\r":
                lines[row] = ""
            else:
                lines[row] += char
    return lines


def test_a_picture_tells_how_far_how_good_how_fast_and_how_long() -> None:
    assert scene(CYCLE, {}, BLOCKS) == [
        "json-architect (demo)  training  61 s",
        "[####################....................] 160/320",
        "loss        0.412  740",
        "validation  0.455",
        "1234 tokens/s  2.1 TFLOP/s (41.0% of peak)  5.0 GiB  3 min left",
        "went on from step 40",
    ]
    paused = scene({**CYCLE, "progress": None}, {"gpu": {"trainer_stopped": True}}, BLOCKS)
    assert paused == ["json-architect (demo)  training  61 s", "the trainer stands still while requests are served"]


def test_what_the_trainer_does_not_know_is_not_shown() -> None:
    unknown = {**PROGRESS, "flops_per_s": 2.1e12, "peak_share": None, "memory_bytes": None, "eta_s": None}
    (line,) = [line for line in scene({**CYCLE, "progress": unknown}, {}, BLOCKS) if "tokens/s" in line]
    assert line == "1234 tokens/s  2.1 TFLOP/s"


@pytest.mark.parametrize(
    ("values", "curve"), [([], ""), ([1.0], ""), ([1.0, 1.0], "00"), ([0.0, 7.0, 3.4], "073"), ([1e300, -1e300], "70")]
)
def test_a_curve_goes_from_its_lowest_value_to_its_highest(values: list[float], curve: str) -> None:
    assert drawn(values, BLOCKS) == curve


def test_a_line_never_breaks_on_a_narrow_terminal() -> None:
    assert [fitted("abcdef", width) for width in (6, 5, 1, 0)] == ["abcdef", "abcd>", ">", ">"]


def test_on_a_terminal_the_picture_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Screen()
    away = ControlError("gaiad went away", hint="")
    examining = {**CYCLE, "phase": "examining", "progress": {"step": 1, "total": 4, "note": "exam of base"}}
    assert followed(Told(CYCLE, away, examining, row=ENDED), out) == DONE
    assert "waiting for it" in out.getvalue()
    assert visible(out.getvalue()) == [
        "json-architect (demo)  examining  61 s",
        "[##########..............................] 1/4",
        "exam of base",
        "json-architect: promoted: +40 points",
        "",
    ]


def test_nothing_that_was_said_moves_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Screen()
    followed(Told({**CYCLE, "progress": {**PROGRESS, "note": "\x1b[2Jgone"}}, row=ENDED), out)
    assert "\x1b[2J" not in out.getvalue()


def test_where_nobody_looks_each_piece_of_news_is_a_line() -> None:
    out = io.StringIO()
    nearly = {**CYCLE, "progress": {**PROGRESS, "step": 161}}
    assert followed(Told(CYCLE, CYCLE, nearly, row=ENDED), out) == DONE
    first, last = out.getvalue().splitlines()
    assert first.startswith("json-architect (demo)  training  [############............] 160/320  loss 0.412")
    assert first.endswith("1234 tokens/s  2.1 TFLOP/s (41.0% of peak)  5.0 GiB  3 min left  went on from step 40")
    assert last == "json-architect: promoted: +40 points"


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("promoted", DONE), ("nothing_new", REFUSED), ("rejected", FAILED), ("cancelled", FAILED), ("failed", FAILED)],
)
def test_the_exit_code_tells_how_the_cycle_ended(verdict: str, code: int) -> None:
    assert followed(Told(row={**ENDED, "verdict": verdict}), io.StringIO()) == code


def test_leaving_leaves_the_cycle_running() -> None:
    assert followed(Told(CYCLE, KeyboardInterrupt, row=ENDED), io.StringIO()) == INTERRUPTED


def test_who_waits_for_a_training_is_told_at_once_that_the_daemon_is_gone() -> None:
    with pytest.raises(ControlError):
        followed(Told(CYCLE, ControlError("gone", hint=""), row=ENDED), io.StringIO(), patient=False)


def test_a_cycle_that_left_no_row_is_not_waited_for() -> None:
    with pytest.raises(GaiadError, match="left nothing"):
        followed(Told(row={**ENDED, "id": "another"}), io.StringIO())
