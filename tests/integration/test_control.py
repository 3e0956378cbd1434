"""The control socket over a real Unix socket: who may open it, what each answer means, and what the page says.

`Notebook` stands in for the daemon: a tiny real implementation of the port, with a few adapters and users in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gaiad.cli.output import DONE, FAILED, INTERRUPTED, NO_DAEMON, REFUSED, USAGE
from gaiad.config import Config, EngineConfig
from gaiad.control.app import ROUTES, Answer, Reply, Unknown, make_app, serve
from gaiad.control.listener import Listener
from gaiad.control.status import health_of, health_page
from gaiad.errors import AdapterError, ControlError, NotYet, Refuse, StoreError
from gaiad.exchange import Judgement
from gaiad.gpu.engine import Engine
from gaiad.gpu.handoff import Phase
from gaiad.gpu.loop import GpuLoop

ROOT = Path(__file__).parents[2]


class Notebook:
    """The daemon's answers, from memory."""

    def __init__(self) -> None:
        self.granted: dict[str, set[str]] = {}
        self.said: list[dict[str, object]] = []
        self.cycle_runs = False
        self.verdict: str | None = "promoted"
        self.until: dict[str, dict[str, float | None]] = {}
        self.imported: tuple[Path, str | None, bool, str] | None = None

    async def status(self) -> Reply:
        stages = [{"stage": "generation", "adapter": "gaia-voice", "version": None, "previous": None}]
        cycle = {"id": "c1", "adapter": "json-architect", "profile": "demo", "phase": "training"}
        return {
            "learning": {"cycle": cycle if self.cycle_runs and self.verdict is None else None},
            "health": "ok",
            "uptime_s": 61.0,
            "stages": stages,
            "versions": {"gaiad": "9.9"},
            "seen": frozenset({"b"}),
        }

    async def train(self, adapter: str, profile: str | None, *, force: bool) -> Answer:
        if adapter != "json-architect":
            return Unknown(f"no curriculum for {adapter!r}", "see gaiadctl adapters list")
        if self.cycle_runs:
            return Refuse("a cycle is running", "gaiadctl cancel ends it")
        self.cycle_runs = True
        return {"cycle": "c1", "profile": profile, "force": force}

    async def cancel(self) -> Answer:
        if not self.cycle_runs:
            return NotYet("no cycle is running")
        return {"cancelling": True}

    async def cycles(self, limit: int) -> Reply:
        return {
            "cycles": [{"id": "c1", "adapter": "json-architect", "verdict": self.verdict, "reason": "+40 points"}][
                :limit
            ]
        }

    async def cycle_page(self, name: str) -> Answer:
        if name != "c1":
            return Unknown(f"there is no cycle {name!r}", "gaiadctl cycles lists them")
        return {"cycle": "c1", "html": "<!doctype html><title>json-architect: promoted</title>"}

    async def adapters(self) -> Reply:
        return {"adapters": [{"adapter": "gaia-voice", "versions": []}]}

    async def adapter(self, name: str) -> Answer:
        raise RuntimeError("a bug")

    async def import_adapter(self, directory: Path, name: str | None, *, activate: bool, reason: str) -> Answer:
        if str(directory).startswith("/nowhere"):
            raise AdapterError(f"{directory} is not a folder", hint="name the adapter's folder")
        self.imported = (directory, name, activate, reason)
        return {"version": "json-architect@v1-00000000", "verdict": "rejected", "reason": "worse than the base"}

    async def rollback(self, adapter: str, reason: str) -> Answer:
        return {"adapter": adapter, "version": None}

    async def consent(
        self, user: str, purpose: str, action: str, conversation: str | None, expires_at: float | None
    ) -> Answer:
        held = self.granted.setdefault(user, set())
        (held.add if action == "grant" else held.discard)(purpose)
        self.said.append({"action": action, "purpose": purpose, "source": "command", "at": 1.0})
        self.said[-1] |= {"conversation": conversation, "expires_at": expires_at}
        return await self.consents(user, conversation, 100)

    async def consents(self, user: str, conversation: str | None, limit: int) -> Reply:
        granted, until = sorted(self.granted.get(user, ())), self.until.get(user, {})
        told = {"granted": granted, "until": until, "history": self.said[-limit:], "total": len(self.said)}
        return {"user": user, "conversation": conversation, **told}

    async def erase(self, kind: str, name: str, *, dry_run: bool) -> Answer:
        if name == "busy":
            return Refuse("the erasure is not finished: the database is locked", "it is tried again")
        report: dict[str, object] = {"id": "erasure-1", "exchange_ids": [f"{kind} of {name}"], "versions": []}
        return report if dry_run else {**report, "signed_off": name != "dirty", "sha256": "00", "checks": {"rows": 1}}

    async def erasures(self, limit: int) -> Reply:
        asked = {"kind": "user", "name": "ada"}
        rows = [{"id": "erasure-1", "at": 1.0, "phase": "done", "asked": asked, "exchange_ids": ["r1", "r2"]}]
        return {"erasures": rows[:limit]}

    async def exchanges(self, limit: int, user: str | None) -> Reply:
        return {"exchanges": []}

    async def exchange(self, request_id: str) -> Answer:
        if request_id == "halves":
            return {"request": {"content": "x \ud800 y, grüße"}}
        raise StoreError("the database is locked", hint="close what holds it")

    async def export(
        self, purpose: str, after: tuple[float, str] | None, limit: int, user: str | None, stage: str | None
    ) -> Reply:
        row = {"request_id": f"{purpose} of {user} at {stage}", "request": {"prompt": "half \ud800 of it"}}
        if after is None:
            return {"exchanges": [row], "next": "1.5 r1"}
        if user == "busy":
            raise StoreError("the database is locked", hint="close what holds it")
        return {"exchanges": [{**row, "after": list(after)}], "next": None}

    async def explain(self, request_id: str) -> Answer:
        return Unknown(f"no exchange {request_id!r} is kept", "list them")

    async def feedback(self, request_id: str, given: Judgement) -> Answer:
        return {"noted": True}

    async def backup(self, target: Path) -> Answer:
        if target.name == "there.db":
            return Refuse(f"{target} exists already", "name another")
        return {"path": str(target), "at": 1.0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
async def notebook(path: Path) -> AsyncIterator[Notebook]:
    commands = Notebook()
    async with serve(path, commands):
        yield commands


async def gaiadctl(path: Path, *words: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gaiad.cli", "--socket", str(path), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await child.communicate()
    assert child.returncode is not None
    assert b"Traceback" not in err
    return child.returncode, out.decode(), err.decode()


async def test_only_the_owner_may_open_the_socket_and_it_goes_with_the_daemon(path: Path) -> None:
    async with serve(path, Notebook()):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not os.path.exists(path)  # noqa: ASYNC240 - a test may


async def test_a_dead_daemons_socket_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    async with serve(path, Notebook()):
        assert (await gaiadctl(path, "status"))[0] == DONE


async def test_a_living_daemons_socket_is_refused_and_left_alone(path: Path, notebook: Notebook) -> None:
    with pytest.raises(ControlError, match="another gaiad answers"):
        Listener(path)
    assert (await gaiadctl(path, "status"))[0] == DONE


def test_what_is_no_socket_is_never_removed(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlError, match="not a socket"):
        Listener(path)
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="bytes long"):
        Listener(tmp_path / ("x" * 120))


async def test_people_read_a_page_and_programs_read_json(path: Path, notebook: Notebook) -> None:
    code, page, _ = await gaiadctl(path, "status")
    assert code == DONE
    assert "gaiad     9.9, ok, up 61 s" in page
    assert re.search(r"generation +gaia-voice +base +-", page)
    code, text, _ = await gaiadctl(path, "status", "--json")
    assert json.loads(text)["seen"] == ["b"]


async def test_consent_is_granted_shown_and_revoked(path: Path, notebook: Notebook) -> None:
    user = "azrael/öä ?#"
    assert (await gaiadctl(path, "consent", "grant", user, "--purpose", "train"))[0] == DONE
    assert notebook.granted == {user: {"train"}}
    assert "allows: train" in (await gaiadctl(path, "consent", "show", user))[1]
    assert (await gaiadctl(path, "consent", "revoke", user, "--purpose", "train"))[0] == DONE
    assert "allows nothing" in (await gaiadctl(path, "consent", "show", user))[1]


async def test_an_erasure_is_reported_and_listed(path: Path, notebook: Notebook) -> None:
    code, page, _ = await gaiadctl(path, "erase", "--user", "ada")
    assert (code, "erased 1 exchanges" in page, "signed off" in page) == (DONE, True, True)
    code, page, _ = await gaiadctl(path, "erase", "--conversation", "c1", "--dry-run")
    assert (code, "would erase 1 exchanges" in page, "signed off" in page) == (DONE, True, False)
    assert (await gaiadctl(path, "erase", "--exchange", "dirty"))[0] == FAILED
    assert (await gaiadctl(path, "erase", "--user", "busy"))[0] == REFUSED
    assert (await gaiadctl(path, "erase"))[0] == USAGE
    code, page, _ = await gaiadctl(path, "consent", "revoke", "ada", "--purpose", "log", "--erase")
    assert (code, "ada allows nothing" in page, "erased 1 exchanges" in page) == (DONE, True, True)
    half = ("consent", "revoke", "ada", "--purpose", "log", "--conversation", "c1", "--erase")
    assert (await gaiadctl(path, *half))[0] == REFUSED
    _, page, _ = await gaiadctl(path, "erasures")
    assert re.search(r"erasure-1 .* user ada +done +2 +0 +no", page)


async def test_consent_for_one_conversation_and_for_a_time_is_asked_for_and_shown(
    path: Path, notebook: Notebook
) -> None:
    before = time.time()
    scoped = ("azrael", "--purpose", "log", "--conversation", "c1")
    assert (await gaiadctl(path, "consent", "grant", *scoped, "--for", "12h"))[0] == DONE
    end = notebook.said[0]["expires_at"]
    assert isinstance(end, float)
    assert before + 43_199 < end < time.time() + 43_201
    assert notebook.said[0]["conversation"] == "c1"
    code, told, _ = await gaiadctl(path, "consent", "show", "azrael", "--conversation", "c1")
    assert (code, "azrael allows in c1: log" in told) == (DONE, True)
    assert (await gaiadctl(path, "consent", "revoke", *scoped))[0] == DONE
    told = (await gaiadctl(path, "consent", "history", "azrael"))[1]
    head, granted, revoked = told.strip().splitlines()
    assert head.split() == ["WHEN", "ACTION", "PURPOSE", "SCOPE", "EXPIRES", "BY"]
    assert re.search(r"grant +log +c1 +in 1[12] h [0-9]+ min +command", granted)
    assert re.search(r"revoke +log +c1 +- +command", revoked)


@pytest.mark.parametrize(
    ("until", "is_told"), [(None, True), (100_000.0, True), (3600.0, False)], ids=["for good", "longer", "as asked for"]
)
async def test_who_grants_for_a_time_what_holds_for_longer_is_told_that_it_is_not_shortened(
    path: Path, notebook: Notebook, until: float | None, is_told: bool
) -> None:
    notebook.until["ada"] = {"train": None if until is None else time.time() + until}
    code, page, _ = await gaiadctl(path, "consent", "grant", "ada", "--purpose", "train", "--for", "1h")
    assert (code, "does not shorten it" in page) == (DONE, is_told)
    assert ("train ends in" in page) is (until is not None)
    assert "does not" not in (await gaiadctl(path, "consent", "grant", "ada", "--purpose", "train"))[1]


async def test_a_long_history_is_shown_in_part_and_said_to_be_one(path: Path, notebook: Notebook) -> None:
    for _ in range(3):
        await gaiadctl(path, "consent", "grant", "ada", "--purpose", "train")
    page = (await gaiadctl(path, "consent", "history", "ada", "--limit", "2"))[1]
    assert (page.count("grant"), "the newest 2 of 3" in page) == (2, True)
    assert "newest" not in (await gaiadctl(path, "consent", "history", "ada"))[1]
    assert (await gaiadctl(path, "consent", "history", "ada", "--limit", "0"))[0] == FAILED


async def test_a_refusal_exits_3_with_what_to_try(path: Path, notebook: Notebook) -> None:
    code, _, complaint = await gaiadctl(path, "cancel")
    assert (code, "no cycle is running" in complaint) == (REFUSED, True)
    assert (await gaiadctl(path, "train", "json-architect"))[0] == DONE
    code, _, complaint = await gaiadctl(path, "train", "json-architect")
    assert (code, "Try: gaiadctl cancel ends it" in complaint) == (REFUSED, True)


async def test_what_is_unknown_or_fails_exits_1_with_the_daemons_words(path: Path, notebook: Notebook) -> None:
    for words, expected in (
        (("train", "nobody"), "no curriculum for 'nobody'"),
        (("exchanges", "show", "x"), "the database is locked"),
        (("adapters", "import", "/nowhere/at/all"), "is not a folder"),
        (("exchanges", "list", "--limit", "0"), "limit is '0'"),
    ):
        code, _, complaint = await gaiadctl(path, *words)
        assert (code, expected in complaint, "Try:" in complaint) == (FAILED, True, True), complaint


async def test_a_bug_in_one_command_leaves_the_socket_serving(path: Path, notebook: Notebook) -> None:
    code, _, complaint = await gaiadctl(path, "adapters", "show", "x")
    assert (code, "the daemon's log" in complaint) == (FAILED, True)
    assert (await gaiadctl(path, "status"))[0] == DONE


async def test_waiting_for_a_cycle_ends_with_its_verdict(path: Path, notebook: Notebook) -> None:
    code, page, _ = await gaiadctl(path, "train", "json-architect", "--wait")
    assert (code, page.strip()) == (DONE, "json-architect: promoted: +40 points")


async def watcher(path: Path, *words: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "gaiad.cli", "--socket", str(path), "watch", *words)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, cwd=ROOT)


async def test_a_watched_cycle_is_told_of_as_lines_of_json_to_its_end(path: Path, notebook: Notebook) -> None:
    notebook.cycle_runs, notebook.verdict = True, None
    child = await watcher(path, "--json")
    assert child.stdout is not None
    first = json.loads(await child.stdout.readline())
    assert (first["event"], first["cycle"]["phase"]) == ("progress", "training")
    notebook.verdict = "rejected"
    told, _ = await child.communicate()
    last = json.loads(told.splitlines()[-1])
    assert (last["event"], last["cycle"]["verdict"], child.returncode) == ("end", "rejected", FAILED)


async def test_a_daemon_that_goes_away_and_comes_back_is_waited_for(path: Path, notebook: Notebook) -> None:
    notebook.cycle_runs, notebook.verdict = True, None
    elsewhere = path.with_name("again.sock")
    async with serve(elsewhere, notebook):
        child = await watcher(elsewhere)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"json-architect (demo)  training\n"
    assert b"waiting for it" in await child.stdout.readline()
    notebook.verdict = "interrupted"
    async with serve(elsewhere, notebook):
        told, _ = await child.communicate()
    assert (told, child.returncode) == (b"json-architect: interrupted: +40 points\n", FAILED)


async def test_where_no_cycle_runs_there_is_nothing_to_watch(path: Path, notebook: Notebook) -> None:
    code, _, complaint = await gaiadctl(path, "watch")
    assert (code, "no cycle is running" in complaint) == (REFUSED, True)
    code, _, _ = await gaiadctl(path.with_name("nobody.sock"), "watch")
    assert code == NO_DAEMON


async def test_leaving_the_watch_leaves_the_cycle_running(path: Path, notebook: Notebook) -> None:
    notebook.cycle_runs, notebook.verdict = True, None
    child = await watcher(path)
    assert child.stdout is not None
    await child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, complaint = await child.communicate()
    assert (child.returncode, b"the cycle goes on" in complaint) == (INTERRUPTED, True)


async def test_a_cycle_is_written_as_a_page(path: Path, notebook: Notebook, tmp_path: Path) -> None:
    target = tmp_path / "cycle.html"
    code, told, _ = await gaiadctl(path, "report", "--out", str(target))
    assert (code, told.strip()) == (DONE, f"wrote {target}")
    assert "json-architect: promoted" in target.read_text("utf-8")
    code, _, complaint = await gaiadctl(path, "report", "c2", "--out", str(target))
    assert (code, "gaiadctl cycles lists them" in complaint) == (FAILED, True)


async def test_leaving_the_wait_leaves_the_cycle_running(path: Path, notebook: Notebook) -> None:
    notebook.verdict = None
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gaiad.cli", "--socket", str(path), "train", "json-architect", "--wait"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"json-architect (demo)  training\n"
    child.send_signal(signal.SIGINT)
    _, complaint = await child.communicate()
    assert (child.returncode, complaint.strip()) == (INTERRUPTED, b"the cycle goes on; gaiadctl cancel ends it")
    assert notebook.cycle_runs


async def test_an_import_names_an_absolute_folder_and_fails_if_rejected(
    path: Path, notebook: Notebook, tmp_path: Path
) -> None:
    code, page, _ = await gaiadctl(path, "adapters", "import", str(tmp_path), "--name", "json-architect")
    assert notebook.imported == (tmp_path, "json-architect", False, "")
    assert (code, "rejected: worse than the base" in page) == (FAILED, True)


async def test_rolling_back_to_the_base_says_so(path: Path, notebook: Notebook) -> None:
    assert (await gaiadctl(path, "rollback", "gaia-voice"))[1].strip() == "gaia-voice is now served by the base"


async def test_a_reader_that_leaves_early_meets_no_traceback(path: Path, notebook: Notebook) -> None:
    line = f"{sys.executable} -m gaiad.cli --socket {path} status --json | true"
    child = await asyncio.create_subprocess_shell(line, stderr=asyncio.subprocess.PIPE, cwd=ROOT)
    assert (await child.communicate())[1] == b""


async def test_no_daemon_exits_4(path: Path) -> None:
    assert (await gaiadctl(path, "status"))[0] == NO_DAEMON


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("/train", b"{", "not JSON"),
        ("/train", b"[]", "must be a JSON object"),
        ("/train", b"{}", "'adapter' must be"),
        ("/train", b'{"adapter": "a", "speed": 1}', "unknown key 'speed'"),
        ("/train", b'{"adapter": "a", "force": "yes"}', "'force' must be true or false"),
        ("/consent", b'{"user": "a", "purpose": "sell", "action": "grant"}', "it may be log, train, evaluate"),
        ("/consent", b'{"user": "a", "purpose": "log", "action": "grant", "expires_at": 1e999}', "a moment in seconds"),
        ("/consent", b'{"user": "a", "purpose": "log", "action": "grant", "expires_at": true}', "a moment in seconds"),
        ("/consent", b'{"user": "a", "purpose": "log", "action": "grant", "conversation": " "}', "not empty"),
        ("/adapters/import", b'{"directory": "here"}', "absolute"),
        ("/adapters/import", b'{"directory": "/x", "activate": true}', "needs a 'reason'"),
        ("/train", b'{"adapter": "\xff"}', "UTF-8"),
        ("/train", b"[" * 100_000, "not JSON"),
        ("/feedback", b'{"request_id": "\\ud800", "verdict": "good"}', "no text"),
        ("/feedback", b'{"request_id": "r", "verdict": "very good"}', "not one word"),
        ("/feedback", b'{"request_id": "r", "verdict": "good", "score": 2}', "from 0 to 1"),
        ("/feedback", b'{"request_id": "r", "verdict": "good", "score": NaN}', "from 0 to 1"),
        ("/feedback", b'{"request_id": "r", "verdict": "good", "score": true}', "from 0 to 1"),
        ("/adapters/import", b'{"directory": "/x\\u0000"}', "no text"),
        ("/dance", b"{}", "Not Found"),
    ],
)
async def test_malformed_requests_get_one_clear_sentence(
    path: Path, notebook: Notebook, route: str, body: bytes, expected: str
) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    head = f"POST {route} HTTP/1.1\r\nHost: gaiad\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    status, _, text = answer.partition("\r\n\r\n")
    assert re.match(r"HTTP/1.1 4\d\d", status)
    problem = json.loads(text)["error"]
    assert expected in f"{problem['message']} {problem['hint']}"


async def test_exchanges_are_exported_page_by_page(path: Path, notebook: Notebook, tmp_path: Path) -> None:
    code, told, noted = await gaiadctl(path, "exchanges", "export", "--purpose", "train", "--user", "ada")
    rows = [json.loads(line) for line in told.splitlines()]
    assert (code, [row["request_id"] for row in rows]) == (DONE, ["train of ada at None"] * 2)
    assert (rows[0]["request"], rows[1]["after"]) == ({"prompt": "half \ud800 of it"}, [1.5, "r1"])
    assert "exported 2 exchanges" in noted
    out = tmp_path / "lines.jsonl"
    chats = ("exchanges", "export", "--purpose", "log", "--format", "openai", "--out", str(out))
    code, told, _ = await gaiadctl(path, *chats)
    assert (code, "exported 0 exchanges (2 left out: no chat)" in told) == (DONE, True)
    assert (out.read_text(), out.stat().st_mode & 0o777) == ("", 0o600)
    assert (await gaiadctl(path, *chats))[0] == FAILED
    assert (await gaiadctl(path, "exchanges", "export"))[0] == USAGE


async def test_an_export_that_breaks_off_leaves_no_half_of_a_file(
    path: Path, notebook: Notebook, tmp_path: Path
) -> None:
    out = tmp_path / "lines.jsonl"
    code, _, complaint = await gaiadctl(
        path, "exchanges", "export", "--purpose", "log", "--user", "busy", "--out", str(out)
    )
    assert (code, "the database is locked" in complaint) == (FAILED, True)
    assert not out.exists()


async def test_an_exchange_that_nobody_knows_is_not_explained(path: Path, notebook: Notebook) -> None:
    code, _, complaint = await gaiadctl(path, "explain", "gaia-none")
    assert (code, "no exchange 'gaia-none' is kept" in complaint) == (1, True)


def test_every_route_stands_on_its_page() -> None:
    page = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `(GET|POST) (/[^`?]*)", page, flags=re.MULTILINE))
    assert documented == {(route.method, route.path) for route in ROUTES}
    assert len(make_app(Notebook()).router.routes()) >= len(ROUTES)


async def test_the_counters_are_text_for_prometheus(path: Path, notebook: Notebook) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
        client.get("http://gaiad/metrics") as reply,
    ):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; version=0.0.4")
        assert "gaiad_store_written_total 0\n" in await reply.text()


async def test_a_backup_is_made_where_the_caller_stands_and_refused_over_a_file(
    path: Path, notebook: Notebook, tmp_path: Path
) -> None:
    code, said, _ = await gaiadctl(path, "backup", "copy.db", "--json")
    assert (code, json.loads(said)["path"]) == (DONE, str(ROOT / "copy.db"))
    code, _, complaint = await gaiadctl(path, "backup", str(tmp_path / "there.db"))
    assert (code, "exists already" in complaint) == (REFUSED, True)
    for bad in ("copy.db", "/", "", 5):
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
            client.post("http://gaiad/backup", json={"path": bad}) as reply,
        ):
            assert reply.status == 400, bad


@pytest.mark.parametrize(
    ("phase", "missing", "health"),
    [
        ("starting", False, "starting"),
        ("serving", False, "ok"),
        ("serving", True, "degraded"),
        ("held", False, "training"),
        ("lent", False, "training"),
        ("restarting", False, "degraded"),
        ("down", False, "down"),
    ],
)
def test_health_follows_the_phase(phase: str, missing: bool, health: str) -> None:
    assert health_of(phase, anything_missing=missing) == health


def test_being_probed_for_the_first_time_is_a_part_of_starting() -> None:
    assert health_of("probing", first_start=True) == "starting"
    assert health_of("probing") == "ok"
    assert health_of("serving", first_start=True) == "ok"


@pytest.mark.parametrize("phase", list(Phase))
def test_a_model_counts_as_loaded_only_while_requests_get_to_it(phase: Phase) -> None:
    page = health_page(health_of(phase), phase, 3)
    loaded = phase in (Phase.SERVING, Phase.LENT)
    assert (page["model_loaded"], page["mode"]) == (loaded, "active" if loaded else "standby")
    assert (page["status"], page["active_inference"]) == (health_of(phase), 3)


async def test_half_a_character_in_what_was_said_is_shown_and_not_a_fault(path: Path, notebook: Notebook) -> None:
    code, page, complaint = await gaiadctl(path, "exchanges", "show", "halves")
    assert (code, "x \\ud800 y" in page, "grüße" in page, complaint) == (DONE, True, True, "")
    code, text, complaint = await gaiadctl(path, "exchanges", "show", "halves", "--json")
    assert (code, json.loads(text)["request"]["content"], complaint) == (DONE, "x \ud800 y, grüße", "")


def test_the_page_names_every_key_of_the_machines_status(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `gpu` |"))
    config = Config(tmp_path, tmp_path / "control.sock", engine=EngineConfig(device="cpu"))

    async def nothing() -> None:
        return None

    told = GpuLoop(Engine(config, max_lora_rank=16), config, nothing).status()
    assert {key for key in told if f"`{key}`" not in row} == set()
