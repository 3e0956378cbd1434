"""Users' exchanges as examples: the request as it was sent, and the right answer, with what it is preferred to.

The right answer is the user's correction, or the reply that the user approved of. Decides which of them are taken
where there are too many. Decides nothing about consent (the store only hands out what may be used) and reads no
database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gaiad.curriculum import ExchangesSpec
from gaiad.learner.dataset import EXCHANGE_ORIGIN, Example, Message

_SHAPING: tuple[str, ...] = ("tools", "documents", "chat_template", "chat_template_kwargs", "continue_final_message")
_SHAPING += ("add_special_tokens", "truncate_prompt_tokens")
# Anthropic's form has it beside the messages, and not among them.
_SHAPING += ("system",)
_DAY_S = 86_400.0
_LEAST_WEIGHT = 0.05
"""However old it is, an exchange counts a little."""
_OF_CALLS = ("tool_calls", "tool_call_id", "function_call")


@dataclass(frozen=True, slots=True)
class CorrectedExchange:
    """One consented exchange whose user said what the answer should have been: `correction`.

    Where the user `approved` of the reply, that is the reply itself. `shaped_by` names what else than its messages the
    request was rendered from, `reply` is the text that was corrected; `began` is when the request came, which says what
    it was kept by.
    """

    exchange_id: str
    user: str
    stage: str
    request_messages: Sequence[Mapping[str, object]]
    correction: str
    created_at: float
    shaped_by: tuple[str, ...] = ()
    conversation: str | None = None
    reply: str | None = None
    began: float = 0.0
    approved: bool = False


def shaping_fields(request: object) -> tuple[str, ...]:
    """Name the fields of a chat request, messages apart, from which the engine's template makes the prompt."""
    if not isinstance(request, Mapping):
        return ()
    found = [name for name in _SHAPING if request.get(name)]
    # This one is on unless it is switched off.
    return tuple(found if request.get("add_generation_prompt", True) else [*found, "add_generation_prompt"])


def from_corrections(rows: Sequence[CorrectedExchange]) -> list[Example]:
    """Turn corrections into examples, oldest first; rows without a request in text or a correction are left out.

    So are those whose prompt was made of more than their messages: training would render another one than was served.
    """
    examples: list[Example] = []
    for row in sorted(rows, key=lambda one: (one.created_at, one.exchange_id)):
        request = _texts(row.request_messages)
        if row.shaped_by or not request or request[-1].role == "assistant" or not row.correction.strip():
            continue
        origin = f"{EXCHANGE_ORIGIN}{row.exchange_id}"
        answer = Message("assistant", row.correction.strip())
        turns = (*request, answer)
        example = Example(turns, "exchanges", origin, origin, stage=row.stage, rejected=_rejected(row))
        examples.append(example)
    return examples


def chosen(
    examples: Sequence[Example], rows: Iterable[CorrectedExchange], spec: ExchangesSpec, *, most: int
) -> list[Example]:
    """At most `most` of the exchanges, within the caps, each weighted by how much older it is than the newest row.

    Corrections go before approved replies and newer ones before older ones. They come back in the opposite order, so
    that of two with the same request the one that goes before speaks last.
    """
    by_origin = {f"{EXCHANGE_ORIGIN}{row.exchange_id}": row for row in rows}
    newest = max((row.created_at for row in by_origin.values()), default=0.0)
    told = [(by_origin[one.origin], one) for one in examples]
    told.sort(key=lambda pair: (pair[0].approved, -pair[0].created_at, pair[0].exchange_id))
    of_user: Counter[str] = Counter()
    of_conversation: Counter[tuple[str, str]] = Counter()
    taken: list[Example] = []
    for row, example in told:
        conversation = (row.user, row.conversation) if row.conversation is not None else None
        full = conversation is not None and of_conversation[conversation] >= spec.per_conversation
        if full or of_user[row.user] >= spec.per_user or len(taken) >= most:
            continue
        of_user[row.user] += 1
        if conversation is not None:
            of_conversation[conversation] += 1
        halvings = (newest - row.created_at) / _DAY_S / spec.half_life_days
        taken.append(replace(example, weight=max(_LEAST_WEIGHT, round(0.5**halvings, 3))))
    return taken[::-1]


def _rejected(row: CorrectedExchange) -> str | None:
    """The reply that the correction is preferred to; None where there was none in text, or the same one."""
    reply = (row.reply or "").strip()
    return reply if reply and reply != row.correction.strip() else None


def _texts(messages: Sequence[Mapping[str, object]]) -> tuple[Message, ...]:
    """The messages where each is plain text; nothing where one is not (pictures and calls are not trained on)."""
    result = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            content = "".join(part for part in parts if isinstance(part, str)) if None not in parts else None
        if not isinstance(role, str) or not isinstance(content, str) or any(message.get(key) for key in _OF_CALLS):
            return ()
        result.append(Message(role, content))
    return tuple(result)
