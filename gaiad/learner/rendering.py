"""From examples to tokens, by the base model's own chat template: the first part of the training child.

Decides which examples can be learnt from at all. A curriculum's example that cannot is a fault and ends the run; a
user's exchange that cannot is left out, so that one odd correction never stops learning. Knows no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import transformers
from jinja2 import TemplateError

from gaiad.errors import TrainingError
from gaiad.learner.dataset import EXCHANGE_ORIGIN, Example, Message, catalogue_of
from gaiad.learner.packing import TokenExample

Tokenizer: TypeAlias = Any
hub: Any = transformers  # its own types say less than this

# What a template's code raises on roles, or an order of roles, that it does not foresee.
_TEMPLATE_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A split as tokens, with each example's tool catalogue, and the ids of the exchanges that were left out."""

    tokens: tuple[TokenExample, ...]
    catalogues: tuple[str | None, ...]
    left_out: tuple[str, ...]


def load_tokenizer(folder: str) -> Tokenizer:
    """Load the base model's tokenizer, which must bring the chat template that serving uses."""
    tokenizer = hub.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise TrainingError(f"{folder} has no chat template or end token", hint="use a chat model as engine.base_model")
    return tokenizer


def read_examples(path: str) -> list[Example]:
    """Read a split of the frozen dataset."""
    try:
        with open(path, encoding="utf-8") as lines:
            return [Example.from_json(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"the split {path} cannot be read: {error}", hint="freeze the dataset again", of_data=True
        ) from error


def usable(examples: Sequence[Example], tokenizer: Tokenizer, max_tokens: int, *, pairs: bool = False) -> Rendered:
    """Render a split, with rejected answers where `pairs`, leaving out exchanges that the template refuses, that are
    too long or whose answer is empty.

    Raises:
        TrainingError: an example of the curriculum itself is such a one.
    """
    tokens: list[TokenExample] = []
    catalogues: list[str | None] = []
    left_out: list[str] = []
    for example in examples:
        try:
            tokens.append(tokenised(example, tokenizer, max_tokens, pairs=pairs))
        except TrainingError:
            if not example.origin.startswith(EXCHANGE_ORIGIN):
                raise
            left_out.append(example.origin.removeprefix(EXCHANGE_ORIGIN))
        else:
            catalogues.append(catalogue_of(example))
    return Rendered(tuple(tokens), tuple(catalogues), tuple(left_out))


def tokenised(example: Example, tokenizer: Tokenizer, max_tokens: int, *, pairs: bool = False) -> TokenExample:
    """Render one example by the serving chat template. Nothing is ever cut: what is too long is refused by name."""
    tokens = _tokens(example, tokenizer, max_tokens)
    if not pairs or example.rejected is None:
        return tokens
    spoken = Message("assistant", example.rejected)
    other = replace(example, messages=(*example.messages[:-1], spoken), rejected=None)
    return replace(tokens, rejected=_tokens(other, tokenizer, max_tokens).answer)


def _tokens(example: Example, tokenizer: Tokenizer, max_tokens: int) -> TokenExample:
    if not example.answer.strip():
        raise TrainingError(
            f"the answer of {example.origin} is empty", hint="give each example an answer to learn", of_data=True
        )
    if not example.weight > 0:
        raise TrainingError(
            f"the weight of {example.origin} is {example.weight:g}: it would teach nothing",
            hint="give it one above 0",
            of_data=True,
        )
    prompt, whole = _rendered(example, tokenizer)
    if not whole.startswith(prompt):
        raise TrainingError(
            f"the chat template renders the request of {example.origin} differently once it is answered",
            hint="use a base model whose template keeps the request as it is",
            of_data=True,
        )
    # 1. The engine stops at the end token, so nothing after it is worth learning; without one it would never stop.
    answer, end, _ = whole[len(prompt) :].rpartition(tokenizer.eos_token)
    answer_ids = tokenizer.encode(answer if end else whole[len(prompt) :], add_special_tokens=False)
    tokens = TokenExample(
        prompt=tuple(tokenizer.encode(prompt, add_special_tokens=False)),
        answer=(*answer_ids, tokenizer.eos_token_id),
        weight=example.weight,
    )
    if len(tokens) > max_tokens:
        raise TrainingError(
            f"example {example.origin} has {len(tokens)} tokens, above max_sequence_tokens = {max_tokens}",
            hint="raise training.max_sequence_tokens or shorten the example",
            of_data=True,
        )
    return tokens


def _rendered(example: Example, tokenizer: Tokenizer) -> tuple[str, str]:
    messages = [{"role": one.role, "content": one.content} for one in example.messages]
    try:
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        return prompt, tokenizer.apply_chat_template(messages, tokenize=False)
    except _TEMPLATE_FAILURES as error:
        raise TrainingError(
            f"the chat template refuses {example.origin}: {error}",
            hint="write it with roles that the template knows",
            of_data=True,
        ) from error


def prompt_text(example: Example, tokenizer: Tokenizer) -> str:
    """The prompt of an example as the chat template renders it."""
    return _rendered(example, tokenizer)[0]
