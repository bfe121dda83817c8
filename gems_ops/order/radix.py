"""A stable sort of the rows of a matrix: short ones in registers, others by four bits a pass within one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.order.bitonic import LONGEST, plan_short_rows
from gems_ops.order.keys import digit_of, digit_ranks, digit_starts
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry

WHOLE = 4096  # the longest row


@LibEntry
@triton.jit
def _radix_kernel(
    x_ptr, from_ptr, values_ptr, indices_ptr, spare_values_ptr, spare_indices_ptr, n_cols, passes,
    DESCENDING: tl.constexpr, FROM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of [rows, n_cols] a program, to values and indices. FROM: indices are those of from_ptr."""
    row = tl.program_id(0).to(tl.int64) * n_cols
    cols = tl.arange(0, BLOCK)
    ok = cols < n_cols
    x = tl.load(x_ptr + row + cols, mask=ok, other=0)
    index = tl.load(from_ptr + row + cols, mask=ok, other=0).to(tl.int32) if FROM else cols
    for step in range(passes):
        digit = digit_of(x, step * 4, DESCENDING)
        rank, n_0, n_1, n_2, n_3 = digit_ranks(digit, ok)
        at = row + rank + digit_starts(digit, n_0, n_1, n_2, n_3)
        if step < passes - 1:
            tl.debug_barrier()  # what the pass before wrote here has been read
            tl.store(spare_values_ptr + at, x, mask=ok)
            tl.store(spare_indices_ptr + at, index, mask=ok)
            tl.debug_barrier()
            x = tl.load(spare_values_ptr + row + cols, mask=ok, other=0)
            index = tl.load(spare_indices_ptr + row + cols, mask=ok, other=0)
        else:
            tl.store(values_ptr + at, x, mask=ok)
            tl.store(indices_ptr + at, index.to(tl.int64), mask=ok)


def is_short(n_cols: int, dtype: torch.dtype) -> bool:
    """True if rows are sorted in registers, faster than ATen sorts them."""
    return n_cols <= LONGEST and dtype.itemsize <= 4


def plan_sorted_rows(
    plan: Plan, x: Code, like: Tensor, shape: tuple[int, int], n_kept: int, descending: bool, values: Code, indices: Code,
    index: Code | None = None,
) -> None:  # fmt: skip
    """Add the launch that sorts x of this shape, dense, of at most WHOLE columns, into values and int64 indices.

    x has the dtype and device of `like`. `index`, of x's shape, numbers the elements otherwise than by column. Short rows
    may be cut: values and indices then are [rows, n_kept].
    """
    n_rows, n_cols = shape
    if is_short(n_cols, like.dtype):
        plan_short_rows(plan, x, shape, n_kept, descending, values, indices, index)
        return
    if n_kept != n_cols or n_cols > WHOLE:
        raise ValueError(f"rows of {n_cols} cut to {n_kept}: at most {WHOLE} are sorted, and only short rows are cut")
    block = max(triton.next_power_of_2(n_cols), 16)
    between = plan.empty("between", shape, like.dtype, like.device), plan.empty("places", shape, torch.int32, like.device)
    plan.launch(
        _radix_kernel, (n_rows,),
        x, x if index is None else index, values, indices, *between, n_cols, 2 * like.dtype.itemsize,
        descending, index is not None, block, num_warps=min(max(block // 256, 1), 8),
    )  # fmt: skip
