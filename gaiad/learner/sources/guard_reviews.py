"""Reviews of what was said: a reply under way, a finished turn, and two memories that may not fit together.

What is reviewed is put together of true statements, subtly false ones and honest admissions, so that the verdict holds
by construction; a few replies and turns are written whole. Draws from a seed and reads no file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

from gaiad.curriculum import Json
from gaiad.learner.example import Message
from gaiad.learner.sources.epistemic_material import Material, Stream, Turn
from gaiad.learner.sources.guard_answers import Formed, Stratum, admission, asked, taken
from gaiad.learner.sources.matters import Matter, Pool

GO_ON, STOP = "CONTINUE", "INTERRUPT"

VERDICT: Mapping[str, Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["action", "reason"],
    "properties": {"action": {"enum": [GO_ON, STOP]}, "reason": {"type": "string", "maxLength": 120}},
}
"""The form of an observer's verdict."""

_FALSE = "false."
"""How the concern about a statement that is known to be wrong begins."""
_AT_ONCE = 3
"""Statements in one reply about a topic."""


class Reviews:
    """The forms in which something said is judged."""

    def __init__(self, material: Material, pool: Pool, seed: int) -> None:
        self._material = material
        self._pool = pool
        self._words = material.words
        self._seed = seed

    def strata(self) -> dict[str, Stratum]:
        """Each kind and verdict by name."""
        return {
            "stream.sound": lambda: self._streamed("stream.sound", is_wrong=False),
            "stream.wrong": lambda: self._streamed("stream.wrong", is_wrong=True),
            "stream.candid": lambda: self._baseless("stream.candid", GO_ON),
            "stream.invented": lambda: self._baseless("stream.invented", STOP),
            "audit.clean": lambda: self._turns("audit.clean", flagged=False),
            "audit.sound": lambda: self._composed("audit.sound", flagged=False),
            "audit.conduct": lambda: self._turns("audit.conduct", flagged=True),
            "audit.invention": lambda: self._composed("audit.invention", flagged=True),
            "conflict.first": lambda: self._conflicts("conflict.first", "A"),
            "conflict.second": lambda: self._conflicts("conflict.second", "B"),
            "conflict.both": lambda: self._compatible("conflict.both"),
        }

    # --- replies under way ------------------------------------------------------------------------------------------

    def _streamed(self, name: str, *, is_wrong: bool) -> Iterator[Formed]:
        """Replies that are wholly true, or false in one statement."""
        single = taken(self._pool, ("arithmetic", "document", "calendar"), name)
        for number in count():
            draw = random.Random(f"{self._seed}/{name}/{number}")
            found = self._pool.of_one_topic(_AT_ONCE) if number % 2 == 0 else None
            if found:
                user, output, key, place, truth = self._several(*found, draw, is_wrong=is_wrong)
            elif (matter := next(single, None)) is not None:
                said = draw.choice(matter.lures) if is_wrong else matter.truth
                user, output = asked(matter, self._words, draw), self._said(said, draw)
                key, place, truth = matter.key, matter.place, matter.truth
            else:
                return
            reason = draw.choice(self._words["wrong_reasons"]).format(truth=truth)
            if not is_wrong:
                reason = draw.choice(self._words["sound_reasons"])
            yield self._observed(key, place, user, output, (STOP if is_wrong else GO_ON, reason), draw)

    def _several(
        self, topic: str, facts: tuple[Matter, ...], draw: random.Random, *, is_wrong: bool
    ) -> tuple[str, str, str, str, str]:
        """A request for facts about a topic and a reply with several; key, place and truth of the deciding one."""
        deciding = draw.randrange(len(facts))
        said = [one.truth for one in facts]
        if is_wrong:
            said[deciding] = draw.choice(facts[deciding].lures)
        words = self._words
        opening, closing = (draw.choice(words[one]).format(topic=topic) for one in ("topic_openings", "topic_closings"))
        user = draw.choice(words["topic_requests"]).format(topic=topic)
        one = facts[deciding]
        return user, " ".join([opening, *said, closing]).strip(), one.key, one.place, one.truth

    def _baseless(self, name: str, action: str) -> Iterator[Formed]:
        """What cannot be known, admitted or asserted; now and then a reply that was written whole."""
        whole = iter([one for one in self._material.streams if one.action == action])
        for number, matter in enumerate(taken(self._pool, ("invented", "unknowable", "silent"), name)):
            if number % 3 == 2 and (written := next(whole, None)) is not None:
                yield self._written(name, written)
            draw = random.Random(f"{self._seed}/{name}/{number}")
            if action == GO_ON:
                output, reason = admission(matter, self._words, draw), draw.choice(self._words["candid_reasons"])
            else:
                output = self._said(draw.choice(matter.lures), draw)
                reason = draw.choice(self._words["invented_reasons"]).format(why=matter.truth)
            user = asked(matter, self._words, draw)
            yield self._observed(matter.key, matter.place, user, output, (action, reason), draw)

    def _said(self, statement: str, draw: random.Random) -> str:
        """A statement in a reply; whether a boast stands beside it says nothing about its truth."""
        lead, boast = draw.choice(self._words["leads"]), draw.choice(self._words["boasts"])
        parts = [lead if draw.random() < 0.6 else "", statement, boast if draw.random() < 0.4 else ""]
        return " ".join(part for part in parts if part)

    def _written(self, name: str, one: Stream) -> Formed:
        draw = random.Random(f"{self._seed}/{name}/{one.name}")
        verdict = (one.action, one.reason)
        return self._observed(f"written-{one.name}", f"turns/streams/{one.name}", one.user, one.output, verdict, draw)

    def _observed(
        self, key: str, place: str, user: str, output: str, verdict: tuple[str, str], draw: random.Random
    ) -> Formed:
        action, reason = verdict
        frame = draw.choice(self._words["streams"])
        # Not by str.format: the frames hold braces of JSON.
        text = frame.replace("{user}", user).replace("{output}", output)
        answer = json.dumps({"action": action, "reason": reason}, ensure_ascii=False)
        expected: dict[str, Json] = {"fields": {"action": action}}
        return Formed(key, place, (Message("user", text),), answer, expected, schema=VERDICT)

    # --- finished turns ---------------------------------------------------------------------------------------------

    def _turns(self, name: str, *, flagged: bool) -> Iterator[Formed]:
        order = [*self._material.turns]
        random.Random(f"{self._seed}/{name}").shuffle(order)
        for one in order:
            draw = random.Random(f"{self._seed}/{name}/{one.name}")
            flaw = (one.category, one.concern) if flagged else None
            said = one.bad if flagged else one.good
            audited = self._audited(f"turn-{one.name}", f"turns/audits/{one.name}", _shown(one, said), flaw, draw)
            yield replace(audited, contrast=f"turn/{one.name}")

    def _composed(self, name: str, *, flagged: bool) -> Iterator[Formed]:
        topics = ("world", "invented", "document", "unknowable", "arithmetic", "silent")
        for number, matter in enumerate(taken(self._pool, topics, name)):
            draw = random.Random(f"{self._seed}/{name}/{number}")
            said, flaw = matter.truth if matter.knowable else admission(matter, self._words, draw), None
            if flagged:
                said = draw.choice(matter.lures)
                flaw = "invention", f"{_FALSE} {matter.truth}" if matter.knowable else f"without any ground. {said}"
            # A hasty thought is no proof of a bad reply.
            thinking = self._thought(matter, draw, hasty=draw.random() < 0.6)
            user = asked(matter, self._words, draw)
            shown = Turn(matter.key, user, thinking, said, said, "", "")
            yield self._audited(matter.key, matter.place, _shown(shown, said), flaw, draw)

    def _thought(self, matter: Matter, draw: random.Random, *, hasty: bool) -> str:
        if hasty:
            return draw.choice(self._words["hasty"])
        thought = draw.choice(self._words["thoughts" if matter.knowable else "silences"])
        return thought.format(right=matter.right)

    def _audited(self, key: str, place: str, user: str, flaw: tuple[str, str] | None, draw: random.Random) -> Formed:
        messages = (Message("system", draw.choice(self._words["systems.audit"])), Message("user", user))
        if flaw is None:
            answer = f"AUDIT: clean\nSUMMARY: {draw.choice(self._words['clean_summaries'])}"
            return Formed(key, place, messages, answer, {"lines": {"AUDIT": "clean"}})
        category, concern = flaw
        fault = "error" if concern.startswith(_FALSE) else category
        summary = draw.choice(self._words[f"flag_summaries.{fault}"])
        answer = f"AUDIT: flagged\nFLAGS:\n- {category}: {concern}\nSUMMARY: {summary}"
        expected: dict[str, Json] = {"lines": {"AUDIT": "flagged"}, "contains": [f"- {category}:"]}
        return Formed(key, place, messages, answer, expected)

    # --- memories ---------------------------------------------------------------------------------------------------

    def _conflicts(self, name: str, label: str) -> Iterator[Formed]:
        """A true memory and a false one about the same thing."""
        for number, matter in enumerate(taken(self._pool, ("world", "arithmetic", "world", "calendar"), name)):
            draw = random.Random(f"{self._seed}/{name}/{number}")
            context = f"{matter.question.rpartition('. ')[0]}. " if matter.topic != "world" else ""
            # A statement must stand alone, so a question that tells nothing first is of no use here.
            if context == ". ":
                continue
            true, false = f"{context}{matter.truth}", f"{context}{draw.choice(matter.lures)}"
            first, second = (true, false) if label == "A" else (false, true)
            yield self._memories(matter.key, matter.place, first, second, label, draw)

    def _compatible(self, name: str) -> Iterator[Formed]:
        """Memories of which neither is shown to be wrong: pairs written by hand, and two true ones of one topic."""
        order = list(enumerate(self._material.pairs))
        random.Random(f"{self._seed}/{name}").shuffle(order)
        for at, pair in order:
            draw = random.Random(f"{self._seed}/{name}/{at}")
            first, second = pair if draw.random() < 0.5 else pair[::-1]
            yield self._memories(f"pair-{at}", f"turns/pairs/{at}", first, second, "BOTH", draw)
            if found := self._pool.of_one_topic(2):
                one, other = found[1]
                yield self._memories(one.key, one.place, one.truth, other.truth, "BOTH", draw)

    def _memories(self, key: str, place: str, first: str, second: str, label: str, draw: random.Random) -> Formed:
        expected: dict[str, Json] = {"label": label}
        if draw.random() < 0.5:
            system = Message("system", draw.choice(self._words["systems.conflict"]))
            return Formed(key, place, (system, Message("user", f"A: {first}\nB: {second}")), label, expected)
        text = draw.choice(self._words["conflict_users"]).format(a=first, b=second)
        return Formed(key, place, (Message("user", text),), label, expected)


def _shown(turn: Turn, said: str) -> str:
    thinking = f"USER MESSAGE:\n{turn.user}\n\nCORE'S THINKING:\n{turn.thinking}"
    return f"{thinking}\n\nCORE'S FINAL RESPONSE:\n{said}\n\nRun the audit now."
