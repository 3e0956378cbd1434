"""The rules of redaction: a pattern each, what it finds, and where it is worth trying.

A pattern costs most where it finds nothing: at each place of a text. So a rule says what its matches have to hold, or
begin with, and is tried only there. Reads rules written as JSON; touches nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gaiad.errors import ConfigError
from gaiad.redact_checks import CHECKS
from gaiad.redact_columns import HEADINGS
from gaiad.redact_numbers import span_of
from gaiad.redact_pattern import why_not
from gaiad.redact_view import View, in_pieces
from gaiad.redact_words import KnownWords, core

_TYPE = re.compile(r"[A-Z][A-Z_]{1,30}")
_FLAGS = ("long", "dialled", "word", "odd", "digit", "stuck")
_KEYS = {
    "id",
    "type",
    "starts",
    "pattern",
    "check",
    "chars",
    "near",
    "follow",
    "digits",
    "before",
    "gate",
    "needs",
    *_FLAGS,
}
_PART = re.compile(r"<<(\w+)>>")
_BLANK = re.compile(r"\s")
_HINT = "mend the rule that it names"

Check = Callable[[re.Match[str]], "tuple[int, int] | None"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern; its group `v`, else all that it matches, is what goes.

    Where it is tried, all of which must hold:
    1. `long`: there is a word that is long enough for a token; with `word` it matches nothing beside such words,
       with `digit` nothing beside those that have a digit.
       `dialled`: there is something as long as a telephone number. `odd`: there is a word with a digit or a symbol.
    2. `chars`: of each of these one character, in small letters, is there.
    3. `near`: a match begins so many characters before one of these words, or fewer, and what follows the word begins
       as `follow` says; with `word` it holds no blank, and is looked for from there to the next one.
    4. `digits`: there are so many with little between them, and four close together; with `before`, a match begins so
       many characters before the first of them. `stuck`: two digits, right behind two letters, in their place.
    5. `gate`: a cheaper pattern, for the text in small letters, that is found wherever this one is.
    6. `needs`: one of these is in the text, in any case; where a long word is asked for, in one of those.

    Of what it matches only that counts which begins with one of `starts`, if there are such.
    """

    id: str
    type: str
    pattern: re.Pattern[str]
    check: Check | None = None
    long: bool = False
    dialled: bool = False
    chars: tuple[str, ...] = ()
    near: tuple[tuple[str, int], ...] = ()
    follow: re.Pattern[str] | None = None
    word: bool = False
    odd: bool = False
    digit: bool = False
    stuck: bool = False
    digits: int = 0
    before: tuple[int, ...] = ()
    gate: re.Pattern[str] | None = None
    needs: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    firsts: frozenset[str] = frozenset()

    def span(self, match: re.Match[str]) -> tuple[int, int] | None:
        """What of a match is to go, if anything."""
        if self.starts and not (match[0][:2] in self.firsts and match[0].startswith(self.starts)):
            return None
        found = (self.check or span_of)(match)
        return None if found is None or found[0] >= found[1] else found

    @property
    def words(self) -> tuple[str, ...]:
        """Words of which one must be there, in a long word where one is asked for; empty where nothing is so cheap."""
        if self.near and not self.long and not self.dialled:
            return tuple(word for word, _ in self.near)
        if self.needs or self.long:
            return self.needs
        return tuple(self.chars[0]) if self.chars else ()

    def matches(self, view: View) -> Iterable[re.Match[str]]:
        """What `pattern.finditer` would find, without looking where nothing can be."""
        hits: list[tuple[int, int]] = []
        for kinds in self.chars:
            if not _any_in(kinds, view.low):
                return ()
        if self.dialled and not view.may_hold_a_dialled_number:
            return ()
        if self.near and not (hits := self._hits(view)):
            return ()
        if self.digits and not view.has_other_digits and not self._digits_of(view):
            return ()
        if self.gate is not None and next(in_pieces(self.gate, view.low, 0, len(view.low)), None) is None:
            return ()
        if self.needs and not self.long and not _any_in(self.needs, view.low):
            return ()
        return self._tried(view, hits)

    def _digits_of(self, view: View) -> list[int]:
        return view.stuck if self.stuck else view.groups(self.digits)

    def _hits(self, view: View) -> list[tuple[int, int]]:
        found = view.near(self.near)
        return found if self.follow is None else [hit for hit in found if self.follow.match(view.low, hit[0])]

    def _tried(self, view: View, hits: list[tuple[int, int]]) -> Iterable[re.Match[str]]:
        text = view.text
        if self.word:
            return self._in_words(text, sorted(hits)) if self.near else self._in_long_words(view)
        if self.near:
            return self._at(text, {at for hit, reach in hits for at in range(hit - reach, hit + 1)})
        if self.before and not view.has_other_digits:
            return self._at(text, {at - back for at in self._digits_of(view) for back in self.before})
        return in_pieces(self.pattern, text, 0, len(text))

    def _at(self, text: str, starts: Collection[int]) -> Iterator[re.Match[str]]:
        end = 0
        for start in sorted(starts):
            if start >= end and (match := self.pattern.match(text, start)):
                yield match
                end = match.end()

    def _in_words(self, text: str, hits: Iterable[tuple[int, int]]) -> Iterator[re.Match[str]]:
        stop = 0
        for hit, reach in hits:
            if hit >= stop:
                start, blank = max(stop, hit - reach), _BLANK.search(text, hit)
                stop = blank.start() if blank else len(text)
                yield from in_pieces(self.pattern, text, start, stop)

    def _in_long_words(self, view: View) -> Iterator[re.Match[str]]:
        for start, stop in view.long_words_with_digits if self.digit else view.long_words:
            yield from in_pieces(self.pattern, view.text, start, stop)


def _any_in(words: Iterable[str], text: str) -> bool:
    for word in words:  # noqa: SIM110 - a generator would cost more than the search
        if word in text:
            return True
    return False


class _Words:
    """Rules of one kind by the words of which one must be there."""

    def __init__(self, rules: Iterable[tuple[int, Rule]]) -> None:
        self.rules: dict[str, list[int]] = {}
        self.always: list[int] = []
        self.long = False
        for number, rule in rules:
            self.long = rule.long
            if not rule.words:
                self.always.append(number)
            for word in rule.words:
                self.rules.setdefault(word, []).append(number)

    def part(self, sought: frozenset[str]) -> None:
        """Know what is found for all rules at once, and what is looked for here alone."""
        self._alone = [(word, numbers) for word, numbers in self.rules.items() if core(word) not in sought]
        self._wider = [(core(word), word) for word in self.rules if core(word) in sought and core(word) != word]

    def add_to(self, found: set[int], text: str, there: Collection[str]) -> None:
        """Add the numbers of the rules that are worth trying; `there` is what was found of what is sought for all."""
        found.update(self.always)
        for word, numbers in self._alone:
            if word in text:
                found.update(numbers)
        for word in there:
            if word in self.rules and (not self.long or word in text):
                found.update(self.rules[word])
        for part, word in self._wider:
            if part in there and word in text:
                found.update(self.rules[word])


def _kind(rule: Rule) -> int:
    """By which fact a rule is left out before anything is looked for."""
    return 2 if rule.long else 3 if rule.odd else int(rule.digits > 0)


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules in their order, and the names of fields whose texts are secrets."""

    rules: tuple[Rule, ...]
    secret_fields: re.Pattern[str]
    _kinds: tuple[_Words, _Words, _Words, _Words] = field(init=False, compare=False)
    _known: KnownWords = field(init=False, compare=False)

    def __post_init__(self) -> None:
        numbered = [(_kind(rule), number, rule) for number, rule in enumerate(self.rules)]
        found = [_Words((number, rule) for of, number, rule in numbered if of == kind) for kind in range(4)]
        object.__setattr__(self, "_kinds", tuple(found))
        sought = {word for rule in self.rules for word in (*rule.words, *(one for one, _ in rule.near))}
        known = KnownWords(sought | HEADINGS)
        object.__setattr__(self, "_known", known)
        for words in found:
            words.part(known.sought)

    def for_view(self, view: View) -> list[Rule]:
        """Those that are worth trying, in their order."""
        plain, digits, long, odd = self._kinds
        found = set[int]()
        words, there = self._known.told_of(view.text)
        view.narrow(words, self._known.sought, there)
        plain.add_to(found, view.low, there)
        if view.has_near_digits:
            digits.add_to(found, view.low, there)
        if view.long_words:
            long.add_to(found, view.long_low, there)
        if view.has_odd_words:
            odd.add_to(found, view.low, there)
        rules = [self.rules[number] for number in sorted(found)]
        most = view.most_digits if view.has_near_digits else 0
        return [rule for rule in rules if rule.digits <= most]

    def with_own(self, names: Sequence[str], patterns: Sequence[str]) -> Rules:
        """The same and the owner's: names (whole words, in any case) and `TYPE=REGEX`.

        Raises:
            ConfigError: naming each that cannot be used.
        """
        words = sorted({name.strip() for name in names if name.strip()}, key=len, reverse=True)
        own, problems = [], []
        if words:
            pattern = rf"(?i)(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)"
            own.append(Rule("own_names", "NAME", re.compile(pattern)))
        for text in patterns:
            kind, _, pattern = text.partition("=")
            try:
                if not _TYPE.fullmatch(kind) or not pattern:
                    raise ValueError("it is no TYPE=REGEX")
                rule = Rule(f"own_{kind}", kind, re.compile(pattern))
                if wrong := why_not(pattern):
                    raise ValueError(wrong)
                own.append(rule)
            except (ValueError, re.error) as error:
                problems.append(f"redact.patterns has {text!r}: {error}")
        if problems:
            raise ConfigError("; ".join(problems), hint="write each as TYPE=REGEX, TYPE in capital letters")
        return replace(self, rules=(*self.rules, *own))


def parse_rules(text: str) -> Rules:
    """Read rules written as JSON: `{"rules": [...], "secret_fields": REGEX}`.

    `parts` are pieces of patterns by name, written `<<name>>` where they belong; `places` are values of `near` by name.

    Raises:
        ConfigError: naming every rule that cannot be used.
    """
    try:
        document = json.loads(text)
        rows, fields = document["rules"], re.compile(document["secret_fields"])
        parts, places = dict(document.get("parts", {})), dict(document.get("places", {}))
    except (ValueError, KeyError, TypeError, re.error) as error:
        raise ConfigError(f"the rules of redaction cannot be read: {error!r}", hint=_HINT) from error
    rules, problems = list[Rule](), list[str]()
    nears: dict[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]] = {}
    for at, row in enumerate(rows):
        try:
            rule = _rule(_whole(row, parts, places))
            rules.append(replace(rule, near=nears.setdefault(rule.near, rule.near)))
        except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
            problems.append(f"rule {row.get('id', at) if isinstance(row, dict) else at}: {error}")
    if problems:
        raise ConfigError("; ".join(problems), hint=_HINT)
    return Rules(tuple(rules), fields)


def _whole(row: Mapping[str, object], parts: Mapping[str, str], places: Mapping[str, object]) -> dict[str, object]:
    """A row with what it names put in its place."""
    near = row.get("near")
    whole = {**row, "near": places[near]} if isinstance(near, str) else dict(row)
    return {**whole, "pattern": _PART.sub(lambda name: parts[name[1]], str(row["pattern"]))}


def _rule(row: Mapping[str, object]) -> Rule:
    strange = sorted(set(row) - _KEYS)
    if strange:
        raise ValueError(f"unknown key {strange[0]!r}")
    check, near, digits = row.get("check"), row.get("near", {}), row.get("digits", 0)
    chars, before, needs = row.get("chars", []), row.get("before", []), row.get("needs", [])
    starts = _texts(row.get("starts", []))
    if not isinstance(chars, list) or not isinstance(before, list) or not isinstance(needs, list):
        raise ValueError("`chars`, `before` and `needs` must be lists")
    if not isinstance(near, dict) or not isinstance(digits, int) or (before and digits < 1):
        raise ValueError("`near` must be a table, `digits` a number, and `before` goes with it")
    if not _TYPE.fullmatch(str(row["type"])) or any(word != word.lower() for word in (*near, *needs)):
        raise ValueError("`type` is written in capital letters, `near` and `needs` in small ones")
    if check is not None and check not in CHECKS:
        raise ValueError(f"there is no check {check!r}")
    return Rule(
        str(row["id"]),
        str(row["type"]),
        re.compile(str(row["pattern"])),
        check=CHECKS[str(check)] if check is not None else None,
        chars=_texts(chars),
        near=tuple((str(word), int(reach)) for word, reach in near.items()),
        follow=_compiled(row.get("follow")),
        digits=digits,
        before=tuple(int(back) for back in before),
        gate=_compiled(row.get("gate")),
        needs=_texts(needs),
        starts=starts,
        firsts=frozenset(one[:2] for one in starts),
        **{name: row.get(name) is True for name in _FLAGS},
    )


def _texts(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise ValueError("`starts` must be a list")
    return tuple(str(one) for one in found)


def _compiled(pattern: object) -> re.Pattern[str] | None:
    return None if pattern is None else re.compile(str(pattern))
