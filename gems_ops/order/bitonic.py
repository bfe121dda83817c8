"""Short rows sorted in registers: each value's order and its column in one integer, so that no two are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import prod

import triton
import triton.language as tl

from gems_ops.layout import single_stride
from gems_ops.op import Declined
from gems_ops.order.keys import ordered, packed
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry, device

# The longest row. Of 8192 rows of float32 on an H200 (2026-11-22): 256 long 0.041 ms, ATen 0.204; 1024 long 0.218, ATen
# 0.298; 2048 long 0.89, ATen 0.52.
LONGEST = 1024


_TILE = 256  # elements of a program whose rows are shorter
_MOST_ROWS = 1 << 30  # that 32 bits number, with those of a block that do not exist
# Elements of a tensor whose lines are read where they lie, though theirs lie apart: a copy is a launch more, but 512 x 8192 along dim 0 took
# 240 us so and 190 with copies, in bfloat16 205 and 146 (H100, 2026-11-27).
_MOST_APART = 1 << 18
# Of a thread: what 1024 elements of 32 bits need; left alone, ptxas takes 195, of which three warps fewer fit (Triton 3.6, sm_90).
_REGISTERS = 152
_INTERPRETER_TILE = 1 << 14  # the interpreter pays per program, not per element


@triton.jit
def sorted_columns(x, cols, n_cols, DESCENDING: tl.constexpr):
    """The columns [R, N] that the elements of rows x stand in, in the order of a stable sort; those past the end come last."""
    # The order of what is past the end is the greatest, and its column greater than those of nans.
    key = tl.where(cols < n_cols, ordered(x, DESCENDING), 0xFFFFFFFF)
    return (tl.sort(packed(key, cols, x.dtype.primitive_bitwidth)) & 0xFFFF).to(tl.int32)


@triton.jit
def line_offsets(row, n_inner, stride_outer, stride_inner):
    """Where lines number `row` begin. Divided in 32 bits: a division in 64 is a hundred instructions."""
    return (row // n_inner).to(tl.int64) * stride_outer + (row % n_inner).to(tl.int64) * stride_inner


@dataclass(frozen=True)
class Lines:
    """How the rows along one dimension lie in memory: counted as (outer, inner), a stride of each, and one of the columns."""

    n_inner: int
    outer: int
    inner: int
    column: int


def lines_of(shape: Sequence[int], strides: Sequence[int], dim: int) -> Lines | None:
    """The lines along dim of a tensor; None where no single stride walks the dimensions on one of its sides, or a copy pays."""
    if not shape:
        return dense_lines(1)
    dim %= len(shape)
    if strides[dim] != 1 and prod(shape) > _MOST_APART:
        return None
    outer, inner = (single_stride(shape[d], strides[d]) for d in (slice(dim), slice(dim + 1, None)))
    return None if outer is None or inner is None else Lines(prod(shape[dim + 1 :]), outer, inner, strides[dim])


def dense_lines(n_cols: int) -> Lines:
    """The lines of a dense matrix."""
    return Lines(1, n_cols, 0, 1)


@LibEntry
@triton.jit
def _bitonic_kernel(
    x_ptr, from_ptr, values_ptr, indices_ptr, n_rows, n_cols, n_kept, n_inner,
    x_stride_outer, x_stride_inner, x_stride_col, to_stride_outer, to_stride_inner, to_stride_col,
    DESCENDING: tl.constexpr, FROM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Lines of x to lines of values and indices, which lie alike; from, where it is read, lies as x."""
    rows = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    cols = tl.arange(0, BLOCK_N)[None, :]
    ok = (rows < n_rows) & (cols < n_cols)
    first = line_offsets(rows, n_inner, x_stride_outer, x_stride_inner)
    x = tl.load(x_ptr + first + cols * x_stride_col, mask=ok, other=0)
    column = sorted_columns(x, cols, n_cols, DESCENDING)
    kept = (rows < n_rows) & (cols < n_kept)
    from_column = first + column * x_stride_col
    to = line_offsets(rows, n_inner, to_stride_outer, to_stride_inner) + cols.to(tl.int64) * to_stride_col
    tl.store(values_ptr + to, tl.load(x_ptr + from_column, mask=kept, other=0), mask=kept)
    index = tl.load(from_ptr + from_column, mask=kept, other=0) if FROM else column
    tl.store(indices_ptr + to, index.to(tl.int64), mask=kept)


def short_row_tile(n_rows: int, n_cols: int) -> tuple[int, int]:
    """(rows, columns) of a program that sorts rows in registers, with one warp."""
    if n_rows > _MOST_ROWS:
        raise Declined(f"{n_rows} rows")
    block = triton.next_power_of_2(n_cols)
    tile = _INTERPRETER_TILE if device.interpreted() else _TILE
    return min(max(tile // block, 1), triton.next_power_of_2(n_rows)), block


def sort_options() -> dict[str, int]:
    """Of a launch that sorts rows in registers."""
    return {"num_warps": 1} | ({"maxnreg": _REGISTERS} if device.identity().vendor == "nvidia" else {})


def plan_short_rows(
    plan: Plan, x: Code, shape: tuple[int, int], n_kept: int, descending: bool, values: Code, indices: Code,
    index: Code | None = None, lines: Lines | None = None, to: Lines | None = None,
) -> None:  # fmt: skip
    """Add the launch that sorts x, rows of this shape, and writes the first n_kept of each to values and indices.

    All are dense matrices, unless it is said how the lines of x and those of both results lie.
    """
    n_rows, n_cols = shape
    block_rows, block = short_row_tile(n_rows, n_cols)
    plan.launch(
        _bitonic_kernel, (triton.cdiv(n_rows, block_rows),),
        x, x if index is None else index, values, indices, n_rows, n_cols, n_kept,
        *astuple(lines or dense_lines(n_cols)), *astuple(to or dense_lines(n_kept))[1:],
        descending, index is not None, block_rows, block, **sort_options(),
    )  # fmt: skip
