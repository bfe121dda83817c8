"""Short rows sorted in registers: each value's order and its column in one integer, so that no two are equal."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.order.keys import ordered, packed
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry, device

# The longest row. Of 8192 rows of float32 on an H200 (2026-11-22): 256 long 0.041 ms, ATen 0.204; 1024 long 0.218, ATen
# 0.298; 2048 long 0.89, ATen 0.52.
LONGEST = 1024


_TILE = 256  # elements of a program whose rows are shorter
_INTERPRETER_TILE = 1 << 14  # the interpreter pays per program, not per element


@triton.jit
def sorted_columns(x, cols, n_cols, DESCENDING: tl.constexpr):
    """The columns [R, N] that the elements of rows x stand in, in the order of a stable sort; those past the end come last."""
    # The order of what is past the end is the greatest, and its column greater than those of nans.
    key = tl.where(cols < n_cols, ordered(x, DESCENDING), 0xFFFFFFFF)
    return (tl.sort(packed(key, cols, x.dtype.primitive_bitwidth)) & 0xFFFF).to(tl.int32)


@LibEntry
@triton.jit
def _bitonic_kernel(
    x_ptr, from_ptr, values_ptr, indices_ptr, n_rows, n_cols, n_kept,
    DESCENDING: tl.constexpr, FROM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # int64: row * n_cols passes 2**31
    rows = (tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    cols = tl.arange(0, BLOCK_N)[None, :]
    ok = (rows < n_rows) & (cols < n_cols)
    x = tl.load(x_ptr + rows * n_cols + cols, mask=ok, other=0)
    column = sorted_columns(x, cols, n_cols, DESCENDING)
    kept = (rows < n_rows) & (cols < n_kept)
    tl.store(values_ptr + rows * n_kept + cols, tl.load(x_ptr + rows * n_cols + column, mask=kept, other=0), mask=kept)
    index = tl.load(from_ptr + rows * n_cols + column, mask=kept, other=0) if FROM else column
    tl.store(indices_ptr + rows * n_kept + cols, index.to(tl.int64), mask=kept)


def short_row_tile(n_rows: int, n_cols: int) -> tuple[int, int]:
    """(rows, columns) of a program that sorts rows in registers, with one warp."""
    block = triton.next_power_of_2(n_cols)
    tile = _INTERPRETER_TILE if device.interpreted() else _TILE
    return min(max(tile // block, 1), triton.next_power_of_2(n_rows)), block


def plan_short_rows(
    plan: Plan, x: Code, shape: tuple[int, int], n_kept: int, descending: bool, values: Code, indices: Code, index: Code | None
) -> None:
    """Add the launch that sorts x of this shape and writes the first n_kept of each row to values and indices [rows, n_kept]."""
    n_rows, n_cols = shape
    block_rows, block = short_row_tile(n_rows, n_cols)
    plan.launch(
        _bitonic_kernel, (triton.cdiv(n_rows, block_rows),),
        x, x if index is None else index, values, indices, n_rows, n_cols, n_kept,
        descending, index is not None, block_rows, block, num_warps=1,
    )  # fmt: skip
