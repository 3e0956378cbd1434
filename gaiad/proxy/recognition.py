"""Which stage a request that names none belongs to, by rules that are data.

Decides by score: each rule adds up the features that a request has; the highest wins, and below its threshold, or level
with a rule of another stage, nothing is recognised. Most requests fit no rule, so the texts are first searched for what
a rule cannot do without, each writer's for its own phrases; the rest is looked at only where something was found. Takes
text and JSON, reads no file. Which adapter serves the stage is `routing`'s to decide.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from posixpath import commonprefix
from typing import Any, cast

from gaiad.curriculum import Json
from gaiad.errors import ConfigError
from gaiad.proxy.body import PlainMessage
from gaiad.proxy.features import (
    Feature,
    Fields,
    FieldValue,
    MessageCount,
    Phrase,
    RequestView,
    SchemaNames,
    schemas_of,
    texts_of,
)
from gaiad.proxy.passages import Documents, Texts, Where
from gaiad.proxy.rule_schema import kind_of, problems_of

REASON_PREFIX = "rule:"
_BEGINNING = 6
# Sums of decimals: a rule that can just reach its threshold is not passed over for the last bit.
_DUST = 1e-6
_REMEMBERED = 8192
"""Longer system texts, in characters, are searched each time."""
_HINT = "stage_rules.schema.json beside the shipped rules describes every key; mend them all and try again"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One feature that a request has, and what it counted."""

    feature: str
    weight: float


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which a stage shows."""

    id: str
    stage: str
    threshold: float
    features: tuple[Feature, ...]
    note: str = ""
    _order: tuple[tuple[Feature, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Strong ones first, each with all that it and those behind it can still add.
        features = sorted(self.features, key=lambda one: not one.strong)
        gains = [max(0.0, one.weight) for one in features]
        object.__setattr__(self, "_order", tuple((one, sum(gains[at:])) for at, one in enumerate(features)))

    def score(self, view: RequestView) -> RuleScore | None:
        """How well the rule fits, or None as soon as it can no longer reach its threshold."""
        total, had = 0.0, []
        for feature, left in self._order:
            if total + left < self.threshold - _DUST:
                return None
            share = feature.share(view)
            if share:
                total += feature.weight * share
                had.append((feature, share))
        # Sums of decimals: level is level, whatever the order of adding.
        return RuleScore(self, round(total, 6), tuple(had))

    def full_score(self, view: RequestView) -> RuleScore:
        """How well the rule fits, whether it reaches its threshold or not."""
        had = [(feature, share) for feature, _ in self._order if (share := feature.share(view))]
        return RuleScore(self, round(sum(feature.weight * share for feature, share in had), 6), tuple(had))

    def anchors(self) -> list[Feature]:
        """The fewest strong features such that the rule cannot reach its threshold without any of them."""
        left = sum(feature.weight for feature in self.features if feature.weight > 0)
        anchors = []
        for feature in sorted(self._strong(), key=lambda one: -one.weight):
            if left < self.threshold - _DUST:
                break
            anchors.append(feature)
            left -= feature.weight
        return anchors

    def problems(self) -> Iterator[str]:
        """What is wrong with how its parts go together."""
        most = sum(feature.weight for feature in self.features if feature.weight > 0)
        weak = most - sum(feature.weight for feature in self._strong())
        if most < self.threshold - _DUST:
            yield f"rule {self.id!r} threshold: {self.threshold:g} is above {most:g}, all that its features can reach"
        if weak > self.threshold - _DUST:
            yield (
                f"rule {self.id!r} threshold: sampling, fields and counts alone reach it ({weak:g}); "
                "only a phrase or a schema may name a stage"
            )

    def _strong(self) -> list[Feature]:
        return [feature for feature in self.features if feature.weight > 0 and feature.strong]


@dataclass(frozen=True, slots=True)
class RuleScore:
    """How well one rule fits a request."""

    rule: Rule
    score: float
    had: tuple[tuple[Feature, float], ...]

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The features that the request has, in words."""
        return tuple(Evidence(feature.shown, feature.weight * share) for feature, share in self.had)


@dataclass(frozen=True, slots=True)
class Recognised:
    """The stage of a request, the rule that said so, and why."""

    stage: str
    rule: str
    score: float
    evidence: tuple[Evidence, ...]

    @property
    def reason(self) -> str:
        """What stands in `X-Gaia-Stage-Reason`."""
        return f"{REASON_PREFIX}{self.rule}"


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """What is looked for first in one writer's texts: a bit a rule. `groups` share a beginning, looked for once."""

    where: Where
    starts: tuple[tuple[str, int], ...]
    first: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]

    def found_in(self, text: str) -> int:
        """The rules whose phrases occur in `text`."""
        rules = 0
        if self.first and text.startswith(self.first):
            for phrase, bits in self.starts:
                if text.startswith(phrase):
                    rules |= bits
        for beginning, members in self.groups:
            if beginning in text:
                for phrase, bits in members:
                    if phrase in text:
                        rules |= bits
        return rules


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, ready to be asked. `skipped`: rules of stages that this configuration does not have."""

    rules: tuple[Rule, ...] = ()
    documents: Documents = field(default_factory=Documents)
    skipped: tuple[Rule, ...] = ()
    _searches: tuple[_Search, ...] = field(init=False, repr=False)
    _schemas: Mapping[frozenset[str], int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        starts: dict[Where, dict[str, int]] = {}
        inside: dict[Where, dict[str, int]] = {}
        schemas: dict[frozenset[str], int] = {}
        for number, rule in enumerate(self.rules):
            for anchor in rule.anchors():
                if isinstance(anchor, SchemaNames):
                    schemas[anchor.names] = schemas.get(anchor.names, 0) | 1 << number
                elif isinstance(anchor, Phrase):
                    kind = starts if anchor.place == "start" else inside
                    known = kind.setdefault(anchor.where, {})
                    known[anchor.text] = known.get(anchor.text, 0) | 1 << number
        searches = (
            _Search(
                where,
                tuple(starts.get(where, {}).items()),
                tuple(starts.get(where, ())),
                _grouped(inside.get(where, {})),
            )
            for where in sorted({*starts, *inside})
        )
        object.__setattr__(self, "_searches", tuple(searches))
        object.__setattr__(self, "_schemas", schemas)

    def recognise(self, fields: Fields, plain: Sequence[PlainMessage] | None = None) -> Recognised | None:
        """The stage of a request, or None where no rule says one.

        `fields`: the body's top level, undecoded; `plain`: its messages, where somebody found them to be plain.
        """
        texts = texts_of(fields, plain)
        candidates = self._candidates(fields, texts)
        if not candidates:
            return None
        view = RequestView(fields, self.documents, texts)
        rules = (rule for number, rule in enumerate(self.rules) if candidates >> number & 1)
        best = winner([found for rule in rules if (found := rule.score(view)) is not None])
        return Recognised(best.rule.stage, best.rule.id, best.score, best.evidence) if best else None

    def explain(self, fields: Fields) -> list[RuleScore]:
        """How well every rule fits, best first."""
        view = RequestView(fields, self.documents, texts_of(fields))
        return sorted((rule.full_score(view) for rule in self.rules), key=lambda one: -one.score)

    def _candidates(self, fields: Fields, texts: Texts) -> int:
        """The rules that might reach their threshold, a bit each; never one too few."""
        found = 0
        for search in self._searches:
            # A program sends the same system text again and again; what people write is not worth remembering.
            again = search.where == "system"
            for text in texts.of(search.where):
                found |= _found_again(search, text) if again and len(text) <= _REMEMBERED else search.found_in(text)
        for names in schemas_of(fields):
            found |= self._schemas.get(names, 0)
        return found


@lru_cache(maxsize=64)
def _found_again(search: _Search, text: str) -> int:
    return search.found_in(text)


def _grouped(phrases: Mapping[str, int]) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """Phrases with the same beginning together: a text without the beginning holds none of them."""
    groups: list[tuple[str, list[str]]] = []
    for phrase in sorted(phrases):
        shared = commonprefix([groups[-1][0], phrase]) if groups else ""
        if len(shared) >= _BEGINNING:
            groups[-1] = (shared, [*groups[-1][1], phrase])
        else:
            groups.append((phrase, [phrase]))
    return tuple((beginning, tuple((one, phrases[one]) for one in members)) for beginning, members in groups)


def winner(scores: Sequence[RuleScore]) -> RuleScore | None:
    """The highest of the rules that reached their threshold, or None where none did or two stages are level."""
    reached = [one for one in scores if one.score >= one.rule.threshold]
    if not reached:
        return None
    best = max(reached, key=lambda one: one.score)
    level = any(one.score == best.score and one.rule.stage != best.rule.stage for one in reached)
    return None if level else best


def parse_rules(text: str, stages: Collection[str]) -> Rules:
    """Parse a rules file for a configuration that has `stages`; rules of other stages are skipped.

    Raises:
        ConfigError: naming every problem at once, each with its rule and key.
    """
    try:
        document: Json = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the stage rules are not valid JSON: {error}", hint="mend the place it names") from error
    problems = list(problems_of(document))
    if not problems:
        spec = cast("dict[str, Any]", document)
        problems = list(_disagreements(spec))
        if not problems:
            rules = [_rule(given, spec.get("shared", {})) for given in spec["rules"]]
            problems = [problem for rule in rules for problem in rule.problems()]
    if problems:
        raise ConfigError("; ".join(problems), hint=_HINT)
    kept = tuple(rule for rule in rules if rule.stage in stages)
    return Rules(kept, _documents(spec), tuple(rule for rule in rules if rule.stage not in stages))


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not allowed")


def _disagreements(spec: Mapping[str, Any]) -> Iterator[str]:
    seen: set[str] = set()
    for rule in spec["rules"]:
        if rule["id"] in seen:
            yield f"rule {rule['id']!r} id: another rule has it too"
        seen.add(rule["id"])
        unknown = [name for name in rule.get("include", ()) if name not in spec.get("shared", {})]
        yield from (f"rule {rule['id']!r} include: there is no {name!r} among `shared`" for name in unknown)


def _rule(given: Mapping[str, Any], shared: Mapping[str, Sequence[Any]]) -> Rule:
    features = [*given["features"], *(one for name in given.get("include", ()) for one in shared[name])]
    built = tuple(_feature(feature) for feature in features)
    return Rule(given["id"], given["stage"], float(given["threshold"]), built, given.get("note", ""))


def _feature(given: Mapping[str, Any]) -> Feature:
    weight = float(given["weight"])
    match kind_of(cast(Json, given)):
        case "phrase":
            return Phrase(weight, given["phrase"], given["in"], given["place"])
        case "schema":
            return SchemaNames(weight, frozenset(given["schema"]))
        case "messages_at_most":
            return MessageCount(weight, given["messages_at_most"])
        case _:
            return FieldValue(
                weight, given["field"], **{k: v for k, v in given.items() if k not in ("field", "weight")}
            )


def _documents(spec: Mapping[str, Any]) -> Documents:
    given = spec.get("documents")
    return (
        Documents(tuple(given["opened_by"]), tuple(given["closed_by"]), float(given["share"])) if given else Documents()
    )
