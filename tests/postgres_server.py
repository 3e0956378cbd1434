"""A real PostgreSQL server of the tests' own: in a folder of its own, on a Unix socket, as a user without rights.

`missing` says what of it is not installed. A server can be killed and started again, and makes a fresh database a test,
which belongs to a role that may do nothing else and has to say its password.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROGRAMS = ("initdb", "postgres")
PASSWORD = "the-password-of-the-store"
START_S = 30.0
_OWNER_PASSWORD = "the-password-of-the-owner"


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian has it in a folder that is in nobody's path."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def missing() -> str | None:
    """What the tests with PostgreSQL lack here; None where nothing."""
    lacking = [name for name in PROGRAMS if program(name) is None]
    lacking += [] if importlib.util.find_spec("asyncpg") else ["asyncpg"]
    return f"not installed: {', '.join(lacking)}" if lacking else None


class PostgresServer:
    """One server; `start` it, and `remove` what is left of it."""

    def __init__(self) -> None:
        # Not below pytest's folders: those are private to who runs the tests, and root may not run a server.
        self.folder = Path(tempfile.mkdtemp(prefix="gaiad-pg-"))
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._child: subprocess.Popen[bytes] | None = None
        self._made = 0
        secret = self.folder / "password"
        secret.write_text(_OWNER_PASSWORD)
        words = ("-U", "owner", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C")
        assert self._begin("initdb", *words, "--no-sync").wait(START_S) == 0, self.log()
        self.start()
        self.execute(f"CREATE ROLE gaiad LOGIN PASSWORD '{PASSWORD}'")

    @property
    def cluster(self) -> Path:
        """The folder with all its files."""
        return self.folder / "cluster"

    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and return once it answers."""
        settings = ("listen_addresses=", "fsync=off", "autovacuum=off")
        words = (word for setting in settings for word in ("-c", setting))
        self._child = self._begin("postgres", "-k", str(self.folder), *words)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would, with all of its processes."""
        assert self._child is not None
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        self._child.wait()

    def pause(self, paused: bool) -> None:
        """Have it stand still, so that it is there and says nothing; or go on."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def remove(self) -> None:
        """End it at once, and delete its folder."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGQUIT)
            self._child.wait(START_S)
        shutil.rmtree(self.folder)

    def _fresh(self, options: str) -> str:
        self._made += 1
        name = f"test{self._made}"
        self.execute(f"CREATE DATABASE {name} OWNER gaiad {options}")
        return f"postgresql+asyncpg://gaiad:{PASSWORD}@/{name}?host={self.folder}"

    @contextlib.contextmanager
    def database(self, options: str = "") -> Iterator[str]:
        """The URL of a new, empty database, which is gone with the block: many are slow to delete at once."""
        url = self._fresh(options)
        yield url
        self.execute(f"DROP DATABASE {name_in(url)} WITH (FORCE)")

    def execute(self, statement: str, url: str = "") -> list[tuple[object, ...]]:
        """Run one statement as the server's owner, in the database of a URL, wherever the caller stands."""
        # A fixture may be made where a loop runs already.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._asked(statement, url)).result()

    def files(self, url: str) -> bytes:
        """All bytes in the files of a database's tables and indexes; not the write-ahead log, which all share."""
        self.execute("CHECKPOINT")
        ((oid,),) = self.execute(f"SELECT oid FROM pg_database WHERE datname = '{name_in(url)}'")
        return b"".join(path.read_bytes() for path in (self.cluster / "base" / str(oid)).iterdir() if path.is_file())

    async def _asked(self, statement: str, url: str) -> list[tuple[object, ...]]:
        import asyncpg

        where = {"database": name_in(url) or "postgres", "host": str(self.folder), "timeout": 5}
        link = await asyncpg.connect(user="owner", password=_OWNER_PASSWORD, **where)
        try:
            return [tuple(row) for row in await link.fetch(statement)]
        finally:
            await link.close()

    def _answers(self) -> bool:
        import asyncpg

        try:
            return self.execute("SELECT 1") == [(1,)]
        except (OSError, asyncpg.PostgresError):
            return False

    def _pids(self) -> list[int]:
        assert self._child is not None
        pid = self._child.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _begin(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        user, groups = self._user, list[str]()
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                (str(program(name)), "-D", str(self.cluster), *words),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=groups if user else None,
            )


def name_in(url: str) -> str:
    """The database that a URL of this server names."""
    return url.partition("@/")[2].partition("?")[0]
