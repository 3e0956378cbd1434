"""Matters of knowledge: a question, whether it can be known, what is true and what would be made up.

Draws them from the material in a seeded order, each at most once, whatever it is then used for. A passage or a template
that several can be made from goes to one use alone, so that no split learns what another one's exam is made of. Reads
no file.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gaiad.learner.sources.computed import CALENDAR, OPERATIONS
from gaiad.learner.sources.epistemic_material import Fact, Material, Registry

_USES = {"arithmetic": 8, "calendar": 6, "document": 12, "silent": 12, "registry": 2, "unlisted": 2}
"""Among how many uses the passages and templates of a topic are divided."""
_LISTED = 0.7
"""How often a tool that is asked for stands in the list."""


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
        self._makers: dict[str, Callable[[random.Random], Iterator[Matter]]] = {
            "arithmetic": lambda draw: self._computed("arithmetic", draw),
            "calendar": lambda draw: self._computed("calendar", draw),
            "document": self._told,
            "silent": self._untold,
            "registry": self._tools,
            "unlisted": self._unlisted,
            "invented": self._invented,
            "unknowable": self._unknowable,
            "missing": self._missing,
        }
        self._queues: dict[tuple[str, str], Iterator[Matter]] = {}
        self._unclaimed = {name: self._shuffled(name, count) for name, count in self._places().items()}
        self._facts = {topic: self._shuffled(topic, len(facts)) for topic, facts in material.topics.items()}

    def _places(self) -> dict[str, int]:
        """How many passages or templates there are of each name."""
        names = [_topic_of(name) for name, rows in self._material.computed.items() for _ in rows]
        registry = self._material.registry
        asks = {"registry": len(registry.asks), "unlisted": len(registry.silent)}
        return {**Counter(names), "passages": len(self._material.passages), **asks}

    def take(self, topic: str, use: str) -> Matter | None:
        """The next matter of `topic` for `use`, or None where all that this use may have are taken."""
        if topic == "world":
            found = self.of_one_topic(1)
            return found[1][0] if found else None
        key = (topic, use if topic in _USES else "")
        if key not in self._queues:
            self._queues[key] = self._makers[topic](self._draw("/".join(key)))
        return next(self._queues[key], None)

    def of_one_topic(self, count: int) -> tuple[str, tuple[Matter, ...]] | None:
        """`count` facts of one topic, from where most are left, with its name; None where no topic has so many."""
        topic = max(self._facts, key=lambda name: len(self._facts[name]))
        if len(self._facts[topic]) < count:
            return None
        taken = [self._facts[topic].pop() for _ in range(count)]
        facts = self._material.topics[topic]
        return topic, tuple(_of_fact("world", f"{topic}-{at}", f"facts/{topic}/{at}", facts[at]) for at in taken)

    def _claimed(self, topic: str, among: str) -> list[int]:
        """The places of the passages or templates that one use of `topic` has for itself."""
        places = self._unclaimed.get(among, [])
        count = max(1, self._places().get(among, 0) // _USES[topic])
        mine, self._unclaimed[among] = places[:count], places[count:]
        return mine

    def _draw(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/matters/{name}")

    def _shuffled(self, name: str, count: int) -> list[int]:
        return _order(count, self._draw(f"order/{name}"))

    # --- what can be known ------------------------------------------------------------------------------------------

    def _computed(self, topic: str, draw: random.Random) -> Iterator[Matter]:
        templates = [
            (name, at, *row)
            for name, rows in self._material.computed.items()
            if _topic_of(name) == topic
            for at, row in enumerate(rows)
        ]
        mine = [templates[at] for at in self._claimed(topic, topic)]
        while mine:
            draw.shuffle(mine)
            for name, at, question, sentence in mine:
                one = OPERATIONS[name](draw, question)
                truth, *lures = (_capital(sentence.format(r=value)) for value in (one.right, *one.wrong))
                place = f"questions/computed/{name}/{at}"
                asked = _capital(question.format(**one.slots))
                yield Matter(topic, f"{name}-{at}", place, asked, truth, tuple(lures), one.right)

    def _told(self, _: random.Random) -> Iterator[Matter]:
        for passage in [self._material.passages[at] for at in self._claimed("document", "passages")]:
            for number, fact in enumerate(passage.asks):
                yield _of_fact("document", passage.name, f"passages/{passage.name}/{number}", fact, passage.text)

    def _tools(self, draw: random.Random) -> Iterator[Matter]:
        registry, mine = self._material.registry, self._claimed("registry", "registry")
        for at in _order(len(registry.tools), draw) if mine else ():
            name, _, task = registry.tools[at]
            ask = draw.choice(mine)
            others = draw.sample([other for other in range(len(registry.tools)) if other != at], 4)
            is_there = draw.random() < _LISTED
            listed = [*others[:3], at] if is_there else others
            lures = [f"{registry.tools[other][0]} is the tool for that." for other in others[:2]]
            truth = f"{name} is the tool for that." if is_there else "None of these tools can do that."
            yield Matter(
                "registry",
                f"tool-{ask}",
                f"questions/registry/{name}",
                registry.asks[ask].format(task=task),
                truth,
                tuple(lures),
                name if is_there else "none of these",
                _listed(registry, listed, draw),
            )

    # --- what cannot ------------------------------------------------------------------------------------------------

    def _untold(self, draw: random.Random) -> Iterator[Matter]:
        for passage in [self._material.passages[at] for at in self._claimed("silent", "passages")]:
            for number, (question, lure) in enumerate(passage.silent):
                why = draw.choice(self._material.words["not_told"])
                place = f"passages/{passage.name}/silent/{number}"
                yield Matter("silent", passage.name, place, question, why, (lure,), ground=passage.text)

    def _unlisted(self, draw: random.Random) -> Iterator[Matter]:
        registry, mine = self._material.registry, self._claimed("unlisted", "unlisted")
        for at in _order(len(registry.tools), draw) if mine else ():
            name = registry.tools[at][0]
            ask = draw.choice(mine)
            question, lure, why = (text.format(tool=name) for text in registry.silent[ask])
            others = draw.sample([other for other in range(len(registry.tools)) if other != at], 3)
            ground = _listed(registry, [*others, at], draw)
            place = f"questions/registry/silent/{ask}"
            yield Matter("unlisted", f"unlisted-{ask}", place, question, why, (lure,), ground=ground)

    def _invented(self, draw: random.Random) -> Iterator[Matter]:
        """Each way to ask once, about a name that no other question of its kind uses as long as there are enough."""
        asks: list[tuple[str, int, str, tuple[str, str, str]]] = []
        for kind in self._material.invented:
            names = draw.sample(kind.names, len(kind.names))
            asks += [(kind.kind, at, names[at % len(names)], ask) for at, ask in enumerate(kind.asks)]
        draw.shuffle(asks)
        # The kinds in turn, so that whoever takes a few gets something of each.
        for at in _in_turn([ask[0] for ask in asks]):
            named, number, name, texts = asks[at]
            question, lure, why = (_capital(text.format(name=name)) for text in texts)
            place = f"questions/invented/{named}/{number}"
            yield Matter("invented", f"{named}-{number}", place, question, f"{why}.", (lure,))

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


def _topic_of(operation: str) -> str:
    return "calendar" if operation in CALENDAR else "arithmetic"


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
