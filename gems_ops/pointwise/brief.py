"""Shorter forms of functions for 16-bit operands: exact to some 16 bits, in float32 arithmetic.

A GPU that streams 16-bit numbers has time for about 28 instructions an element (H200); CUDA's float32 functions take more.
The polynomials were fitted by weighted least squares to their largest error (Lawson).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice


def are_halves(*args: object) -> bool:
    """True if every tensor among the arguments has a 16-bit floating point dtype."""
    return all(v.dtype in (torch.float16, torch.bfloat16) for v in args if isinstance(v, Tensor))


@triton.jit
def normal_tail(a):
    """P(X > a) for a standard normal X and a >= 0, as 2 ** polynomial: relative error 3e-5 up to 4.5; falls to 0."""
    p = -1.526815140096005e-06 * a + 5.59621439606417e-05
    p = p * a - 0.0008923735585995018
    p = p * a + 0.008386952802538872
    p = p * a - 0.0537741594016552
    p = p * a - 0.45859166979789734
    p = p * a - 1.1512219905853271
    return tl.exp2(p * a - 0.999995768070221)


@triton.jit
def brief_normal_cdf(x):
    tail = normal_tail(tl.abs(x))
    return tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
def brief_erf(self):
    a = tl.abs(self)
    square = self * self
    near = self * (1.1283792 + square * (-0.37612638 + square * 0.11283792))
    far = 1.0 - 2.0 * normal_tail(a * 1.4142135623730951)
    return tl.where(a < 0.1, near, libdevice.copysign(far, self))


@triton.jit
def brief_tanh(self):
    square = self * self
    near = self * (1.0 + square * (-0.33333333 + square * 0.13333333))
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(self)) + 1.0)
    return tl.where(square < 0.01, near, libdevice.copysign(far, self))


@triton.jit
def _arctangent(a):
    """atan for -1 <= a <= 1: relative error 5e-6."""
    s = a * a
    p = -0.013482035137712955 * s + 0.05748162418603897
    p = p * s - 0.12124338746070862
    p = p * s + 0.19563782215118408
    p = p * s - 0.3329949378967285
    return a * (p * s + 0.9999956488609314)


@triton.jit
def arctangent(x):
    """atan in float32: relative error of the polynomial 2e-8. CUDA's own takes more time than float32 streams leave (H200)."""
    a = tl.abs(x)
    inner = tl.where(a > 1.0, 1.0 / a, a)
    s = inner * inner
    p = 0.0028501248452812433 * s - 0.016069632023572922
    p = p * s + 0.04269327595829964
    p = p * s - 0.07504457980394363
    p = p * s + 0.1064102053642273
    p = p * s - 0.14203670620918274
    p = p * s + 0.1999262422323227
    p = p * s - 0.33333075046539307
    inner = inner + inner * (p * s)
    return libdevice.copysign(tl.where(a > 1.0, 1.5707963267948966 - inner, inner), x)


@triton.jit
def _nothing():
    """-0.0, which changes no sum. Triton makes a 0.0 of the literal (3.6 to 3.9)."""
    return tl.full((), -2147483648, tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def brief_atan(self):
    """Signs stay in the arithmetic: 17 instructions an element, 25 if they are taken off and put on again (sm_90)."""
    far = tl.abs(self) > 1.0
    inner = tl.where(far, libdevice.fast_dividef(-1.0, self), self)
    turn = tl.where(self < 0, -1.5707963267948966, 1.5707963267948966)
    return _arctangent(inner) + tl.where(far, turn, _nothing())


@triton.jit
def _ratio(a, b):
    """a / b for |a| <= |b|: 0 / 0 is a, inf / inf is 1 with their signs."""
    # The reciprocal takes 2 ** -126 to 2 ** 126. Beyond 2 ** 100, what 2 ** -24 makes too small of a has no ratio above 0.
    scale = tl.where(tl.abs(b) > 1.2676506002282294e30, 5.9604644775390625e-08, 16777216.0)
    ratio = a * scale * libdevice.fast_dividef(1.0, b * scale)
    signs = (a.to(tl.int32, bitcast=True) ^ b.to(tl.int32, bitcast=True)) & -2147483648
    one = (signs | 0x3F800000).to(tl.float32, bitcast=True)
    return tl.where(b == 0, a, tl.where(tl.abs(a) == tl.abs(b), one, ratio))


@triton.jit
def brief_atan2(self, other):
    far = tl.abs(self) > tl.abs(other)
    ratio = _ratio(tl.where(far, other * -1.0, self), tl.where(far, self, other))
    turns = far | (other.to(tl.int32, bitcast=True) < 0)
    turn = libdevice.copysign(tl.where(far, 1.5707963267948966, 3.141592653589793), self)
    return _arctangent(ratio) + tl.where(turns, turn, _nothing())


@triton.jit
def brief_sqrt(self):
    return tl.sqrt(self)


@triton.jit
def brief_logaddexp(self, other):
    gap = tl.abs(self - other)
    larger = tl.where((self > other) | (self != self), self, other)
    sum = larger + tl.log(1.0 + tl.exp(-gap))
    return tl.where((self == other) & (tl.abs(self) == float("inf")), self, sum)


@triton.jit
def brief_logaddexp2(self, other):
    gap = tl.abs(self - other)
    larger = tl.where((self > other) | (self != self), self, other)
    sum = larger + tl.log2(1.0 + tl.exp2(-gap))
    return tl.where((self == other) & (tl.abs(self) == float("inf")), self, sum)


@triton.jit
def brief_power(self, exponent):
    """2 ** (exponent * log2 |x|) with C's rules: pow(1, y) and pow(x, 0) are 1, whole exponents keep or drop the sign."""
    a = tl.abs(self)
    size = tl.where((a == 1.0) | (exponent == 0), 1.0, tl.exp2(exponent * tl.log2(a)))
    whole = tl.floor(exponent) == exponent
    odd = whole & (tl.floor(exponent * 0.5) != exponent * 0.5)
    below = libdevice.copysign(tl.full(self.shape, 1.0, tl.float32), self) < 0
    signed = tl.where((self < 0) & (whole == 0) & (a != float("inf")), float("nan"), tl.where(below & odd, size * -1.0, size))
    undefined = ((self != self) & (exponent != 0)) | ((exponent != exponent) & (self != 1.0))
    return tl.where(undefined, float("nan"), signed)


@triton.jit
def brief_gelu(self, approximate):
    if approximate == "none":
        return self * brief_normal_cdf(self)
    else:
        inner = 0.79788456080286535588 * (self + 0.044715 * self * self * self)
        return self / (1.0 + tl.exp(-2.0 * inner))


@triton.jit
def brief_gelu_backward(grad_output, self, approximate):
    if approximate == "none":
        density = 0.39894228040143267794 * tl.exp(-0.5 * self * self)
        return grad_output * (brief_normal_cdf(self) + self * density)
    else:
        inner = 0.79788456080286535588 * (self + 0.044715 * self * self * self)
        slope = 0.79788456080286535588 * (1.0 + 0.134145 * self * self)
        s = 1.0 / (1.0 + tl.exp(-2.0 * inner))
        return grad_output * (s + 2.0 * self * s * (1.0 - s) * slope)
