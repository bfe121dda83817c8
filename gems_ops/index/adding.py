"""index_put with accumulate: values added to what is at their places in a fixed order, without atomics.

Sorting the places makes the values of one place a run, which one program adds up for a block of columns, with the sums
of whole chunks that were added up beforehand (see scatter_rows). A table may have many more rows than values go to, so
each position in the order looks whether a run begins there, instead of each row of the table what its run is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.index.engine import PLACE, Index, plan_indexed, plan_target
from gems_ops.index.scatter_rows import CHUNK_TILE, RUN_TILE, chunk_sums_kernel, run_sum, sums_of
from gems_ops.layout import contiguous_strides, single_stride
from gems_ops.op import DOUBLES, Declined
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_runtime import LibEntry

# A program of its own for every run is for rows; of single elements and narrow rows ATen adds several in one program.
LEAST_WIDTH = 32
NEAR = 32  # elements of the order that are looked at first for the end of a run


@dataclass(frozen=True)
class Walk:
    """The shape that indices give, and how self and each index are walked along it."""

    shape: tuple[int, ...]
    table_strides: tuple[int, ...]
    indices: tuple[Index, ...]
    before: int  # dimensions of shape that are self's own, in front of those of the indices
    common: int  # dimensions of the indices

    def split(self, values: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Sizes or strides before, of and after the dimensions of the indices."""
        end = self.before + self.common
        return values[: self.before], values[self.before : end], values[end:]


@LibEntry
@triton.jit(do_not_specialize=["n", "n_steps"])
def _run_sums_kernel(
    x_ptr, sorted_ptr, order_ptr, chunk_ptr, out_ptr, n, n_steps, n_cols, n_inner,
    x_stride_row, x_stride_col, out_stride_outer, out_stride_inner,
    ALIGNMENT: tl.constexpr, INNER: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Adds the run that begins at this position, if one does, to the row of out that lies at its place."""
    first = tl.program_id(0)
    place, row = tl.load(sorted_ptr + first), tl.load(order_ptr + first)  # both now: they need not wait for each other
    if place != tl.load(sorted_ptr + first - 1, mask=first > 0, other=-1):
        # Most runs end among the next elements; after those a binary search, whose loads wait for each other.
        next_ = first + 1 + tl.arange(0, NEAR)
        near = tl.sum((tl.load(sorted_ptr + next_, mask=next_ < n, other=-1) == place).to(tl.int32), 0)
        last, high = first + 1 + near, first * 0 + n
        for _ in range(tl.where(near == NEAR, n_steps, 0)):
            is_open, middle = last < high, last + (high - last) // 2
            same = tl.load(sorted_ptr + middle, mask=is_open, other=0) == place
            high = tl.where(is_open & (same == 0), middle, high)
            last = tl.where(is_open & same, middle + 1, last)
        place = tl.multiple_of(place, ALIGNMENT)
        col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        wide_col = col.to(tl.int64)
        if INNER:  # in one piece, which wide accesses can read
            out = out_ptr + place + wide_col * out_stride_inner
        else:
            out = out_ptr + place + wide_col // n_inner * out_stride_outer + wide_col % n_inner * out_stride_inner
        own = tl.load(out, mask=col < n_cols, other=0)
        total = run_sum(
            x_ptr, order_ptr, chunk_ptr, row, first, last, n_cols, x_stride_row, x_stride_col, col, CHUNK, ROWS, COLUMNS
        )  # fmt: skip
        tl.store(out, widen(own) + total, mask=col < n_cols)


def plan_added(
    plan: Plan, self: Tensor, walk: Walk, layout: tuple[int, ...], values: Tensor, out: Tensor | None, in_place: bool
) -> Planned:
    """The plan of index_put with accumulate by integers; `walk` is over what is written, whose strides are `layout`."""
    before, common, after = walk.split(walk.shape)
    n, n_inner = prod(common), prod(after)
    width = prod(before) * n_inner
    if self.dtype not in DOUBLES or width < LEAST_WIDTH:
        raise Declined(f"sums of {self.dtype} in rows of {width} are left to ATen")
    outer, _, inner = (single_stride(*d) for d in zip(walk.split(walk.shape), walk.split(walk.table_strides), strict=True))
    if outer is None or inner is None:
        raise Declined("dimensions without indices that no single stride walks")
    # A place is the offset of its slice in what is written: the router lets through fewer than 2**31.
    places = plan.empty("places", common, torch.int32, self.device)
    named = [replace(index, strides=walk.split(index.strides)[1]) for index in walk.indices]
    plan_indexed(plan, PLACE, places, places, named, common, (0,) * len(common), contiguous_strides(common), wraps=True)
    plan.do("ordered, order = {sort}(places.view({n}), stable=True)", sort=torch.sort, n=n)
    rows = _plan_rows(plan, walk, values)
    sums = sums_of(self, n, width)
    chunks = plan.empty("chunks", (max(n // sums.chunk, 1), width), sums.dtype, self.device)
    if n >= sums.chunk:
        plan.launch(
            chunk_sums_kernel, (n // sums.chunk, sums.blocks(CHUNK_TILE)), Code("values"), Code("ordered"), Code("order"), chunks,
            width, *rows, -1, sums.chunk, *sums.tile(CHUNK_TILE), num_warps=sums.warps(CHUNK_TILE),
        )  # fmt: skip
    target, _ = plan_target(plan, self, out, in_place, layout)
    alignment = gcd(16, *(index.step for index in walk.indices))  # of places: rows that begin on it are read in wide accesses
    plan.launch(
        _run_sums_kernel, (n, sums.blocks(RUN_TILE)), Code("values"), Code("ordered"), Code("order"), chunks, target, n, n.bit_length(),
        width, n_inner, *rows, outer, inner, alignment, n_inner == width, sums.chunk, *sums.tile(RUN_TILE), NEAR,
        num_warps=sums.warps(RUN_TILE),
    )  # fmt: skip
    return plan.build(target)


def _plan_rows(plan: Plan, walk: Walk, values: Tensor) -> tuple[int, int]:
    """The strides of `values` as a matrix: a row for each place, copied to be one where broadcasting left none."""
    dense = torch.empty_strided(values.shape, values.stride(), device="meta").expand(walk.shape).stride()
    shapes, strides = walk.split(walk.shape), walk.split(dense)
    row, col = single_stride(shapes[1], strides[1]), single_stride(shapes[2], strides[2])
    if prod(shapes[0]) == 1 and row is not None and col is not None:
        return row, col
    dims = range(len(walk.shape))
    before, common, after = walk.split(tuple(dims))
    plan.do("values = values.expand({shape}).permute({order}).contiguous()", shape=walk.shape, order=(*common, *before, *after))
    return prod(shapes[0]) * prod(shapes[2]), 1
