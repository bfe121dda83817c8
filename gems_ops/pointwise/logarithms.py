"""Logarithms of sums, of products and of odds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from gems_ops.op import ALL, DOUBLES, Sample
from gems_ops.pointwise import brief
from gems_ops.pointwise.cases import T, pairs, several, traffic
from gems_ops.pointwise.declare import pointwise
from gems_ops.pointwise.rounding import quotient
from gems_ops.promote import Promotion
from gems_ops.samples import values


@pointwise("aten::logaddexp", brief=brief.brief_logaddexp, dtypes=DOUBLES, samples=pairs(), bench=traffic(T, T))
def logaddexp(self, other):
    """log(exp(self) + exp(other)) without overflow"""
    larger = tl.where((self > other) | (self != self), self, other)
    sum = larger + libdevice.log1p(libdevice.exp(-tl.abs(self - other)))
    return tl.where((self == other) & (tl.abs(self) == float("inf")), self, sum)  # inf - inf is nan


_LOG2_E = tl.constexpr(1.4426950408889634)


@pointwise("aten::logaddexp2", brief=brief.brief_logaddexp2, dtypes=DOUBLES, samples=pairs(), bench=traffic(T, T))
def logaddexp2(self, other):
    """log2(2 ** self + 2 ** other) without overflow"""
    larger = tl.where((self > other) | (self != self), self, other)
    sum = larger + libdevice.log1p(libdevice.exp2(-tl.abs(self - other))) * _LOG2_E
    return tl.where((self == other) & (tl.abs(self) == float("inf")), self, sum)  # inf - inf is nan


# Seconds whose logarithm is less than 1: products of the largest numbers stay finite.
_TIMES_LOG = dict(
    dtypes=ALL, promotion=Promotion.INT_TO_FLOAT, samples=pairs(low2=0.5, high=1.5, number=True), bench=traffic(T, T)
)


@triton.jit
def _times_log(x, y, log):
    """x * log; 0 for x = 0 whatever log is, but nan where y is."""
    return tl.where(y != y, y, tl.where(x == 0, 0.0, x * log)).to(log.dtype)


@pointwise("aten::xlogy.Tensor", **_TIMES_LOG)
def xlogy(self, other):
    """self * log(other); 0 for self = 0, unless other is nan"""
    return _times_log(self, other, libdevice.log(other))


@pointwise("aten::special_xlog1py", opinfo=("special.xlog1py",), **_TIMES_LOG)
def xlog1py(self, other):
    """self * log(1 + other); 0 for self = 0, unless other is nan"""
    return _times_log(self, other, libdevice.log1p(other))


_ODDS = dict(
    samples=several(((), {}), ((0.2,), {}), ((0.7,), {}), ((-1.0,), {}), ((float("nan"),), {}), low=0.0, high=1.0), bench=traffic(T)
)


@triton.jit
def _inside(x, eps):
    """x between eps and 1 - eps, of which eps wins where they cross; nan stays, and an eps of nan is no limit."""
    return tl.where(x < eps, eps, tl.where(x > 1.0 - eps, 1.0 - eps, x))


@pointwise("aten::logit", dtypes=ALL, promotion=Promotion.INT_TO_FLOAT, **_ODDS)
def logit(self, eps):
    """log(self / (1 - self)), with self put between eps and 1 - eps if eps is given and not negative; nan stays"""
    p = self if eps is None else tl.where(eps < 0, self, _inside(self, eps)).to(self.dtype)
    return libdevice.log(quotient(p, 1.0 - p))


def _odds_backward(dtype: torch.dtype) -> Iterator[Sample]:
    # Without nan and -0, at which ATen's CPU kernel gives one thing or another by the place in a vector.
    x = torch.cat([values((21,), dtype, -0.2, 1.2), torch.tensor([0.0, 1.0, float("inf")], dtype=dtype)])
    for eps in ((), (0.2,), (-1.0,)):
        yield Sample((values((24,), dtype, seed=1), x, *eps))
        yield Sample((values((6, 10), dtype, seed=1), values((10, 6), dtype, -0.2, 1.2).t(), *eps))


@pointwise("aten::logit_backward", samples=_odds_backward, bench=traffic(T, T), in_place=False)
def logit_backward(grad_output, self, eps):
    """Gradient of logit: 0 outside eps and 1 - eps; nan outside 0 and 1 if eps is not given or negative"""
    slope = quotient(grad_output, self * (1.0 - self))
    if eps is None:
        return tl.where((self < 0) | (self > 1), float("nan"), slope)
    else:
        low = tl.where(eps < 0, 0.0, eps)
        return tl.where((self < low) | (self > 1.0 - low), tl.where(eps < 0, float("nan"), 0.0), slope).to(slope.dtype)
