"""rms_norm and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.op import DOUBLES, Sample
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.norm import WHOLE, WHOLE_GRADIENT, Norm, plan_gradient, plan_norm, row_length
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like


def _plan(x: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float) -> Planned:
    plan = Plan("x", "_normalized_shape", "weight", "eps")
    norm = Norm(False, x, row_length(x, tuple(normalized_shape)), weight=weight)
    plan_norm(plan, norm, plan.empty("y", x.shape, x.dtype, x.device))
    return plan.build("y")


def _plan_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Planned:
    plan = Plan("grad", "x", "weight", "eps")
    norm = Norm(False, x, weight.numel(), weight=weight)
    plan_gradient(plan, norm, grad, (True, True, False), eps=Code("eps"))
    return plan.build("dx, dweight")


def _formula(x: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float = 1e-5) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    scale = torch.rsqrt(wide(x).square().mean(dims, keepdim=True) + eps)
    return (wide(x) * scale * wide(weight)).to(x.dtype).contiguous()


def _backward_formula(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    dims, lead = tuple(range(-weight.dim(), 0)), tuple(range(x.dim() - weight.dim()))
    scale = torch.rsqrt(wide(x).square().mean(dims, keepdim=True) + eps)
    x_hat, by_weight = wide(x) * scale, wide(grad) * wide(weight)
    dx = (by_weight - x_hat * (by_weight * x_hat).mean(dims, keepdim=True)) * scale
    dweight = wide(grad) * x_hat
    dweight = dweight.sum(lead) if lead else dweight
    return dx.to(x.dtype).contiguous(), dweight.to(weight.dtype).contiguous()


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, _, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    dx, dweight = torch.ops.gems.rms_norm_backward(grad, x, weight, ctx.eps)
    return dx, None, dweight, None


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((7,), (3, 5), (2, 3, 64), (1, 129), (33, 1)):
        yield Sample((values(shape, dtype), [shape[-1]], values(shape[-1:], dtype, seed=1)), {"eps": 1e-5})
    for x in layouts((6, 10), dtype):
        yield Sample((x, [10], values((10,), dtype, seed=1), 1e-6))
    yield Sample((values((2, 3, 4, 5), dtype), [4, 5], values((4, 5), dtype, seed=1), 1e-5))
    if dtype == torch.bfloat16:
        yield Sample((values((1, WHOLE + 100), dtype), [WHOLE + 100], values((WHOLE + 100,), torch.float32, seed=1), 1e-5))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        x, _, weight, *eps = sample.args
        yield Sample((values(tuple(x.shape), dtype, seed=2), x, weight, *(eps or [1e-5])))
    n = WHOLE_GRADIENT + 100
    if dtype == torch.float32:
        yield Sample((values((3, n), dtype, seed=2), values((3, n), dtype), values((n,), dtype, seed=1), 1e-5))


def _bench(m: int, n: int, backward: bool = False) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, weight = random_like((m, n), dtype, where), random_like((n,), dtype, where)
        return ((random_like((m, n), dtype, where), x, weight, 1e-5) if backward else (x, [n], weight, 1e-5)), {}

    return Workload(f"{m}x{n}", make)


_BACKWARD = CustomOp(
    name="gems::rms_norm_backward",
    schema="(Tensor grad, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    plan=_plan_backward,
    formula=_backward_formula,
    fake=lambda grad, x, weight, eps: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
    dtypes=DOUBLES,
    samples=_backward_samples,
    bench=(_bench(16384, 4096, True), _bench(2048, 16384, True)),
).define()


@_BACKWARD.declare()
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of rms_norm for x and weight."""
    return _BACKWARD.call(grad, x, weight, eps)


_FORWARD = CustomOp(
    name="gems::rms_norm",
    schema="(Tensor x, int[] normalized_shape, Tensor weight, float eps=1e-05) -> Tensor",
    plan=_plan,
    formula=_formula,
    fake=lambda x, normalized_shape, weight, eps: x.new_empty(x.shape),
    save=_save,
    gradient=_gradient,
    dtypes=DOUBLES,
    samples=_samples,
    bench=(_bench(16384, 4096), _bench(1, 4096), _bench(1000000, 64), _bench(512, 65536)),
).define()


@_FORWARD.declare()
def rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions, which are `normalized_shape`; computed in float32."""
    shape = tuple(normalized_shape)
    if tuple(x.shape[-len(shape) :]) != shape or tuple(weight.shape) != shape:
        raise ValueError(f"normalized_shape {shape} must be weight's shape {tuple(weight.shape)} and end x's {tuple(x.shape)}")
    return _FORWARD.call(x, shape, weight, eps)
