"""Log-probabilities without a model: a number for each token that follows from an adapter's weights and what precedes.

The fake engines and the fake parity child share it, so that the same weights give the same figures on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.vllm_forms import counted

OTHER = "the weights of another version"


def mark_of(folder: Path | str | None) -> str:
    """What tells an adapter's weights from others: their digest; without a folder nothing."""
    if folder is None:
        return ""
    weights = Path(folder) / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else str(folder)


def log_probs_of(mark: str, tokens: Sequence[int]) -> list[float]:
    """A number of nats from -4 to 0 for each token but the first."""
    rolling = hashlib.sha256(mark.encode())
    found = []
    for at, token in enumerate(tokens):
        rolling.update(f" {token}".encode())
        if at:
            found.append(-int.from_bytes(rolling.digest()[:2], "big") / 16384)
    return found


def forced_log_prob(mark: str, before: Sequence[int], token: int) -> dict[str, Any]:
    """The same of one token that a completion is made to say, in vLLM's form."""
    said = [f"token_id:{token}"]
    given = log_probs_of(mark, [*before, token])[-1:]
    return {"text_offset": [0], "token_logprobs": given, "tokens": said, "top_logprobs": [{said[0]: given[0]}]}


def prompt_tokens(messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The tokens that the fake engine makes of a chat."""
    found = counted("/tokenize", {"messages": [dict(one) for one in messages]}, "")
    assert found is not None
    tokens: list[int] = found["tokens"]
    return tokens
