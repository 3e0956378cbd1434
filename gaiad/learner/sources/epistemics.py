"""The source `epistemics`: knowing what one knows, from shipped material whose truth is known by construction.

Reads facts, passages, questions, grounds, turns and frames in the curriculum's folder. Options of the source: `forms`
(names such as known, plain, basis, wording, stream, audit, conflict; all where absent) and `each` (how many examples a
kind with one verdict gives).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import cast

from gaiad.curriculum import SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.example import Example, Message
from gaiad.learner.sources.epistemic_material import FILES, parse_material
from gaiad.learner.sources.guard_answers import Answers, Formed
from gaiad.learner.sources.guard_reviews import Reviews
from gaiad.learner.sources.matters import Pool
from gaiad.learner.sources.source import Gathered, Ground, material_text

KIND = "epistemics"
STAGE = "epistemic_guard"

_OPTIONS = {"forms", "each"}
_EACH = 36
# Two strata lead to each verdict of these; fewer of each keep the verdicts in balance.
_SHARES = {"stream": 0.75, "audit": 0.7}
_CHARACTERS_A_TOKEN, _MARGIN = 3.2, 0.9


def load_examples(source: SourceSpec, ground: Ground) -> Gathered:
    """Make the examples of the chosen forms, the same ones for the same spec, seed and material.

    Raises:
        CurriculumError: an option is wrong, or material is missing, contradicts itself or is too long.
    """
    curriculum = ground.curriculum
    material = parse_material({name: material_text(ground.folder / f"{name}.json") for name in FILES})
    pool = Pool(material, curriculum.seed)
    reviews, answers = (form(material, pool, curriculum.seed).strata() for form in (Reviews, Answers))
    # The replies on one topic come first: they need several facts of the same one.
    strata = {**reviews, **answers}
    forms, each = _options(source, sorted({name.partition(".")[0] for name in strata}))
    origin = f"curriculum:{curriculum.adapter}@{curriculum.version}"
    examples = [
        _example(one, source, f"{name}/{one.key}", f"{origin}#{one.place}")
        for name, make in strata.items()
        if (form := name.partition(".")[0]) in forms
        for one in islice(make(), max(1, round(each * _SHARES.get(form, 1.0))))
    ]
    _check_lengths(examples, int(curriculum.training.max_sequence_tokens * _CHARACTERS_A_TOKEN * _MARGIN))
    return Gathered(tuple(examples))


def _options(source: SourceSpec, known: list[str]) -> tuple[list[str], int]:
    forms, each = source.options.get("forms", [*known]), source.options.get("each", _EACH)
    problems = [f"no option {name!r}" for name in sorted(set(source.options) - _OPTIONS)]
    if not isinstance(forms, list) or not forms:
        problems.append("forms must be a list of names")
    elif unknown := sorted({str(one) for one in forms} - set(known)):
        problems.append(f"no forms {', '.join(unknown)} (known: {', '.join(known)})")
    if not isinstance(each, int) or isinstance(each, bool) or each < 1:
        problems.append("each must be a number of 1 or more")
    if problems:
        raise CurriculumError(f"sources: {KIND}: {'; '.join(problems)}", hint=f"known: {', '.join(sorted(_OPTIONS))}")
    return cast("list[str]", forms), cast(int, each)


def _example(one: Formed, source: SourceSpec, group: str, origin: str) -> Example:
    return Example(
        (*one.messages, Message("assistant", one.answer)),
        source=source.name,
        group=group,
        origin=origin,
        stage=STAGE,
        schema=one.schema,
        expected=one.expected,
        rejected=one.rejected,
        kin=(f"contrast set/{one.contrast}",) if one.contrast else (),
    )


def _check_lengths(examples: list[Example], budget: int) -> None:
    long = sorted(set(_too_long(examples, budget)))
    if long:
        raise CurriculumError(
            f"sources: {KIND}: longer than {budget} characters: {', '.join(long)}", hint="shorten these places"
        )


def _too_long(examples: list[Example], budget: int) -> Iterator[str]:
    for one in examples:
        if sum(len(message.content) for message in one.messages) > budget:
            yield one.origin
