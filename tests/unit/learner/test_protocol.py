from __future__ import annotations

import dataclasses
import json

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import TrainingError
from gaiad.learner.protocol import (
    Checkpoint,
    Error,
    Hello,
    Job,
    Message,
    Progress,
    Result,
    encode,
    parse_job,
    parse_line,
)

JOB = Job(
    base_model="/models/base",
    train_path="/d/train.jsonl",
    validation_path="/d/validation.jsonl",
    output_dir="/runs/1/staging",
    lora=LoraSpec(16, 32, 0.05, ("q_proj", "v_proj")),
    training=TrainingSpec(320, 40, 4, 5e-4, 4, 0.0, 1.0, "nf4", 10, 3, 7),
    threads=2,
    device="cpu",
)
MESSAGES: tuple[Message, ...] = (
    Hello(pid=12),
    Progress(0, 40, None, 2.5, 0, 0.0, 3.0),
    Progress(3, 40, 1.5, None, 900, 250.5, 9.0),
    Checkpoint(10, "/runs/1/staging", 0.4),
    Result("/o", 40, 30, 0.1, 0.2, 2.5, 9, 5, 6.0, 1, "nf4", "cpu", "padded", True, "ab", {"torch": "2"}),
    Result("/o", 40, 30, 0.1, 0.2, 2.5, 9, 5, 6.0, 1, "nf4", "cpu", "padded", True, "ab", {"torch": "2"}, ("r1", "r2")),
    Error("it broke", "mend it"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_every_message_survives_the_line(message: Message) -> None:
    line = encode(message)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert parse_line(line) == message


def test_a_field_of_this_release_is_not_sent_where_it_says_nothing_new() -> None:
    results = [message for message in MESSAGES if isinstance(message, Result)]
    assert ["left_out" in encode(result) for result in results] == [False, True]


def test_progress_of_which_nothing_more_is_known_reads_as_it_always_did() -> None:
    plain = Progress(1, 10, 2.5, None, 300, 100.0, 3.0)
    assert json.loads(encode(plain)).keys() == {
        *("type", "step", "total_steps", "loss", "validation_loss", "tokens", "tokens_per_s", "elapsed_s"),
    }
    known = dataclasses.replace(
        plain, memory_bytes=5, flops_per_s=1e12, peak_share=0.4, learning_rate=1e-4, resumed_from=0
    )
    assert parse_line(encode(known)) == known


def test_a_job_survives_the_line() -> None:
    assert parse_job(encode(JOB)) == JOB


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loading weights: 100%",
        '{"type":"progress","step":1',
        "[1]",
        '{"type":"goodbye"}',
        '{"type":["hello"],"pid":1}',
        '{"type":"hello"}',
        '{"type":"hello","pid":"1"}',
        '{"type":"hello","pid":true}',
        '{"type":"hello","pid":1,"mood":"good"}',
        '{"type":"hello","pid":1,"version":2}',
        '{"type":"error","message":"x","hint":null}',
        '{"type":"checkpoint","step":1,"path":"p","validation_loss":NaN}',
    ],
)
def test_what_is_not_exactly_a_message_is_a_failure(line: str) -> None:
    with pytest.raises(TrainingError) as caught:
        parse_line(line)
    assert caught.value.hint


def test_a_number_that_json_lacks_is_never_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(Progress(1, 2, float("nan"), None, 0, 0.0, 0.0))


@pytest.mark.parametrize(
    "change", [{"version": 9}, {"device": "tpu"}, {"lora": {"rank": 1}}, {"threads": "2"}, {"extra": 1}]
)
def test_a_job_that_the_trainer_would_misread_is_refused(change: dict[str, object]) -> None:
    body = json.loads(encode(JOB)) | change
    with pytest.raises(TrainingError):
        parse_job(json.dumps(body))
