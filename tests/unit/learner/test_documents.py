"""Claims about the source `documents`: answers that stand in their document, and bad files refused by name."""

import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from gaiad.curriculum import Curriculum, Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import Example, request_of
from gaiad.learner.exams.answers import holds
from gaiad.learner.likeness import alike
from gaiad.learner.sources.catalogue import gather, load_curriculum, shipped_curricula
from gaiad.learner.sources.document_questions import KINDS
from gaiad.learner.sources.documents import MOST_BYTES, REFERENCE_MARK, load_examples, stands_in
from gaiad.learner.sources.source import Gathered, Ground
from tests.shipped import dataset_of

FOLDER = shipped_curricula() / "gaia-voice"
_NOUNS = """
memory tier lantern archive council charter harbour kernel witness ledger compass orchard signal engine pilgrim garden
mirror bridge thread anchor beacon cipher covenant drift ember forge glyph hearth inlet journal kiln loom meadow nexus
oracle portal quarry ridge shelter tether urn vessel warden yarrow zenith
"""
NOUNS = _NOUNS.split()
VERBS = ("keeps", "guides", "balances", "restores", "observes", "protects", "gathers", "shapes", "records", "mends")
ADJECTIVES = ("quiet", "careful", "distant", "patient", "hollow", "bright", "layered", "borrowed", "gentle")


def page(seed: int, size: int) -> str:
    """A document of about `size` bytes as people write them: headings, paragraphs, points, steps, tables, code."""
    draw = random.Random(f"page/{seed}")

    def words(count: int) -> str:
        return " ".join(
            f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)} {draw.choice(VERBS)}" for _ in range(count)
        )

    def sentence() -> str:
        text = f"{words(draw.randint(1, 3))} its {draw.choice(NOUNS)} {draw.choice(['slowly', 'again', 'at dusk'])}"
        return f"{text[0].upper()}{text[1:]}."

    blocks = [
        lambda: " ".join(sentence() for _ in range(draw.randint(2, 5))),
        lambda: "\n".join(f"- **{draw.choice(NOUNS).title()}**: {words(2)} what was lost" for _ in range(4)),
        lambda: "\n".join(f"{at}. {sentence()}" for at in range(1, 6)),
        lambda: f"A {draw.choice(NOUNS)} is a {draw.choice(NOUNS)} that {draw.choice(VERBS)} nothing. {sentence()}",
        lambda: (
            "| name | use |\n|---|---|\n" + "\n".join(f"| {draw.choice(NOUNS)} {at} | {words(1)} |" for at in range(4))
        ),
        lambda: f"```python\n{draw.choice(NOUNS)} = {draw.randint(1, 9)}\n```",
        lambda: f"> {sentence()}",
    ]
    text = f"# The {draw.choice(NOUNS)} of {draw.choice(NOUNS)}s\n\n"
    while len(text) < size:
        text += f"{'#' * draw.randint(2, 4)} On the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}\n\n"
        text += "\n\n".join(draw.choice(blocks)() for _ in range(draw.randint(1, 4))) + "\n\n"
    return text


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    return load_curriculum(FOLDER, "full")


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of 2 to 18 KB in two folders, one with Windows line ends, one with a byte order mark."""
    root = tmp_path_factory.mktemp("owner") / "core_documents"
    (root / "deeper").mkdir(parents=True)
    for number in range(12):
        text = page(number, 2_000 + number * 1_450)
        text = text.replace("\n", "\r\n") if number == 3 else f"\ufeff{text}" if number == 5 else text
        folder = root / "deeper" if number % 3 == 0 else root
        (folder / f"page_{number:02d}.md").write_bytes(text.encode())
    return root


def read(curriculum: Curriculum, *documents: Path, folder: Path | None = None, **options: Json) -> Gathered:
    source = SourceSpec("documents", {"own_only": folder is None, **options}, "documents")
    return load_examples(source, Ground(curriculum, folder or FOLDER, documents))


def text_of(example: Example, root: Path) -> str:
    name = example.origin.removeprefix("document:").rpartition("#")[0]
    return (root.parent / name).read_bytes().decode("utf-8-sig")


def test_twelve_documents_of_an_owner_are_built_from_without_edits(curriculum: Curriculum, twelve: Path) -> None:
    found = read(curriculum, twelve)
    assert found.refused == ()
    assert len({one.origin.partition("#")[0] for one in found.examples}) == 12
    assert len(found.examples) >= 300
    assert {one.stratum for one in found.examples} == set(KINDS)


def test_every_answer_stands_in_its_document_at_the_place_it_names(curriculum: Curriculum, twelve: Path) -> None:
    for root, gathered in ((twelve, read(curriculum, twelve)), (FOLDER / "documents", read(curriculum, folder=FOLDER))):
        for one in gathered.examples:
            text = text_of(one, root)
            assert stands_in(one, text)
            assert not stands_in(replace(one, messages=(*one.messages[:-1], one.messages[1])), text)
            assert one.expected is not None
            assert holds(one.expected, one.answer)


def test_every_question_shows_the_passage_that_holds_its_answer(curriculum: Curriculum, twelve: Path) -> None:
    for one in (*read(curriculum, twelve).examples, *read(curriculum, folder=FOLDER).examples):
        request = request_of(one)
        assert request.startswith(f"{REFERENCE_MARK}\n")
        assert " ".join(one.answer.split()) in " ".join(request.split())


def test_questions_to_one_place_share_a_group_and_others_are_not_alike(curriculum: Curriculum) -> None:
    found = read(curriculum, folder=FOLDER).examples
    groups = Counter(one.group for one in found)
    assert max(groups.values()) / len(found) <= 0.05
    pairs = [(found[a].group, found[b].group) for a, b, _ in alike(found, found, 0.7) if a != b]
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


def test_the_kinds_of_the_shipped_documents_are_balanced_within_two() -> None:
    train = dataset_of(FOLDER.name).train
    kinds = Counter(one.stratum for one in train if one.source == "documents")
    assert max(kinds.values()) <= 2 * min(kinds.values())


def test_an_owners_documents_come_in_beside_the_shipped_ones(curriculum: Curriculum, twelve: Path) -> None:
    dataset = gather(curriculum, FOLDER, [], documents=[twelve])
    roots = Counter(one.origin.split("/")[0] for one in dataset.train if one.source == "documents")
    assert min(roots["document:core_documents"], roots["document:documents"]) > 0
    assert dataset.digest != dataset_of(FOLDER.name).digest


def test_questions_follow_from_seed_and_text_and_not_from_the_order_of_files(
    curriculum: Curriculum, twelve: Path
) -> None:
    assert read(curriculum, twelve) == read(curriculum, twelve)
    other = read(replace(curriculum, seed=1), twelve).examples
    assert {one.key() for one in other} != {one.key() for one in read(curriculum, twelve).examples}


def test_a_document_gives_no_more_than_it_may_and_only_the_kinds_asked_for(
    curriculum: Curriculum, twelve: Path
) -> None:
    found = read(curriculum, twelve, per_document=5, kinds=["gap", "order"]).examples
    assert max(Counter(one.origin.partition("#")[0] for one in found).values()) <= 5
    assert {one.stratum for one in found} == {"gap", "order"}


def test_no_example_is_too_long_for_a_small_sequence(curriculum: Curriculum, twelve: Path) -> None:
    small = replace(curriculum, training=replace(curriculum.training, max_sequence_tokens=200))
    found = read(small, twelve).examples
    assert len(found) > 100
    assert max(sum(len(message.content) for message in one.messages) for one in found) <= 200 * 3.2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"# Only a heading\n", "no sentence, list or table in it that can be asked about"),
        (b"PK\x03\x04\x00\x00", "binary"),
        ("für Elise".encode("latin-1"), "not UTF-8 at byte 1"),
        (b"word " * (MOST_BYTES // 5 + 1), "larger than 1 MB"),
    ],
)
def test_a_bad_document_is_refused_by_name(curriculum: Curriculum, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "good.md").write_text(page(1, 2_000))
    (tmp_path / "bad.md").write_bytes(content)
    found = read(curriculum, tmp_path)
    assert [(one.origin, one.reason) for one in found.refused] == [(f"document:{tmp_path.name}/bad.md", reason)]
    assert found.examples


def test_a_document_of_fifty_megabytes_is_refused_without_reading_it_whole(
    curriculum: Curriculum, tmp_path: Path
) -> None:
    with (tmp_path / "log.md").open("wb") as file:
        file.truncate(50_000_000)
    assert [one.reason for one in read(curriculum, tmp_path).refused] == ["larger than 1 MB"]


def test_documents_that_are_too_much_together_are_left_unread_by_name(curriculum: Curriculum, tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.md").write_text(f"{number} is a file. {'word ' * (MOST_BYTES // 5 - 4)}")
    refused = read(curriculum, tmp_path).refused
    beyond = [one.origin.rpartition("/")[2] for one in refused if one.reason.startswith("beyond the first 8 MB")]
    assert beyond == ["9.md"]


def test_of_too_many_documents_the_first_are_read(
    curriculum: Curriculum, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaiad.learner.sources.documents.MOST_DOCUMENTS", 2)
    for number in range(4):
        (tmp_path / f"{number}.md").write_text(page(number, 2_000))
    found = read(curriculum, tmp_path)
    assert [one.origin.rpartition("/")[2] for one in found.refused] == ["2.md"]
    assert len({one.origin.partition("#")[0] for one in found.examples}) == 2


def test_links_in_a_circle_and_things_that_are_no_files_are_refused(curriculum: Curriculum, tmp_path: Path) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    (root / "a.md").write_text(page(1, 2_000))
    (root / "again").symlink_to(root)
    (root / "loop.md").symlink_to(root / "loop.md")
    (root / "nowhere.md").symlink_to(tmp_path / "gone.md")
    (root / "copy.md").symlink_to(root / "a.md")
    (root / "unnamable").symlink_to("n" * 300)
    (root / ".hidden.md").write_bytes(b"\0")
    (root / "picture.png").write_bytes(b"\0")
    os.mkfifo(root / "pipe.md")
    found = read(curriculum, root)
    assert {one.origin.removeprefix("document:notes/"): one.reason for one in found.refused} == {
        "again": "a link to a folder that was read already",
        "copy.md": "the same text as notes/a.md",
        "loop.md": "cannot be read: a link that leads in a circle",
        "nowhere.md": "cannot be read: No such file or directory",
        "pipe.md": "neither a file nor a folder",
        "unnamable": "cannot be read: File name too long",
    }
    assert len({one.origin.partition("#")[0] for one in found.examples}) == 1


def test_what_is_not_there_is_refused_and_a_file_alone_is_read(curriculum: Curriculum, tmp_path: Path) -> None:
    (tmp_path / "charter.txt").write_text(page(2, 2_000))
    found = read(curriculum, tmp_path / "gone", tmp_path / "charter.txt")
    assert [(one.origin, one.reason) for one in found.refused] == [("document:gone", "not there")]
    assert {one.origin.partition("#")[0] for one in found.examples} == {"document:charter.txt"}


def test_a_name_that_is_no_utf_8_is_written_out(curriculum: Curriculum, tmp_path: Path) -> None:
    for name, content in ((b"\xdcbersicht.md", page(1, 3_000).encode()), (b"\xe4.md", b"a\0b")):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(content)
    found = read(curriculum, tmp_path)
    assert {one.origin.partition("#")[0] for one in found.examples} == {f"document:{tmp_path.name}/\\udcdcbersicht.md"}
    assert [one.origin for one in found.refused] == [f"document:{tmp_path.name}/\\udce4.md"]


def test_a_folder_without_markdown_is_refused_by_name(curriculum: Curriculum, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "list.txt").write_text("Milk is a drink that comes from cows.", "utf-8")
    found = read(curriculum, tmp_path / "notes", folder=FOLDER)
    assert [(one.origin, one.reason) for one in found.refused] == [("document:notes", "no Markdown in it")]
    assert found.examples


def test_two_folders_of_one_name_are_told_apart(curriculum: Curriculum, tmp_path: Path) -> None:
    for number, parent in enumerate(("one", "two")):
        (tmp_path / parent / "docs").mkdir(parents=True)
        (tmp_path / parent / "docs" / "a.md").write_text(page(number, 2_000))
    found = read(curriculum, tmp_path / "one" / "docs", tmp_path / "two" / "docs").examples
    assert len({one.origin.partition("#")[0] for one in found}) == 2


@pytest.mark.parametrize(
    "options",
    [{"kinds": ["essay"]}, {"kinds": []}, {"per_document": 0}, {"per_document": True}, {"own_only": 1}, {"x": 1}],
)
def test_wrong_options_are_named(curriculum: Curriculum, options: dict[str, Json]) -> None:
    with pytest.raises(CurriculumError, match=next(iter(options))):
        load_examples(SourceSpec("documents", options, "documents"), Ground(curriculum, FOLDER))
