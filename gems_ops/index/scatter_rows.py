"""embedding_dense_backward: rows of gradients, added up by index in a fixed order, without atomics.

Sorting the indices makes the rows of one index neighbours: a segment. Each program adds up one segment for a block of
columns. Long segments would make a few programs slow, so the sorted rows are also cut into chunks of equal length:
one that lies wholly inside a segment is added up beforehand, by a program of its own, and counts as one row after that.
Few indices are not sorted: each row looks whether it is the first of its index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.create.fill import fill_dense
from gems_ops.index.engine import check_indices
from gems_ops.index.lookup import INDICES
from gems_ops.op import DOUBLES, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.samples import values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

# Rows and columns that a program reads at once. Most runs have a row or two: with 8 x 1024 as for a chunk, whose registers leave room
# for few programs, a run took 427 us instead of 247 (16384 values to rows of 32000 x 4096, float32, H100, 2026-11-27).
RUN_TILE = (2, 2048)
CHUNK_TILE = (8, 1024)
SEARCH_BLOCK = 128
INTERPRETER_FEW = 10  # so that samples with few programs try both ways
FEW = 512  # tokens that are compared each with each instead of sorted, which costs the host 60 us (H200)


@LibEntry
@triton.jit
def _segment_starts_kernel(sorted_ptr, start_ptr, n, n_table, n_steps, BLOCK: tl.constexpr):
    """start[v] = how many sorted indices are below v, for v = 0 ... n_table: a binary search for each."""
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    low = tl.zeros((BLOCK,), tl.int32)
    high = tl.full((BLOCK,), 0, tl.int32) + n
    for _ in range(n_steps):
        middle = low + (high - low) // 2
        below = tl.load(sorted_ptr + middle, mask=low < high, other=0) < v
        low = tl.where((low < high) & below, middle + 1, low)
        high = tl.where((low < high) & ~below, middle, high)
    tl.store(start_ptr + v, low, mask=v <= n_table)


@triton.jit
def _add_rows(acc, row_ptr, order_ptr, first, last, stride_row, col_offset, col_mask, ROWS: tl.constexpr):
    """acc [ROWS, COLUMNS] plus rows order[first:last] (rows first:last without an order)."""
    for i in range(first, last, ROWS):
        position = i + tl.arange(0, ROWS)
        row = position.to(tl.int64)
        if order_ptr is not None:
            row = tl.load(order_ptr + position, mask=position < last, other=0)
        mask = (position < last)[:, None] & col_mask[None, :]
        acc += tl.load(row_ptr + (row * stride_row)[:, None] + col_offset[None, :], mask=mask, other=0).to(acc.dtype)
    return acc


@triton.jit
def run_sum(
    grad_ptr, order_ptr, chunk_ptr, row, first, last, n_cols, grad_stride_row, grad_stride_col, col,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sum [COLUMNS] of rows order[first:last], of which `row` is the first.

    After it come those before the first whole chunk, the chunks, those after the last one.
    """
    offset, in_row = col.to(tl.int64) * grad_stride_col, col < n_cols
    x = tl.load(grad_ptr + row.to(tl.int64) * grad_stride_row + offset, mask=in_row, other=0)
    total = tl.zeros((COLUMNS,), chunk_ptr.dtype.element_ty) + x  # from 0, so that -0 becomes 0
    if last > first + 1:
        acc = tl.zeros((ROWS, COLUMNS), chunk_ptr.dtype.element_ty)
        first_chunk = tl.cdiv(first + 1, CHUNK)
        last_chunk = tl.maximum(last // CHUNK, first_chunk)
        head = tl.minimum(first_chunk * CHUNK, last)
        tail = tl.maximum(last_chunk * CHUNK, head)
        acc = _add_rows(acc, grad_ptr, order_ptr, first + 1, head, grad_stride_row, offset, in_row, ROWS)
        acc = _add_rows(acc, chunk_ptr, None, first_chunk, last_chunk, n_cols, col, in_row, ROWS)
        acc = _add_rows(acc, grad_ptr, order_ptr, tail, last, grad_stride_row, offset, in_row, ROWS)
        total += tl.sum(acc, 0)
    return total


@LibEntry
@triton.jit
def chunk_sums_kernel(
    grad_ptr, sorted_ptr, order_ptr, chunk_ptr, n_cols, grad_stride_row, grad_stride_col, padding_index,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sum of each whole chunk whose rows all have one index. Other chunks are left unwritten: nobody reads them."""
    chunk = tl.program_id(0)
    first = chunk * CHUNK
    index = tl.load(sorted_ptr + first)
    if (index == tl.load(sorted_ptr + first + CHUNK - 1)) & (index != padding_index):
        col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        acc = tl.zeros((ROWS, COLUMNS), chunk_ptr.dtype.element_ty)
        acc = _add_rows(
            acc, grad_ptr, order_ptr, first, first + CHUNK, grad_stride_row, col.to(tl.int64) * grad_stride_col, col < n_cols, ROWS
        )  # fmt: skip
        tl.store(chunk_ptr + chunk.to(tl.int64) * n_cols + col, tl.sum(acc, 0), mask=col < n_cols)


@LibEntry
@triton.jit
def _segment_sums_kernel(
    grad_ptr, start_ptr, order_ptr, chunk_ptr, out_ptr, n_cols, grad_stride_row, grad_stride_col, padding_index,
    BY_FREQUENCY: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row of the result."""
    v = tl.program_id(0)
    first, last = tl.load(start_ptr + v), tl.load(start_ptr + v + 1)
    col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_row = col < n_cols
    out = out_ptr + v.to(tl.int64) * n_cols + col
    if (first == last) | (v == padding_index):
        tl.store(out, tl.zeros((COLUMNS,), out_ptr.dtype.element_ty), mask=in_row)
    else:
        row = tl.load(order_ptr + first)
        total = run_sum(
            grad_ptr, order_ptr, chunk_ptr, row, first, last, n_cols, grad_stride_row, grad_stride_col, col, CHUNK, ROWS, COLUMNS
        )  # fmt: skip
        if BY_FREQUENCY:
            total = total / (last - first)
        tl.store(out, total, mask=in_row)


@LibEntry
@triton.jit(debug=True)
def _few_rows_kernel(
    grad_ptr, index_ptr, out_ptr, n, n_table, n_cols, grad_stride_row, grad_stride_col, padding_index,
    BY_FREQUENCY: tl.constexpr, DOUBLE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The first row of each index adds up all of its rows; the others do nothing. `out` holds zeros."""
    token = tl.program_id(0)
    v = tl.load(index_ptr + token)
    tl.device_assert((v >= 0) & (v < n_table), "embedding_dense_backward: index out of range")
    position = tl.arange(0, TOKENS)
    same = tl.load(index_ptr + position, mask=position < n, other=-1) == v
    first = tl.min(tl.where(same, position, TOKENS), 0)
    if (first == token) & (v != padding_index):
        col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        offset = col.to(tl.int64) * grad_stride_col
        acc = tl.zeros((ROWS, COLUMNS), tl.float64 if DOUBLE else tl.float32)
        for i in range(token, n, ROWS):
            row = i + tl.arange(0, ROWS)
            own = tl.load(index_ptr + row, mask=row < n, other=-1) == v
            if tl.max(own.to(tl.int32), 0) > 0:
                mask = own[:, None] & (col < n_cols)[None, :]
                acc += tl.load(grad_ptr + (row.to(tl.int64) * grad_stride_row)[:, None] + offset[None, :], mask=mask, other=0).to(acc.dtype)
        total = tl.sum(acc, 0)
        if BY_FREQUENCY:
            total = total / tl.sum(same.to(tl.int32), 0)
        tl.store(out_ptr + v.to(tl.int64) * n_cols + col, total, mask=col < n_cols)


def chunk_length(n: int) -> int:
    """A power of two near the root of n: the longest segment then costs about 3 such lengths in sequence."""
    return max(16, 1 << (n.bit_length() // 2))


@dataclass(frozen=True)
class Sums:
    """How sums of n rows are cut: the type they have, the rows of a chunk, the tiles of both kernels."""

    width: int
    dtype: torch.dtype
    chunk: int

    def tile(self, most: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a program, at most so many."""
        return most[0], min(triton.next_power_of_2(self.width), most[1])

    def blocks(self, most: tuple[int, int]) -> int:
        """Programs for the columns of a row."""
        return triton.cdiv(self.width, self.tile(most)[1])

    def warps(self, most: tuple[int, int]) -> int:
        """One for 1024 elements."""
        return max(1, prod(self.tile(most)) // 1024)


def sums_of(like: Tensor, n: int, width: int) -> Sums:
    """How to add up n rows of `width` elements of like's type."""
    return Sums(width, torch.float64 if like.dtype == torch.float64 else torch.float32, chunk_length(n))


def _gradients(dtype: torch.dtype) -> Iterator[Sample]:
    g = torch.Generator().manual_seed(0)
    for shape, n in (((1,), 3), ((9,), 5), ((4, 3), 7)):
        indices = torch.randint(0, n, shape, generator=g)
        yield Sample((values((*shape, 6), dtype), indices, n, -1, False))
    # 40 of 48 rows to one index: whole chunks
    indices = torch.where(torch.arange(48) % 6 != 0, 1, torch.arange(48) % 4)
    for padding, by_frequency in ((-1, False), (1, False), (2, True)):
        yield Sample((values((48, 5), dtype), indices, 4, padding, by_frequency))
    yield Sample((values((6, 8, 10), dtype).transpose(0, 1)[..., ::2], indices.view(6, 8).t().int(), 4, 0, False))
    yield Sample((values((1, 1), dtype).expand(48, 5), indices, 4, -1, False))


def _bench(vocabulary: int, width: int, tokens: int, hot: bool = False) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        indices = torch.randint(0, vocabulary, (tokens,), device=where)
        if hot:
            indices[::2] = 7
        return (random_like((tokens, width), dtype, where), indices, vocabulary, -1, False), {}

    return Workload(f"{tokens} into {vocabulary}x{width}" + (", half to one row" if hot else ""), make)


def _plan(
    grad: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool, out: Tensor | None = None
) -> Planned:
    n, width = indices.numel(), grad.shape[-1]
    if grad.shape != (*indices.shape, width) or num_weights <= 0:
        raise Declined(f"grad_output {tuple(grad.shape)} for indices {tuple(indices.shape)}")
    if out is not None and not result_buffer(out, (num_weights, width), grad.dtype, grad.device).is_contiguous():
        raise Declined("out= is not contiguous")
    plan = Plan("grad", "indices", "_num_weights", "_padding_idx", "_scale_grad_by_freq", out=out)
    result = plan.result((num_weights, width), grad.dtype, grad.device)
    if grad.dim() != 2:
        plan.do("grad = grad.reshape({shape})", shape=(n, width))
    strides = torch.empty_strided(grad.shape, grad.stride(), device="meta").reshape(n, width).stride()
    sums = sums_of(grad, n, width)
    blocks, tile, num_warps = sums.blocks(CHUNK_TILE), sums.tile(CHUNK_TILE), sums.warps(CHUNK_TILE)
    layout = (width, *strides, padding_idx)
    if n <= (INTERPRETER_FEW if device.interpreted() else FEW):
        if not indices.is_contiguous():
            plan.do("indices = indices.contiguous()")
        if device.interpreted():
            plan.do("{check}(indices, 0, {n})", check=check_indices, n=num_weights)
        fill_dense(plan, result, num_weights * width, grad.dtype, 0)
        plan.launch(
            _few_rows_kernel, (n, blocks), Code("grad"), Code("indices"), result, n, num_weights, *layout, scale_grad_by_freq,
            sums.dtype == torch.float64, triton.next_power_of_2(n), *tile, num_warps=num_warps,
        )  # fmt: skip
        return plan.build(result)
    plan.do("ordered, order = {sort}(indices.reshape({n}), stable=True)", sort=torch.sort, n=n)
    starts = plan.empty("starts", (num_weights + 1,), torch.int32, grad.device)
    search = num_weights + 1 if device.interpreted() else SEARCH_BLOCK
    plan.launch(
        _segment_starts_kernel, (triton.cdiv(num_weights + 1, search),),
        Code("ordered"), starts, n, num_weights, n.bit_length(), triton.next_power_of_2(search), num_warps=1,
    )  # fmt: skip
    chunks = plan.empty("chunks", (n // sums.chunk, width), sums.dtype, grad.device)
    if n >= sums.chunk:
        plan.launch(
            chunk_sums_kernel, (n // sums.chunk, blocks),
            Code("grad"), Code("ordered"), Code("order"), chunks, *layout, sums.chunk, *tile, num_warps=num_warps,
        )  # fmt: skip
    plan.launch(
        _segment_sums_kernel, (num_weights, sums.blocks(RUN_TILE)),
        Code("grad"), starts, Code("order"), chunks, result, *layout, scale_grad_by_freq, sums.chunk, *sums.tile(RUN_TILE),
        num_warps=sums.warps(RUN_TILE),
    )  # fmt: skip
    return plan.build(result)


@op(
    "aten::embedding_dense_backward",
    dtypes=DOUBLES,
    samples=_gradients,
    argument_dtypes={"indices": INDICES},
    plan=_plan,
    bench=(_bench(32000, 4096, 16384), _bench(32000, 4096, 16384, hot=True), _bench(128000, 1024, 512)),
)
def embedding_dense_backward(
    grad_output: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool, out: Tensor | None = None
) -> Tensor:
    """Sums of grad_output's rows by index, accumulated in float32 in an order that is the same on every run."""
    return call(_plan, grad_output, indices, num_weights, padding_idx, scale_grad_by_freq, out=out)
