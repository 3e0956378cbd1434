"""Under which sampling a reply was asked for: the numbers of a request, in any of its forms, as the engine got them."""

from __future__ import annotations

from gaiad.proxy.body import Fields, value_of

_NAMES = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "n", "best_of"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"),
    *("logprobs", "top_logprobs", "prompt_logprobs", "truncate_prompt_tokens", "use_beam_search"),
)


def sampling_of(fields: Fields) -> dict[str, float]:
    """What is named and is a number (or yes or no); what is not named is as the engine has it by default."""
    named = {name: value_of(fields, name) for name in _NAMES if name in fields}
    return {name: value for name, value in named.items() if isinstance(value, int | float)}
