"""Functions of one variable: exponentials, logarithms, roots, circular and hyperbolic functions.

CUDA's own library computes them, as in ATen's kernels, so that results agree to the last bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from gems_ops.op import ALL, BOOL, DOUBLES, INTS
from gems_ops.pointwise import brief
from gems_ops.pointwise.cases import T, few, pairs, traffic
from gems_ops.pointwise.declare import pointwise
from gems_ops.promote import Promotion

_FLOAT = dict(dtypes=ALL, promotion=Promotion.INT_TO_FLOAT, samples=few(), bench=traffic(T))
_POSITIVE = {**_FLOAT, "samples": few(0.1, 9.0)}
_UNIT = {**_FLOAT, "samples": few(-0.99, 0.99)}


@pointwise("aten::exp", **_FLOAT)
def exp(self):
    """e ** self"""
    return libdevice.exp(self)


@pointwise("aten::exp2", **_FLOAT)
def exp2(self):
    """2 ** self"""
    return libdevice.exp2(self)


@pointwise("aten::expm1", **_FLOAT)
def expm1(self):
    """e ** self - 1, exact near 0"""
    return libdevice.expm1(self)


@pointwise("aten::log", **_POSITIVE)
def log(self):
    """natural logarithm"""
    return libdevice.log(self)


@pointwise("aten::log2", **_POSITIVE)
def log2(self):
    """logarithm to base 2"""
    return libdevice.log2(self)


@pointwise("aten::log10", **_POSITIVE)
def log10(self):
    """logarithm to base 10"""
    return libdevice.log10(self)


@pointwise("aten::log1p", **_POSITIVE)
def log1p(self):
    """log(1 + self), exact near 0"""
    return libdevice.log1p(self)


@triton.jit
def root(x):
    """Correctly rounded, as CUDA's sqrt is by default."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@pointwise("aten::sqrt", brief=brief.brief_sqrt, **_POSITIVE)
def sqrt(self):
    """square root; nan below 0"""
    return root(self)


@pointwise("aten::rsqrt", **_POSITIVE)
def rsqrt(self):
    """1 / sqrt(self); inf at 0, nan below"""
    return tl.rsqrt(self)


@triton.jit
def inverse(x):
    """1 / x, correctly rounded."""
    return 1.0 / x if x.dtype == tl.float64 else tl.div_rn(tl.zeros_like(x) + 1.0, x)


@pointwise("aten::reciprocal", **_FLOAT)
def reciprocal(self):
    """1 / self"""
    return inverse(self)


@pointwise("aten::erf", brief=brief.brief_erf, **_FLOAT)
def erf(self):
    """error function"""
    return tl.erf(self)


@pointwise("aten::erfc", **_FLOAT)
def erfc(self):
    """1 - erf(self), exact far out"""
    return libdevice.erfc(self)


@pointwise("aten::sin", **_FLOAT)
def sin(self):
    """sine"""
    return tl.sin(self)


@pointwise("aten::cos", **_FLOAT)
def cos(self):
    """cosine"""
    return tl.cos(self)


@pointwise("aten::tan", **_FLOAT)
def tan(self):
    """tangent"""
    return libdevice.tan(self)


@pointwise("aten::asin", **_UNIT)
def asin(self):
    """inverse sine; nan outside [-1, 1]"""
    return libdevice.asin(self)


@pointwise("aten::acos", **_UNIT)
def acos(self):
    """inverse cosine; nan outside [-1, 1]"""
    return libdevice.acos(self)


@pointwise("aten::atan", brief=brief.brief_atan, **_FLOAT)
def atan(self):
    """inverse tangent"""
    if self.dtype == tl.float64:
        return libdevice.atan(self)
    else:
        return brief.arctangent(self)


@pointwise("aten::cosh", **_FLOAT)
def cosh(self):
    """hyperbolic cosine"""
    return libdevice.cosh(self)


@pointwise("aten::tanh", brief=brief.brief_tanh, **_FLOAT)
def tanh(self):
    """hyperbolic tangent"""
    return libdevice.tanh(self)


@pointwise("aten::atan2", brief=brief.brief_atan2, dtypes=ALL, promotion=Promotion.INT_TO_FLOAT, samples=pairs(), bench=traffic(T, T))
def atan2(self, other):
    """The angle of the point (other, self)"""
    return libdevice.atan2(self, other)


@pointwise("aten::hypot", dtypes=DOUBLES, samples=pairs(), bench=traffic(T, T))
def hypot(self, other):
    """sqrt(self ** 2 + other ** 2) without overflow"""
    return libdevice.hypot(self, other)


# CUDA's kernel takes no 16-bit floating point; ATen says so.
_ANGLE = frozenset({torch.float32, torch.float64}) | INTS | BOOL
_PI = tl.constexpr(3.14159265358979323846)


@pointwise("aten::angle", dtypes=_ANGLE, promotion=Promotion.INT_TO_FLOAT, samples=few(), bench=traffic(T), in_place=False)
def angle(self):
    """The argument of a real number: pi below 0, else 0; nan stays"""
    return tl.where(self != self, self, tl.where(self < 0, _PI, 0.0).to(self.dtype))
