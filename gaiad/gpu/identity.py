"""What tells one serving engine from another: digests of its base model and of its chat template, short and stable.

Reads names, sizes and times of the base model's files, and the template's text; an engine elsewhere shows neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from gaiad.config import EngineConfig

_DIGITS = 16
_SECRET = frozenset({"key", "keys", "token", "password", "secret"})
_TEMPLATE_FLAG = "--chat-template"


def base_identity(base_model: str, served_name: str) -> str:
    """Tell one base model from another that is served under the same name."""
    folder = Path(base_model or "/nonexistent")
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    marks = [f"{one.name} {one.stat().st_size} {one.stat().st_mtime_ns}" for one in files if one.is_file()]
    return hashlib.sha256("\n".join([served_name, *marks]).encode()).hexdigest()


def engine_digest(settings: EngineConfig, *, version: str, served_name: str, max_model_len: int | None) -> str:
    """Tell one engine (release, base model, window, arguments without secrets) from another."""
    arguments = _without_secrets(settings.extra_args)
    return _short(
        json.dumps([version, served_name, max_model_len, *arguments, base_identity(settings.base_model, served_name)])
    )


def template_digest(settings: EngineConfig) -> str:
    """Tell one chat template from another; empty where it cannot be seen from here."""
    text = _given_to_engine(settings.extra_args) or _of_model(Path(settings.base_model or "/nonexistent"))
    return _short(text) if text else ""


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    """The engine's arguments but keys and the like, which make it no other engine: a digest is kept and shown.

    A short secret could be guessed from it. All words up to the next flag belong to one: there may be several keys.
    """
    left, is_secret = [], False
    for word in arguments:
        if word.startswith("-"):
            name = word.partition("=")[0].lower().replace("_", "-")
            is_secret = bool(_SECRET & set(name.split("-")))
        if not is_secret:
            left.append(word)
    return left


def _given_to_engine(arguments: Sequence[str]) -> str:
    """The template that the engine's arguments name: a file, or the text itself."""
    given = [after for word, after in pairwise(arguments) if word == _TEMPLATE_FLAG]
    given += [word.removeprefix(f"{_TEMPLATE_FLAG}=") for word in arguments if word.startswith(f"{_TEMPLATE_FLAG}=")]
    if not given:
        return ""
    try:
        return Path(given[-1]).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return given[-1]


def _of_model(folder: Path) -> str:
    try:
        if (folder / "chat_template.jinja").is_file():
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True) if template else ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
