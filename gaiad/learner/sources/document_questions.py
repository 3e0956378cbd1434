"""Questions about a Markdown document whose answers stand in it, word for word.

Each passage is asked about in the kind that it bears and that the document has had least of: definitions, sections,
gaps, the order of steps, recitation, tables, code. Every question carries the place of its answer. Draws
only from the seed; reads no file.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gaiad.learner.sources.document_frames import FRAMES
from gaiad.learner.sources.passages import CODE, ITEMS, PROSE, STEPS, TABLE, Passage, Span, passages, quote_of

KINDS = tuple(FRAMES)
"""What can be asked: `definition`, `section`, `gap`, `order`, `recite`, `table`, `code`."""

_TERM = r"[^\W\d_][\w'’-]*(?: [\w'’()-]+){0,4}"
_MARKED_TERM = re.compile(rf"(?:\*\*|__)({_TERM})(?::(?:\*\*|__)|(?:\*\*|__)\s*(?::|—|–|-))\s+\S")
_LISTED_TERM = re.compile(r"`?([^\W\d_][\w'’-]*(?: [\w'’()-]+){0,2})`?(?::| —| –| -)\s+\S")
_SAID_TERM = re.compile(
    r"(?:(?:An?|The) ([^\W\d_][\w'’-]*(?: [\w'’-]+){0,3}?)|([^\W\d_][\w'’-]*(?: [\w'’-]+)?)) (?:is|are|means)"
    r" (?:an?|the|what|whatever|any)\b"
)
_NO_TERM = re.compile(
    r"(?:it|this|that|these|those|there|he|she|they|we|you|i|who|what|here|all|each|every|nothing|everything|if|when"
    r"|where|as|in|on|at|for|to|and|but|or|so|note|example|examples|its|their|his|her|my|our|your|now|then)",
    re.IGNORECASE,
)
_POINTERS = frozenset({"first", "second", "third", "last", "other", "one", "former", "latter"})
_WORD = re.compile(r"[^\W\d_]{5,}(?:-[^\W\d_]+)*")
_MARKUP = re.compile(r"[`<>\[\]|*_]|https?:")
_LEAST_WORDS = 6
_GAP = "____"
_SPARE = 4
"""How many passages are looked at for each question wanted, since not every one bears a question."""
_TURNS = {STEPS: 2, TABLE: 2}
"""What has many places to ask for is asked twice; everything else is asked about once."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, the passages that it is asked about as they are written, and its answer with the place of it.

    `passage` is where what it is asked about begins; questions that share it belong together. `section` is where the
    heading of the part that holds it begins.
    """

    kind: str
    text: str
    reference: str
    answer: str
    span: Span
    passage: int
    section: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the kinds ask with: the text, the passage, the next passage under another heading, a seeded draw.

    `section` is where the part of the document that the passage stands in begins.
    """

    text: str
    passage: Passage
    section: int
    other: Passage | None
    draw: random.Random

    def quote(self, span: Span) -> str:
        return quote_of(self.text, span)

    def said(self, kind: str, span: Span, *, reference: str = "", answer: str = "", **words: str) -> Question:
        frame = self.draw.choice(FRAMES[kind])
        shown = reference or _shown(self.text, self.passage)
        place = self.passage.whole.start
        return Question(kind, frame.format(**words), shown, answer or self.quote(span), span, place, self.section)


_Ask: TypeAlias = Callable[[_Asked], "Question | None"]


def questions(text: str, *, seed: str, longest: int, most: int, kinds: Sequence[str] = KINDS) -> tuple[Question, ...]:
    """Ask about every passage of a document in these kinds, or about `most` of them spread over it.

    `longest` is the length of what is shown with a question, in characters.
    """
    found = passages(text, longest // 2)
    sections = _sections(found)
    had: Counter[str] = Counter()
    asked: list[Question] = []
    taken: set[int] = set()
    # Of a long document only a part is asked about, and only that part costs anything.
    step = max(1, len(found) // (most * _SPARE))
    for at in range(0, len(found), step):
        passage = found[at]
        if at in taken:
            continue
        other_at = _under_another_heading(found, at)
        other = found[other_at] if other_at is not None else None
        places: set[Span] = set()
        for turn in range(_TURNS.get(passage.shape, 1)):
            draw = random.Random(f"{seed}/{passage.whole.start}/{turn}")
            candidates = [
                one for one in _candidates(_Asked(text, passage, sections[at], other, draw)) if one.kind in kinds
            ]
            chosen = min(candidates, key=lambda one: had[one.kind], default=None)
            if chosen is None or chosen.span in places:
                continue
            had[chosen.kind] += 1
            asked.append(chosen)
            places.add(chosen.span)
            if chosen.kind == "section" and other_at is not None:
                taken.add(other_at)
    return tuple(_spread(asked, most))


def _sections(found: Sequence[Passage]) -> list[int]:
    """Where each passage's part of the document begins: the parts below its only title, or else below the outermost
    headings.
    """
    titles = {passage.headings[0] for passage in found if passage.headings}
    depth = 1 if len(titles) == 1 else 0
    below = [passage.headings[: depth + 1] for passage in found]
    return [headings[-1].start if headings else 0 for headings in below]


def _under_another_heading(found: Sequence[Passage], at: int) -> int | None:
    for place in range(at + 1, len(found)):
        headings = found[place].headings
        if headings and found[place].shape == PROSE and headings != found[at].headings:
            return place
    return None


def _spread(asked: Sequence[Question], most: int) -> Iterator[Question]:
    if len(asked) <= most:
        yield from asked
        return
    for turn in range(most):
        yield asked[turn * len(asked) // most]


def _candidates(asked: _Asked) -> list[Question]:
    """One question of each kind that the passage bears, the rarer kinds first."""
    return [found for kind in _KINDS_OF[asked.passage.shape] if (found := _ASK[kind](asked)) is not None]


def _shown(text: str, passage: Passage) -> str:
    """The passage as it is written, from the mark of its first item or the edge of its table on."""
    start, end = passage.whole.start, passage.whole.end
    if passage.shape in (ITEMS, STEPS, TABLE):
        start = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    if passage.shape == TABLE:
        end += len(re.match(r"[^\r\n]*", text[end:])[0])  # type: ignore[index]  # it always matches
    if passage.shape == PROSE:
        return quote_of(text, passage.whole)
    lines = [line.rstrip() for line in text[start:end].splitlines()]
    return "\n".join(line for line in lines if line) if passage.shape != CODE else "\n".join(lines)


# --- The kinds --------------------------------------------------------------------------------------------------


def _definition(asked: _Asked) -> Question | None:
    pieces = list(asked.passage.pieces)
    asked.draw.shuffle(pieces)
    for piece in pieces:
        term = _defined(asked.quote(piece), listed=asked.passage.shape == ITEMS)
        if term:
            return asked.said("definition", piece, term=term)
    return None


def _defined(sentence: str, *, listed: bool) -> str | None:
    """The term that a sentence says the meaning of, or None."""
    found = _MARKED_TERM.match(sentence) or (_LISTED_TERM.match(sentence) if listed else None)
    found = found or _SAID_TERM.match(sentence)
    term = next((one for one in found.groups() if one), "") if found else ""
    words = term.split()
    if len(sentence.split()) < _LEAST_WORDS or {word.casefold() for word in words} <= _POINTERS:
        return None
    if any(_NO_TERM.fullmatch(word) for word in words):
        return None
    return term


def _section(asked: _Asked) -> Question | None:
    """Two passages under different headings, and a word that only one of them has: which heading is it under?"""
    other, passage = asked.other, asked.passage
    if other is None or not passage.headings or passage.headings[-1] == other.headings[-1]:
        return None
    pair = [(passage, _shown(asked.text, passage)), (other, _shown(asked.text, other))]
    names = [asked.quote(one.headings[-1]) for one, _ in pair]
    if names[0] == names[1]:
        return None
    right = asked.draw.randrange(2)
    elsewhere = f"{pair[1 - right][1]} {' '.join(names)}".casefold()
    if min(len(shown.split()) for _, shown in pair) < _LEAST_WORDS:
        return None
    words = [word for word in _WORD.findall(pair[right][1]) if word.casefold() not in elsewhere]
    if not words:
        return None
    reference = "\n\n".join(f"{name}\n{shown}" for name, (_, shown) in zip(names, pair, strict=True))
    span = pair[right][0].headings[-1]
    return asked.said("section", span, reference=reference, word=asked.draw.choice(_telling(words)))


def _gap(asked: _Asked) -> Question | None:
    """A sentence with one word left out, a word that stands in it only once and nowhere near its beginning."""
    spans = [one for one in asked.passage.pieces if _plain(asked.quote(one))]
    asked.draw.shuffle(spans)
    for span in spans:
        raw = asked.text[span.start : span.end]
        counts = Counter(word.casefold() for word in re.findall(r"\w+", raw))
        places = [one for one in _WORD.finditer(raw) if one.start() and counts[one[0].casefold()] == 1]
        if places:
            longest = set(_telling([one[0] for one in places]))
            word = asked.draw.choice([one for one in places if one[0] in longest])
            left = " ".join(f"{raw[: word.start()]}{_GAP}{raw[word.end() :]}".split())
            place = Span(span.start + word.start(), span.start + word.end())
            return asked.said("gap", place, sentence=left)
    return None


def _telling(words: Sequence[str]) -> list[str]:
    """The longer half of the words, which in most languages says more than the shorter one."""
    ordered = sorted(dict.fromkeys(words), key=lambda word: (-len(word), word))
    return ordered[: (len(ordered) + 1) // 2]


def _plain(sentence: str) -> bool:
    return len(sentence.split()) >= _LEAST_WORDS and not _MARKUP.search(sentence)


def _order(asked: _Asked) -> Question | None:
    """What comes before or after a step, or first or last."""
    steps = asked.passage.pieces
    if len({asked.quote(one) for one in steps}) < max(3, len(steps)):
        return None
    at = asked.draw.randrange(len(steps))
    after = at + 1 < len(steps) and (at == 0 or asked.draw.random() < 0.6)
    there = steps[at + 1] if after else steps[at - 1]
    side = "after" if after else "before"
    return asked.said("order", there, side=side, other="before" if after else "after", step=asked.quote(steps[at]))


def _recite(asked: _Asked) -> Question | None:
    """A sentence by its first words, which no other sentence shown begins with."""
    quotes = {span: asked.quote(span) for span in asked.passage.pieces}
    spans = [span for span, quote in quotes.items() if len(quote.split()) >= _LEAST_WORDS]
    asked.draw.shuffle(spans)
    for span in spans:
        opening = " ".join(quotes[span].split()[:3]).rstrip(",;:")
        if sum(quote.startswith(opening) for quote in quotes.values()) == 1:
            return asked.said("recite", span, opening=opening)
    return None


def _table(asked: _Asked) -> Question | None:
    """A cell, by the head of its column and the first cell of its row."""
    passage = asked.passage
    rows = [passage.pieces[at : at + passage.columns] for at in range(0, len(passage.pieces), passage.columns)]
    firsts = Counter(asked.quote(row[0]) for row in rows)
    named = [row for row in rows[1:] if firsts[asked.quote(row[0])] == 1]
    if not named:
        return None
    row, column = asked.draw.choice(named), asked.draw.randrange(1, passage.columns)
    names = {"row": asked.quote(row[0]), "column": asked.quote(rows[0][column])}
    return asked.said("table", row[column], **names)


def _code(asked: _Asked) -> Question | None:
    """The code below a heading, as it stands."""
    if not asked.passage.headings:
        return None
    span = asked.passage.whole
    heading = asked.quote(asked.passage.headings[-1])
    return asked.said("code", span, answer=_shown(asked.text, asked.passage), heading=heading)


_ASK: dict[str, _Ask] = {
    "definition": _definition,
    "section": _section,
    "gap": _gap,
    "order": _order,
    "recite": _recite,
    "table": _table,
    "code": _code,
}
_KINDS_OF: dict[str, tuple[str, ...]] = {
    PROSE: ("definition", "section", "gap", "recite"),
    ITEMS: ("definition", "gap", "recite"),
    STEPS: ("order",),
    TABLE: ("table",),
    CODE: ("code",),
}
