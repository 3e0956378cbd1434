"""The source `self_replay`: what the base itself answers to general requests, so that an adapter forgets less of it.

Reads what `gaiadctl curriculum replay` wrote: the file that the option `file` names in the curriculum's folder, else
`replies.jsonl` in the owner's. Each reply is judged anew, against the requests that this curriculum has now. It belongs
to no stage, so that no exam asks for it.
"""

from __future__ import annotations

from gaiad.curriculum import SourceSpec
from gaiad.learner.dataset import Example, Message, request_of
from gaiad.learner.lengths import may_be_too_long
from gaiad.learner.likeness import Requests
from gaiad.learner.self_made import SELF_REPLAY
from gaiad.learner.self_reply import Known, verdict
from gaiad.learner.sources.self_made_files import Row, file_of, is_there, kept_rows, nothing
from gaiad.learner.sources.source import Gathered, Ground, Refused

KIND = SELF_REPLAY


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Read the replies, in the file's order, and name those that cannot be used any more.

    Raises:
        CurriculumError: an option is wrong.
    """
    path = file_of(source, ground)
    if path is None or not is_there(path):
        return nothing(source, path)
    near = ground.curriculum.split.near_duplicate
    known = Known(Requests(request_of(one) for one in ground.before), near, Requests())
    examples: list[Example] = []
    refused: list[Refused] = []
    for row in kept_rows(path, ground.base):
        found = row if isinstance(row, Refused) else _example(row, known, source, ground)
        if isinstance(found, Refused):
            refused.append(found)
        else:
            examples.append(found)
    return Gathered(tuple(examples), tuple(refused))


def _example(row: Row, known: Known, source: SourceSpec, ground: Ground) -> Example | Refused:
    made, curriculum = row.made, ground.curriculum
    reason = verdict(made.request, made.text, made.finish_reason, known)
    if reason is not None:
        return Refused(row.origin, reason)
    messages = (Message("user", made.request), Message("assistant", made.text))
    one = Example(messages, source=source.name, group=made.group, origin=row.origin)
    most = curriculum.training.max_sequence_tokens
    if may_be_too_long(one, most):
        return Refused(row.origin, f"it is too long for max_sequence_tokens = {most}")
    known.keeps(made.text)
    return one
