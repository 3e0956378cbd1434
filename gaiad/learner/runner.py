"""One training child: spawned in its own process group, listened to, paused, stopped, and always ended.

Touches processes and the run's log file. It decides nothing about training; it only judges whether the child kept
the protocol: success needs a result *and* exit code 0, silence past the deadline ends the group. The deadline's clock
stands still while the child is paused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import types
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from gaiad.ending import how_it_ended, last_words
from gaiad.errors import TrainingError
from gaiad.learner.protocol import (
    MAX_LINE_BYTES,
    STOP_LINE,
    Error,
    Job,
    Message,
    Reference,
    ReferenceJob,
    Result,
    encode,
    parse_line,
)

log = structlog.get_logger()

TRAINER = ("-m", "gaiad.learner.train")
MEASURER = ("-m", "gaiad.learner.parity_child")

_PASSED = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "TZ", "XDG_CACHE_HOME"})
_PASSED_PREFIXES = ("CUDA_", "LC_", "MKL_", "NVIDIA_", "OMP_", "PYTORCH_", "TRITON_")
# Threads that wait by sleeping: spinning ones make every step 10-20 times slower as soon as anything else computes.
_POLITE = {"OMP_WAIT_POLICY": "PASSIVE"}
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Without it matrix products on a GPU need not give the same sums twice.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def child_environment(parent: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """Choose what the child may see of `parent`: an allow-list, so that no key, token or proxy is ever passed on."""
    passed = {name: value for name, value in parent.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    if threads:
        passed |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return _POLITE | passed | _OFFLINE


@dataclass(frozen=True, slots=True)
class Programs:
    """The children's programs, as words after a Python: who trains, and who measures what was trained."""

    trainer: Sequence[str] = TRAINER
    measurer: Sequence[str] = MEASURER


PROGRAMS = Programs()


class Run:
    """One child and what it said. Whoever starts it must await `outcome()` or `stop()`, or use it as a context."""

    def __init__(self, process: asyncio.subprocess.Process, *, log_path: Path, silence_s: float) -> None:
        self._process = process
        self._log_path = log_path
        self._silence_s = silence_s
        self._paused = False
        self._stopping = False
        self._deadline: asyncio.Timeout | None = None
        self._left_s = silence_s
        self._result: Result | Reference | None = None
        self._failure: TrainingError | None = None
        self._reported_error = False

    @classmethod
    async def start(
        cls, job: Job | ReferenceJob, *, python: str, log_path: Path, silence_s: float, program: Sequence[str] = TRAINER
    ) -> Run:
        """Spawn the child and hand it the job; its stderr goes to `log_path`.

        Raises:
            TrainingError: `python` cannot be started.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log_path.open("ab") as child_log:
                process = await asyncio.create_subprocess_exec(
                    python,
                    *program,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=child_log,
                    env=child_environment(os.environ, threads=job.threads),
                    start_new_session=True,
                    limit=MAX_LINE_BYTES,
                )
        except OSError as error:
            raise TrainingError(
                f"the trainer could not be started with {python}: {error.strerror}", hint="set learning.python"
            ) from error
        run = cls(process, log_path=log_path, silence_s=silence_s)
        run._watch()
        await run._send(encode(job))
        log.info("run_started", pid=run.pid, log=str(log_path))
        return run

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        return self._process.pid

    @property
    def paused(self) -> bool:
        """Whether the group is stopped by `pause`."""
        return self._paused

    def pause(self) -> None:
        """Stop the whole group at once, and the silence clock with it."""
        if self._paused:
            return
        self._paused = True
        self._signal(signal.SIGSTOP)
        if self._deadline is not None:
            self._left_s = max(0.0, (self._deadline.when() or 0.0) - asyncio.get_running_loop().time())
            self._deadline.reschedule(None)

    def resume(self) -> None:
        """Let the group go on, with as much of the silence deadline as was left."""
        if not self._paused:
            return
        self._paused = False
        self._signal(signal.SIGCONT)
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._left_s)

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what the child says until it has no more to say; a failure ends the iteration, `outcome` raises it."""
        while self._failure is None:
            try:
                message = await self._next()
            except TrainingError as failure:
                self._fail(failure)
                return
            if message is None:
                return
            if isinstance(message, Error):
                self._reported_error = True
                self._fail(TrainingError(message.message, hint=message.hint, of_data=message.of_data))
            elif isinstance(message, Result | Reference):
                self._result = message
            yield message

    async def outcome(self) -> Result:
        """Hear the trainer out, wait for its end, and return the result.

        Raises:
            TrainingError: anything but a result followed by exit code 0.
        """
        said = await self._last_said()
        if not isinstance(said, Result):
            raise TrainingError("the trainer ended without a result", hint=f"see {self._log_path}")
        return said

    async def reference(self) -> Reference:
        """The same for a child that measures: its reference.

        Raises:
            TrainingError: anything but a reference followed by exit code 0.
        """
        said = await self._last_said()
        if not isinstance(said, Reference):
            raise TrainingError("the child ended without what it was to measure", hint=f"see {self._log_path}")
        return said

    async def _last_said(self) -> Result | Reference | None:
        try:
            async for _ in self.messages():
                pass
            if self._failure is not None and not self._reported_error:
                self._kill()
            code = await self._exit_code()
            if self._stopping and (self._result is None or code != 0):
                raise TrainingError("the run was stopped before its end", hint="start it again; nothing was published")
            if self._failure is not None:
                raise self._failure
            if code != 0:
                why = self._last_words() if code > 0 else ""
                raise TrainingError(f"the trainer {how_it_ended(code)}{why}", hint=f"see {self._log_path}")
            return self._result
        finally:
            self._kill()

    async def stop(self, grace_s: float = 30.0) -> None:
        """End the child within `grace_s`: first the line `stop`, at half time SIGTERM, at the end SIGKILL.

        A paused child is killed at once: it could hear neither, and let go on it would compute beside the user for whom
        it stands still. Returns once the whole group is dead.
        """
        self._stopping = True
        try:
            if self._paused:
                self._kill()
                await self._process.wait()
                return
            await self._send(STOP_LINE)
            for last_resort in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), grace_s / 2)
                    return
                log.warning("run_did_not_stop", pid=self.pid, next_signal=last_resort.name)
                self._signal(last_resort)
            await self._process.wait()
        finally:
            self._kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._kill()
        await self._process.wait()

    async def _next(self) -> Message | None:
        """Read one line under the silence deadline; None at the end of the child's output."""
        stdout = self._process.stdout
        assert stdout is not None
        self._left_s = self._silence_s
        try:
            async with asyncio.timeout(None if self._paused else self._silence_s) as self._deadline:
                line = await stdout.readuntil(b"\n")
        except TimeoutError as error:
            raise TrainingError(
                f"the trainer said nothing for {self._silence_s:g} s and was ended",
                hint=f"see {self._log_path}; raise learning.trainer_silence_s if the machine is just slow",
            ) from error
        except asyncio.IncompleteReadError as end:
            if end.partial:
                raise TrainingError("the trainer's last line was torn", hint=f"see {self._log_path}") from end
            return None
        except asyncio.LimitOverrunError as error:
            raise TrainingError("the trainer sent an endless line", hint=f"see {self._log_path}") from error
        finally:
            self._deadline = None
        return parse_line(line.decode("utf-8", errors="replace"))

    def _fail(self, failure: TrainingError) -> None:
        # The first failure is the cause; what follows is mostly its echo.
        self._failure = self._failure or failure

    async def _exit_code(self) -> int:
        # The child has closed its output or failed: it gets as long as any silence to end, even while paused.
        try:
            return await asyncio.wait_for(self._process.wait(), max(self._silence_s, 1.0))
        except TimeoutError:
            self._fail(TrainingError("the trainer closed its output but did not end", hint=f"see {self._log_path}"))
            self._kill()
            return await self._process.wait()

    async def _send(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        # A child that died at once shows in its exit code; the broken pipe adds nothing.
        with contextlib.suppress(ConnectionError):
            stdin.write(line.encode())
            await stdin.drain()

    def _watch(self) -> None:
        """End the group as soon as the child itself has ended: a child of its own could hold the pipes open."""
        try:
            watched = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._kill()
            return
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(watched)
            os.close(watched)
            self._kill()

        loop.add_reader(watched, ended)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _kill(self) -> None:
        """End what is left of the group, the child's own children included."""
        self._signal(signal.SIGKILL)

    def _last_words(self) -> str:
        try:
            with self._log_path.open("rb") as child_log:
                child_log.seek(max(0, self._log_path.stat().st_size - 4096))
                words = last_words(child_log.read().decode("utf-8", errors="replace").splitlines())
        except OSError:
            return ""
        return f": {words}" if words else ""
