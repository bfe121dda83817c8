"""Sums that walk memory in their own way: along a diagonal, or along two vectors at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.op import DOUBLES, INTS, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.reduce.engine import Fold, launch
from gems_ops.reduce.geometry import geometry
from gems_ops.reduce.sums import SUM
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like


def _plan_trace(x: Tensor, out: Tensor | None = None) -> Planned:
    if x.dim() != 2:
        raise Declined(f"the trace of {x.dim()} dimensions: ATen raises")
    dtype = x.dtype if x.is_floating_point() else torch.int64
    return _scalar(Plan("x", out=out), ("x",), min(x.shape), sum(x.stride()), SUM, x, dtype)


def _plan_dot(x: Tensor, y: Tensor, out: Tensor | None = None) -> Planned:
    if x.dim() != 1 or y.dim() != 1 or x.shape != y.shape or x.dtype != y.dtype:
        raise Declined(f"dot of {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}: ATen raises")
    plan = Plan("x", "y", out=out)
    if x.stride() != y.stride():
        plan.do("x, y = x.contiguous(), y.contiguous()")
    stride = x.stride(0) if x.stride() == y.stride() else 1
    return _scalar(plan, ("x", "y"), x.numel(), stride, Fold("add", "product"), x, x.dtype)


def _scalar(plan: Plan, names: tuple[str, ...], size: int, stride: int, fold: Fold, x: Tensor, dtype: torch.dtype) -> Planned:
    """The plan finished with one number, folded from `size` elements of the tensors `names`, `stride` apart."""
    for out in plan.outs:
        result_buffer(out, (), dtype, x.device)
    result = plan.result((), dtype, x.device)
    g = geometry((size,), (stride,), (), frozenset({0}))
    launch(plan, tuple(map(Code, names)), (result,), g, fold, dtype, x.device)
    return plan.build(result)


def _squares(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((1, 1), (3, 5), (33, 1), (70, 70)):
        yield Sample((values(shape, dtype),))
    for x in layouts((6, 10), dtype):
        yield Sample((x,))


def _vectors(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((1,), (7,), (129,), (1000,)):
        yield Sample((values(shape, dtype), values(shape, dtype, seed=1)))
    for x in layouts((60,), dtype):
        for y in layouts((60,), dtype, seed=1):
            yield Sample((x, y))


def _bench_vectors(n: int) -> Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (random_like((n,), dtype, device), random_like((n,), dtype, device)), {}

    return Workload(str(n), make)


_BENCH = (_bench_vectors(1 << 26), _bench_vectors(1 << 16))


@op("aten::trace", dtypes=DOUBLES | INTS, samples=_squares, plan=_plan_trace)
def trace(self: Tensor, out: Tensor | None = None) -> Tensor:
    """The sum of the diagonal of a matrix."""
    return call(_plan_trace, self, out=out)


@op("aten::dot", dtypes=DOUBLES, samples=_vectors, plan=_plan_dot, bench=_BENCH)
def dot(self: Tensor, tensor: Tensor, out: Tensor | None = None) -> Tensor:
    """The inner product of two vectors."""
    return call(_plan_dot, self, tensor, out=out)


@op("aten::vdot", dtypes=DOUBLES, samples=_vectors, plan=_plan_dot, bench=_BENCH[:1])
def vdot(self: Tensor, other: Tensor, out: Tensor | None = None) -> Tensor:
    """The inner product of two real vectors."""
    return call(_plan_dot, self, other, out=out)
