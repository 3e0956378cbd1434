"""The frozen base model with the adapter's trainable weights on it, as the training child uses it.

Loads, attaches and writes; it trains nothing and chooses no quantisation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file

from gaiad.curriculum import Json, LoraSpec, TrainingSpec
from gaiad.errors import TrainingError
from gaiad.learner import attention, flex
from gaiad.learner import device as devices
from gaiad.learner.base_shape import COUNTED
from gaiad.learner.fused import fuse
from gaiad.learner.losses import Layout
from gaiad.learner.protocol import Job

Model: TypeAlias = Any
hub: Any = transformers  # its own types say less than this


def load_base(folder: str, device: str, *, quantisation: str, by_blocks: bool = False) -> Model:
    """Load the frozen base from `folder` on `device`, quantised as said (`nf4` or `bf16`).

    `by_blocks` says that rows which share prefixes are attended to by blocks (`flex`), which `usable` allowed.
    """
    options: dict[str, Any] = {"attn_implementation": "sdpa"}
    if by_blocks:
        options["attn_implementation"] = flex.NAME
    elif device == "cpu" and layout_for(folder) == "prefix_shared":
        options["attn_implementation"] = attention.NAME
    if quantisation == "nf4":
        options["quantization_config"] = hub.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    base = hub.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        device_map={"": 0 if device == "cuda" else "cpu"},
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    base.requires_grad_(False)
    base.config.use_cache = False
    for module in base.modules():
        # bitsandbytes would repack weights for inference in the first validation; later backwards then silently give
        # no gradient through the base. The recipe's `check_gradients` holds it to this.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    devices.let_go()
    return base


def add_lora(base: Model, lora: LoraSpec) -> Model:
    """Put the trainable LoRA on the base."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_rslora=lora.rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        names = ", ".join(lora.target_modules)
        raise TrainingError(f"no LoRA fits {names} of this base: {error}", hint="see lora.target_modules") from error
    if model.device.type == "cpu":
        fuse(model)
    return model


def layout_for(folder: str) -> Layout:
    """Say whether this architecture can share prefixes: plain full attention that takes our mask as it is, and drops
    nothing.
    """
    config = hub.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    kinds = getattr(config, "layer_types", None)
    full = set(kinds) == {"full_attention"} if kinds else not getattr(config, "sliding_window", None)
    full = full and not getattr(config, "attention_dropout", 0.0)
    return "prefix_shared" if full and config.model_type in COUNTED else "padded"


def rotates_alike(folder: str) -> bool:
    """Say whether this base turns a column by its position alone, whatever other columns it is computed with."""
    config = hub.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return not {"dynamic", "longrope"} & _rope_types(getattr(config, "rope_parameters", None) or {})


def _rope_types(parameters: Mapping[str, Any]) -> set[str]:
    # Some bases have other ones in each kind of layer.
    kinds = [parameters, *(one for one in parameters.values() if isinstance(one, Mapping))]
    return {str(kind.get("rope_type")) for kind in kinds}


def trained_weights(model: Model) -> dict[str, torch.nn.Parameter]:
    """The weights that are learnt, by name, in the model's order."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def optimiser_for(model: Model, lora: LoraSpec, spec: TrainingSpec) -> torch.optim.AdamW:
    """AdamW over the adapter, the B matrices with their own learning rate where the spec says LoRA+."""
    sides: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
    for name, weight in trained_weights(model).items():
        sides["lora_B" in name and lora.plus_ratio != 1.0].append(weight)
    groups = [
        {"params": weights, "lr": rate, "full_rate": rate}
        for weights, rate in (
            (sides[False], spec.learning_rate),
            (sides[True], spec.learning_rate * lora.plus_ratio),
        )
        if weights
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay)


def adapter_state(model: Model) -> dict[str, torch.Tensor]:
    """The adapter's weights as they are served: in bf16, under PEFT's names, on the CPU."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: weight.detach().to("cpu", torch.bfloat16).contiguous() for name, weight in state.items()}


def write_adapter(weights: Mapping[str, torch.Tensor], job: Job) -> None:
    """Write exactly the two files that serving accepts, each renamed into place."""
    folder = Path(job.output_dir)
    config: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": Path(job.base_model).name,
        "r": job.lora.rank,
        "lora_alpha": job.lora.alpha,
        "lora_dropout": job.lora.dropout,
        "target_modules": [*sorted(job.lora.target_modules)],
        "bias": "none",
        "inference_mode": True,
    }
    if job.lora.rslora:
        config["use_rslora"] = True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), folder / "weights.partial", metadata={"format": "pt"})
        os.replace(folder / "weights.partial", folder / "adapter_model.safetensors")
        (folder / "config.partial").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(folder / "config.partial", folder / "adapter_config.json")
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the adapter could not be written: {error}",
            hint=f"make room at {folder}; the next run goes on from the end",
            of_data=False,
        ) from error


def check_gradients(model: Model) -> None:
    """Refuse to go on where backward silently gave the lowest adapted layers nothing."""
    adapted = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    gradients = [weight.grad for weight in adapted[: max(1, len(adapted) // 8)]]
    if not any(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients):
        raise TrainingError("no gradient reaches the lowest layers", hint="train with quantisation = bf16 instead")
