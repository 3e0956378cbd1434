"""Cognition packets as the pipeline fills them: one scenario, followed step by step.

Decides which steps a packet goes through and what each of them writes. What a step reads and writes in words stands
in `pipeline.json`; a test holds both together. Everything follows from the scenario and the seeded draw.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from gaiad.curriculum import Json
from gaiad.learner.sources.packet_material import Scenario

Packet: TypeAlias = "dict[str, Json]"

REVIEW_THRESHOLD = 0.7
"""A selected tool whose review confidence is below this is skipped."""

NO_REVIEW_FROM = 0.9
"""A tool that was selected with at least this confidence is approved without a review."""

MAX_ROUNDS = 3
"""How often one packet may be reinjected."""

STEPS = (
    "intake",
    "intent_detection",
    "knowledge_retrieval",
    "tool_selection",
    "tool_review",
    "tool_execution",
    "reinjection",
    "planning",
    "cognitive_audit",
    "reflection",
    "generation",
    "observation",
    "finalisation",
)
"""The pipeline, in order."""

_TOOL_STEPS = frozenset({"tool_selection", "tool_review", "tool_execution", "reinjection"})
_RUN_STEPS = frozenset({"tool_execution", "reinjection"})
_TITLES = ("notes on {}", "a letter about {}", "last year's entry on {}", "a list concerning {}", "an article on {}")
_PLANS = (
    "settle {} first, then answer plainly",
    "look into {} and say what follows",
    "answer what was asked about {} and stop",
    "take {} apart before saying anything",
)
_GUESSES = (
    "the user is concerned with {}",
    "it is all about {}",
    "behind the question stands {}",
    "what is wanted is help with {}",
)
_ADVICE = ("think once more about {}", "keep to {}", "say nothing beyond {}", "make sure of {}")
_OTHER_TASKS = ("Research", "GenerateDraft", "Refine", "Validate", "Decision")


@dataclass(frozen=True, slots=True)
class Course:
    """One packet's way through the pipeline: its scenario and every value that is drawn for it.

    Confidences are 0..1; `numbers` are ids and counts that mean nothing further.
    """

    scenario: Scenario
    ident: str
    hour: int
    intent_confidence: float
    selection_confidence: float
    review_confidence: float
    answer_confidence: float
    documents: int
    prompt_tokens: int
    completion_tokens: int
    latency_ms: int
    role: str
    engine: str
    task: str
    destination: str

    def worded(self, forms: Sequence[str]) -> str:
        """One of `forms` with the scenario's topic in it, always the same one for the same packet."""
        return forms[int(self.ident, 16) % len(forms)].format(self.scenario.topic)

    @property
    def reviewed(self) -> bool:
        """Whether the selection leaves enough doubt for a second look."""
        return self.selection_confidence < NO_REVIEW_FROM

    @property
    def runs(self) -> bool:
        """Whether the selected tool may run."""
        return not self.reviewed or self.review_confidence >= REVIEW_THRESHOLD

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that this packet goes through, in order."""
        left_out = set() if self.scenario.tool else set(_TOOL_STEPS)
        if not self.reviewed:
            left_out.add("tool_review")
        if not self.runs:
            left_out |= _RUN_STEPS
        return tuple(step for step in STEPS if step not in left_out)


def drawn(scenario: Scenario, draw: random.Random, tool: str = "any") -> Course:
    """Draw a course for `scenario`; `tool` is how its tool fares: any, reviewed (and run), unreviewed or skipped."""
    fate = draw.choice(("reviewed", "reviewed", "unreviewed", "skipped")) if tool == "any" else tool
    selection = draw.randint(90, 98) if fate == "unreviewed" else draw.randint(62, 89)
    review = draw.randint(31, 69) if fate == "skipped" else draw.randint(70, 97)
    return Course(
        scenario=scenario,
        ident=f"{draw.getrandbits(24):06x}",
        hour=draw.randint(6, 22),
        intent_confidence=draw.randint(55, 98) / 100,
        selection_confidence=selection / 100,
        review_confidence=review / 100,
        answer_confidence=draw.randint(58, 96) / 100,
        documents=draw.randint(0, 4),
        prompt_tokens=draw.randint(180, 1900),
        completion_tokens=draw.randint(20, 340),
        latency_ms=draw.randint(300, 9000),
        role=draw.choice(("Default", "Analyst", "Narrator", "CodeMind")),
        engine=draw.choice(("Prime", "Lite", "Council")),
        task="ToolRouting" if scenario.tool else draw.choice(_OTHER_TASKS),
        destination=draw.choice(("cli", "web", "discord", "api", "audio")),
    )


def packet(course: Course, steps: Sequence[str]) -> Packet:
    """The packet after `steps`, which begin with the intake."""
    result: Packet = {}
    for step in steps:
        for path, value in written(course, step).items():
            put(result, path, value)
    return result


def get(packet: Mapping[str, Json], path: str) -> Json:
    """The value at a dotted path, None where there is none."""
    here: Json = dict(packet)
    for part in path.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here


def put(packet: Packet, path: str, value: Json) -> None:
    """Set the value at a dotted path; objects on the way are made where they are missing."""
    *parents, last = path.split(".")
    here = packet
    for part in parents:
        inner = here.get(part)
        if not isinstance(inner, dict):
            inner = here[part] = {}
        here = inner
    here[last] = value


def remove(packet: Packet, path: str) -> None:
    """Take the field at a dotted path out."""
    parent, _, last = path.rpartition(".")
    holder = cast("dict[str, Json]", get(packet, parent)) if parent else packet
    del holder[last]


def written(course: Course, step: str) -> dict[str, Json]:
    """What `step` writes into the packet of `course`, by path.

    Raises:
        ValueError: where the pipeline has no such step.
    """
    match step:
        case "intake":
            return {**_opened(course), **_blank(course)}
        case "intent_detection" | "knowledge_retrieval":
            return _understood(course, step)
        case "tool_selection" | "tool_review" | "tool_execution" | "reinjection":
            return _routed(course, step)
        case "planning" | "cognitive_audit" | "reflection":
            return _thought(course, step)
        case "generation" | "observation" | "finalisation":
            return _answered(course, step)
    raise ValueError(f"the pipeline has no step {step!r}")


def _opened(course: Course) -> dict[str, Json]:
    """What the intake knows."""
    return {
        "version": "0.3",
        "header.datetime": f"2026-03-{course.hour + 4:02d}T{course.hour:02d}:{course.latency_ms % 60:02d}:00",
        "header.session_id": f"session-{course.ident[:3]}",
        "header.packet_id": f"packet-{course.ident}",
        "header.sub_id": "0",
        "header.parent_packet_id": None,
        "header.persona": {"identity_id": "gaia", "persona_id": course.role.lower(), "role": course.role},
        "header.origin": "user",
        "header.routing": {"target_engine": course.engine, "priority": course.hour % 9 + 1},
        "header.model": {"name": course.engine.lower(), "provider": "local", "context_window_tokens": 8192},
        "header.output_routing": {"primary": {"destination": course.destination}},
        "context.session_history_ref": {"type": "session", "value": f"session-{course.ident[:3]}"},
        "context.cheatsheets": [],
        "context.constraints": {"max_tokens": 512, "time_budget_ms": course.latency_ms + 4000, "safety_mode": "strict"},
        "content.original_prompt": course.scenario.ask,
        "governance.safety": {"execution_allowed": True, "dry_run": False},
        "status.state": "initialized",
        "status.finalized": False,
    }


def _blank(course: Course) -> dict[str, Json]:
    """What later steps fill: there from the start, and empty."""
    return {
        "intent": {"user_intent": "other", "system_task": "IntentDetection", "confidence": 0.0, "tags": []},
        "context.relevant_history_snippet": [],
        "context.available_mcp_tools": [course.scenario.tool, "introspect"] if course.scenario.tool else ["introspect"],
        "content.data_fields": [],
        "reasoning": {"reflection_log": [], "sketchpad": [], "evaluations": []},
        "response": {"candidate": "", "confidence": 0.0, "stream_proposal": False, "tool_calls": []},
        "metrics.token_usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "metrics.latency_ms": 0,
        "status.next_steps": [],
        "status.observer_trace": [],
        "tool_routing": {
            "needs_tool": False,
            "selected_tool": None,
            "review_confidence": 0.0,
            "review_reasoning": "",
            "execution_status": "pending",
            "execution_result": None,
            "reinjection_count": 0,
            "max_reinjections": MAX_ROUNDS,
        },
    }


def _understood(course: Course, step: str) -> dict[str, Json]:
    scenario = course.scenario
    if step == "intent_detection":
        return {
            "intent.user_intent": scenario.intent,
            "intent.system_task": course.task,
            "intent.confidence": course.intent_confidence,
            "intent.tags": [scenario.domain],
            "tool_routing.needs_tool": bool(scenario.tool),
            "status.state": "processing",
        }
    titles: list[Json] = [course.worded((*_TITLES[at:], *_TITLES[:at])) for at in range(course.documents)]
    found: Json = {"key": "retrieved_documents", "value": titles, "type": "list", "source": "knowledge"}
    return {
        "content.data_fields": [found],
        "context.relevant_history_snippet": [
            {"id": "turn-1", "role": "user", "summary": f"spoke of {scenario.topic} before"}
        ],
        "metrics.semantic_probe": {"hit_count": max(0, course.documents - 1)},
    }


def _routed(course: Course, step: str) -> dict[str, Json]:
    scenario = course.scenario
    match step:
        case "tool_selection":
            chosen: Json = {
                "tool_name": scenario.tool,
                "selection_reasoning": scenario.why,
                "selection_confidence": course.selection_confidence,
            }
            return {
                "tool_routing.selected_tool": chosen,
                "tool_routing.execution_status": "awaiting_confidence" if course.reviewed else "approved",
                "status.state": "awaiting_tool",
            }
        case "tool_review":
            return {
                "tool_routing.review_confidence": course.review_confidence,
                "tool_routing.review_reasoning": f"{scenario.tool} weighed for {scenario.topic}",
                "tool_routing.execution_status": "approved" if course.runs else "skipped",
            }
        case "tool_execution":
            return {
                "tool_routing.execution_result": {"success": True, "execution_time_ms": course.latency_ms // 4},
                "tool_routing.execution_status": "executed",
            }
    return {"tool_routing.reinjection_count": 1, "status.state": "processing"}


def _thought(course: Course, step: str) -> dict[str, Json]:
    plan: Json = {"step": "plan", "summary": course.worded(_PLANS), "confidence": 0.7}
    if step == "planning":
        return {"reasoning.reflection_log": [plan]}
    if step == "reflection":
        seen: Json = {"step": "reflection", "summary": course.scenario.note, "confidence": course.answer_confidence}
        return {"reasoning.reflection_log": [plan, seen]}
    enough = course.documents > 0
    return {
        "reasoning.evaluations": [
            {"name": "knowledge_sufficiency", "passed": enough, "score": 0.8 if enough else 0.3},
            {"name": "plan_completeness", "passed": True, "score": 0.8},
        ],
        "reasoning.sketchpad": [{"slot": "working_hypothesis", "content": course.worded(_GUESSES)}],
        "status.next_steps": [course.worded(_ADVICE)],
    }


def _answered(course: Course, step: str) -> dict[str, Json]:
    match step:
        case "generation":
            total = course.prompt_tokens + course.completion_tokens
            return {
                "response.candidate": course.scenario.reply,
                "response.confidence": course.answer_confidence,
                "response.stream_proposal": course.destination != "api",
                "metrics.token_usage": {
                    "prompt_tokens": course.prompt_tokens,
                    "completion_tokens": course.completion_tokens,
                    "total_tokens": total,
                },
                "status.state": "ready_to_stream",
            }
        case "observation":
            return {"status.observer_trace": ["continue"]}
    return {
        "status.finalized": True,
        "status.state": "completed",
        "metrics.latency_ms": course.latency_ms,
        "governance.audit": {"created_by": "gaia", "decision": "released"},
    }
