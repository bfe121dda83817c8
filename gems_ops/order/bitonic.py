"""Short rows sorted in registers: each value's order and its column in one integer, so that no two are equal."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.order.keys import ordered
from gems_runtime import LibEntry

# The longest row. Of 8192 rows of float32 on an H200 (2026-11-22): 256 long 0.041 ms, ATen 0.204; 1024 long 0.218, ATen
# 0.298; 2048 long 0.89, ATen 0.52.
LONGEST = 1024


@LibEntry
@triton.jit
def bitonic_kernel(
    x_ptr, from_ptr, values_ptr, indices_ptr, n_cols, n_kept,
    DESCENDING: tl.constexpr, FROM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row a program. The first n_kept of it go to values and indices [rows, n_kept]; FROM: indices are those of from_ptr."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n_cols + cols, mask=cols < n_cols, other=0)
    # What is past the end comes last: its order is the greatest, its column greater than those of nans.
    key = tl.where(cols < n_cols, ordered(x, DESCENDING), 0xFFFFFFFF)
    if x.dtype.primitive_bitwidth <= 16:
        sorted_16 = tl.sort(((key & 0xFFFF) << 16) | cols.to(tl.uint32))
        column = (sorted_16 & 0xFFFF).to(tl.int32)
    else:
        # The signed order of these is the unsigned one of the keys.
        packed = ((key ^ 0x80000000).to(tl.int32, bitcast=True).to(tl.int64) << 32) | cols
        column = (tl.sort(packed) & 0xFFFF).to(tl.int32)
    kept = cols < n_kept
    tl.store(values_ptr + row * n_kept + cols, tl.load(x_ptr + row * n_cols + column, mask=kept, other=0), mask=kept)
    index = tl.load(from_ptr + row * n_cols + column, mask=kept, other=0) if FROM else column
    tl.store(indices_ptr + row * n_kept + cols, index.to(tl.int64), mask=kept)
