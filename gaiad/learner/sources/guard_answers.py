"""Answers that say how far they can be trusted: known or not, plain or declined, weighed, and worded to their ground.

Every form follows from a matter or a scenario whose truth is known; the rejected answer is the other way to go wrong:
certainty without ground, or doubt without need. Draws from a seed and reads no file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gaiad.curriculum import Json
from gaiad.learner.example import Message
from gaiad.learner.sources.epistemic_material import Evidence, Material, Wording, Words
from gaiad.learner.sources.matters import Matter, Pool

DO_NOT_KNOW = "I don't know"
"""What an admission says in these words, wherever an exam looks for one."""

KNOWABLE = ("arithmetic", "world", "document", "calendar", "registry")
UNKNOWABLE = ("invented", "unknowable", "silent", "missing", "invented", "unlisted")

_EXACT, _ABSENT = 0.95, 0.05
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Formed:
    """One request with its answer, what an exam expects of it, and the answer that would be wrong.

    `contrast` names the set of those that say the same on different grounds, empty where it stands alone.
    """

    key: str
    place: str
    messages: tuple[Message, ...]
    answer: str
    expected: Mapping[str, Json]
    rejected: str | None = None
    schema: Mapping[str, Json] | None = None
    contrast: str = ""


Stratum = Callable[[], Iterator[Formed]]
"""Makes the examples of one kind and one verdict, as many as the material gives."""


class Answers:
    """The forms in which a question is answered or declined."""

    def __init__(self, material: Material, pool: Pool, seed: int) -> None:
        self._material = material
        self._pool = pool
        self._words = material.words
        self._seed = seed

    def strata(self) -> dict[str, Stratum]:
        """Each kind and verdict by name."""
        return {
            "known.yes": lambda: self._known(KNOWABLE, "known.yes"),
            "known.no": lambda: self._known(UNKNOWABLE, "known.no"),
            "plain.answer": lambda: self._plain(KNOWABLE, "plain.answer"),
            "plain.admission": lambda: self._plain(UNKNOWABLE, "plain.admission"),
            "basis.exact": lambda: self._basis("exact"),
            "basis.partial": lambda: self._basis("partial"),
            "basis.absent": lambda: self._basis("absent"),
            "wording.fits": lambda: self._wording("fits"),
            "wording.overclaims": lambda: self._wording("overclaims"),
            "wording.underclaims": lambda: self._wording("underclaims"),
        }

    def _known(self, topics: Sequence[str], name: str) -> Iterator[Formed]:
        for number, matter in enumerate(taken(self._pool, topics, name)):
            draw = random.Random(f"{self._seed}/{name}/{number}")
            overclaim = f"KNOWN: yes\nANSWER: {draw.choice(matter.lures)}"
            if matter.knowable:
                answer = f"KNOWN: yes\nANSWER: {matter.truth}"
                expected: dict[str, Json] = {"lines": {"KNOWN": "yes"}, "contains": [matter.right]}
                underclaim = f"KNOWN: no\nANSWER: {draw.choice(self._words['needless_doubts'])}"
                rejected = underclaim if number % 2 else overclaim
            else:
                said = draw.choice(self._words["refusals_to_guess"]).format(why=matter.truth)
                answer, expected, rejected = f"KNOWN: no\nANSWER: {said}", {"lines": {"KNOWN": "no"}}, overclaim
            messages = self._asked("known", asked(matter, self._words, draw), draw)
            yield Formed(matter.key, matter.place, messages, answer, expected, rejected)

    def _plain(self, topics: Sequence[str], name: str) -> Iterator[Formed]:
        for number, matter in enumerate(taken(self._pool, topics, name)):
            draw = random.Random(f"{self._seed}/{name}/{number}")
            if matter.knowable:
                doubt = f"{DO_NOT_KNOW}. {draw.choice(self._words['needless_doubts'])}"
                answer, rejected = matter.truth, doubt if number % 2 else draw.choice(matter.lures)
                expected: dict[str, Json] = {"contains": [matter.right], "lacks": [DO_NOT_KNOW]}
            else:
                answer, expected = admission(matter, self._words, draw), {"contains": [DO_NOT_KNOW]}
                rejected = f"{draw.choice(matter.lures)} {draw.choice(self._words['boasts'])}"
            messages = self._asked("plain", asked(matter, self._words, draw), draw)
            yield Formed(matter.key, matter.place, messages, answer, expected, rejected)

    def _basis(self, basis: str) -> Iterator[Formed]:
        for one in _shuffled(self._material.evidence, f"{self._seed}/basis/{basis}"):
            (given, said), share = _weighed(one, basis)
            confidence = f"{share:.2f}".rstrip("0")
            answer = f"BASIS: {basis}\nCONFIDENCE: {confidence}\nANSWER: {said}"
            # The wrong answer takes the possible for certain, and the certain for merely possible.
            other = f"partial\nCONFIDENCE: {one.share:.2f}" if basis == "exact" else f"exact\nCONFIDENCE: {_EXACT:.2f}"
            rejected = f"BASIS: {other.rstrip('0')}\nANSWER: {one.partial[1] if basis == 'exact' else one.exact[1]}"
            expected: dict[str, Json] = {"lines": {"BASIS": basis, "CONFIDENCE": confidence}}
            draw = random.Random(f"{self._seed}/basis/{basis}/{one.name}")
            messages = self._asked("basis", f"EVIDENCE: {given}\nQUESTION: {one.question}", draw)
            place, contrast = f"grounds/basis/{one.name}/{basis}", f"basis/{one.name}"
            yield Formed(one.name, place, messages, answer, expected, rejected, contrast=contrast)

    def _wording(self, verdict: str) -> Iterator[Formed]:
        for number, one in enumerate(_shuffled(self._material.wordings, f"{self._seed}/wording/{verdict}")):
            ground, sentence, better = _phrased(one, verdict, strong=number % 2 == 0)
            kept = "as it stands"
            answer = f"PHRASING: {verdict}\nBETTER: {better or kept}"
            other = one.hedged if sentence == one.sure else one.sure
            wrong = "overclaims" if sentence == one.sure else "underclaims"
            rejected = f"PHRASING: {wrong}\nBETTER: {other}"
            if better:
                # Taken for fitting, or for wrong in the other direction.
                opposite = "underclaims" if verdict == "overclaims" else "overclaims"
                taken_for = ("fits", kept) if number % 2 else (opposite, sentence)
                rejected = f"PHRASING: {taken_for[0]}\nBETTER: {taken_for[1]}"
            draw = random.Random(f"{self._seed}/wording/{verdict}/{one.name}")
            messages = self._asked("wording", f"GROUND: {ground}\nSENTENCE: {sentence}", draw)
            place = f"grounds/wording/{one.name}/{verdict}"
            expected: dict[str, Json] = {"lines": {"PHRASING": verdict}}
            yield Formed(one.name, place, messages, answer, expected, rejected, contrast=f"wording/{one.name}")

    def _asked(self, form: str, user: str, draw: random.Random) -> tuple[Message, ...]:
        return Message("system", draw.choice(self._words[f"systems.{form}"])), Message("user", user)


def taken(pool: Pool, topics: Sequence[str], use: str) -> Iterator[Matter]:
    """Matters of the topics in turn for one use, until all of them are used up."""
    left = [*topics]
    while left:
        for topic in [*left]:
            matter = pool.take(topic, use)
            if matter is None:
                left.remove(topic)
            else:
                yield matter


def asked(matter: Matter, words: Words, draw: random.Random) -> str:
    """The question as a person puts it, behind what is laid before the answerer."""
    if not matter.ground:
        return matter.question
    shown = f"Tools:\n{matter.ground}" if "\n" in matter.ground else matter.ground
    note = shown if "\n" in matter.ground else draw.choice(words["notes"]).format(ground=shown)
    return f"{note}\n\n{matter.question}"


def admission(matter: Matter, words: Words, draw: random.Random) -> str:
    """An "I don't know" with its reason."""
    return draw.choice(words["admissions"]).format(why=matter.truth)


def _weighed(one: Evidence, basis: str) -> tuple[tuple[str, str], float]:
    """The evidence with its answer, and how likely that is right."""
    if basis == "partial":
        return one.partial, one.share
    return (one.exact, _EXACT) if basis == "exact" else (one.absent, _ABSENT)


def _phrased(one: Wording, verdict: str, *, strong: bool) -> tuple[str, str, str]:
    """Ground, sentence, and the better sentence (empty where it fits, which it does on either ground)."""
    if verdict == "fits":
        return (one.strong, one.sure, "") if strong else (one.weak, one.hedged, "")
    return (one.weak, one.sure, one.hedged) if verdict == "overclaims" else (one.strong, one.hedged, one.sure)


def _shuffled(rows: Sequence[_Row], seed: str) -> list[_Row]:
    order = [*rows]
    random.Random(seed).shuffle(order)
    return order
