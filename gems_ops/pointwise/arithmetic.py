"""Arithmetic: sums, products, quotients, powers and their combinations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from gems_ops.op import NUMBERS
from gems_ops.pointwise.arranged import ONE, TWO, arranged
from gems_ops.pointwise.brief import brief_power
from gems_ops.pointwise.cases import T, number_first, pairs, plain, traffic, triples, with_numbers
from gems_ops.pointwise.declare import pointwise
from gems_ops.pointwise.functions import inverse, root
from gems_ops.pointwise.rounding import quotient
from gems_ops.promote import Promotion
from gems_ops.samples import binary, unary
from gems_runtime import device


def _is_odd(number: object, operands: tuple[object, ...]) -> bool:
    """True for a boolean number, or a fractional one beside integers only: ATen refuses it, and says so itself."""
    if isinstance(number, bool):
        return True
    integral = all(not t.dtype.is_floating_point for t in operands if isinstance(t, Tensor))
    return integral and not any(isinstance(v, float) for v in operands) and type(number) is not int


def _alpha_is_odd(self: object, other: object, alpha: object) -> str | None:
    return "alpha is not an integer" if _is_odd(alpha, (self, other)) else None


# Together add, sub and neg are tested in every layout; what they share with the others, the engine, is tested by itself.
@pointwise("aten::add.Tensor", dtypes=NUMBERS, samples=binary(), bench=traffic(T, T) + arranged(TWO), when=_alpha_is_odd)
def add(self, other, alpha):
    """self + alpha * other"""
    return self + alpha * other


@pointwise("aten::sub.Tensor", dtypes=NUMBERS, samples=binary(), bench=traffic(T, T), when=_alpha_is_odd)
def sub(self, other, alpha):
    """self - alpha * other"""
    return self - alpha * other


@pointwise("aten::mul.Tensor", dtypes=NUMBERS, samples=pairs(number=True), bench=traffic(T, T))
def mul(self, other):
    """self * other"""
    return self * other


@pointwise(
    "aten::div.Tensor", dtypes=NUMBERS, samples=pairs(low2=0.5, number=True), bench=traffic(T, T),
    promotion=Promotion.INT_TO_FLOAT, opinfo=("div_no_rounding_mode",),
)  # fmt: skip
def div(self, other):
    """self / other, in floating point also for integers"""
    return quotient(self, other)


@pointwise("aten::neg", dtypes=NUMBERS, samples=unary(), bench=traffic(T) + arranged(ONE))
def neg(self):
    """-self, -0.0 for 0.0; Triton's own minus subtracts from 0, which gives 0.0"""
    return self * -1.0 if self.dtype.is_floating() else -self


def _value_is_odd(self: Tensor, tensor1: Tensor, tensor2: Tensor, value: object) -> str | None:
    return "value is not an integer" if _is_odd(value, (self, tensor1, tensor2)) else None


@pointwise("aten::addcmul", dtypes=NUMBERS, samples=triples(value=True), bench=traffic(T, T, T), when=_value_is_odd)
def addcmul(self, tensor1, tensor2, value):
    """self + value * tensor1 * tensor2"""
    return self + value * (tensor1 * tensor2)


@pointwise("aten::addcdiv", samples=triples(value=True, low3=0.5), bench=traffic(T, T, T))
def addcdiv(self, tensor1, tensor2, value):
    """self + value * tensor1 / tensor2"""
    return self + value * quotient(tensor1, tensor2)


def dtypes_differ(*args: object) -> str | None:
    kinds = {v.dtype for v in args if isinstance(v, Tensor)}
    return f"dtypes differ: {sorted(map(str, kinds))}" if len(kinds) > 1 else None


@triton.jit
def _between(start, end, weight):
    """From the nearer end, as ATen does, so that weight 1 gives exactly `end`."""
    return tl.where(tl.abs(weight) < 0.5, start + weight * (end - start), end - (end - start) * (1.0 - weight))


@pointwise("aten::lerp.Scalar", samples=pairs(0.3), bench=traffic(T, T, 0.3), when=dtypes_differ)
def lerp_scalar(self, end, weight):
    """self + weight * (end - self) for a number"""
    return _between(self, end, weight)


@pointwise("aten::lerp.Tensor", samples=triples(), bench=traffic(T, T, T), when=dtypes_differ)
def lerp(self, end, weight):
    """self + weight * (end - self)"""
    return _between(self, end, weight)


@triton.jit
def _whole_power(base, exponent):
    """By squaring, wrapping around; a negative exponent leaves 1, -1, and 0 of all the rest."""
    zero = tl.zeros_like(base) * tl.zeros_like(exponent)  # of both shapes: one of them may be a number
    result, square, left = zero + 1, zero + base, zero + tl.where(exponent < 0, 0, exponent).to(base.dtype)
    for _ in range(base.dtype.primitive_bitwidth):
        result = tl.where((left & 1) != 0, result * square, result).to(base.dtype)
        square = square * square
        left = left >> 1
    if base.dtype.is_int_unsigned():
        return result
    else:
        odd = (exponent & 1) != 0
        small = tl.where(base == 1, 1, tl.where(base == -1, tl.where(odd, -1, 1), 0)).to(base.dtype)
        return tl.where(exponent < 0, small, result)


@triton.jit
def power(base, exponent):
    """base ** exponent as C's pow, or over whole numbers."""
    if base.dtype.is_floating():
        return libdevice.pow(base, exponent)
    else:
        return _whole_power(base, exponent)


@pointwise("aten::pow.Tensor_Tensor", brief=brief_power, dtypes=NUMBERS, samples=pairs(low=0.0, high=3.0, low2=0.0), bench=traffic(T, T))
def pow_tensor(self, exponent):
    """self ** exponent"""
    return power(self, exponent)


@pointwise(
    "aten::pow.Scalar", brief=brief_power, dtypes=NUMBERS, samples=number_first(2, 0.0, 3.0), promoting=frozenset({"self"}), rounded=True,
    contiguous=True, bench=traffic(2.5, T), in_place=False,
)  # fmt: skip
def pow_scalar(self, exponent):
    """self, a number, ** exponent"""
    return power(self, exponent)


_EXPONENTS = (2, 3, 0.5, -0.5, -1, -2, 1, 0)
_POW = dict(promoting=frozenset({"exponent"}), keyed=frozenset({"exponent"}), rounded=True)


def _negative_for_integers(self: Tensor, exponent: object) -> str | None:
    whole = not self.dtype.is_floating_point and not isinstance(exponent, float)
    return "a negative power of integers" if whole and exponent < 0 else None


def _simple(self: Tensor, exponent: object) -> bool:
    """True for the exponents that ATen, too, computes without a general power."""
    return exponent in _EXPONENTS and (self.dtype.is_floating_point or isinstance(exponent, int))


@triton.jit
def simple_power(self, exponent):
    if exponent == 2:
        return self * self
    elif exponent == 3:
        return self * self * self
    elif exponent == 0.5:
        return root(self)
    elif exponent == -0.5:
        return tl.rsqrt(self)
    elif exponent == -1:
        return inverse(self)
    elif exponent == -2:
        return inverse(self * self)
    elif exponent == 1:
        return self
    else:
        tl.static_assert(exponent == 0)
        return tl.zeros_like(self) + 1  # also for nan


@triton.jit
def _stepwise_power(self, exponent, dtype: tl.constexpr):
    """The power 3 or -2 of 16-bit numbers as ATen's CUDA kernel has it: the square is rounded to their type."""
    square = (self * self).to(dtype).to(tl.float32)
    if exponent == 3:
        return square * self
    else:
        return inverse(square)


@triton.jit
def half_power(self, exponent):
    return _stepwise_power(self, exponent, tl.float16)


@triton.jit
def bfloat16_power(self, exponent):
    return _stepwise_power(self, exponent, tl.bfloat16)


def _steps_of(dtype: torch.dtype) -> Callable[[Tensor, object], bool]:
    """ATen's CPU kernel rounds once, so interpreted we do too."""
    return lambda self, exponent: self.dtype == dtype and exponent in (3, -2) and not device.interpreted()


_POWERS = (
    (_steps_of(torch.float16), half_power, frozenset({"exponent"})),
    (_steps_of(torch.bfloat16), bfloat16_power, frozenset({"exponent"})),
    (_simple, simple_power, frozenset({"exponent"})),
)


@pointwise(
    "aten::pow.Tensor_Scalar", dtypes=NUMBERS, samples=plain(with_numbers(*_EXPONENTS, 2.5, 5, low=0.3)),
    bench=traffic(T, 2) + traffic(T, 2.5), when=_negative_for_integers,
    opinfo=("pow", "square", "float_power"), instead=_POWERS, brief=brief_power, **_POW,
)  # fmt: skip
def pow(self, exponent):
    """self ** exponent for a number"""
    return power(self, exponent)
