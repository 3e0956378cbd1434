"""Faults of cognition packets: bringing exactly one into a sound packet, and finding those that are there.

Breaking and finding are written apart from each other, so that one proves the other. The shape of packets comes from
their JSON Schema; how fields must agree stands here.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jsonschema

from gaiad.curriculum import Json
from gaiad.learner.sources.packet_flow import MAX_ROUNDS, NO_REVIEW_FROM, REVIEW_THRESHOLD, Packet, get, put, remove

NONE = "none"
"""The field and the fault of a sound packet."""

PLAIN_KINDS = (
    "missing_field",
    "wrong_value",
    "out_of_range",
    "wrong_type",
    "tool_without_need",
    "completed_without_answer",
    "final_but_unfinished",
    "ended_but_open",
    "wrong_sum",
    "own_parent",
)
"""Faults that any finished packet can have."""

TOOL_KINDS = (
    "no_tool_selected",
    "run_below_threshold",
    "executed_without_result",
    "result_without_execution",
    "too_many_rounds",
    "execution_forbidden",
)
"""Faults that only a packet with a reviewed and executed tool can have."""

_REQUIRED = (
    "header.packet_id",
    "header.origin",
    "header.persona.role",
    "header.routing.target_engine",
    "intent.user_intent",
    "intent.system_task",
    "intent.confidence",
    "context.constraints.max_tokens",
    "response.confidence",
    "metrics.latency_ms",
    "metrics.token_usage.total_tokens",
    "status.state",
)
_STRANGE: dict[str, tuple[str, ...]] = {
    "header.origin": ("nowhere", "guest", "printer"),
    "header.persona.role": ("Oracle", "Pirate", "Clerk"),
    "header.routing.target_engine": ("Turbo", "Abacus", "Second"),
    "intent.system_task": ("Ponder", "GuessWildly", "Sing"),
    "status.state": ("finished", "dreaming", "almost_ready"),
    "tool_routing.execution_status": ("maybe", "running_late", "forgotten"),
}
_CONFIDENCES = ("intent.confidence", "response.confidence", "tool_routing.review_confidence")
_RETYPED: dict[str, tuple[str, ...]] = {
    "status.finalized": ("probably", "almost", "ask later"),
    "metrics.latency_ms": ("quick", "an instant", "not long"),
    "response.confidence": ("rather sure", "high", "fair"),
    "context.constraints.max_tokens": ("plenty", "a page", "as few as can be"),
    "header.routing.priority": ("urgent", "low", "soon"),
}
_UNFINISHED = ("processing", "awaiting_tool", "ready_to_stream", "awaiting_human")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a packet: the field to look at, the kind of fault, and why it is one."""

    field: str
    kind: str
    why: str


def broken(packet: Mapping[str, Json], kind: str, turn: int, draw: random.Random) -> tuple[Packet, str]:
    """A copy of a finished, sound packet with one fault of `kind` in it, and the field the fault is in.

    `turn` counts the packets that got this kind, so that each field has its turn.

    Raises:
        ValueError: where there is no such kind.
    """
    result = copy.deepcopy(dict(packet))
    match kind:
        case "missing_field":
            field = _REQUIRED[turn % len(_REQUIRED)]
            remove(result, field)
            return result, field
        case "wrong_value":
            field = list(_STRANGE)[turn % len(_STRANGE)]
            put(result, field, draw.choice(_STRANGE[field]))
            return result, field
        case "out_of_range":
            field = _CONFIDENCES[turn % len(_CONFIDENCES)]
            put(result, field, draw.choice((1.2, 1.4, 7.5, 85, -0.3)))
            return result, field
        case "wrong_type":
            field = list(_RETYPED)[turn % len(_RETYPED)]
            put(result, field, draw.choice(_RETYPED[field]))
            return result, field
    if kind not in (*PLAIN_KINDS, *TOOL_KINDS):
        raise ValueError(f"no fault is called {kind!r}")
    field, changes = _contradiction(result, kind, draw)
    for path, value in changes.items():
        put(result, path, value)
    return result, field


def _contradiction(packet: Mapping[str, Json], kind: str, draw: random.Random) -> tuple[str, dict[str, Json]]:
    """The field to blame and the changes that make two fields disagree."""
    routing = "tool_routing."
    stray: Json = {"tool_name": "web", "selection_reasoning": "might be of use", "selection_confidence": 0.8}
    total = get(packet, "metrics.token_usage.total_tokens")
    options: dict[str, tuple[str, dict[str, Json]]] = {
        "tool_without_need": (f"{routing}selected_tool", {f"{routing}selected_tool": stray}),
        "completed_without_answer": ("response.candidate", {"response.candidate": ""}),
        "final_but_unfinished": ("status.state", {"status.state": draw.choice(_UNFINISHED)}),
        "ended_but_open": ("status.finalized", {"status.finalized": False}),
        "wrong_sum": (
            "metrics.token_usage.total_tokens",
            {"metrics.token_usage.total_tokens": total + draw.randint(3, 400) if isinstance(total, int) else 1},
        ),
        "own_parent": ("header.parent_packet_id", {"header.parent_packet_id": get(packet, "header.packet_id")}),
        "no_tool_selected": (f"{routing}selected_tool", {f"{routing}selected_tool": None}),
        "run_below_threshold": (
            f"{routing}review_confidence",
            {f"{routing}review_confidence": draw.randint(25, 69) / 100},
        ),
        "executed_without_result": (f"{routing}execution_result", {f"{routing}execution_result": None}),
        "result_without_execution": (
            f"{routing}execution_status",
            {f"{routing}execution_status": draw.choice(("skipped", "user_denied", "pending"))},
        ),
        "too_many_rounds": (f"{routing}reinjection_count", {f"{routing}reinjection_count": draw.randint(4, 9)}),
        "execution_forbidden": (
            "governance.safety.execution_allowed",
            {"governance.safety.execution_allowed": False},
        ),
    }
    return options[kind]


def faults(packet: Mapping[str, Json], schema: Mapping[str, Json]) -> tuple[Fault, ...]:
    """Everything that is wrong with `packet`: its shape by the schema, then how its fields disagree."""
    return (*_of_shape(packet, schema), *_of_ending(packet), *_of_tools(packet), *_of_numbers(packet))


def _of_shape(packet: Mapping[str, Json], schema: Mapping[str, Json]) -> Iterator[Fault]:
    """What each field is by itself; how fields agree, which the schema says too, is found below with its name."""
    shape = {key: value for key, value in schema.items() if key != "allOf"}
    found = jsonschema.Draft202012Validator(shape).iter_errors(dict(packet))
    for error in sorted(found, key=lambda one: (list(map(str, one.absolute_path)), one.message)):
        field = ".".join(str(step) for step in error.absolute_path)
        value = error.instance
        match error.validator:
            case "required":
                missing = next(name for name in error.validator_value if name not in value)
                field = f"{field}.{missing}" if field else str(missing)
                yield Fault(field, "missing_field", f"Every packet needs {field}, and it is not there.")
            case "enum":
                yield Fault(field, "wrong_value", f"{value} is none of the values that {field} can have.")
            case "minimum" | "maximum" if field == "tool_routing.reinjection_count":
                why = f"The packet was reinjected {value} times, and {MAX_ROUNDS} is the most."
                yield Fault(field, "too_many_rounds", why)
            case "minimum" | "maximum":
                yield Fault(field, "out_of_range", f"{value} does not lie between 0 and 1.")
            case _:
                yield Fault(
                    field,
                    "wrong_type",
                    f"{field} holds the words {value}, where {_meant(error.validator_value)} has to stand.",
                )


def _meant(kind: Json) -> str:
    """A JSON type in words."""
    return {"boolean": "true or false", "integer": "a whole number", "number": "a number"}.get(str(kind), str(kind))


def _of_ending(packet: Mapping[str, Json]) -> Iterator[Fault]:
    final, state = get(packet, "status.finalized"), get(packet, "status.state")
    ended = state in ("completed", "aborted")
    if final is True and state in _UNFINISHED:
        yield Fault("status.state", "final_but_unfinished", f"The packet is finalised and its state is still {state}.")
    if final is False and ended:
        yield Fault("status.finalized", "ended_but_open", f"The state is {state} and the packet is not finalised.")
    if ended and get(packet, "response.candidate") == "":
        why = "The packet was completed without an answer."
        yield Fault("response.candidate", "completed_without_answer", why)


def _of_tools(packet: Mapping[str, Json]) -> Iterator[Fault]:
    tool, status = get(packet, "tool_routing.selected_tool"), get(packet, "tool_routing.execution_status")
    result = get(packet, "tool_routing.execution_result")
    if get(packet, "tool_routing.needs_tool") is False and tool is not None:
        why = "No tool is needed, and yet one was selected."
        yield Fault("tool_routing.selected_tool", "tool_without_need", why)
    if status == "executed":
        if tool is None:
            why = "A tool was executed although none was selected."
            yield Fault("tool_routing.selected_tool", "no_tool_selected", why)
        if result is None:
            why = "The tool was executed and left no result."
            yield Fault("tool_routing.execution_result", "executed_without_result", why)
        if get(packet, "governance.safety.execution_allowed") is False:
            why = "The tool was executed although execution is not allowed."
            yield Fault("governance.safety.execution_allowed", "execution_forbidden", why)
        yield from _below_threshold(packet)
    elif status in ("pending", "skipped", "user_denied", "approved", "awaiting_confidence") and result is not None:
        why = f"There is a result, and the tool counts as {status}."
        yield Fault("tool_routing.execution_status", "result_without_execution", why)


def _below_threshold(packet: Mapping[str, Json]) -> Iterator[Fault]:
    chosen = get(packet, "tool_routing.selected_tool.selection_confidence")
    review = get(packet, "tool_routing.review_confidence")
    if not isinstance(chosen, int | float) or not isinstance(review, int | float) or chosen >= NO_REVIEW_FROM:
        return
    if 0 <= review < REVIEW_THRESHOLD:
        why = f"The tool ran with a review confidence of {review}, and it takes {REVIEW_THRESHOLD}."
        yield Fault("tool_routing.review_confidence", "run_below_threshold", why)


def _of_numbers(packet: Mapping[str, Json]) -> Iterator[Fault]:
    parts = [get(packet, f"metrics.token_usage.{name}_tokens") for name in ("prompt", "completion", "total")]
    first, second, total = parts
    if isinstance(first, int) and isinstance(second, int) and isinstance(total, int) and first + second != total:
        why = f"{first} and {second} make {first + second} and not {total}."
        yield Fault("metrics.token_usage.total_tokens", "wrong_sum", why)
    own = get(packet, "header.packet_id")
    if own is not None and get(packet, "header.parent_packet_id") == own:
        yield Fault("header.parent_packet_id", "own_parent", f"The packet names itself, {own}, as its parent.")
