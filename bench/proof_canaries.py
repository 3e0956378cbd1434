"""Nothing that somebody did not agree to lies anywhere, and all that was agreed to lies where it belongs.

    python -m bench.proof_canaries [--requests 100000] [--seed 1] [--people 32] [--keep FOLDER] [--json]

A daemon before a fake engine answers people of every stance: silent, agreeing to each purpose, in one conversation
only, for a time, revoking in the middle, narrowing and widening by header, saying nonsense in it, without a name. Each
text of each request is unique: prompts, tool definitions, calls, replies, names, conversations, unknown fields,
headers, corrections. Some are escaped, replies come in pieces, some requests are broken off, refused, or fail in the
engine. The daemon lives three times over the same state: in its second life headers may grant, in its third everybody
needs a key. At the end of each life it learns from the corrections, and is backed up and asked for its status.

Then every byte of state, backups, logs and pages is looked through for every one of these texts, as it is, in escapes
of JSON and percent signs, in UTF-16 and in base64: in the last life while it runs, and after its end. Kept rows are
compared with what was sent, field by field. At last texts that nobody agreed to are written into a copy of the state,
and the same search must find just these. Secrets in what may be kept have to be nowhere, and a placeholder in the row.

Progress goes to stderr. Exit code 1: something lies where it must not, or does not where it must, or it did not run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from bench.load import targets
from bench.load.canary import Flock
from bench.load.canary_bodies import name_of
from bench.load.canary_drive import Drive
from bench.load.canary_ledger import Ledger, Record
from bench.load.canary_places import looked, planted
from bench.load.canary_plan import HEADERS_GRANT, KEYED, LIVES, Person, Stance, planned
from bench.load.canary_rows import learned_in, looked_through, unanswered
from bench.load.canary_table import Proof, as_json, table
from bench.load.command import concluded
from bench.load.errors import CannotMeasure
from gaiad.cli.client import Client
from gaiad.disk import write_private
from gaiad.errors import Refuse
from gaiad.keys import Key, Keyring, digest_of, render
from gaiad.learner.sources import catalogue
from tests.fakes.vllm_process import running_vllm

ADAPTER = "json-architect"
PEOPLE = 32
_COMMAND_S = 300.0
_POLL_S = 0.1
_CONFIG = """\
state_dir = "{folder}/state"
control_socket = "{folder}/control.sock"
[proxy]
listen = "127.0.0.1:{port}"
exchange_routes = true
[engine]
mode = "external"
url = "http://127.0.0.1:{engine}"
base_model = "{folder}/base"
device = "cpu"
[learning]
profile = "full"
idle_minutes = 1000
resume_after_s = 0
python = "{folder}/trainer"
[consent]
header_may_grant = {header_may_grant}
[store]
queue_size = 20000
[log]
level = "debug"
"""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a run lives: its folder, and the port of its engine."""

    folder: Path
    engine_port: int

    @property
    def state(self) -> Path:
        """The daemon's own."""
        return self.folder / "state"

    @property
    def store(self) -> Path:
        """The daemon's database."""
        return self.state / "gaiad.db"

    @property
    def control(self) -> Path:
        """The daemon's socket."""
        return self.folder / "control.sock"


@contextlib.contextmanager
def living(home: Home, life: int) -> Iterator[int]:
    """One life of the daemon; the block is given its port. It ends by SIGTERM."""
    place = home.folder / f"life-{life}"
    (place / "tmp").mkdir(parents=True)
    port, config = targets.free_port(), place / "gaiad.toml"
    may_grant = "true" if life == HEADERS_GRANT else "false"
    config.write_text(
        _CONFIG.format(folder=home.folder, port=port, engine=home.engine_port, header_may_grant=may_grant)
    )
    command, client = [sys.executable, "-m", "gaiad", "--config", str(config)], Client(home.control)
    # What it puts into temporary files is looked through too.
    temporary = {"TMPDIR": str(place / "tmp")}
    with targets.running(f"gaiad, life {life}", command, place, None, lambda: targets.serving(client), **temporary):
        yield port


def _prepare(home: Home) -> None:
    (home.folder / "base").mkdir()
    (home.folder / "base" / "config.json").write_text("{}")
    for name in ("backups", "told"):
        (home.folder / name).mkdir()
    trainer = home.folder / "trainer"
    trainer.write_text(f'#!/bin/sh\ncd "{targets.ROOT}" && exec "{sys.executable}" -m tests.fakes.trainer normal\n')
    trainer.chmod(0o700)


def _give_keys(home: Home, people: Sequence[Person], flock: Flock) -> None:
    """Write the file of keys as `gaiadctl keys` would, with keys that the search knows on sight."""
    given = [one for one in people if one.life == KEYED and one.stance is not Stance.NOBODY]
    texts = {one.index: flock.api_key(one.index) for one in given}
    keys = [
        Key(name_of(flock, one.index), f"{one.index:08x}", digest_of(texts[one.index]), consent=one.key_consent)
        for one in given
    ]
    write_private(home.state / "keys.json", render(Keyring({key.id: key for key in keys})).encode())


def _ctl(home: Home, *words: str) -> str:
    """What `gaiadctl` prints."""
    command = [sys.executable, "-m", "gaiad.cli", "--socket", str(home.control), *words]
    done = subprocess.run(command, cwd=targets.ROOT, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    if done.returncode != 0:
        raise CannotMeasure(f"gaiadctl {words[0]} failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def _learn(home: Home, life: int) -> str:
    """One cycle; returns the digest of what it learned from."""
    client = Client(home.control)
    begun = client.post("train", adapter=ADAPTER, force=True, timeout_s=_COMMAND_S)
    if isinstance(begun, Refuse):
        raise CannotMeasure(f"no cycle begins: {begun.reason}")
    deadline = time.monotonic() + _COMMAND_S
    while not (row := client.get("cycles", limit=1)["cycles"][0])["verdict"]:
        if time.monotonic() > deadline:
            raise CannotMeasure(f"the cycle {row['id']} does not end")
        time.sleep(_POLL_S)
    print(f"canaries: life {life}, cycle {row['id']}: {row['verdict']}: {row['reason']}", file=sys.stderr)
    if row["verdict"] not in ("rejected", "promoted"):
        raise CannotMeasure(f"the cycle ended as {row['verdict']}: {row['reason']}")
    return str(row["dataset_digest"])


def _told(home: Home, life: int, port: int) -> list[str]:
    """Save what the daemon tells of itself, and say what it lost."""
    place = home.folder / "told"
    page = _ctl(home, "status", "--json")
    (place / f"status-{life}.json").write_text(page)
    for name in ("cycles", "adapters"):
        (place / f"{name}-{life}.json").write_text(json.dumps(Client(home.control).get(name)))
    asyncio.run(_pages(home, life, port, place))
    store = json.loads(page)["store"]
    lost = {name: store[name] for name in ("dropped", "failed") if store[name]}
    return [f"life {life}: the recorder says {lost}"] if lost else []


async def _pages(home: Home, life: int, port: int, place: Path) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(home.control))) as control,
        control.get("http://control/metrics") as reply,
    ):
        (place / f"metrics-{life}.txt").write_bytes(await reply.read())
    async with aiohttp.ClientSession() as proxy:
        for name in ("health", "status", "v1/models", "model/info"):
            async with proxy.get(f"http://127.0.0.1:{port}/{name}") as reply:
                (place / f"{name.replace('/', '-')}-{life}.json").write_bytes(await reply.read())


def prove(folder: Path, requests: int, seed: int, at_once: int = PEOPLE) -> Proof:
    """Live three times, look through everything, and see that the look would find what is wrong."""
    began, flock, people, record = time.monotonic(), Flock(seed), planned(requests, seed), Record()
    proof = Proof(Ledger(people, record))
    with running_vllm("--fault", "directed", "--fault", "forgets") as engine:
        home = Home(folder, engine.port)
        _prepare(home)
        digests = []
        for life in range(LIVES):
            if life == KEYED:
                _give_keys(home, people, flock)
            with living(home, life) as port:
                spent_s, digest = _lived(home, life, port, flock, people, record, at_once)
                proof.requests_s += spent_s
                digests.append(digest)
                proof.wrong += _told(home, life, port)
                if life == LIVES - 1:
                    proof.looks.append(looked("while it runs", home.folder, Ledger(people, record), flock))
        proof.looks.append(looked("after its end", home.folder, Ledger(people, record), flock))
    _judge(proof, home, flock, digests)
    proof.elapsed_s = time.monotonic() - began
    return proof


def _lived(
    home: Home, life: int, port: int, flock: Flock, people: Sequence[Person], record: Record, at_once: int
) -> tuple[float, str]:
    mine, total = [one for one in people if one.life == life], sum(sum(1 for _ in one.requests) for one in people)
    began = time.monotonic()
    asyncio.run(Drive(flock, port, home.control, record).run(mine, at_once, total))
    spent_s = time.monotonic() - began
    digest = _learn(home, life)
    _ctl(home, "backup", str(home.folder / "backups" / f"life-{life}.db"))
    return spent_s, digest


def _judge(proof: Proof, home: Home, flock: Flock, digests: Sequence[str]) -> None:
    record = proof.ledger.record
    ledger = proof.ledger = Ledger(proof.ledger.people, record)
    print("canaries: comparing rows and datasets", file=sys.stderr)
    proof.rows = looked_through(home.store, ledger, flock)
    proof.wrong += record.trouble + proof.rows.wrong + unanswered(ledger.requests.values(), record.outcomes)
    proof.wrong += [line for look in proof.looks for line in look.wrong]
    curriculum = catalogue.load_curriculum(catalogue.shipped_curricula() / "json-architect", "full")
    most = int(curriculum.exchanges.max_share * curriculum.split.train)
    for life, digest in enumerate(digests):
        expected = ledger.learned_by(life)
        proof.wrong += learned_in(home.state / "datasets", digest, expected, ledger, flock, most)
        proof.learned.append(min(most, len(expected)))
    proof.planted, missed = planted(home.folder, ledger, flock, known=proof.looks[-1])
    proof.wrong += missed


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=PEOPLE, help="so many are under way at once")
    parser.add_argument("--keep", type=Path, help="run in this new folder, and leave it for looking into")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.requests < 1 or options.people < 1:
        parser.error("--requests and --people must be at least 1")
    return options


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="proof-canaries-") as made:
        yield Path(made)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print one table; 1 where something lies where it must not, or does not where it must."""
    options = parsed(arguments)
    print(f"canaries: the seed is {options.seed}", file=sys.stderr)

    def proved() -> bool:
        with _folder(options.keep) as folder:
            proof = prove(folder, options.requests, options.seed, options.people)
        print(json.dumps(as_json(proof)) if options.json else "\n".join(table(proof)))
        return proof.holds

    return concluded("canaries", proved)


if __name__ == "__main__":
    raise SystemExit(main())
