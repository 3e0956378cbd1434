"""Judgements whose truth is known by construction: reviews of tool selections, confidence, intents, world states.

A right selection is one that the request's own template gives; a wrong one differs from it in exactly one thing, which
the review then names. Confidence follows from what is at hand and what the task needs. Everything follows from the
seed; reads no file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Message
from gaiad.learner.sources.requests import NO_TOOL, Intent, Material, Spoken, spoken

REVIEW, CONFIDENCE, INTENT, WORLD_STATE = "tool_review", "confidence", "intent", "world_state"

_RIGHT_SHARE = 0.45
_SURE = {"wrong_tool": 0.93, "wrong_action": 0.9, "wrong_value": 0.96, "missing_value": 0.92, "needless": 0.88}
_SURE |= {"missed": 0.86}
_LISTS = ("models", "tools")


@dataclass(frozen=True, slots=True)
class Judged:
    """One request for a judgement, the right answer, what an exam expects, and the group that is never divided."""

    messages: tuple[Message, ...]
    answer: str
    expected: Mapping[str, Json]
    group: str
    place: str


@dataclass(frozen=True, slots=True)
class Selection:
    """A tool selection under review: tool ("" for none), action and the other parameters."""

    tool: str
    action: str
    params: Mapping[str, Json]


class Judgements:
    """The material of `judgement.json`, which wording and tasks come from.

    Raises:
        CurriculumError: a part or a key of it is missing.
    """

    def __init__(self, text: str, material: Material) -> None:
        try:
            self._parts: dict[str, Any] = json.loads(text)
            missing = [name for name in ("review", *_PARTS[1:]) if name not in self._parts]
        except (ValueError, TypeError) as error:
            raise CurriculumError(f"judgement.json cannot be read: {error}", hint="mend the place it names") from error
        if missing:
            raise CurriculumError(f"judgement.json lacks {', '.join(missing)}", hint="restore the curriculum's folder")
        self._material = material

    def of(self, part: str, seed: int) -> Iterator[Judged]:
        """All judgements of one part, in the material's order.

        Raises:
            CurriculumError: there is no such part, or its material lacks a key.
        """
        makers = {
            REVIEW: self._reviews,
            CONFIDENCE: self._confidences,
            INTENT: self._intents,
            WORLD_STATE: self._states,
        }
        if part not in makers:
            raise CurriculumError(f"sources: no judgements of {part!r}", hint=f"known: {', '.join(makers)}")
        try:
            yield from makers[part](seed)
        except (KeyError, TypeError, IndexError) as error:
            raise CurriculumError(
                f"judgement.json lacks something for {part}: {error!r}", hint="restore the curriculum's folder"
            ) from error

    # --- reviews ----------------------------------------------------------------------------------------------------

    def _reviews(self, seed: int) -> Iterator[Judged]:
        words = self._parts["review"]
        intents = self._material.intents
        # The second form of each template: the first, plain one is what tool selection is surely made of.
        for one in list(spoken(self._material, intents, fills=2, seed=seed))[1::2]:
            draw = random.Random(f"{seed}/review/{one.group}")
            fault, selection, facts = self._selected(one, draw)
            reasoning = draw.choice(words[fault]).format(said=one.deciding, **facts)
            sure = round((one.confidence + _SURE.get(fault, one.confidence)) / 2, 2)
            approved = fault in ("approved", "declined")
            answer = {"approved": approved, "confidence": sure, "reasoning": reasoning}
            asked = "\n".join([draw.choice(words["opening"]), *_shown(one, selection)])
            yield Judged(
                (Message("system", words["system"]), Message("user", asked)),
                json.dumps(answer, ensure_ascii=False, separators=(",", ":")),
                {"fields": {"approved": approved}},
                one.group,
                f"review/{fault}/{one.group}",
            )

    def _selected(self, one: Spoken, draw: random.Random) -> tuple[str, Selection, dict[str, str]]:
        """What was selected for a request: the right thing, or one that differs in one thing, and the facts to name."""
        right = Selection("" if one.intent.tool == NO_TOOL else one.intent.tool, one.intent.action, one.params)
        if draw.random() < _RIGHT_SHARE:
            return "approved" if right.tool else "declined", right, {}
        if not right.tool:
            chosen = draw.choice([intent for intent in self._material.intents if intent.tool != NO_TOOL])
            return "needless", self._of(chosen, one, draw), {"chosen": chosen.tool}
        faults = ["wrong_tool", "wrong_action", "missed", *(["wrong_value", "missing_value"] * bool(one.params))]
        fault = draw.choice(faults)
        if fault == "missed":
            return fault, Selection("", "", {}), {"right": right.tool}
        if fault in ("wrong_value", "missing_value"):
            return self._spoiled(fault, one, right, draw)
        return self._another(fault, one, right, draw)

    def _another(
        self, fault: str, one: Spoken, right: Selection, draw: random.Random
    ) -> tuple[str, Selection, dict[str, str]]:
        """Another tool that is easily taken for the right one, or another action of the right one."""
        confusions: Mapping[str, str] = self._parts["review"]["confusions"]
        tool = confusions.get(right.tool, right.tool) if fault == "wrong_tool" else right.tool
        others = [other for other in self._material.intents if other.tool == tool and other.name != one.intent.name]
        if not others:
            return "missed", Selection("", "", {}), {"right": right.tool}
        chosen = draw.choice(others)
        facts = {"right": right.tool, "chosen": tool, "right_action": right.action, "chosen_action": chosen.action}
        return fault, self._of(chosen, one, draw), facts

    def _of(self, intent: Intent, one: Spoken, draw: random.Random) -> Selection:
        """A selection of `intent` for a request that did not ask for it: its values are taken from the request."""
        said = [value for value in one.params.values() if isinstance(value, str)] or [one.deciding]
        return Selection(intent.tool, intent.action, {name: draw.choice(said) for name in intent.params})

    def _spoiled(
        self, fault: str, one: Spoken, right: Selection, draw: random.Random
    ) -> tuple[str, Selection, dict[str, str]]:
        """The right selection with one value left out, or with another value of the same kind."""
        key = draw.choice(sorted(right.params))
        value = str(right.params[key])
        if fault == "missing_value":
            kept = {name: given for name, given in right.params.items() if name != key}
            return fault, Selection(right.tool, right.action, kept), {"key": key, "value": value}
        slot = one.intent.params[key].strip("{}")
        choices = [given[1] if isinstance(given, list) else given for given in self._material.slots.get(slot, [])]
        other = [given for given in choices if str(given) != value and str(given) not in one.text]
        if not other:
            return "approved", right, {}
        wrong = draw.choice(other)
        params = {**right.params, key: wrong}
        return fault, Selection(right.tool, right.action, params), {"key": key, "value": value, "wrong": str(wrong)}

    # --- confidence -------------------------------------------------------------------------------------------------

    def _confidences(self, seed: int) -> Iterator[Judged]:
        words = self._parts["confidence"]
        for number, task in enumerate(words["tasks"]):
            outcomes = {"never": ["no", "no"], "always": ["yes", "yes"], "depends": ["yes", "partly", "no"]}
            for form, outcome in enumerate(outcomes[task["kind"]]):
                draw = random.Random(f"{seed}/confidence/{number}/{form}")
                at_hand = draw.sample(words["asides"], 4)
                if task["kind"] == "depends" and outcome != "no":
                    pattern = draw.choice(words["present" if outcome == "yes" else "partial"])
                    at_hand[draw.randrange(len(at_hand))] = pattern.format(needs=task["needs"])
                asked = f"{draw.choice(words['opening'])}\nTask: {task['task']}\nAt hand: {'; '.join(at_hand)}."
                yield Judged(
                    (Message("system", words["system"]), Message("user", asked)),
                    _assessed(task, outcome, draw),
                    {"lines": {"CAN_ATTEMPT": outcome}},
                    f"confidence/{number:02d}",
                    f"confidence/{number:02d}/{form}",
                )

    # --- intents ----------------------------------------------------------------------------------------------------

    def _intents(self, seed: int) -> Iterator[Judged]:
        words = self._parts["intent"]
        system = words["system"].format(labels=", ".join(words["said"]))
        for label, sayings in words["said"].items():
            for number, said in enumerate(sayings):
                draw = random.Random(f"{seed}/intent/{label}/{number}")
                shown = said[:1].upper() + said[1:] if draw.random() < 0.6 else said
                shown += draw.choice(["", "", ".", "!"])
                messages = (Message("system", system), Message("user", shown))
                place = f"intent.{label}/{number:02d}"
                yield Judged(messages, label, {"label": label}, place, place)

    # --- world states -----------------------------------------------------------------------------------------------

    def _states(self, seed: int) -> Iterator[Judged]:
        words = self._parts["world_state"]
        for number, question in enumerate(words["questions"]):
            draw = random.Random(f"{seed}/state/{number}")
            state: dict[str, Json] = {key: draw.choice(values) for key, values in words["keys"].items()}
            for name in _LISTS:
                state[name] = draw.sample(words[name], draw.randint(2, 4))
            order = draw.sample(sorted(state), len(state))
            report = "; ".join(draw.choice(words["lines"][key]).format(**{key: _said(state[key])}) for key in order)
            wanted = {key: state[key] for key in _asked_for(question, state)}
            place = f"state/{number:02d}"
            yield Judged(
                (Message("system", words["system"]), Message("user", f"{question}\nReport: {report}.")),
                json.dumps(wanted, ensure_ascii=False, separators=(",", ":")),
                {"fields": {**wanted}},
                place,
                place,
            )


_PARTS = (REVIEW, CONFIDENCE, INTENT, WORLD_STATE)
_NAMED = {
    "load": ("load",),
    "memory": ("memory",),
    "uptime": ("uptime", "how long"),
    "mood": ("mood", "feeling"),
    "models": ("models", "what is loaded"),
    "tools": ("tools",),
}
"""The words by which a question asks for a key."""


def _asked_for(question: str, state: Mapping[str, Json]) -> list[str]:
    """The keys that a question names, in the question's order."""
    text = question.casefold()
    places = {key: min((text.find(word) for word in _NAMED[key] if word in text), default=-1) for key in state}
    return sorted((key for key in places if places[key] >= 0), key=lambda key: places[key])


def _said(value: Json) -> str:
    names = cast("Sequence[str]", value) if isinstance(value, list) else [str(value)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _shown(one: Spoken, selection: Selection) -> list[str]:
    """The request and the selection as the reviewer sees them."""
    values = [f"{name} = {value}" for name, value in selection.params.items()]
    chosen = f"{selection.tool} {selection.action}" if selection.tool else "no tool"
    return [f"Request: {one.text}", f"Selected: {chosen}", f"Values: {'; '.join(values) or 'none'}"]


def _assessed(task: Mapping[str, str], outcome: str, draw: random.Random) -> str:
    """The four lines, with a number that falls with what is missing."""
    low, high = {"yes": (0.86, 0.96), "partly": (0.42, 0.6), "no": (0.03, 0.16)}[outcome]
    needs, how = task["needs"], task["how"]
    if outcome == "yes":
        reasoning = f"{how}; {'this needs nothing else' if task['kind'] == 'always' else f'{needs} is at hand'}"
    elif outcome == "partly":
        reasoning = f"{how}, but what is at hand of {needs} is not enough to be sure"
    else:
        reasoning = f"{how}, so this cannot be done" if task["kind"] == "never" else f"{needs} is not at hand"
    lines = {
        "CONFIDENCE": f"{draw.uniform(low, high):.2f}",
        "CAN_ATTEMPT": outcome,
        "REASONING": reasoning,
        "ALTERNATIVE": "none needed" if outcome == "yes" else task["otherwise"],
    }
    return "\n".join(f"{name}: {text}" for name, text in lines.items())
