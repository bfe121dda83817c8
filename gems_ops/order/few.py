"""The few first elements of rows that a program holds: found one after the other, each in one look at the row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gems_ops.order.keys import ordered, packed
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry

# 8192 rows of 8192 in float32: k 8 386 us, k 16 691, ATen 950; selecting them, in one reading with candidates kept aside, took
# 1019. With 4 warps 348 us, 8 372, 16 412 (H100, 2026-11-27).
MOST_K, MOST_COLUMNS = 16, 8192


@LibEntry
@triton.jit
def _few_first_kernel(
    x_ptr, values_ptr, indices_ptr, n_cols, k, LARGEST: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr
):
    """One row a program, of at most 2**16 columns."""
    row = tl.program_id(0).to(tl.int64)  # row * n_cols passes 2**31
    cols, places = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    ok = cols < n_cols
    x = tl.load(x_ptr + row * n_cols + cols, mask=ok, other=0)
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    LAST: tl.constexpr = 0xFFFFFFFF if BITS <= 16 else 0x7FFFFFFFFFFFFFFF
    left = tl.where(ok, packed(ordered(x, LARGEST), cols, BITS), LAST)
    found = tl.zeros((BLOCK_K,), tl.int32)
    for place in range(k):
        first = tl.min(left, 0)
        found = tl.where(places == place, (first & 0xFFFF).to(tl.int32), found)
        left = tl.where(left == first, LAST, left)
    kept = places < k
    tl.store(values_ptr + row * k + places, tl.load(x_ptr + row * n_cols + found, mask=kept, other=0), mask=kept)
    tl.store(indices_ptr + row * k + places, found.to(tl.int64), mask=kept)


def are_few(n_cols: int, k: int, dtype: torch.dtype) -> bool:
    """True where k looks at each row are the fastest way."""
    return k <= MOST_K and n_cols <= MOST_COLUMNS and dtype.itemsize <= 4


def plan_few(plan: Plan, x: Code, shape: tuple[int, int], k: int, largest: bool, values: Code, indices: Code) -> None:
    """Add the launch that writes the k first of each row of x, in order, to values and indices [rows, k]."""
    n_rows, n_cols = shape
    block = triton.next_power_of_2(n_cols)
    plan.launch(
        _few_first_kernel, (n_rows,), x, values, indices, n_cols, k, largest, triton.next_power_of_2(k), block,
        num_warps=max(1, block // 2048),
    )  # fmt: skip
