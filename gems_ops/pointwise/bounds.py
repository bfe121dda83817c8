"""Limits: clamp and its relatives, larger and smaller of two, and replacing what is not finite."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.op import ALL, NUMBERS
from gems_ops.pointwise.cases import T, few, pairs, several, traffic, triples, with_numbers
from gems_ops.pointwise.declare import pointwise


@triton.jit
def at_least(x, low):
    """The larger; nan if either is nan."""
    return tl.where((x > low) | (x != x), x, low)


@triton.jit
def at_most(x, high):
    """The smaller; nan if either is nan."""
    return tl.where((x < high) | (x != x), x, high)


_TWO = dict(dtypes=ALL, samples=pairs(), bench=traffic(T, T), in_place=False)


@pointwise("aten::maximum", **_TWO)
def maximum(self, other):
    """The larger; nan if either is nan"""
    return at_least(self, other)


@pointwise("aten::minimum", **_TWO)
def minimum(self, other):
    """The smaller; nan if either is nan"""
    return at_most(self, other)


@pointwise("aten::fmax", **_TWO)
def fmax(self, other):
    """The larger; the other one if one is nan"""
    return tl.where((self > other) | (other != other), self, other)


@pointwise("aten::fmin", **_TWO)
def fmin(self, other):
    """The smaller; the other one if one is nan"""
    return tl.where((self < other) | (other != other), self, other)


def _no_limit(self: object, min: object, max: object) -> str | None:
    return "neither min nor max is given" if min is None and max is None else None


@triton.jit
def within(x, low, high):
    """x between two limits, of which either may be None; nan if any is nan."""
    if low is not None:
        x = at_least(x, low)
    if high is not None:
        x = at_most(x, high)
    return x


_LIMITS = dict(dtypes=NUMBERS, rounded=True)


@pointwise(
    "aten::clamp", samples=several(((-1, 1.5), {}), ((None, 1), {}), ((0.5,), {}), ((float("nan"), 1), {}), whole=((0, 2), {})),
    promoting=frozenset({"min", "max"}), bench=traffic(T, -0.5, 0.5), when=_no_limit, **_LIMITS,
)  # fmt: skip
def clamp(self, min, max):
    """self between numbers"""
    return within(self, min, max)


@pointwise("aten::clamp.Tensor", samples=triples(), bench=traffic(T, T, T), when=_no_limit, dtypes=NUMBERS)
def clamp_tensor(self, min, max):
    """self between tensors"""
    return within(self, min, max)


@pointwise(
    "aten::clamp_min", samples=with_numbers(1, -0.3), promoting=frozenset({"min"}), bench=traffic(T, 0.5), **_LIMITS
)
def clamp_min(self, min):
    """self, at least a number"""
    return at_least(self, min)


@pointwise("aten::clamp_min.Tensor", samples=pairs(), dtypes=NUMBERS, bench=traffic(T, T))
def clamp_min_tensor(self, min):
    """self, at least a tensor"""
    return at_least(self, min)


@pointwise(
    "aten::clamp_max", samples=with_numbers(1, -0.3), promoting=frozenset({"max"}), bench=traffic(T, 0.5), **_LIMITS
)
def clamp_max(self, max):
    """self, at most a number"""
    return at_most(self, max)


@pointwise("aten::clamp_max.Tensor", samples=pairs(), dtypes=NUMBERS, bench=traffic(T, T))
def clamp_max_tensor(self, max):
    """self, at most a tensor"""
    return at_most(self, max)


@pointwise("aten::relu", dtypes=NUMBERS, samples=few(), bench=traffic(T))
def relu(self):
    """self, at least 0; nan stays"""
    return tl.where((self > 0) | (self != self), self, 0).to(self.dtype)


_LARGEST_HALF = tl.constexpr(65504.0)
_LARGEST_BFLOAT16 = tl.constexpr(3.3895313892515355e38)
_LARGEST_FLOAT = tl.constexpr(3.4028234663852886e38)
_LARGEST_DOUBLE = tl.constexpr(1.7976931348623157e308)


@triton.jit
def _largest(KIND: tl.constexpr):
    if KIND == tl.float16:
        return _LARGEST_HALF
    elif KIND == tl.bfloat16:
        return _LARGEST_BFLOAT16
    elif KIND == tl.float32:
        return _LARGEST_FLOAT
    else:
        return _LARGEST_DOUBLE


_REPLACED = several(((), {}), ((1.5, 2.5, -2.5), {}), ((None, None, 7.0), {}))


@pointwise("aten::nan_to_num", dtypes=NUMBERS, samples=_REPLACED, bench=traffic(T), raw=frozenset({"self"}), promoting=frozenset({"self"}))
def nan_to_num(self, nan, posinf, neginf):
    """self with nan and infinities replaced, by 0 and the dtype's limits where no number is given"""
    if not self.dtype.is_floating():
        return self
    else:
        wide = self if self.dtype == tl.float64 else self.to(tl.float32)
        high = _largest(self.dtype) if posinf is None else posinf
        low = -_largest(self.dtype) if neginf is None else neginf
        finite = tl.where(wide == float("inf"), high, tl.where(wide == -float("inf"), low, wide))
        return tl.where(wide != wide, 0.0 if nan is None else nan, finite).to(wide.dtype)
