"""native_group_norm and its gradient: what F.group_norm reaches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.op import DOUBLES, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.channels import Affine, Channels, plan_affine, plan_channel_gradient, plan_moments
from gems_ops.rows.norm import dense


def _check(x: Tensor, vectors: tuple[Tensor | None, ...], n: int, c: int, hw: int, group: int) -> None:
    if not x.is_contiguous() or x.numel() != n * c * hw or group < 1 or c % group:
        raise Declined(f"{tuple(x.shape)} with strides {x.stride()} is not a contiguous ({n}, {c}, {hw}) in {group} groups")
    for t in vectors:
        if t is not None and (tuple(t.shape) != (c,) or t.dtype != x.dtype):
            raise Declined(f"a weight of {t.dtype} {tuple(t.shape)} for {c} channels of {x.dtype}")


def _images(n: int, c: int, hw: int) -> Channels:
    """Every channel of every image."""
    return Channels((1, n * c, hw), (0, hw, 1))


def _problems(dtype: torch.dtype) -> Iterator[tuple[Tensor, int, int, int, int]]:
    for shape, group in (((2, 6, 3, 5), 3), ((3, 4), 2), ((1, 4, 70), 4), ((2, 4, 9), 1), ((5, 3, 1), 3), ((2, 2, 70, 120), 1)):
        hw = torch.Size(shape[2:]).numel()
        yield samples.values(shape, dtype), shape[0], shape[1], hw, group
    yield samples.values((2, 4, 300), dtype, 95.0, 105.0), 2, 4, 300, 2  # far from 0


def _vectors(c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return samples.values((c,), dtype, seed=1), samples.values((c,), dtype, seed=2)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, n, c, hw, group in _problems(dtype):
        yield Sample((x, *_vectors(c, dtype), n, c, hw, group, 1e-5))
    x, (weight, bias) = samples.values((2, 6, 3, 5), dtype), _vectors(6, dtype)
    for w, b in ((None, None), (weight, None), (None, bias)):
        yield Sample((x, w, b, 2, 6, 15, 2, 1e-3))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, n, c, hw, group in _problems(dtype):
        yield _gradient(x, _vectors(c, dtype)[0], n, c, hw, group, [True, True, True])
    x, weight = samples.values((2, 6, 3, 5), dtype), _vectors(6, dtype)[0]
    yield _gradient(x, None, 2, 6, 15, 2, [True, False, False])
    for mask in ([True, False, False], [False, True, True], [True, False, True]):
        yield _gradient(x, weight, 2, 6, 15, 2, mask)


def _gradient(x: Tensor, weight: Tensor | None, n: int, c: int, hw: int, group: int, mask: list[bool]) -> Sample:
    _, mean, rstd = torch.native_group_norm(x, weight, None, n, c, hw, group, 1e-5)
    return Sample((samples.values(tuple(x.shape), x.dtype, seed=3), x, mean, rstd, weight, n, c, hw, group, mask))


def _bench(backward: bool, n: int, c: int, side: int, group: int) -> workloads.Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, grad = (workloads.random_like((n, c, side, side), dtype, where) for _ in range(2))
        weight, bias = (workloads.random_like((c,), dtype, where) for _ in range(2))
        sizes = (n, c, side * side, group)
        if not backward:
            return (x, weight, bias, *sizes, 1e-5), {}
        _, mean, rstd = torch.native_group_norm(x, weight, bias, *sizes, 1e-5)
        return (grad, x, mean, rstd, weight, *sizes, [True] * 3), {}

    return workloads.Workload(f"{n}x{c}x{side}x{side} in {group}", make)


_SHAPES = ((16, 512, 64, 32), (64, 256, 28, 32))


@planned(
    "aten::native_group_norm",
    dtypes=DOUBLES,
    samples=_samples,
    bench=tuple(_bench(False, *s) for s in _SHAPES),
    opinfo=("nn.functional.group_norm",),
    wide=True,
)
def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hw: int, group: int, eps: float
) -> Planned:
    """Groups of channels moved to mean 0 and scaled to variance 1, times weight plus bias; the groups' mean, 1 / deviation."""
    _check(x, (weight, bias), n, c, hw, group)
    plan = Plan("x", "weight", "bias", "_n", "_c", "_hw", "_group", "eps")
    shared = c // group
    plan.has("x", x)
    y = plan.empty("y", x.shape, x.dtype, x.device)
    saved = tuple(plan.empty(name, (n, group), x.dtype, x.device) for name in ("mean", "rstd"))
    affine = Affine(shared, c, dense(plan, "weight", weight), dense(plan, "bias", bias))
    groups = Channels((1, n * group, shared * hw), (0, shared * hw, 1))
    mean, rstd = plan_moments(plan, x, groups, saved, x.dtype, None, 0.0, Code("eps"))
    plan_affine(plan, _images(n, c, hw), affine, mean, rstd, y)
    return plan.build("y, mean, rstd")


@planned(
    "aten::native_group_norm_backward",
    dtypes=DOUBLES,
    samples=_backward_samples,
    bench=tuple(_bench(True, *s) for s in _SHAPES),
    opinfo=("nn.functional.group_norm",),
    wide=True,
)
def group_norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, n: int, c: int, hw: int, group: int,
    mask: list[bool],
) -> Planned:  # fmt: skip
    """Gradients of group_norm for its input, weight and bias, as output_mask asks for them."""
    _check(x, (weight,), n, c, hw, group)
    if grad.shape != x.shape or not grad.is_contiguous() or {grad.dtype, mean.dtype, rstd.dtype} != {x.dtype}:
        raise Declined(f"a gradient of {grad.dtype} {tuple(grad.shape)} for {x.dtype} {tuple(x.shape)}")
    if not any(mask) or not (mean.is_contiguous() and rstd.is_contiguous() and mean.numel() == rstd.numel() == n * group):
        raise Declined("no gradient is wanted, or the statistics are not one number for each group")
    plan = Plan("grad", "x", "mean", "rstd", "weight", "_n", "_c", "_hw", "_group", "_mask")
    plan.has("x", x)
    results: list[Code | None] = []
    for name, want, shape in zip(("dx", "dweight", "dbias"), mask, (x.shape, (c,), (c,)), strict=True):
        results.append(plan.empty(name, shape, x.dtype, x.device) if want else None)
    images, affine = _images(n, c, hw), Affine(c // group, c, dense(plan, "weight", weight))
    plan_channel_gradient(plan, x, images, images, affine, Code("mean"), Code("rstd"), results, x.dtype)
    return plan.build(", ".join(str(r) for r in results))
