"""Sharing prefixes must change the time of a step and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import TrainingError
from gaiad.learner.packing import TokenExample
from gaiad.learner.protocol import Job
from tests.fakes.tiny_base import adapted, make_tiny_base

torch = pytest.importorskip("torch")

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import losses, train  # noqa: E402

JOB = Job(
    base_model="",
    train_path="",
    validation_path="",
    output_dir="",
    lora=LoraSpec(8, 16, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
    training=TrainingSpec(400, 4, 4, 5e-4, 1, 0.0, 1.0, "bf16", 2, 3, 7),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny"), seed=3)
    assert bases.layout_for(str(folder)) == "prefix_shared"
    return adapted(folder, JOB.lora)


def examples() -> list[TokenExample]:
    chooser = random.Random(11)

    def some(count: int) -> tuple[int, ...]:
        return tuple(chooser.randrange(3, 300) for _ in range(count))

    catalogues = [some(150), some(90)]
    shared = [TokenExample(catalogues[index % 2] + some(5 + index), some(3 + index % 4)) for index in range(8)]
    alone = TokenExample(some(70), some(9), weight=2.5)
    twice = TokenExample(shared[0].prompt, some(4), weight=0.5)
    return [*shared, alone, twice]


def loss_and_gradients(model: Any, layout: losses.Layout) -> tuple[float, dict[str, Any]]:
    model.zero_grad(set_to_none=True)
    laid_out = losses.batches(examples(), layout, "cpu", 400)
    divisor = losses.weight_of(laid_out)
    total = 0.0
    for batch in laid_out:
        loss = losses.loss_sum(model, batch) / divisor
        torch.autograd.backward(loss)
        total += float(loss.detach())
    return total, {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def test_shared_prefixes_give_the_loss_and_gradients_of_the_plain_way(model: Any) -> None:
    plain_loss, plain = loss_and_gradients(model, "padded")
    shared_loss, shared = loss_and_gradients(model, "prefix_shared")
    assert shared_loss == pytest.approx(plain_loss, abs=1e-4)
    assert plain.keys() == shared.keys()
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    for name, gradient in plain.items():
        assert float((gradient - shared[name]).abs().max()) <= 1e-4 * largest, name


def test_shared_prefixes_are_computed_once(model: Any) -> None:
    sizes = {
        layout: sum(batch.input_ids.numel() for batch in losses.batches(examples(), layout, "cpu", 400))
        for layout in ("padded", "prefix_shared")
    }
    assert sizes["prefix_shared"] < sizes["padded"] / 2


def test_the_plain_loss_is_that_of_transformers_itself(model: Any) -> None:
    (example,) = examples()[:1]
    labels = torch.tensor([[-100] * len(example.prompt) + list(example.answer)])
    expected = float(model(input_ids=torch.tensor([example.tokens]), labels=labels).loss.detach())
    (batch,) = losses.batches([example], "padded", "cpu", 400)
    assert float(losses.loss_sum(model, batch).detach()) / len(example.answer) == pytest.approx(expected, abs=1e-5)


def test_a_backward_that_silently_gives_nothing_is_a_failure(model: Any) -> None:
    model.zero_grad(set_to_none=True)
    with pytest.raises(TrainingError, match="no gradient"):
        bases.check_gradients(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(TrainingError, match="no gradient"):
        bases.check_gradients(model)


def test_the_rate_warms_up_and_then_falls_without_a_wasted_step() -> None:
    spec = dataclasses.replace(JOB.training, max_steps=20, warmup_steps=4)
    rates = [train.rate_factor(step, spec) for step in range(20)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(rates[4:]))
