"""Bitwise operators and shifts."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.op import BOOL, INTS
from gems_ops.pointwise.cases import T, WHOLE, few, number_first, pairs, traffic, with_numbers
from gems_ops.pointwise.declare import pointwise

_BITS = dict(dtypes=INTS | BOOL, samples=pairs(), bench=traffic(T, T, dtypes=WHOLE))
# ATen converts numbers with a check, so what does not fit the dtype is ATen's to refuse.
_NUMBER = dict(
    dtypes=INTS | BOOL, samples=with_numbers(True), promoting=frozenset({"other"}), rounded=True,
    bench=traffic(T, 5, dtypes=WHOLE),
)  # fmt: skip
_NUMBER_FIRST = dict(dtypes=INTS | BOOL, samples=number_first(True), promoting=frozenset({"self"}), rounded=True, in_place=False)


@pointwise("aten::bitwise_and.Tensor", **_BITS)
def bitwise_and(self, other):
    """self & other"""
    return self & other


@pointwise("aten::bitwise_and.Scalar", **_NUMBER)
def bitwise_and_scalar(self, other):
    """self & other, a number"""
    return self & other


@pointwise("aten::bitwise_and.Scalar_Tensor", **_NUMBER_FIRST)
def bitwise_and_scalar_tensor(self, other):
    """self, a number, & other"""
    return self & other


@pointwise("aten::bitwise_or.Tensor", **_BITS)
def bitwise_or(self, other):
    """self | other"""
    return self | other


@pointwise("aten::bitwise_or.Scalar", **_NUMBER)
def bitwise_or_scalar(self, other):
    """self | other, a number"""
    return self | other


@pointwise("aten::bitwise_or.Scalar_Tensor", **_NUMBER_FIRST)
def bitwise_or_scalar_tensor(self, other):
    """self, a number, | other"""
    return self | other


@pointwise("aten::bitwise_xor.Tensor", **_BITS)
def bitwise_xor(self, other):
    """self ^ other"""
    return self ^ other


@pointwise("aten::bitwise_xor.Scalar", **_NUMBER)
def bitwise_xor_scalar(self, other):
    """self ^ other, a number"""
    return self ^ other


@pointwise("aten::bitwise_xor.Scalar_Tensor", **_NUMBER_FIRST)
def bitwise_xor_scalar_tensor(self, other):
    """self, a number, ^ other"""
    return self ^ other


@pointwise("aten::bitwise_not", dtypes=INTS | BOOL, samples=few(), bench=traffic(T, dtypes=WHOLE))
def bitwise_not(self):
    """Every bit of self inverted; for bool, not self"""
    if self.dtype == tl.uint8:
        return self ^ 255  # `~` is `^ -1`, which uint8 does not hold
    return ~self


@triton.jit
def _left(x, amount):
    """0 for an amount that is negative or not below the width."""
    outside = (amount < 0) | (amount >= x.dtype.primitive_bitwidth)
    return tl.where(outside, 0, x << tl.where(outside, 0, amount).to(x.dtype)).to(x.dtype)


@triton.jit
def _right(x, amount):
    """The sign, or 0, for an amount that is negative or not below the width."""
    outside = (amount < 0) | (amount >= x.dtype.primitive_bitwidth)
    far = x >> tl.full((), x.dtype.primitive_bitwidth - 1, x.dtype)
    if x.dtype.is_int_unsigned():
        far = far * 0
    return tl.where(outside, far, x >> tl.where(outside, 0, amount).to(x.dtype))


_SHIFT = dict(dtypes=INTS, samples=pairs(low=0.0, high=9.0), bench=traffic(T, T, dtypes=WHOLE))
_SHIFT_BY = {**_NUMBER, "dtypes": INTS, "samples": with_numbers(3)}
_SHIFTED = {**_NUMBER_FIRST, "dtypes": INTS, "samples": number_first(5, 0.0, 9.0)}


@pointwise("aten::bitwise_left_shift.Tensor", **_SHIFT)
def bitwise_left_shift(self, other):
    """self << other"""
    return _left(self, other)


@pointwise("aten::bitwise_left_shift.Tensor_Scalar", **_SHIFT_BY)
def bitwise_left_shift_scalar(self, other):
    """self << other, a number"""
    return _left(self, other)


@pointwise("aten::bitwise_left_shift.Scalar_Tensor", **_SHIFTED)
def bitwise_left_shift_scalar_tensor(self, other):
    """self, a number, << other"""
    return _left(self, other)


@pointwise("aten::bitwise_right_shift.Tensor", **_SHIFT)
def bitwise_right_shift(self, other):
    """self >> other"""
    return _right(self, other)


@pointwise("aten::bitwise_right_shift.Tensor_Scalar", **_SHIFT_BY)
def bitwise_right_shift_scalar(self, other):
    """self >> other, a number"""
    return _right(self, other)


@pointwise("aten::bitwise_right_shift.Scalar_Tensor", **_SHIFTED)
def bitwise_right_shift_scalar_tensor(self, other):
    """self, a number, >> other"""
    return _right(self, other)


@pointwise("aten::__lshift__.Tensor", opinfo=("bitwise_left_shift",), **_SHIFT)
def lshift(self, other):
    """self << other, as the Python operator calls it"""
    return _left(self, other)


@pointwise("aten::__lshift__.Scalar", opinfo=("bitwise_left_shift",), **_SHIFT_BY)
def lshift_scalar(self, other):
    """self << other, a number, as the Python operator calls it"""
    return _left(self, other)


@pointwise("aten::__rshift__.Tensor", opinfo=("bitwise_right_shift",), **_SHIFT)
def rshift(self, other):
    """self >> other, as the Python operator calls it"""
    return _right(self, other)


@pointwise("aten::__rshift__.Scalar", opinfo=("bitwise_right_shift",), **_SHIFT_BY)
def rshift_scalar(self, other):
    """self >> other, a number, as the Python operator calls it"""
    return _right(self, other)
