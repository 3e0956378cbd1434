"""How a tool is talked about: what its name and description say it does, as phrases that sentences can be made of.

"read_file: Read the contents of a file." gives the phrase "read the contents of a file", the name's own "read the
file", the verb and the noun. Nothing is understood beyond a table of verbs; a description that begins with none of
them is a thing to be had ("forecast for a place": "get the forecast for a place").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gaiad.learner.sources.schema_values import words_of
from gaiad.learner.sources.tool_frames import Frames
from gaiad.learner.sources.tool_prompt import Tool

_MOST_WORDS = 13
_LEAST_WORDS = 4
_BREAK_WORDS = "using based which that so because where optionally supporting including via"
_DOUBLED_WORDS = "stop set get put plan cut run begin forget submit log plot map drop tag pin scan step trim chat"
_SMALL_WORDS = "a an the of to in on for from and or with by at is are as its it my this that into one be"
_UNCOUNTED_WORDS = "memory weather music news status health audio volume code text traffic mail state history usage"
_ARTICLE_WORDS = "a an the this my your its our some all any every each one today's"
_ASKING_WORDS = "how what which whether who when where why"
_BREAKS, _DOUBLED, _SMALL, _UNCOUNTED, _ARTICLES, _ASKING = (
    frozenset(words.split())
    for words in (_BREAK_WORDS, _DOUBLED_WORDS, _SMALL_WORDS, _UNCOUNTED_WORDS, _ARTICLE_WORDS, _ASKING_WORDS)
)
_PEOPLE = ((re.compile(r"\bthe user's\b|\byour\b", re.I), "my"), (re.compile(r"\b(?:the|a) user\b", re.I), "me"))
_PREAMBLE = re.compile(
    r"^(?:(?:this|a|the) (?:tool|function|command) (?:(?:is|can be) used to |allows (?:you|me) to |lets (?:you|me) "
    r"|to |that |which )?|(?:used|use this(?: tool)?|tool|allows (?:you|me)) to )",
    re.I,
)
_ENDS = (("ies", "y"), ("es", ""), ("s", ""))


@dataclass(frozen=True, slots=True)
class Wording:
    """Phrases for one tool: `acts` are bare ("read the file"), the best first; `title` is its name in words.

    `verb` and `noun` are those of the name where it is just these two, for other languages; else "".
    """

    acts: tuple[str, ...]
    title: str
    verb: str = ""
    noun: str = ""


def wording_of(tool: Tool, frames: Frames) -> Wording:
    """The phrases for a tool, from its description where it has a usable one, and from its name."""
    words = words_of(tool.name)
    verb = next((word for word in words if word in frames.verbs), "")
    rest = tuple(word for word in words if word != verb)
    acts = list(_described(tool.description, frames))
    # A name that ends with its verb seldom says what the verb is done to: "library_add" adds no library.
    if not acts or (words and words[0] == verb):
        acts += _named(verb, rest)
    title = " ".join(words) or tool.name
    noun = rest[0] if verb and len(rest) == 1 else ""
    return Wording(tuple(dict.fromkeys(acts)) or (f"use {title}",), title, verb, noun)


def _described(description: str, frames: Frames) -> Iterator[str]:
    """Phrases of the description's first clause: an order, a question, or a thing to be had."""
    clause = first_clause(description)
    first, _, rest = clause.partition(" ")
    second = rest.partition(" ")[0].lower()
    verb = known_verb(first, frames.verbs)
    if not verb and second in _ARTICLES and first.lower() not in _ARTICLES | _SMALL:
        # "Abort the run": what stands before an article can hardly be a thing.
        verb = first.lower().removesuffix("s") if not first.endswith("ss") else first.lower()
    if verb and rest and second != "of":
        yield f"{verb} {rest}"
        yield from (f"{other} {rest}" for other in frames.alike.get(verb, ()))
    elif first.lower() in _ASKING:
        yield f"find out {clause}"
        yield f"see {clause}"
    elif clause and (rest or not verb):
        plural = first.lower() in _ARTICLES or _plain_plural(first)
        yield from (f"{fetch} {clause if plural else f'the {clause}'}" for fetch in frames.fetching)


def _named(verb: str, rest: tuple[str, ...]) -> Iterator[str]:
    """The phrase of a name that is a verb and what it is done to, "read_file"."""
    if verb and rest:
        thing = " ".join(rest)
        yield f"{verb} {thing}" if rest[-1] in _UNCOUNTED else f"{verb} the {thing}"


def first_clause(description: str) -> str:
    """The first sentence without brackets and final stop, cut where it grows long, in a speaker's own person."""
    text = " ".join(re.sub(r"\([^)]*\)|\[[^\]]*\]|[{}\[\]]", " ", description).split())
    text = re.split(r"(?<=\w\w)[.!?:;](?:\s|$)| [-–—] |, e\.g\.| e\.g\. ", text, maxsplit=1)[0].strip(" .,:;-")
    for pattern, word in _PEOPLE:
        text = pattern.sub(word, text)
    text = _PREAMBLE.sub("", text)
    words = text.split()
    for at, word in enumerate(words):
        cut = word.lower().strip(",") in _BREAKS or (at > 0 and words[at - 1].endswith(","))
        if (cut and at >= _LEAST_WORDS) or at >= _MOST_WORDS:
            words = words[:at]
            break
    while words and words[-1].lower().strip(",") in _SMALL:
        words.pop()
    return _lowered(" ".join(words).rstrip(" ,"))


def known_verb(word: str, verbs: Mapping[str, object]) -> str:
    """The verb in its bare form, "Reads" -> "read"; "" where the table does not have it."""
    plain = word.lower().strip(",")
    if plain in verbs:
        return plain
    for end, instead in _ENDS:
        bare = plain.removesuffix(end) + instead
        if plain.endswith(end) and bare in verbs:
            return bare
    return ""


def _plain_plural(word: str) -> bool:
    return len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _lowered(text: str) -> str:
    """With a small first letter, unless the first word is a name or an abbreviation."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def acting(phrase: str) -> str:
    """The phrase with its verb's -ing form, "run the tests" -> "running the tests"."""
    verb, _, rest = phrase.partition(" ")
    if verb in _DOUBLED:
        stem = verb + verb[-1]
    elif verb.endswith("ie"):
        stem = verb[:-2] + "y"
    elif verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        stem = verb[:-1]
    else:
        stem = verb
    return f"{stem}ing {rest}".strip()


def deciding(phrase: str) -> str:
    """The words of a phrase that decide which tool is meant: four, one more or less so as not to end in a small one."""
    words = phrase.split()
    for count in (4, 5, 3, 2):
        if len(words) >= count and words[count - 1].lower() not in _SMALL:
            return " ".join(words[:count])
    return " ".join(words[:4])


def content_words(text: str) -> frozenset[str]:
    """The words that carry meaning, without endings, for telling how near two tools are."""
    words = {word for word in words_of(text) if len(word) > 2 and word not in _SMALL}
    return frozenset(word[:-1] if word.endswith("s") and len(word) > 4 else word for word in words)
