"""The two things that a base is asked for its own training: other words for requests, and answers to general ones.

Each gives its questions, those left out that were answered before, and judges the answers, knowing what was kept so
far. Who asks, and where the answers go, is decided elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from gaiad.learner import paraphrase, self_reply
from gaiad.learner.example import Example, Message, sha_of
from gaiad.learner.likeness import Requests, request_of
from gaiad.learner.self_made import Made, Question, Said
from gaiad.learner.sources.open_prompts import OpenPrompt

ROUNDS = 8
"""How often one request may be asked for in other words, each time in another manner."""
LIKE_A_CURRICULUM = "a curriculum has a request like it"


class Proposing:
    """Other words for the requests of one curriculum."""

    def __init__(
        self, examples: Iterable[Example], originals: Sequence[paraphrase.Original], near: float, seed: int
    ) -> None:
        self._known = paraphrase.known_of(examples, near)
        self._originals = {one.key: one for one in originals}
        self._seed = seed

    def uses(self, row: Made) -> bool:
        """Whether it was kept, for a request that there still is."""
        return row.is_kept and row.of in self._originals

    def knows(self, rows: Iterable[Made]) -> None:
        """Take notice of what was kept before."""
        for row in rows:
            self._known.requests.add(row.text)

    def questions(self, done: frozenset[str]) -> Iterator[Question]:
        """All that may be asked but what is `done`, by their keys."""
        for turn, one in paraphrase.in_turn([*self._originals.values()], self._seed, ROUNDS):
            key = f"{one.key}/{turn}"
            if key not in done:
                messages = paraphrase.asking(one, turn)
                yield Question(key, one.key, one.group, one.request, messages, _drawn(self._seed, key))

    def judge(self, question: Question, said: Said) -> tuple[str, str | None]:
        """The text of an answer, and why it is refused; one that is not is known from now on."""
        text = paraphrase.proposed_text(said.text)
        reason = paraphrase.verdict(self._originals[question.of], text, said.finish_reason, self._known)
        if reason is None:
            self._known.requests.add(text)
        return text, reason


class Replying:
    """Answers to general requests that no curriculum has; `skipped` counts those that were not asked for that."""

    def __init__(self, examples: Iterable[Example], prompts: Iterable[OpenPrompt], near: float, seed: int) -> None:
        self._known = self_reply.Known(Requests(request_of(one) for one in examples), near, Requests())
        self._prompts, self._seed = prompts, seed
        self.skipped: Counter[str] = Counter()

    def uses(self, row: Made) -> bool:
        """Whether it was kept."""
        return row.is_kept

    def knows(self, rows: Iterable[Made]) -> None:
        """Take notice of what was kept before."""
        for row in rows:
            self._known.keeps(row.text)

    def questions(self, done: frozenset[str]) -> Iterator[Question]:
        """All that may be asked but what is `done`, by their keys."""
        for one in self._prompts:
            key = f"{one.key}/{sha_of(one.text)[:8]}"
            if key in done:
                continue
            if self._known.requests.has_like(one.text, self._known.near):
                self.skipped[LIKE_A_CURRICULUM] += 1
                continue
            yield Question(key, "", one.group, one.text, (Message("user", one.text),), _drawn(self._seed, key))

    def judge(self, question: Question, said: Said) -> tuple[str, str | None]:
        """The text of an answer, and why it is refused."""
        text = said.text.strip()
        reason = self_reply.verdict(question.request, text, said.finish_reason, self._known)
        if reason is None:
            self._known.keeps(text)
        return text, reason


def _drawn(seed: int, key: str) -> int:
    """The seed of one answer."""
    return int(sha_of([seed, key])[:8], 16) % 2**31
