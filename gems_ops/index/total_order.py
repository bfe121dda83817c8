"""Numbers as signed integers that grow as they do, so that a GPU's integer atomics find the largest and the smallest."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def order_of(x, NAN_LAST: tl.constexpr):
    """int64 for 64-bit types, int32 else; nan is above everything, or below it if not NAN_LAST, so that it always wins."""
    if x.dtype.is_floating():
        if x.dtype == tl.float64:
            return _order(x, tl.int64, 0x7FFFFFFFFFFFFFFF, NAN_LAST)
        else:
            return _order(x.to(tl.float32), tl.int32, 0x7FFFFFFF, NAN_LAST)
    else:
        return x.to(tl.int64 if x.dtype.primitive_bitwidth == 64 else tl.int32)


@triton.jit
def _order(x, INTEGER: tl.constexpr, MOST: tl.constexpr, NAN_LAST: tl.constexpr):
    bits = x.to(INTEGER, bitcast=True)
    # negative numbers run backwards
    order = tl.where(bits < 0, bits ^ MOST, bits)
    return tl.where(x != x, tl.full(x.shape, MOST if NAN_LAST else -MOST - 1, INTEGER), order)


@triton.jit
def number_of(order, dtype: tl.constexpr):
    """The number of this type that `order_of` gave the order of."""
    if dtype == tl.float64:
        return tl.where(order < 0, order ^ 0x7FFFFFFFFFFFFFFF, order).to(tl.float64, bitcast=True)
    elif dtype.is_floating():
        return tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True).to(dtype)
    else:
        return order.to(dtype)
