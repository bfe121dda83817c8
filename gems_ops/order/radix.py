"""A stable sort of the rows of a matrix: short ones in registers, others by four bits a pass within one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.order.bitonic import LONGEST, sort_short_rows
from gems_ops.order.keys import digit_of, digit_ranks, digit_starts
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


def sort_rows(x: Tensor, descending: bool, values: Tensor, indices: Tensor, index: Tensor | None = None) -> None:
    """Sort x [rows, n_cols], contiguous, of at most WHOLE columns, into values and int64 indices.

    `index` [rows, n_cols] numbers the elements otherwise than by column. Short rows may be cut: values and indices
    then are [rows, n_kept].
    """
    n_rows, n_cols = x.shape
    n_kept = values.numel() // n_rows
    if is_short(n_cols, x.dtype):
        sort_short_rows(x, descending, values, indices, index, n_kept)
        return
    if n_kept != n_cols or n_cols > WHOLE:
        raise ValueError(f"rows of {n_cols} cut to {n_kept}: at most {WHOLE} are sorted, and only short rows are cut")
    block = max(triton.next_power_of_2(n_cols), 16)
    spare_indices = torch.empty((n_rows, n_cols), dtype=torch.int32, device=x.device)
    _radix_kernel[(n_rows,)](
        x, x if index is None else index, values, indices, torch.empty_like(x), spare_indices, n_cols, 2 * x.dtype.itemsize,
        descending, index is not None, block, num_warps=min(max(block // 256, 1), 8),
    )  # fmt: skip
