"""A stable sort of the rows of a matrix: short ones in registers, others by eight bits a pass within one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import Declined
from gems_ops.order.bitonic import LONGEST, plan_short_rows
from gems_ops.order.keys import item_of, key_of, ordered, restored
from gems_ops.order.tile import MOST_ITEMS, THREADS, digits_of, exchanged, memory_of, places, ranked
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry, device

WHOLE = THREADS.value * MOST_ITEMS  # the longest row that one program holds
WARPS = THREADS.value // 32
# Rows that are sorted whole: in registers, 8192 x 512 float32 83 us, in shared memory 139; x 1024 308 and 199 (H100, 2026-11-27).
IN_REGISTERS = 512


@triton.jit
def _or(a, b):
    return a | b


@LibEntry
@triton.jit(do_not_specialize=["n_cols"])
def _row_kernel(
    x_ptr, from_ptr, values_ptr, indices_ptr, scratch_ptr, n_cols,
    PASSES: tl.constexpr, DESCENDING: tl.constexpr, FROM: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """One row of [rows, n_cols] a program, to values and indices. FROM: indices are those of from_ptr."""
    ITEMS: tl.constexpr = 1 << LOG
    NATIVE: tl.constexpr = scratch_ptr is None
    # An item is the order and, in the lower half, the column; of 64-bit types the columns are items of their own.
    WIDE: tl.constexpr = PASSES == 8
    row = tl.program_id(0).to(tl.int64) * n_cols
    x_ptr += row
    t = tl.arange(0, THREADS)
    memory = memory_of(t, LOG, NATIVE)
    if not NATIVE:
        scratch_ptr += tl.program_id(0).to(tl.int64) * (THREADS * ITEMS)
    own = places(t, ITEMS)
    first = tl.load(x_ptr + t * 0)
    items, columns, differ = (), (), tl.zeros((THREADS,), tl.int64)
    for j in tl.static_range(ITEMS):
        at = own + 32 * j
        x = tl.load(x_ptr + at, mask=at < n_cols, other=0)
        differ |= tl.where(at < n_cols, (ordered(x, False) ^ ordered(first, False)).to(tl.int64), 0)
        items = items + (item_of(x, at < n_cols, at, WIDE, DESCENDING),)
        if WIDE:
            columns = columns + (at.to(tl.int64),)
    differ = tl.reduce(differ, 0, _or)
    for step in range(PASSES):
        # where all are alike, nothing moves
        if (differ >> (8 * step)) & 255 != 0:
            shift = 8 * step + (0 if WIDE else 32)
            moved, _, _ = ranked(digits_of(items, shift, ITEMS), t, memory, scratch_ptr, LOG, NATIVE)
            items = exchanged(items, moved, t, memory, scratch_ptr, LOG, NATIVE)
            if WIDE:
                columns = exchanged(columns, moved, t, memory, scratch_ptr, LOG, NATIVE)
    for j in tl.static_range(ITEMS):
        ok = own + 32 * j < n_cols
        key = key_of(items[j], WIDE)
        column = columns[j] if WIDE else items[j] & 0xFFFFFFFF
        tl.store(values_ptr + row + own + 32 * j, restored(key, x_ptr, column, ok, DESCENDING), mask=ok)
        index = tl.load(from_ptr + row + column, mask=ok, other=0).to(tl.int64) if FROM else column
        tl.store(indices_ptr + row + own + 32 * j, index, mask=ok)


def is_short(n_cols: int, dtype: torch.dtype) -> bool:
    """True if rows are sorted in registers, faster than ATen sorts them."""
    return n_cols <= LONGEST and dtype.itemsize <= 4


def has_tiles() -> bool:
    """True where tiles are sorted in shared memory, or by the interpreter."""
    return device.interpreted() or device.identity().vendor == "nvidia"


def scratch_of(plan: Plan, programs: int, tile: int, where: torch.device) -> Code | None:
    """What the interpreter's tiles need."""
    return plan.empty("scratch", (programs * tile,), torch.int64, where) if device.interpreted() else None


def plan_sorted_rows(
    plan: Plan, x: Code, like: Tensor, shape: tuple[int, int], n_kept: int, descending: bool, values: Code, indices: Code,
    index: Code | None = None,
) -> None:  # fmt: skip
    """Add the launch that sorts x of this shape, dense, of at most WHOLE columns, into values and int64 indices.

    x has the dtype and device of `like`. `index`, of x's shape, numbers the elements otherwise than by column. Short rows
    may be cut: values and indices then are [rows, n_kept].
    """
    n_rows, n_cols = shape
    if is_short(n_cols, like.dtype) and (n_cols <= IN_REGISTERS or n_kept < n_cols):
        plan_short_rows(plan, x, shape, n_kept, descending, values, indices, index)
        return
    if n_kept != n_cols or n_cols > WHOLE:
        raise ValueError(f"rows of {n_cols} cut to {n_kept}: at most {WHOLE} are sorted, and only short rows are cut")
    if not has_tiles():
        raise Declined(f"rows of {n_cols} elements of {like.dtype} are sorted on NVIDIA's GPUs only")
    items = triton.next_power_of_2(triton.cdiv(n_cols, THREADS.value))
    scratch = scratch_of(plan, n_rows, items * THREADS.value, like.device)
    plan.launch(
        _row_kernel, (n_rows,), x, x if index is None else index, values, indices, scratch, n_cols, like.dtype.itemsize,
        descending, index is not None, items.bit_length() - 1, num_warps=WARPS,
    )  # fmt: skip
