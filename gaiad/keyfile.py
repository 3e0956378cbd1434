"""The file of keys: read, changed as a whole, and noticed when it changed.

`gaiadctl` writes it, the daemon reads it and never writes. A file that is there closes the proxy's door to all who have
no key, even if it holds none; so does one that vanishes or cannot be read while the daemon runs.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from gaiad.errors import ConfigError, GaiadError
from gaiad.keys import ID_BYTES, SECRET_BYTES, Key, Keyring, digest_of, key_text, parse, render

_log = structlog.get_logger()

LOOK_EVERY_S = 1.0
"""How often a file that was never there is looked for; one that is there is looked at on each request."""


def new_key(
    name: str, *, stages: frozenset[str] | None, consent: frozenset[str] | None, created: float
) -> tuple[Key, str]:
    """Make a key; its text is known only now."""
    id_ = secrets.token_hex(ID_BYTES)
    text = key_text(id_, secrets.token_hex(SECRET_BYTES))
    return Key(name, id_, digest_of(text), stages, consent, created), text


def read_keys(path: Path) -> Keyring | None:
    """Read the keys; None where there is no file.

    Raises:
        ConfigError: there is one that cannot be used.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "give it to the user that gaiad runs as"
        raise ConfigError(f"cannot read the keys in {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the keys in {path} are not UTF-8 text", hint="write the file anew") from error


def change_keys(path: Path, change: Callable[[Keyring], Keyring]) -> None:
    """Replace the file by what `change` makes of it; nobody ever sees half of it, nor loses another's change.

    Raises:
        GaiadError: it cannot be written.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise GaiadError(
            f"there is no folder {path.parent} for the keys", hint="start gaiad once, or make it"
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _replace(path, render(change(read_keys(path) or Keyring())), os.fstat(folder))
        os.fsync(folder)
    except OSError as error:
        hint = "run this as the user that gaiad runs as, or as root"
        raise GaiadError(f"cannot write the keys in {path}: {error.strerror}", hint=hint) from error
    finally:
        os.close(folder)


def _replace(path: Path, text: str, folder: os.stat_result) -> None:
    # mkstemp makes it 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=".keys-", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Written by root it still is the daemon's, which cannot read it otherwise.
            if os.geteuid() == 0:
                os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class WatchedKeys:
    """The keys as they stand in the file now. One stat a request tells whether they changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._look_at = 0.0
        self._mark = self._look()
        self._ring = read_keys(path)

    def current(self) -> Keyring | None:
        """All keys; None while no file was there yet, so that no key is wanted."""
        if self._ring is None:
            now = time.monotonic()
            if now < self._look_at:
                return None
            self._look_at = now + LOOK_EVERY_S
        mark = self._look()
        if mark != self._mark:
            self._ring = self._reread()
            self._mark = mark
        return self._ring

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        # The last one changes with owner and mode too, so that a mended file is seen.
        return found.st_mtime_ns, found.st_ino, found.st_size, found.st_ctime_ns

    def _reread(self) -> Keyring:
        try:
            ring = read_keys(self._path)
        except ConfigError as error:
            _log.error("keys_not_readable", error=error.message, hint=error.hint)
            return Keyring()
        if ring is None:
            _log.error("keys_gone", file=str(self._path), hint="nobody is served until it is back, or gaiad restarts")
            return Keyring()
        _log.info("keys_read", count=len(ring.keys))
        return ring
