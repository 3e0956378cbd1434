"""The settings tree: parsed once from TOML text, frozen, all errors reported together.

Takes text and the directory that relative paths count from; reads no file and looks at no machine. Every key is
described in `docs/configuration.md` and `examples/gaiad.toml`; a test holds the three equal.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from gaiad.adapter import SERVED_RANKS, is_adapter_name
from gaiad.errors import ConfigError
from gaiad.options import StageOptions
from gaiad.user import MAX_USER_CHARS, user_name

DEFAULT_STAGES: Mapping[str, str] = {
    "tool_selection": "json-architect",
    "tool_review": "json-architect",
    "confidence": "json-architect",
    "intent": "json-architect",
    "generation": "gaia-voice",
    "cognitive_audit": "packet-protocol",
    "reflection": "packet-protocol",
    "epistemic_guard": "epistemic-guard",
}
"""Stage -> adapter. The stage `base` always means the bare base model and cannot be reassigned."""

_STAGE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[proxy.limits]`: how much one request or one user may ask for, and what is refused unless switched on."""

    max_tokens: int = 262144
    max_n: int = 128
    max_messages: int = 4096
    max_schema_bytes: int = 131072
    max_tools_bytes: int = 1048576
    max_schema_depth: int = 64
    body_timeout_s: float = 60.0
    streams_per_user: int = 0
    allow_media_urls: bool = False
    allow_media_kwargs: bool = False
    allow_prompt_embeds: bool = False
    allow_chat_template: bool = False
    allow_cache_salt: bool = False
    allow_transfer_params: bool = False
    allow_engine_extras: bool = False
    allow_server_tools: bool = False


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """`[proxy]`: the door that clients talk to."""

    listen: str = "127.0.0.1:6430"
    base_names: tuple[str, ...] = ("/models/prime", "/models/core")
    default_stage: str = "generation"
    stage_rules: str = ""
    hold_s: float = 120.0
    max_held: int = 256
    max_body_bytes: int = 8 * 1024 * 1024
    upstream_timeout_s: float = 600.0
    stream_errors: Literal["event", "close"] = "close"
    exchange_routes: bool = False
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    early_headers_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`[engine]`: the vLLM that serves, as our child (`managed`) or at a URL (`external`)."""

    mode: Literal["managed", "external"] = "managed"
    url: str = "http://127.0.0.1:7777"
    base_model: str = ""
    served_name: str = ""
    api_key_file: str = ""
    adapter_root: str = ""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    python: str = ""
    max_loras: int = 4
    max_cpu_loras: int = 12
    max_lora_rank: int = 0
    max_model_len: int = 0
    cpu_kv_cache_gib: int = 1
    extra_args: tuple[str, ...] = ()
    start_timeout_s: float = 600.0
    request_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """`[learning]`: when to learn, from which curricula, and how a live version is watched."""

    enabled: bool = True
    idle_minutes: float = 5.0
    tick_s: float = 30.0
    curricula: str = ""
    documents: tuple[str, ...] = ()
    registries: tuple[str, ...] = ()
    profile: str = "full"
    python: str = ""
    threads: int = 0
    drain_s: float = 30.0
    resume_after_s: float = 30.0
    trainer_silence_s: float = 600.0
    checkpoint_every_s: float = 30.0
    background_stages: tuple[str, ...] = ("epistemic_guard", "cognitive_audit", "reflection", "base")
    exam_concurrency: int = 16
    exam_timeout_s: float = 600.0
    parity_examples: int = 8
    parity_tolerance: float = 0.25
    guard_window: int = 8
    guard_max_failures: int = 4


@dataclass(frozen=True, slots=True)
class ConsentConfig:
    """`[consent]`: who an unnamed caller is, what the owner grants (`USER=PURPOSE`), whether a header may widen it."""

    anonymous_user: str = ""
    grants: tuple[str, ...] = ()
    header_may_grant: bool = False

    def granted(self) -> set[tuple[str, str]]:
        """Users and purposes that the settings grant."""
        return {(user.strip(), purpose.strip()) for user, _, purpose in (one.rpartition("=") for one in self.grants)}


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """`[keys]`: where the API keys are written down; `file` is relative to `state_dir`, empty for no keys at all."""

    file: str = "keys.json"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """`[store]`: where exchanges are kept, how long and how much; `url` is empty for SQLite inside `state_dir`.

    It may hold a password, so nothing shows it; `place` is what may be shown. Days and MiB bound what is kept for a
    purpose, 0 of them nothing.
    """

    url: str = field(default="", repr=False)
    metadata_days: int = 90
    log_days: int = 90
    log_mib: int = 1024
    train_days: int = 0
    train_mib: int = 1024
    evaluate_days: int = 0
    evaluate_mib: int = 1024
    queue_size: int = 2000

    @property
    def place(self) -> str:
        """The URL without user, password and options; empty for SQLite inside `state_dir`."""
        kind, mark, rest = self.url.partition("://")
        # After the last @: a password with one of its own must not show in part.
        return f"{kind if mark else ''}{mark}{rest.rpartition('@')[2].partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class RedactConfig:
    """`[redact]`: what of the owner's own is replaced before it is written down; patterns are `TYPE=REGEX`."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`[log]`: how much, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Paths are absolute once parsed."""

    state_dir: Path
    control_socket: Path
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    consent: ConsentConfig = field(default_factory=ConsentConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    redact: RedactConfig = field(default_factory=RedactConfig)
    log: LogConfig = field(default_factory=LogConfig)
    stages: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_STAGES))
    options: Mapping[str, StageOptions] = field(default_factory=dict)

    @property
    def adapters_dir(self) -> Path:
        """Where published versions live: `<adapters_dir>/<adapter>/v<N>-<digest8>/`."""
        return self.state_dir / "adapters"

    @property
    def datasets_dir(self) -> Path:
        """Where frozen datasets live, one directory a digest."""
        return self.state_dir / "datasets"

    @property
    def self_made_dir(self) -> Path:
        """Where what the base itself made for its training lies, see `gaiadctl curriculum propose` and `replay`."""
        return self.state_dir / "self_made"

    @property
    def runs_dir(self) -> Path:
        """Where each training run keeps its staging directory, log and report."""
        return self.state_dir / "runs"

    @property
    def keys_file(self) -> Path | None:
        """Where the API keys are written down; None where there are none to be."""
        return self.state_dir / self.keys.file if self.keys.file else None

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port of the proxy."""
        host, _, port = self.proxy.listen.rpartition(":")
        return host.strip("[]"), int(port)


_SECTIONS: Mapping[str, type] = {
    "proxy": ProxyConfig,
    "engine": EngineConfig,
    "learning": LearningConfig,
    "consent": ConsentConfig,
    "keys": KeysConfig,
    "store": StoreConfig,
    "redact": RedactConfig,
    "log": LogConfig,
}
_TOP = {"state_dir", "control_socket", "stages", *_SECTIONS}
_PURPOSES = ("log", "train", "evaluate")
_NOT_NEGATIVE = {
    "proxy": ("max_held", "early_headers_s"),
    "proxy.limits": ("streams_per_user",),
    "engine": ("max_lora_rank", "max_model_len"),
    "learning": ("threads", "resume_after_s", "idle_minutes", "drain_s", "parity_examples"),
    "store": ("metadata_days", *(f"{what}_{unit}" for what in _PURPOSES for unit in ("days", "mib"))),
}


def parse_config(text: str, *, relative_to: Path) -> Config:
    """Parse TOML `text` into a Config; relative paths count from `relative_to`.

    Raises:
        ConfigError: naming every wrong key and value at once.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the settings are not valid TOML: {error}", hint="mend the line it names") from error
    problems: list[str] = [f"unknown key {key!r}" for key in sorted(set(document) - _TOP)]
    state_dir = _path(document, "state_dir", "/var/lib/gaiad", relative_to, problems)
    control_socket = _path(document, "control_socket", "/run/gaiad/control.sock", relative_to, problems)
    tables = _taken(document.get("proxy"), "options")
    sections: dict[str, typing.Any] = {
        name: _section(name, kind, document.get(name, {}), problems) for name, kind in _SECTIONS.items()
    }
    stages = _stages(document.get("stages", {}), problems)
    options = _options(tables, {*stages, "base"}, problems)
    _check_ranges(sections, problems)
    _check_meaning(sections, stages, problems)
    if problems:
        raise ConfigError("; ".join(problems), hint="see docs/configuration.md for every key")
    config = Config(state_dir, control_socket, stages=stages, options=options, **sections)
    return _with_absolute_paths(config, relative_to)


def _path(doc: Mapping[str, object], key: str, default: str, base: Path, problems: list[str]) -> Path:
    value = doc.get(key, default)
    if not isinstance(value, str) or not value or "\0" in value:
        problems.append(f"{key} = {value!r} must be a path")
        return Path(default)
    return (base / value).absolute()


def _section(name: str, kind: type, given: object, problems: list[str]) -> typing.Any:  # noqa: ANN401
    if not isinstance(given, dict):
        problems.append(f"[{name}] must be a table")
        return kind()
    hints = typing.get_type_hints(kind)
    values: dict[str, object] = {}
    for key, value in given.items():
        if key not in hints:
            known = ", ".join(sorted(hints))
            problems.append(f"unknown key {name}.{key} (known: {known})")
            continue
        wanted = hints[key]
        if dataclasses.is_dataclass(wanted):
            values[key] = _section(f"{name}.{key}", typing.cast(type, wanted), value, problems)
            continue
        converted = _converted(value, wanted)
        if converted is None:
            # A URL may hold a password, whatever it is written in.
            shown = "" if key == "url" else f" = {value!r}"
            problems.append(f"{name}.{key}{shown} must be {_described(wanted)}")
        else:
            values[key] = converted
    return kind(**values)


def _taken(section: object, key: str) -> object:
    """Take a table out of its section, which holds keys only."""
    return section.pop(key, {}) if isinstance(section, dict) else {}


def _options(given: object, stages: set[str], problems: list[str]) -> Mapping[str, StageOptions]:
    if not isinstance(given, dict):
        problems.append("[proxy.options] must hold a table for each stage")
        return {}
    options: dict[str, StageOptions] = {}
    for stage, table in given.items():
        name = f"proxy.options.{stage}"
        if stage not in stages:
            problems.append(f"[{name}] is for a stage that is none of {', '.join(sorted(stages))}")
            continue
        option: StageOptions = _section(name, StageOptions, table, problems)
        problems += option.problems(name)
        # A table that asks for nothing costs nothing.
        if option != StageOptions():
            options[stage] = option
    return options


def _converted(value: object, wanted: object) -> object | None:
    if typing.get_origin(wanted) is Literal:
        return value if value in typing.get_args(wanted) else None
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return None
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if wanted in (str, bool) and type(value) is wanted:
        return value
    return None


def _described(wanted: object) -> str:
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(wanted))
    if isinstance(wanted, types.GenericAlias) or typing.get_origin(wanted) is tuple:
        return "a list of strings"
    return {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}.get(
        typing.cast(type, wanted), str(wanted)
    )


def _stages(given: object, problems: list[str]) -> Mapping[str, str]:
    stages = dict(DEFAULT_STAGES)
    if not isinstance(given, dict):
        problems.append("[stages] must be a table of stage = adapter")
        return stages
    for stage, adapter in given.items():
        if stage == "base":
            problems.append("stages.base always means the bare base model and cannot be set")
        elif not _STAGE.fullmatch(stage):
            problems.append(f"stages has {stage!r}: a stage's name is 1 to 64 letters, digits and _ . -")
        elif not isinstance(adapter, str) or not (is_adapter_name(adapter) or adapter == ""):
            problems.append(f"stages.{stage} = {adapter!r} must be an adapter's name, or empty for the base")
        else:
            stages[stage] = adapter
    return stages


def _check_ranges(sections: Mapping[str, object], problems: list[str]) -> None:
    for name, section in sections.items():
        for entry in dataclasses.fields(typing.cast(typing.Any, section)):
            value = getattr(section, entry.name)
            if dataclasses.is_dataclass(value):
                _check_ranges({f"{name}.{entry.name}": value}, problems)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if isinstance(value, float) and not math.isfinite(value):
                problems.append(f"{name}.{entry.name} = {value!r} must be a finite number")
            elif value < 0 or (value == 0 and entry.name not in _NOT_NEGATIVE.get(name, ())):
                problems.append(f"{name}.{entry.name} = {value!r} must be above 0")


def _check_meaning(sections: Mapping[str, typing.Any], stages: Mapping[str, str], problems: list[str]) -> None:
    proxy, engine, learning = sections["proxy"], sections["engine"], sections["learning"]
    host, _, port = proxy.listen.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 <= int(port) <= 65535:
        problems.append(f"proxy.listen = {proxy.listen!r} must be HOST:PORT")
    _check_engine_place(engine, learning, problems)
    if engine.max_lora_rank not in (0, *SERVED_RANKS):
        allowed = ", ".join(str(rank) for rank in SERVED_RANKS)
        problems.append(f"engine.max_lora_rank = {engine.max_lora_rank} must be 0 (by curriculum) or one of {allowed}")
    if engine.max_cpu_loras < engine.max_loras:
        problems.append(f"engine.max_cpu_loras = {engine.max_cpu_loras} must be at least max_loras")
    known = {*stages, "base"}
    if proxy.default_stage not in known:
        problems.append(f"proxy.default_stage = {proxy.default_stage!r} must be one of {', '.join(sorted(known))}")
    for stage in learning.background_stages:
        if stage not in known:
            problems.append(f"learning.background_stages names {stage!r}, which is not a stage")
    if learning.guard_max_failures > learning.guard_window:
        problems.append("learning.guard_max_failures must not be above learning.guard_window")
    for key in ("documents", "registries"):
        for one in getattr(learning, key):
            if not one.strip() or "\0" in one:
                problems.append(f"learning.{key} has {one!r}, which is not a path")
    if "\0" in sections["keys"].file:
        problems.append(f"keys.file = {sections['keys'].file!r} must be a path")
    _check_consent(sections["consent"], problems)


def _check_consent(consent: ConsentConfig, problems: list[str]) -> None:
    for user, purpose in sorted(consent.granted()):
        if user_name(user) is None or purpose not in _PURPOSES:
            shown = f"{user[:50]}={purpose[:50]}"
            problems.append(f"consent.grants has {shown!r}, which is not USER=PURPOSE ({', '.join(_PURPOSES)})")
    anonymous = consent.anonymous_user
    if anonymous.strip() and user_name(anonymous) is None:
        problems.append(f"consent.anonymous_user = {anonymous!r} must be text of at most {MAX_USER_CHARS} characters")


def _check_engine_place(engine: EngineConfig, learning: LearningConfig, problems: list[str]) -> None:
    # A URL may hold a password: one with an @ is not repeated.
    shown = "engine.url" if "@" in engine.url else f"engine.url = {engine.url!r}"
    parts = _split(engine.url)
    if parts is None:
        problems.append(f"{shown} must be http://HOST:PORT")
    elif "@" in parts.netloc:
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        problems.append(f"{shown} must be {place}, without a user's name; a key goes into engine.api_key_file")
    elif parts.path.strip("/") or parts.query or parts.fragment or "?" in engine.url or "#" in engine.url:
        place = f"{parts.scheme}://{parts.netloc}"
        problems.append(f"{shown} must be {place} alone, without path or query: gaiad adds /v1 and the rest itself")
    if engine.mode == "managed" and parts is not None and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        problems.append(f"{shown} must be on loopback where engine.mode is managed")
    if not engine.base_model and engine.mode == "managed":
        problems.append("engine.base_model must be set to a local folder where engine.mode is managed")
    elif not engine.base_model and learning.enabled:
        problems.append("engine.base_model must be set to a local folder where learning.enabled is true")


def _split(url: str) -> SplitResult | None:
    """Take an engine's URL apart; None where it names no place that HTTP can reach."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if named else None


def _with_absolute_paths(config: Config, base: Path) -> Config:
    engine, learning, proxy = config.engine, config.learning, config.proxy

    def absolute(text: str) -> str:
        return str((base / text).absolute()) if text else ""

    # 1. A base model named by its served name alone stays as it is: only learning needs a local folder.
    folder = engine.base_model
    if folder and (engine.mode == "managed" or learning.enabled):
        folder = absolute(folder)
    engine = dataclasses.replace(
        engine, base_model=folder, api_key_file=absolute(engine.api_key_file), url=engine.url.rstrip("/")
    )
    learning = dataclasses.replace(
        learning,
        curricula=absolute(learning.curricula),
        documents=tuple(absolute(one) for one in learning.documents),
        registries=tuple(one if names_module(one) else absolute(one) for one in learning.registries),
    )
    proxy = dataclasses.replace(proxy, stage_rules=absolute(proxy.stage_rules))
    options = {
        stage: dataclasses.replace(option, prelude_file=absolute(option.prelude_file))
        for stage, option in config.options.items()
    }
    return dataclasses.replace(config, engine=engine, learning=learning, proxy=proxy, options=options)


def names_module(registry: str) -> bool:
    """Whether a registry of tools is named as `module:attribute`, and not as a file."""
    return _MODULE.fullmatch(registry) is not None
