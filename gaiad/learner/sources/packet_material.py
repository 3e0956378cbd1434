"""The material that examples about cognition packets are made of: scenarios, plans, the pipeline and wordings.

Parses what lies in the curriculum's folder and says what contradicts itself in it. Makes no examples.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import jsonschema

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError

Edit: TypeAlias = "Mapping[str, int | Sequence[int | str]]"
"""How a sound plan is spoilt: {"drop": n}, {"move": [from, to]}, {"put": [at, text]} or {"say": [at, text]}."""

NEEDS = ("own", "general", "live")
"""What a request is about: the user's own things, what is generally known, or how things are at this moment."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request that a packet is about: what is asked, thought and replied, and the tool it takes ("" for none)."""

    id: str
    domain: str
    topic: str
    intent: str
    ask: str
    note: str
    reply: str
    tool: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way for a plan to be flawed: how an audit says it, and how sure of such a plan one can be (0..1)."""

    name: str
    says: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A sound plan, the one flaw that `edit` brings into it, and what is to be said of either form.

    `ask` and `again` are two wordings of the user's request; `merit` praises the sound plan, `gap` names the flaw.
    """

    id: str
    kind: Kind
    edit: Edit
    needs: str
    ask: str
    again: str
    goal: str
    steps: tuple[str, ...]
    gap: str
    merit: str
    fix: str

    def flawed(self) -> tuple[str, ...]:
        """The steps once the flaw is in.

        Raises:
            ValueError: where the edit is none, or names a step that there is not.
        """
        steps = list(self.steps)
        for name, given in self.edit.items():
            place = given if isinstance(given, int) else given[0]
            if not isinstance(place, int) or not 1 <= place <= len(steps) + (name == "put"):
                raise ValueError(f"there is no step {place}")
            match name, given:
                case "drop", int():
                    del steps[place - 1]
                case "move", [_, int(to)] if 1 <= to <= len(steps):
                    steps.insert(to - 1, steps.pop(place - 1))
                case "put", [_, str(text)]:
                    steps.insert(place - 1, text)
                case "say", [_, str(text)]:
                    steps[place - 1] = text
                case _:
                    raise ValueError(f"{name} {given} is no edit")
        return tuple(steps)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the pipeline: what it is for, and which fields it reads and writes; `asks` are questions about it."""

    name: str
    purpose: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that packets follow: the labelled answer `name: value`, why it is so, and questions about it."""

    id: str
    name: str
    value: str
    because: str
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wordings:
    """The system texts by task, the questions by task, and the questions about single fields by path."""

    systems: Mapping[str, str]
    questions: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Material:
    """Everything in the folder, parsed; `schema` is the JSON Schema that packets obey."""

    scenarios: tuple[Scenario, ...]
    plans: tuple[Plan, ...]
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...]
    wordings: Wordings
    schema: Mapping[str, Json]


FILES = ("scenarios.json", "plans.json", "pipeline.json", "wordings.json", "packet.schema.json")
"""The files of the material, in the order in which `parse_material` takes their texts."""

_SYSTEMS = ("audit", "reflection", "diagnosis", "look", "decision", "next", "annotation", "step", "rule")
_QUESTIONS = ("diagnosis", "decision", "next", "annotation")


def parse_material(texts: Sequence[str]) -> Material:
    """Parse the texts of `FILES`.

    Raises:
        CurriculumError: naming every file, plan and scenario that cannot be used.
    """
    problems: list[str] = []
    raw = [_parsed(name, text, problems) for name, text in zip(FILES, texts, strict=True)]
    if not problems:
        try:
            material = _material(*raw)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            problems.append(f"{_culprit(raw)}: {error!r}")
        else:
            problems.extend(_problems(material))
    if problems:
        raise CurriculumError("; ".join(problems), hint="mend these places in the curriculum's folder")
    return material


def _parsed(name: str, text: str, problems: list[str]) -> dict[str, Json]:
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{name} is not valid JSON: {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{name} must hold one object")
        return {}
    return value


def _material(
    scenarios: Mapping[str, Json],
    plans: Mapping[str, Json],
    pipeline: Mapping[str, Json],
    wordings: Mapping[str, Json],
    schema: Mapping[str, Json],
) -> Material:
    return Material(
        _scenarios(scenarios), _plans(plans), _steps(pipeline), _rules(pipeline), _wordings(wordings), schema
    )


def _culprit(raw: Sequence[Mapping[str, Json]]) -> str:
    """The first file whose part cannot be read by itself."""
    readers: tuple[tuple[str, Callable[[Mapping[str, Json]], object]], ...] = (
        ("scenarios.json", _scenarios),
        ("plans.json", _plans),
        ("pipeline.json", _steps),
        ("pipeline.json", _rules),
        ("wordings.json", _wordings),
    )
    parts = dict(zip(FILES, raw, strict=True))
    for name, reader in readers:
        try:
            reader(parts[name])
        except (KeyError, TypeError, AttributeError, ValueError, IndexError):
            return f"{name} cannot be read"
    return "the material cannot be read"


def _rows(value: Json) -> list[dict[str, Json]]:
    return cast("list[dict[str, Json]]", value)


def _texts(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise TypeError(f"{value!r} is no list of texts")
    return tuple(cast("list[str]", value))


def _text(row: Mapping[str, Json], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{key} is no text: {value!r}")
    return value


def _scenarios(raw: Mapping[str, Json]) -> tuple[Scenario, ...]:
    return tuple(_scenario(domain, row) for domain, rows in _named(raw["domains"]) for row in _rows(rows))


def _scenario(domain: str, row: Mapping[str, Json]) -> Scenario:
    return Scenario(
        id=_text(row, "id"),
        domain=domain,
        topic=_text(row, "topic"),
        intent=_text(row, "intent"),
        ask=_text(row, "ask"),
        note=_text(row, "note"),
        reply=_text(row, "reply"),
        tool=str(row.get("tool", "")),
        why=str(row.get("why", "")),
    )


def _plans(raw: Mapping[str, Json]) -> tuple[Plan, ...]:
    kinds = {name: _kind(name, cast("dict[str, Json]", row)) for name, row in _named(raw["kinds"])}
    return tuple(_plan(kinds, row) for row in _rows(raw["plans"]))


def _kind(name: str, row: Mapping[str, Json]) -> Kind:
    return Kind(name, _text(row, "says"), float(cast(float, row["confidence"])))


def _plan(kinds: Mapping[str, Kind], row: Mapping[str, Json]) -> Plan:
    return Plan(
        id=_text(row, "id"),
        kind=kinds[_text(row, "kind")],
        edit=cast("dict[str, int | list[int | str]]", row["edit"]),
        needs=_text(row, "needs"),
        ask=_text(row, "ask"),
        again=_text(row, "again"),
        goal=_text(row, "goal"),
        steps=_texts(row["steps"]),
        gap=_text(row, "gap"),
        merit=_text(row, "merit"),
        fix=_text(row, "fix"),
    )


def _named(value: Json) -> Iterable[tuple[str, Json]]:
    return cast("dict[str, Json]", value).items()


def _steps(raw: Mapping[str, Json]) -> tuple[Step, ...]:
    return tuple(
        Step(str(row["name"]), str(row["purpose"]), _texts(row["reads"]), _texts(row["writes"]), _texts(row["asks"]))
        for row in _rows(raw["steps"])
    )


def _rules(raw: Mapping[str, Json]) -> tuple[Rule, ...]:
    return tuple(
        Rule(str(row["id"]), str(row["name"]), str(row["value"]), str(row["because"]), _texts(row["asks"]))
        for row in _rows(raw["rules"])
    )


def _wordings(raw: Mapping[str, Json]) -> Wordings:
    systems = cast("dict[str, str]", raw["systems"])
    return Wordings(
        {name: str(systems[name]) for name in _SYSTEMS},
        {name: _texts(raw[name]) for name in _QUESTIONS},
        {path: _texts(asks) for path, asks in _named(raw["fields"])},
    )


def _problems(material: Material) -> Iterator[str]:
    """What parses and still cannot be right."""
    for what, ids in (
        ("scenarios", [one.id for one in material.scenarios]),
        ("plans", [one.id for one in material.plans]),
        ("steps", [one.name for one in material.steps]),
        ("rules", [one.id for one in material.rules]),
    ):
        if twice := sorted(name for name, count in Counter(ids).items() if count > 1):
            yield f"{what}: more than one is called {', '.join(twice)}"
        if not ids:
            yield f"{what}: there are none"
    for scenario in material.scenarios:
        if bool(scenario.tool) != bool(scenario.why):
            yield f"scenarios: {scenario.id} names a tool without a reason, or a reason without a tool"
    for plan in material.plans:
        yield from _plan_problems(plan)
    try:
        jsonschema.Draft202012Validator.check_schema(dict(material.schema))
    except jsonschema.SchemaError as error:
        yield f"packet.schema.json is no JSON Schema: {error.message}"


def _plan_problems(plan: Plan) -> Iterator[str]:
    if plan.needs not in NEEDS:
        yield f"plans: {plan.id} needs {plan.needs!r} (known: {', '.join(NEEDS)})"
    try:
        flawed = plan.flawed()
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        yield f"plans: the edit of {plan.id} does not fit its steps: {error}"
        return
    if flawed == plan.steps:
        yield f"plans: the edit of {plan.id} changes nothing"
