"""Lengths counted without transformers are those that the trainer gets with it, for templates of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gaiad.errors import DatasetError, TrainingError
from gaiad.learner.example import Example, Message
from gaiad.learner.rendering import load_tokenizer, tokenised
from gaiad.learner.sources import catalogue
from gaiad.learner.template import ServingTemplate
from tests.fakes.tiny_base import CHATML, make_tokenizer

SMALL = Path(__file__).resolve().parents[2] / "var/models/smollm2-135m-instruct"
LLAMA = (
    "{{ bos_token }}{% for m in messages %}\n"
    "    {%- if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif %}\n"
    "    {%- if loop.index > 8 %}{% break %}{% endif %}\n"
    "    {{- '[' + m.role + ']' }} {{ m.content | trim }}\n"
    "    {%- if m.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}\n"
    "{%- endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
JSON = "{% for m in messages %}{{ m | tojson }}<|im_end|>{% endfor %}{% if tools or documents %}never{% endif %}"
TALKS = [
    [("user", "Read notes.txt, please."), ("assistant", '{"selected_tool":"read_file"}')],
    [
        ("system", "Be brief."),
        ("user", "Größe? <b>“é”</b>\n\n  "),
        ("assistant", "1,80 m"),
        ("user", "So?"),
        ("assistant", "Ja."),
    ],
]


def example(talk: list[tuple[str, str]]) -> Example:
    return Example(tuple(Message(role, text) for role, text in talk), "s", "s/t", "made")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tokenizer(folder)
    return folder


def with_template(folder: Path, place: Path, template: str, **settings: Any) -> Path:
    """A copy of the tokenizer with another template, in a file of its own or, where it is a list, in the settings."""
    place.mkdir(exist_ok=True)
    (place / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    found = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    if template:
        (place / "chat_template.jinja").write_text(template, "utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps({**found, **settings}), "utf-8")
    return place


@pytest.mark.parametrize("template", [CHATML, LLAMA], ids=["chatml", "llama"])
@pytest.mark.parametrize("talk", TALKS, ids=["short", "long"])
def test_a_length_is_the_trainers(tiny: Path, tmp_path: Path, template: str, talk: Any) -> None:
    bos = {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    folder = with_template(tiny, tmp_path / "base", template, bos_token={"__type": "AddedToken", **bos})
    tokenizer = load_tokenizer(str(folder))
    assert ServingTemplate.load(folder).count(example(talk)) == len(tokenised(example(talk), tokenizer, 10_000))


@pytest.mark.parametrize("template", [CHATML, LLAMA, JSON], ids=["chatml", "llama", "json"])
@pytest.mark.parametrize("talk", TALKS, ids=["short", "long"])
@pytest.mark.parametrize("ask", [True, False], ids=["asking", "answered"])
def test_a_prompt_is_rendered_as_transformers_renders_it(
    tiny: Path, tmp_path: Path, template: str, talk: Any, ask: bool
) -> None:
    folder = with_template(tiny, tmp_path / "base", template, bos_token="<|endoftext|>")
    turns = [{"role": role, "content": text} for role, text in talk]
    theirs = load_tokenizer(str(folder)).apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    assert ServingTemplate.load(folder).rendered(example(talk).messages, ask=ask) == theirs


def test_of_several_templates_the_default_is_used(tiny: Path, tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    folder = with_template(tiny, tmp_path / "base", "", chat_template=several)
    assert ServingTemplate.load(folder).count(example(TALKS[0])) == ServingTemplate.load(tiny).count(example(TALKS[0]))


def test_the_small_models_lengths_of_the_shipped_examples_are_the_trainers() -> None:
    if not (SMALL / ".ready").is_file():
        pytest.skip(f"there is no {SMALL}: run make model")
    folder = catalogue.shipped_curricula() / "json-architect"
    dataset = catalogue.gather(catalogue.load_curriculum(folder, "demo"), folder, [])
    mine, theirs = ServingTemplate.load(SMALL), load_tokenizer(str(SMALL))
    for one in dataset.train[:40]:
        assert mine.count(one) == len(tokenised(one, theirs, 10_000))


@pytest.mark.parametrize(
    ("template", "talk", "told"),
    [
        (LLAMA, [("user", "x"), ("tool", "y"), ("assistant", "z")], "no such role"),
        ("{{ messages[9].content }}", TALKS[0], "refuses it"),
        ("{{ messages | length }}", TALKS[0], "differently once it is answered"),
        # What is no sandbox's business.
        ("{{ ().__class__.__base__.__subclasses__() }}", TALKS[0], "unsafe"),
    ],
)
def test_what_a_template_refuses_is_named(tiny: Path, tmp_path: Path, template: str, talk: Any, told: str) -> None:
    folder = with_template(tiny, tmp_path / "base", template)
    with pytest.raises(DatasetError, match=told):
        ServingTemplate.load(folder).count(example(talk))
    with pytest.raises(TrainingError):
        tokenised(example(talk), load_tokenizer(str(folder)), 10_000)


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_folder_that_is_no_base_model_is_said(tiny: Path, tmp_path: Path, missing: str) -> None:
    folder = with_template(tiny, tmp_path / "base", CHATML, chat_template=None)
    (folder / missing).unlink()
    with pytest.raises(DatasetError, match="no usable tokenizer with a chat template"):
        ServingTemplate.load(folder)


def test_a_broken_template_is_said(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        ServingTemplate.load(with_template(tiny, tmp_path / "base", "{% if %}"))
