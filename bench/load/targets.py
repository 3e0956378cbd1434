"""What is measured: the upstream alone, gaiad in two settings, nginx and vllm-router, each started in front of it.

Every target listens on a free port of loopback, writes no access log, and ends with the block that started it. A
target that this machine cannot have is left out with a reason; one that is there and does not start is a failure.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load.errors import CannotMeasure
from bench.load.tree import on_core
from gaiad.cli.client import Client
from gaiad.errors import GaiadError, Refuse

ROOT = Path(__file__).resolve().parent.parent.parent
ROUTER = "vllm-router==0.1.17"
OWNER = "owner"
DIRECT, PLAIN, CONSENTED, NGINX, VLLM_ROUTER = "direct", "gaiad", "gaiad, consented", "nginx", "vllm-router"
NAMES = (DIRECT, PLAIN, CONSENTED, NGINX, VLLM_ROUTER)

_START_S = 30.0
_END_S = 15.0
_INSTALL_S = 300
_GAIAD = """\
state_dir = "{folder}/state"
control_socket = "{folder}/control.sock"
[proxy]
listen = "127.0.0.1:{port}"
exchange_routes = true
[engine]
mode = "external"
url = "http://127.0.0.1:{upstream}"
[learning]
enabled = false
[consent]
anonymous_user = "{anonymous}"
[store]
queue_size = {queue}
[log]
level = "error"
"""
_NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off; server_tokens off; keepalive_requests 100000000; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


class LeftOut(Exception):
    """This machine cannot have a target; says why and how to get it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that answers: `pid` is the root of what is charged, `model` and `headers` are what its clients send.

    `control` and `store`, the database file, are gaiad's only.
    """

    name: str
    port: int
    pid: int
    model: str = "base"
    headers: Mapping[str, str] = field(default_factory=dict)
    control: Client | None = None
    store: Path | None = None

    def status(self) -> dict[str, Any]:
        """Gaiad's own status page."""
        assert self.control is not None
        return self.control.get("status")


@contextlib.contextmanager
def upstream(program: Path, core: int | None, **options: int) -> Iterator[Target]:
    """The C upstream on `core`; `options` are its own, with `_` for `-`."""
    command = [str(program)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with on_core(core):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        word, _, port = child.stdout.readline().partition(" ")
        if word != "port":
            raise CannotMeasure("the upstream did not start")
        yield Target(DIRECT, int(port), child.pid)
    finally:
        child.stdout.close()
        _end(child)


@contextlib.contextmanager
def gaiad(folder: Path, upstream_port: int, core: int | None, *, consented: bool, queue: int) -> Iterator[Target]:
    """A daemon in front of the upstream; with `consented` its user has granted everything.

    Where `folder` is there already, it goes on with the state of the one before, however that ended.
    """
    folder.mkdir(exist_ok=True)
    port, config = free_port(), folder / "gaiad.toml"
    anonymous = OWNER if consented else ""
    config.write_text(_GAIAD.format(folder=folder, port=port, upstream=upstream_port, anonymous=anonymous, queue=queue))
    command = [sys.executable, "-m", "gaiad", "--config", str(config)]
    control = Client(folder / "control.sock")
    name = CONSENTED if consented else PLAIN
    with running(name, command, folder, core, lambda: serving(control)) as pid:
        if consented:
            for purpose in ("train", "evaluate"):
                _grant(control, purpose)
        headers = {"X-Gaia-User": OWNER} if consented else {}
        yield Target(name, port, pid, "auto", headers, control, folder / "state" / "gaiad.db")


def serving(control: Client) -> bool:
    """Whether a daemon's engine is up."""
    with contextlib.suppress(GaiadError):
        gpu = control.get("status").get("gpu")
        return isinstance(gpu, dict) and gpu.get("phase") == "serving"
    return False


def _grant(control: Client, purpose: str) -> None:
    answer = control.post("consent", user=OWNER, purpose=purpose, action="grant")
    if isinstance(answer, Refuse):
        raise CannotMeasure(f"gaiad refuses the grant: {answer.reason}")


@contextlib.contextmanager
def nginx(folder: Path, upstream_port: int, core: int | None) -> Iterator[Target]:
    """One worker of nginx that buffers nothing and keeps connections."""
    # Debian keeps it where only root looks.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise LeftOut("it is not installed (on Debian: apt-get install nginx-light)")
    folder.mkdir()
    port, config = free_port(), folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream_port, user=user))
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with running(NGINX, command, folder, core, lambda: _healthy(port)) as pid:
        yield Target(NGINX, port, pid)


@contextlib.contextmanager
def vllm_router(folder: Path, upstream_port: int, core: int | None) -> Iterator[Target]:
    """The Rust router of the vLLM project, from a virtual environment of its own."""
    program = _installed_router()
    folder.mkdir()
    port = free_port()
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream_port}", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    with running(VLLM_ROUTER, command, folder, core, lambda: _healthy(port)) as pid:
        yield Target(VLLM_ROUTER, port, pid)


def _installed_router() -> Path:
    """Install it into var/bench/ once; its name is written last, so half an environment is made anew."""
    environment = ROOT / "var" / "bench" / ROUTER.replace("==", "-")
    ready = environment / "ready"
    if not ready.is_file():
        print(f"bench: installing {ROUTER} into {environment.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(environment, ignore_errors=True)
        python = environment / "bin" / "python"
        for command in (
            [sys.executable, "-m", "venv", str(environment)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROUTER],
        ):
            _install(command)
        ready.touch()
    return environment / "bin" / "vllm-router"


def _install(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeftOut(f"{ROUTER} cannot be installed: {error}") from error
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or ["no reason was given"]
        raise LeftOut(f"{ROUTER} cannot be installed: {why[-1][:200]}")


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], folder: Path, core: int | None, ready: Callable[[], bool], **environment: str
) -> Iterator[int]:
    """A program until the block ends, from when it is ready; all it writes goes to `folder/log`."""
    variables = {**os.environ, **environment}
    log = folder / "log"
    with log.open("wb") as out, on_core(core):
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=variables)
    try:
        deadline = time.monotonic() + _START_S
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise CannotMeasure(f"{name} did not start: {log.read_text('utf-8', 'replace').strip()[-600:]}")
            time.sleep(0.05)
        yield child.pid
    finally:
        _end(child)


def _end(child: subprocess.Popen[Any]) -> None:
    child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
