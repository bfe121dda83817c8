"""Kernel pieces of a stable radix sort: the order of values as unsigned integers, and the ranks of digits in a tile."""

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
def digit_of(x, shift, DESCENDING: tl.constexpr):
    """Four bits of the order of x, from bit `shift` on; int32 [N]."""
    return ((ordered(x, DESCENDING) >> shift) & 15).to(tl.int32)


@triton.jit
def _ones(digit, ok, WORD: tl.constexpr):
    """1 in the 16-bit lane of the digit, if it is one of the four that lie in this word of counters."""
    return tl.where(ok & ((digit >> 2) == WORD), tl.full(digit.shape, 1, tl.int64) << ((digit & 3) * 16).to(tl.int64), 0)


@triton.jit
def digit_ranks(digit, ok):
    """(how many equal digits stand before each in the tile, [N]; the sixteen totals as four packed words).

    Sixteen counters of 16 bits in four int64, so that four running sums rank a tile of at most 65,535.
    """
    one_0, one_1, one_2, one_3 = _ones(digit, ok, 0), _ones(digit, ok, 1), _ones(digit, ok, 2), _ones(digit, ok, 3)
    word = digit >> 2
    low = tl.where(word == 0, tl.cumsum(one_0, 0) - one_0, tl.cumsum(one_1, 0) - one_1)
    high = tl.where(word == 2, tl.cumsum(one_2, 0) - one_2, tl.cumsum(one_3, 0) - one_3)
    rank = _lane(tl.where(word < 2, low, high), digit)
    return rank, tl.sum(one_0, 0), tl.sum(one_1, 0), tl.sum(one_2, 0), tl.sum(one_3, 0)


@triton.jit
def _lane(words, digit):
    """The digit's 16-bit lane of packed counters, as int32."""
    return ((words >> ((digit & 3) * 16).to(tl.int64)) & 0xFFFF).to(tl.int32)


@triton.jit
def _sum_of_lanes(word):
    return (word & 0xFFFF) + ((word >> 16) & 0xFFFF) + ((word >> 32) & 0xFFFF) + ((word >> 48) & 0xFFFF)


@triton.jit
def digit_starts(digit, n_0, n_1, n_2, n_3):
    """Where each digit's run begins in the sorted tile, for each element [N], from the packed totals."""
    # In each 16-bit lane the sum of the lanes below it, and then of the words below.
    EVERY: tl.constexpr = 0x0001000100010001
    before_1 = _sum_of_lanes(n_0)
    before_2 = before_1 + _sum_of_lanes(n_1)
    before_3 = before_2 + _sum_of_lanes(n_2)
    start_0 = (n_0 * EVERY) << 16
    start_1 = ((n_1 * EVERY) << 16) + before_1 * EVERY
    start_2 = ((n_2 * EVERY) << 16) + before_2 * EVERY
    start_3 = ((n_3 * EVERY) << 16) + before_3 * EVERY
    word = digit >> 2
    low = tl.where(word == 0, start_0, start_1)
    high = tl.where(word == 2, start_2, start_3)
    return _lane(tl.where(word < 2, low, high), digit)
