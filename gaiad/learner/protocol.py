"""What the daemon and the training child say to each other: one JSON object a line, versioned.

The daemon sends one job line on the child's stdin, later perhaps the line `stop`; end of file there means that the
daemon is gone. The child answers on its original stdout. This module only turns messages into lines and back; it
opens no pipe and decides nothing. A line that is not exactly a known message is a failure, never skipped.

A field may be added without a new version where its absence means what was so before; it is then sent only where it
says something else (`_LATER`), so that daemon and trainer of neighbouring releases understand each other.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import TrainingError

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 1 << 20
STOP_LINE = "stop\n"

Device: TypeAlias = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run: which base model, which split files (JSONL), where to put the adapter, and how to train.

    Paths are absolute. `threads` 0 leaves the number of CPU threads to torch. Checkpoints lie in `checkpoint_dir`
    (empty: none outlives the child), one at each validation and where the last is `checkpoint_every_s` old.
    """

    base_model: str
    train_path: str
    validation_path: str
    output_dir: str
    lora: LoraSpec
    training: TrainingSpec
    threads: int = 0
    device: Device = "auto"
    version: int = PROTOCOL_VERSION
    checkpoint_dir: str = ""
    checkpoint_every_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ReferenceJob:
    """What a trained adapter is measured on: at most `examples` of a split file, none above `max_tokens` tokens.

    Paths are absolute. On a `cpu` the base lies in main memory, beside an engine that may be serving.
    """

    base_model: str
    adapter_dir: str
    examples_path: str
    examples: int
    max_tokens: int
    threads: int = 0
    device: Device = "auto"
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Hello:
    """The child is alive and has understood the job."""

    type: ClassVar[str] = "hello"
    pid: int
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Progress:
    """One optimiser step is done (step 0: the base is loaded). `tokens` counts tokens of examples seen so far.

    `memory_bytes` is the peak so far. `flops_per_s` is what the network needs for what was computed, `peak_share` how
    much of the device's best (0 to 1) that is; None where the best is not known. `resumed_from` is the step of the
    checkpoint at which this run went on.
    """

    type: ClassVar[str] = "progress"
    step: int
    total_steps: int
    loss: float | None
    validation_loss: float | None
    tokens: int
    tokens_per_s: float
    elapsed_s: float
    memory_bytes: int | None = None
    flops_per_s: float | None = None
    peak_share: float | None = None
    learning_rate: float | None = None
    resumed_from: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that was learnt up to `step` lies complete at `path`, with the best adapter so far (`validation_loss`)."""

    type: ClassVar[str] = "checkpoint"
    step: int
    path: str
    validation_loss: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """The run succeeded: the adapter of the best validation loss lies in `output_dir`.

    `layout` says how examples were laid out (`prefix_shared` or `padded`), `computed_tokens` how many tokens really
    went through the network for the `tokens` of the examples. `base_validation_loss` is from before the first step.
    `left_out` are the ids of the exchanges that could not be rendered or were too long, and so were not learnt from.
    `resumed_from` is the step of the checkpoint that the run went on from, `notes` what the owner should know of it,
    `digests` what it was made of (SHA-256 of base, template, train, validation, spec, code), `step_s` the mean seconds
    a step.
    """

    type: ClassVar[str] = "result"
    output_dir: str
    steps: int
    best_step: int
    train_loss: float
    validation_loss: float | None
    base_validation_loss: float | None
    tokens: int
    computed_tokens: int
    wall_s: float
    peak_memory_bytes: int
    quantisation: str
    device: str
    layout: str
    stopped_early: bool
    weights_sha256: str
    packages: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    resumed_from: int | None = None
    notes: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    device_name: str = ""
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One example under PEFT: `tokens` are prompt and answer, which begins at `answer_from`.

    `adapter` and `base` hold the log-probability in nats of each token but the first, with the adapter and without.
    `key` is the example's, `rendered_sha256` the digest of the prompt's text as the template renders it.
    """

    key: str
    rendered_sha256: str
    tokens: tuple[int, ...]
    answer_from: int
    adapter: tuple[float, ...]
    base: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the adapter gives over the unquantised base; where nothing can be measured here, `unable` says why."""

    type: ClassVar[str] = "reference"
    measured: tuple[Measured, ...] = ()
    weights_sha256: str = ""
    device: str = ""
    peak_memory_bytes: int = 0
    wall_s: float = 0.0
    unable: str = ""


@dataclass(frozen=True, slots=True)
class Error:
    """The run failed, in one sentence, with what to try; `of_data`: the same dataset would break it again."""

    type: ClassVar[str] = "error"
    message: str
    hint: str
    of_data: bool = True


Message: TypeAlias = Hello | Progress | Checkpoint | Result | Reference | Error

# Fields that came later than the first release of this version, by the class that holds them.
_LATER: Mapping[type, frozenset[str]] = {
    Job: frozenset({"checkpoint_dir", "checkpoint_every_s"}),
    Progress: frozenset({"memory_bytes", "flops_per_s", "peak_share", "learning_rate", "resumed_from"}),
    Result: frozenset({"left_out", "resumed_from", "notes", "digests", "device_name", "step_s"}),
    Error: frozenset({"of_data"}),
    LoraSpec: frozenset({"rslora", "plus_ratio"}),
    TrainingSpec: frozenset({"preference", "preference_beta", "preference_margin", "preference_weight"}),
}

_MESSAGES: Mapping[str, type[Message]] = {
    kind.type: kind for kind in (Hello, Progress, Checkpoint, Result, Reference, Error)
}
_HINT = "look at the run's log; trainer and daemon must be of the same release"


def encode(message: Message | Job | ReferenceJob) -> str:
    """Render a message or a job as one line, newline included."""
    body = _body(message)
    if not isinstance(message, Job | ReferenceJob):
        body = {"type": message.type, **body}
    return json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def _body(value: object) -> dict[str, object]:
    later = _LATER.get(type(value), frozenset())
    body: dict[str, object] = {}
    for entry in dataclasses.fields(typing.cast("Job", value)):
        held = getattr(value, entry.name)
        usual = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        if entry.name in later and held == usual:
            continue
        body[entry.name] = _plain(held)
    return body


def _plain(held: object) -> object:
    if isinstance(held, tuple):
        return [_plain(one) for one in held]
    return _body(held) if isinstance(held, LoraSpec | TrainingSpec | Measured) else held


def parse_line(line: str) -> Message:
    """Read one line of the child.

    Raises:
        TrainingError: the line is no message, or one of another version.
    """
    body = _object(line)
    kind = _MESSAGES.get(str(body.pop("type", "")))
    if kind is None:
        raise TrainingError("the trainer sent a line that is no message", hint=_HINT)
    message = typing.cast(Message, _built(kind, body))
    if isinstance(message, Hello):
        _check_version(message.version)
    return message


def parse_job(line: str) -> Job:
    """Read the job line.

    Raises:
        TrainingError: the line is no job, or one of another version.
    """
    job = typing.cast(Job, _built(Job, _object(line)))
    _check_version(job.version)
    return job


def parse_reference_job(line: str) -> ReferenceJob:
    """Read the job line of a measurement.

    Raises:
        TrainingError: the line is no such job, or one of another version.
    """
    job = typing.cast(ReferenceJob, _built(ReferenceJob, _object(line)))
    _check_version(job.version)
    return job


def _check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise TrainingError(f"the other side speaks protocol {version}, this one {PROTOCOL_VERSION}", hint=_HINT)


def _object(line: str) -> dict[str, object]:
    try:
        body = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TrainingError("the trainer sent a line that is not JSON", hint=_HINT) from error
    if not isinstance(body, dict):
        raise TrainingError("the trainer sent a line that is no JSON object", hint=_HINT)
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _built(kind: type, body: Mapping[str, object]) -> object:
    hints = typing.get_type_hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(set(body) - set(fields))
    missing = sorted(name for name, entry in fields.items() if name not in body and _is_required(entry))
    if unknown or missing:
        raise TrainingError(
            f"a {kind.__name__} line has missing fields {missing} and unknown fields {unknown}", hint=_HINT
        )
    return kind(**{name: _converted(value, hints[name], f"{kind.__name__}.{name}") for name, value in body.items()})


def _is_required(entry: dataclasses.Field[object]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _converted(value: object, wanted: object, where: str) -> object:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _converted(value, next(kind for kind in arguments if kind is not type(None)), where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_converted(item, arguments[0], where) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {str(key): _converted(item, arguments[1], where) for key, item in value.items()}
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        return _built(wanted, value)
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted in (int, str, bool) and type(value) is wanted:
        return value
    raise TrainingError(f"{where} has a value of the wrong kind", hint=_HINT)
