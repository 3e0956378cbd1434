"""The serving engine: started and ended where it is ours, asked and told over HTTP in either case.

Touches vLLM's processes (by `gpu.child`) and its API. Decides nothing about phases, requests or versions: the GPU's
loop says when to start, pause and wake, the learner says what to load. An external engine is never ended.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp

from gaiad.adapter import VersionName, version_parts
from gaiad.config import Config
from gaiad.ending import failure_line, how_it_ended
from gaiad.errors import EngineError
from gaiad.gpu import command, probe
from gaiad.gpu.child import EngineChild, check_port_free
from gaiad.gpu.identity import engine_digest, template_digest

OnProgress: TypeAlias = Callable[[float, str], None]
"""Hears the seconds since a start began, and what it is at."""

_ASK_EVERY_S = 0.25
_HEALTH_S = 5.0
_PORT_PATIENCE_S = 70.0
"""An engine that died may leave its port in TIME_WAIT for a minute, or held by a connection to itself."""
_REST_GRACE_S = 2.0
_KEEP_ALIVE_S = 2.0
"""vLLM closes a quiet connection after 5 s; one that it is just closing must not carry a request."""
_SEE_LOG = "see logs/engine.log in the state directory"
_RUNTIME_LORA_FLAG = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 with --enable-lora (without it adapters cannot be loaded)"
_DEV_MODE_FLAG = "VLLM_SERVER_DEV_MODE=1, and on a GPU --enable-sleep-mode (without it the machine cannot be quieted)"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine turned out to be; `missing` names the flags and variables to set.

    `digest` tells it from another engine, `template` its chat template from another; that one is empty where unseen.
    """

    version: str
    served_name: str
    runtime_lora: bool
    sleep: bool
    max_model_len: int | None
    missing: tuple[str, ...]
    digest: str = ""
    template: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    text: str

    def json(self) -> Any:  # noqa: ANN401  a parser's edge
        """Parse the body.

        Raises:
            EngineError: it is no JSON.
        """
        try:
            return json.loads(self.text)
        except ValueError as error:
            raise EngineError("the engine's answer is not JSON", hint="check that engine.url is a vLLM") from error

    def complaint(self) -> str:
        """Return the engine's own words about what is wrong, shortened."""
        try:
            body = json.loads(self.text)
            message = body.get("error", body.get("detail", "")) if isinstance(body, dict) else body
            text = message.get("message", message) if isinstance(message, dict) else message
        except ValueError:
            text = self.text
        return f"HTTP {self.status}: {str(text).strip()[:400]}"


def _unheard(elapsed_s: float, stage: str) -> None:
    return None


class Engine:
    """One vLLM. Its methods raise EngineError, with what to try, where it cannot be reached or says no."""

    def __init__(self, config: Config, *, max_lora_rank: int, port_patience_s: float = _PORT_PATIENCE_S) -> None:
        self._config = config
        self._port_patience_s = port_patience_s
        self._settings = config.engine
        self._max_lora_rank = max_lora_rank
        self._child = EngineChild(config.state_dir)
        self._session: aiohttp.ClientSession | None = None
        self._served_name = self._settings.served_name
        self.url = self._settings.url
        # How often it came up: an external engine has no process id by which a new one could be known.
        self.starts = 0
        self.device = probe.device_of(self._settings.device)
        self.api_key = _read_key(self._settings.api_key_file)

    @property
    def managed(self) -> bool:
        """Whether the engine is our child."""
        return self._settings.mode == "managed"

    @property
    def served_name(self) -> str:
        """The base model's name at the engine."""
        return self._served_name or command.served_name(self._settings)

    @property
    def pid(self) -> int | None:
        """The process id of a managed engine that runs."""
        return self._child.pid

    # --- its life -----------------------------------------------------------------------------------------------------

    async def start(self, on_progress: OnProgress = _unheard) -> None:
        """Start a managed engine; first end what is left of an earlier one. An external engine needs no start.

        Raises:
            EngineError: there is no base model, the port stays taken, or the program cannot be started.
        """
        if not self.managed:
            return
        folder = Path(self._settings.base_model)
        if not (folder / "config.json").is_file():
            raise EngineError(
                f"there is no base model in {folder}",
                hint="set engine.base_model to a folder with config.json and *.safetensors, or prepare one",
            )
        await self._child.end_left_over()
        # Asked first: what outlives its leader, as vLLM's resource tracker does, then clears shared memory away.
        await self._child.end(_REST_GRACE_S)
        await self._wait_for_port(on_progress)
        words = command.engine_command(
            self._settings,
            python=self._settings.python or sys.executable,
            device=self.device,
            max_lora_rank=self._max_lora_rank,
        )
        await self._child.start(
            words, command.engine_environment(os.environ, self._settings, device=self.device, api_key=self.api_key)
        )

    async def _wait_for_port(self, on_progress: OnProgress) -> None:
        host, port = command.engine_address(self._settings)
        began = time.monotonic()
        while True:
            try:
                check_port_free(host, port)
            except EngineError as error:
                elapsed_s = time.monotonic() - began
                taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
                if not taken or elapsed_s > self._port_patience_s:
                    raise
                on_progress(elapsed_s, f"waiting for port {port} to become free")
                await asyncio.sleep(_ASK_EVERY_S)
            else:
                return

    async def wait_healthy(self, on_progress: OnProgress = _unheard) -> None:
        """Wait until it answers its health check; `on_progress` hears seconds and what it is at.

        Raises:
            EngineError: it ended, or did not become healthy in time (a managed one is ended then).
        """
        # An external engine that is started anew by somebody else takes as long as one of ours.
        began, limit_s = time.monotonic(), self._settings.start_timeout_s
        while not await self.healthy():
            elapsed_s = time.monotonic() - began
            if self.managed and not self.alive():
                raise EngineError(f"the engine ended while starting{self._why()}", hint=_SEE_LOG)
            if elapsed_s > limit_s:
                await self._give_up_start(limit_s)
            phase = command.startup_phase(self._child.log_tail()) if self.managed else f"asking {self.url}"
            on_progress(elapsed_s, phase)
            await asyncio.sleep(_ASK_EVERY_S)
        if not self.managed:
            self._served_name = str((await self._base_card()).get("id") or "")
        self.starts += 1

    async def _give_up_start(self, limit_s: float) -> None:
        if not self.managed:
            raise EngineError(
                f"no engine answered at {self.url} within {limit_s:g} s", hint="start it, or correct engine.url"
            )
        why = self._why()
        await self._child.end(5.0)
        hint = f"raise engine.start_timeout_s or {_SEE_LOG}"
        raise EngineError(f"the engine was not healthy within {limit_s:g} s{why}", hint=hint)

    def _why(self) -> str:
        line = failure_line(self._child.log_tail())
        return f": {line}" if line else ""

    def alive(self) -> bool:
        """Say whether a managed engine's process runs; of an external one this is never denied."""
        return not self.managed or self._child.pid is not None

    async def exited(self) -> str:
        """Wait until a managed engine's process ends, and say how; an external one's is never seen."""
        if not self.managed:
            await asyncio.Event().wait()
        code = await self._child.exited()
        return f"the engine {how_it_ended(code)}{self._why() if code >= 0 else ''}"

    async def stop(self, grace_s: float = 10.0) -> None:
        """End a managed engine and all it started; leave an external one as it is."""
        if self.managed:
            await self._child.end(grace_s)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- what it is ---------------------------------------------------------------------------------------------------

    async def healthy(self) -> bool:
        """Say whether it answers its health check with 200."""
        try:
            return (await self._ask("GET", "/health", timeout_s=_HEALTH_S)).status == 200
        except EngineError:
            return False

    async def facts(self) -> EngineFacts:
        """Ask what it is and what it can do."""
        card = await self._base_card()
        self._served_name = str(card.get("id") or self.served_name)
        version = await self._ask("GET", "/version")
        body = version.json() if version.status == 200 else {}
        release = str(body.get("version", ""))
        # Where the route exists, it is not found but forbidden to read it; nothing is ordered by asking.
        runtime_lora = (await self._ask("GET", "/v1/load_lora_adapter")).status == 405
        sleep = (await self._ask("GET", "/is_sleeping")).status == 200
        missing = (() if runtime_lora else (_RUNTIME_LORA_FLAG,)) + (() if sleep else (_DEV_MODE_FLAG,))
        length = card.get("max_model_len") if isinstance(card.get("max_model_len"), int) else None
        return EngineFacts(
            version=release,
            served_name=self._served_name,
            runtime_lora=runtime_lora,
            sleep=sleep,
            max_model_len=length,
            missing=missing,
            digest=await asyncio.to_thread(
                engine_digest,
                self._settings,
                version=release,
                served_name=self._served_name,
                max_model_len=length,
            ),
            template=await asyncio.to_thread(template_digest, self._settings),
        )

    async def _base_card(self) -> Mapping[str, Any]:
        bases = [card for card in await self._cards() if not card.get("parent")]
        named = [card for card in bases if card.get("id") == self._settings.served_name]
        if not bases or (self._settings.served_name and not named):
            offered = ", ".join(str(card.get("id")) for card in bases) or "nothing"
            wanted = self._settings.served_name or "a base model"
            raise EngineError(f"the engine serves {offered}, not {wanted}", hint="correct engine.served_name")
        return (named or bases)[0]

    async def _cards(self) -> list[Mapping[str, Any]]:
        answer = await self._ask("GET", "/v1/models")
        if answer.status != 200:
            hint = "set engine.api_key_file" if answer.status == 401 else "check that engine.url is a vLLM"
            raise EngineError(f"the engine does not list its models: {answer.complaint()}", hint=hint)
        body = answer.json()
        cards = body.get("data") if isinstance(body, dict) else None
        return [card for card in cards or [] if isinstance(card, dict)]

    async def loaded(self) -> frozenset[VersionName]:
        """Return the adapter versions that it has; adapters that are not ours do not count."""
        names = {str(card.get("id", "")) for card in await self._cards() if card.get("parent")}
        return frozenset(VersionName(name) for name in names if version_parts(name) is not None)

    # --- what it is told ----------------------------------------------------------------------------------------------

    async def load(self, version: VersionName, path: Path) -> None:
        """Load an adapter version from its folder; one that is loaded already is fine. Never while it sleeps."""
        body = {"lora_name": version, "lora_path": self._path_at_engine(path)}
        answer = await self._ask("POST", "/v1/load_lora_adapter", body=body)
        if answer.status != 200 and "already been loaded" not in answer.text:
            hint = "check max_lora_rank and that the engine sees this folder (engine.adapter_root)"
            raise EngineError(f"the engine does not load {version}: {answer.complaint()}", hint=hint)

    async def unload(self, version: VersionName) -> None:
        """Unload an adapter version; one that is not loaded is fine."""
        answer = await self._ask("POST", "/v1/unload_lora_adapter", body={"lora_name": version})
        if answer.status not in (200, 404):
            raise EngineError(f"the engine does not unload {version}: {answer.complaint()}", hint=_SEE_LOG)

    def _path_at_engine(self, path: Path) -> str:
        # A relative path that does not exist makes vLLM download from a hub: only absolute ones are sent.
        path = path.absolute()
        root = self._settings.adapter_root
        if root and path.is_relative_to(self._config.adapters_dir):
            return f"{root.rstrip('/')}/{path.relative_to(self._config.adapters_dir).as_posix()}"
        return str(path)

    async def pause(self, within_s: float) -> None:
        """Let running requests end, then run nothing until `resume`; new requests queue inside. No memory is freed."""
        await self._order("/pause?mode=wait&clear_cache=false", "pause", within_s)

    async def resume(self) -> None:
        """Undo `pause`; an engine that cannot pause needs none."""
        await self._order("/resume", "resume", self._settings.request_timeout_s, may_lack=True)

    async def sleep(self, within_s: float) -> None:
        """Let running requests end, then give the GPU's memory back until `wake` (level 1: weights wait in RAM)."""
        await self._order("/sleep?level=1&mode=wait", "sleep", within_s)

    async def wake(self) -> None:
        """Undo `sleep`, and forget cached prefixes: what they were computed with was moved."""
        limit_s = self._settings.request_timeout_s
        await self._order("/wake_up", "wake", self._settings.start_timeout_s, may_lack=True)
        await self._order("/reset_prefix_cache", "reset the prefix cache", limit_s, may_lack=True)

    async def paused(self) -> bool:
        """Say whether it is paused or asleep."""
        answer = await self._ask("GET", "/is_sleeping")
        return answer.status == 200 and bool(answer.json().get("is_sleeping"))

    async def _order(self, path: str, what: str, timeout_s: float, *, may_lack: bool = False) -> None:
        answer = await self._ask("POST", path, timeout_s=timeout_s)
        lacking = answer.status in (404, 405)
        if answer.status != 200 and not (lacking and may_lack):
            hint = f"start the engine with {_DEV_MODE_FLAG}" if lacking else _SEE_LOG
            raise EngineError(f"the engine does not {what}: {answer.complaint()}", hint=hint)

    async def probe(self, version: VersionName | None = None) -> str:
        """Ask for a few greedy tokens of the base or of a version, and return them."""
        body = {"model": version or self.served_name, "prompt": "The capital of France is", "max_tokens": 4}
        answer = await self._ask("POST", "/v1/completions", body={**body, "temperature": 0})
        if answer.status != 200:
            raise EngineError(f"the engine answers a probe with {answer.complaint()}", hint=_SEE_LOG)
        try:
            return str(answer.json()["choices"][0]["text"])
        except (KeyError, IndexError, TypeError) as error:
            raise EngineError("the engine answers a probe without a choice", hint=_SEE_LOG) from error

    async def complete(self, body: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Answer one chat completion, past the proxy and its counts (for exams)."""
        answer = await self._ask("POST", "/v1/chat/completions", body=body, timeout_s=timeout_s)
        parsed = answer.json() if answer.status == 200 else None
        if not isinstance(parsed, dict):
            raise EngineError(f"the engine answers with {answer.complaint()}", hint=_SEE_LOG)
        return parsed

    async def log_prob(self, model: str, before: Sequence[int], token: int, *, timeout_s: float | None = None) -> float:
        """The log-probability in nats that the base or a version gives `token` after the tokens `before`.

        It has the engine say that one token. Never by `prompt_logprobs`: on a CPU vLLM with adapters dies as soon as
        such a request shares a step with another, and on a GPU it takes memory for the logits of a whole prompt.
        """
        body: dict[str, Any] = {"model": model, "prompt": [*before], "max_tokens": 1, "temperature": 0, "logprobs": 1}
        body |= {"allowed_token_ids": [token], "ignore_eos": True, "return_tokens_as_token_ids": True}
        answer = await self._ask("POST", "/v1/completions", body=body, timeout_s=timeout_s)
        if answer.status != 200:
            raise EngineError(f"the engine gives no log-probabilities: {answer.complaint()}", hint=_SEE_LOG)
        try:
            said = answer.json()["choices"][0]["logprobs"]
            if said["tokens"] == [f"token_id:{token}"]:
                return float(said["token_logprobs"][0])
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise EngineError(
            "the engine answers without the log-probability of the token that it was to say",
            hint="it must know logprobs and allowed_token_ids as vLLM does, or set learning.parity_examples = 0",
        )

    async def rendered(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """The tokens that it makes of a chat's messages, by the template that it serves with."""
        body = {"model": model, "messages": [*messages], "add_generation_prompt": True}
        answer = await self._ask("POST", "/tokenize", body=body)
        shown = answer.json() if answer.status == 200 else None
        tokens = shown.get("tokens") if isinstance(shown, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(one, int) for one in tokens):
            raise EngineError(f"the engine does not tokenise a chat: {answer.complaint()}", hint=_SEE_LOG)
        return tuple(tokens)

    async def _ask(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> _Answer:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(connector=connector)
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limit_s = timeout_s or self._settings.request_timeout_s
        try:
            async with self._session.request(
                method, self.url + path, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=limit_s)
            ) as response:
                return _Answer(response.status, await response.text(errors="replace"))
        except TimeoutError as error:
            route = path.partition("?")[0]
            raise EngineError(f"the engine gave no answer to {route} within {limit_s:g} s", hint=_SEE_LOG) from error
        except aiohttp.ClientError as error:
            hint = _SEE_LOG if self.managed else "start it, or correct engine.url"
            raise EngineError(f"the engine at {self.url} cannot be reached: {error}", hint=hint) from error


def _read_key(path: str) -> str:
    if not path:
        return ""
    hint = "correct engine.api_key_file or its permissions"
    try:
        key = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"the engine's API key cannot be read from {path}", hint=hint) from error
    # It becomes a header's value: anything else would fail there, with every request.
    if not (key and key.isascii() and key.isprintable()):
        raise EngineError(f"the engine's API key file {path} must hold one line of printable ASCII text", hint=hint)
    return key
