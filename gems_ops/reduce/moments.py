"""Variances, standard deviations and means: one pass over distances from the mean of each program's first tile, and Chan's
rule between programs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.op import DOUBLES, Declined, Sample, op
from gems_ops.plan import Plan, Planned, call
from gems_ops.reduce.cases import by_dims, thinned, workload
from gems_ops.reduce.engine import Fold, plan_reduction
from gems_ops.reduce.geometry import reduced_dims

Number = int | float
Outs = tuple[Tensor, Tensor]


def _planned(finish: str, with_mean: bool, x: Tensor, dim: object, correction: Number | None, keepdim: bool, out: object) -> Planned:
    correction = 1 if correction is None else correction
    count = 1
    for d in reduced_dims(dim, x.dim()):
        count *= x.shape[d] if x.dim() else 1
    if count <= correction:
        raise Declined("ATen warns that no degree of freedom is left")
    plan = Plan("x", "_dim", "_correction", "_keepdim", out=out)
    results = (x.dtype, x.dtype if with_mean else None)
    return plan_reduction(plan, x, dim, keepdim, Fold("distances", "distance", finish, float(correction)), x.dtype, results)


def _plan_var(x: Tensor, dim: object, correction: Number | None, keepdim: bool, out: Tensor | None = None) -> Planned:
    return _planned("variance", False, x, dim, correction, keepdim, out)


def _plan_std(x: Tensor, dim: object, correction: Number | None, keepdim: bool, out: Tensor | None = None) -> Planned:
    return _planned("deviation", False, x, dim, correction, keepdim, out)


def _plan_var_mean(x: Tensor, dim: object, correction: Number | None, keepdim: bool, out: Outs | None = None) -> Planned:
    return _planned("variance", True, x, dim, correction, keepdim, out)


def _plan_std_mean(x: Tensor, dim: object, correction: Number | None, keepdim: bool, out: Outs | None = None) -> Planned:
    return _planned("deviation", True, x, dim, correction, keepdim, out)


def _corrected(dtype: torch.dtype) -> Iterator[Sample]:
    """Every way to say how many degrees of freedom are lost."""
    for i, sample in enumerate(by_dims(dtype)):
        how = ({}, {"correction": 0}, {"correction": 1}, {"correction": 0.5})[i % 4]
        yield Sample(sample.args[:2], {**how, **({"keepdim": True} if len(sample.args) > 2 else {})})
        # far from zero, squares would cancel
        if sample.args[0].numel() == 60 and dtype.itemsize > 2:
            yield Sample((sample.args[0] + 1000, sample.args[1]))


_BENCH = (
    workload((8192, 8192), [0]), workload((8192, 8192), [1]), workload((1000000, 32), [1]),
    workload((32, 256, 56, 56), [0, 2, 3]), workload((8192, 8192), None),
)  # fmt: skip
_KEYED = frozenset({"correction"})


@op("aten::var.correction", dtypes=DOUBLES, samples=_corrected, plan=_plan_var, bench=_BENCH, wide=True, keyed=_KEYED)
def var(
    self: Tensor, dim: list[int] | None = None, *, correction: Number | None = None, keepdim: bool = False,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The variance over some dimensions; `correction`, by default 1, is subtracted from the count that it divides by."""
    return call(_plan_var, self, dim, correction, keepdim, out=out)


@op("aten::std.correction", dtypes=DOUBLES, samples=thinned(_corrected), plan=_plan_std, bench=_BENCH[:2], wide=True, keyed=_KEYED)
def std(
    self: Tensor, dim: list[int] | None = None, *, correction: Number | None = None, keepdim: bool = False,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The square root of the variance."""
    return call(_plan_std, self, dim, correction, keepdim, out=out)


@op("aten::var_mean.correction", dtypes=DOUBLES, samples=_corrected, plan=_plan_var_mean, bench=_BENCH[:3], wide=True, keyed=_KEYED)
def var_mean(
    self: Tensor, dim: list[int] | None = None, *, correction: Number | None = None, keepdim: bool = False,
    out: Outs | None = None,
) -> Outs:  # fmt: skip
    """The variance and the mean, in one pass."""
    return call(_plan_var_mean, self, dim, correction, keepdim, out=out)


@op("aten::std_mean.correction", dtypes=DOUBLES, samples=thinned(_corrected), plan=_plan_std_mean, bench=_BENCH[:2], wide=True, keyed=_KEYED)
def std_mean(
    self: Tensor, dim: list[int] | None = None, *, correction: Number | None = None, keepdim: bool = False,
    out: Outs | None = None,
) -> Outs:  # fmt: skip
    """The standard deviation and the mean, in one pass."""
    return call(_plan_std_mean, self, dim, correction, keepdim, out=out)
