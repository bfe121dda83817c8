"""Vector norms of every order, and the logarithm of a sum of exponentials."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gems_ops.op import DOUBLES, Declined, Sample, op
from gems_ops.plan import Plan, Planned, call
from gems_ops.reduce.cases import BENCH_DIMS, by_dims, workload
from gems_ops.reduce.engine import Fold, plan_reduction
from gems_ops.samples import layouts, values

_BY_ORDER = {
    0.0: Fold("add", "one"), 1.0: Fold("add", "abs"), 2.0: Fold("add", "square", "root"),
    math.inf: Fold("max", "abs"), -math.inf: Fold("min", "abs"),
}  # fmt: skip


def _plan_norm(
    x: Tensor, ord: int | float, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None  # noqa: A002  ATen's name
) -> Planned:
    result = dtype or x.dtype
    if result not in DOUBLES or torch.promote_types(result, x.dtype) != result:
        raise Declined(f"a norm of {x.dtype} as {result}: ATen raises")
    fold = _BY_ORDER.get(float(ord)) or Fold("add", "power", "power", float(ord))
    if fold.each == "power" and (math.isnan(ord) or result == torch.float64 and float(np.float32(ord)) != ord):
        raise Declined(f"the order {ord} is no float32, which kernels get")
    return plan_reduction(Plan("x", "_ord", "_dim", "_keepdim", "_dtype", out=out), x, dim, keepdim, fold, result, (result,))


def _plan_logsumexp(x: Tensor, dim: object, keepdim: bool, out: Tensor | None = None) -> Planned:
    if not dim:
        raise Declined("ATen raises for an empty list of dimensions, unless keepdim")
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, Fold("logsum", finish="log"), x.dtype, (x.dtype,))


_ORDERS = (2, 1, 0, math.inf, -math.inf, 3, 0.5, -1, 2.5)


def _normed(dtype: torch.dtype) -> Iterator[Sample]:
    """Every order, over every kind of dimensions."""
    for i, sample in enumerate(by_dims(dtype)):
        yield Sample((sample.args[0], _ORDERS[i % len(_ORDERS)], *sample.args[1:]))
    for order in _ORDERS:
        yield Sample((values((3, 50), dtype), order, [1], True))
    for x in layouts((6, 10), dtype):
        yield Sample((x,))
    if dtype.itemsize == 2:
        yield Sample((values((3, 50), dtype), 2, [1]), {"dtype": torch.float32})


_BENCH = (workload((8192, 8192)), workload((8192, 8192), 2, [0]), workload((8192, 8192), 2, [1]), workload((8192, 8192), 3, [1]))
_KEYED = frozenset({"ord"})


@op("aten::linalg_vector_norm", dtypes=DOUBLES, samples=_normed, plan=_plan_norm, bench=_BENCH, wide=True, keyed=_KEYED)
def vector_norm(
    self: Tensor, ord: int | float = 2, dim: list[int] | None = None, keepdim: bool = False,  # noqa: A002  ATen's name
    *, dtype: torch.dtype | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(sum of |x| ** ord) ** (1 / ord) over some dimensions; for 0 the number of nonzero elements, for +-inf the extreme ones."""
    return call(_plan_norm, self, ord, dim, keepdim, dtype, out=out)


@op("aten::logsumexp", dtypes=DOUBLES, samples=by_dims, plan=_plan_logsumexp, bench=BENCH_DIMS[:4], wide=True)
def logsumexp(self: Tensor, dim: list[int], keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """log(sum(exp(x))) over some dimensions, in one pass that does not overflow."""
    return call(_plan_logsumexp, self, dim, keepdim, out=out)
