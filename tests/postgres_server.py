"""A real PostgreSQL server of the tests' own: in a folder of its own, on a Unix socket, as a user without rights.

`missing` says what of it is not installed. A server can be killed and started again, and makes a fresh database a test.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

PROGRAMS = ("initdb", "postgres")
START_S = 30.0


def missing() -> str | None:
    """What the tests with PostgreSQL lack here; None where nothing."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    lacking += [] if importlib.util.find_spec("asyncpg") else ["asyncpg"]
    return f"not installed: {', '.join(lacking)}" if lacking else None


class PostgresServer:
    """One server; `start` it, and `remove` what is left of it."""

    def __init__(self) -> None:
        # Not below pytest's folders: those are private to who runs the tests, and root may not run a server.
        self.folder = Path(tempfile.mkdtemp(prefix="gaiad-pg-"))
        self._user = "nobody" if os.getuid() == 0 else None
        if self._user:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._child: subprocess.Popen[bytes] | None = None
        self._made = 0
        words = ("-U", "gaiad", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        assert self._begin("initdb", *words).wait(START_S) == 0, self.log()

    @property
    def cluster(self) -> Path:
        """The folder with all its files."""
        return self.folder / "cluster"

    def _begin(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        groups: list[str] | None = [] if self._user else None
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                (str(shutil.which(program)), "-D", str(self.cluster), *words),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                extra_groups=groups,
            )

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

    def _answers(self) -> bool:
        import asyncpg

        async def ask() -> None:
            link = await asyncpg.connect(user="gaiad", database="postgres", host=str(self.folder), timeout=5)
            await link.close()

        try:
            asyncio.run(ask())
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def kill(self) -> None:
        """End it as a power cut would, with all of its processes."""
        assert self._child is not None
        pids = [self._child.pid, *_children(self._child.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._child.wait()

    def pause(self, paused: bool) -> None:
        """Have it stand still, so that it is there and says nothing; or go on."""
        assert self._child is not None
        for pid in (self._child.pid, *_children(self._child.pid)):
            os.kill(pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"test{self._made}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        """The URL of a database by name."""
        return f"postgresql+asyncpg://gaiad:the-password@/{name}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement, wherever the caller stands."""
        import asyncpg

        found: list[tuple[object, ...]] = []

        async def ask() -> None:
            link = await asyncpg.connect(user="gaiad", database=database, host=str(self.folder), timeout=5)
            try:
                found.extend(tuple(row) for row in await link.fetch(statement))
            finally:
                await link.close()

        # A fixture may run where a loop runs already.
        thread = threading.Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        thread.join()
        return found

    def files(self, url: str) -> bytes:
        """All bytes in the files of a database's tables and indexes; not the write-ahead log, which all share."""
        self.execute("CHECKPOINT")
        ((oid,),) = self.execute(f"SELECT oid FROM pg_database WHERE datname = '{name_in(url)}'")
        return b"".join(path.read_bytes() for path in (self.cluster / "base" / str(oid)).iterdir() if path.is_file())

    def remove(self) -> None:
        """End it at once, and delete its folder."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGQUIT)
            self._child.wait(START_S)
        shutil.rmtree(self.folder)


def name_in(url: str) -> str:
    """The database that a URL of this server names."""
    return url.partition("@/")[2].partition("?")[0]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
