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


def _wider(tensor: Tensor) -> Tensor:
    """A copy in float32, or in float64 where it is that already."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(wide, copy=True, memory_format=torch.contiguous_format)


class Adapted(torch.autograd.Function):  # type: ignore[misc]
    """`out + scale * B A drop(inputs)`: inputs [..., in], out [tokens, out], A [rank, in], B [out, rank].

    The inputs are kept as they came, with the places of what was dropped, and made float32 again on the way back.
    """

    @staticmethod
    def forward(ctx: Context, inputs: Tensor, out: Tensor, a: Tensor, b: Tensor, scale: float, p: float) -> Tensor:
        """Add a LoRA's product to what the frozen projection gave."""
        ctx.inner, places = scale / (1 - p), None
        flat = inputs.reshape(-1, inputs.shape[-1])
        if p:
            places = dropped(flat.numel(), p)
        middle = (_left(flat, places) @ a.t()).mul_(ctx.inner)
        ctx.save_for_backward(inputs, middle, a, b, places)
        return _wider(out).addmm_(middle, b.t()).to(out.dtype)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs by way of the LoRA alone, of `out`, and of both matrices."""
        inputs, middle, a, b, places = ctx.saved_tensors
        flat = inputs.reshape(-1, inputs.shape[-1])
        wide = _wider(slope)
        back = (wide @ b).mul_(ctx.inner)
        left = _left(flat, places)
        slopes = back.t() @ left, wide.t() @ middle
        of_inputs = None
        if ctx.needs_input_grad[0]:
            torch.mm(back, a, out=left)
            if places is not None:
                left.view(-1).index_fill_(0, places, 0.0)
            of_inputs = left.to(inputs.dtype).view(inputs.shape)
        return of_inputs, slope, *slopes, None, None


def _left(flat: Tensor, places: Tensor | None) -> Tensor:
    wide = _wider(flat)
    if places is not None:
        wide.view(-1).index_fill_(0, places, 0.0)
    return wide


class Normed(torch.autograd.Function):  # type: ignore[misc]
    """Root mean square norm over the last dimension, with a frozen weight (arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Context, inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Norm in float32, weigh in the inputs' own type."""
        wide = _wider(inputs)
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1])
        inverse = inverse.add_(epsilon).rsqrt_()
        ctx.save_for_backward(inputs, weight, inverse)
        return wide.mul_(inverse).to(inputs.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the inputs."""
        inputs, weight, inverse = ctx.saved_tensors
        wide, normed = _wider(slope * weight), _wider(inputs).mul_(inverse)
        along = torch.linalg.vecdot(wide, normed).div_(wide.shape[-1])[..., None]
        return wide.addcmul_(normed, along, value=-1).mul_(inverse).to(inputs.dtype), None, None


class Gated(torch.autograd.Function):  # type: ignore[misc]
    """SiLU(gate) * up (SwiGLU, arXiv 2002.05202); only the two are kept."""

    @staticmethod
    def forward(ctx: Context, gate: Tensor, up: Tensor) -> Tensor:
        """Gate and up [..., intermediate]."""
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Their gradients."""
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(slope * up, gate), torch.nn.functional.silu(gate).mul_(slope)
