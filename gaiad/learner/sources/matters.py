"""Matters of knowledge: a question, whether it can be known, what is true and what would be made up.

Draws them from the material in a seeded order, each at most once, whatever it is then used for: what an exam asks about
was not taught under another form. Reads no file.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gaiad.learner.sources.computed import CALENDAR, OPERATIONS
from gaiad.learner.sources.epistemic_material import Fact, Material, Registry


@dataclass(frozen=True, slots=True)
class Matter:
    """One question. `right` holds the deciding words of the answer, empty where it cannot be known.

    `truth` is the true sentence, or why there is none; `lures` are false or baseless sentences; `ground` is what the
    asker lays before the answerer. `key` names the template that it came from, `place` where that stands.
    """

    topic: str
    key: str
    place: str
    question: str
    truth: str
    lures: tuple[str, ...]
    right: str = ""
    ground: str = ""

    @property
    def knowable(self) -> bool:
        """Whether the question can be answered at all."""
        return bool(self.right)


class Pool:
    """All matters of a material, in an order that follows from the seed; what was taken does not come again."""

    def __init__(self, material: Material, seed: int) -> None:
        self._material = material
        self._seed = seed
        self._queues: dict[str, Iterator[Matter]] = {
            name: make(self._draw(name)) for name, make in self._makers().items()
        }
        self._facts = {topic: self._shuffled(topic, list(enumerate(facts))) for topic, facts in material.topics.items()}

    def _makers(self) -> dict[str, Callable[[random.Random], Iterator[Matter]]]:
        return {
            "arithmetic": lambda draw: self._computed(draw, calendar=False),
            "calendar": lambda draw: self._computed(draw, calendar=True),
            "document": self._told,
            "silent": self._untold,
            "registry": self._tools,
            "unlisted": self._unlisted,
            "invented": self._invented,
            "unknowable": self._unknowable,
            "missing": self._missing,
        }

    def take(self, topic: str) -> Matter | None:
        """The next matter of `topic`, or None where all are taken."""
        if topic == "world":
            found = self.of_one_topic(1)
            return found[1][0] if found else None
        return next(self._queues[topic], None)

    def of_one_topic(self, count: int) -> tuple[str, tuple[Matter, ...]] | None:
        """`count` facts of one topic, from where most are left, with its name; None where no topic has so many."""
        topic = max(self._facts, key=lambda name: len(self._facts[name]))
        if len(self._facts[topic]) < count:
            return None
        taken = [self._facts[topic].pop() for _ in range(count)]
        return topic, tuple(_of_fact("world", f"{topic}-{at}", f"facts/{topic}/{at}", fact) for at, fact in taken)

    def _draw(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/matters/{name}")

    def _shuffled(self, name: str, rows: list[tuple[int, Fact]]) -> list[tuple[int, Fact]]:
        self._draw(f"facts/{name}").shuffle(rows)
        return rows

    # --- what can be known ------------------------------------------------------------------------------------------

    def _computed(self, draw: random.Random, *, calendar: bool) -> Iterator[Matter]:
        templates = [
            (name, at, *row)
            for name, rows in self._material.computed.items()
            if (name in CALENDAR) == calendar
            for at, row in enumerate(rows)
        ]
        topic = "calendar" if calendar else "arithmetic"
        while templates:
            draw.shuffle(templates)
            for name, at, question, sentence in templates:
                one = OPERATIONS[name](draw, question)
                truth, *lures = (_capital(sentence.format(r=value)) for value in (one.right, *one.wrong))
                place = f"questions/computed/{name}/{at}"
                asked = _capital(question.format(**one.slots))
                yield Matter(topic, f"{name}-{at}", place, asked, truth, tuple(lures), one.right)

    def _told(self, draw: random.Random) -> Iterator[Matter]:
        for number in range(2):
            for at in _order(len(self._material.passages), draw):
                passage = self._material.passages[at]
                if number < len(passage.asks):
                    place = f"passages/{passage.name}/{number}"
                    yield _of_fact("document", passage.name, place, passage.asks[number], passage.text)

    def _tools(self, draw: random.Random) -> Iterator[Matter]:
        registry = self._material.registry
        while registry.tools:
            for at in _order(len(registry.tools), draw):
                name, _, task = registry.tools[at]
                ask = draw.randrange(len(registry.asks))
                question = registry.asks[ask].format(task=task)
                others = draw.sample([other for other in range(len(registry.tools)) if other != at], 4)
                is_there = draw.random() < 0.7
                listed = [*others[:3], at] if is_there else others
                wrong = tuple(f"{registry.tools[other][0]} is the tool for that." for other in others[:2])
                truth = f"{name} is the tool for that." if is_there else "None of these tools can do that."
                place = f"questions/registry/{name}"
                right = name if is_there else "none of these"
                ground = _listed(registry, listed, draw)
                yield Matter("registry", f"tool-{ask}-{name}", place, question, truth, wrong, right, ground)

    # --- what cannot ------------------------------------------------------------------------------------------------

    def _untold(self, draw: random.Random) -> Iterator[Matter]:
        for number in range(2):
            for at in _order(len(self._material.passages), draw):
                passage = self._material.passages[at]
                if number < len(passage.silent):
                    question, lure = passage.silent[number]
                    why = draw.choice(self._material.words["not_told"])
                    place = f"passages/{passage.name}/silent/{number}"
                    yield Matter("silent", passage.name, place, question, why, (lure,), ground=passage.text)

    def _unlisted(self, draw: random.Random) -> Iterator[Matter]:
        registry = self._material.registry
        while registry.tools:
            for at in _order(len(registry.tools), draw):
                name = registry.tools[at][0]
                ask = draw.randrange(len(registry.silent))
                question, lure, why = (text.format(tool=name) for text in registry.silent[ask])
                others = draw.sample([other for other in range(len(registry.tools)) if other != at], 3)
                ground = _listed(registry, [*others, at], draw)
                place = f"questions/registry/silent/{ask}"
                yield Matter("unlisted", f"unlisted-{ask}-{name}", place, question, why, (lure,), ground=ground)

    def _invented(self, draw: random.Random) -> Iterator[Matter]:
        rows = [
            (kind, name, at, ask)
            for kind in self._material.invented
            for name in kind.names
            for at, ask in enumerate(kind.asks)
        ]
        draw.shuffle(rows)
        # The kinds in turn, so that whoever takes a few gets something of each.
        for at in _in_turn([row[0].kind for row in rows]):
            kind, name, number, texts = rows[at]
            question, lure, why = (_capital(text.format(name=name)) for text in texts)
            place = f"questions/invented/{kind.kind}/{number}"
            yield Matter("invented", f"{kind.kind}-{number}", place, question, f"{why}.", (lure,))

    def _unknowable(self, draw: random.Random) -> Iterator[Matter]:
        for at in _order(len(self._material.unknowable), draw):
            kind, question, lure, why = self._material.unknowable[at]
            yield Matter("unknowable", f"{kind}-{at}", f"questions/unknowable/{at}", question, why, (lure,))

    def _missing(self, draw: random.Random) -> Iterator[Matter]:
        numbers = ("three", "eight", "twelve", "fifteen", "twenty-five", "forty", "sixty")
        for at in _order(len(self._material.missing), draw):
            question, lure, why = self._material.missing[at]
            asked = question.format(n=draw.choice(numbers))
            yield Matter("missing", f"missing-{at}", f"questions/missing/{at}", asked, why, (lure,))


def _of_fact(topic: str, key: str, place: str, fact: Fact, ground: str = "") -> Matter:
    lures = tuple(_capital(fact.statement.format(wrong)) for wrong in fact.wrong)
    truth = _capital(fact.statement.format(fact.right))
    return Matter(topic, key, place, fact.question, truth, lures, fact.right, ground)


def _listed(registry: Registry, chosen: Sequence[int], draw: random.Random) -> str:
    rows = [registry.tools[at] for at in chosen]
    draw.shuffle(rows)
    return "\n".join(f"{name}: {what}" for name, what, _ in rows)


def _order(count: int, draw: random.Random) -> list[int]:
    order = list(range(count))
    draw.shuffle(order)
    return order


def _in_turn(kinds: Sequence[str]) -> list[int]:
    """The places of `kinds`, ordered so that each kind comes once before any comes twice."""
    turn: Counter[str] = Counter()
    ranked = []
    for at, kind in enumerate(kinds):
        ranked.append((turn[kind], at))
        turn[kind] += 1
    return [at for _, at in sorted(ranked)]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
