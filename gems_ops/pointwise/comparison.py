"""Comparisons with tensors and numbers, tests for special values, and the logical operators."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, NUMBERS, Declined, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.pointwise.cases import T, few, pairs, traffic, with_numbers
from gems_ops.pointwise.declare import pointwise
from gems_ops.pointwise.engine import Pointwise
from gems_ops.promote import Promotion, broadcast_shape

# ATen rounds the number to the tensors' dtype: 0.1 equals bfloat16's 0.1001.
_BOOL = dict(promotion=Promotion.ALWAYS_BOOL, rounded=True, dtypes=ALL)
_TENSORS = dict(**_BOOL, samples=pairs(), bench=traffic(T, T))
_NUMBER = dict(**_BOOL, samples=with_numbers(1, 0.1, float("inf")), bench=traffic(T, 0.5), promoting=frozenset({"other"}))


@pointwise("aten::eq.Tensor", **_TENSORS)
def eq(self, other):
    """self == other"""
    return self == other


@pointwise("aten::eq.Scalar", **_NUMBER)
def eq_scalar(self, other):
    """self == other, a number"""
    return self == other


@pointwise("aten::ne.Tensor", **_TENSORS)
def ne(self, other):
    """self != other"""
    return self != other


@pointwise("aten::ne.Scalar", **_NUMBER)
def ne_scalar(self, other):
    """self != other, a number"""
    return self != other


@pointwise("aten::lt.Tensor", **_TENSORS)
def lt(self, other):
    """self < other"""
    return self < other


@pointwise("aten::lt.Scalar", **_NUMBER)
def lt_scalar(self, other):
    """self < other, a number"""
    return self < other


@pointwise("aten::le.Tensor", **_TENSORS)
def le(self, other):
    """self <= other"""
    return self <= other


@pointwise("aten::le.Scalar", **_NUMBER)
def le_scalar(self, other):
    """self <= other, a number"""
    return self <= other


@pointwise("aten::gt.Tensor", **_TENSORS)
def gt(self, other):
    """self > other"""
    return self > other


@pointwise("aten::gt.Scalar", **_NUMBER)
def gt_scalar(self, other):
    """self > other, a number"""
    return self > other


@pointwise("aten::ge.Tensor", **_TENSORS)
def ge(self, other):
    """self >= other"""
    return self >= other


@pointwise("aten::ge.Scalar", **_NUMBER)
def ge_scalar(self, other):
    """self >= other, a number"""
    return self >= other


@pointwise("aten::logical_and", **_TENSORS)
def logical_and(self, other):
    """Both are other than 0; nan is"""
    return (self != 0) & (other != 0)


@pointwise("aten::logical_or", **_TENSORS)
def logical_or(self, other):
    """One is other than 0"""
    return (self != 0) | (other != 0)


@pointwise("aten::logical_xor", **_TENSORS)
def logical_xor(self, other):
    """Exactly one is other than 0"""
    return (self != 0) ^ (other != 0)


_TEST = dict(promotion=Promotion.ALWAYS_BOOL, samples=few(), bench=traffic(T))


@pointwise("aten::logical_not", dtypes=ALL, **_TEST)
def logical_not(self):
    """self is 0"""
    return self == 0


@pointwise("aten::isnan", dtypes=ALL, **_TEST)
def isnan(self):
    """self is nan, which no integer is"""
    return self != self


@triton.jit
def _is_finite(x):
    """False for nan, for which no comparison holds."""
    return tl.abs(x) < float("inf")


@pointwise("aten::isinf", dtypes=NUMBERS, **_TEST)
def isinf(self):
    """self is infinite, which no integer is"""
    if self.dtype.is_floating():
        return tl.abs(self) == float("inf")
    return self != self


@pointwise("aten::isfinite", dtypes=NUMBERS, composite=True, **_TEST)
def isfinite(self):
    """self is a number and finite, as every integer is"""
    if self.dtype.is_floating():
        return _is_finite(self)
    return self == self


def _isclose_is_refused(self: Tensor, other: Tensor, rtol: float, atol: float, equal_nan: bool) -> str | None:
    if self.dtype != other.dtype:
        return f"self is {self.dtype}, other {other.dtype}"
    return None if rtol >= 0 and atol >= 0 else "a negative tolerance"


@triton.jit
def _rounded(x, KIND: tl.constexpr):
    return x.to(KIND).to(x.dtype)


@triton.jit
def close(self, other, rtol, atol, equal_nan):
    """|self - other| <= atol + rtol * |other|, each step rounded as ATen's formula does; equal infinities are close."""
    KIND: tl.constexpr = self.dtype if self.dtype.is_floating() else tl.float32
    same = self == other
    if KIND != tl.float64:
        self, other = self.to(tl.float32), other.to(tl.float32)
        same = same & (self == self)  # interpreted, bfloat16 numbers are compared by their bits
    if equal_nan:
        same = same | ((self != self) & (other != other))
    error = tl.abs(_rounded(self - other, KIND))
    allowed = _rounded(atol + tl.abs(_rounded(other * rtol, KIND)), KIND)
    return same | (_is_finite(error) & (error <= allowed))


_BOTH = frozenset({"self", "other"})


@pointwise(
    "aten::isclose", dtypes=NUMBERS, promotion=Promotion.ALWAYS_BOOL, raw=_BOTH, promoting=_BOTH, composite=True,
    samples=pairs(), bench=traffic(T, T), when=_isclose_is_refused, keyed=frozenset({"rtol", "atol"}), in_place=False,
)  # fmt: skip
def isclose(self, other, rtol, atol, equal_nan):
    """|self - other| <= atol + rtol * |other|"""
    return close(self, other, rtol, atol, equal_nan)


_CLOSE = Pointwise(
    close, ("self", "other", "rtol", "atol", "equal_nan"), _BOTH, raw=_BOTH, fixed=frozenset({"equal_nan"}),
    promotion=Promotion.ALWAYS_BOOL, floats=frozenset({"rtol", "atol"}),
)  # fmt: skip


@planned(
    "aten::allclose", dtypes=NUMBERS, samples=pairs(), bench=traffic(T, T), waits=True, wide=True,
    keyed=frozenset({"rtol", "atol"}),
)  # fmt: skip
def allclose(self: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Planned:
    """True if isclose is everywhere: one kernel, and one wait for its answer"""
    reason = _isclose_is_refused(self, other, rtol, atol, equal_nan)
    if reason:
        raise Declined(reason)
    args = (self, other, rtol, atol, equal_nan)
    plan = Plan(*_CLOSE.names)
    plan.do("flag = {ones}((), dtype={kind}, device={where})", ones=torch.ones, kind=torch.bool, where=self.device)
    everywhere = torch.empty((), dtype=torch.bool, device="meta").expand(broadcast_shape([self, other]))
    _CLOSE.launch(plan, args, [everywhere], [Code("flag")], _CLOSE.dtypes(args))
    # compiling for a target with no device: there is no answer to wait for
    return plan.build("flag.item()" if self.device.type != "meta" else "None")
