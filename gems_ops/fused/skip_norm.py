"""Norms of a sum: skip_layer_norm, fused_add_rms_norm (in place), skip_rms_norm, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.op import DOUBLES, Declined, Sample, plain
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.norm import WHOLE, WHOLE_GRADIENT, Norm, plan_gradient, plan_norm, row_length, row_stride
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like


def _norm(center: bool, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None = None) -> Norm:
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise Declined(f"a residual of {residual.dtype} {tuple(residual.shape)} for {x.dtype} {tuple(x.shape)}")
    return Norm(center, x, row_length(x, tuple(weight.shape)), residual, weight, bias)


def _plan_layer(
    x: Tensor, residual: Tensor, normalized_shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float
) -> Planned:
    plan = Plan("x", "residual", "_shape", "weight", "bias", "eps")
    plan_norm(plan, _norm(True, x, residual, weight, bias), plan.empty("y", x.shape, x.dtype, x.device))
    return plan.build("y")


def _plan_layer_backward(grad: Tensor, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Planned:
    plan = Plan("grad", "x", "residual", "weight", "bias", "eps")
    plan_gradient(plan, _norm(True, x, residual, weight, bias), grad, (True, True, True), eps=Code("eps"))
    return plan.build("dx, dweight, dbias")


def _plan_rms(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Planned:
    plan = Plan("x", "residual", "weight", "eps")
    y, total = (plan.empty(name, x.shape, x.dtype, x.device) for name in ("y", "total"))
    plan_norm(plan, _norm(False, x, residual, weight), y, total=total)
    return plan.build("y, total")


def _plan_rms_backward(grad: Tensor, dsum: Tensor, x: Tensor, weight: Tensor, eps: float) -> Planned:
    plan = Plan("grad", "dsum", "x", "weight", "eps")
    norm = Norm(False, x, row_length(x, tuple(weight.shape)), weight=weight)
    plan_gradient(plan, norm, grad, (True, True, False), dsum=dsum, eps=Code("eps"))
    return plan.build("dx, dweight")


def _plan_rms_in_place(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Planned:
    norm = _norm(False, x, residual, weight)
    x_row, residual_row = row_stride(x, norm.n), row_stride(residual, norm.n)
    if x_row is None or residual_row is None:
        raise Declined("x or residual is not rows of dense elements")
    plan = Plan("x", "residual", "weight", "eps")
    plan_norm(plan, norm, Code("x"), x_row, Code("residual"), residual_row)
    return plan.build("None")


def _normalised(s: Tensor, weight: Tensor, eps: float, center: bool) -> Tensor:
    dims = tuple(range(-weight.dim(), 0))
    s = s - s.mean(dims, keepdim=True) if center else s
    return s * torch.rsqrt(s.square().mean(dims, keepdim=True) + eps)


def _layer_formula(
    x: Tensor, residual: Tensor, normalized_shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    y = _normalised(wide(x) + wide(residual), weight, eps, center=True) * wide(weight) + wide(bias)
    return y.to(x.dtype).contiguous()


def _rms_formula(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    total = (wide(x) + wide(residual)).to(x.dtype).contiguous()
    y = _normalised(wide(total), weight, eps, center=False) * wide(weight)
    return y.to(x.dtype), total


def _rms_formula_in_place(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> None:
    y, total = _rms_formula(x, residual, weight, eps)
    x.copy_(y)
    residual.copy_(total)


def _gradients(s: Tensor, grad: Tensor, weight: Tensor, eps: float, center: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of the normalised sum, weight and bias."""
    dims, lead = tuple(range(-weight.dim(), 0)), tuple(range(s.dim() - weight.dim()))
    centred = s - s.mean(dims, keepdim=True) if center else s
    scale = torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    s_hat, g = centred * scale, wide(grad) * wide(weight)
    ds = g - s_hat * (g * s_hat).mean(dims, keepdim=True)
    ds = (ds - g.mean(dims, keepdim=True) if center else ds) * scale
    dweight, dbias = wide(grad) * s_hat, wide(grad)
    return ds, *(t.sum(lead) if lead else t for t in (dweight, dbias))


def _layer_backward_formula(
    grad: Tensor, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = _gradients(wide(x) + wide(residual), grad, weight, eps, center=True)
    return dx.to(x.dtype).contiguous(), dweight.to(weight.dtype).contiguous(), dbias.to(bias.dtype).contiguous()


def _rms_backward_formula(grad: Tensor, dsum: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    dx, dweight, _ = _gradients(wide(x), grad, weight, eps, center=False)
    return (dx + wide(dsum)).to(x.dtype).contiguous(), dweight.to(weight.dtype).contiguous()


def _save_layer(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, residual, _, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(x, residual, weight, bias)


def _layer_gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias = torch.ops.gems.skip_layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps)
    return dx, dx, None, dweight, dbias, None


def _save_rms(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, _, weight, ctx.eps = inputs
    ctx.save_for_backward(output[1], weight)


def _rms_gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, dsum: Tensor) -> tuple[Tensor | None, ...]:
    total, weight = ctx.saved_tensors
    dx, dweight = torch.ops.gems.add_rms_norm_backward(grad, dsum, total, weight, ctx.eps)
    return dx, dx, dweight, None


def _problems(dtype: torch.dtype, longest: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """x, residual, weight and bias."""
    for shape, n in (((7,), 1), ((3, 5), 1), ((2, 3, 64), 1), ((2, 3, 4, 5), 2), ((33, 1), 1)):
        yield tuple(values(s, dtype, seed=i) for i, s in enumerate((shape, shape, shape[-n:], shape[-n:])))
    for x in layouts((6, 10), dtype):
        yield x, values((6, 10), dtype, seed=1), values((10,), dtype, seed=2), values((10,), dtype, seed=3)
    if dtype == torch.bfloat16:
        shape = (2, longest + 100)
        yield tuple(values(s, dtype, seed=i) for i, s in enumerate((shape, shape, shape[1:], shape[1:])))


def _layer_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, residual, weight, bias in _problems(dtype, WHOLE):
        yield Sample((x, residual, list(weight.shape), weight, bias, 1e-5))


def _rms_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, residual, weight, _ in _problems(dtype, WHOLE):
        yield Sample((x, residual, weight, 1e-5))


def _layer_backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, residual, weight, bias in _problems(dtype, WHOLE_GRADIENT):
        yield Sample((values(tuple(x.shape), dtype, seed=4), x, residual, weight, bias, 1e-5))


def _rms_backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, dsum, weight, _ in _problems(dtype, WHOLE_GRADIENT):
        yield Sample((values(tuple(x.shape), dtype, seed=4), dsum, x, weight, 1e-5))


def _bench(rows: int, vectors: int, *tail: object) -> Workload:
    """A call of `rows` matrices, `vectors` of their columns, and eps."""
    shape = (16384, 4096)

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        matrices = [random_like(shape, dtype, where) for _ in range(rows)]
        return (*matrices, *tail, *(random_like(shape[1:], dtype, where) for _ in range(vectors)), 1e-5), {}

    return Workload("16384x4096", make)


_LAYER_BACKWARD = CustomOp(
    name="gems::skip_layer_norm_backward",
    schema="(Tensor grad, Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    plan=_plan_layer_backward,
    formula=_layer_backward_formula,
    fake=lambda grad, x, residual, weight, bias, eps: tuple(t.new_empty(t.shape) for t in (x, weight, bias)),
    dtypes=DOUBLES,
    samples=_layer_backward_samples,
    bench=(_bench(3, 2),),
).define()


@_LAYER_BACKWARD.declare()
def skip_layer_norm_backward(
    grad: Tensor, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of skip_layer_norm: for x, which is also residual's, for weight and for bias."""
    return _LAYER_BACKWARD.call(grad, x, residual, weight, bias, eps)


_LAYER = CustomOp(
    name="gems::skip_layer_norm",
    schema="(Tensor x, Tensor residual, int[] normalized_shape, Tensor weight, Tensor bias, float eps=1e-05) -> Tensor",
    plan=_plan_layer,
    formula=_layer_formula,
    fake=lambda x, *rest: x.new_empty(x.shape),
    save=_save_layer,
    gradient=_layer_gradient,
    dtypes=DOUBLES,
    samples=_layer_samples,
    bench=(_bench(2, 2, [4096]),),
).define()


@_LAYER.declare()
def skip_layer_norm(
    x: Tensor, residual: Tensor, normalized_shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """layer_norm(x + residual) over the last dimensions, which are `normalized_shape`; the sum is kept in float32."""
    _check(x, residual, normalized_shape, weight, bias)
    return _LAYER.call(x, residual, tuple(normalized_shape), weight, bias, eps)


_RMS_BACKWARD = CustomOp(
    name="gems::add_rms_norm_backward",
    schema="(Tensor grad, Tensor dsum, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    plan=_plan_rms_backward,
    formula=_rms_backward_formula,
    fake=lambda grad, dsum, x, weight, eps: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
    dtypes=DOUBLES,
    samples=_rms_backward_samples,
    bench=(_bench(3, 1),),
).define()


@_RMS_BACKWARD.declare()
def add_rms_norm_backward(grad: Tensor, dsum: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients for x and weight of (rms_norm(x), x), whose results have the gradients grad and dsum."""
    return _RMS_BACKWARD.call(grad, dsum, x, weight, eps)


_RMS = CustomOp(
    name="gems::add_rms_norm",
    schema="(Tensor x, Tensor residual, Tensor weight, float eps=1e-05) -> (Tensor, Tensor)",
    plan=_plan_rms,
    formula=_rms_formula,
    fake=lambda x, *rest: (x.new_empty(x.shape), x.new_empty(x.shape)),
    save=_save_rms,
    gradient=_rms_gradient,
    dtypes=DOUBLES,
    samples=_rms_samples,
    bench=(_bench(2, 1),),
).define()


@_RMS.declare()
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual) over the dimensions that weight has, as new tensors."""
    _check(x, residual, weight.shape, weight)
    return _RMS.call(x, residual, weight, eps)


CustomOp(
    name="gems::fused_add_rms_norm_",
    schema="(Tensor(a!) x, Tensor(b!) residual, Tensor weight, float eps) -> ()",
    plan=_plan_rms_in_place,
    formula=_rms_formula_in_place,
    fake=lambda *args: None,
    mutates=("x", "residual"),
    dtypes=DOUBLES,
).define()


@plain
def fused_add_rms_norm(
    x: Tensor, residual: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """In place: residual becomes x + residual, x becomes rms_norm(residual) * weight. Returns (x, residual)."""
    _check(x, residual, normalized_shape, weight)
    if torch.is_grad_enabled() and (x.requires_grad or residual.requires_grad or weight.requires_grad):
        y, total = _RMS.call(x, residual, weight, eps)
        return x.copy_(y), residual.copy_(total)
    torch.ops.gems.fused_add_rms_norm_(x, residual, weight, eps)
    return x, residual


@plain
def skip_rms_norm(x: Tensor, residual: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float = 1e-5) -> Tensor:
    """rms_norm(x + residual) over the last dimensions, which are `normalized_shape`, as a new tensor."""
    _check(x, residual, normalized_shape, weight)
    return _RMS.call(x, residual, weight, eps)[0]


def _check(x: Tensor, residual: Tensor, normalized_shape: Sequence[int], *vectors: Tensor) -> None:
    """Raise ValueError for tensors that do not belong together."""
    shape = tuple(normalized_shape)
    fits = bool(shape) and tuple(x.shape[-len(shape) :]) == shape and all(tuple(t.shape) == shape for t in vectors)
    if not fits or x.shape != residual.shape or x.dtype != residual.dtype:
        raise ValueError(
            f"normalized_shape {shape} must be the shape of weight and bias {[tuple(t.shape) for t in vectors]} and end that of "
            f"x {x.dtype} {tuple(x.shape)}, which must be the residual's {residual.dtype} {tuple(residual.shape)}"
        )
