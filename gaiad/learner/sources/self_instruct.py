"""The source `self_instruct`: requests of the curriculum in words that the base itself proposed.

Reads what `gaiadctl curriculum propose` wrote: the file that the option `file` names in the curriculum's folder, else
`paraphrases.jsonl` in the adapter's part of the owner's folder. Nothing in it is believed: each proposal is judged
anew, against the requests as they are now. Answer and group are its original's, so that the two never part.
"""

from __future__ import annotations

from gaiad.curriculum import SourceSpec
from gaiad.errors import Refuse
from gaiad.learner.dataset import Example, catalogue_of
from gaiad.learner.lengths import may_be_too_long
from gaiad.learner.paraphrase import Known, Original, in_other_words, known_of, original_of, verdict
from gaiad.learner.self_made import SELF_INSTRUCT
from gaiad.learner.sources.self_made_files import Row, file_of, is_there, kept_rows, nothing
from gaiad.learner.sources.source import Gathered, Ground, Refused

KIND = SELF_INSTRUCT

NO_ORIGINAL = "no source before it has the request any more that it says in other words"


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Read the proposals, in the file's order, and name those that cannot be used any more.

    Raises:
        CurriculumError: an option is wrong.
    """
    path = file_of(source, ground)
    if path is None or not is_there(path):
        return nothing(source, path)
    by_key = {one[0].key: one for one in originals_among(ground.before, ground.own_catalogues)}
    known = known_of(ground.before, ground.curriculum.split.near_duplicate)
    examples: list[Example] = []
    refused: list[Refused] = []
    for row in kept_rows(path, ground.base):
        found = row if isinstance(row, Refused) else _example(row, by_key, known, source, ground)
        if isinstance(found, Refused):
            refused.append(found)
        else:
            examples.append(found)
    return Gathered(tuple(examples), tuple(refused))


def originals_among(examples: tuple[Example, ...], own_catalogues: frozenset[str]) -> list[tuple[Original, Example]]:
    """The requests whose sense can be held on to, under a catalogue that the runtime itself shows."""
    found = [(original_of(one), one) for one in examples if not own_catalogues or catalogue_of(one) in own_catalogues]
    return [(original, one) for original, one in found if isinstance(original, Original)]


def _example(
    row: Row, by_key: dict[str, tuple[Original, Example]], known: Known, source: SourceSpec, ground: Ground
) -> Example | Refused:
    made = row.made
    if made.of not in by_key:
        return Refused(row.origin, NO_ORIGINAL)
    original, example = by_key[made.of]
    reason = verdict(original, made.text, made.finish_reason, known)
    if reason is not None:
        return Refused(row.origin, reason)
    said = in_other_words(example, made.text, source=source.name, origin=row.origin)
    most = ground.curriculum.training.max_sequence_tokens
    if may_be_too_long(said, most):
        return Refused(row.origin, f"it is too long for max_sequence_tokens = {most}")
    known.requests.add(made.text)
    return said


def refusals_among(examples: tuple[Example, ...]) -> list[str]:
    """Why requests cannot be proposed for, each reason as often as it occurs."""
    return [found.reason for found in map(original_of, examples) if isinstance(found, Refuse)]
