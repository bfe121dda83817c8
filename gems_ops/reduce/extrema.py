"""Largest and smallest elements, where they are, and what booleans add up to. The first nan wins, then the first of equals."""

from __future__ import annotations

import torch
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_ops.op import ALL, NUMBERS, Declined, op
from gems_ops.plan import Plan, Planned, call
from gems_ops.reduce.cases import (
    BENCH_ALL, BENCH_DIM, BENCH_DIMS, BENCH_KEYWORD, by_dim, by_dims, by_keyword, thinned, whole,
)  # fmt: skip
from gems_ops.reduce.engine import Fold, plan_reduction

MAX, MIN, BOTH = Fold("max"), Fold("min"), Fold("both")
ARGMAX, ARGMIN = Fold("argmax"), Fold("argmin")
ANY, ALL_OF = Fold("max", "nonzero"), Fold("min", "nonzero")
Outs = tuple[Tensor, Tensor]


def _plan_amax(x: Tensor, dim: object, keepdim: bool, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, MAX, x.dtype, (x.dtype,))


def _plan_amin(x: Tensor, dim: object, keepdim: bool, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, MIN, x.dtype, (x.dtype,))


def _plan_max(x: Tensor, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", out=out), x, None, False, MAX, x.dtype, (x.dtype,))


def _plan_min(x: Tensor, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", out=out), x, None, False, MIN, x.dtype, (x.dtype,))


def _plan_aminmax(x: Tensor, dim: int | None, keepdim: bool, out: Outs | None = None) -> Planned:
    if dim is None and keepdim:
        raise Declined("ATen keeps the dimensions on a CPU and drops them on a GPU")
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, BOTH, x.dtype, (x.dtype, x.dtype))


def _plan_max_dim(x: Tensor, dim: int, keepdim: bool, out: Outs | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, ARGMAX, x.dtype, (x.dtype, torch.int64))


def _plan_min_dim(x: Tensor, dim: int, keepdim: bool, out: Outs | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, ARGMIN, x.dtype, (x.dtype, torch.int64))


def _plan_argmax(x: Tensor, dim: int | None, keepdim: bool, out: Tensor | None = None) -> Planned:
    return _plan_position(ARGMAX, x, dim, keepdim, out)


def _plan_argmin(x: Tensor, dim: int | None, keepdim: bool, out: Tensor | None = None) -> Planned:
    return _plan_position(ARGMIN, x, dim, keepdim, out)


def _plan_position(fold: Fold, x: Tensor, dim: int | None, keepdim: bool, out: Tensor | None) -> Planned:
    plan = Plan("x", "_dim", "_keepdim", out=out)
    strides = None
    if dim is None and not x.is_contiguous():
        # positions in row-major order are no sum of positions in memory's order; ATen copies, too
        plan.do("x = x.contiguous()")
        strides = contiguous_strides(x.shape)
    return plan_reduction(plan, x, dim, keepdim, fold, x.dtype, (None, torch.int64), strides)


def _truth_dtype(x: Tensor) -> torch.dtype:
    return torch.uint8 if x.dtype == torch.uint8 else torch.bool


def _plan_truth(fold: Fold, plan: Plan, x: Tensor, dim: object, keepdim: bool) -> Planned:
    if dim is not None and not isinstance(dim, int) and not dim:
        raise Declined("an empty list of dimensions reduces nothing")
    return plan_reduction(plan, x, dim, keepdim, fold, x.dtype, (_truth_dtype(x),))


def _plan_all(x: Tensor, out: Tensor | None = None) -> Planned:
    return _plan_truth(ALL_OF, Plan("x", out=out), x, None, False)


def _plan_any(x: Tensor, out: Tensor | None = None) -> Planned:
    return _plan_truth(ANY, Plan("x", out=out), x, None, False)


def _plan_all_dim(x: Tensor, dim: object, keepdim: bool, out: Tensor | None = None) -> Planned:
    return _plan_truth(ALL_OF, Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim)


def _plan_any_dim(x: Tensor, dim: object, keepdim: bool, out: Tensor | None = None) -> Planned:
    return _plan_truth(ANY, Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim)


@op("aten::amax", dtypes=ALL, samples=by_dims, plan=_plan_amax, bench=BENCH_DIMS, wide=True)
def amax(self: Tensor, dim: list[int] = (), keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """The largest element over some dimensions; NaN if there is one."""
    return call(_plan_amax, self, dim, keepdim, out=out)


@op("aten::amin", dtypes=ALL, samples=thinned(by_dims), plan=_plan_amin, bench=BENCH_DIMS[:2], wide=True)
def amin(self: Tensor, dim: list[int] = (), keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """The smallest element over some dimensions; NaN if there is one."""
    return call(_plan_amin, self, dim, keepdim, out=out)


@op("aten::aminmax", dtypes=ALL, samples=by_keyword, plan=_plan_aminmax, bench=BENCH_KEYWORD[:3], wide=True)
def aminmax(self: Tensor, *, dim: int | None = None, keepdim: bool = False, out: Outs | None = None) -> Outs:
    """The smallest and the largest element, of all or over a dimension; NaN if there is one."""
    return call(_plan_aminmax, self, dim, keepdim, out=out)


@op("aten::max", dtypes=ALL, samples=whole, plan=_plan_max, bench=BENCH_ALL, wide=True)
def max(self: Tensor, out: Tensor | None = None) -> Tensor:  # noqa: A001  ATen's name
    """The largest of all elements."""
    return call(_plan_max, self, out=out)


@op("aten::min", dtypes=ALL, samples=thinned(whole), plan=_plan_min, bench=BENCH_ALL, wide=True)
def min(self: Tensor, out: Tensor | None = None) -> Tensor:  # noqa: A001  ATen's name
    """The smallest of all elements."""
    return call(_plan_min, self, out=out)


@op("aten::max.dim", dtypes=ALL, samples=by_dim, plan=_plan_max_dim, bench=BENCH_DIM, wide=True)
def max_dim(self: Tensor, dim: int, keepdim: bool = False, out: Outs | None = None) -> Outs:
    """The largest elements over a dimension, and where they are."""
    return call(_plan_max_dim, self, dim, keepdim, out=out)


@op("aten::min.dim", dtypes=ALL, samples=thinned(by_dim), plan=_plan_min_dim, bench=BENCH_DIM, wide=True)
def min_dim(self: Tensor, dim: int, keepdim: bool = False, out: Outs | None = None) -> Outs:
    """The smallest elements over a dimension, and where they are."""
    return call(_plan_min_dim, self, dim, keepdim, out=out)


@op("aten::argmax", dtypes=NUMBERS, samples=by_keyword, plan=_plan_argmax, bench=BENCH_KEYWORD, wide=True)
def argmax(self: Tensor, dim: int | None = None, keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """Where the largest element is, of all or over a dimension."""
    return call(_plan_argmax, self, dim, keepdim, out=out)


@op("aten::argmin", dtypes=NUMBERS, samples=thinned(by_keyword), plan=_plan_argmin, bench=BENCH_KEYWORD, wide=True)
def argmin(self: Tensor, dim: int | None = None, keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """Where the smallest element is, of all or over a dimension."""
    return call(_plan_argmin, self, dim, keepdim, out=out)


@op("aten::all", dtypes=ALL, samples=whole, plan=_plan_all, bench=BENCH_ALL, wide=True)
def all(self: Tensor, out: Tensor | None = None) -> Tensor:  # noqa: A001  ATen's name
    """True if no element is zero; uint8 gives uint8."""
    return call(_plan_all, self, out=out)


@op("aten::all.dim", dtypes=ALL, samples=thinned(by_dim), plan=_plan_all_dim, bench=BENCH_DIM[:2], wide=True)
def all_dim(self: Tensor, dim: int, keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """True where no element over a dimension is zero."""
    return call(_plan_all_dim, self, dim, keepdim, out=out)


@op("aten::all.dims", dtypes=ALL, samples=thinned(by_dims), plan=_plan_all_dim, bench=BENCH_DIMS[:2], wide=True)
def all_dims(self: Tensor, dim: list[int] | None = None, keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """True where no element over some dimensions is zero."""
    return call(_plan_all_dim, self, dim, keepdim, out=out)


@op("aten::any", dtypes=ALL, samples=thinned(whole), plan=_plan_any, bench=BENCH_ALL, wide=True)
def any(self: Tensor, out: Tensor | None = None) -> Tensor:  # noqa: A001  ATen's name
    """True if an element is not zero; uint8 gives uint8."""
    return call(_plan_any, self, out=out)


@op("aten::any.dim", dtypes=ALL, samples=thinned(by_dim), plan=_plan_any_dim, bench=BENCH_DIM[:2], wide=True)
def any_dim(self: Tensor, dim: int, keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """True where an element over a dimension is not zero."""
    return call(_plan_any_dim, self, dim, keepdim, out=out)


@op("aten::any.dims", dtypes=ALL, samples=thinned(by_dims), plan=_plan_any_dim, bench=BENCH_DIMS[:2], wide=True)
def any_dims(self: Tensor, dim: list[int] | None = None, keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """True where an element over some dimensions is not zero."""
    return call(_plan_any_dim, self, dim, keepdim, out=out)
