"""Asks the daemon over its control socket, and finds that socket.

Standard library only, so that `gaiadctl` starts fast. A refusal comes back as a value; no daemon is a ControlError,
any other failure a plain GaiadError with the daemon's own words. Prints nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

from gaiad.config import parse_config
from gaiad.errors import ConfigError, ControlError, GaiadError, Refuse

SYSTEM_SOCKET = Path("/run/gaiad/control.sock")
LOCAL_SOCKET = Path("var/control.sock")

Answer: TypeAlias = dict[str, Any]
"""A parsed JSON answer of the daemon; the shapes stand in `docs/control.md`."""


def find_socket(
    given: str | None, config: str | None, environment: Mapping[str, str], working_directory: Path
) -> tuple[Path, str]:
    """Name the socket to talk to and why: option, `GAIAD_SOCKET`, settings file, the system's place, `./var`."""
    # 1. The explicit ones win in the order of how explicit they are.
    if given:
        return Path(given), "--socket"
    if environment.get("GAIAD_SOCKET"):
        return Path(environment["GAIAD_SOCKET"]), "GAIAD_SOCKET"
    if config:
        return _from_config(Path(config)), "--config"
    # 2. Then whichever of the two usual places exists.
    local = working_directory / LOCAL_SOCKET
    if SYSTEM_SOCKET.exists() or not local.exists():
        return SYSTEM_SOCKET, "the default"
    return local, "found in ./var"


def _from_config(path: Path) -> Path:
    try:
        return parse_config(path.read_text(encoding="utf-8"), relative_to=path.absolute().parent).control_socket
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path given to --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8") from error


class Client:
    """One request a call, one connection a request."""

    def __init__(self, path: Path, origin: str = "--socket", timeout_s: float = 60.0) -> None:
        self.path, self.origin, self.timeout_s = path, origin, timeout_s

    def get(self, *segments: str, **query: object) -> Answer:
        """GET /segment/segment?query."""
        answer = self._ask("GET", _target(segments, query), None)
        if isinstance(answer, Refuse):
            raise GaiadError(answer.reason, hint=answer.hint)
        return answer

    def post(self, *segments: str, timeout_s: float | None = None, **body: object) -> Answer | Refuse:
        """POST /segment/segment with the keyword arguments that are not None as its body."""
        wanted = {key: value for key, value in body.items() if value is not None}
        return self._ask("POST", _target(segments, {}), json.dumps(wanted).encode(), timeout_s)

    def _ask(self, method: str, target: str, body: bytes | None, timeout_s: float | None = None) -> Answer | Refuse:
        connection = _UnixConnection(self.path, timeout_s or self.timeout_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise self._no_daemon(error) from error
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, target, body=body, headers=headers)
            reply = connection.getresponse()
            return _read(reply.status, reply.read())
        except TimeoutError as error:
            raise GaiadError("gaiad did not answer in time", hint="see the daemon's log, then ask again") from error
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(
                "gaiad went away before it answered", hint="see whether it still runs, then ask again"
            ) from error
        finally:
            connection.close()

    def _no_daemon(self, error: OSError) -> ControlError:
        where = f"{self.path} ({self.origin})"
        if isinstance(error, PermissionError):
            return ControlError(f"not allowed to open {where}", hint="run this as the user that gaiad runs as")
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return ControlError(
                f"no gaiad answers on {where}", hint="start it with gaiad --config FILE, or name its --socket"
            )
        return ControlError(f"cannot open {where}: {error}", hint="name the daemon's --socket")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("gaiad", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _target(segments: tuple[str, ...], query: Mapping[str, object]) -> str:
    wanted = {key: value for key, value in query.items() if value is not None}
    try:
        path = "/" + "/".join(quote(segment, safe="") for segment in segments)
        return path + ("?" + urlencode(wanted) if wanted else "")
    except UnicodeEncodeError as error:
        # A word of the command line in another encoding, as Python passes it on.
        raise GaiadError("a name given here is not UTF-8 text", hint="write it in UTF-8") from error


def _read(status: int, raw: bytes) -> Answer | Refuse:
    try:
        answer = json.loads(raw)
    except ValueError as error:
        message = f"the answer (status {status}) is not JSON"
        raise GaiadError(message, hint="see whether this is gaiad's control socket") from error
    if not isinstance(answer, dict):
        raise GaiadError("the answer is not a JSON object", hint="see whether this is gaiad's control socket")
    if status < 400:
        return answer
    problem = answer.get("error")
    message, hint = f"gaiad answered with status {status}", "see the daemon's log"
    if isinstance(problem, dict):
        message, hint = str(problem.get("message", message)), str(problem.get("hint", ""))
    if status == 409:
        return Refuse(message, hint)
    raise GaiadError(message, hint=hint)
