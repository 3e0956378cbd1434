"""What is too uniform in a train split: a template that leads, kinds or answers that are out of balance.

Says so in sentences, for whoever looks at the card before anything is trained; refuses nothing, since an owner's
material may be as it is for good reasons. That the shipped curricula give no ground for doubt is a test's claim.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from gaiad.learner.diversity import decided
from gaiad.learner.example import Example

MOST_OF_ONE_TEMPLATE = 0.05
"""The largest share of a source's examples that one template should make."""
_FEWEST = round(1 / MOST_OF_ONE_TEMPLATE)
MOST_TO_RAREST = 2.0
"""How many times as frequent as the rarest kind, or the rarest answer, the commonest should be."""


def doubts(train: Iterable[Example], sources: Iterable[str]) -> tuple[str, ...]:
    """Say what is uneven in each of the `sources`; what users said is none of them and is left alone."""
    mine: dict[str, list[Example]] = defaultdict(list)
    for one in train:
        mine[one.source].append(one)
    return tuple(f"{source}: {doubt}" for source in sources if mine[source] for doubt in _doubts(mine[source]))


def _doubts(examples: Sequence[Example]) -> Iterator[str]:
    count = len(examples)
    name, times = Counter(one.group for one in examples).most_common(1)[0]
    if times > 1 and times > MOST_OF_ONE_TEMPLATE * count:
        yield f"{times} of {count} examples are of one template, {name!r}; {MOST_OF_ONE_TEMPLATE:.0%} is the most"
    elif times > MOST_OF_ONE_TEMPLATE * count:
        yield f"of {count} examples each template makes {1 / count:.0%}, as there are fewer than {_FEWEST}"
    yield from _unbalanced("kinds", (one.stratum for one in examples))
    # How often no tool is right is the curriculum's choice, and no matter of balance among the tools.
    yield from _unbalanced("answers", (said for one in examples if (said := decided(one))))


def _unbalanced(what: str, named: Iterable[str]) -> Iterator[str]:
    counted = Counter(named).most_common()
    if counted and counted[0][1] > MOST_TO_RAREST * counted[-1][1]:
        (most, times), (least, few) = counted[0], counted[-1]
        yield f"the {what} are out of balance, {most!r} stands {times} times and {least!r} {few} times"
