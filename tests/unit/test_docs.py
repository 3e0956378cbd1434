"""The pages say what the code does: diagrams, states, links, targets."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from gaiad.adapter import VersionStage
from gaiad.gpu import handoff
from gaiad.learner import cycle
from gaiad.proxy import endpoints, gaia
from tools import diagrams

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_the_diagrams_are_those_of_the_tables() -> None:
    page = diagrams.PAGE.read_text(encoding="utf-8")
    assert diagrams.rendered(page) == page, "run: .venv/bin/python tools/diagrams.py"


@pytest.mark.parametrize("kind", [handoff.Phase, cycle.Phase, VersionStage, cycle.Verdict])
def test_every_state_is_explained(kind: type[StrEnum]) -> None:
    page = diagrams.PAGE.read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    assert [state for state in kind if not re.search(rf"\b{state}\b", rows)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_every_path_of_the_proxy_is_on_its_page() -> None:
    page = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    paths = {*endpoints.INFERENCE, *endpoints.ERRANDS, *gaia.NOTHING_TO_DO}
    assert [path for path in sorted(paths) if not re.search(rf"[` ]{re.escape(path)}[` ]", page)] == []


def test_the_readme_is_short_and_names_only_real_targets() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    named = set(re.findall(r"`make ([a-z]+)`", text)) | set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE))
    assert named >= {"demo", "run", "test", "check", "bench"}
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_unit_names_files_that_exist_in_a_checkout() -> None:
    unit = (ROOT / "systemd/gaiad.service").read_text(encoding="utf-8")
    for setting in ("Type=notify", "WatchdogSec=", "RuntimeDirectory=gaiad", "StateDirectory=gaiad", "Restart=always"):
        assert setting in unit
    # It would keep the GPU away where systemd is older than 253.
    assert not re.search(r"^ProtectClock", unit, re.MULTILINE)
    tmpfiles = (ROOT / "systemd/gaiad.tmpfiles.conf").read_text(encoding="utf-8")
    assert re.search(r"^d /etc/gaiad 0750 ", tmpfiles, re.MULTILINE)
    assert "ConfigurationDirectoryMode=0750" in unit
    for path in re.findall(r"/opt/gaiad/(docs/\S+)", unit):
        assert (ROOT / path).exists()
