"""What a rejected answer teaches: the losses of the papers, whatever way the pairs lie in rows."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.learner.packing import TokenExample, plan_pairs, rejected_side
from tests.fakes.tiny_base import adapted, make_tiny_base

torch = pytest.importorskip("torch")

from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner import losses  # noqa: E402

LORA = LoraSpec(8, 16, 0.0, ("q_proj", "v_proj"))
SPEC = TrainingSpec(
    400, 4, 4, 5e-4, 1, 0.0, 1.0, "bf16", 2, 3, 7, preference="dpo", preference_beta=0.3, preference_margin=0.5
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return adapted(make_tiny_base(tmp_path_factory.mktemp("tiny"), seed=3), LORA)


def examples() -> list[TokenExample]:
    chooser = random.Random(4)

    def some(count: int) -> tuple[int, ...]:
        return tuple(chooser.randrange(3, 300) for _ in range(count))

    pairs = [TokenExample(some(40 + 9 * n), some(3 + n), 1.0 + n / 2, rejected=some(6 - n)) for n in range(4)]
    return [*pairs, TokenExample(some(30), some(5))]


def likelihood(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Any:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1)[range(len(answer)), list(answer)]


def by_hand(model: Any, spec: TrainingSpec) -> Any:
    """Equation 7 of arXiv 2305.18290, or equation 6 of arXiv 2405.14734, sequence by sequence."""
    total = torch.zeros(())
    for one in examples():
        if not one.rejected:
            continue
        right, wrong = (likelihood(model, one.prompt, side) for side in (one.answer, one.rejected))
        if spec.preference == "simpo":
            margin = spec.preference_beta * (right.mean() - wrong.mean()) - spec.preference_margin
        else:
            with torch.no_grad(), model.disable_adapter():
                before = [likelihood(model, one.prompt, side).sum() for side in (one.answer, one.rejected)]
            margin = spec.preference_beta * ((right.sum() - before[0]) - (wrong.sum() - before[1]))
        total = total - torch.nn.functional.logsigmoid(margin) * one.weight
    return total


@pytest.mark.parametrize("layout", ["prefix_shared", "padded"])
@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_loss_and_gradients_are_those_of_the_paper(model: Any, layout: losses.Layout, kind: str) -> None:
    spec = dataclasses.replace(SPEC, preference=kind)
    model.zero_grad(set_to_none=True)
    expected = by_hand(model, spec)
    torch.autograd.backward(expected)
    wanted = {name: weight.grad.clone() for name, weight in bases.trained_weights(model).items()}
    model.zero_grad(set_to_none=True)
    found = torch.zeros(())
    for batch in losses.batches(examples(), layout, "cpu", 400, 200):
        found = found + losses.losses_of(model, batch, spec, *losses.decoded(model, batch))[1]
    torch.autograd.backward(found)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, weight in bases.trained_weights(model).items():
        assert float((weight.grad - wanted[name]).abs().max()) <= 1e-5 * largest, name


@pytest.mark.parametrize("layout", ["prefix_shared", "padded"])
def test_a_rejected_answer_is_never_learnt_as_an_answer(model: Any, layout: losses.Layout) -> None:
    right = [dataclasses.replace(one, rejected=()) for one in examples()]
    with torch.no_grad():
        sums = [
            sum(float(losses.loss_sum(model, batch)) for batch in losses.batches(some, layout, "cpu", 400))
            for some in (examples(), right)
        ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert losses.weight_of(losses.batches(examples(), layout, "cpu", 400)) == pytest.approx(
        losses.weight_of(losses.batches(right, layout, "cpu", 400))
    )


def test_a_pair_is_never_divided_between_rows() -> None:
    pairs = examples()[:4]
    rows = plan_pairs(pairs, max_row_tokens=120)
    assert [one for _, inside in rows for one in inside] == pairs
    for row, inside in rows:
        sides = [side for pair in inside for side in (pair, rejected_side(pair))]
        assert [target.token for target in row.targets] == [token for side in sides for token in side.answer]
        assert len(row.tokens) == sum(len(pair) + 1 + len(pair.rejected) for pair in inside)
        assert len(inside) == 1 or len(row.tokens) <= 120


def test_without_a_preference_pairs_teach_their_answers_only(model: Any) -> None:
    spec = dataclasses.replace(SPEC, preference="none")
    for batch in losses.batches(examples(), "prefix_shared", "cpu", 400):
        assert float(losses.losses_of(model, batch, spec, *losses.decoded(model, batch))[1]) == 0.0


def test_lora_plus_gives_the_second_matrices_their_own_rate(model: Any) -> None:
    plus = bases.optimiser_for(model, dataclasses.replace(LORA, plus_ratio=16.0), SPEC)
    assert [group["full_rate"] for group in plus.param_groups] == [SPEC.learning_rate, 16 * SPEC.learning_rate]
    names = {id(weight): name for name, weight in bases.trained_weights(model).items()}
    assert all("lora_B" in names[id(weight)] for weight in plus.param_groups[1]["params"])
    plain = bases.optimiser_for(model, LORA, SPEC)
    assert len(plain.param_groups) == 1
