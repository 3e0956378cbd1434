"""The real training child on a tiny base, driven as the daemon drives it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import TrainingError
from gaiad.learner.artifacts import check_files, weights_digest
from gaiad.learner.dataset import Example, Message
from gaiad.learner.protocol import Job, Progress, Result
from gaiad.learner.protocol import Message as Said
from gaiad.learner.runner import Run
from tests.fakes.tiny_base import CHATML, make_tiny_base

pytest.importorskip("torch")

from gaiad.learner import rendering, train

CATALOGUE = "You select a tool. AVAILABLE TOOLS: read_file reads a file; web_search searches the web; list_dir lists."
CATALOGUE += (
    " One of them always fits. Name it, and give its parameters as an object; leave the object empty where none."
)


def example(number: int) -> Example:
    tool = ("read_file", "web_search", "list_dir")[number % 3]
    return Example(
        (
            Message("user", f"{CATALOGUE}\n\nUSER REQUEST: {tool[:4]} thing {number}\n\nRespond in JSON."),
            Message("assistant", json.dumps({"selected_tool": tool, "params": {}})),
        ),
        source="toy",
        group=f"toy/{number}",
        origin=f"toy:{number}",
    )


def write(path: Path, examples: Sequence[Example]) -> str:
    path.write_text("".join(json.dumps(one.to_json()) + "\n" for one in examples), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("run")
    return Job(
        base_model=str(make_tiny_base(folder / "base", seed=1)),
        train_path=write(folder / "train.jsonl", [example(number) for number in range(24)]),
        validation_path=write(folder / "validation.jsonl", [example(number) for number in range(24, 30)]),
        output_dir=str(folder / "staging"),
        lora=LoraSpec(8, 16, 0.05, ("q_proj", "k_proj", "v_proj", "o_proj")),
        training=TrainingSpec(400, 12, 4, 1e-2, 2, 0.0, 1.0, "nf4", 3, 3, 7),
        threads=1,
        device="cpu",
    )


async def carry_out(job: Job, folder: Path) -> tuple[list[Said], Result]:
    run = await Run.start(job, python=sys.executable, log_path=folder / "run.log", silence_s=100)
    heard = [message async for message in run.messages()]
    return heard, await run.outcome()


async def test_a_run_learns_and_leaves_an_adapter_that_every_check_accepts(job: Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, output_dir=str(tmp_path / "staging"))
    heard, result = await carry_out(job, tmp_path)
    staging = Path(result.output_dir)
    assert sorted(os.listdir(staging)) == ["adapter_config.json", "adapter_model.safetensors"]
    check_files(staging, max_rank=8)
    assert result.weights_sha256 == weights_digest(staging)
    assert result.base_validation_loss is not None
    assert result.validation_loss is not None
    assert result.validation_loss < result.base_validation_loss - 0.1
    assert (result.quantisation, result.layout, result.device) == ("nf4", "prefix_shared", "cpu")
    assert result.computed_tokens < result.tokens / 2
    assert result.packages["torch"]
    progress = [message for message in heard if isinstance(message, Progress)]
    assert [message.step for message in progress] == list(range(13))
    assert [message.step for message in progress if message.validation_loss is not None] == [0, 3, 6, 9, 12]
    log = (tmp_path / "run.log").read_text()
    assert "USER REQUEST" not in log


def test_the_same_job_gives_the_same_weights(job: Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, training=dataclasses.replace(job.training, max_steps=2, quantisation="bf16"))
    jobs = [dataclasses.replace(job, output_dir=str(tmp_path / name)) for name in ("one", "two")]
    results = [train.train(one, threading.Event(), lambda _: None) for one in jobs]
    assert len({result.weights_sha256 for result in results}) == 1
    assert {result.quantisation for result in results} == {"bf16"}


async def test_a_stopped_run_ends_after_its_step_and_says_why(job: Job, tmp_path: Path) -> None:
    endless = dataclasses.replace(job.training, max_steps=100_000, validate_every_steps=100_000, quantisation="bf16")
    job = dataclasses.replace(job, training=endless, output_dir=str(tmp_path / "staging"))
    run = await Run.start(job, python=sys.executable, log_path=tmp_path / "run.log", silence_s=100)
    async for message in run.messages():
        if isinstance(message, Progress) and message.step == 2:
            break
    await run.stop(grace_s=30)
    with pytest.raises(TrainingError, match="stopped"):
        await run.outcome()


def test_a_run_that_stops_improving_ends_early(job: Job, tmp_path: Path) -> None:
    spoiled = dataclasses.replace(
        job.training, max_steps=60, learning_rate=1.0, validate_every_steps=1, patience=2, quantisation="bf16"
    )
    job = dataclasses.replace(job, training=spoiled, output_dir=str(tmp_path / "staging"))
    result = train.train(job, threading.Event(), lambda _: None)
    assert result.stopped_early
    assert result.steps == result.best_step + 2


ODD = Message("tribune", "I speak for them")
STRICT = CHATML.replace(
    "{{ '<|im_start|>'",
    "{% if message['role'] not in ('user', 'assistant') %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ '<|im_start|>'",
    1,
)


def of_user(name: str, *messages: Message) -> Example:
    origin = f"exchange:{name}"
    return Example((*messages, Message("assistant", "{}")), source="exchanges", group=origin, origin=origin)


@pytest.fixture
def strict(job: Job, tmp_path: Path) -> Job:
    """A job whose base has a template that knows two roles."""
    base = shutil.copytree(job.base_model, tmp_path / "base")
    for left in base.glob("*chat_template*"):
        left.unlink()
    tokenizer = rendering.load_tokenizer(job.base_model)
    tokenizer.chat_template = STRICT
    tokenizer.save_pretrained(base)
    return dataclasses.replace(job, base_model=str(base))


def test_an_exchange_that_cannot_be_rendered_or_is_too_long_is_left_out_by_name(strict: Job, tmp_path: Path) -> None:
    usable = of_user("good", Message("user", "who holds the lighthouse?"))
    unusable = [
        of_user("long", Message("user", "word " * 5000)),
        of_user("odd", ODD, Message("user", "so be it")),
    ]
    both = [example(0), *unusable, example(1), usable]
    job = dataclasses.replace(strict, train_path=write(tmp_path / "train.jsonl", both))
    splits = train.load_splits(job)
    assert splits.left_out == ("long", "odd")
    assert len(splits.train) == len(splits.kinds) == 3
    # Each example keeps its own catalogue: those two share one, the exchange has none.
    assert splits.kinds[0] == splits.kinds[1] is not None
    assert splits.kinds[2] is None


def test_a_split_of_which_nothing_can_be_used_is_one_clear_sentence(strict: Job, tmp_path: Path) -> None:
    only = [of_user("odd", ODD, Message("user", "so be it"))]
    with pytest.raises(TrainingError, match="train split is empty"):
        train.load_splits(dataclasses.replace(strict, train_path=write(tmp_path / "train.jsonl", only)))


def test_an_example_of_the_curriculum_that_cannot_be_rendered_ends_the_run_by_name(strict: Job, tmp_path: Path) -> None:
    broken = dataclasses.replace(example(0), messages=(ODD, *example(0).messages))
    with pytest.raises(TrainingError, match="the chat template refuses toy:0: no such role") as caught:
        train.load_splits(dataclasses.replace(strict, train_path=write(tmp_path / "train.jsonl", [broken])))
    assert caught.value.hint


def test_the_result_names_what_was_left_out(job: Job, tmp_path: Path) -> None:
    examples = [*(example(number) for number in range(8)), of_user("long", Message("user", "word " * 5000))]
    training = dataclasses.replace(job.training, max_steps=1, warmup_steps=0, quantisation="bf16")
    job = dataclasses.replace(
        job,
        training=training,
        train_path=write(tmp_path / "train.jsonl", examples),
        output_dir=str(tmp_path / "staging"),
    )
    assert train.train(job, threading.Event(), lambda _: None).left_out == ("long",)


def without_base(job: Job, folder: Path) -> Job:
    return dataclasses.replace(job, base_model=str(folder / "nowhere"))


def too_long(job: Job, folder: Path) -> Job:
    return dataclasses.replace(job, training=dataclasses.replace(job.training, max_sequence_tokens=20))


def with_unknown_modules(job: Job, folder: Path) -> Job:
    return dataclasses.replace(job, lora=dataclasses.replace(job.lora, target_modules=("flux_capacitor",)))


def with_torn_split(job: Job, folder: Path) -> Job:
    (folder / "torn.jsonl").write_text('{"messages": [')
    return dataclasses.replace(job, train_path=str(folder / "torn.jsonl"))


def without_examples(job: Job, folder: Path) -> Job:
    return dataclasses.replace(job, train_path=write(folder / "empty.jsonl", []))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_base, "holds no base model"),
        (too_long, r"example toy:0 has \d+ tokens, above max_sequence_tokens = 20"),
        (with_unknown_modules, "flux_capacitor"),
        (with_torn_split, "cannot be read"),
        (without_examples, "train split is empty"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_sentence(
    job: Job, tmp_path: Path, spoil: Callable[[Job, Path], Job], sentence: str
) -> None:
    broken = dataclasses.replace(spoil(job, tmp_path), output_dir=str(tmp_path / "staging"))
    with pytest.raises(TrainingError, match=sentence) as caught:
        train.train(broken, threading.Event(), lambda _: None)
    assert caught.value.hint
    assert not (tmp_path / "staging").exists()


async def test_the_daemon_hears_that_sentence(job: Job, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no base model"):
        await carry_out(without_base(job, tmp_path), tmp_path)
