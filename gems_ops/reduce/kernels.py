"""One reduction kernel in two forms: a short parameter list for the common geometry, a long one for any other.

A tile is [BLOCK_M outputs, BLOCK_N reduced elements]; which of the two has stride 1 decides whether rows or columns
are read coalesced, the code is the same. Each program keeps a whole tile of states and folds it once; STAGES tiles are
on their way at once. A first stage writes states, a second one reads them: EACH is "state" there. Where it is "distance"
the first tile is looked at alone: it says what distances are taken from.

Where a program has one tile, it says ALONE: no loop is left, and all of a tile's loads are on their way before the first
is used. In the loop of one step each waited for the one before it (1000000 x 32 bfloat16, Triton 3.6 for sm_90: amax 384
instructions and 56 registers, alone 176 and 32).
"""

import triton
import triton.language as tl

from gems_ops.reduce.folds import combine, element, finished, fold, moments_of, origin_of, start
from gems_runtime import LibEntry


@triton.jit
def _read(
    x0_ptr, x1_ptr, x2_ptr, base, at, mask, position, parameter,
    CAST: tl.constexpr, ACC: tl.constexpr, EACH: tl.constexpr, HOW: tl.constexpr,
):  # fmt: skip
    """The states of a tile: those of elements, of products with a second tensor, or those that a first stage wrote."""
    # as ATen reduces: first in the type of dtype=, then in the accumulator's
    x = tl.load(x0_ptr + base + at, mask=mask, other=0).to(CAST)
    if EACH == "product":
        x = x.to(ACC) * tl.load(x1_ptr + base + at, mask=mask, other=0).to(ACC)
    x, y, z = element(x, mask, position, parameter, EACH, ACC, HOW)
    if EACH == "state" and x1_ptr is not None:
        y = tl.load(x1_ptr + base + at, mask=mask, other=0).to(y.dtype)
    if EACH == "state" and x2_ptr is not None:
        z = tl.load(x2_ptr + base + at, mask=mask, other=0)
    return x, y, z


@triton.jit
def _write(out0_ptr, out1_ptr, out2_ptr, base, at, mask, a, b, c, parameter, FINISH: tl.constexpr):
    """Results, or the states for a second stage, where there are places for them."""
    a, b = finished(a, b, c, parameter, FINISH)
    if out0_ptr is not None:
        tl.store(out0_ptr + base + at, a, mask=mask)
    if out1_ptr is not None:
        tl.store(out1_ptr + base + at, b, mask=mask)
    if out2_ptr is not None:
        tl.store(out2_ptr + base + at, c, mask=mask)


@triton.jit
def _count(first, last, n, BLOCK_N: tl.constexpr):
    """How many elements the steps from `first` to `last` have, a step out of every cdiv(n, BLOCK_N) being shorter."""
    steps_n = tl.cdiv(n, BLOCK_N)
    shorter = last // steps_n - first // steps_n
    return (last - first - shorter).to(tl.int64) * BLOCK_N + shorter.to(tl.int64) * (n - (steps_n - 1) * BLOCK_N)


@triton.jit
def _first_distances(
    ptr, x_cols, in_cols, first, n, x_stride_n, CAST: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The origin of distances, [BLOCK_M, 1], and the distances of the tile at element `first` from it with their squares."""
    i = first + tl.arange(0, BLOCK_N)[None, :]
    mask = in_cols & (i < n)
    x = tl.load(ptr + x_cols + i * x_stride_n, mask=mask, other=0).to(CAST).to(ACC)
    pivot = tl.load(ptr + x_cols + first * x_stride_n, mask=in_cols, other=0).to(CAST).to(ACC)
    origin = origin_of(x, mask, pivot, tl.minimum(n - first, BLOCK_N).to(ACC))
    x = tl.where(mask, x - origin, 0)
    return origin, x, x * x


@triton.jit
def _folded(a, b, c, origin, count, HOW: tl.constexpr):
    """`fold`, and what distances from an origin [BLOCK_M, 1] come to."""
    a, b, c = fold(a, b, c, HOW)
    if HOW == "distances":
        a, b, c = moments_of(a, b, tl.sum(origin, 1), tl.zeros_like(a) + count.to(a.dtype))
    return a, b, c


@LibEntry
@triton.jit
def _reduce_kernel(
    x0_ptr, x1_ptr, x2_ptr, out0_ptr, out1_ptr, out2_ptr,
    n_cols, x_stride_col, out_stride_col,
    x_stride_batch, out_stride_batch, out_stride_split,
    n, x_stride_n, steps_per_split, parameter,
    CAST: tl.constexpr, ACC: tl.constexpr, EACH: tl.constexpr, HOW: tl.constexpr, FINISH: tl.constexpr, WIDE: tl.constexpr,
    ALONE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Outputs are (batch, col), one dimension is reduced. Grid: (batches * blocks of columns, splits)."""
    col_blocks = tl.cdiv(n_cols, BLOCK_M)
    batch = (tl.program_id(0) // col_blocks).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    col = (tl.program_id(0) % col_blocks).to(index) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_cols = (col < n_cols)[:, None]
    x_cols = (col * x_stride_col)[:, None]
    first = split.to(index) * steps_per_split
    last = first + 1 if ALONE else tl.minimum(first + steps_per_split, tl.cdiv(n, BLOCK_N))
    lane = tl.arange(0, BLOCK_N)[None, :]
    a, b, c = start(BLOCK_M, BLOCK_N, ACC, index, HOW)
    word, count = parameter, 0
    if EACH == "distance":
        word, a, b = _first_distances(
            x0_ptr + batch * x_stride_batch, x_cols, in_cols, first * BLOCK_N, n, x_stride_n, CAST, ACC, BLOCK_N
        )
        count = _count(first, last, n, BLOCK_N)
        first += 1
    for step in tl.range(first, last, num_stages=STAGES):
        i = step * BLOCK_N + lane
        x, y, z = _read(
            x0_ptr, x1_ptr, x2_ptr, batch * x_stride_batch, x_cols + i * x_stride_n, in_cols & (i < n), i, word,
            CAST, ACC, EACH, HOW,
        )  # fmt: skip
        a, b, c = combine(a, b, c, x, y, z, HOW)
    a, b, c = _folded(a, b, c, word, count, HOW)
    base = batch * out_stride_batch + split * out_stride_split
    _write(out0_ptr, out1_ptr, out2_ptr, base, col * out_stride_col, col < n_cols, a, b, c, parameter, FINISH)


@triton.jit
def _outer(i, r1, r2, x_r0, x_r1, x_r2, OUTER: tl.constexpr):
    """Where the i-th element of the OUTER dimensions begins. A step waits for every division, so there is none for one."""
    if OUTER == 0:
        return tl.full((), 0, tl.int32)
    elif OUTER == 1:
        return i * x_r2
    elif OUTER == 2:
        return (i // r2) * x_r1 + (i % r2) * x_r2
    else:
        return (i // (r2 * r1)) * x_r0 + (i // r2 % r1) * x_r1 + (i % r2) * x_r2


@LibEntry
@triton.jit
def _reduce_strided_kernel(
    x0_ptr, x1_ptr, x2_ptr, out0_ptr, out1_ptr, out2_ptr,
    n_cols, x_stride_col, out_stride_col, out_stride_split,
    b1, b2, b3,
    x_b0, x_b1, x_b2, x_b3, out_b0, out_b1, out_b2, out_b3,
    n, x_stride_n, steps, steps_n, r1, r2, x_r0, x_r1, x_r2, steps_per_split, parameter,
    CAST: tl.constexpr, ACC: tl.constexpr, EACH: tl.constexpr, HOW: tl.constexpr, FINISH: tl.constexpr, WIDE: tl.constexpr,
    OUTER: tl.constexpr, ALONE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """As `_reduce_kernel`, for up to four batch dimensions and three more reduced ones around n."""
    col_blocks = tl.cdiv(n_cols, BLOCK_M)
    batch = tl.program_id(0) // col_blocks
    split = tl.program_id(1).to(tl.int64)
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    col = (tl.program_id(0) % col_blocks).to(index) * BLOCK_M + tl.arange(0, BLOCK_M)
    i3 = (batch % b3).to(tl.int64)
    i2 = (batch // b3 % b2).to(tl.int64)
    i1 = (batch // (b3 * b2) % b1).to(tl.int64)
    i0 = (batch // (b3 * b2 * b1)).to(tl.int64)
    x_batch = i0 * x_b0 + i1 * x_b1 + i2 * x_b2 + i3 * x_b3
    in_cols = (col < n_cols)[:, None]
    x_cols = (col * x_stride_col)[:, None]
    first = split.to(index) * steps_per_split
    last = first + 1 if ALONE else tl.minimum(first + steps_per_split, steps)
    lane = tl.arange(0, BLOCK_N)[None, :]
    a, b, c = start(BLOCK_M, BLOCK_N, ACC, index, HOW)
    word, count = parameter, 0
    if EACH == "distance":
        base = x_batch + _outer(first // steps_n, r1, r2, x_r0, x_r1, x_r2, OUTER)
        at = first % steps_n * BLOCK_N
        word, a, b = _first_distances(x0_ptr + base, x_cols, in_cols, at, n, x_stride_n, CAST, ACC, BLOCK_N)
        count = _count(first, last, n, BLOCK_N)
        first += 1
    for step in tl.range(first, last, num_stages=STAGES):
        base = x_batch + _outer(step // steps_n, r1, r2, x_r0, x_r1, x_r2, OUTER)
        # a position too: those who ask for positions reduce one dimension
        i = step % steps_n * BLOCK_N + lane
        x, y, z = _read(
            x0_ptr, x1_ptr, x2_ptr, base, x_cols + i * x_stride_n, in_cols & (i < n), i, word, CAST, ACC, EACH, HOW
        )
        a, b, c = combine(a, b, c, x, y, z, HOW)
    a, b, c = _folded(a, b, c, word, count, HOW)
    base = i0 * out_b0 + i1 * out_b1 + i2 * out_b2 + i3 * out_b3 + split * out_stride_split
    _write(out0_ptr, out1_ptr, out2_ptr, base, col * out_stride_col, col < n_cols, a, b, c, parameter, FINISH)
