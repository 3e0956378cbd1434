"""The control socket's file: created with mode 0600, never stolen from a living daemon, removed by its owner alone.

Decides only who may own the path; what is said over it is `control.app`'s.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from gaiad.errors import ControlError

_MAX_PATH_BYTES = 107


class Listener:
    """A bound, listening Unix socket and its file; `close` removes the file if it is still ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _refuse_bad_path(path)
        _remove_stale(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # 1. The mode must be right from the first instant: the mask is narrowed before the file appears.
        old_mask = os.umask(0o177)
        try:
            self.socket.bind(str(path))
        except OSError as error:
            self.socket.close()
            raise ControlError(
                f"cannot create the control socket {path}: {error.strerror}",
                hint="set control_socket to a path in a directory that this user may write",
            ) from error
        finally:
            os.umask(old_mask)
        self.socket.setblocking(False)
        self.socket.listen(16)
        self._identity = _identity(path)

    def close(self) -> None:
        """Stop listening and remove the file, unless somebody else's file stands there by now."""
        self.socket.close()
        if self._identity is not None and _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)


def _refuse_bad_path(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > _MAX_PATH_BYTES:
        raise ControlError(
            f"the control socket's path is {length} bytes long and may have {_MAX_PATH_BYTES}: {path}",
            hint="set control_socket to a shorter path",
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ControlError(
            f"cannot create the control socket's directory {path.parent}: {error.strerror}",
            hint="set control_socket to a path that this user may write",
        ) from error


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} exists and is not a socket", hint="move it away or set control_socket elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(2.0)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ControlError(
                f"cannot tell whether the control socket {path} is in use: {error.strerror or error}",
                hint="remove the file if no gaiad runs",
            ) from error
    raise ControlError(
        f"another gaiad answers on the control socket {path}", hint="stop it first or set another control_socket"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
