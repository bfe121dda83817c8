"""gelu_and_mul, the gate of a Gemma feed-forward layer, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.fused.gated import alike, gate_bench, gate_samples, plan_gate, plan_gate_backward
from gems_ops.op import FLOATS, Sample
from gems_ops.plan import Plan
from gems_ops.samples import values

_APPROXIMATIONS = ("none", "tanh")


def _formula(a: Tensor, b: Tensor, approximate: str) -> Tensor:
    return (torch.nn.functional.gelu(wide(a), approximate=approximate) * wide(b)).to(a.dtype).contiguous()


def _backward_formula(grad: Tensor, a: Tensor, b: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    x, y, g = wide(a), wide(b), wide(grad)
    da = torch.ops.aten.gelu_backward(g * y, x, approximate=approximate)
    db = g * torch.nn.functional.gelu(x, approximate=approximate)
    return da.to(a.dtype).contiguous(), db.to(a.dtype).contiguous()


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.approximate = inputs[2]


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *torch.ops.gems.gelu_and_mul_backward(grad, *ctx.saved_tensors, ctx.approximate), None


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for approximate in _APPROXIMATIONS:
        for sample in gate_samples(dtype):
            yield Sample((*sample.args, approximate))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        yield Sample((values(tuple(sample.args[0].shape), dtype, seed=2), *sample.args))


_BACKWARD = CustomOp(
    name="gems::gelu_and_mul_backward",
    schema="(Tensor grad, Tensor a, Tensor b, str approximate) -> (Tensor, Tensor)",
    plan=lambda grad, a, b, gate: plan_gate_backward(Plan("grad", "a", "b", "_gate"), grad, a, b, gate),
    formula=_backward_formula,
    fake=lambda grad, a, b, approximate: (a.new_empty(a.shape), a.new_empty(a.shape)),
    dtypes=FLOATS,
    samples=_backward_samples,
    bench=(gate_bench(3, 8192, 11008, "none"),),
).define()


@_BACKWARD.declare()
def gelu_and_mul_backward(grad: Tensor, x: Tensor, y: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of gelu_and_mul for x and y of one shape and dtype."""
    return _BACKWARD.call(grad, x, y, approximate)


_FORWARD = CustomOp(
    name="gems::gelu_and_mul",
    schema="(Tensor a, Tensor b, str approximate) -> Tensor",
    plan=lambda a, b, gate: plan_gate(Plan("a", "b", "_gate"), a, b, gate),
    formula=_formula,
    fake=lambda a, b, approximate: a.new_empty(a.shape),
    save=_save,
    gradient=_gradient,
    dtypes=FLOATS,
    samples=_samples,
    bench=(gate_bench(2, 8192, 11008, "none"),),
).define()


@_FORWARD.declare()
def gelu_and_mul(x: Tensor, y: Tensor, approximate: str = "none") -> Tensor:
    """gelu(x) * y, computed in float32; shapes broadcast and dtypes promote. ValueError for an unknown approximation."""
    if approximate not in _APPROXIMATIONS:
        raise ValueError(f"approximate is {approximate!r}; it must be one of {_APPROXIMATIONS}")
    return _FORWARD.call(*alike(x, y), approximate)
