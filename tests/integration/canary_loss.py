"""A child that says how well adapters know an answer: the mean loss of its tokens, in nats, for each adapter given.

Run as `python -m tests.integration.canary_loss BASE EXAMPLES.jsonl ADAPTER...`; prints one JSON list. Loads what
serving would load: the base's weights, the published adapter files, and the base's own chat template.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import peft
import torch
import transformers

from gaiad.learner.packing import TokenExample
from gaiad.learner.rendering import load_tokenizer, read_examples, tokenised

hub: Any = transformers
lora: Any = peft


def loss_of(model: Any, examples: Sequence[TokenExample]) -> float:
    """Nats an answer token, over all answers."""
    losses = []
    for one in examples:
        tokens = torch.tensor([[*one.prompt, *one.answer]])
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, len(one.prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(one.answer), reduction="none"))
    return float(torch.cat(losses).mean())


def main(base: str, path: str, *adapters: str) -> None:
    """Measure each adapter on its own fresh base."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(base)
    examples = [tokenised(one, tokenizer, 4096) for one in read_examples(path)]
    found = []
    for adapter in adapters:
        model = hub.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        found.append(loss_of(lora.PeftModel.from_pretrained(model, adapter).eval(), examples))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
