"""Questions about cognition packets, each with the answer that is right by construction.

`diagnosis` finds the one fault, `reading` the field that answers a question, `decision` says whether a tool may run,
`next_step` continues a trace, `annotation` names the step behind each field, `lore` is about the pipeline itself.
Everything follows from the material and the seed; labels take turns, so that none is common.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError
from gaiad.learner.sources.packet_faults import NONE, PLAIN_KINDS, TOOL_KINDS, broken, faults
from gaiad.learner.sources.packet_flow import (
    NO_REVIEW_FROM,
    REVIEW_THRESHOLD,
    STEPS,
    Course,
    Packet,
    drawn,
    get,
    packet,
    put,
    written,
)
from gaiad.learner.sources.packet_material import Material, Scenario, Step
from gaiad.learner.sources.packet_text import EMPTY, STYLES, leaves, said, shown

AUDIT_STAGE = "cognitive_audit"

_SECTIONS = ("header", "intent", "context", "reasoning", "response", "governance", "metrics", "status", "tool_routing")
_SOUND = "Every field that is shown is there, has a value it can have, and agrees with the others."
_PLAIN_NEXT = tuple(step for step in STEPS[1:] if step not in STEPS[3:7])
_TOOL_NEXT = (*STEPS[3:7], *STEPS[3:7], "planning")
_FATES = ("reviewed", "unreviewed", "skipped", "missing")
_LETTERS = "ABCD"
_UNTOLD = ("header.", "context.session_history_ref", "context.constraints", "governance.safety")
"""What a trace leaves out: it is the same for nearly every packet."""


@dataclass(frozen=True, slots=True)
class Posed:
    """One question with its answer: `request` is the user's message, `expected` what an exam compares with.

    `group` is never divided between splits, `place` says where in the material the question comes from.
    """

    system: str
    request: str
    answer: str
    expected: Mapping[str, Json]
    group: str
    place: str
    stage: str = AUDIT_STAGE


def labelled(lines: Mapping[str, str]) -> str:
    """An answer in labelled lines."""
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def diagnoses(material: Material, seed: int) -> Iterator[Posed]:
    """One packet a scenario, sound or with one fault.

    Raises:
        CurriculumError: where a packet does not have exactly the fault that was brought in.
    """
    turns: Counter[str] = Counter()
    for scenario, draw, kind in _turns(
        material, seed, "diagnosis", plain=(*PLAIN_KINDS, NONE), tool=(*TOOL_KINDS, NONE)
    ):
        course = drawn(scenario, draw, "reviewed")
        whole, field = packet(course, course.steps), NONE
        if kind != NONE:
            whole, field = broken(whole, kind, turns[kind], draw)
            turns[kind] += 1
        found = faults(whole, material.schema)
        if [(one.field, one.kind) for one in found] != ([(field, kind)] if kind != NONE else []):
            raise CurriculumError(
                f"{scenario.id}: a packet with the fault {kind} has {[one.kind for one in found]}",
                hint="mend packet.schema.json, or the scenario",
            )
        section = field.partition(".")[0] if kind != NONE else draw.choice(_SECTIONS)
        needed = {section, "governance", "tool_routing"} if kind == "execution_forbidden" else {section}
        needed |= {"status", "response"} if kind == "completed_without_answer" else set()
        text = _excerpt(whole, needed, draw, others=3)
        why = found[0].why if found else _SOUND
        yield Posed(
            material.wordings.systems["diagnosis"],
            _asked(draw.choice(material.wordings.questions["diagnosis"]), text, draw),
            labelled({"FIELD": field, "FAULT": kind, "WHY": why}),
            {"lines": {"FAULT": kind, "FIELD": field}},
            f"diagnosis/{kind}/{scenario.id}",
            f"scenarios/{scenario.id}",
        )


def readings(material: Material, seed: int) -> Iterator[Posed]:
    """One question a scenario about what a field holds."""
    fields = tuple(material.wordings.fields)
    turns: Counter[str] = Counter()
    for scenario, draw, field in _turns(material, seed, "reading", plain=fields, tool=fields):
        course = drawn(scenario, draw)
        whole = packet(course, course.steps)
        asks = material.wordings.fields[field]
        question = asks[turns[field] % len(asks)]
        turns[field] += 1
        value = said(get(whole, field))
        yield Posed(
            material.wordings.systems["look"],
            _asked(question, _excerpt(whole, {field.partition(".")[0]}, draw, others=2), draw),
            labelled({"FIELD": field, "VALUE": value}),
            {"lines": {"FIELD": field, "VALUE": value}},
            f"reading/{field}/{scenario.id}",
            f"scenarios/{scenario.id}",
        )


def decisions(material: Material, seed: int) -> Iterator[Posed]:
    """One question a scenario with a tool: may it run? Review given, skipped and missing take turns."""
    for scenario, draw, fate in _turns(material, seed, "decision", plain=(), tool=_FATES):
        course = drawn(scenario, draw, "reviewed" if fate == "missing" else fate)
        last = "tool_selection" if fate in ("unreviewed", "missing") else "tool_review"
        whole = packet(course, course.steps[: course.steps.index(last) + 1])
        # The status would give the decision away.
        put(whole, "tool_routing.execution_status", "awaiting_confidence")
        lines = _decided(course, fate)
        yield Posed(
            material.wordings.systems["decision"],
            _asked(
                draw.choice(material.wordings.questions["decision"]), _excerpt(whole, {"tool_routing"}, draw, 1), draw
            ),
            labelled(lines),
            {"lines": {name: lines[name] for name in ("RUN", "REVIEW", "CONFIDENCE")}},
            f"decision/{fate}/{scenario.id}",
            f"scenarios/{scenario.id}",
        )


def _decided(course: Course, fate: str) -> dict[str, str]:
    chosen, review = str(course.selection_confidence), str(course.review_confidence)
    match fate:
        case "missing":
            why = f"The selection is below {NO_REVIEW_FROM}, so a review has to come first."
            return {"REVIEW": "missing", "CONFIDENCE": NONE, "RUN": "no", "WHY": why}
        case "unreviewed":
            why = f"A selection of {NO_REVIEW_FROM} or more needs no review."
            return {"REVIEW": "skipped", "CONFIDENCE": chosen, "RUN": "yes", "WHY": why}
        case "skipped":
            why = f"The review is below {REVIEW_THRESHOLD}, so the tool is skipped."
            return {"REVIEW": "given", "CONFIDENCE": review, "RUN": "no", "WHY": why}
    why = f"The review reaches {REVIEW_THRESHOLD}, so the tool is approved."
    return {"REVIEW": "given", "CONFIDENCE": review, "RUN": "yes", "WHY": why}


def next_steps(material: Material, seed: int) -> Iterator[Posed]:
    """One trace a scenario, broken off before a step that is to be named."""
    known = {step.name: step for step in material.steps}
    for scenario, draw, name in _turns(material, seed, "next_step", plain=_PLAIN_NEXT, tool=_TOOL_NEXT):
        # A tool's trace that goes on with the plan is one whose tool was not run.
        fate = "skipped" if name == "planning" else "reviewed"
        if name == "tool_execution" and draw.random() < 0.5:
            fate = "unreviewed"
        course = drawn(scenario, draw, fate)
        done = course.steps[: course.steps.index(name)]
        lines = {"NEXT": name, "WRITES": ", ".join(known[name].writes), "WHY": _why_next(course, name, known[name])}
        yield Posed(
            material.wordings.systems["next"],
            _asked(draw.choice(material.wordings.questions["next"]), _trace(course, done, known), draw),
            labelled(lines),
            {"lines": {one: lines[one] for one in ("NEXT", "WRITES")}},
            f"next_step/{name}/{scenario.id}",
            f"scenarios/{scenario.id}",
        )


def _trace(course: Course, done: Sequence[str], known: Mapping[str, Step]) -> str:
    """What each step wrote, one step a line; values that say nothing are left out."""
    lines = [f"trace of {course.ident}"]
    for step in done:
        values: Packet = {}
        for path, value in written(course, step).items():
            put(values, path, value)
        parts = [
            f"{path} {said(value)}"
            for field in known[step].writes
            for path, value in leaves(field, get(values, field))
            if not path.startswith(_UNTOLD) and said(value) != EMPTY
        ]
        lines.append(f"{step}: {', '.join(parts) or 'nothing new'}")
    return "\n".join(lines)


def _why_next(course: Course, name: str, step: Step) -> str:
    chosen, review = course.selection_confidence, course.review_confidence
    reasons = {
        "tool_selection": "A tool is needed and none has been selected",
        "tool_review": f"The selection has {chosen}, which is below {NO_REVIEW_FROM}",
        "tool_execution": f"The review gave {review}"
        if course.reviewed
        else f"The selection has {chosen} and needs no review",
        "reinjection": "The tool has left a result",
        "planning": f"The review gave only {review}, so the tool is skipped"
        if course.scenario.tool
        else "No tool is needed",
    }
    return f"{reasons.get(name, 'The step before is done')}; {name} {step.purpose}."


def annotated(material: Material, seed: int) -> Iterator[Posed]:
    """One packet a scenario with four fields, each to be traced back to the only step that writes it."""
    writers = Counter(field for step in material.steps for field in step.writes)
    owner = {field: step.name for step in material.steps for field in step.writes if writers[field] == 1}
    plain = tuple(dict.fromkeys(step for step in owner.values() if step not in STEPS[3:7]))
    tool = tuple(step for step in STEPS[3:7] if step in owner.values())
    for scenario, draw, first in _turns(material, seed, "annotation", plain=plain, tool=(*tool, *plain[:2])):
        course = drawn(scenario, draw, "reviewed")
        whole = packet(course, course.steps)
        mine = [field for field in owner if owner[field] in course.steps and get(whole, field) is not None]
        leading = draw.choice([field for field in mine if owner[field] == first])
        others = [field for field in mine if owner[field] != first]
        fields = [leading, *draw.sample(others, len(_LETTERS) - 1)]
        listed = "\n".join(f"{letter}: {field}" for letter, field in zip(_LETTERS, fields, strict=True))
        lines = {letter: owner[field] for letter, field in zip(_LETTERS, fields, strict=True)}
        sections = {field.partition(".")[0] for field in fields}
        question = draw.choice(material.wordings.questions["annotation"])
        yield Posed(
            material.wordings.systems["annotation"],
            f"{question}\n\n{listed}\n\n{_excerpt(whole, sections, draw, 0)}",
            labelled(lines),
            {"lines": dict(lines)},
            f"annotation/{first}/{scenario.id}",
            f"scenarios/{scenario.id}",
        )


def lore(material: Material, seed: int) -> Iterator[Posed]:
    """Questions about steps and rules, each in several wordings; nothing is drawn, so `seed` does not matter."""
    del seed
    for step in material.steps:
        lines = {
            "STEP": step.name,
            "PURPOSE": step.purpose,
            "READS": ", ".join(step.reads),
            "WRITES": ", ".join(step.writes),
        }
        expected: dict[str, Json] = {"STEP": step.name, "READS": lines["READS"], "WRITES": lines["WRITES"]}
        for at, ask in enumerate(step.asks):
            group, place = f"lore/steps/{step.name}/{at}", f"pipeline/{step.name}"
            yield Posed(material.wordings.systems["step"], ask, labelled(lines), {"lines": expected}, group, place)
    for rule in material.rules:
        for at, ask in enumerate(rule.asks):
            answer = labelled({rule.name: rule.value, "WHY": rule.because})
            expects: dict[str, Json] = {"lines": {rule.name: rule.value}}
            group, place = f"lore/rules/{rule.id}/{at}", f"pipeline/{rule.id}"
            yield Posed(material.wordings.systems["rule"], ask, answer, expects, group, place)


def _turns(
    material: Material, seed: int, task: str, *, plain: Sequence[str], tool: Sequence[str]
) -> Iterator[tuple[Scenario, random.Random, str]]:
    """Every scenario in a drawn order with its own draw and the label whose turn it is; no labels, no scenario."""
    order = list(material.scenarios)
    random.Random(f"{seed}/{task}").shuffle(order)
    given: Counter[bool] = Counter()
    for scenario in order:
        labels = tool if scenario.tool else plain
        if labels:
            label = labels[given[bool(scenario.tool)] % len(labels)]
            given[bool(scenario.tool)] += 1
            yield scenario, random.Random(f"{seed}/{task}/{scenario.id}"), label


def _excerpt(whole: Packet, needed: set[str], draw: random.Random, others: int) -> str:
    """The needed sections, the request, and some others, in a drawn order and style."""
    more = [name for name in _SECTIONS if name not in needed]
    sections = [*sorted(needed | {"content"}), *draw.sample(more, others)]
    draw.shuffle(sections)
    return shown(whole, sections, draw.choice(STYLES))


def _asked(question: str, text: str, draw: random.Random) -> str:
    return f"{question}\n\n{text}" if draw.random() < 0.6 else f"{text}\n\n{question}"


Task = Callable[[Material, int], Iterator[Posed]]
