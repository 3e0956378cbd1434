"""Secrets and personal data out of what is about to be written down: typed placeholders in their place.

Rules are data (`redact_rules.json`): a pattern, what it finds, perhaps a check. A value that is written with escapes
(JSON inside JSON, percent signs in a URL) is looked for in decoded views of the text, and replaced where it stands.
Touches nothing: rules and key come in. It is a net with meshes, not a proof: what no rule knows passes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gaiad.errors import ConfigError
from gaiad.redact_checks import CHECKS, PLACEHOLDER, is_card, is_secret_value, span_of

_TYPE = re.compile(r"[A-Z][A-Z_]{1,30}")
_MEDIA = re.compile(r"data:[\w/+.;=-]{1,100};base64,[A-Za-z0-9+/=\s]{200,}")
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_PERCENT = re.compile(r"%([2-7][0-9a-fA-F])")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DEEPEST = 3
_KEYS = {"id", "type", "pattern", "needs", "check", "digits"}
_DIGITS = re.compile(r"\d(?:[ ().,/-]{0,3}\d){3}")
_REMEMBERED = 20_000
_HINT = "mend the rule that it names"

Check = Callable[[re.Match[str]], "tuple[int, int] | None"]
_Span = tuple[int, int, str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern; its group `v`, else all that it matches, is what goes.

    It is tried only where one of `needs` is in the lower-cased text and, for `digits`, four digits are close together.
    """

    id: str
    type: str
    pattern: re.Pattern[str]
    needs: tuple[str, ...] = ()
    check: Check | None = None
    digits: bool = False

    def may_match(self, low: str, has_digits: bool) -> bool:
        """Whether it is worth trying."""
        return (has_digits or not self.digits) and (not self.needs or any(one in low for one in self.needs))

    def spans(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Where what it finds is said, and from where to where it stands."""
        for match in self.pattern.finditer(text):
            span = (self.check or span_of)(match)
            if span is not None and span[0] < span[1]:
                yield match.start(), *span


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules in their order, and the names of fields whose texts are secrets."""

    rules: tuple[Rule, ...]
    secret_fields: re.Pattern[str]

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
                own.append(Rule(f"own_{kind}", kind, re.compile(pattern)))
            except (ValueError, re.error) as error:
                problems.append(f"redact.patterns has {text!r}: {error}")
        if problems:
            raise ConfigError("; ".join(problems), hint="write each as TYPE=REGEX, TYPE in capital letters")
        return replace(self, rules=(*self.rules, *own))


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A value without what was found in it, and how often each type was."""

    value: object
    counts: Counter[str] = field(default_factory=Counter)


def parse_rules(text: str) -> Rules:
    """Read rules written as JSON: `{"rules": [...], "secret_fields": REGEX}`.

    Raises:
        ConfigError: naming every rule that cannot be used.
    """
    try:
        document = json.loads(text)
        rows, fields = document["rules"], re.compile(document["secret_fields"])
    except (ValueError, KeyError, TypeError, re.error) as error:
        raise ConfigError(f"the rules of redaction cannot be read: {error!r}", hint=_HINT) from error
    rules, problems = [], []
    for at, row in enumerate(rows):
        try:
            rules.append(_rule(row))
        except (ValueError, KeyError, TypeError, re.error) as error:
            problems.append(f"rule {row.get('id', at) if isinstance(row, dict) else at}: {error}")
    if problems:
        raise ConfigError("; ".join(problems), hint=_HINT)
    return Rules(tuple(rules), fields)


def _rule(row: Mapping[str, object]) -> Rule:
    strange = sorted(set(row) - _KEYS)
    if strange:
        raise ValueError(f"unknown key {strange[0]!r}")
    needs, check = row.get("needs", []), row.get("check")
    if not isinstance(needs, list) or not _TYPE.fullmatch(str(row["type"])):
        raise ValueError("`needs` must be a list, `type` capital letters")
    if check is not None and check not in CHECKS:
        raise ValueError(f"there is no check {check!r}")
    return Rule(
        str(row["id"]),
        str(row["type"]),
        re.compile(str(row["pattern"])),
        tuple(str(one).lower() for one in needs),
        CHECKS[str(check)] if check is not None else None,
        digits=row.get("digits") is True,
    )


class Scrubber:
    """Replaces what the rules find. `key` makes placeholders that nobody without it can trace back."""

    def __init__(self, rules: Rules, key: bytes) -> None:
        self._rules = rules
        self._key = key
        self._clean: dict[bytes, None] = {}

    def scrub(self, value: object, scope: str) -> Scrubbed:
        """Scrub texts at any depth, the names of fields too; one value has one placeholder within `scope`."""
        counts: Counter[str] = Counter()
        return Scrubbed(self._scrubbed(value, scope, counts), counts)

    def scrub_text(self, text: str, scope: str) -> str:
        """The same for one text."""
        return self._text(text, scope, Counter())

    def _scrubbed(self, value: object, scope: str, counts: Counter[str]) -> object:
        if isinstance(value, str):
            return self._text(value, scope, counts)
        if isinstance(value, list | tuple):
            return [self._scrubbed(one, scope, counts) for one in value]
        if isinstance(value, Mapping):
            return {
                self._text(str(key), scope, counts): self._field(str(key), one, scope, counts)
                for key, one in value.items()
            }
        if isinstance(value, int) and not isinstance(value, bool) and is_card(str(value)):
            return self._placeholder("CARD", str(value), scope, counts)
        return value

    def _field(self, name: str, value: object, scope: str, counts: Counter[str]) -> object:
        # A placeholder's own type is no name that a value follows.
        named = self._rules.secret_fields.search(PLACEHOLDER.sub("", name))
        if isinstance(value, str) and named and is_secret_value(value):
            return self._placeholder("PASSWORD", value, scope, counts)
        return self._scrubbed(value, scope, counts)

    def _text(self, text: str, scope: str, counts: Counter[str]) -> str:
        # Prompts are said again with each request: of a text in which nothing was found a digest is remembered.
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._clean:
            return text
        cleaned = self._searched(text, scope, counts)
        if cleaned == text:
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            self._clean[digest] = None
        return cleaned

    def _searched(self, text: str, scope: str, counts: Counter[str]) -> str:
        if "base64," in text:
            text = _MEDIA.sub(lambda match: self._placeholder("MEDIA", match[0], scope, counts), text)
        # What stands around a placeholder may come to match, so it is looked again until nothing is found: each time
        # at least one character more has gone.
        while spans := self._found(text):
            for start, end, kind, value in reversed(spans):
                text = text[:start] + self._placeholder(kind, value, scope, counts) + text[end:]
        return text

    def _found(self, text: str) -> list[_Span]:
        spans: list[_Span] = []
        taken = [match.span() for match in PLACEHOLDER.finditer(text)] if "[" in text else []
        for view, places in _views(text):
            low, has_digits = view.lower(), _DIGITS.search(view) is not None
            for rule in self._rules.rules:
                if not rule.may_match(low, has_digits):
                    continue
                for said, start, end in rule.spans(view):
                    at, first, last = (
                        (said, start, end) if places is None else (places[said], places[start], places[end])
                    )
                    # A placeholder's own type is no name that a value follows.
                    if not any(one <= at < other for one, other in taken):
                        spans.append((first, last, rule.type, view[start:end]))
        return _joined(spans, taken)

    def _placeholder(self, kind: str, value: str, scope: str, counts: Counter[str]) -> str:
        counts[kind] += 1
        said = "\0".join((scope, kind, value if kind in ("PASSWORD", "KEY", "TOKEN") else _plain(value)))
        number = int.from_bytes(hmac.digest(self._key, said.encode("utf-8", "surrogatepass"), hashlib.sha256)[:8])
        letters = "".join(_LETTERS[number // 26**place % 26] for place in range(6))
        return f"[{kind}_{letters}]"


def _plain(value: str) -> str:
    """The same card, number or address, however it is spaced and cased."""
    return re.sub(r"[\s()./-]", "", value).casefold()


def _joined(spans: list[_Span], placeholders: Sequence[tuple[int, int]]) -> list[_Span]:
    """Spans that do not overlap, in order: what overlaps becomes one, of the type of the rule that stands first."""
    joined: list[_Span] = []
    for start, end, kind, value in sorted(spans, key=lambda span: span[0]):
        touched = [place for place in placeholders if place[0] < end and start < place[1]]
        # 1. What is a placeholder already stays. 2. What holds one and more takes it in.
        if any(first <= start and end <= last for first, last in touched):
            continue
        start, end = min([start, *(place[0] for place in touched)]), max([end, *(place[1] for place in touched)])
        if joined and start < joined[-1][1]:
            before = joined.pop()
            start, end = min(start, before[0]), max(end, before[1])
            kind, value = before[2], max(before[3], value, key=len)
        joined.append((start, end, kind, value))
    return joined


def _views(text: str) -> Iterator[tuple[str, list[int] | None]]:
    """The text, and what it says with its escapes taken away, each character with the place where it stands."""
    yield text, None
    for pattern, needed in ((_ESCAPE, "\\"), (_PERCENT, "%")):
        view, places = text, None
        for _ in range(_DEEPEST):
            if needed not in view or pattern.search(view) is None:
                break
            view, places = _decoded(view, places, pattern)
            yield view, places


def _decoded(text: str, places: list[int] | None, pattern: re.Pattern[str]) -> tuple[str, list[int]]:
    where = places or list(range(len(text) + 1))
    parts: list[str] = []
    mapped: list[int] = []
    at = 0
    for match in pattern.finditer(text):
        parts.append(text[at : match.start()])
        mapped += where[at : match.start()]
        if pattern is _ESCAPE and match[2]:
            parts.append(_SHORT.get(match[2], match[2]))
        else:
            parts.append(chr(int(match[1], 16)))
        mapped.append(where[match.start()])
        at = match.end()
    parts.append(text[at:])
    mapped += where[at:]
    return "".join(parts), mapped
