"""Sums, products and counts."""

from __future__ import annotations

import torch
from torch import Tensor

from gems_ops.op import ALL, DOUBLES, INTS, Declined, op
from gems_ops.plan import Plan, Planned, call
from gems_ops.reduce.cases import (
    BENCH_ALL, BENCH_DIM, BENCH_DIMS, by_dim, by_dims, floats_or, thinned, whole, with_dtype, without_keepdim,
)  # fmt: skip
from gems_ops.reduce.engine import Fold, plan_reduction

SUM, MEAN, PRODUCT = Fold("add"), Fold("add", finish="mean"), Fold("mul")
SUM_OF_NUMBERS, COUNT = Fold("add", "number"), Fold("add", "nonzero")


def dtype_of_sum(x: Tensor, dtype: torch.dtype | None, out: Tensor | None) -> torch.dtype:
    """The result's type, as ATen infers it. Declines types that are not simply summed."""
    if dtype is None:
        dtype = out.dtype if out is not None else x.dtype if x.is_floating_point() else torch.int64
    small_float_of_int = dtype in (torch.float16, torch.bfloat16) and not x.is_floating_point()
    if dtype not in DOUBLES | INTS or small_float_of_int or (x.is_floating_point() and dtype in INTS):
        raise Declined(f"sums of {x.dtype} as {dtype} are left to the native kernel")
    return dtype


def _plan(fold: Fold, x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None) -> Planned:
    plan = Plan("x", "_dim", "_keepdim", "_dtype", out=out)
    return _summed(plan, fold, x, dim, keepdim, dtype, out)


def _plan_all(fold: Fold, x: Tensor, dtype: torch.dtype | None, out: Tensor | None) -> Planned:
    if fold.finish != "mean":  # torch made these out= forms of the functional ones: the tensor does not choose the dtype
        dtype = dtype_of_sum(x, dtype, None)
    return _summed(Plan("x", "_dtype", out=out), fold, x, None, False, dtype, out)


def _summed(
    plan: Plan, fold: Fold, x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None
) -> Planned:
    if fold.finish == "mean" and (dtype or x.dtype) not in DOUBLES:
        raise Declined(f"the mean of {x.dtype} as {dtype or x.dtype} has no type: ATen raises")
    dtype = dtype_of_sum(x, dtype, out)
    return plan_reduction(plan, x, dim, keepdim, fold, dtype, (dtype,))


def _plan_sum(x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan(SUM, x, dim, keepdim, dtype, out)


def _plan_sum_all(x: Tensor, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan_all(SUM, x, dtype, out)


def _plan_mean(x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan(MEAN, x, dim, keepdim, dtype, out)


def _plan_mean_all(x: Tensor, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan_all(MEAN, x, dtype, out)


def _plan_nansum(x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan(SUM_OF_NUMBERS if x.is_floating_point() else SUM, x, dim, keepdim, dtype, out)


def _plan_prod(x: Tensor, dim: int, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan(PRODUCT, x, dim, keepdim, dtype, out)


def _plan_prod_all(x: Tensor, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return _plan_all(PRODUCT, x, dtype, out)


def _plan_count(x: Tensor, dim: object, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dim", out=out), x, dim, False, COUNT, x.dtype, (torch.int64,))


@op("aten::sum", dtypes=ALL, samples=with_dtype(whole), plan=_plan_sum_all, bench=BENCH_ALL, wide=True)
def sum(self: Tensor, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:  # noqa: A001  ATen's name
    """The sum of all elements, accumulated in float32 (float64 for float64, int64 for integers and booleans)."""
    return call(_plan_sum_all, self, dtype, out=out)


@op("aten::sum.dim_IntList", dtypes=ALL, samples=with_dtype(by_dims), plan=_plan_sum, bench=BENCH_DIMS, wide=True)
def sum_dim(
    self: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """The sum over some dimensions."""
    return call(_plan_sum, self, dim, keepdim, dtype, out=out)


@op("aten::mean", dtypes=ALL, samples=floats_or(whole), plan=_plan_mean_all, bench=BENCH_ALL, wide=True)
def mean(self: Tensor, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """The mean of all elements."""
    return call(_plan_mean_all, self, dtype, out=out)


@op("aten::mean.dim", dtypes=ALL, samples=floats_or(by_dims), plan=_plan_mean, bench=BENCH_DIMS, wide=True)
def mean_dim(
    self: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """The mean over some dimensions."""
    return call(_plan_mean, self, dim, keepdim, dtype, out=out)


@op("aten::nansum", dtypes=ALL, samples=thinned(with_dtype(by_dims)), plan=_plan_nansum, bench=BENCH_DIMS[:2], wide=True)
def nansum(
    self: Tensor, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The sum over some dimensions, nan counted as zero."""
    return call(_plan_nansum, self, dim, keepdim, dtype, out=out)


@op("aten::prod", dtypes=ALL, samples=with_dtype(whole), plan=_plan_prod_all, bench=BENCH_ALL, wide=True)
def prod(self: Tensor, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """The product of all elements."""
    return call(_plan_prod_all, self, dtype, out=out)


@op("aten::prod.dim_int", dtypes=ALL, samples=with_dtype(by_dim), plan=_plan_prod, bench=BENCH_DIM, wide=True)
def prod_dim(
    self: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """The product over a dimension."""
    return call(_plan_prod, self, dim, keepdim, dtype, out=out)


_DIMS_ALONE = without_keepdim(by_dims)


@op("aten::count_nonzero.dim_IntList", dtypes=ALL, samples=_DIMS_ALONE, plan=_plan_count, bench=BENCH_DIMS[:2], wide=True)
def count_nonzero_dims(self: Tensor, dim: list[int], out: Tensor | None = None) -> Tensor:
    """How many elements over some dimensions are not zero."""
    return call(_plan_count, self, dim, out=out)


@op("aten::count_nonzero", dtypes=ALL, samples=thinned(without_keepdim(by_dim)), plan=_plan_count, bench=BENCH_ALL, wide=True)
def count_nonzero(self: Tensor, dim: int | None = None, out: Tensor | None = None) -> Tensor:
    """How many elements are not zero."""
    return call(_plan_count, self, dim, out=out)
