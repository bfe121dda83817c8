"""Gradients of softmax and log_softmax from their outputs: one sum along each row, then a pointwise pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.op import DOUBLES, Declined, Sample, op
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.rows.access import row_offsets, widen, widen_again
from gems_ops.rows.meeting import Share, Shares, held, meet, meeting, places, plan_meeting, publish, published, take_place
from gems_ops.rows.tiling import lie_across, read_rows, rows_of, tiling, write_rows
from gems_runtime import LibEntry

_MOST = 16384  # elements of a tile, of which a program holds two ...
_MOST_HALVES = 32768  # ... and in a row of 16 bits: 142 us and 151 shared (2048 x 32768, bfloat16, H100, 2026-11-27)
# Of longer rows: 2 x 32 elements for each thread. 539 us and 912 with two reads (1024 x 131072, float32), 334 and 469 along
# dim 0 (8192 x 8192; H100, 2026-11-27).
_HALF_SHARES = Shares((Share(16384, 16, 2),), (Share(16384, 16, 2),))
_SHARES = Shares((Share(8192, 8, 3),), (Share(8192, 8, 2),))


@triton.jit
def _term(grad, y, LOG: tl.constexpr):
    """What is summed along a row."""
    if LOG:
        return grad
    else:
        return grad * y


@triton.jit
def _gradient(grad, y, total, LOG: tl.constexpr):
    """The gradient of the input, from the rows' sums of terms, [R]."""
    if LOG:
        return grad - tl.exp(y) * total[:, None]
    else:
        return grad * y - y * total[:, None]


@LibEntry
@triton.jit
def _whole_gradient_kernel(
    grad_ptr,
    y_ptr,
    dx_ptr,
    n_rows,
    n_cols,
    inner,
    grad_outer,
    grad_inner,
    grad_col,
    y_outer,
    y_inner,
    y_col,
    dx_outer,
    dx_inner,
    dx_col,
    LOG: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # int64: row * stride passes 2**31
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = tl.arange(0, BLOCK_N).to(tl.int64)
    ok = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    grad_at = row_offsets(rows, inner, grad_outer, grad_inner)[:, None] + cols[None, :] * grad_col
    y_at = row_offsets(rows, inner, y_outer, y_inner)[:, None] + cols[None, :] * y_col
    grad = widen(tl.load(grad_ptr + grad_at, mask=ok, other=0.0))
    y = widen(tl.load(y_ptr + y_at, mask=ok, other=0.0))
    total = tl.sum(_term(grad, y, LOG), axis=1)
    dx_at = row_offsets(rows, inner, dx_outer, dx_inner)[:, None] + cols[None, :] * dx_col
    tl.store(dx_ptr + dx_at, _gradient(grad, y, total, LOG).to(dx_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _long_gradient_kernel(
    grad_ptr,
    y_ptr,
    dx_ptr,
    total_ptr,
    n_rows,
    n_cols,
    chunk,
    inner,
    grad_outer,
    grad_inner,
    grad_col,
    y_outer,
    y_inner,
    y_col,
    dx_outer,
    dx_inner,
    dx_col,
    LOG: tl.constexpr,
    MEASURE: tl.constexpr,  # sum this program's chunk ...
    WRITE: tl.constexpr,  # ... and write its results; the programs of one row meet in total [n_rows, SPLITS]
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
    grad_rows = row_offsets(rows, inner, grad_outer, grad_inner)[:, None]
    y_rows = row_offsets(rows, inner, y_outer, y_inner)[:, None]

    if MEASURE:
        DTYPE: tl.constexpr = tl.float64 if grad_ptr.dtype.element_ty == tl.float64 else tl.float32
        terms = tl.zeros((BLOCK_R, BLOCK_N), dtype=DTYPE)
        for first in range(start, stop, BLOCK_N):
            cols = first + tl.arange(0, BLOCK_N).to(tl.int64)
            ok = row_ok & (cols < stop)[None, :]
            grad = widen(tl.load(grad_ptr + grad_rows + cols[None, :] * grad_col, mask=ok, other=0.0))
            y = widen(tl.load(y_ptr + y_rows + cols[None, :] * y_col, mask=ok, other=0.0))
            terms += _term(grad, y, LOG)
        total = tl.sum(terms, axis=1)
        if not WRITE:
            tl.store(total_ptr + rows * SPLITS + split, total, mask=rows < n_rows)
    else:
        splits = tl.arange(0, BLOCK_S)
        at = rows[:, None] * SPLITS + splits[None, :]
        split_ok = row_ok & (splits < SPLITS)[None, :]
        total = tl.sum(tl.load(total_ptr + at, mask=split_ok, other=0.0), axis=1)

    if WRITE:
        dx_rows = row_offsets(rows, inner, dx_outer, dx_inner)[:, None]
        for first in range(start, stop, BLOCK_N):
            cols = first + tl.arange(0, BLOCK_N).to(tl.int64)
            ok = row_ok & (cols < stop)[None, :]
            grad = widen(tl.load(grad_ptr + grad_rows + cols[None, :] * grad_col, mask=ok, other=0.0))
            y = widen(tl.load(y_ptr + y_rows + cols[None, :] * y_col, mask=ok, other=0.0))
            dx = _gradient(grad, y, total, LOG)
            tl.store(dx_ptr + dx_rows + cols[None, :] * dx_col, dx.to(dx_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _shared_gradient_kernel(
    grad_ptr,
    y_ptr,
    dx_ptr,
    counters_ptr,
    total_ptr,
    n_rows,
    n_cols,
    parts,
    inner,
    grad_outer,
    grad_inner,
    grad_col,
    y_outer,
    y_inner,
    y_col,
    dx_outer,
    dx_inner,
    dx_col,
    LOG: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Rows whose parts are held by programs that meet."""
    group, part = take_place(counters_ptr, parts)
    rows, first, cols, ok = held(group, part, n_rows, n_cols, BLOCK_R, BLOCK_N)
    grad_at = places(rows, first, cols, inner, grad_outer, grad_inner, grad_col)
    y_at = places(rows, first, cols, inner, y_outer, y_inner, y_col)
    grad = tl.load(grad_ptr + grad_at, mask=ok, other=0.0)  # [BLOCK_R, BLOCK_N]
    y = tl.load(y_ptr + y_at, mask=ok, other=0.0)
    publish(total_ptr, group, part, parts, tl.sum(_term(widen(grad), widen(y), LOG), axis=1))
    meet(counters_ptr, group, parts, 1)
    total = tl.sum(published(total_ptr, group, parts, 0.0, BLOCK_R, PARTS), axis=1)
    dx_at = places(rows, first, cols, inner, dx_outer, dx_inner, dx_col)
    dx = _gradient(widen_again(grad), widen_again(y), total, LOG)
    tl.store(dx_ptr + dx_at, dx.to(dx_ptr.dtype.element_ty), mask=ok)


def _plan(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype, out: Tensor | None, log: bool) -> Planned:
    narrowing = grad.dtype == torch.float32 and input_dtype in (torch.float16, torch.bfloat16)
    if grad.shape != y.shape or grad.dtype != y.dtype or not (grad.dtype == input_dtype or narrowing):
        raise Declined(f"gradient {grad.dtype}, output {y.dtype}, input {input_dtype}")
    rows = rows_of(grad.shape, dim)
    plan = Plan("grad", "output", "_dim", "_input_dtype", out=out)
    dx, dx_strides, result = write_rows(plan, grad, input_dtype, dim, rows)
    grad_strides = read_rows(plan, "grad", grad, dim, rows)
    y_strides = read_rows(plan, "output", y, dim, rows)
    halves = grad.dtype.itemsize == y.dtype.itemsize == 2 and not lie_across(rows, y_strides)
    t = tiling(rows, y_strides, _MOST_HALVES if halves else _MOST)
    tensors, sizes = (Code("grad"), Code("output"), dx), (rows.n_rows, rows.n_cols)
    strides = (rows.inner, *grad_strides, *y_strides, *dx_strides)
    shares = _SHARES if grad.dtype == torch.float32 else _HALF_SHARES
    m = None if t.whole else meeting(rows, y_strides, grad.dtype, shares)
    if m is not None:
        shared = plan_meeting(plan, m, grad.device, "total")
        blocks = (log, m.padded_parts, m.block_r, m.block_n)
        plan.launch(
            _shared_gradient_kernel, (m.programs,), *tensors, *shared, *sizes, m.parts, *strides, *blocks, **m.share.options
        )
        return plan.build(result)
    if t.whole:
        grid, blocks = (t.programs,), (log, t.block_r, t.block_n)
        plan.launch(_whole_gradient_kernel, grid, *tensors, *sizes, *strides, *blocks, num_warps=t.num_warps)
        return plan.build(result)
    blocks = (t.splits, triton.next_power_of_2(t.splits), t.block_r, t.block_n)
    total = dx  # not read by a program that has its rows to itself
    if t.splits > 1:
        precise = torch.float64 if grad.dtype == torch.float64 else torch.float32
        total = plan.empty("total", (rows.n_rows, t.splits), precise, grad.device)
    for measure, write in ((True, True),) if t.splits == 1 else ((True, False), (False, True)):
        plan.launch(
            _long_gradient_kernel, (t.programs, t.splits),
            *tensors, total, *sizes, t.chunk, *strides, log, measure, write, *blocks, num_warps=t.num_warps,
        )  # fmt: skip
    return plan.build(result)


def _plan_softmax(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype, out: Tensor | None = None) -> Planned:
    return _plan(grad, y, dim, input_dtype, out, log=False)


def _plan_log_softmax(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype, out: Tensor | None = None) -> Planned:
    return _plan(grad, y, dim, input_dtype, out, log=True)


def _samples_of(forward: Callable[..., Tensor]) -> Callable[[torch.dtype], Iterator[Sample]]:
    """Gradients and outputs that `forward` gives, in the layouts either may have."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape in samples.SHAPES:
            grad, x = samples.values(shape, dtype), samples.values(shape, dtype, seed=1)
            for dim in range(-max(len(shape), 1), 0):
                yield Sample((grad, forward(x, dim), dim, dtype))
        for grad in samples.layouts((6, 10), dtype):
            for dim in (0, 1):
                y = forward(samples.values((6, 10), dtype, seed=1), dim)
                yield Sample((grad, y, dim, dtype))
                yield Sample((grad, y.t().contiguous().t(), dim, dtype))
        for grad in samples.layouts((2, 3, 40), dtype):
            yield Sample((grad, forward(samples.values((2, 3, 40), dtype, seed=1), 1), 1, dtype))
            yield Sample((grad, forward(samples.values((2, 3, 40), dtype, seed=1), 2), 2, dtype))
        # Rows too long for one tile, shared by programs: along the rows, and down the columns.
        for shape, dim in (((2, 40000), 1), ((600, 40), 0)):
            grad, y = samples.values(shape, dtype), forward(samples.values(shape, dtype, seed=1), dim)
            yield Sample((grad, y, dim, dtype))

    return make


def _bench(dim: int, shape: tuple[int, ...]) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        grad, x = workloads.random_like(shape, dtype, device), workloads.random_like(shape, dtype, device)
        return (grad, x.softmax(dim), dim, dtype), {}

    return workloads.Workload("x".join(map(str, shape)) + f" dim {dim}", make)


_BENCH = (_bench(-1, (4096, 1024)), _bench(-1, (4096, 8192)), _bench(-1, (1024, 131072)), _bench(0, (8192, 8192)))


@op(
    "aten::_softmax_backward_data",
    dtypes=DOUBLES,
    samples=_samples_of(torch.softmax),
    plan=_plan_softmax,
    bench=_BENCH,
    aliasing=True,
    wide=True,
)
def softmax_backward(
    grad_output: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Gradient of softmax's input."""
    return call(_plan_softmax, grad_output, output, dim, input_dtype, out=out)


@op(
    "aten::_log_softmax_backward_data",
    dtypes=DOUBLES,
    samples=_samples_of(torch.log_softmax),
    plan=_plan_log_softmax,
    bench=_BENCH,
    aliasing=True,
    wide=True,
)
def log_softmax_backward(
    grad_output: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Gradient of log_softmax's input."""
    return call(_plan_log_softmax, grad_output, output, dim, input_dtype, out=out)
