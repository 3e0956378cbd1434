"""A layer's small parts in few passes over memory: LoRA, norms, and the gate of the feed-forward part.

On a CPU half of a training step goes by between the large products, in copies to float32 and back and in products of
one element by another, each a pass over tensors that fit into no cache; and what autograd keeps of each such operation
is most of what a step holds. Here each part is one operation with a way back of its own, which keeps little and
computes the rest again (as Liger Kernel does on GPUs, arXiv 2410.10989). Results differ from those of PEFT and
transformers by rounding alone; over a quantised base, where PEFT adds a LoRA in bf16, it is added in float32.

The trainer's way on a CPU. Only layers that are known are replaced; weights stay where they are, under their names.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, TypeAlias

import torch
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from gaiad.learner.dropout import dropped
from gaiad.learner.scripted import at_least_float, scripted

Model: TypeAlias = Any
Context: TypeAlias = Any
Layer: TypeAlias = Any
Tensor: TypeAlias = torch.Tensor

_NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
_FORWARDS = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)
_NAME = "default"
"""What PEFT calls the one adapter."""


def fuse(model: Model) -> None:
    """Let a PEFT model's known layers compute in this way; `unfuse` takes it back."""
    for module in model.modules():
        if type(module) in (Linear, Linear4bit):
            module.forward = MethodType(_adapted, module)
        elif type(module) in _NORMS:
            module.forward = MethodType(_normed, module)
        elif type(module) in _FORWARDS and isinstance(module.act_fn, (torch.nn.SiLU, SiLUActivation)):
            module.forward = MethodType(_fed_forward, module)


def unfuse(model: Model) -> None:
    """Let all layers compute as PEFT and transformers made them."""
    for module in model.modules():
        own = module.__dict__.get("forward")
        if isinstance(own, MethodType) and own.__func__ in (_adapted, _normed, _fed_forward):
            del module.forward


def _adapted(module: Layer, inputs: Tensor) -> Tensor:
    out: Tensor = module.base_layer(inputs)
    if module.disable_adapters:
        return out
    drop = module.lora_dropout[_NAME]
    p = drop.p if module.training and isinstance(drop, torch.nn.Dropout) else 0.0
    into, from_it = module.lora_A[_NAME].weight, module.lora_B[_NAME].weight
    added: Tensor = Adapted.apply(inputs, out.flatten(0, -2), into, from_it, module.scaling[_NAME], p)
    # Out here, for some bases go on in place, which a view made inside a function forbids.
    return added.view(out.shape)


def _normed(module: Layer, inputs: Tensor) -> Tensor:
    found: Tensor = Normed.apply(inputs, module.weight, module.variance_epsilon)
    return found


def _fed_forward(module: Layer, inputs: Tensor) -> Tensor:
    found: Tensor = module.down_proj(Gated.apply(module.gate_proj(inputs), module.up_proj(inputs)))
    return found


@scripted
def _added(
    inputs: Tensor, out: Tensor, a: Tensor, b: Tensor, places: Tensor | None, inner: float
) -> tuple[Tensor, Tensor]:
    """What frozen projection and LoRA give together, and the LoRA's middle [tokens, rank]."""
    left = inputs.reshape(-1, inputs.shape[-1]).to(a.dtype, copy=True, memory_format=torch.contiguous_format)
    if places is not None:
        left.view(-1).index_fill_(0, places, 0.0)
    middle = (left @ a.t()).mul_(inner)
    whole = out.to(a.dtype, copy=True, memory_format=torch.contiguous_format).addmm_(middle, b.t())
    return whole.to(out.dtype), middle


@scripted
def _added_back(
    slope: Tensor, inputs: Tensor, middle: Tensor, a: Tensor, b: Tensor, places: Tensor | None, inner: float, into: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of the inputs, where these are wanted, and of both matrices."""
    left = inputs.reshape(-1, inputs.shape[-1]).to(a.dtype, copy=True, memory_format=torch.contiguous_format)
    if places is not None:
        left.view(-1).index_fill_(0, places, 0.0)
    wide = slope.to(a.dtype, copy=True, memory_format=torch.contiguous_format)
    back = (wide @ b).mul_(inner)
    of_a, of_b = back.t() @ left, wide.t() @ middle
    of_inputs: Tensor | None = None
    if into:
        torch.mm(back, a, out=left)
        if places is not None:
            left.view(-1).index_fill_(0, places, 0.0)
        of_inputs = left.to(inputs.dtype).view(inputs.shape)
    return of_inputs, of_a, of_b


class Adapted(torch.autograd.Function):  # type: ignore[misc]
    """`out + scale * B A drop(inputs)`: inputs [..., in], out [tokens, out], A [rank, in], B [out, rank].

    The inputs are kept as they came, with the places of what was dropped, and made as wide as the LoRA again on the way
    back.
    """

    @staticmethod
    def forward(ctx: Context, inputs: Tensor, out: Tensor, a: Tensor, b: Tensor, scale: float, p: float) -> Tensor:
        """Add a LoRA's product to what the frozen projection gave."""
        ctx.inner = scale / (1 - p)
        places = dropped(inputs.numel(), p) if p else None
        whole, middle = _added(inputs, out, a, b, places, ctx.inner)
        ctx.save_for_backward(inputs, middle, a, b, places)
        return whole

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs by way of the LoRA alone, of `out`, and of both matrices."""
        inputs, middle, a, b, places = ctx.saved_tensors
        found = _added_back(slope, inputs, middle, a, b, places, ctx.inner, ctx.needs_input_grad[0])
        return found[0], slope, found[1], found[2], None, None


@scripted
def _normal(inputs: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The normed inputs, and what each was multiplied by [..., 1]."""
    wide = inputs.to(at_least_float(inputs), copy=True, memory_format=torch.contiguous_format)
    inverse = torch.ops.aten.linalg_vector_norm(wide, 2, [-1], True).square_().div_(wide.shape[-1])
    inverse = inverse.add_(epsilon).rsqrt_()
    return wide.mul_(inverse).to(inputs.dtype).mul_(weight), inverse


@scripted
def _normal_back(slope: Tensor, inputs: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    wide = (slope * weight).to(at_least_float(inputs), copy=True, memory_format=torch.contiguous_format)
    normed = inputs.to(at_least_float(inputs), copy=True, memory_format=torch.contiguous_format).mul_(inverse)
    along = torch.ops.aten.linalg_vecdot(wide, normed).div_(wide.shape[-1]).unsqueeze(-1)
    return wide.addcmul_(normed, along, value=-1).mul_(inverse).to(inputs.dtype)


class Normed(torch.autograd.Function):  # type: ignore[misc]
    """Root mean square norm over the last dimension, with a frozen weight (arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Context, inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Norm in float32, weigh in the inputs' own type."""
        found, inverse = _normal(inputs, weight, epsilon)
        ctx.save_for_backward(inputs, weight, inverse)
        return found

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the inputs."""
        return _normal_back(slope, *ctx.saved_tensors), None, None


@scripted
def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate).mul_(up)


@scripted
def _gated_back(slope: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.silu_backward(slope * up, gate), torch.nn.functional.silu(gate).mul_(slope)


class Gated(torch.autograd.Function):  # type: ignore[misc]
    """SiLU(gate) * up (SwiGLU, arXiv 2002.05202); only the two are kept."""

    @staticmethod
    def forward(ctx: Context, gate: Tensor, up: Tensor) -> Tensor:
        """Gate and up [..., intermediate]."""
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Their gradients."""
        return _gated_back(slope, *ctx.saved_tensors)
