"""Kernel pieces of sorts: the order of values as unsigned integers, and back."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.rows.access import widen


@triton.jit
def ordered(x, DESCENDING: tl.constexpr):
    """An unsigned integer for each x, uint64 for 64-bit types and uint32 else, that grows as ATen sorts.

    All nans are equal and the greatest, and so come first when descending; -0.0 equals 0.0.
    """
    BITS: tl.constexpr = x.dtype.primitive_bitwidth if x.dtype != tl.int1 else 8
    UNSIGNED: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    ALL: tl.constexpr = (1 << BITS) - 1
    TOP: tl.constexpr = 1 << (BITS - 1)
    if x.dtype.is_floating():
        SAME: tl.constexpr = tl.int64 if BITS == 64 else tl.int32 if BITS == 32 else tl.int16
        wide = widen(x)
        bits = tl.where(wide == 0, tl.zeros_like(x), x).to(SAME, bitcast=True).to(tl.int64 if BITS == 64 else tl.int32)
        unsigned = bits.to(UNSIGNED, bitcast=True)
        # Negative numbers run backwards, below all others.
        key = tl.where(wide != wide, ALL, tl.where(bits < 0, unsigned ^ ALL, unsigned ^ TOP) & ALL).to(UNSIGNED)
    elif x.dtype.is_int_signed():
        key = (x.to(tl.int64 if BITS == 64 else tl.int32).to(UNSIGNED, bitcast=True) ^ TOP) & ALL
    else:
        key = x.to(UNSIGNED)
    if DESCENDING:
        key = key ^ ALL
    return key


@triton.jit
def packed(key, cols, BITS: tl.constexpr):
    """The order and the column, less than 2**16, of each element of so many bits in one integer: no two are equal.

    uint32 for types of at most 16 bits, else int64.
    """
    if BITS <= 16:
        return ((key & 0xFFFF) << 16) | cols.to(tl.uint32)
    else:
        # The signed order of these is the unsigned one of the keys.
        return ((key ^ 0x80000000).to(tl.int32, bitcast=True).to(tl.int64) << 32) | cols


@triton.jit
def item_of(x, ok, index, WIDE: tl.constexpr, DESCENDING: tl.constexpr):
    """What is sorted, int64: the order of each x and, but for WIDE ones of 64 bits, its index below it. What is not there comes last."""
    if WIDE:
        return tl.where(ok, ordered(x, DESCENDING).to(tl.int64, bitcast=True), -1)
    else:
        return tl.where(ok, (ordered(x, DESCENDING).to(tl.int64) << 32) | index, -1)


@triton.jit
def key_of(item, WIDE: tl.constexpr):
    """The order in an item, as `ordered` made it."""
    if WIDE:
        return item.to(tl.uint64, bitcast=True)
    else:
        return (item >> 32).to(tl.uint32)


@triton.jit
def restored(key, x_ptr, index, ok, DESCENDING: tl.constexpr):
    """The elements that `ordered` made these unsigned keys of; read where several have one key: nans, and both zeros."""
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    BITS: tl.constexpr = TYPE.primitive_bitwidth if TYPE != tl.int1 else 8
    ALL: tl.constexpr = (1 << BITS) - 1
    TOP: tl.constexpr = 1 << (BITS - 1)
    if DESCENDING:
        key = key ^ ALL
    if TYPE.is_floating():
        SAME: tl.constexpr = tl.int64 if BITS == 64 else tl.int32 if BITS == 32 else tl.int16
        x = tl.where((key & TOP) != 0, key ^ TOP, key ^ ALL).to(SAME).to(TYPE, bitcast=True)
        shared = ok & ((key == TOP) | (key == ALL))
        return tl.where(shared, tl.load(x_ptr + index, mask=shared, other=0), x)
    elif TYPE.is_int_signed() and TYPE != tl.int1:
        return (key ^ TOP).to(TYPE)
    else:
        return key.to(TYPE)
