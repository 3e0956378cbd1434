"""Counts an example's tokens as the engine would: the base model's chat template, its tokenizer, nothing else.

Reads a base model's folder. Needs `tokenizers` and `jinja2`, neither of which the daemon loads; transformers is not
needed, and a test holds the two equal. The template runs in a sandbox.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from gaiad.curriculum import Json
from gaiad.errors import DatasetError
from gaiad.learner.example import Example, Message

if TYPE_CHECKING:
    import jinja2
    import tokenizers

_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LONGEST_DAY = datetime.datetime(2024, 9, 25, 23, 59, 59)
"""What a template is told that today is: a Wednesday in September, so that no other day is longer."""

# What a template's code raises on roles, or an order of roles, that it does not foresee.
_TEMPLATE_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_Settings: TypeAlias = Mapping[str, Json]


class ServingTemplate:
    """A base model's chat template with its tokenizer."""

    def __init__(self, template: jinja2.Template, tokenizer: tokenizers.Tokenizer, special: Mapping[str, str]) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._special = special

    @classmethod
    def load(cls, folder: Path) -> ServingTemplate:
        """Read the base model in `folder`.

        Raises:
            DatasetError: where the folder has no tokenizer, no template or no end token, or a library is missing.
        """
        try:
            import jinja2
            import tokenizers
        except ImportError as error:
            raise DatasetError(f"lengths cannot be measured: {error}", hint="install gaiad[lengths]") from error
        try:
            settings = cast("_Settings", json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")))
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            source = _template_text(folder, settings)
            # `from_file` says what is wrong with a bare Exception.
        except Exception as error:
            raise DatasetError(
                f"{folder} has no usable tokenizer with a chat template: {error}",
                hint="name a base model's folder with tokenizer.json, tokenizer_config.json and a chat template",
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        special = _special_tokens(settings)
        if "eos_token" not in special:
            raise DatasetError(f"{folder} names no end token", hint="use a chat model")
        try:
            return cls(_environment().from_string(source), tokenizer, special)
        except jinja2.TemplateError as error:
            raise DatasetError(f"the chat template of {folder} cannot be read: {error}", hint="mend it") from error

    def rendered(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The prompt made of `messages`; with `ask` the beginning of an answer stands at its end.

        Raises:
            DatasetError: where the template refuses these messages.
        """
        import jinja2

        turns = [{"role": one.role, "content": one.content} for one in messages]
        try:
            return self._template.render(
                messages=turns, tools=None, documents=None, add_generation_prompt=ask, **self._special
            )
        except (jinja2.TemplateError, *_TEMPLATE_FAILURES) as error:
            raise DatasetError(f"the chat template refuses it: {error}", hint="use roles that it knows") from error

    def count(self, example: Example) -> int:
        """How many tokens the trainer makes of an example: the prompt, the answer, and the token that ends it."""
        try:
            prompt = self.rendered(example.messages[:-1], ask=True)
            whole = self.rendered(example.messages, ask=False)
        except DatasetError as error:
            raise DatasetError(f"{example.group} ({example.origin}): {error.message}", hint=error.hint) from error
        if not whole.startswith(prompt):
            raise DatasetError(
                f"the chat template renders the request of {example.origin} differently once it is answered",
                hint="use a base model whose template keeps the request as it is",
            )
        # As in training: nothing after the end token is learned, and without one it is added.
        answer, end, _ = whole[len(prompt) :].rpartition(self._special["eos_token"])
        return self._tokens(prompt) + self._tokens(answer if end else whole[len(prompt) :]) + 1

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _template_text(folder: Path, settings: _Settings) -> str:
    """The chat template: a file of its own, else what the settings hold; of several the one called default."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = cast("list[dict[str, str]]", found)
        found = {one["name"]: one["template"] for one in named}.get("default")
    if not isinstance(found, str):
        raise ValueError("there is no chat template")
    return found


def _special_tokens(settings: _Settings) -> dict[str, str]:
    special: dict[str, str] = {}
    extra = settings.get("extra_special_tokens")
    for name in (*_TOKENS, *(extra if isinstance(extra, dict) else ())):
        found = settings.get(name) or (extra.get(name) if isinstance(extra, dict) else None)
        text = found.get("content") if isinstance(found, dict) else found
        if isinstance(text, str):
            special[name] = text
    return special


def _environment() -> jinja2.Environment:
    """The sandbox that chat templates are written for."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Marks what the assistant says; for counting it is only what stands in it."""

        tags = {"generation"}  # noqa: RUF012  jinja2 has it as an instance's

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: object, **options: Any) -> str:  # noqa: ANN401  what json.dumps takes
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _LONGEST_DAY.strftime
    return environment
