"""Layers computed in few passes give what PEFT and transformers give, with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gaiad.curriculum import ALL_LINEAR, LoraSpec
from gaiad.learner.packing import TokenExample
from tests.fakes.tiny_base import make_tiny_base

torch = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm  # noqa: E402

from gaiad.learner import answer_loss, dropout, fused, losses  # noqa: E402
from gaiad.learner import base as bases  # noqa: E402

WITHOUT_DROPOUT = LoraSpec(8, 16, 0.0, ALL_LINEAR, rslora=True)
WITH_DROPOUT = LoraSpec(8, 16, 0.3, ("q_proj", "o_proj"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"), seed=3)


def examples(count: int = 5) -> list[TokenExample]:
    return [TokenExample((*range(3, 90), 100 + index), tuple(range(120, 150 + index))) for index in range(count)]


def adapter_of(folder: Path, lora: LoraSpec, quantisation: str = "bf16") -> Any:
    """A model whose B matrices are no longer zero; in float32 unless its base is quantised."""
    model = bases.add_lora(bases.load_base(str(folder), "cpu", quantisation=quantisation), lora).train()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in bases.trained_weights(model).items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / 30)
    return model if quantisation == "nf4" else model.float()


def learnt(model: Any, laid_out: Sequence[losses.Batch]) -> tuple[float, list[Any]]:
    """The loss and all gradients."""
    model.zero_grad(set_to_none=True)
    loss = sum(losses.loss_sum(model, batch) for batch in laid_out)
    torch.autograd.backward(loss)
    return float(loss.detach()), [weight.grad.clone() for weight in bases.trained_weights(model).values()]


@pytest.mark.parametrize("layout", ["prefix_shared", "padded"])
def test_a_step_is_that_of_the_layers_as_they_were_made(
    folder: Path, layout: losses.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapter_of(folder, WITHOUT_DROPOUT)
    laid_out = losses.batches(examples(), layout, "cpu", 400)
    loss, gradients = learnt(model, laid_out)
    replaced = [module for module in model.modules() if "forward" in module.__dict__]
    # Of each layer seven projections, two norms and the gate; and the norm of the last hidden state.
    assert len(replaced) == 10 * model.config.num_hidden_layers + 1
    fused.unfuse(model)
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    monkeypatch.setattr(losses, "fusable", lambda model: False)
    expected, its_gradients = learnt(model, laid_out)
    assert loss == pytest.approx(expected, rel=1e-5)
    for mine, its in zip(gradients, its_gradients, strict=True):
        assert float((mine - its).norm()) <= 1e-5 * float(its.norm())


def test_a_quantised_base_is_adapted_in_the_same_way(folder: Path) -> None:
    model = adapter_of(folder, WITHOUT_DROPOUT, "nf4")
    (batch,) = losses.batches(examples(), "prefix_shared", "cpu", 800)
    _, gradients = learnt(model, [batch])
    fused.unfuse(model)
    _, expected = learnt(model, [batch])
    # Two ways of rounding to bf16.
    for mine, its in zip(gradients, expected, strict=True):
        assert float((mine - its).norm()) <= 0.03 * float(its.norm())


def test_without_its_adapter_a_model_is_its_base(folder: Path) -> None:
    model = adapter_of(folder, WITHOUT_DROPOUT)
    (batch,) = losses.batches(examples(), "prefix_shared", "cpu", 800)
    with torch.no_grad():
        adapted = losses.loss_sum(model, batch)
        with model.disable_adapter():
            alone = losses.loss_sum(model, batch)
        for name, weight in bases.trained_weights(model).items():
            if "lora_B" in name:
                weight.zero_()
        zeroed = losses.loss_sum(model, batch)
    torch.testing.assert_close(alone, zeroed)
    assert abs(float(adapted - alone)) > 0.01


def test_dropping_is_of_training_alone_and_the_seed_decides(folder: Path) -> None:
    model = adapter_of(folder, WITH_DROPOUT)
    (batch,) = losses.batches(examples(), "prefix_shared", "cpu", 800)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        with torch.no_grad():
            return float(losses.loss_sum(model, batch))

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_way_back_of_an_adapter_is_that_of_its_way_there(p: float) -> None:
    inputs = [some(2, 5, 6), some(10, 4), some(3, 6), some(4, 3)]

    def adapted(*tensors: Any) -> Any:
        torch.manual_seed(1)
        return fused.Adapted.apply(*tensors, 0.7, p)

    assert torch.autograd.gradcheck(adapted, inputs)
    one, out, a, b = inputs
    torch.manual_seed(1)
    dropped = one.detach().flatten().index_fill(0, dropout.dropped(60, p), 0.0) if p else one.detach().flatten()
    torch.testing.assert_close(adapted(*inputs), out + 0.7 / (1 - p) * (dropped.view(10, 6) @ a.t()) @ b.t())


def test_norm_and_gate_are_those_of_transformers() -> None:
    norm = LlamaRMSNorm(6).double()
    torch.nn.init.normal_(norm.weight)
    norm.requires_grad_(False)
    config = transformers.LlamaConfig(hidden_size=6, num_attention_heads=2, intermediate_size=10)
    forward = LlamaMLP(config).double().requires_grad_(False)
    for module in (norm, forward):
        inputs = some(2, 5, 6)
        expected = module(inputs)
        slope = torch.autograd.grad(expected, inputs, torch.ones_like(expected))
        fused.fuse(module)
        assert "forward" in module.__dict__
        found = module(inputs)
        # Its norm computes in float32, whatever comes in.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            torch.autograd.grad(found, inputs, torch.ones_like(found)), slope, rtol=1e-4, atol=1e-5
        )
        assert torch.autograd.gradcheck(module, (inputs,))


def test_a_feed_forward_part_of_another_curve_is_left_alone() -> None:
    other = LlamaMLP(
        transformers.LlamaConfig(hidden_size=6, num_attention_heads=2, intermediate_size=10, hidden_act="gelu")
    )
    fused.fuse(other)
    assert "forward" not in other.__dict__


@pytest.mark.parametrize("tokens", [1, 64, 65, 200])
def test_losses_of_answers_are_cross_entropies(tokens: int) -> None:
    hidden, head = some(tokens, 6), some(50, 6).detach()
    targets = torch.randint(0, 50, (tokens,), generator=torch.Generator().manual_seed(3))
    weights = torch.rand(tokens, dtype=torch.float64)

    def of(losses_of: Callable[[Any], Any]) -> tuple[Any, Any]:
        found = losses_of(hidden)
        return found.detach(), torch.autograd.grad((found * weights).sum(), hidden)[0]

    found = of(lambda states: answer_loss.AnswerLosses.apply(states, head, targets))
    expected = of(lambda states: torch.nn.functional.cross_entropy(states @ head.t(), targets, reduction="none"))
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(answer_loss.AnswerLosses.apply(hidden, head, targets), found[0])


def test_a_base_may_go_on_in_place_with_what_an_adapted_projection_gave(folder: Path) -> None:
    model = adapter_of(folder, WITHOUT_DROPOUT)
    projection = next(module for module in model.modules() if "forward" in module.__dict__)
    out = projection(torch.ones(1, 3, 128))
    out += 1
    torch.autograd.backward(out.sum())
    assert projection.lora_B["default"].weight.grad is not None


def test_only_a_head_that_is_nothing_else_is_fused(folder: Path) -> None:
    model = adapter_of(folder, WITHOUT_DROPOUT)
    assert answer_loss.fusable(model)
    model.config.model_type = "gemma2"
    assert not answer_loss.fusable(model)
    model.config.model_type = "llama"
    with pytest.warns(UserWarning, match="tied layer"):
        headed = adapter_of(folder, LoraSpec(8, 16, 0.0, ("q_proj", "lm_head")))
    assert not answer_loss.fusable(headed)
    model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(3))
    assert not answer_loss.fusable(model)


def some(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
