"""Rounding to whole numbers, remainders and whole quotients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from gems_ops.op import DOUBLES, NUMBERS, Sample
from gems_ops.pointwise.cases import T, few, number_first, pairs, plain, several, traffic, with_numbers
from gems_ops.pointwise.declare import pointwise
from gems_ops.promote import Promotion

_ONE = dict(dtypes=NUMBERS, samples=few(), bench=traffic(T))


@pointwise("aten::abs", **_ONE)
def abs(self):
    """Absolute value; an integer's smallest value stays itself"""
    return tl.abs(self)


@pointwise("aten::ceil", **_ONE)
def ceil(self):
    """The smallest whole number not below self"""
    return tl.ceil(self) if self.dtype.is_floating() else self


@pointwise("aten::floor", **_ONE)
def floor(self):
    """The largest whole number not above self"""
    return tl.floor(self) if self.dtype.is_floating() else self


@triton.jit
def toward_zero(x):
    return libdevice.trunc(x) if x.dtype.is_floating() else x


@pointwise("aten::trunc", **_ONE)
def trunc(self):
    """The whole part"""
    return toward_zero(self)


@pointwise("aten::frac", dtypes=DOUBLES, samples=few(), bench=traffic(T))
def frac(self):
    """What is behind the point, with self's sign; nan for infinities"""
    return self - libdevice.trunc(self)


@pointwise("aten::round", **_ONE)
def round(self):
    """The nearest whole number, of two the even one"""
    return libdevice.nearbyint(self) if self.dtype.is_floating() else self


def _many_decimals(self: torch.Tensor, decimals: int) -> str | None:
    return None if -10 <= decimals <= 10 else f"10 ** {decimals} is not exact in float32"


@pointwise(
    "aten::round.decimals", dtypes=frozenset({torch.float32, torch.float64}), when=_many_decimals,
    samples=several(((), {"decimals": 2}), ((), {"decimals": -1}), ((), {"decimals": 0}), low=-30.0, high=30.0),
)  # fmt: skip
def round_decimals(self, decimals):
    """The nearest multiple of 10 ** -decimals, computed as ATen does: scaled, rounded, scaled back"""
    if decimals >= 0:
        scale = 10.0**decimals
        whole = libdevice.nearbyint(self * scale)
        return whole / scale if self.dtype == tl.float64 else tl.div_rn(whole, tl.zeros_like(whole) + scale)
    else:
        scale = 10.0 ** (-decimals)
        if self.dtype == tl.float64:
            return libdevice.nearbyint(self / scale) * scale
        return libdevice.nearbyint(tl.div_rn(self, tl.zeros_like(self) + scale)) * scale


@triton.jit
def quotient(x, y):
    """x / y, correctly rounded; `/` is off by up to 2 ulp in float32."""
    return tl.div_rn(x, y) if x.dtype == tl.float32 else x / y


@triton.jit
def c_remainder(x, y):
    """What is left of dividing toward zero, with x's sign."""
    return libdevice.fmod(x, y) if x.dtype.is_floating() else x % y


@triton.jit
def floored_remainder(x, y):
    """What is left of dividing toward minus infinity, with y's sign."""
    left = c_remainder(x, y)
    return tl.where((left != 0) & ((left < 0) != (y < 0)), left + y, left)


@triton.jit
def floored_quotient(x, y):
    """The largest whole number not above x / y; x / 0 is infinite or nan, and an infinite x gives nan, as in Python."""
    if not x.dtype.is_floating():
        whole = x // y
        return tl.where((x % y != 0) & ((x < 0) != (y < 0)), whole - 1, whole)
    else:
        ratio = quotient(x, y)
        rounded = tl.floor(ratio)
        # a ratio that was rounded up to a whole number, or to -0, leaves a remainder of the other sign
        left = tl.where(ratio == 0, x, tl.fma(-rounded, y, x))
        past = (rounded == ratio) & (left != 0) & ((left < 0) != (y < 0)) & (y != 0)
        rounded = tl.where(past, rounded - 1.0, rounded)
        return tl.where((tl.abs(x) == float("inf")) & (y != 0), float("nan"), rounded)


@triton.jit
def truncated_quotient(x, y):
    """x / y without what is behind the point."""
    return libdevice.trunc(quotient(x, y)) if x.dtype.is_floating() else x // y


# No divisor is 0: for integers a GPU gives what it likes, and the CPU raises.
_TWO = dict(dtypes=NUMBERS, samples=pairs(low=-9.0, high=9.0, low2=1.0), bench=traffic(T, T))
_BY = dict(
    dtypes=NUMBERS, samples=plain(with_numbers(2, 0.5, -1.5, low=-9.0, high=9.0)), promoting=frozenset({"other"}), rounded=True,
    bench=traffic(T, 2),
)  # fmt: skip


def _divides_by_zero(self: object, other: object) -> str | None:
    """ATen's CPU raises for a whole number divided by 0; its CUDA kernels do not, and neither need agree with ours."""
    return "division by 0" if not isinstance(other, torch.Tensor) and other == 0 else None


@pointwise("aten::fmod.Tensor", **_TWO)
def fmod(self, other):
    """self - other * trunc(self / other), exactly; nan for other = 0"""
    return c_remainder(self, other)


@pointwise("aten::fmod.Scalar", when=_divides_by_zero, keyed=frozenset({"other"}), **_BY)
def fmod_scalar(self, other):
    """self - other * trunc(self / other), exactly, for a number"""
    return c_remainder(self, other)


@pointwise("aten::remainder.Tensor", **_TWO)
def remainder(self, other):
    """self - other * floor(self / other), exactly; nan for other = 0"""
    return floored_remainder(self, other)


@pointwise("aten::remainder.Scalar", when=_divides_by_zero, keyed=frozenset({"other"}), **_BY)
def remainder_scalar(self, other):
    """self - other * floor(self / other), exactly, for a number"""
    return floored_remainder(self, other)


@pointwise(
    "aten::remainder.Scalar_Tensor", dtypes=NUMBERS, samples=plain(number_first(7, 1.0, 9.0)), promoting=frozenset({"self"}),
    rounded=True, in_place=False,
)  # fmt: skip
def remainder_scalar_tensor(self, other):
    """self, a number, - other * floor(self / other)"""
    return floored_remainder(self, other)


@pointwise("aten::floor_divide", **_TWO)
def floor_divide(self, other):
    """floor(self / other)"""
    return floored_quotient(self, other)


@pointwise("aten::floor_divide.Scalar", when=_divides_by_zero, keyed=frozenset({"other"}), **_BY)
def floor_divide_scalar(self, other):
    """floor(self / other) for a number"""
    return floored_quotient(self, other)


def _division(self: object, other: object, rounding_mode: str | None) -> Promotion:
    return Promotion.INT_TO_FLOAT if rounding_mode is None else Promotion.DEFAULT


def _unknown_rounding(self: object, other: object, rounding_mode: str | None) -> str | None:
    if rounding_mode not in (None, "trunc", "floor"):
        return f"rounding_mode is {rounding_mode!r}"
    return None


def _modes(dtype: torch.dtype) -> Iterator[Sample]:
    for mode in ("trunc", "floor", None):
        yield from pairs(low=-9.0, high=9.0, low2=1.0, number=True, rounding_mode=mode)(dtype)


@pointwise(
    "aten::div.Tensor_mode", dtypes=NUMBERS, samples=_modes, promotion=_division, when=_unknown_rounding,
    bench=traffic(T, T, rounding_mode="trunc") + traffic(T, T, rounding_mode="floor"),
    opinfo=("div", "div_trunc_rounding", "div_floor_rounding"),
)  # fmt: skip
def div_mode(self, other, rounding_mode):
    """self / other, rounded toward zero, down, or not"""
    if rounding_mode == "trunc":
        return truncated_quotient(self, other)
    elif rounding_mode == "floor":
        return floored_quotient(self, other)
    else:
        return quotient(self, other)
