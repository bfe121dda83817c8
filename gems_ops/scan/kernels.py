"""Two kernels: the states of parts of long rows, and the scan of a part from the states of those before it.

A tile is [BLOCK_R rows, BLOCK_N elements along them]; neighbours in memory may be elements of a row or rows. A program
walks along its part of its rows and carries one state for each.
"""

import triton
import triton.language as tl

from gems_ops.reduce.folds import finished
from gems_ops.scan.steps import column, combine, element, identity, log_sums, scanned, total
from gems_runtime import LibEntry

# How far below the largest element the logarithms of sums may begin: they are then rounded as numbers of this size are.
NEAR = tl.constexpr(10.0)


@triton.jit
def _first_elements(ptr, rows, inner, stride_outer, stride_inner):
    """Pointers [R, 1] to the first elements of rows, which are counted as (outer, inner)."""
    return ptr + (rows // inner * stride_outer + rows % inner * stride_inner)[:, None]


@LibEntry
@triton.jit
def _part_kernel(
    x_ptr, a_ptr, b_ptr, n_rows, n, inner, x_outer, x_inner, x_stride, part,
    CAST: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr, WIDE: tl.constexpr,
    ALONE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """States of whole parts, [parts, rows]. Grid: (blocks of rows, parts); the last part is not asked for."""
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    in_rows = (rows < n_rows)[:, None]
    x_rows = _first_elements(x_ptr, rows, inner, x_outer, x_inner)
    lane = tl.arange(0, BLOCK_N)[None, :]
    first = tl.program_id(1).to(index) * part
    a, b = element(tl.zeros((BLOCK_R, BLOCK_N), ACC), lane < 0, first + lane, ACC, HOW)
    for tile in tl.range(0, 1 if ALONE else part // BLOCK_N, num_stages=STAGES):
        i = first + tile * BLOCK_N + lane
        x, y = element(tl.load(x_rows + i * x_stride, mask=in_rows, other=0).to(CAST), in_rows, i, ACC, HOW)
        a, b = combine(a, b, x, y, HOW)
    a, b = total(a, b, HOW)
    at = tl.program_id(1).to(tl.int64) * n_rows + rows[:, None]
    tl.store(a_ptr + at, a, mask=in_rows)
    if b_ptr is not None:
        tl.store(b_ptr + at, b, mask=in_rows)


@triton.jit
def _before(
    a_ptr, b_ptr, rows, n_rows, last, ACC: tl.constexpr, HOW: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The states [R, 1] of all parts before part `last`: identities for the first part."""
    part = tl.arange(0, BLOCK_P)[None, :]
    ok = (rows < n_rows)[:, None] & (part < last)
    at = part.to(tl.int64) * n_rows + rows[:, None]
    x = tl.zeros((BLOCK_R, BLOCK_P), ACC)
    if a_ptr is not None:
        x = tl.load(a_ptr + at, mask=ok, other=0)
    x, y = element(x, ok, tl.zeros((1, BLOCK_P), INDEX), ACC, HOW)
    if b_ptr is not None:
        y = tl.load(b_ptr + at, mask=ok, other=0).to(y.dtype)
    return total(x, y, HOW)


@LibEntry
@triton.jit
def _scan_kernel(
    x_ptr, a_ptr, b_ptr, out_ptr, position_ptr, n_rows, n, inner, x_outer, x_inner, x_stride,
    out_outer, out_inner, out_stride, part,
    CAST: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr, FINISH: tl.constexpr, WIDE: tl.constexpr,
    WHOLE: tl.constexpr, ALONE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of rows, parts). WHOLE: a tile covers its rows, nothing is carried. STAGES tiles are loaded at once.

    The last part comes first: the cache still has what `_part_kernel` read last. ALONE: parts are of one tile.
    """
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    in_rows = (rows < n_rows)[:, None]
    x_rows = _first_elements(x_ptr, rows, inner, x_outer, x_inner)
    out_rows = _first_elements(out_ptr, rows, inner, out_outer, out_inner)
    lane = tl.arange(0, BLOCK_N)[None, :]
    mine = tl.num_programs(1) - 1 - tl.program_id(1)
    first = mine.to(index) * part
    if ALONE:
        # on its way while the states are combined
        i = first + lane
        ahead = tl.load(x_rows + i * x_stride, mask=in_rows & (i < n), other=0, eviction_policy="evict_first")
    if not WHOLE:
        a, b = _before(a_ptr, b_ptr, rows, n_rows, mine, ACC, HOW, index, BLOCK_R, BLOCK_P)
    elif HOW == "logsum":
        a, b = element(tl.zeros((BLOCK_R, 1), ACC), rows[:, None] < 0, first, ACC, HOW)
    last = 1 if ALONE else first + BLOCK_N if WHOLE else tl.minimum(first + part, n)
    # of 0 and 1 nothing is left of the loop
    for start in tl.range(0 if ALONE else first, last, BLOCK_N, num_stages=STAGES):
        if ALONE:
            start = first
        i = start + lane
        ok = in_rows & (i < n)
        if ALONE:
            x = ahead.to(CAST)
        else:
            x = tl.load(x_rows + i * x_stride, mask=ok, other=0, eviction_policy="evict_first" if BLOCK_P > 1 else "").to(CAST)
        x, y = element(x, ok, i, ACC, HOW)
        if HOW == "logsum":
            lead = tl.load(x_rows + start * x_stride, mask=in_rows, other=0).to(CAST).to(ACC)
            x, y = log_sums(x, y, lead, a, b, in_rows, NEAR)
        else:
            x, y = scanned(x, y, HOW)
            if not WHOLE:
                x, y = combine(a, b, x, y, HOW)
        if not WHOLE and not ALONE:
            a = column(x, lane == BLOCK_N - 1)
            if len(y.shape) == 2:
                b = column(y, lane == BLOCK_N - 1)
        result, position = finished(x, y, 0, 0, FINISH)
        tl.store(out_rows + i * out_stride, result, mask=ok)
        if position_ptr is not None:
            position_rows = _first_elements(position_ptr, rows, inner, out_outer, out_inner)
            tl.store(position_rows + i * out_stride, position, mask=ok)
