"""One reduction kernel in two forms: a short parameter list for the common geometry, a long one for any other.

A tile is [BLOCK_M outputs, BLOCK_N reduced elements]; which of the two has stride 1 decides whether rows or columns
are read coalesced, the code is the same. Each program keeps a whole tile of accumulators and folds it once.
"""

import triton
import triton.language as tl

from gems_runtime import LibEntry


@triton.jit
def _identity(ACC: tl.constexpr, HOW: tl.constexpr):
    """What changes no result: 0 for sums, the lowest value for maxima."""
    if HOW != "max":
        return 0
    elif ACC.is_floating():
        return float("-inf")
    elif ACC == tl.int32:
        return -(2**31)
    else:
        return -(2**63)


@triton.jit
def _combine(acc, x, HOW: tl.constexpr):
    """Element by element; a maximum carries NaN through."""
    if HOW == "max":
        return tl.maximum(acc, x, propagate_nan=tl.PropagateNan.ALL)
    else:
        return acc + x


@triton.jit
def _fold(acc, divisor, HOW: tl.constexpr):
    """[BLOCK_M, BLOCK_N] to [BLOCK_M]."""
    if HOW == "max":
        result = tl.max(acc, 1)
        if acc.dtype.is_floating():
            # tl.max drops NaN
            has_nan = tl.max((acc != acc).to(tl.int32), 1)
            result = tl.where(has_nan > 0, float("nan"), result)
        return result
    elif HOW == "mean":
        return tl.sum(acc, 1) / divisor
    else:
        return tl.sum(acc, 1)


@triton.jit
def _load(ptrs, mask, CAST: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr):
    """Elements as ATen reduces them: first in the type of dtype=, then in the accumulator's."""
    x = tl.load(ptrs, mask=mask, other=0).to(CAST).to(ACC)
    if HOW == "max":
        x = tl.where(mask, x, tl.full((), _identity(ACC, HOW), ACC))
    return x


@LibEntry
@triton.jit
def _reduce_kernel(
    x_ptr, out_ptr,
    n_cols, x_stride_col, out_stride_col,
    x_stride_batch, out_stride_batch, out_stride_split,
    n, x_stride_n, steps_per_split, divisor,
    CAST: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Outputs are (batch, col), one dimension is reduced. Grid: (batches * blocks of columns, splits)."""
    col_blocks = tl.cdiv(n_cols, BLOCK_M)
    batch = (tl.program_id(0) // col_blocks).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    col = (tl.program_id(0) % col_blocks).to(index) * BLOCK_M + tl.arange(0, BLOCK_M)
    x_rows = x_ptr + batch * x_stride_batch + (col * x_stride_col)[:, None]
    in_cols = (col < n_cols)[:, None]
    acc = tl.full((BLOCK_M, BLOCK_N), _identity(ACC, HOW), ACC)
    first = split.to(index) * steps_per_split
    last = tl.minimum(first + steps_per_split, tl.cdiv(n, BLOCK_N))
    for step in range(first, last):
        i = (step * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
        acc = _combine(acc, _load(x_rows + i * x_stride_n, in_cols & (i < n), CAST, ACC, HOW), HOW)
    result = _fold(acc, divisor, HOW)
    out = out_ptr + batch * out_stride_batch + split * out_stride_split + col * out_stride_col
    tl.store(out, result, mask=col < n_cols)


@LibEntry
@triton.jit
def _reduce_strided_kernel(
    x_ptr, out_ptr,
    n_cols, x_stride_col, out_stride_col, out_stride_split,
    b1, b2, b3,
    x_b0, x_b1, x_b2, x_b3, out_b0, out_b1, out_b2, out_b3,
    n, x_stride_n, r0, r1, r2, x_r0, x_r1, x_r2, steps_per_split, divisor,
    CAST: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """As `_reduce_kernel`, for up to four batch dimensions and three more reduced ones around n."""
    col_blocks = tl.cdiv(n_cols, BLOCK_M)
    batch = (tl.program_id(0) // col_blocks).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    col = (tl.program_id(0) % col_blocks).to(index) * BLOCK_M + tl.arange(0, BLOCK_M)
    i3 = batch % b3
    i2 = batch // b3 % b2
    i1 = batch // (b3 * b2) % b1
    i0 = batch // (b3 * b2 * b1)
    x_rows = x_ptr + i0 * x_b0 + i1 * x_b1 + i2 * x_b2 + i3 * x_b3 + (col * x_stride_col)[:, None]
    in_cols = (col < n_cols)[:, None]
    acc = tl.full((BLOCK_M, BLOCK_N), _identity(ACC, HOW), ACC)
    steps_n = tl.cdiv(n, BLOCK_N)
    first = split * steps_per_split
    last = tl.minimum(first + steps_per_split, steps_n * r0 * r1 * r2)
    for step in range(first, last):
        outer = step // steps_n
        base = (outer // (r2 * r1)) * x_r0 + (outer // r2 % r1) * x_r1 + (outer % r2) * x_r2
        i = ((step % steps_n).to(index) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
        acc = _combine(acc, _load(x_rows + base + i * x_stride_n, in_cols & (i < n), CAST, ACC, HOW), HOW)
    result = _fold(acc, divisor, HOW)
    out = out_ptr + i0 * out_b0 + i1 * out_b1 + i2 * out_b2 + i3 * out_b3 + split * out_stride_split + col * out_stride_col
    tl.store(out, result, mask=col < n_cols)
