from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gaiad.adapter import AdapterName, VersionName
from gaiad.errors import AdapterError
from gaiad.learner.artifacts import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    check_files,
    publish,
    verify,
    version_path,
    weights_digest,
)
from tests.fakes.trainer import write_adapter

NAME = AdapterName("json-architect")
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    write_adapter(folder)
    return folder


def change_config(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def change_header(edit: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        edit(header)
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return change


def change_bytes(edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / WEIGHTS).write_bytes(edit((folder / WEIGHTS).read_bytes()))


def add(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("x")


def link_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def rename(old: str, new: str) -> Callable[[Path], object]:
    return change_header(lambda header: header.__setitem__(new, header.pop(old)))


def test_what_training_writes_is_accepted(staging: Path) -> None:
    check_files(staging, max_rank=16)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (add("adapter_model.bin"), "only"),
    "code": (add("modeling.py"), "only"),
    "folder": (lambda folder: (folder / "checkpoint").mkdir(), "only"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "has no"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "has no"),
    "symlink": (link_weights, "plain file"),
    "fifo": (
        lambda folder: os.mkfifo(folder / MANIFEST),
        "plain",
    ),
    "big config": (lambda folder: (folder / CONFIG).write_text(" " * 70_000), "above"),
    "config is no JSON": (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
    "config is a list": (lambda folder: (folder / CONFIG).write_text("[]"), "object"),
    "not LoRA": (change_config(peft_type="IA3"), "no LoRA"),
    "rank as text": (change_config(r="4"), "no LoRA"),
    "rank too high": (change_config(r=32), "outside"),
    "rank zero": (change_config(r=0), "outside"),
    "other rank": (change_config(r=8), "rank 4"),
    "DoRA": (change_config(use_dora=True), "use_dora"),
    "lora bias": (change_config(lora_bias=True), "lora_bias"),
    "bias": (change_config(bias="all"), "biases"),
    "PiSSA": (change_config(init_lora_weights="pissa"), "pissa"),
    "LoftQ": (change_config(init_lora_weights="loftq"), "loftq"),
    "aLoRA": (change_config(alora_invocation_tokens=[1]), "alora"),
    "saved modules": (change_config(modules_to_save=["lm_head"]), "modules_to_save"),
    "auto_map": (change_config(auto_map={"AutoModel": "x"}), "auto_map"),
    "empty": (change_bytes(lambda _: b""), "not a safetensors"),
    "header longer than the file": (
        change_bytes(lambda raw: struct.pack("<Q", 1 << 40) + raw[8:]),
        "not a safetensors",
    ),
    "header is no JSON": (change_bytes(lambda raw: raw[:8] + b"!" + raw[9:]), "broken header"),
    "cut": (change_bytes(lambda raw: raw[:-2]), "does not end"),
    "longer": (change_bytes(lambda raw: raw + b"\0"), "does not end"),
    "no tensor": (change_bytes(lambda _: struct.pack("<Q", 2) + b"{}"), "does not end"),
    "half missing": (rename(KEY, KEY.replace("layers.0", "layers.9")), "one half"),
    "embedding": (rename(KEY, "base_model.model.model.embed_tokens.lora_embedding_A"), "belongs to no"),
    "full weight": (rename(KEY, "base_model.model.lm_head.weight"), "belongs to no"),
    "path in a name": (rename(KEY, "../../etc/passwd"), "belongs to no"),
    "integers": (change_header(lambda header: header[KEY].__setitem__("dtype", "I16")), "matrix"),
    "wrong shape": (change_header(lambda header: header[KEY].__setitem__("shape", [4, 9])), "matrix"),
    "negative shape": (change_header(lambda header: header[KEY].__setitem__("shape", [-4, -8])), "matrix"),
    "vector": (change_header(lambda header: header[KEY].__setitem__("shape", [32])), "matrix"),
    "turned round": (change_header(lambda header: header[KEY].__setitem__("shape", [8, 4])), "different ranks"),
    "overlap": (change_header(lambda header: header[KEY].__setitem__("data_offsets", [64, 128])), "overlap"),
    "not a number": (change_bytes(lambda raw: raw[:-2] + struct.pack("<H", 0x7FC0)), "not finite"),
    "infinite": (change_bytes(lambda raw: raw[:-2] + struct.pack("<H", 0xFF80)), "not finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_else_is_accepted(staging: Path, name: str) -> None:
    spoil, sentence = BAD[name]
    spoil(staging)
    with pytest.raises(AdapterError, match=sentence) as caught:
        check_files(staging, max_rank=16)
    assert caught.value.hint


@pytest.mark.parametrize(("dtype", "code", "width"), [("F16", "<e", 2), ("F32", "<f", 4)])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 60000.0, -1e-7])
def test_other_floats_are_accepted_where_finite(staging: Path, dtype: str, code: str, width: int, value: float) -> None:
    shapes = {KEY: [4, 8], KEY.replace("_A", "_B"): [8, 4]}
    header: dict[str, object] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [index * 32 * width, (index + 1) * 32 * width]}
    text = json.dumps(header).encode()
    body = struct.pack(code, 0.5) * 63 + struct.pack(code, value)
    (staging / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + body)
    if math.isfinite(value):
        check_files(staging, max_rank=16)
    else:
        with pytest.raises(AdapterError, match="not finite"):
            check_files(staging, max_rank=16)


def test_a_real_sized_adapter_is_checked_in_no_time(tmp_path: Path) -> None:
    write_adapter(tmp_path / "big", rank=16, layers=32, width=4096)
    assert (tmp_path / "big" / WEIGHTS).stat().st_size > 16e6
    began = time.monotonic()
    check_files(tmp_path / "big", max_rank=16)
    assert time.monotonic() - began < 2.0


def test_a_published_version_is_named_after_its_weights_and_verifies(staging: Path, tmp_path: Path) -> None:
    published = publish(staging, tmp_path / "adapters", adapter=NAME, number=3, lineage={"dataset": "ab", "ids": ["x"]})
    digest = weights_digest(staging)
    assert published.version == f"json-architect@v3-{digest[:8]}"
    assert published.path == version_path(tmp_path / "adapters", published.version)
    assert sorted(entry.name for entry in published.path.iterdir()) == [CONFIG, WEIGHTS, MANIFEST]
    assert json.loads((published.path / MANIFEST).read_text())["lineage"] == {"dataset": "ab", "ids": ["x"]}
    assert published.sha256 == digest
    verify(published.path)
    check_files(published.path, max_rank=16)


def test_a_version_is_never_published_over_another(staging: Path, tmp_path: Path) -> None:
    first = publish(staging, tmp_path, adapter=NAME, number=1, lineage={})
    before = (first.path / MANIFEST).read_bytes()
    with pytest.raises(AdapterError, match="exists"):
        publish(staging, tmp_path, adapter=NAME, number=1, lineage={"other": True})
    assert (first.path / MANIFEST).read_bytes() == before


def test_a_bad_adapter_leaves_nothing_behind(staging: Path, tmp_path: Path) -> None:
    change_config(use_dora=True)(staging)
    with pytest.raises(AdapterError):
        publish(staging, tmp_path / "adapters", adapter=NAME, number=1, lineage={})
    assert list((tmp_path / "adapters" / NAME).iterdir()) == []


def test_a_failing_disk_leaves_nothing_behind(staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdapterError, match="No space"):
        publish(staging, tmp_path / "adapters", adapter=NAME, number=1, lineage={})
    assert list((tmp_path / "adapters" / NAME).iterdir()) == []


def test_what_a_killed_daemon_left_is_swept(staging: Path, tmp_path: Path) -> None:
    left = tmp_path / NAME / ".partial-old"
    left.mkdir(parents=True)
    publish(staging, tmp_path, adapter=NAME, number=1, lineage={})
    assert not left.exists()


def flip(path: Path) -> None:
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_a_changed_byte_is_noticed(staging: Path, tmp_path: Path, name: str) -> None:
    published = publish(staging, tmp_path, adapter=NAME, number=1, lineage={})
    flip(published.path / name)
    with pytest.raises(AdapterError):
        verify(published.path)


def test_a_version_under_another_name_is_noticed(staging: Path, tmp_path: Path) -> None:
    published = publish(staging, tmp_path, adapter=NAME, number=1, lineage={})
    moved = published.path.rename(published.path.with_name("v2-" + published.path.name[3:]))
    with pytest.raises(AdapterError, match="holds"):
        verify(moved)


def test_a_missing_version_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        verify(version_path(tmp_path, VersionName("json-architect@v1-00000000")))


@pytest.mark.parametrize(
    "name", ["json-architect", "../x@v1-00000000", "a@v0-00000000", "a@v1-0000000G", "-@v1-00000000"]
)
def test_only_version_names_have_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdapterError, match="not a version"):
        version_path(tmp_path, VersionName(name))
