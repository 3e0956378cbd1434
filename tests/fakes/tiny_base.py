"""A base model small enough for every test: two random Llama layers, a byte-level tokenizer, a ChatML template.

Made from nothing but a seed: no hub, no download. transformers, PEFT and vLLM load it like a real one. Run as
`python -m tests.fakes.tiny_base FOLDER [TOKENIZER_FOLDER]`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from gaiad.curriculum import LoraSpec

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEXT = (
    'You select a tool. AVAILABLE TOOLS: read_file, write_file, web_search, list_dir. USER REQUEST: {"selected_tool":'
    ' "read_file", "params": {"path": "notes.txt"}, "reasoning": "as asked", "confidence": 0.9} Respond in JSON.'
)


def make_tokenizer(folder: Path) -> None:
    """Train a byte-level tokenizer on a few words and save it with a ChatML template."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    hub: Any = transformers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    wrapped = hub.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)


def make_tiny_base(
    folder: Path,
    *,
    tokenizer_from: Path | None = None,
    hidden: int = 128,
    layers: int = 2,
    seed: int = 0,
    spread: float = 0.02,
) -> Path:
    """Write the base model into `folder` and return it; the same seed gives the same weights.

    `spread` is that of the random weights. With little of it no LoRA can make the base sure of any token.
    """
    import torch
    import transformers

    hub: Any = transformers
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer_from is None:
        make_tokenizer(folder)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            if (tokenizer_from / name).is_file():
                shutil.copy(tokenizer_from / name, folder / name)
    tokenizer = hub.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(seed)
    config = hub.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=4096,
        initializer_range=spread,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = hub.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def adapted(folder: Path, lora: LoraSpec) -> Any:
    """The base in `folder` in float32, ready to be trained, with an adapter that is no fresh one.

    A fresh one's B is zero, which would hide errors in the gradient of A.
    """
    import torch

    from gaiad.learner import base as bases

    model = bases.add_lora(bases.load_base(str(folder), "cpu", quantisation="bf16").float(), lora)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


if __name__ == "__main__":
    make_tiny_base(Path(sys.argv[1]), tokenizer_from=Path(sys.argv[2]) if len(sys.argv) > 2 else None)
