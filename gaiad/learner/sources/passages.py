"""Markdown taken apart by structure: passages with their headings, each piece with its place in the text.

A library finds the blocks; sentences are cut here. Headings, paragraphs, lists, tables and code fences stay whole up to
a length, and longer ones are cut between sentences, items or rows. A piece that cannot be found again in the source,
character for character apart from line breaks, is left out. Asks nothing about the pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROSE, ITEMS, STEPS, TABLE, CODE = "prose", "items", "steps", "table", "code"
"""The shapes of a passage: a paragraph, a list of points, a numbered list, a table, a code fence."""

_LINE = re.compile(r"\r\n?|\n")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_END = re.compile(r"[.!?…]+[\"'”’)\]*_»]*(?=\s+[\"'“‘(\[*_«]*[A-ZÀ-ÝĀ-ŽΑ-ΩА-Я0-9])")
_BLANK = re.compile(r"\s*")
_LONGEST_ABBREVIATION = 12
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|etc|vs|approx|no|nr|fig|dr|mr|mrs|ms|prof|st|z\.\s?b|d\.\s?h|bzw|usw|ca|p\.\s?ex)|\b[A-Z]|^\d+)\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a text: characters `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage:
    """One block of a document below its headings, outermost first.

    `pieces` are its sentences, items, or code; of a table they are the cells row by row, `columns` to a row.
    """

    shape: str
    headings: tuple[Span, ...]
    whole: Span
    pieces: tuple[Span, ...]
    columns: int = 0


def quote_of(text: str, span: Span) -> str:
    """What stands at `span`, its line breaks and runs of blanks folded to one blank each."""
    return " ".join(text[span.start : span.end].split())


def stands_at(text: str, span: Span, quote: str) -> bool:
    """Whether `quote` is exactly what stands at `span`, line breaks aside."""
    return 0 <= span.start < span.end <= len(text) and quote_of(text, span) == " ".join(quote.split())


def passages(text: str, longest: int) -> tuple[Passage, ...]:
    """Every passage of a Markdown text in order, none with more than `longest` characters."""
    return tuple(one for found in _blocks(text) for one in _cut(found, longest))


# --- Blocks -----------------------------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[Passage]:
    """Whole blocks below their headings; inside lists, quotes and tables only what can be placed."""
    place = _Places(text)
    tokens = _parsed(text)
    above: list[tuple[int, Span]] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = _closing(tokens, at)
        inner = tokens[at : end + 1]
        if token.type == "heading_open":
            level, span = int(token.tag[1:]), place.of(tokens[at + 1])
            above = [one for one in above if one[0] < level]
            above += [(level, span)] if span else []
        elif token.type == "blockquote_open":
            end = at  # what is quoted is looked at as if it stood alone
        else:
            headings = tuple(span for _, span in above)
            if found := _passage(token, inner, headings, place):
                yield found
        at = end + 1


def _parsed(text: str) -> list[Token]:
    # What stands inside a line is quoted as it was written, so it is never parsed: that is also where time could be
    # lost on hostile text. Front matter is no Markdown; it is blanked with every offset kept.
    plain = _FRONT_MATTER.sub(lambda found: re.sub(r"[^\r\n]", " ", found[0]), text)
    return MarkdownIt("commonmark").enable("table").disable("inline").parse(plain)


def _closing(tokens: Sequence[Token], at: int) -> int:
    if tokens[at].nesting != 1:
        return at
    depth = 0
    for place in range(at, len(tokens)):
        depth += tokens[place].nesting
        if depth == 0:
            return place
    return len(tokens) - 1


def _passage(token: Token, inner: Sequence[Token], headings: tuple[Span, ...], place: _Places) -> Passage | None:
    match token.type:
        case "paragraph_open":
            span = place.of(inner[1])
            return Passage(PROSE, headings, span, tuple(_sentences(place.text, span))) if span else None
        case "bullet_list_open" | "ordered_list_open":
            items = [span for one in _first_lines(inner) if (span := place.of(one))]
            shape = STEPS if token.type == "ordered_list_open" else ITEMS
            return Passage(shape, headings, _around(items), tuple(items)) if items else None
        case "table_open":
            return _table(inner, headings, place)
        case "fence":
            span = place.inside(token)
            return Passage(CODE, headings, span, (span,)) if span else None
        case _:
            return None


def _first_lines(inner: Sequence[Token]) -> Iterator[Token]:
    """The first paragraph of each item of the outermost list; a list within a list stays inside its item."""
    level = inner[0].level + 1
    for at, token in enumerate(inner[:-2]):
        if token.type == "list_item_open" and token.level == level and inner[at + 1].type == "paragraph_open":
            yield inner[at + 2]


def _table(inner: Sequence[Token], headings: tuple[Span, ...], place: _Places) -> Passage | None:
    rows: list[list[Span]] = []
    contents: list[str] = []
    line = 0
    for token in inner:
        if token.type == "tr_open" and token.map:
            line, contents = token.map[0], []
        elif token.type == "inline":
            contents.append(token.content)
        elif token.type == "tr_close":
            rows.append(place.cells(line, contents))
    columns = len(rows[0]) if rows else 0
    if columns < 2 or any(len(row) != columns for row in rows):
        return None
    cells_in_order = tuple(span for row in rows for span in row)
    return Passage(TABLE, headings, _around(cells_in_order), cells_in_order, columns)


def _around(spans: Sequence[Span]) -> Span:
    return Span(spans[0].start, spans[-1].end)


class _Places:
    """Where the library's lines lie in the text, by offset."""

    def __init__(self, text: str) -> None:
        self.text = text
        ends = [found.end() for found in _LINE.finditer(text)]
        self._starts = [0, *ends]

    def of(self, inline: Token) -> Span | None:
        """Where a block's content stands, or None where marks of a quote or the like run through it."""
        lines = inline.content.split("\n")
        if not inline.map or not inline.content.strip():
            return None
        first, last = inline.map[0], inline.map[0] + len(lines) - 1
        if last >= len(self._starts):
            return None
        start = self._found(lines[0].strip(), first)
        end = self._found(lines[-1].strip(), last)
        if start < 0 or end < 0:
            return None
        span = Span(start, end + len(lines[-1].strip()))
        return span if stands_at(self.text, span, inline.content) else None

    def inside(self, fence: Token) -> Span | None:
        """Where the code between two fences stands."""
        if not fence.map or not fence.content.strip():
            return None
        first, last = fence.map[0] + 1, fence.map[0] + fence.content.count("\n")
        end = self._end(last)
        span = Span(self._starts[first], self._starts[first] + len(self.text[self._starts[first] : end].rstrip()))
        return span if stands_at(self.text, span, fence.content) else None

    def cells(self, line: int, contents: Sequence[str]) -> list[Span]:
        """Where the cells of a row stand; none where one is empty or written otherwise than it reads."""
        spans: list[Span] = []
        at, end = self._starts[line], self._end(line)
        for content in contents:
            start = self.text.find(content, at, end) if content else -1
            if start < 0:
                return []
            at = start + len(content)
            spans.append(Span(start, at))
        return spans

    def _found(self, words: str, line: int) -> int:
        return self.text.find(words, self._starts[line], self._end(line))

    def _end(self, line: int) -> int:
        return self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)


# --- Cutting ----------------------------------------------------------------------------------------------------


def _sentences(text: str, span: Span) -> Iterator[Span]:
    """The sentences of a paragraph; an abbreviation or a number with a dot ends none."""
    inside = text[span.start : span.end]
    start = 0
    for found in _END.finditer(inside):
        if _ABBREVIATION.search(inside[max(start, found.end() - _LONGEST_ABBREVIATION) : found.end()]):
            continue
        yield Span(span.start + start, span.start + found.end())
        start = found.end() + len(_BLANK.match(inside, found.end())[0])  # type: ignore[index]  # it always matches
    if inside[start:].strip():
        yield Span(span.start + start, span.end)


def _cut(passage: Passage, longest: int) -> Iterator[Passage]:
    """The passage where it is short enough, else windows of whole pieces; of a table the rows that fit its head."""
    if passage.whole.end - passage.whole.start <= longest:
        yield passage
        return
    if passage.shape == CODE:
        return
    width = passage.columns or 1
    rows = [passage.pieces[at : at + width] for at in range(0, len(passage.pieces), width)]
    window: list[Span] = []
    for row in rows:
        if window and row[-1].end - window[0].start > longest:
            if passage.shape == TABLE:
                break  # without its head a row says nothing
            yield _window(passage, window)
            window = []
        if row[-1].end - row[0].start <= longest:
            window.extend(row)
    if window:
        yield _window(passage, window)


def _window(passage: Passage, pieces: Sequence[Span]) -> Passage:
    return Passage(passage.shape, passage.headings, _around(pieces), tuple(pieces), passage.columns)
