"""Adapter directories: checked before anything trusts them, published atomically, verified ever after.

Touches files only. An adapter is exactly `adapter_config.json` and `adapter_model.safetensors`; a published version
also has `manifest.json`, written last, and never changes again. The safetensors header is read by hand, so that the
daemon needs neither torch nor numpy. Whether an adapter is any good is for the exam and the gate.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gaiad.adapter import AdapterName, VersionName, VersionParts, is_adapter_name, version_parts
from gaiad.curriculum import Json
from gaiad.errors import AdapterError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
PUBLISHING = ".partial-"
"""How the folder of a version begins until it is whole."""
LARGEST_RANK = 512
TARGET_MODULES = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})

_MAX_BYTES = {CONFIG: 64 << 10, WEIGHTS: 2 << 30, MANIFEST: 4 << 20}
_MAX_HEADER_BYTES = 8 << 20
_BYTES_OF = {"BF16": 2, "F16": 2, "F32": 4}
# The last byte of a little-endian value that is infinite, no number, or (bf16, f32) beyond 1.7e38, where no weight is.
_BROKEN_LAST_BYTES = {
    "BF16": (0x7F, 0xFF),
    "F32": (0x7F, 0xFF),
    "F16": (0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF),
}
_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
# What vLLM refuses or would apply wrongly; each of these must be absent, null, false or empty.
_REFUSED_SETTINGS = (
    "alora_invocation_tokens",
    "auto_map",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_bias",
    "lora_ga_config",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_qalora",
)
_ORDINARY_INITS = (None, True, "gaussian")


@dataclass(frozen=True, slots=True)
class Published:
    """A version as it now lies on disk; `sha256` is that of its safetensors file."""

    version: VersionName
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, int]
    start: int
    end: int


def check_files(directory: Path, *, max_rank: int) -> None:
    """Refuse anything but a plain LoRA of safetensors that the engine will serve as it was trained.

    Raises:
        AdapterError: naming the first thing that is wrong.
    """
    _check_names(directory)
    rank, patterned = _checked_config(directory, max_rank)
    tensors, body_start = _header(directory / WEIGHTS)
    ranks = _module_ranks(tensors)
    for module, found in ranks.items():
        if found > max_rank or (found != rank and not patterned):
            _refuse(f"{module} has rank {found}, where the config says {rank} and at most {max_rank} is served")
    _check_values(directory / WEIGHTS, tensors, body_start)


def weights_digest(directory: Path) -> str:
    """SHA-256 of the safetensors file, in hex."""
    return _digest(directory / WEIGHTS)


def publish(
    staging: Path, adapters_dir: Path, *, adapter: AdapterName, number: int, lineage: Mapping[str, Json]
) -> Published:
    """Copy a staged adapter to its immutable version directory: whole, or not at all.

    Raises:
        AdapterError: the files are no servable adapter, the version exists, or the disk refuses.
    """
    home = adapters_dir / adapter
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        temporary = Path(tempfile.mkdtemp(prefix=PUBLISHING, dir=home))
        try:
            return _publish_through(temporary, staging, adapter=adapter, number=number, lineage=lineage)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise AdapterError(
            f"version {number} of {adapter} could not be published: {error}", hint=f"check space and rights of {home}"
        ) from error


def verify(path: Path) -> None:
    """Check a published version's bytes against its manifest.

    Raises:
        AdapterError: something is missing, extra or changed.
    """
    _check_names(path)
    manifest = _json_object(path / MANIFEST)
    files = manifest.get("files")
    version = version_parts(str(manifest.get("version")))
    if manifest.get("format") != MANIFEST_FORMAT or not isinstance(files, dict) or version is None:
        _refuse(f"{path / MANIFEST} is not a manifest of this release")
    if (path.parent.name, path.name) != (version.adapter, version.folder):
        _refuse(f"{path} holds {version.name}")
    for name in (CONFIG, WEIGHTS):
        if files.get(name) != _digest(path / name):
            _refuse(f"{path / name} is not what was published")
    if not str(files[WEIGHTS]).startswith(version.digest8):
        _refuse(f"{path} is not named after its weights")


def version_path(adapters_dir: Path, version: VersionName) -> Path:
    """Where a version lies, whether or not it exists.

    Raises:
        AdapterError: `version` is not a full version name.
    """
    parts = version_parts(version)
    if parts is None or not is_adapter_name(parts.adapter):
        _refuse(f"{version!r} is not a version's name")
    return adapters_dir / parts.adapter / parts.folder


def _refuse(sentence: str) -> NoReturn:
    raise AdapterError(sentence, hint="nothing was loaded; train or export the adapter again")


def _check_names(directory: Path) -> None:
    try:
        entries = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(directory)}
    except OSError as error:
        raise AdapterError(
            f"{directory} cannot be read: {error.strerror}", hint="give an adapter's directory"
        ) from error
    for name in sorted(set(entries) - _MAX_BYTES.keys()):
        _refuse(f"{directory} holds {name}, and an adapter is only {CONFIG} and {WEIGHTS}")
    for name in (CONFIG, WEIGHTS):
        if name not in entries:
            _refuse(f"{directory} has no {name}")
    for name, status in entries.items():
        if not stat.S_ISREG(status.st_mode):
            _refuse(f"{directory / name} is not a plain file")
        if status.st_size > _MAX_BYTES[name]:
            _refuse(f"{directory / name} is above {_MAX_BYTES[name]} bytes")


def _json_object(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}", hint="train or export the adapter again") from error
    if not isinstance(found, dict):
        _refuse(f"{path} is not a JSON object")
    return found


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _checked_config(directory: Path, max_rank: int) -> tuple[int, bool]:
    """Return the rank, and whether single modules may have another."""
    config = _json_object(directory / CONFIG)
    rank = config.get("r")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or isinstance(rank, bool):
        _refuse(f"{directory / CONFIG} describes no LoRA")
    if not 1 <= rank <= max_rank:
        _refuse(f"the adapter's rank {rank} is outside 1..{max_rank}, which the engine serves")
    for name in _REFUSED_SETTINGS:
        if config.get(name):
            _refuse(f"the adapter uses {name}, which the engine would not apply")
    if config.get("bias", "none") != "none":
        _refuse("the adapter trains biases, which the engine would not apply")
    if config.get("init_lora_weights") not in _ORDINARY_INITS:
        _refuse(f"the adapter was started from {config['init_lora_weights']!r}, which changes the base model")
    return rank, bool(config.get("rank_pattern"))


def _header(path: Path) -> tuple[dict[str, _Tensor], int]:
    """Read the safetensors header: tensors by name, and where the body starts."""
    size = path.stat().st_size
    with path.open("rb") as weights:
        prefix = weights.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            _refuse(f"{path} is not a safetensors file")
        text = weights.read(length)
    try:
        raw = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} has a broken header: {error}", hint="export the adapter again") from error
    if not isinstance(raw, dict):
        _refuse(f"{path} is not a safetensors file")
    raw.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry) for name, entry in raw.items()}
    reached = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start != reached:
            _refuse(f"{path} has gaps or overlaps between tensors")
        reached = tensor.end
    if not tensors or reached != size - 8 - length:
        _refuse(f"{path} does not end where its tensors end")
    return tensors, 8 + length


def _tensor(name: str, entry: object) -> _Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": [int(rows), int(columns)], "data_offsets": [int(start), int(end)], **rest}:
            expected = rows * columns * _BYTES_OF.get(dtype, 0)
            if not rest and rows > 0 and columns > 0 and start >= 0 and end - start == expected > 0:
                return _Tensor(dtype, (rows, columns), start, end)
    _refuse(f"tensor {name[:100]!r} is not a bf16, f16 or f32 matrix of the size it states")


def _module_ranks(tensors: Mapping[str, _Tensor]) -> dict[str, int]:
    """Pair the A and B of each module and return each module's rank."""
    sides: dict[str, dict[str, _Tensor]] = {}
    for name, tensor in tensors.items():
        key = _KEY.fullmatch(name)
        if key is None or key["module"].rpartition(".")[2] not in TARGET_MODULES:
            _refuse(f"tensor {name[:100]!r} belongs to no LoRA of an attention or feed-forward projection")
        sides.setdefault(key["module"], {})[key["side"]] = tensor
    for module, pair in sides.items():
        if pair.keys() != {"A", "B"}:
            _refuse(f"{module} has only one half of its LoRA")
        if pair["A"].shape[0] != pair["B"].shape[1]:
            _refuse(f"{module} has halves of different ranks")
    return {module: pair["A"].shape[0] for module, pair in sides.items()}


def _check_values(path: Path, tensors: Mapping[str, _Tensor], body_start: int) -> None:
    with path.open("rb") as weights:
        for name, tensor in tensors.items():
            weights.seek(body_start + tensor.start)
            width = _BYTES_OF[tensor.dtype]
            last_bytes = weights.read(tensor.end - tensor.start)[width - 1 :: width]
            if any(broken in last_bytes for broken in _BROKEN_LAST_BYTES[tensor.dtype]):
                _refuse(f"tensor {name} holds values that are not finite")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}", hint="restore or retrain the adapter") from error


def _publish_through(
    temporary: Path, staging: Path, *, adapter: AdapterName, number: int, lineage: Mapping[str, Json]
) -> Published:
    # 1. Copy first and check the copy: what is checked is then what is served, whoever else writes to `staging`.
    _check_names(staging)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(staging / name, temporary / name, follow_symlinks=False)
    check_files(temporary, max_rank=LARGEST_RANK)
    digest = weights_digest(temporary)
    parts = VersionParts(adapter, number, digest[:8])
    final = temporary.parent / parts.folder
    if final.exists():
        _refuse(f"{parts.name} exists already")
    # 2. The manifest is written last: a directory with one is complete.
    manifest = {
        "format": MANIFEST_FORMAT,
        "version": parts.name,
        "files": {CONFIG: _digest(temporary / CONFIG), WEIGHTS: digest},
        "lineage": dict(lineage),
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (temporary / MANIFEST).write_text(text, encoding="utf-8")
    for name in (CONFIG, WEIGHTS, MANIFEST):
        (temporary / name).chmod(0o444)
        _sync(temporary / name)
    # 3. On disk before the name, the name before anyone hears of it.
    temporary.chmod(0o755)
    _sync(temporary)
    temporary.rename(final)
    _sync(final.parent)
    return Published(parts.name, final, digest)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(home: Path) -> None:
    """Remove what a killed daemon left half-published; only one daemon ever writes here."""
    for entry in home.glob(f"{PUBLISHING}*"):
        shutil.rmtree(entry, ignore_errors=True)
