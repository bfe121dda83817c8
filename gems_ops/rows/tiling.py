"""How rows along one dimension of a tensor lie in memory, and how a kernel cuts them into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TypeAlias

import torch
import triton
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_ops.op import Declined, result_buffer
from gems_ops.plan import Code, Plan
from gems_runtime import device

RowStrides: TypeAlias = tuple[int, int, int]  # outer, inner, column

_MULTIPROCESSORS = 132  # of an H200
_TILE = 4096  # elements of a tile of short rows: 32 for each thread of 4 warps
_MOST_WARPS = 16  # 1024 threads, the most of a workgroup, where a warp has 64
_MOST_SPLITS = 512


@dataclass(slots=True)
class Rows:
    """A shape as (outer, n_cols, inner); row r is (r // inner, r % inner). Rows of several tensors correspond."""

    n_rows: int
    n_cols: int
    inner: int


def rows_of(shape: Sequence[int], dim: int) -> Rows:
    """The rows of a tensor along dim. Declines a dim out of range."""
    ndim = max(len(shape), 1)
    if not -ndim <= dim < ndim:
        raise Declined(f"dim {dim} is out of range")
    if not shape:
        return Rows(1, 1, 1)
    dim %= ndim
    n_cols, inner = shape[dim], prod(shape[dim + 1 :])
    n_rows = prod(shape) // n_cols
    # With nothing outside, rows are counted by one stride: the kernel then has no division.
    return Rows(n_rows, n_cols, 1 if inner == n_rows else inner)


def strides_along(shape: Sequence[int], strides: Sequence[int], dim: int, rows: Rows) -> RowStrides | None:
    """The strides that read a tensor as `rows`; None if the dimensions on one side of dim do not fold."""
    if not shape:
        return (1, 1, 1)
    dim %= len(shape)
    outer = folded(shape[:dim], strides[:dim])
    inner = folded(shape[dim + 1 :], strides[dim + 1 :])
    if outer is None or inner is None:
        return None
    if rows.inner == 1 and prod(shape[:dim]) == 1:
        outer = inner
    return (outer, inner, strides[dim])


def read_rows(plan: Plan, name: str, t: Tensor, dim: int, rows: Rows) -> RowStrides:
    """The strides that read t, which the plan calls `name`, as `rows`; the plan copies it first if it must."""
    strides = strides_along(t.shape, t.stride(), dim, rows)
    if strides is None:
        plan.do(f"{name} = {name}.contiguous()")
        strides = strides_along(t.shape, contiguous_strides(t.shape), dim, rows)
    return strides


def write_rows(plan: Plan, t: Tensor, dtype: torch.dtype, dim: int, rows: Rows) -> tuple[Code, RowStrides, str]:
    """Where a result of t's shape goes: its name, its strides as `rows`, and the expression that the plan returns.

    An out= that cannot be written as `rows` gets a copy of a tensor that can.
    """
    for out in plan.outs:
        result_buffer(out, t.shape, dtype, t.device)
        strides = strides_along(out.shape, out.stride(), dim, rows)
        if strides is not None:
            return Code("out0"), strides, "out0"
    dense = strides_along(t.shape, contiguous_strides(t.shape), dim, rows)
    result = plan.empty("y", t.shape, dtype, t.device)
    return result, dense, f"out0.copy_({result})" if plan.outs else result


def folded(sizes: Sequence[int], strides: Sequence[int]) -> int | None:
    """The stride of dimensions counted as one, row-major; 0 if they hold one element; None if they do not fold."""
    folded, expected = 0, None
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        if expected is None:
            folded = stride
        elif stride != expected:
            return None
        expected = stride * size
    return folded


@dataclass(frozen=True)
class Tiling:
    """Tiles of block_r rows by block_n columns. One tile holds whole rows, or a program loops over `chunk` columns."""

    block_r: int
    block_n: int
    num_warps: int
    programs: int
    whole: bool
    splits: int = 1  # programs that share a row
    chunk: int = 0  # columns of each of them


def most_warps(itemsize: int) -> int:
    """Of a program that holds a long row: of 16 bits as many as make 1024 threads, the most of a workgroup on any device.

    Softmax of 2048 x 32768 took 102 us with 32 warps and 105 with 16 (bfloat16, H100, 2026-11-27); in 32 bits nothing is won.
    """
    return 32 if itemsize == 2 and device.identity().vendor == "nvidia" else _MOST_WARPS


def tiling(rows: Rows, strides: RowStrides, most: int, warps: int = _MOST_WARPS) -> Tiling:
    """How to cut `rows` of a tensor with these strides, with at most `most` elements in registers and so many warps."""
    return _tiling(rows.n_rows, rows.n_cols, lie_across(rows, strides), most, warps)


def lie_across(rows: Rows, strides: RowStrides) -> bool:
    """True if neighbouring rows are nearer in memory than neighbouring columns."""
    return 0 < (strides[1] if rows.inner > 1 else strides[0]) < strides[2]


@lru_cache(maxsize=4096)
def _tiling(n_rows: int, n_cols: int, across: bool, most: int, warps: int) -> Tiling:
    """`across`: see `lie_across`; a tile is then 32 rows or more."""
    padded = triton.next_power_of_2(n_cols)
    narrowest = 32 if across and n_rows >= 32 else 1
    if padded * narrowest > most:
        return _long_tiling(n_rows, n_cols, across and n_rows >= 32, most // 2)
    block_r = max(narrowest, _TILE // padded)
    # Enough programs for the device come before large tiles.
    while block_r > narrowest and -(-n_rows // block_r) < 2 * _MULTIPROCESSORS:
        block_r //= 2
    return Tiling(block_r, padded, _warps(block_r * padded, warps if block_r == 1 else _MOST_WARPS), -(-n_rows // block_r), whole=True)


def _long_tiling(n_rows: int, n_cols: int, across: bool, longest: int) -> Tiling:
    """Measured for softmax on an H200, in bfloat16: 32 x 128 with two programs a column beat 64 x 128 with one, 170 us to
    197, at 8192 x 8192; 1 x 16384 beat 1 x 8192, 112 us to 130, at 256 x 262144.
    """
    block_r, block_n = (32, 128) if across else (1, longest)
    programs, blocks = -(-n_rows // block_r), -(-n_cols // block_n)
    wanted = 4 * _MULTIPROCESSORS if across else _MULTIPROCESSORS
    splits = 1
    if programs < wanted:
        splits = max(1, min((wanted if across else 2 * wanted) // programs, blocks // 2, _MOST_SPLITS))
    chunk = -(-blocks // splits) * block_n
    return Tiling(block_r, block_n, _warps(block_r * block_n, _MOST_WARPS), programs, False, -(-n_cols // chunk), chunk)


def _warps(elements: int, most: int) -> int:
    """One warp for 1024 elements."""
    return max(1, min(most, elements // 1024))
