"""What an erasure reaches, and when it is signed off."""

from __future__ import annotations

import pytest

from gaiad.curriculum import Json
from gaiad.erasure import Kind, Selector, signed_off, stained


def test_only_versions_that_learned_from_an_erased_exchange_are_stained() -> None:
    lineages: dict[str, dict[str, Json]] = {
        "a@v1": {"exchange_ids": ["r1", "r2"]},
        "a@v2": {"exchange_ids": ["r3"]},
        "a@v3": {"exchange_ids": [], "left_out_exchange_ids": ["r1"]},
        "a@v4": {"imported_from": "elsewhere"},
    }
    assert stained(lineages, ["r1"]) == ["a@v1"]
    assert stained(lineages, ["r2", "r3"]) == ["a@v1", "a@v2"]
    assert stained(lineages, []) == []


@pytest.mark.parametrize(
    ("kind", "name", "covered"),
    [("user", "ada", True), ("user", "c1", False), ("conversation", "c1", True), ("exchange", "r1", True)],
)
def test_a_selector_covers_what_it_names(kind: str, name: str, covered: bool) -> None:
    selector = Selector(Kind(kind), name)
    assert selector.covers(user="ada", conversation="c1", request_id="r1") is covered


def test_a_report_is_signed_off_only_where_every_check_found_nothing_left() -> None:
    assert signed_off({"checks": {"rows": 0, "weights": 0}})["signed_off"] is True
    assert signed_off({"checks": {"rows": 0, "weights": 1}})["signed_off"] is False
    assert signed_off({"checks": {}})["signed_off"] is False
    assert signed_off({})["signed_off"] is False


def test_the_digest_covers_what_the_report_says() -> None:
    report = signed_off({"checks": {"rows": 0}, "versions": ["a@v1"]})
    assert signed_off(report) == report
    assert signed_off({**report, "versions": []})["sha256"] != report["sha256"]
