"""A stable radix sort of the rows of a matrix, four bits a pass: rows of one tile in one launch, longer ones in three a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.order.keys import digit_of, digit_ranks, digit_starts
from gems_runtime import LibEntry, device

WHOLE = 4096  # the longest row that one program sorts
_TILE = 4096
_DIGIT_BITS = 4


@LibEntry
@triton.jit
def _sort_rows_kernel(
    x_ptr, from_ptr, values_ptr, indices_ptr, spare_values_ptr, spare_indices_ptr,
    n_cols, n_kept, passes,
    DESCENDING: tl.constexpr, FROM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row a program. The first n_kept of it go to values and indices [rows, n_kept]; FROM: indices are those of from_ptr."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    ok = cols < n_cols
    spare = row * n_cols
    x = tl.load(x_ptr + spare + cols, mask=ok, other=0)
    index = tl.load(from_ptr + spare + cols, mask=ok, other=0).to(tl.int32) if FROM else cols
    for step in range(passes):
        digit = digit_of(x, step * 4, DESCENDING)
        rank, n_0, n_1, n_2, n_3 = digit_ranks(digit, ok)
        at = rank + digit_starts(digit, n_0, n_1, n_2, n_3)
        if step < passes - 1:
            tl.debug_barrier()  # what the pass before wrote here has been read
            tl.store(spare_values_ptr + spare + at, x, mask=ok)
            tl.store(spare_indices_ptr + spare + at, index, mask=ok)
            tl.debug_barrier()
            x = tl.load(spare_values_ptr + spare + cols, mask=ok, other=0)
            index = tl.load(spare_indices_ptr + spare + cols, mask=ok, other=0)
        else:
            kept = ok & (at < n_kept)
            tl.store(values_ptr + row * n_kept + at, x, mask=kept)
            tl.store(indices_ptr + row * n_kept + at, index.to(tl.int64), mask=kept)


@LibEntry
@triton.jit
def _count_digits_kernel(x_ptr, counts_ptr, n_cols, tiles, shift, DESCENDING: tl.constexpr, BLOCK: tl.constexpr):
    """counts [rows, 16, tiles]: how often each digit is in each tile."""
    row, tile = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(0) % tiles
    cols = tile * BLOCK + tl.arange(0, BLOCK)
    ok = cols < n_cols
    x = tl.load(x_ptr + row * n_cols + cols, mask=ok, other=0)
    # Counted apart: what is past the end.
    digit = tl.where(ok, digit_of(x, shift, DESCENDING), 16)
    counts = tl.histogram(digit, 32)
    digits = tl.arange(0, 32)
    tl.store(counts_ptr + (row * 16 + digits) * tiles + tile, counts, mask=digits < 16)


@LibEntry
@triton.jit
def _add_up_kernel(counts_ptr, n, BLOCK: tl.constexpr):
    """Replaces each row of counts [rows, n] by the sums of what stands before."""
    row = tl.program_id(0).to(tl.int64)
    before = tl.zeros((), dtype=tl.int32)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        counts = tl.load(counts_ptr + row * n + at, mask=at < n, other=0)
        sums = tl.cumsum(counts, 0)
        tl.store(counts_ptr + row * n + at, before + sums - counts, mask=at < n)
        before += tl.sum(counts, 0)


@LibEntry
@triton.jit
def _scatter_kernel(
    x_ptr, index_ptr, values_ptr, indices_ptr, starts_ptr, n_cols, tiles, shift,
    DESCENDING: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, tile = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(0) % tiles
    cols = tile * BLOCK + tl.arange(0, BLOCK)
    ok = cols < n_cols
    x = tl.load(x_ptr + row * n_cols + cols, mask=ok, other=0)
    index = cols if FIRST else tl.load(index_ptr + row * n_cols + cols, mask=ok, other=0)
    digit = digit_of(x, shift, DESCENDING)
    rank, _, _, _, _ = digit_ranks(digit, ok)
    at = row * n_cols + tl.load(starts_ptr + (row * 16 + digit) * tiles + tile, mask=ok, other=0) + rank
    tl.store(values_ptr + at, x, mask=ok)
    tl.store(indices_ptr + at, index.to(indices_ptr.dtype.element_ty), mask=ok)


@dataclass(frozen=True)
class RowSort:
    """Sorts x [rows, n_cols], contiguous, into values and int64 indices [rows, n_kept]."""

    n_rows: int
    n_cols: int
    dtype: torch.dtype
    descending: bool
    n_kept: int

    def run(self, x: Tensor, values: Tensor, indices: Tensor, index: Tensor | None = None) -> None:
        """Launch. `index` (only for rows of at most WHOLE) numbers the elements of x [rows, n_cols] other than by column."""
        passes = _key_bits(self.dtype) // _DIGIT_BITS
        spare_values = torch.empty((self.n_rows, self.n_cols), dtype=self.dtype, device=x.device)
        spare_indices = torch.empty((self.n_rows, self.n_cols), dtype=torch.int32, device=x.device)
        if self.n_cols <= WHOLE:
            block = max(triton.next_power_of_2(self.n_cols), 16)
            _sort_rows_kernel[(self.n_rows,)](
                x, x if index is None else index, values, indices, spare_values, spare_indices, self.n_cols, self.n_kept, passes,
                self.descending, index is not None, block, num_warps=min(max(block // 256, 1), 8),
            )  # fmt: skip
            return
        assert self.n_kept == self.n_cols
        tiles = triton.cdiv(self.n_cols, _TILE)
        counts = torch.empty((self.n_rows, 16 * tiles), dtype=torch.int32, device=x.device)
        targets = ((spare_values, spare_indices), (values, indices))
        source, numbers = x, spare_indices
        for step in range(passes):
            to_values, to_indices = targets[step % 2]
            grid = (self.n_rows * tiles,)
            _count_digits_kernel[grid](source, counts, self.n_cols, tiles, 4 * step, self.descending, _TILE, num_warps=8)
            _add_up_kernel[(self.n_rows,)](counts, 16 * tiles, 1024 if tiles < 1024 else 8192, num_warps=4 if tiles < 1024 else 16)
            _scatter_kernel[grid](
                source, numbers, to_values, to_indices, counts, self.n_cols, tiles, 4 * step, self.descending, step == 0, _TILE, num_warps=8
            )
            source, numbers = to_values, to_indices


def _key_bits(dtype: torch.dtype) -> int:
    """Bits of the order of a dtype; always an even number of digits, so that passes to and fro end in the result."""
    return 8 * dtype.itemsize
