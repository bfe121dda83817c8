"""Cumulative sums, products, extremes and logarithms of sums."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.op import ALL, DOUBLES, Sample, op
from gems_ops.plan import Plan, Planned, call
from gems_ops.reduce.cases import by_dim, with_dtype, without_keepdim, workload
from gems_ops.reduce.sums import dtype_of_sum
from gems_ops.samples import values
from gems_ops.scan.engine import plan_scan

Outs = tuple[Tensor, Tensor]


def _summed(how: str, x: Tensor, dim: int, dtype: torch.dtype | None, out: Tensor | None, in_place: bool) -> Planned:
    # ATen raises where booleans are to stay booleans, except for a single one
    lone = out is not None and x.dim() == 0 and x.dtype == (dtype or out.dtype) == torch.bool
    dtype = torch.bool if lone else dtype_of_sum(x, dtype, out)
    return plan_scan(Plan("x", "_dim", "_dtype", out=None if in_place else out), x, dim, how, dtype, (dtype,), in_place)


def _plan_cumsum(
    x: Tensor, dim: int, dtype: torch.dtype | None, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    return _summed("add", x, dim, dtype, out, in_place)


def _plan_cumprod(
    x: Tensor, dim: int, dtype: torch.dtype | None, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    return _summed("mul", x, dim, dtype, out, in_place)


def _plan_cummax(x: Tensor, dim: int, out: Outs | None = None) -> Planned:
    return plan_scan(Plan("x", "_dim", out=out), x, dim, "latest_max", x.dtype, (x.dtype, torch.int64))


def _plan_cummin(x: Tensor, dim: int, out: Outs | None = None) -> Planned:
    return plan_scan(Plan("x", "_dim", out=out), x, dim, "latest_min", x.dtype, (x.dtype, torch.int64))


def _plan_logcumsumexp(x: Tensor, dim: int, out: Tensor | None = None) -> Planned:
    return plan_scan(Plan("x", "_dim", out=out), x, dim, "logsum", x.dtype, (x.dtype,))


def _along(dtype: torch.dtype) -> Iterator[Sample]:
    yield from without_keepdim(by_dim)(dtype)
    yield Sample((values((3, 70, 40), dtype), 1))
    # long enough to be cut into parts; whole numbers add up exactly in any order
    long = values((1, 40000), dtype)
    yield Sample((long.round() if dtype.is_floating_point else long, 1))


def _factors(dtype: torch.dtype) -> Iterator[Sample]:
    """Products of many elements stay in range."""
    for sample in without_keepdim(by_dim)(dtype):
        yield sample
    yield Sample((values((3, 70, 40), dtype, 0.8, 1.25), 1))


_SQUARE = (8192, 8192)
_BENCH = (
    workload(_SQUARE, 1), workload(_SQUARE, 0), workload((10000000,), 0), workload((1000000, 32), 1),
    workload((64, 1024, 1024), 1), workload((16, 1000000), 1),
)  # fmt: skip


@op("aten::cumsum", dtypes=ALL, samples=with_dtype(_along), plan=_plan_cumsum, bench=_BENCH, wide=True, in_place=True, aliasing=True)
def cumsum(self: Tensor, dim: int, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """Sums of the elements up to each, accumulated in float32 (float64 for float64, int64 for integers and booleans)."""
    return call(_plan_cumsum, self, dim, dtype, out=out)


@op(
    "aten::cumprod", dtypes=ALL, samples=with_dtype(_factors), plan=_plan_cumprod, bench=_BENCH[:3], wide=True, in_place=True,
    aliasing=True,
)  # fmt: skip
def cumprod(self: Tensor, dim: int, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """Products of the elements up to each."""
    return call(_plan_cumprod, self, dim, dtype, out=out)


@op("aten::cummax", dtypes=ALL, samples=_along, plan=_plan_cummax, bench=_BENCH[:3], wide=True)
def cummax(self: Tensor, dim: int, out: Outs | None = None) -> Outs:
    """The largest of the elements up to each, and where it is: of equals the last; nan from the first one on."""
    return call(_plan_cummax, self, dim, out=out)


@op("aten::cummin", dtypes=ALL, samples=_along, plan=_plan_cummin, bench=_BENCH[:3], wide=True)
def cummin(self: Tensor, dim: int, out: Outs | None = None) -> Outs:
    """The smallest of the elements up to each, and where it is: of equals the last; nan from the first one on."""
    return call(_plan_cummin, self, dim, out=out)


@op(
    "aten::logcumsumexp", dtypes=DOUBLES, samples=_along, plan=_plan_logcumsumexp, bench=_BENCH[:3], wide=True, error_factor=3.0,
    error_reason="its gradient takes exp of differences of results, which magnifies how bfloat16 rounds them",
)  # fmt: skip
def logcumsumexp(self: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """log of the sums of exp(x) up to each element, without overflow."""
    return call(_plan_logcumsumexp, self, dim, out=out)
