"""How varied examples are: words, phrases, templates and what they are about, source by source.

Measures only; what is too uniform to be learned from is decided by whoever reads the figures.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from gaiad.curriculum import Json
from gaiad.learner.dataset import Example, request_of

_LONGEST_VERDICT = 24
"""Characters."""


@dataclass(frozen=True, slots=True)
class Diversity:
    """Figures of one source's requests; shares and ratios are 0..1 but for `balance`.

    `distinct_1` and `distinct_2` are different words and word pairs over all of them (Li et al. 2016, arXiv
    1510.03055); `compression` is the size of all requests after zlib over the size before (the higher the more varied;
    Shaib et al. 2024, arXiv 2403.00553). `template_share` is the commonest group's share. `balance` is how many times
    the commonest stratum is as large as the rarest, `answer_balance` the same of what the answers decide (tool, label,
    verdict), 0 where they decide nothing.
    """

    examples: int
    distinct_1: float
    distinct_2: float
    compression: float
    template_share: float
    balance: float
    answer_balance: float
    strata: int
    templates: int

    def to_json(self) -> dict[str, Json]:
        """The figures as JSON, rounded to what can be compared."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def diversity(examples: Sequence[Example]) -> Diversity:
    """Measure a set of examples; none at all gives zeros."""
    words = [request_of(example).casefold().split() for example in examples]
    groups = Counter(example.group for example in examples)
    strata = Counter(example.stratum for example in examples)
    text = "\n".join(" ".join(one) for one in words).encode()
    return Diversity(
        examples=len(examples),
        distinct_1=_distinct([word] for one in words for word in one),
        distinct_2=_distinct([first, second] for one in words for first, second in pairwise(one)),
        compression=len(zlib.compress(text, 9)) / len(text) if text else 0.0,
        template_share=max(groups.values(), default=0) / max(1, len(examples)),
        balance=_balance(strata),
        answer_balance=_balance(Counter(said for one in examples if (said := decided(one)) is not None)),
        strata=len(strata),
        templates=len(groups),
    )


def decided(example: Example) -> str | None:
    """What the answer decides: the tool, the label, the first line or a field of few values; None for prose."""
    expected = example.expected or {}
    for form in ("selected_tool", "label"):
        if form in expected:
            return str(expected[form])
    fields, lines = expected.get("fields"), expected.get("lines")
    if isinstance(fields, dict):
        return next((str(value) for name, value in fields.items() if _has_few_values(example.schema, name)), None)
    if isinstance(lines, dict) and lines:
        first = str(next(iter(lines.values())))
        # What is longer is no verdict but text.
        return first if len(first) <= _LONGEST_VERDICT else None
    return None


def _has_few_values(schema: Mapping[str, Json] | None, name: str) -> bool:
    properties = (schema or {}).get("properties")
    said = properties.get(name) if isinstance(properties, dict) else None
    return isinstance(said, dict) and ("enum" in said or said.get("type") == "boolean")


def by_source(examples: Iterable[Example]) -> dict[str, Diversity]:
    """The figures of each source, by name."""
    sources: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        sources[example.source].append(example)
    return {name: diversity(sources[name]) for name in sorted(sources)}


def _balance(counted: Counter[str]) -> float:
    return max(counted.values()) / min(counted.values()) if counted else 0.0


def _distinct(grams: Iterable[list[str]]) -> float:
    counted = Counter(tuple(gram) for gram in grams)
    return len(counted) / counted.total() if counted else 0.0
