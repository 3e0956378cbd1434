"""From a curriculum's folder to a frozen dataset on disk: loads specs, gathers every source, writes, reads back.

Touches files only; what goes into which split is `learner.dataset`'s decision. Everything here blocks, so a loop
calls it in a thread.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, cast

from gaiad.card_page import card_page
from gaiad.curriculum import Curriculum, Json, SourceSpec, kinds_of, parse_curriculum, profiles_of
from gaiad.errors import CurriculumError, DatasetError
from gaiad.learner import datacard
from gaiad.learner.dataset import EXCHANGE_ORIGIN, Dataset, Example, build_dataset, digest_of
from gaiad.learner.exams.score import fits, parsed_object
from gaiad.learner.lengths import Count, measured
from gaiad.learner.self_made import SELF_MADE
from gaiad.learner.sources import (
    documents,
    epistemics,
    jsonl,
    judgement,
    own_tools,
    packets,
    replay,
    self_instruct,
    self_replay,
    tool_registry,
    voice,
)
from gaiad.learner.sources.exchanges import CorrectedExchange, chosen, from_corrections
from gaiad.learner.sources.source import Ground, Loader, Refused
from gaiad.learner.sources.source import shipped_curricula as shipped_curricula

Tell: TypeAlias = Callable[[int, int, str], None]
"""Is told before each step of a build: how many are done, of how many, and what comes now."""

FREEZING = ".freezing-"
"""How the folder of a dataset begins until it is whole."""
_SPEC = "curriculum.json"
_FILES = {"train": "train.jsonl", "validation": "validation.jsonl", "heldout": "held_out.jsonl"}
"""Each split's file in a frozen dataset."""
_SHOWN_REFUSALS, _TOLD_REFUSALS = 100, 5
_LOADERS: dict[str, Loader] = {
    tool_registry.KIND: tool_registry.load_examples,
    judgement.KIND: judgement.load_examples,
    own_tools.KIND: own_tools.load_examples,
    documents.KIND: documents.load_examples,
    voice.KIND: voice.load_examples,
    packets.KIND: packets.load_examples,
    jsonl.KIND: jsonl.load_examples,
    epistemics.KIND: epistemics.load_examples,
    replay.KIND: replay.load_examples,
    self_instruct.KIND: self_instruct.load_examples,
    self_replay.KIND: self_replay.load_examples,
}


def curriculum_folders(root: Path) -> list[Path]:
    """The folders below `root` that hold a spec, by name; an absent root holds none."""
    return sorted(path.parent for path in root.glob(f"*/{_SPEC}"))


def spec_text(folder: Path) -> str:
    """The spec in `folder` as it is written.

    Raises:
        CurriculumError: it cannot be read.
    """
    path = folder / _SPEC
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CurriculumError(f"cannot read {path}: {error}", hint="name a folder that holds a spec") from error


def load_curriculum(folder: Path, profile: str) -> Curriculum:
    """Read and validate the spec in `folder` under `profile`.

    Raises:
        CurriculumError: naming the file and every problem.
    """
    path, text = folder / _SPEC, spec_text(folder)
    try:
        curriculum = parse_curriculum(text, profile)
    except CurriculumError as error:
        raise CurriculumError(f"{path}: {error.message}", hint=error.hint) from error
    # By the adapter's name its folder is found again.
    if (name := folder.resolve().name) != curriculum.adapter:
        raise CurriculumError(
            f"{path} is the curriculum of {curriculum.adapter!r}, and its folder is called {name!r}",
            hint="give the folder the adapter's name, or correct `adapter`",
        )
    return curriculum


def problems_in(folder: Path) -> list[str]:
    """Everything that is wrong with the spec in `folder`, under each of its profiles; empty where it can be used."""
    try:
        text = spec_text(folder)
    except CurriculumError as error:
        return [error.message]
    problems: dict[str, None] = {}
    for profile in profiles_of(text) or ["full"]:
        try:
            load_curriculum(folder, profile)
        except CurriculumError as error:
            problems.update(dict.fromkeys(error.message.removeprefix(f"{folder / _SPEC}: ").split("; ")))
    for path, kind in kinds_of(text):
        if kind not in _LOADERS:
            problems[f"{path}: no kind {kind!r} (known: {', '.join(sorted(_LOADERS))})"] = None
    return [*problems]


def gather(
    curriculum: Curriculum,
    folder: Path,
    corrections: Sequence[CorrectedExchange],
    *,
    documents: Sequence[Path] = (),
    registries: Sequence[str] = (),
    self_made: Path | None = None,
    base: str = "",
    count: Count | None = None,
    tell: Tell | None = None,
) -> Dataset:
    """Read every source of `curriculum` and build its dataset, the corrections in train.

    `documents`, `registries` and `self_made` are what the owner adds, `base` is the base that learns (see `Ground`).
    `count` measures lengths in tokens; what the dataset holds does not depend on it.

    Raises:
        CurriculumError: where material cannot be read, or a source gives nothing.
        DatasetError: where the dataset would be too small or would leak, or an example is too long.
    """
    steps = _Steps(tell, len(curriculum.sources) + 2)
    ground = Ground(curriculum, folder, tuple(documents), tuple(registries), self_made, base)
    examples, refused, own_catalogues = _sourced(ground, steps)
    steps.begin("dividing")
    dropped: Counter[str] = Counter()
    taken = _exchanged(curriculum, corrections, dropped)
    dataset = build_dataset(curriculum, examples, taken, own_catalogues)
    counts = {**cast("dict[str, Json]", dataset.card["dropped"]), **{why: n for why, n in dropped.items() if n}}
    shown: list[Json] = [
        {"origin": _writable(one.origin), "reason": _writable(one.reason)} for one in refused[:_SHOWN_REFUSALS]
    ]
    card = {**dataset.card, "dropped": counts, "refused": shown, "refused_count": len(refused)}
    steps.begin("measuring")
    everything = (*dataset.train, *dataset.validation, *dataset.heldout)
    lengths = measured(everything, curriculum.training.max_sequence_tokens, count)
    return replace(dataset, card={**card, **datacard.described(dataset, lengths)})


def _exchanged(
    curriculum: Curriculum, corrections: Sequence[CorrectedExchange], dropped: Counter[str]
) -> list[Example]:
    """What is learned from users' exchanges, as examples; `dropped` counts what is not, and why."""
    plain = [one for one in corrections if not one.shaped_by]
    in_text = from_corrections(plain)
    dropped["correction of a request with tools or a template of its own"] = len(corrections) - len(plain)
    dropped["correction without a request and an answer in text"] = len(plain) - len(in_text)
    usable = _usable(curriculum, in_text, dropped)
    most = int(curriculum.exchanges.max_share * curriculum.split.train)
    taken = chosen(usable, plain, curriculum.exchanges, most=most)
    dropped["exchange beyond its user's, its conversation's or the whole share"] = len(usable) - len(taken)
    return taken


def without_self_made(
    curriculum: Curriculum, folder: Path, documents: Sequence[Path] = (), registries: Sequence[str] = ()
) -> tuple[tuple[Example, ...], frozenset[str]]:
    """All examples that a curriculum's sources give but those of the base's own making, and its own catalogues.

    Raises:
        CurriculumError: as `gather` does.
    """
    plain = replace(curriculum, sources=tuple(one for one in curriculum.sources if one.kind not in SELF_MADE))
    examples, _, own_catalogues = _sourced(Ground(plain, folder, tuple(documents), tuple(registries)), _Steps(None, 0))
    return tuple(examples), frozenset(own_catalogues)


class _Steps:
    """Counts the steps of a build for whoever wants to know."""

    def __init__(self, tell: Tell | None, total: int) -> None:
        self._tell, self._total, self._begun = tell, total, 0

    def begin(self, what: str) -> None:
        if self._tell:
            self._tell(self._begun, self._total, what)
        self._begun += 1


def _writable(text: str) -> str:
    """The text with what no UTF-8 file can hold, as names of files may, in escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _sourced(ground: Ground, steps: _Steps) -> tuple[list[Example], list[Refused], set[str]]:
    """The examples of all sources, each under its source's name, what was refused, the runtime's own catalogues."""
    examples: list[Example] = []
    refused: list[Refused] = []
    own_catalogues: set[str] = set()
    for source in ground.curriculum.sources:
        loader = _LOADERS.get(source.kind)
        if loader is None:
            known = ", ".join(sorted(_LOADERS))
            raise CurriculumError(f"sources: no kind {source.kind!r}", hint=f"known: {known}")
        steps.begin(f"reading {source.name}")
        found = loader(source, replace(ground, before=tuple(examples), own_catalogues=frozenset(own_catalogues)))
        refused.extend(found.refused)
        own_catalogues |= found.own_catalogues
        examples.extend(
            one if one.source == source.name else replace(one, source=source.name) for one in found.examples
        )
        # What the base made can always be made again: old files must not keep anyone from learning.
        is_missed = not source.optional or (found.refused and source.kind not in SELF_MADE)
        if not found.examples and is_missed:
            raise _gives_nothing(source, found.refused)
    return examples, refused, own_catalogues


def _gives_nothing(source: SourceSpec, refused: Sequence[Refused]) -> CurriculumError:
    told = [f"{one.origin}: {one.reason}" for one in refused[:_TOLD_REFUSALS]]
    more = [f"and {len(refused) - len(told)} more"] if len(refused) > len(told) else []
    reasons = f" ({'; '.join([*told, *more])})" if told else ""
    return CurriculumError(
        f"the source {source.name!r} gives no example{reasons}",
        hint="mend the material it reads, take it out of the settings, or take the source out of the curriculum",
    )


def _usable(curriculum: Curriculum, examples: Iterable[Example], dropped: Counter[str]) -> list[Example]:
    """The corrections of this adapter's stages that fit their stage's schema and the sequence length."""
    most_characters = 4 * curriculum.training.max_sequence_tokens
    kept = []
    for example in examples:
        schema = curriculum.stage_schemas.get(example.stage or "")
        if example.stage not in curriculum.stages:
            dropped["correction of another adapter's stage"] += 1
        elif schema is not None and not fits(schema, parsed_object(example.answer)):
            dropped["correction that does not fit its stage's schema"] += 1
        elif sum(len(message.content) for message in example.messages) > most_characters:
            dropped["correction too long for the sequence length"] += 1
        else:
            kept.append(replace(example, schema=schema))
    return kept


def freeze(dataset: Dataset, datasets_dir: Path) -> Path:
    """Write the dataset to `datasets_dir/<digest>/` in one step; one that is there keeps its examples.

    Raises:
        DatasetError: where nothing can be written there, or one that is there was changed since.
    """
    target = datasets_dir / dataset.digest
    try:
        if not target.is_dir():
            _write_whole(dataset, target)
        elif load_frozen(target).card != dataset.card:
            _replace_card(target, dataset.card)
    except OSError as error:
        hint = "make room, or name a folder of your own"
        raise DatasetError(f"cannot write the dataset below {datasets_dir}: {error}", hint=hint) from error
    return target


def _write_whole(dataset: Dataset, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=FREEZING, dir=target.parent))
    try:
        for name, file in _FILES.items():
            lines = [json.dumps(example.to_json(), ensure_ascii=False) for example in getattr(dataset, name)]
            _write(staging / file, "".join(f"{line}\n" for line in lines))
        for name, text in _cards(dataset.card).items():
            _write(staging / name, text)
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _cards(card: Mapping[str, Json]) -> dict[str, str]:
    return {"card.html": card_page(card), "card.json": json.dumps(dict(card), ensure_ascii=False, indent=2) + "\n"}


def _replace_card(folder: Path, card: Mapping[str, Json]) -> None:
    """Each of the two files in one step: the examples are the same, but more or other things are known of them."""
    for name, text in _cards(card).items():
        fresh = folder / f".{name}"
        _write(fresh, text)
        fresh.replace(folder / name)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def load_frozen(path: Path) -> Dataset:
    """Read a frozen dataset and check it against its digest.

    Raises:
        DatasetError: where a file is missing or was changed since.
    """
    try:
        splits = {name: _examples(path / file) for name, file in _FILES.items()}
        card = cast("Mapping[str, Json]", json.loads((path / "card.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the dataset {path}: {error}", hint="remove it; it is rebuilt") from error
    digest = digest_of(splits)
    if digest != path.name:
        raise DatasetError(
            f"the dataset {path} was changed since it was frozen (digest now {digest[:12]})",
            hint="remove it; it is rebuilt",
        )
    origins = [example.origin for example in splits["train"]]
    ids = tuple(sorted(one.removeprefix(EXCHANGE_ORIGIN) for one in origins if one.startswith(EXCHANGE_ORIGIN)))
    return Dataset(splits["train"], splits["validation"], splits["heldout"], digest, ids, card)


def _examples(path: Path) -> tuple[Example, ...]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return tuple(Example.from_json(json.loads(line)) for line in lines if line)
