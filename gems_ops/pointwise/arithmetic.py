"""Arithmetic: sums, products, quotients, powers, and the functions of one variable."""

import torch
import triton
import triton.language as tl

from gems_ops.op import DOUBLES, NUMBERS
from gems_ops.pointwise.declare import pointwise
from gems_ops.promote import Promotion
from gems_ops.samples import binary, powers, unary
from gems_ops.workloads import stream

INT_TO_FLOAT = Promotion.INT_TO_FLOAT


def _alpha_is_odd(self: object, other: object, alpha: object) -> str | None:
    """ATen refuses a boolean or fractional alpha for integer results; it says so itself."""
    integral = all(not t.dtype.is_floating_point for t in (self, other) if isinstance(t, torch.Tensor))
    whole = integral and not isinstance(self, float) and not isinstance(other, float)
    return "alpha is not an integer" if whole and not type(alpha) is int else None


@pointwise("aten::add.Tensor", dtypes=NUMBERS, samples=binary(), bench=stream(2), when=_alpha_is_odd)
def add(self, other, alpha):
    """self + alpha * other"""
    return self + alpha * other


@pointwise("aten::sub.Tensor", dtypes=NUMBERS, samples=binary(), bench=stream(2), when=_alpha_is_odd)
def sub(self, other, alpha):
    """self - alpha * other"""
    return self - alpha * other


@pointwise("aten::mul.Tensor", dtypes=NUMBERS, samples=binary(), bench=stream(2))
def mul(self, other):
    """self * other"""
    return self * other


@pointwise("aten::div.Tensor", dtypes=NUMBERS, samples=binary(positive_second=True), bench=stream(2), promotion=INT_TO_FLOAT)
def div(self, other):
    """self / other, in floating point also for integers"""
    if self.dtype == tl.float32:
        return tl.div_rn(self, other)  # `/` is off by up to 2 ulp in float32
    return self / other


@pointwise("aten::neg", dtypes=NUMBERS, samples=unary(), bench=stream(1))
def neg(self):
    """-self"""
    return -self


@pointwise("aten::rsqrt", samples=unary(0.1, 9.0), bench=stream(1))
def rsqrt(self):
    """1 / sqrt(self); inf at 0, nan below"""
    return tl.rsqrt(self)


@pointwise("aten::cos", samples=unary(), bench=stream(1))
def cos(self):
    """cosine"""
    return tl.cos(self)


@pointwise("aten::sin", samples=unary(), bench=stream(1))
def sin(self):
    """sine"""
    return tl.sin(self)


@triton.jit
def _inverse(x):
    return 1.0 / x if x.dtype == tl.float64 else tl.div_rn(tl.zeros_like(x) + 1.0, x)


_EXPONENTS = (2, 3, 0.5, -0.5, -1, -2, 1, 0)


def _exponent_is_general(self: object, exponent: object) -> str | None:
    return None if exponent in _EXPONENTS else f"exponent {exponent} is none of {_EXPONENTS}"


@pointwise(
    "aten::pow.Tensor_Scalar", samples=powers(_EXPONENTS), bench=stream(1, (8192, 8192), 2),
    dtypes=DOUBLES, when=_exponent_is_general, fixed=frozenset({"exponent"}), opinfo=("square",),
)  # fmt: skip
def pow(self, exponent):
    """self ** exponent for the exponents that ATen, too, computes without a general power"""
    if exponent == 2:
        return self * self
    elif exponent == 3:
        return self * self * self
    elif exponent == 0.5:
        return tl.sqrt(self) if self.dtype == tl.float64 else tl.sqrt_rn(self)
    elif exponent == -0.5:
        return tl.rsqrt(self)
    elif exponent == -1:
        return _inverse(self)
    elif exponent == -2:
        return _inverse(self * self)
    elif exponent == 1:
        return self
    else:
        tl.static_assert(exponent == 0)
        return tl.zeros_like(self) + 1.0  # also for nan
