"""The base model's shape as its `config.json` tells it, and what follows from it: how many weights lie where.

Counts for the trainer's plan of memory and for its share of the device's peak. Reads no file and loads nothing; what it
cannot count (mixtures of experts, models of several parts, other designs) it refuses rather than guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gaiad.curriculum import Json, LoraSpec
from gaiad.errors import Refuse

COUNTED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose layers are seven projections, two norms, and attention with grouped keys, and whose logits are the
head's product with the last hidden state.
"""

_PARTS = ("text_config", "num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class BaseShape:
    """A Llama-like decoder. `head_dim` is of queries and keys alike; `tied` where embedding and head are one matrix,
    `qk_norm` where each head's queries and keys are normed.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    qk_norm: bool = False

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def normed_heads(self) -> int:
        """Width of the queries and keys that are normed."""
        return self.queries + self.keys if self.qk_norm else 0

    @property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """Each projection of a layer: how wide what goes in and what comes out is."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def projection_weights(self) -> int:
        """Weights of all layers' projections: what quantising makes smaller, and each token is multiplied by."""
        return self.layers * sum(wide * out for wide, out in self.projections.values())

    @property
    def other_weights(self) -> int:
        """Embedding, head and norms: they stay in bf16."""
        tables = 1 if self.tied else 2
        return tables * self.vocabulary * self.hidden + (2 * self.layers + 1) * self.hidden

    @property
    def weights(self) -> int:
        """All weights of the base."""
        return self.projection_weights + self.other_weights

    def adapted(self, lora: LoraSpec) -> Mapping[str, tuple[int, int]]:
        """The projections that a LoRA lies on."""
        return {name: widths for name, widths in self.projections.items() if name in lora.target_modules}

    def lora_weights(self, lora: LoraSpec) -> int:
        """How many weights the adapter has."""
        return self.layers * lora.rank * sum(wide + out for wide, out in self.adapted(lora).values())


def base_shape(config: Mapping[str, Json]) -> BaseShape | Refuse:
    """Read the shape of a base out of its `config.json`, or say why it cannot be counted."""
    kind = config.get("model_type")
    if kind not in COUNTED or any(config.get(part) for part in _PARTS):
        return Refuse(
            f"a base of type {kind!r} is not one whose memory can be counted beforehand",
            f"it can for {', '.join(sorted(COUNTED))}",
        )
    heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    found = {
        "layers": _count(config, "num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": _count(config, "num_key_value_heads") or heads,
        "head_dim": _count(config, "head_dim") or (hidden // heads if heads else 0),
        "intermediate": _count(config, "intermediate_size"),
        "vocabulary": _count(config, "vocab_size"),
    }
    missing = sorted(name for name, value in found.items() if not value)
    if missing:
        return Refuse(f"the base's config.json does not say its {', '.join(missing)}", "use a complete config.json")
    return BaseShape(**found, tied=config.get("tie_word_embeddings") is True, qk_norm=kind == "qwen3")


def _count(config: Mapping[str, Json], key: str) -> int:
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0
