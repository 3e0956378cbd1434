"""May what the base proposed stand for the request that it was to say in other words?

Only of a tool selection can that be told without understanding it: its answer quotes the words that decide, and its
parameters are taken from the request word for word. What keeps all of these, adds no value of its own, names no other
tool and is like no request that is known is kept; everything else is refused with a reason that can be counted. Also
says how the base is asked. Reads no file and asks nobody.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gaiad.curriculum import Json
from gaiad.errors import Refuse
from gaiad.learner.example import Example, Message, sha_of
from gaiad.learner.exams.score import parsed_object
from gaiad.learner.likeness import REQUEST_MARK, Requests, request_of, values_in
from gaiad.learner.plain_text import LOOP, ends_open, fault, language_of, scripts_of, sentence_starts, words_of

NOT_WHOLE = "it did not end by itself"
SEVERAL_LINES = "it has several lines"
ABOUT_THE_TASK = "it talks about the task"
OF_THE_PROMPT = "it repeats what it was told"
LOST_VALUE = "a parameter is not in it word for word"
OTHER_ORDER = "its parameters stand in another order"
OTHER_VALUES = "its quoted texts, paths or numbers are others"
LOST_WORDS = "the words that decide are not in it"
OTHER_TOOL = "it names another tool"
OTHER_NAME = "it brings in a name"
OTHER_SENSE = "it says no where the request does not, or the other way round"
OTHER_LANGUAGE = "its language is another"
AS_WHO_IS_ASKED = "it speaks as the one who is asked"
FEW_WORDS_KEPT, MANY_WORDS_NEW = "it keeps too few of the request's words", "it brings in too many words"
TOO_SHORT, TOO_LONG = "it is much shorter", "it is much longer"
UNBALANCED = "a quotation or a bracket in it is left open"
TOO_MUCH_ALIKE = "it is like a request that is known"

MOST_WORDS = 48
"""Of a request that is proposed for; longer ones hold more than can be told apart."""
_LEAST_RATIO, _MOST_RATIO, _SPARE_WORDS = 0.5, 2.0, 3
_TOLD_SHINGLE = 4
_FEWEST_WORDS, _PLAIN_WORD = 2, 4
_LEAST_LETTERS, _STEM_LETTERS = 4, 5
_FEWEST_OWN, _LEAST_SHARED, _MOST_NEW = 2, 0.5, 2

_ABOUT_THE_TASK = re.compile(
    r"\b(?:re)?phras|paraphras|\breword|\brewrit|\bother words\b|\b(?:this|the|your) request\b|\brequest:|\boriginal\b"
    r"|\bnote:|^\W*(?:sure|certainly|of course|here(?:'s| is| are)|okay, here)\b|\bversion\b|\bsynonym",
    re.IGNORECASE,
)
_AS_WHO_IS_ASKED = re.compile(
    r"\bi(?:'ll|’ll| will| can| could| promise|'d love|’d love|'m glad|’m glad|'m looking|’m looking)\b|\bfor you\b"
    r"|\byou(?:'re|’re| are) welcome\b|\blet me know\b|\bhow can i\b",
    re.IGNORECASE,
)
_NEGATIONS = re.compile(
    r"\bnot\b|\bcannot\b|n['’]t\b|\bno\b|\bnever\b|\bwithout\b|\bnothing\b|\bnone\b|\bnicht\w*\b|\bkein\w*\b|\bnie\b|\bohne\b"
    r"|\bpas\b|\bjamais\b|\bsans\b|\bnunca\b|\bnada\b|\bsin\b",
    re.IGNORECASE,
)
_IN_WORDS = """
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million half quarter third twice double dozen
zero first second zwei drei vier fünf sechs sieben acht neun zehn elf zwölf zwanzig dreißig vierzig fünfzig hundert
tausend halb deux trois quatre cinq sept huit neuf dix vingt trente quarante cinquante cent mille dos tres cuatro cinco
seis siete ocho nueve diez veinte treinta cuarenta cincuenta cien mil
"""
_NUMBER_WORDS = frozenset(_IN_WORDS.split())
_EMPTY = """
please could would will shall should might must have been being were does with from into about that this these those
then than there here when where which what your yours mine just also like want need thanks thank cheers sorry hello
right next okay kindly bitte kannst könntest würdest danke dass eine einen einer mein meine dein deine merci
pourrais voudrais est-ce avec pour dans puedes podrías quiero gracias favor para tell make give take know
"""
_SAYS_LITTLE = frozenset(_EMPTY.split())
_TOOL_LINE = re.compile(r"^- ([\w.:-]+)\(", re.MULTILINE)
_QUOTED_REASON = re.compile(r"'(.+)'")
_PAIRS = (("(", ")"), ("[", "]"), ("{", "}"), ("“", "”"), ("«", "»"))


@dataclass(frozen=True, slots=True)
class Original:
    """A request whose sense can be held on to.

    `kept` are the texts that must stand in it word for word, `deciding` the words that must stand in it in this order,
    `others` the names of the other tools that it might be for.
    """

    key: str
    group: str
    request: str
    kept: tuple[str, ...]
    deciding: tuple[str, ...]
    tool: str
    others: tuple[str, ...]

    @property
    def stratum(self) -> str:
        """What it is about: what is asked for in turn."""
        return self.group.rpartition("/")[0] or self.group


@dataclass(frozen=True, slots=True)
class Known:
    """What a proposal is held against: the requests there are, what is near them, and which words decide for a tool."""

    requests: Requests
    near: float
    deciding: Mapping[tuple[str, ...], str]


def original_of(example: Example) -> Original | Refuse:
    """What must survive of an example's request, or why nobody could tell whether it does."""
    request = request_of(example)
    expected = example.expected or {}
    answer = parsed_object(example.answer) or {}
    tool, params, reasoning = expected.get("selected_tool"), expected.get("params"), answer.get("reasoning")
    if not isinstance(tool, str) or not isinstance(params, dict) or not isinstance(reasoning, str):
        return Refuse("it selects no tool")
    quoted = _QUOTED_REASON.search(reasoning)
    if quoted is None:
        return Refuse("its answer quotes no words that decide")
    deciding = tuple(words_of(quoted[1]))
    words = words_of(request)
    if not deciding or not _in_order(deciding, words):
        return Refuse("the words that decide are not in it as they are quoted")
    if "\n" in request or not _FEWEST_WORDS <= len(words) <= MOST_WORDS:
        return Refuse(f"it has several lines, or not {_FEWEST_WORDS} to {MOST_WORDS} words")
    if len(_own_words(request)) < _FEWEST_OWN:
        return Refuse("it has too few words of its own to be held to")
    kept: list[str] = []
    named = words_of(reasoning[quoted.end() :] + " " + reasoning[: quoted.start()])
    for leaf in _leaves(params):
        # 1. What follows from the words that decide, as the answer says. 2. What is said. 3. A number in words.
        if isinstance(leaf, str) and _in_a_row(words_of(leaf), named):
            continue
        said = _as_said(leaf, request)
        if said is not None:
            kept.append(said)
        elif not _is_number(leaf):
            return Refuse("a parameter of it is not said word for word")
    asked = next((one.content for one in reversed(example.messages[:-1]) if one.role == "user"), "")
    others = tuple(name for name in _TOOL_LINE.findall(asked.rpartition(REQUEST_MARK)[0]) if name != tool)
    return Original(example.key(), example.group, request, tuple(kept), deciding, tool, others)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif value not in (None, ""):
        yield value


def _as_said(leaf: Json, request: str) -> str | None:
    """The part of the request that is this value, or None where it is not said as such."""
    text = leaf if isinstance(leaf, str) else "" if isinstance(leaf, bool) else str(leaf)
    found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", request, re.IGNORECASE) if text else None
    return found[0] if found else None


def _is_number(leaf: Json) -> bool:
    # Said in words: the words of numbers must all be there again.
    return isinstance(leaf, int | float) and not isinstance(leaf, bool)


def known_of(examples: Iterable[Example], near: float) -> Known:
    """What proposals for these examples are held against; words count as a tool's where they decide for no other."""
    tools: dict[tuple[str, ...], set[str]] = defaultdict(set)
    requests = Requests()
    for example in examples:
        requests.add(request_of(example))
        found = original_of(example)
        # One short word, as "view", says too little.
        if isinstance(found, Original) and (len(found.deciding) > 1 or len(found.deciding[0]) > _PLAIN_WORD):
            tools[found.deciding].add(found.tool)
    return Known(requests, near, {words: next(iter(names)) for words, names in tools.items() if len(names) == 1})


def in_turn(originals: Sequence[Original], seed: int, rounds: int) -> Iterator[tuple[int, Original]]:
    """Every original `rounds` times, with the round's number; what they are about and their templates take turns."""
    strata: dict[str, dict[str, list[Original]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(originals, key=lambda one: sha_of([seed, one.key])):
        strata[one.stratum][one.group].append(one)
    queues = [_dealt(list(groups.values())) for _, groups in sorted(strata.items())]
    order = _dealt(queues)
    for turn in range(rounds):
        yield from ((turn, one) for one in order)


def _dealt(queues: Sequence[Sequence[Original]]) -> list[Original]:
    longest = max(map(len, queues), default=0)
    return [queue[at] for at in range(longest) for queue in queues if at < len(queue)]


# --- Asking -----------------------------------------------------------------------------------------------------

_TASK = "You say requests to an assistant in other words. You answer with the new wording alone, on one line."
_SHOWN = (
    (
        "in a friendly way",
        "Water the ferns on the balcony",
        "water; the ferns",
        "Would you kindly water the ferns out there?",
    ),
    ("briefly", "I would like to know when the bakery opens", "bakery; opens", "When the bakery opens, tell me"),
)
_MANNERS = (
    "as a question",
    "briefly",
    "politely",
    "as you would to a friend",
    "as an order",
    "with another beginning",
    "in a slightly shorter sentence",
    "in a longer sentence",
)


def asking(original: Original, turn: int) -> tuple[Message, ...]:
    """The messages by which the base is asked for another wording; each turn wants another manner."""
    start = int(original.key[:8], 16)
    shown = []
    for manner, request, kept, said in _SHOWN:
        shown += [Message("user", _asked(manner, request, kept)), Message("assistant", said)]
    staying = "; ".join(dict.fromkeys([*original.kept, *_said_deciding(original)]))
    manner = _MANNERS[(start + turn) % len(_MANNERS)]
    return (Message("system", _TASK), *shown, Message("user", _asked(manner, original.request, staying)))


def _asked(manner: str, request: str, kept: str) -> str:
    return f"Say it {manner}, in the same language. These words must stay as they are: {kept}\nIt is: {request}"


def _said_deciding(original: Original) -> list[str]:
    """The deciding words as the request has them: together where they stand together."""
    together = re.search(r"\W+".join(map(re.escape, original.deciding)), original.request, re.IGNORECASE)
    if together:
        return [together[0]]
    singly = [re.search(rf"(?<!\w){re.escape(word)}(?!\w)", original.request, re.I) for word in original.deciding]
    return [one[0] for one in singly if one]


def proposed_text(said: str) -> str:
    """What the base said, without the blanks and the pair of quotation marks around it."""
    text = said.strip()
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”", "«»") and not set(text[0] + text[-1]) & set(text[1:-1]):
        text = text[1:-1].strip()
    return text


# --- Judging ----------------------------------------------------------------------------------------------------


def verdict(original: Original, text: str, finish_reason: str, known: Known) -> str | None:
    """Why a proposal is refused, or None where it may stand for the original."""
    if finish_reason != "stop":
        return NOT_WHOLE
    unfit = fault(text)
    if unfit is not None:
        return unfit
    return _form(original, text) or _sense(original, text, known) or _novelty(text, known)


def _form(original: Original, text: str) -> str | None:
    request = original.request
    if "\n" in text:
        return SEVERAL_LINES
    if ends_open(text) and not ends_open(request):
        return NOT_WHOLE
    told = _ABOUT_THE_TASK.search(text)
    if told and told[0].casefold() not in request.casefold():
        return ABOUT_THE_TASK
    if _repeats_the_prompt(original, text):
        return OF_THE_PROMPT
    if len(runs := [*zip(*(words_of(text)[at:] for at in range(3)), strict=False)]) > len({*runs}):
        return LOOP
    words, before = len(words_of(text)), len(words_of(request))
    if words < max(_FEWEST_WORDS, _LEAST_RATIO * before):
        return TOO_SHORT
    if words > _MOST_RATIO * before + _SPARE_WORDS:
        return TOO_LONG
    if any(text.count(a) != text.count(b) for a, b in _PAIRS) or any(text.count(mark) % 2 for mark in '"`'):
        return UNBALANCED
    return None


def _repeats_the_prompt(original: Original, text: str) -> bool:
    """Whether it says four words in a row of what the base was told, other than the request and what it must keep."""
    prompt = " | ".join([_TASK, *(_asked(*row[:3]) + " | " + row[3] for row in _SHOWN), *_MANNERS])
    own = _runs(words_of(original.request))
    return bool((_runs(words_of(text)) - own) & _runs(words_of(prompt)))


def _runs(words: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(*(words[at:] for at in range(_TOLD_SHINGLE)), strict=False))


def _sense(original: Original, text: str, known: Known) -> str | None:
    request, words = original.request, words_of(text)
    if any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text) is None for one in original.kept):
        return LOST_VALUE
    # In another one they may have changed places: "write A to B" is not "write B to A".
    if _placed(original.kept, text) != _placed(original.kept, request):
        return OTHER_ORDER
    if not _same_values(original, text):
        return OTHER_VALUES
    if not _in_order(original.deciding, words):
        return LOST_WORDS
    if _names_another(original, words, known):
        return OTHER_TOOL
    if len(_NEGATIONS.findall(text)) != len(_NEGATIONS.findall(request)):
        return OTHER_SENSE
    if _AS_WHO_IS_ASKED.search(text) and not _AS_WHO_IS_ASKED.search(request):
        return AS_WHO_IS_ASKED
    before, after = language_of(request), language_of(text)
    if (before and after and before != after) or not scripts_of(text) <= scripts_of(request):
        return OTHER_LANGUAGE
    own, said = _own_words(request), _own_words(text)
    if len(own & said) < _LEAST_SHARED * len(own):
        return FEW_WORDS_KEPT
    if len(said - own) > max(_MOST_NEW, len(own) // 2):
        return MANY_WORDS_NEW
    return OTHER_NAME if after in ("", "en") and before in ("", "en") and _new_names(request, text) else None


def _own_words(text: str) -> frozenset[str]:
    """The beginnings of the words that say something; the others stand in any request."""
    return frozenset(
        word[:_STEM_LETTERS] for word in words_of(text) if len(word) >= _LEAST_LETTERS and word not in _SAYS_LITTLE
    )


def _placed(kept: Sequence[str], text: str) -> list[str]:
    """The texts in the order in which each of them stands first."""
    places = [(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text), one) for one in kept]
    return [one for _, one in sorted((found.start() if found else -1, one) for found, one in places)]


def _same_values(original: Original, text: str) -> bool:
    """Whether quoted texts, paths and numbers are those of the request; a parameter may get quotation marks."""
    before, after = values_in(original.request), values_in(text)
    spoken = [Counter(word for word in words_of(one) if word in _NUMBER_WORDS) for one in (original.request, text)]
    may_be_quoted = {f"quoted {one.casefold()}" for one in original.kept}
    return spoken[0] == spoken[1] and not before - after and set(after - before) <= may_be_quoted


def _names_another(original: Original, words: Sequence[str], known: Known) -> bool:
    own = words_of(original.request)
    names = [tuple(words_of(name.replace("_", " "))) for name in original.others]
    if any(_in_a_row(name, words) and not _in_a_row(name, own) for name in names):
        return True
    return any(
        tool != original.tool and _in_a_row(deciding, words) and not _in_order(deciding, own)
        for deciding, tool in known.deciding.items()
    )


def _new_names(request: str, text: str) -> bool:
    """Whether a word with a capital inside a sentence is none of the request's."""
    known, starts = set(words_of(request)), sentence_starts(text)
    found = re.finditer(r"\b[A-Z]\w+", text)
    return any(one.start() not in starts and one[0].casefold() not in known for one in found)


def _novelty(text: str, known: Known) -> str | None:
    return TOO_MUCH_ALIKE if known.requests.has_like(text, known.near) else None


def _in_a_row(phrase: Sequence[str], words: Sequence[str]) -> bool:
    size = len(phrase)
    return bool(size) and any(tuple(words[at : at + size]) == tuple(phrase) for at in range(len(words) - size + 1))


def _in_order(phrase: Sequence[str], words: Sequence[str]) -> bool:
    left = iter(words)
    return all(word in left for word in phrase)


# --- Becoming an example ----------------------------------------------------------------------------------------


def in_other_words(example: Example, text: str, *, source: str, origin: str) -> Example:
    """The example with another request, in the same group; for training only, as an exam asks what is surely right."""
    at = max(at for at, one in enumerate(example.messages) if one.role == "user")
    asked = example.messages[at].content
    head, mark, rest = asked.rpartition(REQUEST_MARK)
    if mark:
        _, gap, after = rest.strip().partition("\n\n")
        asked = f"{head}{mark} {text}{gap}{after}"
    else:
        asked = text
    messages = (*example.messages[:at], Message("user", asked), *example.messages[at + 1 :])
    own = replace(example, messages=messages, source=source, origin=origin, of=example.key())
    return replace(own, expected=None, rejected=None)
