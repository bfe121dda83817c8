"""softmax and log_softmax: rows in the registers of one program or of several that meet, else an online pass over them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.op import DOUBLES, Declined, Sample, op
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.rows.access import row_offsets, widen, widen_again
from gems_ops.rows.meeting import Share, Shares, held, meet, meeting, places, plan_meeting, publish, published, take_place
from gems_ops.rows.tiling import most_warps, read_rows, rows_of, tiling, write_rows
from gems_runtime import LibEntry

_MOST = 32768  # elements of a tile: 64 for each of 512 threads
# Of longer rows: 32 elements for each thread, 64 of 16 bits; across memory 64 of both, of which one multiprocessor holds two
# programs. 389 us and 559 with two reads (1024 x 131072, float32), 243 and 300 along dim 0 (8192 x 8192; H100, 2026-11-27).
_HALF_SHARES = Shares((Share(16384, 8, 4), Share(32768, 16, 2)), (Share(16384, 8, 3), Share(32768, 16, 1)))
_SHARES = Shares((Share(8192, 8, 4), Share(16384, 16, 2)), (Share(16384, 16, 2),))


@triton.jit
def _normalised(x, high, total, LOG: tl.constexpr):
    """The result for x [R, N] in rows of maximum `high` and sum `total` of exp(x - high), both [R]."""
    if LOG:
        return x - high[:, None] - tl.log(total)[:, None]
    else:
        return tl.exp(x - high[:, None]) / total[:, None]


@LibEntry
@triton.jit
def _whole_softmax_kernel(
    x_ptr,
    y_ptr,
    n_rows,
    n_cols,
    inner,
    x_outer,
    x_inner,
    x_col,
    y_outer,
    y_inner,
    y_col,
    LOG: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # int64: row * stride passes 2**31
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = tl.arange(0, BLOCK_N).to(tl.int64)
    ok = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x_at = row_offsets(rows, inner, x_outer, x_inner)[:, None] + cols[None, :] * x_col
    x = widen(tl.load(x_ptr + x_at, mask=ok, other=float("-inf")))
    # A row of nothing but -inf gives nan, as -inf - -inf is.
    high = tl.max(x, axis=1)
    total = tl.sum(tl.exp(x - high[:, None]), axis=1)
    y_at = row_offsets(rows, inner, y_outer, y_inner)[:, None] + cols[None, :] * y_col
    tl.store(y_ptr + y_at, _normalised(x, high, total, LOG).to(y_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _long_softmax_kernel(
    x_ptr,
    y_ptr,
    high_ptr,
    total_ptr,
    n_rows,
    n_cols,
    chunk,
    inner,
    x_outer,
    x_inner,
    x_col,
    y_outer,
    y_inner,
    y_col,
    LOG: tl.constexpr,
    MEASURE: tl.constexpr,  # find maximum and sum of this program's chunk ...
    WRITE: tl.constexpr,  # ... and write its results; the programs of one row meet in high, total [n_rows, SPLITS]
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    split = tl.program_id(1)
    start = split * chunk
    stop = min(start + chunk, n_cols)
    row_ok = (rows < n_rows)[:, None]
    x_rows = row_offsets(rows, inner, x_outer, x_inner)[:, None]

    if MEASURE:
        DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
        high = tl.full((BLOCK_R,), float("-inf"), dtype=DTYPE)
        total = tl.zeros((BLOCK_R,), dtype=DTYPE)
        for first in range(start, stop, BLOCK_N):
            cols = first + tl.arange(0, BLOCK_N).to(tl.int64)
            ok = row_ok & (cols < stop)[None, :]
            x = widen(tl.load(x_ptr + x_rows + cols[None, :] * x_col, mask=ok, other=float("-inf")))
            higher = tl.maximum(high, tl.max(x, axis=1))
            # While only -inf was seen, its exponentials count as 0.
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(high - finite) + tl.sum(tl.exp(x - finite[:, None]), axis=1)
            high = higher
        if not WRITE:
            tl.store(high_ptr + rows * SPLITS + split, high, mask=rows < n_rows)
            tl.store(total_ptr + rows * SPLITS + split, total, mask=rows < n_rows)
    else:
        splits = tl.arange(0, BLOCK_S)
        at = rows[:, None] * SPLITS + splits[None, :]
        split_ok = row_ok & (splits < SPLITS)[None, :]
        highs = tl.load(high_ptr + at, mask=split_ok, other=float("-inf"))
        high = tl.max(highs, axis=1)
        finite = tl.where(high == float("-inf"), 0.0, high)
        totals = tl.load(total_ptr + at, mask=split_ok, other=0.0)
        total = tl.sum(totals * tl.exp(highs - finite[:, None]), axis=1)

    if WRITE:
        y_rows = row_offsets(rows, inner, y_outer, y_inner)[:, None]
        for first in range(start, stop, BLOCK_N):
            cols = first + tl.arange(0, BLOCK_N).to(tl.int64)
            ok = row_ok & (cols < stop)[None, :]
            x = widen(tl.load(x_ptr + x_rows + cols[None, :] * x_col, mask=ok, other=float("-inf")))
            y = _normalised(x, high, total, LOG)
            tl.store(y_ptr + y_rows + cols[None, :] * y_col, y.to(y_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _shared_softmax_kernel(
    x_ptr,
    y_ptr,
    counters_ptr,
    high_ptr,
    total_ptr,
    n_rows,
    n_cols,
    parts,
    inner,
    x_outer,
    x_inner,
    x_col,
    y_outer,
    y_inner,
    y_col,
    LOG: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Rows whose parts are held by programs that meet."""
    group, part = take_place(counters_ptr, parts)
    rows, first, cols, ok = held(group, part, n_rows, n_cols, BLOCK_R, BLOCK_N)
    x_at = places(rows, first, cols, inner, x_outer, x_inner, x_col)
    loaded = tl.load(x_ptr + x_at, mask=ok, other=float("-inf"))  # [BLOCK_R, BLOCK_N]
    part_high = tl.max(widen(loaded), axis=1)
    # In a part of nothing but -inf, exponentials count as 0.
    part_finite = tl.where(part_high == float("-inf"), 0.0, part_high)
    powers = tl.exp(widen_again(loaded) - part_finite[:, None])
    publish(high_ptr, group, part, parts, part_high)
    publish(total_ptr, group, part, parts, tl.sum(powers, axis=1))
    meet(counters_ptr, group, parts, 1)
    highs = published(high_ptr, group, parts, float("-inf"), BLOCK_R, PARTS)
    totals = published(total_ptr, group, parts, 0.0, BLOCK_R, PARTS)
    high = tl.max(highs, axis=1)
    finite = tl.where(high == float("-inf"), 0.0, high)
    total = tl.sum(totals * tl.exp(highs - finite[:, None]), axis=1)
    # This part's maximum is taken from what was published: Triton would compute it twice, in the layouts of both.
    own = tl.max(tl.where((tl.arange(0, PARTS) == part)[None, :], highs, float("-inf")), axis=1)
    x = widen_again(loaded, True) - part_finite[:, None]
    if LOG:
        y = x - (high - tl.where(own == float("-inf"), 0.0, own) + tl.log(total))[:, None]
    else:
        # Exponentials of 32 bits are computed once. A row of nothing but -inf gives 0 / 0.
        y = tl.exp(x) * (tl.exp(own - finite) / total)[:, None]
    y_at = places(rows, first, cols, inner, y_outer, y_inner, y_col)
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=ok)


def _plan(x: Tensor, dim: int, half_to_float: bool, out: Tensor | None, log: bool) -> Planned:
    if half_to_float and x.dtype not in (torch.float16, torch.bfloat16):
        raise Declined(f"half_to_float of {x.dtype}")
    rows = rows_of(x.shape, dim)
    plan = Plan("x", "_dim", "_half_to_float", out=out)
    y, y_strides, result = write_rows(plan, x, torch.float32 if half_to_float else x.dtype, dim, rows)
    x_strides = read_rows(plan, "x", x, dim, rows)
    t = tiling(rows, x_strides, _MOST, most_warps(x.dtype.itemsize))
    sizes, strides = (rows.n_rows, rows.n_cols), (rows.inner, *x_strides, *y_strides)
    shares = _SHARES if x.dtype == torch.float32 else _HALF_SHARES
    m = None if t.whole else meeting(rows, x_strides, x.dtype, shares)
    if m is not None:
        shared = plan_meeting(plan, m, x.device, "high", "total")
        blocks = (log, m.padded_parts, m.block_r, m.block_n)
        plan.launch(
            _shared_softmax_kernel, (m.programs,), Code("x"), y, *shared, *sizes, m.parts, *strides, *blocks, **m.share.options
        )
        return plan.build(result)
    if t.whole:
        grid, blocks = (t.programs,), (log, t.block_r, t.block_n)
        plan.launch(_whole_softmax_kernel, grid, Code("x"), y, *sizes, *strides, *blocks, num_warps=t.num_warps)
        return plan.build(result)
    blocks = (t.splits, triton.next_power_of_2(t.splits), t.block_r, t.block_n)
    high = total = y  # not read by a program that has its rows to itself
    if t.splits > 1:
        precise = torch.float64 if x.dtype == torch.float64 else torch.float32
        high, total = (plan.empty(name, (rows.n_rows, t.splits), precise, x.device) for name in ("high", "total"))
    for measure, write in ((True, True),) if t.splits == 1 else ((True, False), (False, True)):
        plan.launch(
            _long_softmax_kernel, (t.programs, t.splits),
            Code("x"), y, high, total, *sizes, t.chunk, *strides, log, measure, write, *blocks, num_warps=t.num_warps,
        )  # fmt: skip
    return plan.build(result)


def _plan_softmax(x: Tensor, dim: int, half_to_float: bool, out: Tensor | None = None) -> Planned:
    return _plan(x, dim, half_to_float, out, log=False)


def _plan_log_softmax(x: Tensor, dim: int, half_to_float: bool, out: Tensor | None = None) -> Planned:
    return _plan(x, dim, half_to_float, out, log=True)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in samples.SHAPES:
        x = samples.values(shape, dtype)
        for dim in range(-max(len(shape), 1), 0):
            yield Sample((x, dim, False))
    for x in samples.layouts((6, 10), dtype):
        yield Sample((x, 0, False))
        yield Sample((x, 1, False))
    for x in samples.layouts((2, 3, 40), dtype):
        for dim in range(3):
            yield Sample((x, dim, False))
    inf = float("inf")
    extremes = [[1.0, 2.0, -inf], [-inf, -inf, -inf], [inf, 0.0, 1.0], [60000.0, 0.0, 1.0], [float("nan"), 0.0, 1.0]]
    yield Sample((torch.tensor(extremes, dtype=dtype), 1, False))
    # Rows too long for one tile, shared by programs: with a chunk of -inf first; down the columns.
    long = samples.values((2, 40000), dtype)
    long[0, :20000] = float("-inf")
    yield Sample((long, 1, False))
    yield Sample((samples.values((1100, 40), dtype), 0, False))


_BENCH_SHAPES = ((4096, 1024), (4096, 8192), (8192, 32768), (1024, 131072), (1048576, 32))


def _bench(dim: int, shape: tuple[int, ...]) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (workloads.random_like(shape, dtype, device), dim, False), {}

    return workloads.Workload("x".join(map(str, shape)) + f" dim {dim}", make)


_BENCH = (*(_bench(-1, shape) for shape in _BENCH_SHAPES), _bench(0, (8192, 8192)))


@op("aten::_softmax", dtypes=DOUBLES, samples=_samples, plan=_plan_softmax, bench=_BENCH, aliasing=True, wide=True)
def softmax(self: Tensor, dim: int, half_to_float: bool, out: Tensor | None = None) -> Tensor:
    """exp(self) over its sum along dim."""
    return call(_plan_softmax, self, dim, half_to_float, out=out)


@op("aten::_log_softmax", dtypes=DOUBLES, samples=_samples, plan=_plan_log_softmax, bench=_BENCH, aliasing=True, wide=True)
def log_softmax(self: Tensor, dim: int, half_to_float: bool, out: Tensor | None = None) -> Tensor:
    """self minus the logarithm of the sum of exp(self) along dim."""
    return call(_plan_log_softmax, self, dim, half_to_float, out=out)
