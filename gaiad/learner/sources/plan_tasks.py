"""Plans to audit and to reflect on: sound or with the one flaw that was brought into them.

A plan's two forms never stand in different splits, for the sound one gives the flawed one away. The scores of an audit
follow from what its state says was retrieved and from what the request is about: the user's own things, what is
generally known, or how things are now.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gaiad.learner.sources.packet_material import Material, Plan
from gaiad.learner.sources.packet_tasks import Posed, labelled

REFLECTION_STAGE = "reflection"

SOUND = "none"
"""The flaw of a sound plan."""

_SOUND_CONFIDENCE = 0.9
_BASES = {
    "own": ("personal_notes", "household", "workspace"),
    "general": ("encyclopaedia", "handbook", "household"),
    "live": ("household", "handbook", "workspace"),
}
_MISSING = {
    "own": "Nothing that could be relied on was found among the user's own material.",
    "live": "How things stand is not known yet.",
}
_LEADS = ("First", "Then", "After that", "Next", "Then", "Finally")


@dataclass(frozen=True, slots=True)
class State:
    """What the runtime says was at hand: documents retrieved, hits of the semantic probe, turns of history."""

    documents: int
    hits: int
    turns: int
    base: str | None

    def line(self) -> str:
        """The state as the runtime writes it."""
        parts = [f"RAG docs retrieved: {self.documents}", f"Semantic probe hits: {self.hits}"]
        if self.base:
            parts.append(f"KB: {self.base}")
        return " | ".join([*parts, f"History turns in window: {self.turns}"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of an audit: whether it passes, with which score (0..1), and a note."""

    passed: bool
    score: float
    note: str

    def __str__(self) -> str:
        """The verdict as the runtime reads it."""
        return f"{'pass' if self.passed else 'fail'} {self.score:.1f} {self.note}"


def audits(material: Material, seed: int) -> Iterator[Posed]:
    """Two audits a plan, one of each form, with the request in other words and another state."""
    for flawed_first, plan in _alternating(material.plans):
        for at, words in enumerate((plan.ask, plan.again)):
            draw = random.Random(f"{seed}/audit/{plan.id}/{at}")
            flawed = flawed_first == (at == 0)
            state = _state(plan, draw)
            lines = _audited(plan, state, flawed=flawed)
            steps = plan.flawed() if flawed else plan.steps
            yield Posed(
                material.wordings.systems["audit"],
                f"[PLAN]\n{_numbered(steps)}\n\n[STATE]\n{state.line()}\n\n[USER QUERY]\n{words}",
                labelled(lines),
                {"lines": {name: value for name, value in lines.items() if name.startswith("EVAL ")}},
                f"plans/{plan.kind.name}/{plan.id}",
                f"plans/{plan.id}",
            )


def reflections(material: Material, seed: int) -> Iterator[Posed]:
    """One reflection a plan: its flaw, how sure one can be of it, and the plan as it should be."""
    for flawed, plan in _alternating(material.plans):
        draw = random.Random(f"{seed}/reflection/{plan.id}")
        steps = plan.flawed() if flawed else plan.steps
        request = _numbered(steps) if draw.random() < 0.5 else _told(steps)
        kind = plan.kind
        lines = {
            "VERDICT": "revise" if flawed else "sound",
            "FLAW": kind.name if flawed else SOUND,
            "CRITIQUE": plan.gap if flawed else plan.merit,
            "Confidence": str(kind.confidence if flawed else _SOUND_CONFIDENCE),
        }
        yield Posed(
            material.wordings.systems["reflection"],
            f"Request: {plan.again}\n\nPlan:\n{request}",
            f"{labelled(lines)}\nPLAN:\n{_numbered(plan.steps)}",
            {"lines": {name: lines[name] for name in ("VERDICT", "FLAW", "Confidence")}},
            f"plans/{kind.name}/{plan.id}",
            f"plans/{plan.id}",
            stage=REFLECTION_STAGE,
        )


def _alternating(plans: Sequence[Plan]) -> Iterator[tuple[bool, Plan]]:
    """Each plan with whether its flawed form comes first: every other plan of each kind."""
    seen: dict[str, int] = {}
    for plan in plans:
        turn = seen[plan.kind.name] = seen.get(plan.kind.name, -1) + 1
        yield turn % 2 == 0, plan


def _state(plan: Plan, draw: random.Random) -> State:
    """Own things were mostly retrieved; other requests come with any state."""
    documents = draw.choice((0, 0, 1, 2, 3, 5)) if plan.needs == "own" else draw.choice((0, 0, 1, 3))
    hits = draw.choice((0, 1, 2, 4)) if documents else draw.choice((0, 0, 1))
    base = draw.choice(_BASES[plan.needs]) if draw.random() < 0.6 else None
    return State(documents, hits, draw.randint(0, 9), base)


def _audited(plan: Plan, state: State, *, flawed: bool) -> dict[str, str]:
    knowledge, documents = knowledge_verdict(plan.needs, state), documents_verdict(plan.needs, state)
    whole = Verdict(True, _SOUND_CONFIDENCE, "every step is there and in its place")
    missing = [] if knowledge.passed else [_MISSING[plan.needs]]
    if flawed:
        whole = Verdict(False, plan.kind.confidence, plan.kind.says)
        missing.insert(0, plan.gap)
    # What is wrong with the plan comes before what is wrong with its ground: a mended plan may retrieve more itself.
    following = plan.fix if flawed else "Carry the plan out and answer the user."
    if not flawed and not knowledge.passed and plan.needs == "own":
        following = "Retrieve the user's own material before anything is answered."
    return {
        "EVAL knowledge_sufficiency": str(knowledge),
        "EVAL plan_completeness": str(whole),
        "EVAL rag_quality": str(documents),
        "SKETCH working_hypothesis": f"The user wants {plan.goal}.",
        "SKETCH gaps": " ".join(missing) or "None that would change the answer.",
        "NEXT": following,
    }


def knowledge_verdict(needs: str, state: State) -> Verdict:
    """Whether what is at hand suffices for the request."""
    if needs == "live":
        return Verdict(False, 0.3, "only a look at the present can tell")
    if needs == "general":
        if state.documents:
            return Verdict(True, 0.8, "generally known, with documents to check against")
        return Verdict(True, 0.6, "generally known, nothing was retrieved")
    if not state.documents:
        return Verdict(False, 0.2, "the user's own material is needed and none was retrieved")
    if not state.hits:
        return Verdict(False, 0.4, "documents were retrieved and none was hit by the probe")
    if state.documents < 3:
        return Verdict(True, 0.7, "the user's own material was found")
    return Verdict(True, 0.9, "much of the user's own material was found")


def documents_verdict(needs: str, state: State) -> Verdict:
    """How good the retrieved documents are by their number and the probe's hits."""
    if needs == "live" and state.documents:
        return Verdict(False, 0.3, "documents cannot tell how things are now")
    if not state.documents:
        if needs in ("general", "live"):
            return Verdict(True, 0.5, "no documents, and none are needed")
        return Verdict(False, 0.1, "no documents were retrieved")
    if not state.hits:
        return Verdict(False, 0.4, "documents without a hit of the probe")
    if state.documents < 3:
        return Verdict(True, 0.7, "few documents, and the probe hit them")
    return Verdict(True, 0.9, "several documents, and the probe hit them")


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{at}. {step}" for at, step in enumerate(steps, 1))


def _told(steps: Sequence[str]) -> str:
    """The plan as running text."""
    last = len(steps) - 1
    leads = [_LEADS[-1] if at == last else _LEADS[min(at, len(_LEADS) - 2)] for at in range(len(steps))]
    return " ".join(f"{lead}, {step[:1].lower()}{step[1:]}." for lead, step in zip(leads, steps, strict=True))
