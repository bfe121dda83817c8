"""The k first elements of each row in one reading: candidates are kept aside and cut down to k whenever they are too many."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.order.keys import ordered
from gems_runtime import LibEntry


@triton.jit
def _cut(from_values, from_indices, to_values, to_indices, count, k, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Move the k first of `count` candidates, of equal ones those that stand first; gives the order of the last of them.

    Equal candidates stay in the order of their indices.
    """
    cols = tl.arange(0, BLOCK)
    ok = cols < count
    tl.debug_barrier()  # the candidates are written
    x = tl.load(from_values + cols, mask=ok, other=0)
    index = tl.load(from_indices + cols, mask=ok, other=0)
    key = ordered(x, LARGEST)
    BITS: tl.constexpr = x.dtype.primitive_bitwidth if x.dtype != tl.int1 else 8
    digits = tl.arange(0, 256)
    # Eight bits a round: the digit under which, with all that stands before, k elements are reached.
    last = tl.zeros((), dtype=key.dtype)
    wanted = k
    active = ok
    for step in tl.static_range(BITS // 8):
        digit = ((key >> (BITS - 8 - 8 * step)) & 255).to(tl.int32)
        reached = tl.cumsum(tl.histogram(digit, 256, mask=active), 0)
        found = tl.sum((reached < wanted).to(tl.int32), 0)
        wanted -= tl.sum(tl.where(digits == found - 1, reached, 0), 0)
        last = (last << 8) | found.to(key.dtype)
        active = active & (digit == found)
    before = ok & (key < last)
    # Both ranks in one running sum: BLOCK is less than 2**16.
    counts = before.to(tl.int32) + (active.to(tl.int32) << 16)
    ranks = tl.cumsum(counts, 0) - counts
    at = tl.where(before, ranks & 0xFFFF, k - wanted + (ranks >> 16))
    kept = before | (active & ((ranks >> 16) < wanted))
    tl.debug_barrier()  # they may be written over each other
    tl.store(to_values + at, x, mask=kept)
    tl.store(to_indices + at, index, mask=kept)
    return last


@LibEntry
@triton.jit
def select_kernel(
    x_ptr, values_ptr, indices_ptr, spare_values_ptr, spare_indices_ptr, n_cols, k,
    LARGEST: tl.constexpr, CHUNK: tl.constexpr, SPARE: tl.constexpr,
):  # fmt: skip
    """One row of x [rows, n_cols] a program; values, indices [rows, k] unsorted but equal ones by index; spare [rows, SPARE].

    SPARE is at least CHUNK + k.
    """
    row = tl.program_id(0).to(tl.int64)
    spare_values, spare_indices = spare_values_ptr + row * SPARE, spare_indices_ptr + row * SPARE
    count = 0
    is_bounded = False
    ALL: tl.constexpr = (1 << (x_ptr.dtype.element_ty.primitive_bitwidth if x_ptr.dtype.element_ty != tl.int1 else 8)) - 1
    bound = tl.full((), ALL, tl.uint64 if ALL > 0xFFFFFFFF else tl.uint32)
    lanes = tl.arange(0, CHUNK)
    following = tl.load(x_ptr + row * n_cols + lanes, mask=lanes < n_cols, other=0)
    for first in range(0, n_cols, CHUNK):
        cols = first + lanes
        x = following
        # The next chunk is on its way while this one is looked at.
        following = tl.load(x_ptr + row * n_cols + CHUNK + cols, mask=CHUNK + cols < n_cols, other=0)
        key = ordered(x, LARGEST)
        # With k candidates in hand, one that equals the last of them comes too late.
        taken = (cols < n_cols) & ((key < bound) | (is_bounded == 0))
        n_taken = tl.sum(taken.to(tl.int32), 0)
        if n_taken > 0:
            if count + n_taken > SPARE:
                bound = _cut(spare_values, spare_indices, spare_values, spare_indices, count, k, LARGEST, SPARE)
                count = k
                is_bounded = True
                taken = (cols < n_cols) & (key < bound)
                n_taken = tl.sum(taken.to(tl.int32), 0)
            at = count + tl.cumsum(taken.to(tl.int32), 0) - 1
            tl.debug_barrier()  # the candidates moved by a cut are in place
            tl.store(spare_values + at, x, mask=taken)
            tl.store(spare_indices + at, cols, mask=taken)
            count += n_taken
    _cut(spare_values, spare_indices, values_ptr + row * k, indices_ptr + row * k, count, k, LARGEST, SPARE)
