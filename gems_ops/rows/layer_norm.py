"""native_layer_norm and _fused_rms_norm with their gradients: what F.layer_norm and F.rms_norm reach."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.op import DOUBLES, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import opmath
from gems_ops.rows.norm import WHOLE, WHOLE_GRADIENT, Norm, plan_gradient, plan_norm, row_length
from gems_runtime import device


def statistics_dtype(x: Tensor) -> torch.dtype:
    """What ATen saves mean and rstd in: on a GPU the type that it computes in, on the CPU the input's own."""
    return x.dtype if device.interpreted() else opmath(x.dtype)


def _statistics_shape(x: Tensor, shape: list[int]) -> tuple[int, ...]:
    return (*x.shape[: x.dim() - len(shape)], *([1] * len(shape)))


def _check_statistics(x: Tensor, shape: list[int], *statistics: Tensor) -> None:
    for t in statistics:
        if tuple(t.shape) != _statistics_shape(x, shape) or not t.is_contiguous():
            raise Declined(f"statistics of shape {tuple(t.shape)} for rows of {tuple(x.shape)}")


def _check_gradient(grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mask: tuple[bool, ...]) -> None:
    if grad.shape != x.shape or grad.dtype != x.dtype or not any(mask):
        raise Declined(f"a gradient of {grad.dtype} {tuple(grad.shape)} for {x.dtype} {tuple(x.shape)}")
    if mask[1] and weight is None or mask[2:] == (True,) and bias is None:
        raise Declined("a gradient of no weight or bias is wanted")


def _problems(dtype: torch.dtype) -> Iterator[tuple[Tensor, list[int], Tensor, Tensor]]:
    """Inputs in the layouts that users have, normalised shape, weight and bias."""
    for shape, n in (((7,), 1), ((3, 5), 1), ((2, 3, 4), 2), ((1, 129), 1), ((33, 1), 1), ((70, 40), 1)):
        yield samples.values(shape, dtype), list(shape[-n:]), *_vectors(shape[-n:], dtype)
    for x in samples.layouts((6, 10), dtype):
        yield x, [10], *_vectors((10,), dtype)
    # far from 0, where the squares of x would cancel
    yield samples.values((4, 300), dtype, 95.0, 105.0), [300], *_vectors((300,), dtype)


def _vectors(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return samples.values(shape, dtype, seed=1), samples.values(shape, dtype, seed=2)


def _long(dtype: torch.dtype, longest: int) -> Iterator[tuple[Tensor, list[int], Tensor, Tensor]]:
    """A row longer than a program holds, far from 0 and growing."""
    if dtype in (torch.float32, torch.bfloat16):
        n = longest + 100
        x = samples.values((2, n), dtype) + torch.linspace(20, 30, n).to(dtype)
        yield x, [n], *_vectors((n,), dtype)


def _layer_norm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, shape, weight, bias in (*_problems(dtype), *_long(dtype, WHOLE)):
        yield Sample((x, shape, weight, bias, 1e-5))
    for weight, bias in ((None, None), (*_vectors((10,), dtype)[:1], None), (None, _vectors((10,), dtype)[1])):
        yield Sample((samples.values((6, 10), dtype), [10], weight, bias, 1e-3))


def _layer_norm_backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, shape, weight, bias in (*_problems(dtype), *_long(dtype, WHOLE_GRADIENT)):
        yield _layer_norm_gradient(x, shape, weight, bias, [True, True, True])
    x, (weight, bias) = samples.values((6, 10), dtype), _vectors((10,), dtype)
    for mask in ([True, False, False], [False, True, True], [True, True, False], [False, False, True]):
        yield _layer_norm_gradient(x, [10], weight, bias, mask)
    yield _layer_norm_gradient(x, [10], None, None, [True, False, False])
    yield _layer_norm_gradient(x, [10], weight, None, [True, True, False])


def _layer_norm_gradient(x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, mask: list[bool]) -> Sample:
    _, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, 1e-5)
    grad = samples.values(tuple(x.shape), x.dtype, seed=3)
    saved = (t.to(statistics_dtype(x)) for t in (mean, rstd))
    return Sample((grad, x, shape, *saved, weight, bias, mask))


def _rms_norm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, shape, weight, _ in (*_problems(dtype), *_long(dtype, WHOLE)):
        yield Sample((x, shape, weight, 1e-5))
    yield Sample((samples.values((6, 10), dtype), [10], None, 1e-3))
    yield Sample((samples.values((6, 10), dtype, -1e-3, 1e-3), [10], None, None))


def _rms_norm_backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, shape, weight, _ in (*_problems(dtype), *_long(dtype, WHOLE_GRADIENT)):
        yield _rms_norm_gradient(x, shape, weight, [True, True])
    x, (weight, _) = samples.values((6, 10), dtype), _vectors((10,), dtype)
    for w, mask in ((weight, [True, False]), (weight, [False, True]), (None, [True, False])):
        yield _rms_norm_gradient(x, [10], w, mask)


def _rms_norm_gradient(x: Tensor, shape: list[int], weight: Tensor | None, mask: list[bool]) -> Sample:
    dims = list(range(-len(shape), 0))
    rstd = torch.rsqrt(x.to(opmath(x.dtype)).square().mean(dims, keepdim=True) + 1e-5)
    return Sample((samples.values(tuple(x.shape), x.dtype, seed=3), x, shape, rstd, weight, mask))


def _rms_norm_gradient_formula(
    grad: Tensor, x: Tensor, shape: list[int], rstd: Tensor, weight: Tensor | None, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of ATen's operator, which the CPU does not have."""
    dims, lead = list(range(-len(shape), 0)), list(range(x.dim() - len(shape)))
    precise = opmath(x.dtype)
    x_hat, g = x.to(precise) * rstd, grad.to(precise)
    dweight = (g * x_hat).sum(lead) if lead else g * x_hat
    g = g if weight is None else g * weight
    dx = (g - x_hat * (g * x_hat).mean(dims, keepdim=True)) * rstd
    return dx.to(x.dtype).contiguous() if mask[0] else None, dweight.to(x.dtype).contiguous() if mask[1] else None


_SHAPES = ((16384, 1024), (8192, 8192), (2048, 32768), (512, 131072), (1048576, 64))
_BACKWARD_SHAPES = ((16384, 1024), (8192, 8192), (2048, 32768))


def _bench(shape: tuple[int, int], center: bool, backward: bool) -> workloads.Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, grad = workloads.random_like(shape, dtype, where), workloads.random_like(shape, dtype, where)
        weight, bias = (workloads.random_like(shape[1:], dtype, where) for _ in range(2))
        vectors = (weight, bias) if center else (weight,)
        if not backward:
            return (x, [shape[1]], *vectors, 1e-5), {}
        forward = torch.ops.aten.native_layer_norm if center else torch.ops.aten._fused_rms_norm
        _, *statistics = forward(x, [shape[1]], *vectors, 1e-5)
        return (grad, x, [shape[1]], *statistics, *vectors, [True] * (3 if center else 2)), {}

    return workloads.Workload("x".join(map(str, shape)), make)


@planned(
    "aten::native_layer_norm",
    dtypes=DOUBLES,
    samples=_layer_norm_samples,
    bench=tuple(_bench(s, True, False) for s in _SHAPES),
    opinfo=("nn.functional.layer_norm", "native_layer_norm"),
    wide=True,
)
def layer_norm(x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Planned:
    """Rows moved to mean 0 and scaled to variance 1, times weight plus bias; and the rows' mean and 1 / deviation."""
    norm = Norm(True, x, row_length(x, tuple(shape), weight, bias), weight=weight, bias=bias)
    plan = Plan("x", "_shape", "weight", "bias", "eps")
    plan.has("x", x)
    y = plan.empty("y", x.shape, x.dtype, x.device)
    mean, rstd = (plan.empty(n, _statistics_shape(x, shape), statistics_dtype(x), x.device) for n in ("mean", "rstd"))
    plan_norm(plan, norm, y, mean=mean, rstd=rstd)
    return plan.build("y, mean, rstd")


@planned(
    "aten::native_layer_norm_backward",
    dtypes=DOUBLES,
    argument_dtypes={"mean": DOUBLES, "rstd": DOUBLES},
    samples=_layer_norm_backward_samples,
    bench=tuple(_bench(s, True, True) for s in _BACKWARD_SHAPES),
    opinfo=("nn.functional.layer_norm",),
    wide=True,
)
def layer_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None,
    mask: list[bool],
) -> Planned:  # fmt: skip
    """Gradients of layer_norm for its input, weight and bias, as output_mask asks for them."""
    norm = Norm(True, x, row_length(x, tuple(shape), weight, bias), weight=weight, bias=bias)
    _check_gradient(grad, x, weight, bias, tuple(mask))
    _check_statistics(x, shape, mean, rstd)
    plan = Plan("grad", "x", "_shape", "mean", "rstd", "weight", "bias", "_mask")
    plan.has("x", x)
    plan_gradient(plan, norm, grad, tuple(mask), mean=Code("mean"), rstd=Code("rstd"))
    return plan.build("dx, dweight, dbias")


@planned(
    "aten::_fused_rms_norm",
    dtypes=DOUBLES,
    samples=_rms_norm_samples,
    bench=tuple(_bench(s, False, False) for s in _SHAPES),
    opinfo=("nn.functional.rms_norm",),
    needs_native=True,
    wide=True,
)
def fused_rms_norm(x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None) -> Planned:
    """Rows scaled to mean square 1, times weight; and the rows' 1 / root mean square."""
    norm = Norm(False, x, row_length(x, tuple(shape), weight), weight=weight)
    plan = Plan("x", "_shape", "weight", "eps")
    plan.has("x", x)
    y = plan.empty("y", x.shape, x.dtype, x.device)
    rstd = plan.empty("rstd", _statistics_shape(x, shape), opmath(x.dtype), x.device)
    # of the type that ATen computes in
    eps_given = Code("eps") if eps is not None else torch.finfo(opmath(x.dtype)).eps
    plan_norm(plan, norm, y, rstd=rstd, eps=eps_given)
    return plan.build("y, rstd")


@planned(
    "aten::_fused_rms_norm_backward",
    dtypes=DOUBLES,
    argument_dtypes={"rstd": DOUBLES},
    samples=_rms_norm_backward_samples,
    bench=tuple(_bench(s, False, True) for s in _BACKWARD_SHAPES),
    opinfo=("nn.functional.rms_norm",),
    reference=_rms_norm_gradient_formula,
    needs_native=True,
    wide=True,
)
def fused_rms_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], rstd: Tensor, weight: Tensor | None, mask: list[bool]
) -> Planned:
    """Gradients of fused_rms_norm for its input and weight, as output_mask asks for them."""
    norm = Norm(False, x, row_length(x, tuple(shape), weight), weight=weight)
    _check_gradient(grad, x, weight, None, tuple(mask))
    _check_statistics(x, shape, rstd)
    plan = Plan("grad", "x", "_shape", "rstd", "weight", "_mask")
    plan.has("x", x)
    plan_gradient(plan, norm, grad, (*mask, False), rstd=Code("rstd"))
    return plan.build("dx, dweight")
