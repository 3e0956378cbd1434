"""How much alike two requests are: what makes a repetition, and what would leak from one split into another.

The measure is the Jaccard index of 3-word shingles of the request, its values masked. Who may stand where is decided by
others. Reads no file and draws no random number.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gaiad.learner.example import Example, Message

REQUEST_MARK = "USER REQUEST:"
"""What stands before the user's own words in a tool selection request."""

_MASKS = (
    (re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)|`[^`]*`"), " quoted "),
    (re.compile(r"\S*[/\\]\S+|\b[\w-]+\.[a-z][a-z0-9]{0,4}\b"), " path "),
    (re.compile(r"\d+(?:[.,:]\d+)*"), " number "),
)
_WORD = re.compile(r"\w+")
_AROUND_VALUES = "\"'“”«»`.,;:!?()[] "

MANY = 1500
"""From this many examples on, pairs are looked for with MinHash."""
_BANDS, _MINHASH_SEED = 48, 20261

REPEATED = 0.8
"""From this likeness on, a request is taken for one that an exam asks, whichever adapter's it is."""

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Leak:
    """Two examples in different splits whose requests are too much alike; `jaccard` is 1 for the same request."""

    first_origin: str
    second_origin: str
    jaccard: float


def request_of(example: Example) -> str:
    """The user's own words: what follows the request mark up to a blank line, else the last user message whole."""
    users = [one.content for one in example.messages[:-1] if one.role == "user"]
    last = users[-1] if users else ""
    _, mark, rest = last.rpartition(REQUEST_MARK)
    return (rest.strip().split("\n\n", 1)[0] if mark else last).strip()


def setting_of(example: Example) -> tuple[str | None, tuple[Message, ...]]:
    """In what the user's own words were said: the stage, and the turns besides them, instructions apart."""
    turns = [one for one in example.messages[:-1] if one.role != "system"]
    last = max((at for at, one in enumerate(turns) if one.role == "user"), default=len(turns))
    return example.stage, (*turns[:last], *turns[last + 1 :])


def masked(request: str) -> str:
    """The request case-folded, with quoted strings, paths and numbers replaced by one word each."""
    text = request.casefold()
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return " ".join(_WORD.findall(text))


def values_in(request: str) -> Counter[str]:
    """What `masked` masks: the texts in quotes, paths and numbers of a request, case apart, each with how often."""
    text, found = request.casefold(), Counter[str]()
    for pattern, word in _MASKS:
        found.update(f"{word.strip()} {one.strip(_AROUND_VALUES)}" for one in pattern.findall(text))
        text = pattern.sub(" ", text)
    return found


def shingles(request: str) -> Shingles:
    """The 3-word shingles of the masked request; a shorter request is one shingle."""
    words = masked(request).split()
    if len(words) < 3:
        return frozenset({tuple(words)})
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(first: Shingles, second: Shingles) -> float:
    """Shared shingles over all shingles, 0..1."""
    return len(first & second) / len(first | second) if first or second else 1.0


def alike(first: Sequence[Example], second: Sequence[Example], threshold: float) -> Iterable[tuple[int, int, float]]:
    """Index pairs (one from each side) whose requests are at least `threshold` alike, with the likeness. Exact."""
    sets = [shingles(request_of(example)) for example in second]
    index: dict[Hashable, list[int]] = defaultdict(list)
    for position, one in enumerate(sets):
        for shingle in one:
            index[shingle].append(position)
    for here, example in enumerate(first):
        mine = shingles(request_of(example))
        shared = Counter(there for shingle in mine for there in index.get(shingle, ()))
        for there, count in shared.items():
            likeness = count / (len(mine) + len(sets[there]) - count)
            if likeness >= threshold:
                yield here, there, likeness


class Requests:
    """Requests that are known, to be asked whether another one is much like one of them. Exact."""

    def __init__(self, requests: Iterable[str] = ()) -> None:
        self._sets: list[Shingles] = []
        self._having: dict[Hashable, list[int]] = defaultdict(list)
        for one in requests:
            self.add(one)

    def add(self, request: str) -> None:
        """Know one more."""
        mine = shingles(request)
        for shingle in mine:
            self._having[shingle].append(len(self._sets))
        self._sets.append(mine)

    def has_like(self, request: str, threshold: float) -> bool:
        """Whether a known one is at least `threshold` like this one."""
        mine = shingles(request)
        shared = Counter(at for shingle in mine for at in self._having.get(shingle, ()))
        return any(count / (len(mine) + len(self._sets[at]) - count) >= threshold for at, count in shared.items())


def near_pairs(examples: Sequence[Example], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Index pairs within one sequence, the earlier first, that are at least `threshold` alike, with the likeness.

    Of many examples MinHash proposes the pairs, and the exact likeness decides; of few all are compared.
    """
    if len(examples) < MANY:
        for here, there, likeness in alike(examples, examples, threshold):
            if here < there:
                yield here, there, likeness
        return
    sets = [shingles(request_of(example)) for example in examples]
    for here, there in _proposed(sets):
        likeness = jaccard(sets[here], sets[there])
        if likeness >= threshold:
            yield here, there, likeness


def _proposed(sets: Sequence[Shingles]) -> list[tuple[int, int]]:
    """The pairs that share a band of their MinHash signatures, in order.

    With 48 bands of 4, one pair in 500,000 that are 0.7 alike is missed, and in practice none that is 0.8 alike.
    """
    from rensa import RMinHash, RMinHashLSH  # only where many are compared

    index = RMinHashLSH(threshold=0.7, num_perm=4 * _BANDS, num_bands=_BANDS)
    signatures = []
    for at, one in enumerate(sets):
        signature = RMinHash(num_perm=4 * _BANDS, seed=_MINHASH_SEED)
        signature.update([" ".join(shingle) for shingle in sorted(one)])
        index.insert(at, signature)
        signatures.append(signature)
    found = ((at, there) for at, signature in enumerate(signatures) for there in index.query(signature) if at < there)
    return sorted(set(found))


def leaks(first: Sequence[Example], second: Sequence[Example], threshold: float) -> tuple[Leak, ...]:
    """Every pair across two splits whose requests are the same or nearly so."""
    return tuple(
        Leak(f"{first[a].group} ({first[a].origin})", f"{second[b].group} ({second[b].origin})", likeness)
        for a, b, likeness in alike(first, second, threshold)
    )
