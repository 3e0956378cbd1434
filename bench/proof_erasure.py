"""An erasure is finished, and reaches all of it and nothing else, however often the daemon is killed in its midst.

    python -m bench.proof_erasure [--rounds 20] [--users 1000] [--kills 4] [--seed 1] [--json]

Each round begins with the same state directory: so many users of five exchanges each, and three adapter versions that
learned from one of them, the newest of which serves. That user is erased over the control socket, and the daemon killed
with SIGKILL so many times in a row: some ms after the asking, or after a phase of the erasure stands in the database,
which is read from outside. At last it is left to finish, and is stopped. In every second round the only version that is
clean never passed its exam, so that the base has to serve. The moments follow from the seed.

Then: nothing that the user said, got or corrected stands in any file, as raw bytes; their versions are quarantined, and
no other; the alias serves the newest clean version or the base; all that others said is there; the report is signed
off; and the dataset made anew has the digest of one made where that user never lived.

The bar is 60 s from the asking to done, restarts included. Progress goes to stderr. Exit code 1: something is left, or
missing, which is named, or it took longer, or it did not run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import logging
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import structlog

from bench.load.command import concluded
from bench.load.erased import found_in, wrong_with
from bench.load.errors import CannotMeasure
from bench.load.lived import ERASED, Lived, digest_without, lived
from gaiad.cli.client import Client
from gaiad.erasure import Phase
from gaiad.errors import GaiadError
from tests.fakes.vllm_process import RunningVllm, running_vllm
from tests.integration.learner_world import ARCHITECT
from tests.integration.place import ROOT, Home, free_port

BAR_S = 60.0
LATE_S = 0.03
LOOK_S = 0.001
PATIENCE_S = 60.0
ORDER = (*Phase,)


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: `delay_s` after a phase is reached, or after the asking where none is named."""

    phase: Phase | None
    delay_s: float

    def line(self) -> str:
        """In words."""
        return f"{self.delay_s * 1000:.1f} ms after {self.phase.value if self.phase else 'the asking'}"


def moments(rounds: int, kills: int, seed: int) -> list[list[Moment]]:
    """The plan: in each round phases in their order, some of them twice, and half of the kills right at a boundary."""
    chance = random.Random(seed)
    phases = [None, *(phase for phase in ORDER if phase is not Phase.DONE)]
    plan = []
    for _ in range(rounds):
        chosen = sorted(chance.choices(range(len(phases)), k=kills))
        plan.append([Moment(phases[at], chance.choice((0.0, chance.uniform(0, LATE_S)))) for at in chosen])
    return plan


@dataclass(slots=True)
class Round:
    """One erasure: what was killed when, `at` the phase that stood in the database then, and what was wrong after.

    `seconds` are those from the first asking until the erasure was seen to be done, restarts included.
    """

    number: int
    planned: list[Moment]
    at: list[str] = field(default_factory=list)
    asked: float | None = None
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Proof:
    """All rounds; `undisturbed_s` are those of the first one, in which nothing was killed."""

    rounds: tuple[Round, ...]
    users: int
    undisturbed_s: float
    elapsed_s: float

    @property
    def wrong(self) -> tuple[str, ...]:
        """All that was wrong in any round."""
        return tuple(f"round {one.number}: {line}" for one in self.rounds for line in one.wrong)

    @property
    def inside(self) -> int:
        """How many kills came while the erasure was under way."""
        return sum(at != Phase.DONE.value for one in self.rounds for at in one.at)

    @property
    def holds(self) -> bool:
        """Whether nothing was wrong, nothing took too long, and something was killed in its midst."""
        in_time = all(one.seconds <= BAR_S for one in self.rounds)
        return not self.wrong and in_time and self.inside > 0


class Daemon:
    """One daemon's life, seen from outside."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.control = Client(home.socket, timeout_s=PATIENCE_S)
        with (home.folder / "gaiad.log").open("ab") as out:
            command = [sys.executable, "-m", "gaiad", "--config", str(home.config)]
            self.child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def until_serving(self) -> None:
        """Wait until the engine serves and what should be loaded is."""
        self._until(lambda: bool(self.control.get("status")["health"] == "ok"), "it does not serve")

    def until_phase(self, wanted: Phase | None) -> str:
        """Wait until an erasure is in this phase or beyond, as its row says; returns the phase, empty where none is."""
        phases = [""]

        def reached() -> bool:
            phases.append(phase_of(self._home))
            return wanted is None or (phases[-1] != "" and ORDER.index(Phase(phases[-1])) >= ORDER.index(wanted))

        self._until(reached, f"the erasure does not become {wanted}", LOOK_S)
        return phases[-1]

    def ask(self) -> None:
        """Ask for the erasure in a thread that outlives the daemon."""
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        with contextlib.suppress(GaiadError):
            self.control.post("erase", kind="user", name=ERASED)

    def _until(self, holds: Callable[[], bool], trouble: str, look_s: float = 0.02) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(GaiadError, sqlite3.Error):
                if holds():
                    return
            if self.child.poll() is not None or time.monotonic() > deadline:
                log = (self._home.folder / "gaiad.log").read_text("utf-8", "replace")
                raise CannotMeasure(f"{trouble}: {log.strip()[-800:]}")
            time.sleep(look_s)

    def end(self, number: signal.Signals) -> None:
        """Kill it, or have it stop."""
        self.child.send_signal(number)
        self.child.wait(PATIENCE_S)


@contextlib.contextmanager
def running(home: Home) -> Iterator[Daemon]:
    """A daemon that does not outlive the block."""
    daemon = Daemon(home)
    try:
        yield daemon
    finally:
        if daemon.child.poll() is None:
            daemon.end(signal.SIGKILL)


def phase_of(home: Home) -> str:
    """How far the newest erasure is; empty where none was begun."""
    path = home.folder / "state" / "gaiad.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as link:
        row = link.execute("SELECT phase FROM erasures ORDER BY at DESC LIMIT 1").fetchone()
    return str(row[0]) if row else ""


def ask_once(home: Home, daemon: Daemon, this: Round) -> None:
    """Ask, unless an erasure was begun already."""
    if phase_of(home) == "":
        daemon.until_serving()
        this.asked = this.asked or time.monotonic()
        daemon.ask()


def killed(home: Home, moment: Moment, this: Round) -> str:
    """Start, ask where nothing was begun, kill at the moment; returns the phase in which that was."""
    with running(home) as daemon:
        ask_once(home, daemon, this)
        daemon.until_phase(moment.phase)
        time.sleep(moment.delay_s)
        daemon.end(signal.SIGKILL)
    return phase_of(home)


def finished(home: Home, lived: Lived, engine: RunningVllm, this: Round) -> list[str]:
    """Start once more and let it finish, then stop it; returns what is wrong with what serves."""
    with running(home) as daemon:
        ask_once(home, daemon, this)
        daemon.until_phase(Phase.DONE)
        assert this.asked is not None
        this.seconds = time.monotonic() - this.asked
        daemon.until_serving()
        wrong = []
        if (serves := served_by(home.port)) != (lived.serves or "base"):
            wrong.append(f"{ARCHITECT} is served by {serves}, not {lived.serves or 'base'}")
        models = asyncio.run(engine.call("GET", "/v1/models"))["data"]
        left = {model["id"] for model in models} & lived.stained
        if left:
            wrong.append(f"the engine still has {', '.join(sorted(left))}")
        daemon.end(signal.SIGTERM)
    return wrong


def served_by(port: int) -> str:
    """Which version answers at the stage of the alias, or `base`."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}]})
    headers = {"Content-Type": "application/json", "X-Gaia-Stage": "tool_selection"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        return str(connection.getresponse().headers["X-Gaia-Adapter"])
    finally:
        connection.close()


class Place:
    """A folder with a state directory that can be put back as it was: versions are registered under their full path."""

    def __init__(self, folder: Path, users: int, *, clean: bool) -> None:
        self.lived = lived(folder / "home", users, clean=clean)
        self._before = folder / "before"
        shutil.copytree(self.lived.folder, self._before)
        missing = [word.decode() for word, at in found_in(self._before, self.lived.canaries).items() if not at]
        if missing:
            raise CannotMeasure(f"there is nothing to erase: {', '.join(missing)} stand nowhere")

    def home(self, engine: RunningVllm) -> Home:
        """Put everything back."""
        shutil.rmtree(self.lived.folder)
        shutil.copytree(self._before, self.lived.folder)
        asyncio.run(engine.reset())
        home = Home(self.lived.folder, free_port(), engine.port)
        home.write()
        return home


def one_round(place: Place, engine: RunningVllm, number: int, planned: list[Moment], without: str) -> Round:
    """Erase once, killing as planned, and look."""
    this, home = Round(number, planned), place.home(engine)
    for moment in planned:
        this.at.append(killed(home, moment, this))
    this.wrong = finished(home, place.lived, engine, this)
    this.wrong += wrong_with(place.lived, without)
    return this


def prove(folder: Path, rounds: int, users: int, kills: int, seed: int) -> Proof:
    """All rounds, the first without a kill."""
    began = time.monotonic()
    without = digest_without(folder / "without", users)
    places = [Place(folder / name, users, clean=name == "clean") for name in ("clean", "base")]
    done = []
    with running_vllm() as engine:
        undisturbed = one_round(places[0], engine, 0, [], without)
        for number, planned in enumerate(moments(rounds, kills, seed), 1):
            this = one_round(places[number % 2], engine, number, planned, without)
            done.append(this)
            tell(this, rounds)
    return Proof((undisturbed, *done), users, undisturbed.seconds, time.monotonic() - began)


def tell(this: Round, rounds: int) -> None:
    """One line of progress."""
    told = "; ".join(f"{moment.line()} ({at or 'not begun'})" for moment, at in zip(this.planned, this.at, strict=True))
    verdict = f"{len(this.wrong)} WRONG" if this.wrong else "all gone"
    print(f"erasure: {this.number} of {rounds}, {this.seconds:.1f} s, killed {told}: {verdict}", file=sys.stderr)


def table(proof: Proof) -> list[str]:
    """The figures, then all that is wrong."""
    seconds = [one.seconds for one in proof.rounds[1:]]
    at = [at or "not begun" for one in proof.rounds for at in one.at]
    by_phase = ", ".join(f"{phase} {at.count(phase)}" for phase in ("not begun", *ORDER))
    rows = [
        ("erasures, of users with 5 exchanges", f"{len(proof.rounds)} of {proof.users:,} in {proof.elapsed_s:.0f} s"),
        ("kills, by the phase they came in", f"{len(at)}: {by_phase}"),
        ("asking to done with no kill, s", f"{proof.undisturbed_s:.2f}"),
        ("asking to done, killed, s", f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})"),
        ("bar", f"{BAR_S:g} s: {'holds' if max(seconds) <= BAR_S else 'missed'}"),
        ("left, missing or wrong", f"{len(proof.wrong)}"),
    ]
    return [f"{title:40}{value}" for title, value in rows] + list(proof.wrong)


def as_json(proof: Proof) -> dict[str, object]:
    """All of it for machines."""
    return {**asdict(proof), "wrong": proof.wrong, "holds": proof.holds}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.users < 2 or options.kills < 1:
        parser.error("--rounds and --kills must be at least 1, --users at least 2")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Erase so often and print one table; 1 where something is left or missing."""
    options = parsed(arguments)
    print(f"erasure: the seed is {options.seed}", file=sys.stderr)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    def proved() -> bool:
        with tempfile.TemporaryDirectory(prefix="proof-erasure-") as folder:
            proof = prove(Path(folder), options.rounds, options.users, options.kills, options.seed)
        print(json.dumps(as_json(proof)) if options.json else "\n".join(table(proof)))
        return proof.holds

    return concluded("erasure", proved)


if __name__ == "__main__":
    sys.exit(main())
