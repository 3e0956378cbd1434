"""Whether a text that a model wrote is fit to be learnt from: whole, free of loops, roles and talk about itself.

Shared by those who judge what the base itself made (`paraphrase`, `self_reply`). Says what is wrong as a short reason
that can be counted. Knows nothing of what the text is about.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise

NO_TEXT = "it is empty"
ROLES = "it has a mark of a role or of a template"
ABOUT_ITSELF = "it talks of itself, or refuses"
LOOP = "it repeats itself"
STRANGE = "it has characters that are no text"

_LOOP_TIMES, _LONGEST_LOOP, _PHRASE, _LINE_WORDS = 3, 12, 6, 3
_WORDS_WITHOUT_END = 8

_ROLE_MARKS = re.compile(
    r"<\|[^>\n]{0,40}>|</?s>|\[/?INST\]|<</?SYS>>|</?(?:think|tool_call|tool_response|assistant|user|system)>"
    r"|^\s*(?:[#*]+ *)?(?:user|assistant|system|human|ai|instruction|response)\**\s*:"
    r"|USER REQUEST:|AVAILABLE TOOLS:|\"selected_tool\"",
    re.IGNORECASE | re.MULTILINE,
)
_OF_ITSELF = re.compile(
    r"\bas an? (?:ai|artificial|(?:large )?language)\b|\b(?:language|ai) model\b|\bai assistant\b"
    r"|\bi(?:'m| am|’m) (?:sorry|unable|not able|just an?)\b"
    r"|\bi (?:can(?:no|'|’)t|cannot|won(?:'|’)t) (?:help|assist|fulfil|comply|provide|answer|do)|\bmy training data\b"
    r"|\bals (?:eine? )?(?:ki|sprachmodell)\b|\bich kann (?:dir |ihnen )?(?:dabei |leider )?nicht helfen\b"
    r"|\ben tant qu['’](?:ia|intelligence)|\bje ne peux pas (?:vous |t['’])?aider"
    r"|\bcomo (?:una? )?(?:ia|modelo de lenguaje)\b"
    r"|\bno puedo ayudar",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s")
_DANGLING = re.compile(
    r"(?:[,:;(\[{/–—-]|\b(?:the|an?|and|or|of|to|with|for|in|und|oder|mit|der|die|et|ou|de|avec|y|con))\s*$",
    re.IGNORECASE,
)
_ENDING = re.compile(r"[.!?…。\"'”’»)`\]}|*]\s*$")
_STOP_WORDS = {
    "en": "the and is are of to for with my you your what how this that it from at can could would please i have does",
    "de": "der das und ist ein eine mit für mein meine mir du wie bitte ich nicht auf den dem im zu von welche",
    "fr": "le les et est une des avec pour mon ma moi quoi comment ce je pas dans sur du au quel quelle",
    "es": "el los las es una con para qué cómo este yo en del por hay quiero favor cuál",
}
_STOPS = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}


def words_of(text: str) -> list[str]:
    """The words of a text, case apart."""
    return _WORD.findall(text.casefold())


def fault(text: str) -> str | None:
    """What makes a text unfit whatever was asked; None where nothing does."""
    # 1. Nothing is there. 2. What no person writes. 3. What belongs to templates. 4. Talk about itself. 5. Loops.
    if not words_of(text):
        return NO_TEXT
    if (
        any(unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") for char in text if char not in "\n\t")
        or "\ufffd" in text
    ):
        return STRANGE
    if _ROLE_MARKS.search(text):
        return ROLES
    if _OF_ITSELF.search(text):
        return ABOUT_ITSELF
    return LOOP if repeats_itself(text) else None


def repeats_itself(text: str) -> bool:
    """Whether a phrase comes three times in a row (a lone word four times), a long one or a line three times at all."""
    words = words_of(text)
    for size in range(1, min(_LONGEST_LOOP, len(words) // _LOOP_TIMES) + 1):
        same = 0
        for here, there in zip(words, words[size:], strict=False):
            same = same + 1 if here == there else 0
            # A phrase that follows itself twice is twice its length of words that equal those before them.
            if same >= (_LOOP_TIMES - 1) * size + (size == 1):
                return True
    phrases = Counter(zip(*(words[at:] for at in range(_PHRASE)), strict=False))
    lines = Counter(line for line in map(str.strip, text.splitlines()) if len(words_of(line)) >= _LINE_WORDS)
    return max([*phrases.values(), *lines.values()], default=0) >= _LOOP_TIMES


def ends_open(text: str) -> bool:
    """Whether a text ends where more must come: in a block of code, after a comma, a colon or a small word."""
    return text.count("```") % 2 > 0 or _DANGLING.search(text) is not None


def is_cut_off(text: str) -> bool:
    """Whether a text stops where it cannot end, a long sentence without its stop included."""
    if ends_open(text):
        return True
    last = text.rstrip().splitlines()[-1] if text.strip() else ""
    return len(words_of(last)) >= _WORDS_WITHOUT_END and not _LIST_ITEM.match(last) and not _ENDING.search(last)


def language_of(text: str) -> str:
    """The language whose small words stand oftenest in a text: en, de, fr or es; "" where that is not to be told."""
    words = words_of(text)
    found = sorted(((sum(word in stops for word in words), name) for name, stops in _STOPS.items()), reverse=True)
    (most, name), (next_most, _) = found[0], found[1]
    return name if most > next_most else ""


def scripts_of(text: str) -> frozenset[str]:
    """The scripts of a text's letters, by the names that Unicode gives them."""
    return frozenset(unicodedata.name(char, "?").split()[0] for char in text if char.isalpha())


def sentence_starts(text: str) -> frozenset[int]:
    """Where the words stand that begin a sentence."""
    found = [match.start() for match in _WORD.finditer(text)]
    ends = [(before, here) for before, here in pairwise(found) if re.search(r"[.!?:…]\W*$", text[before:here])]
    return frozenset([*found[:1], *(here for _, here in ends)])
