"""The page holds what it was given, escaped, and loads nothing from outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from gaiad.report import Bar, BarGroup, Comparison, LossPoint, Report, Step, TimelineEvent, render

REPORT = Report(
    title="A <cycle>",
    subtitle="SmolLM2 & friends",
    steps=[Step("gate rejects shuffled labels", True, "p = 0.9", 1.5), Step("rolled back", False, "no")],
    loss=[LossPoint(1, 2.3), LossPoint(2, 1.1, 1.4)],
    exams=[BarGroup("constrained", [Bar("base", 0.1, 0.05, 0.2), Bar("candidate", 0.6, 0.5, 0.7, "62/104")])],
    timeline=[TimelineEvent(0, "json-architect@v1-00000000", "active", "gate"), TimelineEvent(9, "x", "rolled_back")],
    comparisons=[Comparison("<script>alert(1)</script>", "before", "after")],
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_tag_is_closed_and_nothing_is_loaded_from_outside() -> None:
    page = render(REPORT)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "link" not in tags.seen
    assert not re.search(r"https?://|url\(", page)


def test_given_text_is_escaped_and_a_failed_step_is_said_aloud() -> None:
    page = render(REPORT)
    assert "A &lt;cycle&gt;" in page
    assert "<script>" not in page
    assert "FAILED" in page
    assert "62/104" in page


def test_empty_parts_are_left_out() -> None:
    page = render(Report("t", "s"))
    assert "<svg" not in page
    assert "<section>" not in page
