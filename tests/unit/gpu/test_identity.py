"""What tells engines and templates apart, on folders such as base models lie in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from gaiad.config import EngineConfig
from gaiad.gpu.identity import engine_digest, template_digest

TOLD = {"version": "0.32.0", "served_name": "base", "max_model_len": 4096}


def model_at(path: Path, **files: str) -> EngineConfig:
    path.mkdir()
    for name, text in {"config_json": "{}", **files}.items():
        (path / name.replace("_", ".")).write_text(text)
    return EngineConfig(base_model=str(path))


def digest(settings: EngineConfig, **told: object) -> str:
    return engine_digest(settings, **{**TOLD, **told})  # type: ignore[arg-type]


def test_another_release_window_argument_or_model_is_another_engine(tmp_path: Path) -> None:
    settings = model_at(tmp_path / "one")
    same = digest(settings)
    assert len(same) == 16
    assert digest(settings) == same
    others = [
        digest(settings, version="0.33.0"),
        digest(settings, max_model_len=None),
        digest(settings, served_name="another"),
        digest(dataclasses.replace(settings, extra_args=("--seed", "1"))),
        digest(model_at(tmp_path / "two", weights_safetensors="w")),
        digest(EngineConfig()),
    ]
    assert len({same, *others}) == 7


@pytest.mark.parametrize(
    "secret",
    [
        ("--api-key", "sesame"),
        ("--api-key", "sesame", "another"),
        ("--api-key=sesame",),
        ("--API_KEY=sesame",),
        ("--hf-token", "sesame"),
        ("--ssl-keyfile-password", "sesame"),
    ],
)
def test_no_secret_among_the_arguments_is_in_a_digest(secret: tuple[str, ...]) -> None:
    arguments = ("--seed", "1", *secret, "--max-num-batched-tokens", "2048", "--tokenizer-mode", "slow")
    without = ("--seed", "1", "--max-num-batched-tokens", "2048", "--tokenizer-mode", "slow")
    assert digest(EngineConfig(extra_args=arguments)) == digest(EngineConfig(extra_args=without))
    # What is no secret counts on, also where its name resembles one's.
    others = [(*without[:index], "7", *without[index + 1 :]) for index in (1, 3, 5)]
    assert len({digest(EngineConfig(extra_args=one)) for one in [without, *others]}) == 4


def test_a_template_is_known_by_its_text_wherever_it_stands(tmp_path: Path) -> None:
    inside = tmp_path / "in-tokenizer"
    inside.mkdir()
    (inside / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    of_tokenizer = template_digest(EngineConfig(base_model=str(inside)))
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages }}")
    given = [("--chat-template", str(own)), (f"--chat-template={own}",), ("--chat-template", "{{ messages }}")]
    found = {template_digest(EngineConfig(extra_args=arguments)) for arguments in given}
    assert found == {of_tokenizer}
    own.write_text("{{ other }}")
    assert template_digest(EngineConfig(base_model=str(inside), extra_args=given[0])) != of_tokenizer


def test_of_a_template_that_cannot_be_seen_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("[]")
    for folder in ("", str(tmp_path), str(tmp_path / "missing")):
        assert template_digest(EngineConfig(base_model=folder)) == ""
