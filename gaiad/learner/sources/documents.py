"""The source `documents`: Markdown made into questions whose answers stand in it, word for word.

Reads the Markdown in the curriculum's `documents/` and what the owner names in the settings, files or whole folders. A
file that cannot be used is refused by name. Options of the source: `kinds` (of question; all where absent),
`per_document` (questions to one document at most) and `own_only` (leaves the shipped documents out).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from gaiad.curriculum import Curriculum, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, Message
from gaiad.learner.sources.document_questions import KINDS, Question, questions
from gaiad.learner.sources.passages import Span, quote_of, stands_at
from gaiad.learner.sources.source import Gathered, Ground, Refused

KIND = "documents"
STAGE = "generation"
MOST_BYTES = 1_000_000
"""A longer file is no document of a person's but an export or a log."""
MOST_BYTES_TOGETHER = 8_000_000
MOST_DOCUMENTS = 500
REFERENCE_MARK = "Reference data:"
"""What the runtime puts before a passage that an answer is to rest on."""

_OPTIONS = {"kinds", "per_document", "own_only"}
_ENDINGS = (".md", ".markdown")
_CHARACTERS_A_TOKEN, _MARGIN = 3.2, 0.9
_INSTRUCTIONS = (
    "Respond directly to the user's latest request. Rest on the reference data and keep to its words.",
    "Answer from the reference data that comes with the question. Where it is quoted, it is quoted exactly.",
    "You are GAIA. What is asked stands in the reference data; give it back unchanged.",
)
_ORIGIN = re.compile(r"document:(?P<name>.+)#(?P<start>\d+)-(?P<end>\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Document:
    """A Markdown file as read; `name` tells it from every other of the source."""

    name: str
    text: str


@dataclass(slots=True)
class _Shelf:
    """What was read so far, and what was left out."""

    documents: list[_Document] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    size: int = 0

    def refuse(self, name: str, reason: str) -> None:
        self.refused.append(Refused(f"document:{name}", reason))


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Ask about every document, the same questions for the same spec, seed and documents.

    Raises:
        CurriculumError: where an option is wrong.
    """
    kinds, most, own_only = _options(source)
    shelf = _Shelf()
    shipped = ground.folder / "documents"
    if not own_only and shipped.is_dir():
        _read_below(shipped, shipped.name, shelf)
    for root, name in zip(ground.documents, _names(ground.documents), strict=True):
        _read_below(root, name, shelf)
    examples: list[Example] = []
    for document in shelf.documents:
        found = list(_examples(document, source, ground.curriculum, kinds, most))
        if not found:
            shelf.refuse(document.name, "no sentence, list or table in it that can be asked about")
        examples += found
    return Gathered(tuple(examples), tuple(shelf.refused))


def stands_in(example: Example, text: str) -> bool:
    """Whether the example's answer is what stands in `text`, its document, at the place that its origin names."""
    found = _ORIGIN.fullmatch(example.origin)
    return found is not None and stands_at(text, Span(int(found["start"]), int(found["end"])), example.answer)


def _options(source: SourceSpec) -> tuple[list[str], int, bool]:
    options = source.options
    kinds, most, own_only = (
        options.get("kinds", [*KINDS]),
        options.get("per_document", 60),
        options.get("own_only", False),
    )
    problems = [f"no option {name!r}" for name in sorted(set(options) - _OPTIONS)]
    if not isinstance(kinds, list) or not kinds or not set(map(str, kinds)) <= set(KINDS):
        problems.append(f"kinds must be a list of {', '.join(KINDS)}")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        problems.append("per_document must be a number of 1 or more")
    if not isinstance(own_only, bool):
        problems.append("own_only must be true or false")
    if problems:
        raise CurriculumError(f"sources: {KIND}: {'; '.join(problems)}", hint=f"known: {', '.join(sorted(_OPTIONS))}")
    return cast("list[str]", kinds), cast(int, most), cast(bool, own_only)


# --- Reading ----------------------------------------------------------------------------------------------------


def _names(roots: Sequence[Path]) -> list[str]:
    """A name for each root: its last part, or all of it where another root ends alike."""
    ends = Counter(root.name for root in roots)
    return [_written(root.name if root.name and ends[root.name] == 1 else root.as_posix()) for root in roots]


def _written(name: str) -> str:
    """A file's name as text: bytes in it that are no UTF-8 are written out, so that origins can be kept."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_below(root: Path, name: str, shelf: _Shelf) -> None:
    """Read one root: a file as it is, a folder's Markdown in the order of its names."""
    try:
        is_folder = root.is_dir()
        if not is_folder and not root.exists():
            shelf.refuse(name, "not there")
            return
    except OSError as error:
        shelf.refuse(name, _said(error))
        return
    had = len(shelf.documents) + len(shelf.refused)
    _read_all(_files(root, name, shelf) if is_folder else iter([(root, name)]), shelf)
    if len(shelf.documents) + len(shelf.refused) == had:
        shelf.refuse(name, "no Markdown in it")


def _read_all(files: Iterator[tuple[Path, str]], shelf: _Shelf) -> None:
    for path, called in files:
        if len(shelf.documents) >= MOST_DOCUMENTS:
            shelf.refuse(called, f"beyond the first {MOST_DOCUMENTS} documents; it and what follows was not read")
            return
        if shelf.size >= MOST_BYTES_TOGETHER:
            megabytes = MOST_BYTES_TOGETHER // 1_000_000
            shelf.refuse(called, f"beyond the first {megabytes} MB of documents; it and what follows was not read")
            return
        _read(path, called, shelf)


def _files(folder: Path, name: str, shelf: _Shelf) -> Iterator[tuple[Path, str]]:
    """The Markdown below a folder with its names, hidden things left out; no folder is walked twice, however linked."""
    try:
        real = folder.resolve(strict=True)
        inside = sorted(folder.iterdir(), key=lambda path: path.name)
    except (OSError, RuntimeError) as error:
        shelf.refuse(name, _said(error))
        return
    if real in shelf.folders:
        shelf.refuse(name, "a link to a folder that was read already")
        return
    shelf.folders.add(real)
    for path in inside:
        called = f"{name}/{_written(path.name)}"
        if path.name.startswith("."):
            continue
        try:
            is_folder, is_broken = path.is_dir(), path.is_symlink() and not path.exists()
        except (OSError, RuntimeError) as error:
            shelf.refuse(called, _said(error))
            continue
        if is_folder:
            yield from _files(path, called, shelf)
        elif path.suffix.lower() in _ENDINGS or is_broken:
            yield path, called


def _read(path: Path, name: str, shelf: _Shelf) -> None:
    try:
        if not path.resolve(strict=True).is_file():
            shelf.refuse(name, "neither a file nor a folder")
            return
        # One byte more than allowed is enough to know, whatever size the file claims.
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, RuntimeError) as error:
        shelf.refuse(name, _said(error))
        return
    if reason := _unusable(raw):
        shelf.refuse(name, reason)
        return
    text = raw.decode("utf-8-sig")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if (other := shelf.texts.setdefault(digest, name)) != name:
        shelf.refuse(name, f"the same text as {other}")
        return
    shelf.documents.append(_Document(name, text))
    shelf.size += len(raw)


def _unusable(raw: bytes) -> str | None:
    if len(raw) > MOST_BYTES:
        return f"larger than {MOST_BYTES // 1_000_000} MB"
    if b"\0" in raw:
        return "binary"
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    return None if text.strip() else "empty"


def _said(error: OSError | RuntimeError) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {text or 'a link that leads in a circle'}"


# --- Examples ---------------------------------------------------------------------------------------------------


def _examples(
    document: _Document, source: SourceSpec, curriculum: Curriculum, kinds: Sequence[str], most: int
) -> Iterator[Example]:
    budget = int(curriculum.training.max_sequence_tokens * _CHARACTERS_A_TOKEN * _MARGIN)
    seed = f"{curriculum.seed}/{document.name}"
    asked = questions(document.text, seed=seed, longest=budget // 2, most=most, kinds=kinds)
    for number, question in enumerate(asked):
        example = _example(document, question, number, source)
        if sum(len(message.content) for message in example.messages) <= budget:
            yield example


def _example(document: _Document, question: Question, number: int, source: SourceSpec) -> Example:
    user = f"{REFERENCE_MARK}\n{question.reference}\n\n{question.text}"
    name = document.name.replace("/", ":")
    instruction = _INSTRUCTIONS[number % len(_INSTRUCTIONS)]
    return Example(
        (Message("system", instruction), Message("user", user), Message("assistant", question.answer)),
        source=source.name,
        # What is asked about one place is never divided; the kinds are what splits share fairly.
        group=f"{question.kind}/{name}#{question.passage}",
        origin=f"document:{document.name}#{question.span.start}-{question.span.end}",
        stage=STAGE,
        expected={"contains": [quote_of(document.text, question.span)]},
        kin=(f"document/{name}", f"section/{name}#{question.section}"),
    )
